//! The devices of overlays, over rtnetlink: tunnels, macvlan, and what goes with them.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::Result;
use nix::libc;

use crate::host::Family;
use crate::link::{
    CREATE, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO,
    IFLA_NET_NS_FD, Links, REPLACE, family, ifinfo, octets,
};
use crate::netlink::Message;

// From linux/if_link.h.
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const IFLA_IPVLAN_MODE: u16 = 1;
const IPVLAN_MODE_L2: u16 = 0;
const IPVLAN_MODE_L3: u16 = 1;
const IPVLAN_MODE_L3S: u16 = 2;
const IFLA_GENEVE_ID: u16 = 1;
const IFLA_GENEVE_REMOTE: u16 = 2;
const IFLA_GENEVE_REMOTE6: u16 = 7;
const IFLA_GENEVE_UDP_CSUM: u16 = 8;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_CSUM: u16 = 18;
// From linux/if_tunnel.h and linux/ip6_tunnel.h.
const IFLA_GRE_LOCAL: u16 = 6;
const IFLA_GRE_REMOTE: u16 = 7;
const IFLA_GRE_FLAGS: u16 = 13;
const IFLA_IPTUN_LOCAL: u16 = 2;
const IFLA_IPTUN_REMOTE: u16 = 3;
const IFLA_IPTUN_FLAGS: u16 = 8;
const IFLA_IPTUN_PROTO: u16 = 9;
const IP6_TNL_F_IGN_ENCAP_LIMIT: u32 = 1;
// From linux/neighbour.h.
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;

/// How a device shares the one below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// With a hardware address of its own, in bridge mode.
    Macvlan,
    /// With the same hardware address, told apart by IP addresses (mode L2).
    Ipvlan,
    /// The same, and what a pod sends is routed in the namespace of the device below (mode L3).
    IpvlanL3,
    /// The same, and what comes for a pod passes that namespace's hooks before (mode L3S).
    IpvlanL3s,
}

impl Sharing {
    /// Whether packets are routed in the namespace of the device below.
    pub(crate) const fn routes(self) -> bool {
        matches!(self, Self::IpvlanL3 | Self::IpvlanL3s)
    }
}

/// A tunnel to one other end, for packets of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// GRE over IPv4.
    Gre,
    /// GRE over IPv6.
    Ip6Gre,
    /// The packets themselves in those of IPv4.
    Sit,
    /// The packets themselves in those of IPv6.
    Ip6Tnl,
}

impl Tunnel {
    /// The kernel's word for it.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Self::Gre => "gre",
            Self::Ip6Gre => "ip6gre",
            Self::Sit => "sit",
            Self::Ip6Tnl => "ip6tnl",
        }
    }

    /// The family of the packets outside.
    pub(crate) const fn outer(self) -> Family {
        match self {
            Self::Gre | Self::Sit => Family::V4,
            Self::Ip6Gre | Self::Ip6Tnl => Family::V6,
        }
    }

    /// How much longer it makes a packet, in bytes: the outer header, and GRE's of four.
    pub(crate) const fn overhead(self) -> u32 {
        match self {
            Self::Gre => 24,
            Self::Ip6Gre => 44,
            Self::Sit => 20,
            Self::Ip6Tnl => 40,
        }
    }
}

/// A node's end of a VXLAN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vtep {
    /// The VXLAN's number.
    pub(crate) id: u32,
    pub(crate) port: u16,
    /// Its address on the underlay.
    pub(crate) local: IpAddr,
    pub(crate) hardware: [u8; 6],
    /// Whether there are any outside; none: as the kernel has it.
    pub(crate) checksums: Option<bool>,
}

impl Links {
    /// Sets how long a packet may be, in bytes.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<()> {
        let index = self.index(name)?;
        let set = Message::new(libc::RTM_NEWLINK, 0)
            .raw(&ifinfo(index, 0))
            .attr(IFLA_MTU, &mtu.to_ne_bytes());
        self.tell(set, || format!("setting the MTU of {name} to {mtu}"))
    }

    /// Lets a port of a bridge send what came in through it (hairpin mode).
    pub fn set_hairpin(&mut self, port: &str) -> Result<()> {
        let index = self.index(port)?;
        let set =
            Message::new(libc::RTM_NEWLINK, 0).raw(&ifinfo(index, 0)).nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_SLAVE_KIND, "bridge")
                    .nest(IFLA_INFO_SLAVE_DATA, |m| m.attr(IFLA_BRPORT_MODE, &[1]))
            });
        self.tell(set, || format!("setting {port} to hairpin mode"))
    }

    /// Creates a device that shares another: `name` in a namespace, on the device `lower` of this one.
    pub fn add_sharing(
        &mut self,
        kind: Sharing,
        name: &str,
        lower: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<()> {
        let index = self.index(lower)?;
        let (text, key, mode) = match kind {
            Sharing::Macvlan => {
                ("macvlan", IFLA_MACVLAN_MODE, &MACVLAN_MODE_BRIDGE.to_ne_bytes()[..])
            }
            Sharing::Ipvlan => ("ipvlan", IFLA_IPVLAN_MODE, &IPVLAN_MODE_L2.to_ne_bytes()[..]),
            Sharing::IpvlanL3 => ("ipvlan", IFLA_IPVLAN_MODE, &IPVLAN_MODE_L3.to_ne_bytes()[..]),
            Sharing::IpvlanL3s => ("ipvlan", IFLA_IPVLAN_MODE, &IPVLAN_MODE_L3S.to_ne_bytes()[..]),
        };
        let new = Message::new(libc::RTM_NEWLINK, CREATE)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name)
            .attr(IFLA_LINK, &index.to_ne_bytes())
            .attr(IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes())
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, text).nest(IFLA_INFO_DATA, |m| m.attr(key, mode))
            });
        self.tell(new, || format!("creating the {text} device {name}"))
    }

    /// Creates a tunnel between two addresses of the underlay.
    pub fn add_tunnel(
        &mut self,
        name: &str,
        tunnel: Tunnel,
        local: IpAddr,
        remote: IpAddr,
    ) -> Result<()> {
        let (from, to) = match tunnel {
            Tunnel::Gre | Tunnel::Ip6Gre => (IFLA_GRE_LOCAL, IFLA_GRE_REMOTE),
            Tunnel::Sit | Tunnel::Ip6Tnl => (IFLA_IPTUN_LOCAL, IFLA_IPTUN_REMOTE),
        };
        // Else each packet would carry eight bytes more, which say how often it may be wrapped again.
        let no_limit = IP6_TNL_F_IGN_ENCAP_LIMIT.to_ne_bytes();
        let any_protocol = [0];
        let options: &[(u16, &[u8])] = match tunnel {
            Tunnel::Gre => &[],
            Tunnel::Ip6Gre => &[(IFLA_GRE_FLAGS, &no_limit)],
            Tunnel::Sit => &[(IFLA_IPTUN_PROTO, &any_protocol)],
            Tunnel::Ip6Tnl => &[(IFLA_IPTUN_PROTO, &any_protocol), (IFLA_IPTUN_FLAGS, &no_limit)],
        };
        let new = Message::new(libc::RTM_NEWLINK, CREATE)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, tunnel.kind()).nest(IFLA_INFO_DATA, |m| {
                    let m = m.attr(from, &octets(local)).attr(to, &octets(remote));
                    options.iter().fold(m, |m, (kind, value)| m.attr(*kind, value))
                })
            });
        self.tell(new, || format!("creating the {} device {name}", tunnel.kind()))
    }

    /// Creates a GENEVE device with one other end on the underlay, and this hardware address.
    pub fn add_geneve(
        &mut self,
        name: &str,
        id: u32,
        remote: IpAddr,
        hardware: [u8; 6],
        checksums: Option<bool>,
    ) -> Result<()> {
        let kind = if remote.is_ipv4() { IFLA_GENEVE_REMOTE } else { IFLA_GENEVE_REMOTE6 };
        let new = Message::new(libc::RTM_NEWLINK, CREATE)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name)
            .attr(IFLA_ADDRESS, &hardware)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "geneve").nest(IFLA_INFO_DATA, |m| {
                    let m = m.attr(IFLA_GENEVE_ID, &id.to_ne_bytes()).attr(kind, &octets(remote));
                    with_checksums(m, IFLA_GENEVE_UDP_CSUM, checksums)
                })
            });
        self.tell(new, || format!("creating the GENEVE device {name}"))
    }

    /// Creates a VXLAN device that learns nothing.
    pub(crate) fn add_vxlan(&mut self, name: &str, vtep: &Vtep) -> Result<()> {
        let Vtep { id, port, local, hardware, checksums } = *vtep;
        let kind = if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
        let new = Message::new(libc::RTM_NEWLINK, CREATE)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name)
            .attr(IFLA_ADDRESS, &hardware)
            .nest(IFLA_LINKINFO, |m| {
                m.text(IFLA_INFO_KIND, "vxlan").nest(IFLA_INFO_DATA, |m| {
                    let m = m
                        .attr(IFLA_VXLAN_ID, &id.to_ne_bytes())
                        .attr(kind, &octets(local))
                        .attr(IFLA_VXLAN_LEARNING, &[0])
                        .attr(IFLA_VXLAN_PORT, &port.to_be_bytes());
                    with_checksums(m, IFLA_VXLAN_UDP_CSUM, checksums)
                })
            });
        self.tell(new, || format!("creating the VXLAN device {name}"))
    }

    /// Says for good which hardware address a neighbour has.
    pub fn set_neighbour(&mut self, device: &str, who: IpAddr, hardware: [u8; 6]) -> Result<()> {
        let message = self.neighbour(device, family(who), 0, who, hardware)?;
        self.tell(message, || format!("setting the neighbour {who} on {device}"))
    }

    /// Says for good behind which address on the underlay a VXLAN device finds a hardware address.
    pub fn set_forwarding(&mut self, device: &str, hardware: [u8; 6], to: IpAddr) -> Result<()> {
        let bridge = u8::try_from(libc::AF_BRIDGE)?;
        let message = self.neighbour(device, bridge, NTF_SELF, to, hardware)?;
        self.tell(message, || format!("setting the way to {to} on {device}"))
    }

    fn neighbour(
        &mut self,
        device: &str,
        family: u8,
        flags: u8,
        address: IpAddr,
        hardware: [u8; 6],
    ) -> Result<Message> {
        // struct ndmsg: family, two pads, index, state, flags, type.
        let mut header = [0; 12];
        header[0] = family;
        header[4..8].copy_from_slice(&self.index(device)?.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        header[10] = flags;
        Ok(Message::new(libc::RTM_NEWNEIGH, REPLACE)
            .raw(&header)
            .attr(NDA_DST, &octets(address))
            .attr(NDA_LLADDR, &hardware))
    }
}

/// Says of a tunnel in UDP whether there are checksums outside, if that is not left to the kernel. The attribute of this
/// number is for IPv4; the next two are for sending over IPv6 without, and taking what comes without.
fn with_checksums(message: Message, first: u16, checksums: Option<bool>) -> Message {
    let Some(checksums) = checksums else { return message };
    let without = [u8::from(!checksums)];
    let message = message.attr(first, &[u8::from(checksums)]);
    message.attr(first + 1, &without).attr(first + 2, &without)
}
