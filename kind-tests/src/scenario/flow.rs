//! One flow: who asks what, and what shall come of it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use shunt_cluster::Protocol;

use super::difference::Difference;
use super::need::Need;
use super::setup::Setup;
use super::text::{Line, Place};

/// One flow to check, of one address family.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// Where it stands.
    pub(super) place: Place,
    /// The line, for people.
    pub(super) text: String,
    /// The host that asks.
    pub(super) from: String,
    /// The transport protocol.
    pub(super) protocol: Protocol,
    /// Where to.
    pub(super) to: SocketAddr,
    /// What shall come of it.
    pub(super) expected: Expected,
    /// The name of a pod that is not known: all connections lead to the same one, here and wherever
    /// else the name stands, in each family.
    pub(super) same: Option<String>,
    /// How many seconds the client is silent before each connection.
    pub(super) pause: Option<u64>,
    /// How many bytes each question and each answer has besides their own: one datagram, or a stream.
    pub(super) bytes: usize,
    /// Where kube-proxy is known to mean something else.
    pub(super) differences: Vec<Difference>,
}

/// What shall come of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// One of these answers, each at least once in several tries.
    Served(Vec<Server>),
    /// The Service refuses.
    Refused,
    /// The Service drops.
    Dropped,
    /// Network policy drops it, whatever a Service made of it.
    Denied,
    /// No Service is concerned, and then this.
    Pass(Passed),
}

/// What becomes of a packet that no Service is concerned with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// This pod or node answers.
    Answered(String),
    /// The host it is for refuses.
    Refused,
    /// Nobody answers: there is no such host, or no route.
    Unanswered,
}

/// A pod that may answer, or a process of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Its name.
    pub(super) pod: String,
    /// On which of its ports, if that is said.
    pub(super) port: Option<u16>,
    /// Whom it sees, if that is said.
    pub(super) sees: Option<Source>,
}

/// Whom a server sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The client's own address.
    Kept,
    /// An address of this node.
    Node(String),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pod)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.sees {
            None => Ok(()),
            Some(Source::Kept) => f.write_str(" (sees the client)"),
            Some(Source::Node(node)) => write!(f, " (sees {node})"),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.to.is_ipv4() { "IPv4" } else { "IPv6" };
        write!(f, "{}: {} [{family}]", self.place, self.text)
    }
}

/// Reads a line: one flow, or one for each family that its destination's name has.
pub(super) fn parse(line: &Line, setup: &Setup) -> Result<Vec<Flow>> {
    try_parse(line, setup).map_err(|error| line.place.error(format_args!("{error:#}")))
}

fn try_parse(line: &Line, setup: &Setup) -> Result<Vec<Flow>> {
    let (way, result) =
        line.text.split_once("->").context("FROM PROTOCOL TO -> RESULT is expected")?;
    let way: Vec<_> = way.split_whitespace().collect();
    let [from, protocol, to] = way.as_slice() else {
        bail!("FROM PROTOCOL TO is expected before ->");
    };
    ensure!(setup.names.is_host(from), "there is no host named {from}");
    let protocol = parse_protocol(protocol)?;
    let possible = protocol != Protocol::Sctp || setup.needs.contains(&Need::Sctp);
    ensure!(possible, "`cluster` must say `needs sctp`");
    let (result, bytes) = match result.rsplit_once("| bytes ") {
        Some((result, bytes)) => {
            let bytes = bytes.trim();
            (result, bytes.parse().with_context(|| format!("{bytes} bytes"))?)
        }
        None => (result, 0),
    };
    let (result, pause) = match result.rsplit_once("| every ") {
        Some((result, seconds)) => {
            let seconds = seconds.trim().strip_suffix('s').and_then(|number| number.parse().ok());
            (result, Some(seconds.context("`| every Ns` is expected")?))
        }
        None => (result, None),
    };
    let (result, same) = match result.rsplit_once("| same ") {
        Some((result, name)) => (result, Some(name.trim().to_owned())),
        None => (result, None),
    };
    let expected = parse_expected(result, setup)?;
    ensure!(
        same.is_none() || matches!(expected, Expected::Served(_)),
        "only servers can be the same"
    );
    let flow = |to| Flow {
        place: line.place.clone(),
        text: line.words().join(" "),
        from: (*from).to_owned(),
        protocol,
        to,
        expected: expected.clone(),
        same: same.clone(),
        pause,
        bytes,
        differences: Vec::new(),
    };
    Ok(parse_destination(to, setup)?.into_iter().map(flow).collect())
}

/// `tcp`, `udp` or `sctp`.
pub(super) fn parse_protocol(text: &str) -> Result<Protocol> {
    match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        other => Err(anyhow!("{other} is not tcp, udp or sctp")),
    }
}

/// `address:port`, `name:port`, `name/v6:port`.
pub(super) fn parse_destination(text: &str, setup: &Setup) -> Result<Vec<SocketAddr>> {
    if let Ok(literal) = text.parse() {
        return Ok(vec![literal]);
    }
    let (name, port) = text.rsplit_once(':').with_context(|| format!("{text} has no port"))?;
    let port = port.parse().map_err(|_| anyhow!("{port} is not a port"))?;
    let addresses = setup.names.resolve(name)?;
    Ok(addresses.into_iter().map(|ip: IpAddr| SocketAddr::new(ip, port)).collect())
}

/// What stands behind the arrow.
pub(super) fn parse_expected(text: &str, setup: &Setup) -> Result<Expected> {
    let (result, source) = match text.split_once('|') {
        Some((result, note)) => {
            let words: Vec<_> = note.split_whitespace().collect();
            let ["source", who] = words.as_slice() else {
                bail!("`source kept` or `source NODE` is expected after |");
            };
            (result, Some(parse_source(who, setup)?))
        }
        None => (text, None),
    };
    let words: Vec<_> = result.split_whitespace().collect();
    let single = match words.as_slice() {
        [] => bail!("a result is expected after ->"),
        ["refused"] => Some(Expected::Refused),
        ["dropped"] => Some(Expected::Dropped),
        ["denied"] => Some(Expected::Denied),
        ["unanswered"] => bail!("did a Service `dropped` it, or is it a `pass unanswered`?"),
        ["pass", "refused"] => Some(Expected::Pass(Passed::Refused)),
        ["pass", "unanswered"] => Some(Expected::Pass(Passed::Unanswered)),
        ["pass", pod] => {
            ensure!(serves(pod, setup), "there is no pod or node named {pod}");
            Some(Expected::Pass(Passed::Answered((*pod).to_owned())))
        }
        _ => None,
    };
    match single {
        Some(_) if source.is_some() => bail!("only servers see a source"),
        Some(single) => Ok(single),
        None => parse_servers(&words, source.as_ref(), setup),
    }
}

fn parse_servers(words: &[&str], source: Option<&Source>, setup: &Setup) -> Result<Expected> {
    let mut servers: Vec<Server> = Vec::new();
    let mut rest = words;
    while let [first, after @ ..] = rest {
        rest = after;
        let (pod, port) = match first.split_once(':') {
            None => (*first, None),
            Some((pod, port)) => {
                (pod, Some(port.parse().map_err(|_| anyhow!("{port} is not a port"))?))
            }
        };
        ensure!(serves(pod, setup), "there is no pod or node named {pod}");
        let mut sees = source.cloned();
        if let ["(sees", who, after @ ..] = rest {
            let who =
                who.strip_suffix(')').context("`(sees NODE)` or `(sees client)` is expected")?;
            let kept = if setup.node_of(who) == Some(who) { who } else { "kept" };
            sees = Some(parse_source(kept, setup)?);
            rest = after;
        }
        servers.push(Server { pod: pod.to_owned(), port, sees });
    }
    let distinct: BTreeSet<_> = servers.iter().map(|server| (&server.pod, server.port)).collect();
    ensure!(distinct.len() == servers.len(), "a server stands twice");
    Ok(Expected::Served(servers))
}

fn parse_source(text: &str, setup: &Setup) -> Result<Source> {
    if text == "kept" {
        return Ok(Source::Kept);
    }
    ensure!(setup.node_of(text) == Some(text), "{text} is neither `kept` nor a node");
    Ok(Source::Node(text.to_owned()))
}

/// Pods and nodes have servers.
fn serves(name: &str, setup: &Setup) -> bool {
    setup.node_of(name).is_some()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::text::lines;
    use super::*;

    fn check(text: &str) -> Result<Vec<Flow>> {
        let setup = Setup::load(Path::new("/nonexistent"))?;
        parse(&lines(Path::new("f"), text)[0], &setup)
    }

    #[test]
    fn a_name_is_one_flow_for_each_family() {
        let flows =
            check("web-1 tcp vip-1:80 -> web-1 (sees node-1) web-2:8080 | source kept # why")
                .unwrap();
        assert_eq!(flows.len(), 2);
        assert_eq!(flows[1].to, "[fd00:10:96::11]:80".parse().unwrap());
        let Expected::Served(servers) = &flows[0].expected else { panic!("{flows:?}") };
        assert_eq!(servers[0].sees, Some(Source::Node("node-1".into())));
        assert_eq!((servers[1].port, &servers[1].sees), (Some(8080), &Some(Source::Kept)));
        let expected =
            "f:1: web-1 tcp vip-1:80 -> web-1 (sees node-1) web-2:8080 | source kept [IPv4]";
        assert_eq!(flows[0].to_string(), expected);
    }

    #[test]
    fn the_same_pod_has_a_name() {
        let text = "web-1 tcp vip-1/v4:80 -> web-1 web-2 | source kept | same a | every 2s";
        let flows = check(text).unwrap();
        assert_eq!((flows[0].same.as_deref(), flows[0].pause), (Some("a"), Some(2)));
    }

    #[test]
    fn a_flow_may_be_of_many_bytes() {
        let flows = check("web-1 udp vip-1/v4:80 -> web-1 | source kept | bytes 4000").unwrap();
        assert_eq!((flows[0].bytes, flows[0].pause), (4000, None));
        assert!(check("web-1 udp vip-1/v4:80 -> web-1 | bytes many").is_err());
    }

    #[test]
    fn literal_addresses_are_one_flow() {
        assert_eq!(check("client udp 10.96.0.11:53 -> refused").unwrap().len(), 1);
        assert_eq!(check("client udp [fd00:77::11]:53 -> pass refused").unwrap().len(), 1);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |text| check(text).unwrap_err().to_string();
        assert_eq!(error("\n\nnobody tcp vip-1:80 -> web-1"), "f:3: there is no host named nobody");
        assert_eq!(error("web-1 icmp vip-1:80 -> web-1"), "f:1: icmp is not tcp, udp or sctp");
        assert_eq!(error("web-1 sctp vip-1:80 -> web-1"), "f:1: `cluster` must say `needs sctp`");
        assert_eq!(error("web-1 tcp vip-1 -> web-1"), "f:1: vip-1 has no port");
        assert_eq!(
            error("web-1 tcp vip-1:80 -> web-7"),
            "f:1: there is no pod or node named web-7"
        );
        assert_eq!(error("web-1 tcp vip-1:80 -> web-1 web-1"), "f:1: a server stands twice");
        assert_eq!(
            error("web-1 tcp vip-1:80 -> refused | source kept"),
            "f:1: only servers see a source"
        );
        assert_eq!(
            error("web-1 tcp vip-1:80 -> refused | same a"),
            "f:1: only servers can be the same"
        );
        assert_eq!(
            error("web-1 tcp vip-1:80 web-1"),
            "f:1: FROM PROTOCOL TO -> RESULT is expected"
        );
    }
}
