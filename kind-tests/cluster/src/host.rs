//! What a cluster is made of: nodes, pods, clients, the control plane.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};

use crate::link::{Hop, Route, alone};
use crate::netns::Netns;

/// The device every host but the fabric has.
pub(crate) const DEVICE: &str = "eth0";

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The IP versions a cluster uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only.
    V6,
    /// Both; IPv4 is the first.
    Dual,
}

impl From<Family> for Families {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

impl Families {
    /// The families, first one first.
    pub fn each(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }
}

/// What a host is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A node.
    Node {
        /// The networks its pods have their addresses from.
        pod_networks: Vec<IpNet>,
    },
    /// A pod.
    Pod {
        /// The name of its node.
        node: String,
        /// The node's end of its veth pair.
        device: String,
    },
    /// A machine outside the cluster, on the underlay.
    Client,
    /// The machine of the API server, on the underlay.
    ControlPlane,
}

/// One machine or pod of a cluster, with a network namespace of its own.
#[derive(Clone)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) netns: Netns,
}

impl Host {
    /// Its name, unique in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The addresses it was built with, one per family of the cluster, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its address in this family, if the cluster has the family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|a| Family::of(*a) == family)
    }

    /// Its address in the cluster's first family.
    pub fn ip(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The device by which its routes lead to an IPv4 address that is not behind a gateway.
    pub(crate) fn device_to(&self, address: IpAddr) -> Result<String> {
        let routes = self.netns.run(|| fs::read_to_string("/proc/thread-self/net/route"))?;
        let lines = routes.lines().skip(1).filter_map(direct_route);
        let best = lines.filter(|(network, _)| network.contains(&address));
        let best = best.max_by_key(|(network, _)| network.prefix_len());
        let (_, device) =
            best.with_context(|| format!("{} has no route to {address}", self.name))?;
        Ok(device)
    }

    /// Gives its `eth0` one more address: a single one, that no network comes with.
    pub fn add_address(&self, address: IpAddr) -> Result<()> {
        self.netns.links().add_address(DEVICE, alone(address))
    }

    /// Takes an address from its `eth0`.
    pub fn remove_address(&self, address: IpAddr) -> Result<()> {
        self.netns.links().remove_address(DEVICE, alone(address))
    }

    /// Sends packets for `network` to `via`, a machine on the same network: so a client reaches the ClusterIPs or
    /// external IPs of a cluster through one of its nodes. Replaces the route to the same network.
    pub fn add_route(&self, network: IpNet, via: IpAddr) -> Result<()> {
        self.netns.links().set_route(&Route { destination: network, hop: Hop::Gateway(via) })
    }

    /// Whether it has a route of its own to just this network, through whatever device or gateway.
    pub fn has_route(&self, network: IpNet) -> Result<bool> {
        let (file, wanted) = match network {
            // IPv4: device, destination, gateway, flags, three numbers, mask, in the machine's order of bytes.
            IpNet::V4(network) => {
                let hex = |ip: Ipv4Addr| format!("{:08X}", u32::from_ne_bytes(ip.octets()));
                let (destination, mask) = (hex(network.network()), hex(network.netmask()));
                ("/proc/thread-self/net/route", [(1, destination), (7, mask)])
            }
            // IPv6: destination, the length of its prefix; the device is the tenth word.
            IpNet::V6(network) => {
                let destination = format!("{:032x}", u128::from(network.network()));
                let length = format!("{:02x}", network.prefix_len());
                ("/proc/thread-self/net/ipv6_route", [(0, destination), (1, length)])
            }
        };
        let table = self.netns.run(move || fs::read_to_string(file)).context(file)?;
        Ok(table.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            wanted.iter().all(|(place, word)| words.get(*place).is_some_and(|found| found == word))
                && words.last() != Some(&"lo")
        }))
    }

    /// Takes back [`Host::add_route`].
    pub fn remove_route(&self, network: IpNet, via: IpAddr) -> Result<()> {
        self.netns.links().remove_route(&Route { destination: network, hop: Hop::Gateway(via) })
    }
}

/// A line of `/proc/net/route` without a gateway: device, destination, gateway, flags, reference count, use, metric,
/// mask; addresses as they lie in memory.
fn direct_route(line: &str) -> Option<(IpNet, String)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let address = |word: &str| {
        let bytes = u32::from_str_radix(word, 16).ok()?.to_ne_bytes();
        Some(Ipv4Addr::from(bytes))
    };
    let [device, destination, "00000000", _, _, _, _, mask, ..] = words.as_slice() else {
        return None;
    };
    let network = Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?;
    Some((network.into(), (*device).to_owned()))
}
