//! The `cluster` file: what a scenario is played on.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipnet::IpNet;
use shunt_cluster::{ClusterSpec, Families, Network, NodeSpec, Way};

use shunt_netpolicy_nftables::kernel::switched;
use shunt_netpolicy_nftables::layout::Switched;
use shunt_nftables::forwarding::Forwarding;

use super::names::Names;
use super::need::Need;
use super::text::{Line, read_lines};

/// The name of the file.
const FILE: &str = "cluster";
/// Where the servers of every pod and node listen, unless the scenario says otherwise.
const PORTS: [u16; 4] = [53, 5353, 8080, 8081];
/// Networks that clients reach through the first node, unless the scenario names routes.
const SERVICE_NETWORKS: [&str; 4] =
    ["10.96.0.0/16", "fd00:10:96::/112", "203.0.113.0/24", "2001:db8:113::/64"];

/// What a scenario is played on.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// Nodes, pods, clients and families.
    pub(super) cluster: ClusterSpec,
    /// The network that it asks for.
    network: Option<Network>,
    /// Routes of hosts, in addition to those that every cluster has.
    pub(super) routes: Vec<Route>,
    /// One more address for a host.
    pub(super) addresses: Vec<(String, IpAddr)>,
    /// Rules of another program on every node, as `nft` reads them.
    pub(super) rules: Vec<String>,
    /// The addresses that nodes have at the devices of their network.
    pub(super) of_network: Vec<(String, IpAddr)>,
    /// Flags of the daemons.
    pub(super) flags: Vec<String>,
    /// The backend of the daemons.
    pub(super) forwarding: Forwarding,
    /// Flags of kube-proxy in their place.
    pub(super) peer_flags: Vec<String>,
    /// What the kernel must have.
    pub(super) needs: BTreeSet<Need>,
    /// Where the servers of every pod and node listen.
    pub(super) ports: Vec<u16>,
    /// All names.
    pub(super) names: Names,
}

/// A route that a host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The host.
    pub(super) host: String,
    /// Where to.
    pub(super) network: IpNet,
    /// Through which other host.
    pub(super) via: String,
}

impl Setup {
    /// Reads the file of a scenario; without one, everything is as by default.
    pub(super) fn load(directory: &Path) -> Result<Self> {
        let file = directory.join(FILE);
        let lines = if file.exists() { read_lines(&file)? } else { Vec::new() };
        Self::parse(&lines).with_context(|| format!("in {}", directory.display()))
    }

    /// Reads the lines of such a file.
    pub(super) fn parse(lines: &[Line]) -> Result<Self> {
        let mut setup = Self {
            cluster: ClusterSpec { families: Families::Dual, ..ClusterSpec::default() },
            network: None,
            routes: Vec::new(),
            addresses: Vec::new(),
            rules: Vec::new(),
            of_network: Vec::new(),
            flags: Vec::new(),
            forwarding: Forwarding::Translate,
            peer_flags: Vec::new(),
            needs: BTreeSet::new(),
            ports: Vec::new(),
            names: Names::default(),
        };
        for line in lines {
            setup.read(line).map_err(|error| line.place.error(format_args!("{error:#}")))?;
        }
        setup.fill_in()?;
        if let Some(network) = setup.network {
            setup.choose(network)?;
        }
        Ok(setup)
    }

    fn read(&mut self, line: &Line) -> Result<()> {
        match line.words().as_slice() {
            ["families", "v4"] => self.cluster.families = Families::V4,
            ["families", "v6"] => self.cluster.families = Families::V6,
            ["families", "dual"] => self.cluster.families = Families::Dual,
            ["node", name, pods @ ..] => self.cluster.nodes.push(NodeSpec::new(name, pods)),
            ["client", name] => self.cluster.clients.push((*name).to_owned()),
            ["network", name] => {
                let network = Network::named(name);
                self.network = Some(network.ok_or_else(|| anyhow!("{name} is not a network"))?);
            }
            ["route", host, network, "via", via] => self.routes.push(Route {
                host: (*host).to_owned(),
                network: network.parse().map_err(|_| anyhow!("{network} is not a network"))?,
                via: (*via).to_owned(),
            }),
            ["address", host, address] => {
                let address =
                    address.parse().map_err(|_| anyhow!("{address} is not an address"))?;
                self.addresses.push(((*host).to_owned(), address));
            }
            [who @ ("daemon" | "shunt" | "kube-proxy"), flags @ ..] => {
                let flags = || flags.iter().map(|flag| (*flag).to_owned());
                if *who != "kube-proxy" {
                    self.flags.extend(flags());
                }
                if *who != "shunt" {
                    self.peer_flags.extend(flags());
                }
            }
            ["mtu", mtu] => {
                let mtu = mtu.parse().map_err(|_| anyhow!("{mtu} is no length of packets"))?;
                self.cluster.mtu = Some(mtu);
            }
            ["nft", ..] => self.rules.push(line.text["nft".len()..].trim().to_owned()),
            ["needs", name] => drop(self.needs.insert(Need::parse(name)?)),
            ["ports", ports @ ..] => {
                let port = |text: &&str| text.parse().map_err(|_| anyhow!("{text} is not a port"));
                self.ports = ports.iter().map(port).collect::<Result<_>>()?;
            }
            _ => bail!(
                "one of these is expected: families v4|v6|dual, network NAME, node NAME POD..., client NAME, \
                 route HOST NETWORK via HOST, address HOST IP, mtu BYTES, nft RULES, daemon FLAG..., shunt FLAG..., kube-proxy FLAG..., needs sctp, \
                 ports PORT..."
            ),
        }
        Ok(())
    }

    /// What was not said is as by default.
    fn fill_in(&mut self) -> Result<()> {
        let spec = &mut self.cluster;
        if spec.nodes.is_empty() {
            spec.nodes = vec![
                NodeSpec::new("node-1", &["web-1", "web-2", "dns-1"]),
                NodeSpec::new("node-2", &["web-3", "web-4", "dns-2"]),
            ];
        }
        if spec.clients.is_empty() {
            spec.clients = vec!["client".to_owned()];
        }
        if self.ports.is_empty() {
            self.ports = PORTS.to_vec();
        }
        if self.routes.is_empty() {
            self.routes = default_routes(spec)?;
        }
        self.names = Names::of(spec)?;
        for (host, address) in &self.addresses {
            ensure!(self.names.is_host(host), "there is no host named {host}");
            self.names.also(host, *address)?;
        }
        for route in &self.routes {
            let hosts = [&route.host, &route.via];
            let unknown = hosts.into_iter().find(|name| !self.names.is_host(name));
            ensure!(
                unknown.is_none(),
                "there is no host named {}",
                unknown.map_or("", |name| name)
            );
        }
        Ok(())
    }

    /// Chooses the network that it is played on.
    pub(super) fn choose(&mut self, network: Network) -> Result<()> {
        self.cluster.network = network;
        for (index, node) in (1..).zip(&self.cluster.nodes) {
            for address in network.node_addresses(self.cluster.families, index) {
                self.names.also(&node.name, address)?;
                self.of_network.push((node.name.clone(), address));
            }
        }
        if network == Network::BridgeUnseen {
            // What the scenario says comes later and counts.
            self.flags.insert(0, "--bridge-netfilter=off".to_owned());
        }
        if network.sends_as_node() {
            self.flags.insert(0, "--masquerade-all".to_owned());
        }
        Ok(())
    }

    /// Whether packets between two pods that are on one link pass no netfilter hook of their nodes, whatever the daemons
    /// do.
    pub(super) fn is_blind(&self) -> bool {
        let network = self.cluster.network;
        let is_shown = || self.flags.iter().any(|flag| flag == "--bridge-netfilter=auto");
        network.is_blind() && !(network == Network::BridgeUnseen && is_shown())
    }

    /// What the daemons must say of the network: each problem contains one of these.
    pub(super) fn problems_of_network(&self) -> &'static [&'static str] {
        let is_judged = || switched().is_ok_and(|switched| switched == Some(Switched::Tracked));
        match self.cluster.network {
            Network::BridgeUnseen if self.is_blind() && !is_judged() => {
                &["bridge-nf-call-iptables is not 1", "bridge-nf-call-ip6tables is not 1"]
            }
            Network::Macvlan | Network::Ipvlan | Network::IpvlanL3 | Network::IpvlanL3s => {
                &["passes no hook of any node"]
            }
            _ => &[],
        }
    }

    /// The node whose address a server sees because the network itself masquerades, if it does: what leaves a pod for
    /// anyone but pods, and what a node sends to the pods of another.
    pub(super) fn hidden_by_network(&self, from: &str, server: &str) -> Option<&str> {
        let is_node = |host: &str| self.cluster.nodes.iter().any(|node| node.name == host);
        let node = self.node_of(from)?;
        let leaves = self.node_of(server) != Some(node) && (is_node(from) || is_node(server));
        (self.cluster.network.masquerades() && leaves).then_some(node)
    }

    /// Whether a node translates what a host sends to one of its pods and cannot masquerade it: with ipvlan in mode L3S,
    /// what has come in for a pod leaves by no *postrouting*. IPVS sends it anew.
    pub(super) fn cannot_hide(&self, node: &str, from: &str, server: &str) -> bool {
        let comes_in = self.node_of(from) != Some(node);
        let is_pod_there = server != node && self.node_of(server) == Some(node);
        self.cluster.network == Network::IpvlanL3s
            && self.forwarding == Forwarding::Translate
            && comes_in
            && is_pod_there
    }

    /// The name of the node that this host is, or that this pod runs on.
    pub(super) fn node_of(&self, host: &str) -> Option<&str> {
        let mut nodes = self.cluster.nodes.iter();
        let node =
            nodes.find(|node| node.name == host || node.pods.iter().any(|pod| pod == host))?;
        Some(&node.name)
    }

    /// A node's ways in and out by the link on which packets between two pods pass no hook of it.
    pub(super) fn blind_ways(&self, node: &str) -> Vec<Way> {
        let cluster = &self.cluster;
        let found = (1..).zip(&cluster.nodes).find(|(_, each)| each.name == node);
        let found = found.filter(|_| self.is_blind());
        let ways = found.map(|(index, _)| cluster.network.blind_ways(cluster.families, index));
        ways.unwrap_or_default()
    }

    /// The interface by which a host's packets come in at a node; none for the node's own.
    pub(super) fn input(&self, host: &str, node: &str) -> Option<String> {
        if host == node {
            return None;
        }
        let here = self.cluster.nodes.iter().find(|each| each.name == node);
        let is_pod_here = here.is_some_and(|node| node.pods.iter().any(|pod| pod == host));
        if let Some(device) = self.cluster.network.input().filter(|_| is_pod_here) {
            return Some(device.to_owned());
        }
        if is_pod_here && self.cluster.network.sends_as_node() {
            return None;
        }
        let pod = here.and_then(|node| node.pods.iter().position(|pod| pod == host));
        Some(pod.map_or_else(|| "eth0".to_owned(), |index| format!("veth{}", 11 + index)))
    }

    /// All addresses of a host.
    pub(super) fn addresses_of<'a>(&'a self, host: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
        let built = self.names.resolve(host).unwrap_or_default().into_iter();
        let more = self.addresses.iter().chain(&self.of_network);
        let more = more.filter(move |(of, _)| of == host).map(|(_, address)| *address);
        built.chain(more)
    }

    /// Through which host another one sends packets to an address, if by a route of the scenario.
    pub(super) fn next_hop(&self, host: &str, to: IpAddr) -> Option<&str> {
        let own =
            self.routes.iter().filter(|route| route.host == host && route.network.contains(&to));
        own.max_by_key(|route| route.network.prefix_len()).map(|route| route.via.as_str())
    }
}

fn default_routes(spec: &ClusterSpec) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for network in SERVICE_NETWORKS {
        let network: IpNet = network.parse()?;
        let wanted = match spec.families {
            Families::V4 => network.addr().is_ipv4(),
            Families::V6 => network.addr().is_ipv6(),
            Families::Dual => true,
        };
        for client in spec.clients.iter().filter(|_| wanted) {
            routes.push(Route { host: client.clone(), network, via: spec.nodes[0].name.clone() });
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use super::super::text::lines;
    use super::*;

    fn parse(text: &str) -> Result<Setup> {
        Setup::parse(&lines(Path::new("cluster"), text))
    }

    #[test]
    fn without_a_file_there_is_a_cluster_of_two_nodes() {
        let setup = parse("").unwrap();
        assert_eq!(setup.cluster.families, Families::Dual);
        assert_eq!(setup.node_of("web-3"), Some("node-2"));
        assert_eq!(setup.node_of("client"), None);
        assert_eq!(setup.next_hop("client", "10.96.0.11".parse().unwrap()), Some("node-1"));
    }

    #[test]
    fn what_is_said_is_taken() {
        let text = "families v6\nnode a p1 p2\nclient c # outside\nroute c fd00:10:96::/112 via a\n\
                    address a fd00:77::50\ndaemon --masquerade-all\nneeds sctp\nports 1 2\n";
        let setup = parse(text).unwrap();
        assert!(setup.needs.contains(&Need::Sctp));
        assert_eq!(setup.flags, ["--masquerade-all"]);
        assert_eq!(setup.ports, [1, 2]);
        assert_eq!(setup.addresses_of("a").count(), 2);
        assert_eq!(setup.names.host_of("fd00:77::50".parse().unwrap()), Some("a"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |text| format!("{:#}", parse(text).unwrap_err());
        assert_eq!(
            error("\nroute client nowhere via node-1"),
            "cluster:2: nowhere is not a network"
        );
        assert!(error("nodes a").starts_with("cluster:1: one of these is expected"));
        assert_eq!(error("address nobody 10.0.0.1"), "there is no host named nobody");
    }
}
