//! The network interfaces: bridges and overlays.

use std::path::Path;

use shunt_netlink::{Message, Socket, attributes};

use super::{Finding, Severity};

/// `NETLINK_ROUTE`, `RTM_GETLINK`, `IFLA_IFNAME`, `IFLA_MTU`, `IFLA_LINKINFO`, `IFLA_INFO_KIND`
/// (`include/uapi/linux/rtnetlink.h`, `if_link.h`).
const ROUTE: i32 = 0;
const GETLINK: u16 = 18;
const NAME: u16 = 3;
const MTU: u16 = 4;
const INFO: u16 = 18;
const INFO_KIND: u16 = 1;
/// The length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// Kinds of interfaces that wrap packets into others.
const OVERLAYS: [&str; 7] = ["vxlan", "ipip", "sit", "geneve", "wireguard", "ip6tnl", "tun"];
/// Kinds of interfaces that lead to pods.
const PODS: [&str; 2] = ["bridge", "veth"];

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    name: String,
    /// The kind as `ip -d link` prints it; empty for hardware.
    kind: String,
    mtu: u32,
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
    let kind = find(INFO).and_then(|info| info.find(INFO_KIND));
    Some(Link {
        name: find(NAME)?.text()?.to_owned(),
        kind: kind.and_then(|kind| kind.text().map(ToOwned::to_owned)).unwrap_or_default(),
        mtu: u32::from_ne_bytes(find(MTU)?.payload.try_into().ok()?),
    })
}

/// What follows from the interfaces of this machine.
pub(super) fn findings(links: &[Link]) -> Vec<Finding> {
    bridged(links, Path::new("/")).into_iter().chain(too_large(links)).collect()
}

/// Packets between two pods on one bridge are switched, not routed: netfilter sees them only by
/// `br_netfilter`. Their replies would bypass it, and the address they were sent to.
fn bridged(links: &[Link], root: &Path) -> Vec<Finding> {
    let Some(bridge) = links.iter().find(|link| link.kind == "bridge") else { return Vec::new() };
    let held = |name: &str| std::fs::read_to_string(root.join("proc/sys/net/bridge").join(name));
    let name = &bridge.name;
    let consequence = "if pods are on it, a pod that reaches one on the same bridge through a \
                       Service gets its reply from an address that it did not ask";
    let mut found = Vec::new();
    for sysctl in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        match held(sysctl) {
            Ok(value) if value.trim() == "1" => {}
            Ok(_) => found.push(Finding::new(
                Severity::Warning,
                format!("bridge {name}: net.bridge.{sysctl} is not 1"),
                consequence,
                format!("sysctl -w net.bridge.{sysctl}=1"),
            )),
            Err(_) => {
                let remedy = "modprobe br_netfilter, and net.bridge.bridge-nf-call-iptables=1";
                let what = format!("bridge {name}: br_netfilter is not there");
                return vec![Finding::new(Severity::Warning, what, consequence, remedy)];
            }
        }
    }
    found
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
        Link { name: name.into(), kind: kind.into(), mtu }
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
        let links = [link("cni0", "bridge", 1500)];
        assert!(bridged(&links, root.path())[0].what.contains("br_netfilter is not there"));
        let directory = root.path().join("proc/sys/net/bridge");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("bridge-nf-call-iptables"), "0\n").unwrap();
        std::fs::write(directory.join("bridge-nf-call-ip6tables"), "1\n").unwrap();
        let found = bridged(&links, root.path());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remedy, "sysctl -w net.bridge.bridge-nf-call-iptables=1");
        assert!(bridged(&[], root.path()).is_empty());
    }
}
