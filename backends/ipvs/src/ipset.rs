//! The ipsets of kube-proxy's IPVS mode (`include/uapi/linux/netfilter/ipset/ip_set.h`).

use std::collections::BTreeSet;
use std::path::Path;

use nix::errno::Errno;
use nix::libc::NETLINK_NETFILTER;
use shunt_netlink::{Attribute, Error, Message, Socket, attributes, nfnetlink};

/// `NFNL_SUBSYS_IPSET`, and its `IPSET_CMD_DESTROY`, `IPSET_CMD_LIST`.
const SUBSYSTEM: u16 = 6;
const DESTROY: u16 = 3;
const LIST: u16 = 7;
/// `IPSET_ATTR_*`.
const PROTOCOL: u16 = 1;
const SET_NAME: u16 = 2;
const FLAGS: u16 = 6;
const DATA: u16 = 7;
const ENTRIES: u16 = 8;
const PORT: u16 = 4;
/// `IPSET_PROTOCOL_MIN`: what every kernel speaks.
const VERSION: u8 = 6;
/// `IPSET_FLAG_LIST_SETNAME`: names alone.
const NAMES: u32 = 1 << 1;

/// The longest name of a set.
const LONGEST: usize = 31;
/// The names of kube-proxy's sets after `KUBE-` (`pkg/proxy/ipvs/ipset.go`); those of IPv6 have
/// `KUBE-6-` before them.
const SETS: [&str; 18] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
    // The same as of the releases before 1.20.
    "NODE-PORT-SCTP",
];

/// The kernel's ipsets, of which only those of kube-proxy are touched.
#[derive(Debug)]
pub(crate) struct Sets {
    socket: Socket,
    names: Vec<String>,
}

impl Sets {
    /// Finds those that kube-proxy has made. A kernel that has not loaded ipset is not asked, for
    /// that would load it.
    pub(crate) fn find() -> Result<Self, Error> {
        let mut socket = Socket::open(NETLINK_NETFILTER)?;
        let loaded = Path::new("/sys/module/ip_set").exists();
        let names = if loaded { names(&mut socket)? } else { Vec::new() };
        Ok(Self { socket, names: names.into_iter().filter(|name| is_kube_proxys(name)).collect() })
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The node ports in them.
    pub(crate) fn node_ports(&mut self) -> Result<BTreeSet<u16>, Error> {
        let mut ports = BTreeSet::new();
        for name in self.names.iter().filter(|name| name.contains("NODE-PORT-")) {
            let found = self.socket.dump("list an ipset", &list(Some(name), 0), entries)?;
            ports.extend::<BTreeSet<u16>>(found);
        }
        Ok(ports)
    }

    /// Destroys them; returns how many are left because rules use them: the kernel lets go of a
    /// rule's sets some time after the rule. One that is gone is no error.
    pub(crate) fn destroy(&mut self) -> Result<usize, Error> {
        for name in std::mem::take(&mut self.names) {
            let mut message = request(DESTROY);
            message.text(SET_NAME, &name);
            match self.socket.request("destroy an ipset", message, |_| {}) {
                // `IPSET_ERR_BUSY`: ipset has numbers of its own, from 4096.
                Err(error) if error.errno() == Some(Errno::UnknownErrno) => self.names.push(name),
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                result => result?,
            }
        }
        Ok(self.names.len())
    }
}

fn is_kube_proxys(name: &str) -> bool {
    SETS.iter().any(|set| {
        let mut v6 = format!("KUBE-6-{set}");
        v6.truncate(LONGEST);
        name.strip_prefix("KUBE-") == Some(set) || name == v6
    })
}

fn names(socket: &mut Socket) -> Result<Vec<String>, Error> {
    let each = |names: &mut Vec<String>, payload: &[u8]| {
        let name = of_answer(payload).find(|attribute| attribute.kind == SET_NAME);
        names.extend(name.and_then(|name| name.text()).map(ToOwned::to_owned));
    };
    socket.dump("list ipsets", &list(None, NAMES), each)
}

fn entries(ports: &mut BTreeSet<u16>, payload: &[u8]) {
    let lists = of_answer(payload).filter(|attribute| attribute.kind == ENTRIES);
    let entries = lists.flat_map(|list| list.nested().collect::<Vec<_>>());
    let port = |entry: Attribute<'_>| entry.find(PORT)?.payload.try_into().ok();
    ports.extend(
        entries.filter(|entry| entry.kind == DATA).filter_map(port).map(u16::from_be_bytes),
    );
}

/// The attributes of an answer, after its `struct nfgenmsg`.
fn of_answer(payload: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    attributes(payload.get(4..).unwrap_or_default())
}

fn list(name: Option<&str>, flags: u32) -> Message {
    let mut message = request(LIST);
    if let Some(name) = name {
        message.text(SET_NAME, name);
    }
    message.u32(FLAGS, flags);
    message
}

fn request(command: u16) -> Message {
    let mut message = Message::new(SUBSYSTEM << 8 | command, 0);
    message.raw(&nfnetlink(2, 0));
    message.bytes(PROTOCOL, &[VERSION]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kube_proxys_sets_are_taken() {
        for name in ["KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", "KUBE-6-LOAD-BALANCER-SOURCE-CID"] {
            assert!(is_kube_proxys(name), "{name}");
        }
        for name in ["KUBE-MINE", "KUBE-6-", "cali40s", "KUBE-ROUTER-CLUSTER-IP", "CLUSTER-IP"] {
            assert!(!is_kube_proxys(name), "{name}");
        }
    }
}
