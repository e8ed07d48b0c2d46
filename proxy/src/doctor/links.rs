//! The network interfaces: bridges and overlays.

use std::path::Path;

use shunt_model::address::Family;
use shunt_netpolicy_nftables::kernel::switched;
use shunt_netpolicy_nftables::layout::Switched;

use super::{Finding, Severity};
use crate::links::{BridgeNetfilter, Link, beside_pods, bridges, sysctl};

/// Kinds of interfaces that wrap packets into others.
const OVERLAYS: [&str; 9] =
    ["vxlan", "ipip", "sit", "gre", "ip6gre", "geneve", "wireguard", "ip6tnl", "tun"];
/// Kinds of interfaces that lead to pods.
const PODS: [&str; 2] = ["bridge", "veth"];

/// What follows from the interfaces of this machine.
pub(super) fn findings(links: &[Link]) -> Vec<Finding> {
    let netfilter = BridgeNetfilter::read(Path::new("/"));
    let bridged = bridged(links, netfilter, Instead::possible).into_iter();
    let bridged = bridged.chain(on_one_link(links, Instead::possible));
    bridged.chain(hairpins(links, netfilter)).chain(too_large(links)).collect()
}

/// What is done where netfilter does not see what is switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instead {
    /// How policy judges it, if at all.
    pub(crate) policy: Option<Switched>,
    /// Policy is another one's matter.
    pub(crate) no_policy: bool,
    /// Connections through Services that go back to the bridge are masqueraded.
    pub(crate) masquerade: bool,
    /// And so are all to ClusterIPs.
    pub(crate) masquerade_all: bool,
}

impl Instead {
    /// What this kernel can.
    pub(crate) fn possible() -> Self {
        let policy = switched().unwrap_or_default();
        Self { policy, no_policy: false, masquerade: true, masquerade_all: false }
    }

    fn finding(self, what: String, remedy: String) -> Finding {
        let (services, of_services) = match self.masquerade {
            true => (
                Severity::Note,
                "pods that reach one another on it through a Service are masqueraded: they see \
                 the node",
            ),
            false => (
                Severity::Warning,
                "if pods are on it, a pod that reaches one on the same bridge through a Service \
                 gets its reply from an address that it did not ask",
            ),
        };
        let (policy, of_policy) = match self.policy {
            _ if self.no_policy => (Severity::Note, ""),
            Some(Switched::Tracked) => {
                (Severity::Note, "; network policy between them is enforced on the bridge")
            }
            Some(Switched::FirstOfTcp) => (
                Severity::Warning,
                "; network policy between them holds for new TCP connections alone, as this kernel \
                 tracks no connections on bridges (nf_conntrack_bridge)",
            ),
            None => (Severity::Problem, "; network policy between them does not hold"),
        };
        Finding::new(services.min(policy), what, format!("{of_services}{of_policy}"), remedy)
    }
}

/// Packets between two pods on one bridge are switched, not routed: netfilter sees them only by
/// `br_netfilter`. Their replies would bypass it, and the address they were sent to.
pub(super) fn bridged(
    links: &[Link],
    netfilter: BridgeNetfilter,
    instead: impl FnOnce() -> Instead,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if !crate::links::any_unseen(links, netfilter) {
        return found;
    }
    let instead = instead();
    let finding = |what, remedy| instead.finding(what, remedy);
    for (bridge, _) in bridges(links) {
        let name = &bridge.name;
        if !netfilter.is_there() {
            let what = format!("bridge {name}: br_netfilter is not there");
            found.push(finding(what, "modprobe br_netfilter".to_owned()));
            continue;
        }
        found.extend(netfilter.unseen(bridge).map(|family| {
            let sysctl = sysctl(family);
            let own = sysctl.trim_start_matches("bridge-").replace('-', "_");
            finding(
                format!("bridge {name}: net.bridge.{sysctl} is not 1, nor is its own {own}"),
                format!(
                    "ip link set {name} type bridge {own} 1, as shunt does unless \
                     --bridge-netfilter=off keeps it from that"
                ),
            )
        }));
    }
    found
}

/// What macvlan and ipvlan pods say to one another passes no hook of any node, and so do replies through Services.
pub(super) fn on_one_link(
    links: &[Link],
    instead: impl Fn() -> Instead,
) -> impl Iterator<Item = Finding> {
    beside_pods(links).flat_map(move |(link, _)| {
        let Instead { no_policy, masquerade, masquerade_all, .. } = instead();
        // What is routed so has come in by no interface that `--masquerade-same-link` could tell it by.
        let (mode, remedy) = match link.routes {
            true => (" in mode L3 or L3S", "--masquerade-all, or mode L2"),
            false => ("", "--masquerade-same-link=true, or --masquerade-all"),
        };
        let masquerade = if link.routes { masquerade_all } else { masquerade };
        let what = format!("{} is this node's device among {} pods{mode}", link.name, link.kind);
        let of_policy = Finding::new(
            Severity::Warning,
            what.clone(),
            "what such pods say to one another passes no hook of any node: network policy between \
             them does not hold",
            "connect pods that policies are for by a bridge or a routed network; \
             --network-policy=off where there are none",
        );
        let of_services = Finding::new(
            Severity::Warning,
            what,
            "a pod that reaches another through a Service gets its reply past this node, from an \
             address that it did not ask",
            remedy,
        );
        let policy = (!no_policy).then_some(of_policy);
        policy.into_iter().chain((!masquerade).then_some(of_services))
    })
}

/// Where netfilter translates on the bridge, what a pod sends to itself through a Service would
/// leave by the port that it came in by. Where it does not, the packet is routed, and may.
fn hairpins(links: &[Link], netfilter: BridgeNetfilter) -> Vec<Finding> {
    let seen = bridges(links).filter(|(bridge, _)| netfilter.sees(bridge, Family::V4));
    let found = seen.filter_map(|(bridge, ports)| {
        let without = ports.iter().filter(|port| port.hairpin == Some(false)).count();
        (without > 0).then(|| {
            Finding::new(
                Severity::Note,
                format!(
                    "bridge {}: {without} of {} ports are not in hairpin mode",
                    bridge.name,
                    ports.len()
                ),
                "a pod behind such a port does not reach itself through a Service",
                "hairpinMode: true in the CNI's settings, or bridge link set dev PORT hairpin on",
            )
        })
    });
    found.collect()
}

/// Pods whose packets do not fit through the overlay.
fn too_large(links: &[Link]) -> Option<Finding> {
    let of = |kinds: &'static [&str]| {
        links.iter().filter(move |link| kinds.contains(&link.kind.as_str()))
    };
    let overlay = of(&OVERLAYS).filter(|link| link.is_up).min_by_key(|link| link.mtu)?;
    let pod = of(&PODS).max_by_key(|link| link.mtu)?;
    (pod.mtu > overlay.mtu).then(|| {
        Finding::new(
            Severity::Warning,
            format!(
                "{} has an MTU of {}, the overlay {} one of {}",
                pod.name, pod.mtu, overlay.name, overlay.mtu
            ),
            "large packets to pods of other nodes are lost where ICMP does not come back; \
             small requests work, large answers hang",
            format!("give the pods' interfaces an MTU of {} in the CNI's settings", overlay.mtu),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: &str, mtu: u32) -> Link {
        Link { name: name.into(), kind: kind.into(), mtu, is_up: true, ..Link::default() }
    }

    /// A bridge with one port.
    fn bridge(hairpin: bool) -> [Link; 2] {
        let port = Link { master: Some(7), hairpin: Some(hairpin), ..link("veth1", "veth", 1500) };
        [Link { index: 7, ..link("cni0", "bridge", 1500) }, port]
    }

    #[test]
    fn pods_must_fit_through_the_overlay() {
        let good = [link("flannel.1", "vxlan", 1450), link("cni0", "bridge", 1450)];
        assert_eq!(too_large(&good), None);
        let bad = [link("flannel.1", "vxlan", 1450), link("cni0", "bridge", 1500)];
        assert!(too_large(&bad).unwrap().what.starts_with("cni0 has an MTU of 1500"));
        let unused = Link { is_up: false, ..link("ip6gre0", "ip6gre", 1448) };
        assert_eq!(too_large(&[unused, link("veth1", "veth", 1500)]), None);
        assert_eq!(too_large(&[link("eth0", "", 1500), link("v", "veth", 9000)]), None);
    }

    #[test]
    fn packets_among_macvlan_pods_pass_no_hook() {
        let shim = Link { index: 3, lower: Some(2), ..link("shim0", "macvlan", 1500) };
        // A machine whose own interface is a macvlan device of another machine.
        let eth = Link { index: 2, ..link("eth0", "macvlan", 1500) };
        let masquerade_all = false;
        let links = [shim.clone(), eth.clone()];
        let found = |no_policy, masquerade| {
            let instead = move || Instead { policy: None, no_policy, masquerade, masquerade_all };
            on_one_link(&links, instead).map(|found| found.consequence).collect::<Vec<_>>()
        };
        assert!(found(false, true)[0].ends_with("network policy between them does not hold"));
        assert_eq!(found(true, true), [""; 0], "nobody asks for policy, replies come back here");
        assert!(found(true, false)[0].contains("gets its reply past this node"));
        assert_eq!(found(false, false).len(), 2);
        let links = [Link { routes: true, kind: "ipvlan".into(), ..shim }, eth];
        let found = |masquerade_all| {
            let instead =
                move || Instead { policy: None, no_policy: true, masquerade: true, masquerade_all };
            on_one_link(&links, instead).map(|found| found.remedy).collect::<Vec<_>>()
        };
        assert_eq!(found(false), ["--masquerade-all, or mode L2"], "they come by no interface");
        assert_eq!(found(true), [""; 0]);
    }

    #[test]
    fn what_is_done_instead_decides_how_bad_it_is() {
        let netfilter = BridgeNetfilter::read(Path::new("/nowhere"));
        let severity = |policy, no_policy, masquerade| {
            let instead = || Instead { policy, no_policy, masquerade, masquerade_all: masquerade };
            bridged(&bridge(true), netfilter, instead)[0].severity
        };
        assert_eq!(severity(Some(Switched::Tracked), false, true), Severity::Note);
        assert_eq!(severity(Some(Switched::FirstOfTcp), false, true), Severity::Warning);
        assert_eq!(severity(None, false, true), Severity::Problem);
        assert_eq!(severity(None, true, true), Severity::Note, "policy is another one's matter");
        assert_eq!(severity(None, true, false), Severity::Warning);
    }

    #[test]
    fn a_bridge_needs_netfilter() {
        let root = tempfile::tempdir().unwrap();
        let read = || BridgeNetfilter::read(root.path());
        let instead =
            || Instead { policy: None, no_policy: false, masquerade: true, masquerade_all: false };
        let links = bridge(false);
        assert!(bridged(&links, read(), instead)[0].what.contains("br_netfilter is not there"));
        let directory = root.path().join("proc/sys/net/bridge");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("bridge-nf-call-iptables"), "0\n").unwrap();
        std::fs::write(directory.join("bridge-nf-call-ip6tables"), "1\n").unwrap();
        let found = bridged(&links, read(), instead);
        assert_eq!(found.len(), 1);
        assert!(found[0].remedy.starts_with("ip link set cni0 type bridge nf_call_iptables 1,"));
        assert!(bridged(&links[..1], read(), instead).is_empty(), "nobody is on it");
        // It is routed, so no port needs to send what it has received.
        assert!(hairpins(&links, read()).is_empty());
        let mut own = links.clone();
        own[0].shows = [true, false];
        assert!(bridged(&own, read(), instead).is_empty(), "the bridge says so itself");
        assert!(hairpins(&own, read())[0].what.contains("1 of 1 ports"));
        std::fs::write(directory.join("bridge-nf-call-iptables"), "1\n").unwrap();
        assert!(bridged(&links, read(), instead).is_empty());
        assert!(hairpins(&links, read())[0].what.contains("1 of 1 ports"));
        assert!(hairpins(&bridge(true), read()).is_empty());
    }
}
