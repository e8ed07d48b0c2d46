//! The way of a connection: Services first, then policy, at each end.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use shunt_model::address::{Endpoint, Family};
use shunt_model::interface::{InterfaceName, InterfacePattern, NoInterfaceName};
use shunt_model::oracle::{Match, Oracle, Packet, Verdict};
use shunt_model::plan::Plan;
use shunt_netpolicy::table;

use super::answer::{Destination, Explanation, Fate, Judgement, Party};
use super::{lack, service};
use crate::ask::{Audit, End, Known, Port, judge, key, node_of};
use crate::status;

/// The word for the node itself.
const NODE: &str = "node";
/// How many connections are explained at most.
const MANY: usize = 64;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who connects.
    pub from: String,
    /// To whom.
    pub to: String,
    /// To which port.
    pub port: Port,
    /// By which interface it comes to the node, if that is known.
    pub interface: Option<InterfaceName>,
}

impl Asked {
    /// The question as the query of a URL.
    #[must_use]
    pub fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("from", &self.from).append_pair("to", &self.to);
        query.append_pair("port", &self.port.to_string());
        if let Some(interface) = &self.interface {
            query.append_pair("interface", interface.as_str());
        }
        query.finish()
    }

    /// The question of a query.
    ///
    /// # Errors
    /// If a part is missing or wrong.
    pub fn parse(query: &str) -> Result<Self, String> {
        let part = |name: &str| {
            let mut parts = form_urlencoded::parse(query.as_bytes());
            let found = parts.find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned())
        };
        let needed = |name: &str| part(name).ok_or_else(|| format!("{name}: is missing"));
        let interface = part("interface").map(|name| name.parse()).transpose();
        Ok(Self {
            from: needed("from")?,
            to: needed("to")?,
            port: needed("port")?.parse().map_err(|error| format!("port: {error}"))?,
            interface: interface.map_err(|error: NoInterfaceName| format!("interface: {error}"))?,
        })
    }
}

/// What an answer is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The node that the packets meet.
    pub node: &'a str,
    /// What it does for Services.
    pub plan: &'a Plan,
    /// Who has which address.
    pub(crate) known: Known<'a>,
    /// Network policy is enforced, or audited.
    pub enforced: bool,
    /// Which nodes only audit.
    pub(crate) audit: Audit<'a>,
}

impl Facts<'_> {
    /// What becomes of a connection, for each pair of addresses that the question comes to.
    ///
    /// # Errors
    /// If a word stands for nothing, or the ends have no address family in common.
    pub fn explain(&self, asked: &Asked) -> Result<Vec<Explanation>> {
        let sources = self.sources(&asked.from).context("FROM")?;
        let targets = self.targets(asked).context("TO")?;
        let oracle = Oracle::new(self.plan);
        let mut answers = Vec::new();
        for (end, source) in &sources {
            let alike = targets.iter().filter(|target| Family::of(**target) == Family::of(*source));
            for target in alike.take(MANY - answers.len().min(MANY)) {
                answers.push(self.walk(&oracle, (end, *source), *target, asked));
            }
        }
        if answers.is_empty() {
            bail!("{} and {} have no address family in common", asked.from, asked.to);
        }
        Ok(answers)
    }

    /// Who connects, with the first address of each family.
    fn sources(&self, word: &str) -> Result<Vec<(End, IpAddr)>> {
        let ends = if word == NODE {
            let own =
                |family| service::address_of(self.plan, self.known.services, self.node, family);
            let addresses: Vec<_> = Family::ALL.into_iter().filter_map(own).collect();
            if addresses.is_empty() {
                bail!("the node {} has no address that is known", self.node);
            }
            let node = Some(self.node.to_owned());
            vec![End { name: format!("node {}", self.node), addresses, node }]
        } else {
            self.known.ends(word).map_err(|error| self.excuse(error))?
        };
        let firsts = |end: End| {
            let of = |family| end.addresses.iter().find(|at| Family::of(**at) == family).copied();
            let firsts: Vec<_> = Family::ALL.into_iter().filter_map(of).collect();
            firsts.into_iter().map(move |address| (end.clone(), address))
        };
        Ok(ends.into_iter().flat_map(firsts).collect())
    }

    /// The addresses that a word stands for; of a Service its ClusterIPs.
    fn targets(&self, asked: &Asked) -> Result<Vec<IpAddr>> {
        let Some(name) = asked.to.strip_prefix("service:") else {
            let ends = self.known.ends(&asked.to).map_err(|error| self.excuse(error))?;
            return Ok(ends.into_iter().flat_map(|end| end.addresses).collect());
        };
        let key = key(name)?;
        match self.plan.services.get(&key) {
            Some(service) => Ok(service.cluster_ips.clone()),
            None => bail!(
                "no Service {key} is served: there is none, it is headless or an ExternalName, or it is \
                 another proxy's"
            ),
        }
    }

    /// A daemon knows no pods while there is no policy.
    fn excuse(&self, error: anyhow::Error) -> anyhow::Error {
        if self.known.store.pods().len() > 0 {
            return error;
        }
        error.context(
            "no pods are known, which is so while there is no network policy: give an address",
        )
    }

    fn walk(
        &self,
        oracle: &Oracle<'_>,
        (end, source): (&End, IpAddr),
        destination: IpAddr,
        asked: &Asked,
    ) -> Explanation {
        let packet = self.packet((end, source), destination, asked);
        let (found, verdict) = (oracle.find(&packet), oracle.verdict(&packet));
        let pool: &[_] = if let Verdict::Forward(pool) = &verdict { pool } else { &[] };
        let row = found.as_ref().map(|found| {
            let from_inside = found.frontend.from_inside.as_ref();
            let inside = from_inside.filter(|_| oracle.is_from_inside(&packet));
            (found, inside)
        });
        Explanation {
            node: self.node.to_owned(),
            from: self.party(source, end.node.as_deref()),
            to: self.party(destination, None),
            port: asked.port.to_string(),
            fate: match &verdict {
                Verdict::Pass => Fate::Pass,
                Verdict::Forward(_) => Fate::Forward,
                Verdict::Reject => Fate::Reject,
                Verdict::Drop => Fate::Drop,
            },
            reason: service::reason(
                (self.plan, self.known.services),
                &packet,
                found.as_ref(),
                &verdict,
            ),
            frontend: row.map(|(found, inside)| {
                let action = inside.unwrap_or(&found.frontend.action);
                status::row(found.key, found.frontend, action, inside.is_some())
            }),
            spread: found.filter(|_| pool.len() > 1).map(|found| service::spread(found.service)),
            kernel: None,
            ends: self.destinations(&packet, found.as_ref(), &verdict),
            unused: row.map_or_else(Vec::new, |(found, inside)| {
                let met = (found, inside.is_some());
                service::unused(self.known.services, self.node, met, pool)
            }),
            remarks: self.remarks(&packet, found.as_ref()),
        }
    }

    fn packet(&self, (end, source): (&End, IpAddr), destination: IpAddr, asked: &Asked) -> Packet {
        let from_node = end.node.as_deref() == Some(self.node)
            || self.plan.node.own_addresses.contains(&source);
        // The interface of a pod here need not be known, only how it is called.
        let named = |pattern| match pattern {
            InterfacePattern::Exact(name) | InterfacePattern::Prefix(name) => name,
        };
        let local = || self.plan.node.local_interfaces.filter(|_| self.is_of_pod_here(source));
        let interface = asked.interface.or_else(|| local().map(named));
        let (protocol, port) = (asked.port.protocol, asked.port.number);
        let interface = interface.filter(|_| !from_node);
        Packet { source, destination, protocol, port, from_node, interface }
    }

    /// Whether a pod of this node has the address, as far as objects tell: the pod, an endpoint, or
    /// the Node's networks.
    fn is_of_pod_here(&self, address: IpAddr) -> bool {
        let services = self.known.services;
        let in_network = || {
            let node = services.node(self.node);
            node.is_some_and(|node| node.pod_cidrs.iter().any(|net| net.contains(&address)))
        };
        let is_endpoint = || {
            let mut all = services.slices().flat_map(|slice| &slice.endpoints);
            all.any(|each| each.address == address && each.node() == Some(self.node))
        };
        match node_of(self.known.store, address) {
            Some(node) => node == self.node,
            None => in_network() || is_endpoint(),
        }
    }

    /// Where it may end.
    fn destinations(
        &self,
        packet: &Packet,
        found: Option<&Match<'_>>,
        verdict: &Verdict,
    ) -> Vec<Destination> {
        match (verdict, found) {
            (Verdict::Pass, _) => {
                let itself = Endpoint { address: packet.destination, port: packet.port };
                vec![self.destination(packet, &itself, false, "100.0".to_owned())]
            }
            (Verdict::Forward(pool), Some(found)) => pool
                .iter()
                .map(|(endpoint, hidden)| {
                    let share = service::share(found.service, pool, endpoint);
                    self.destination(packet, endpoint, *hidden, share)
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    fn destination(
        &self,
        packet: &Packet,
        endpoint: &Endpoint,
        hidden: bool,
        share: String,
    ) -> Destination {
        let node = service::address_of(
            self.plan,
            self.known.services,
            self.node,
            Family::of(endpoint.address),
        );
        let seen_as = node.filter(|_| hidden);
        Destination {
            party: self.party(endpoint.address, None),
            endpoint: endpoint.to_string(),
            share,
            seen_as: match (hidden, seen_as) {
                (false, _) => packet.source.to_string(),
                (true, Some(address)) => format!("{address}, the node's"),
                (true, None) => "an address of the node".to_owned(),
            },
            policy: self.judge(packet, endpoint, seen_as),
        }
    }

    /// What policy says. Where the connection goes to another node by our address, policy there
    /// knows no other; all others see whom it comes from.
    fn judge(
        &self,
        packet: &Packet,
        endpoint: &Endpoint,
        seen_as: Option<IpAddr>,
    ) -> Option<Judgement> {
        let store = self.known.store;
        if !self.enforced || store.policies().len() + store.cluster_policies().len() == 0 {
            return None;
        }
        let on = node_of(store, endpoint.address);
        let is_here = on.as_deref() == Some(self.node);
        let asked = |source, from_node| {
            let (protocol, port) = (packet.protocol.number(), endpoint.port);
            let destination = endpoint.address;
            let packet = table::Packet { source, destination, protocol, port, from_node };
            judge(store, &packet, self.audit)
        };
        let [egress, mut ingress] = asked(packet.source, packet.from_node && is_here);
        if let Some(node) = seen_as.filter(|_| !is_here) {
            [_, ingress] = asked(node, false);
        }
        Some(Judgement { egress, ingress })
    }

    /// An address and who has it; `node`: the node that has it itself.
    fn party(&self, address: IpAddr, node: Option<&str>) -> Party {
        let pod = self.known.store.pod_at(address);
        let at = self.known.at(address).node;
        let node = node.or(at.as_deref()).filter(|_| pod.is_none());
        Party {
            address: address.to_string(),
            name: match (pod, node) {
                (Some(pod), _) => Some(pod.key.to_string()),
                (None, node) => node.map(|node| format!("node {node}")),
            },
            node: pod.and_then(|pod| pod.node.as_ref()).map(ToString::to_string),
        }
    }

    fn remarks(&self, packet: &Packet, found: Option<&Match<'_>>) -> Vec<String> {
        let problems = found.map_or(&[][..], |found| &found.service.problems);
        let mut remarks: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let owner = found.map(|found| found.key);
        remarks.extend(lack::of_frontend(self.plan, self.known.services, packet, owner));
        let by_interface = self.plan.node.local_interfaces.is_some();
        if by_interface && packet.interface.is_none() && !packet.from_node {
            remarks.push(
                "pods here are known by their interfaces, and the client is taken for none of them: \
                 --interface says by which it comes"
                    .to_owned(),
            );
        }
        let source = packet.source;
        let elsewhere = node_of(self.known.store, source).filter(|node| node != self.node);
        if let Some(node) = elsewhere {
            remarks.push(format!(
                "the client is on {node}, where its packets meet Services first; this is what {} makes of \
                 those that reach it unchanged",
                self.node
            ));
        }
        remarks
    }
}
