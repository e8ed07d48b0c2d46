//! The network interfaces: bridges and overlays.

use std::path::Path;

use shunt_netlink::{Message, Socket, attributes};

use super::{Finding, Severity};

/// `NETLINK_ROUTE`, `RTM_GETLINK`, `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_MASTER`, `IFLA_LINKINFO`, `IFLA_INFO_KIND`,
/// `IFLA_INFO_SLAVE_DATA`, `IFLA_BRPORT_MODE` (`include/uapi/linux/rtnetlink.h`, `if_link.h`).
const ROUTE: i32 = 0;
const GETLINK: u16 = 18;
const NAME: u16 = 3;
const MTU: u16 = 4;
const MASTER: u16 = 10;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_SLAVE_DATA: u16 = 5;
const BRPORT_MODE: u16 = 4;
/// The length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// Kinds of interfaces that wrap packets into others.
const OVERLAYS: [&str; 7] = ["vxlan", "ipip", "sit", "geneve", "wireguard", "ip6tnl", "tun"];
/// Kinds of interfaces that lead to pods.
const PODS: [&str; 2] = ["bridge", "veth"];

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    index: u32,
    name: String,
    /// The kind as `ip -d link` prints it; empty for hardware.
    kind: String,
    mtu: u32,
    /// The index of the bridge that it is a port of, or of what else it belongs to.
    master: Option<u32>,
    /// Of a bridge's port: whether it sends what it has received.
    hairpin: Option<bool>,
}

/// All interfaces; `None` if they cannot be read.
pub(super) fn read() -> Option<Vec<Link>> {
    let mut socket = Socket::open(ROUTE).ok()?;
    let mut request = Message::new(GETLINK, 0);
    request.raw(&[0; HEADER]);
    socket
        .dump("list the interfaces", &request, |links: &mut Vec<_>, payload| {
            links.extend(link(payload));
        })
        .ok()
}

fn link(payload: &[u8]) -> Option<Link> {
    let all: Vec<_> = attributes(payload.get(HEADER..)?).collect();
    let find = |kind| all.iter().find(|attribute| attribute.kind == kind);
    let number = |kind| find(kind)?.payload.try_into().ok().map(u32::from_ne_bytes);
    let kind = find(INFO).and_then(|info| info.find(INFO_KIND));
    let port = find(INFO).and_then(|info| info.find(INFO_SLAVE_DATA)?.find(BRPORT_MODE));
    Some(Link {
        name: find(NAME)?.text()?.to_owned(),
        kind: kind.and_then(|kind| kind.text().map(ToOwned::to_owned)).unwrap_or_default(),
        mtu: number(MTU)?,
        index: u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?),
        master: number(MASTER),
        hairpin: port.and_then(|mode| mode.payload.first().map(|mode| *mode != 0)),
    })
}

/// What follows from the interfaces of this machine.
pub(super) fn findings(links: &[Link]) -> Vec<Finding> {
    let root = Path::new("/");
    bridged(links, root).into_iter().chain(hairpins(links, root)).chain(too_large(links)).collect()
}

/// The bridges that may have pods on them, with their ports that are ends of veth pairs.
fn bridges(links: &[Link]) -> impl Iterator<Item = (&Link, Vec<&Link>)> {
    links.iter().filter(|link| link.kind == "bridge").filter_map(|bridge| {
        let is_port = |link: &&Link| link.master == Some(bridge.index) && link.kind == "veth";
        let ports: Vec<_> = links.iter().filter(is_port).collect();
        (!ports.is_empty()).then_some((bridge, ports))
    })
}

/// A sysctl of `br_netfilter`; `None` where that is not loaded.
fn sysctl(root: &Path, name: &str) -> Option<bool> {
    let held = std::fs::read_to_string(root.join("proc/sys/net/bridge").join(name)).ok()?;
    Some(held.trim() == "1")
}

/// Packets between two pods on one bridge are switched, not routed: netfilter sees them only by
/// `br_netfilter`. Their replies would bypass it, and the address they were sent to.
pub(super) fn bridged(links: &[Link], root: &Path) -> Vec<Finding> {
    let consequence = "if pods are on it, a pod that reaches one on the same bridge through a \
                       Service gets its reply from an address that it did not ask";
    let finding = |what, remedy: String| {
        let remedy = format!("{remedy}; or --masquerade-all, for ClusterIPs alone");
        Finding::new(Severity::Warning, what, consequence, remedy)
    };
    let mut found = Vec::new();
    for (Link { name, .. }, _) in bridges(links) {
        for wanted in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            match sysctl(root, wanted) {
                Some(true) => {}
                Some(false) => found.push(finding(
                    format!("bridge {name}: net.bridge.{wanted} is not 1"),
                    format!("sysctl -w net.bridge.{wanted}=1"),
                )),
                None => {
                    let what = format!("bridge {name}: br_netfilter is not there");
                    let remedy = "modprobe br_netfilter, and net.bridge.bridge-nf-call-iptables=1";
                    found.push(finding(what, remedy.to_owned()));
                    break;
                }
            }
        }
    }
    found
}

/// Where netfilter translates on the bridge, what a pod sends to itself through a Service would
/// leave by the port that it came in by. Where it does not, the packet is routed, and may.
fn hairpins(links: &[Link], root: &Path) -> Vec<Finding> {
    if sysctl(root, "bridge-nf-call-iptables") != Some(true) {
        return Vec::new();
    }
    let found = bridges(links).filter_map(|(bridge, ports)| {
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
    // Tunnels that exist without being used are down to the kernel's default.
    let fallback = ["tunl0", "sit0", "ip6tnl0", "gre0"];
    let overlay = of(&OVERLAYS)
        .filter(|link| !fallback.contains(&link.name.as_str()) || link.mtu < 1480)
        .min_by_key(|link| link.mtu)?;
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
        let (name, kind) = (name.into(), kind.into());
        Link { index: 0, name, kind, mtu, master: None, hairpin: None }
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
        assert_eq!(too_large(&[link("eth0", "", 1500), link("v", "veth", 9000)]), None);
    }

    #[test]
    fn a_bridge_needs_netfilter() {
        let root = tempfile::tempdir().unwrap();
        let links = bridge(false);
        assert!(bridged(&links, root.path())[0].what.contains("br_netfilter is not there"));
        let directory = root.path().join("proc/sys/net/bridge");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("bridge-nf-call-iptables"), "0\n").unwrap();
        std::fs::write(directory.join("bridge-nf-call-ip6tables"), "1\n").unwrap();
        let found = bridged(&links, root.path());
        assert_eq!(found.len(), 1);
        assert!(found[0].remedy.starts_with("sysctl -w net.bridge.bridge-nf-call-iptables=1;"));
        assert!(bridged(&links[..1], root.path()).is_empty(), "nobody is on it");
        // It is routed, so no port needs to send what it has received.
        assert!(hairpins(&links, root.path()).is_empty());
        std::fs::write(directory.join("bridge-nf-call-iptables"), "1\n").unwrap();
        assert!(bridged(&links, root.path()).is_empty());
        assert!(hairpins(&links, root.path())[0].what.contains("1 of 1 ports"));
        assert!(hairpins(&bridge(true), root.path()).is_empty());
    }
}
