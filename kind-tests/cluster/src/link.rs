//! Links, addresses and routes of one namespace, over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::libc;

use crate::netlink::{Answer, Message, Socket, link_index};

// From linux/if_link.h and linux/veth.h; libc does not carry them all.
pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTNH_F_ONLINK: u32 = 4;

/// How long the kernel may take to make an address usable.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
pub(crate) const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// A route: where to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; `0.0.0.0/0` or `::/0` is the default route.
    pub destination: IpNet,
    /// How packets get there.
    pub hop: Hop,
}

/// The next hop of a [`Route`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Straight out of this device.
    Device(String),
    /// To a gateway that another route reaches.
    Gateway(IpAddr),
    /// To a gateway taken to be on this device although no route says so (`onlink`).
    OnLink {
        /// The gateway's address.
        gateway: IpAddr,
        /// The device it is on.
        device: String,
    },
}

/// Where the other end of a veth pair goes.
pub struct Peer<'a> {
    /// Its name in the other namespace.
    pub name: &'a str,
    /// The other namespace ([`crate::Netns::fd`]).
    pub netns: BorrowedFd<'a>,
}

/// Changes the links, addresses and routes of one namespace, the one it was opened in ([`crate::Netns::links`]).
pub struct Links {
    socket: Socket,
}

impl Links {
    /// Opens a route netlink socket in the namespace of the calling thread.
    pub fn open_here() -> Result<Self> {
        Ok(Self { socket: Socket::open()? })
    }

    /// The number of the device of this name.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        self.look_for(name)
            .and_then(|answers| link_index(&answers))
            .with_context(|| format!("looking for the device {name}"))
    }

    /// What the kernel says of the device of this name.
    fn look_for(&mut self, name: &str) -> Result<Vec<Answer>> {
        let get = Message::new(libc::RTM_GETLINK, 0).raw(&ifinfo(0, 0)).text(IFLA_IFNAME, name);
        Ok(self.socket.exchange(get)?)
    }

    /// Creates a device of a kind that needs no parameters: `bridge`, `dummy`.
    pub fn add(&mut self, kind: &str, name: &str) -> Result<()> {
        let new = Message::new(libc::RTM_NEWLINK, CREATE)
            .raw(&ifinfo(0, 0))
            .text(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |m| m.text(IFLA_INFO_KIND, kind));
        self.tell(new, || format!("creating the {kind} device {name}"))
    }

    /// Creates a veth pair: `name` here, with this hardware address if one is given, its peer in another namespace.
    pub fn add_veth(&mut self, name: &str, mac: Option<[u8; 6]>, peer: &Peer<'_>) -> Result<()> {
        let mut new =
            Message::new(libc::RTM_NEWLINK, CREATE).raw(&ifinfo(0, 0)).text(IFLA_IFNAME, name);
        if let Some(mac) = mac {
            new = new.attr(IFLA_ADDRESS, &mac);
        }
        let netns = peer.netns.as_raw_fd().to_ne_bytes();
        let new = new.nest(IFLA_LINKINFO, |m| {
            m.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(0, 0)).text(IFLA_IFNAME, peer.name).attr(IFLA_NET_NS_FD, &netns)
                })
            })
        });
        self.tell(new, || format!("creating the veth pair {name}"))
    }

    /// Removes a device; of a veth pair, both ends.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let delete = Message::new(libc::RTM_DELLINK, 0).raw(&ifinfo(index, 0));
        self.tell(delete, || format!("removing the device {name}"))
    }

    /// Sets a device up.
    pub fn set_up(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let up = Message::new(libc::RTM_NEWLINK, 0).raw(&ifinfo(index, libc::IFF_UP));
        self.tell(up, || format!("setting {name} up"))
    }

    /// Makes a device a port of a bridge.
    pub fn set_master(&mut self, name: &str, bridge: &str) -> Result<()> {
        let index = self.index(name)?;
        let master = self.index(bridge)?;
        let set = Message::new(libc::RTM_NEWLINK, 0)
            .raw(&ifinfo(index, 0))
            .attr(IFLA_MASTER, &master.to_ne_bytes());
        self.tell(set, || format!("making {name} a port of {bridge}"))
    }

    /// Adds an address to a device; IPv6 without duplicate detection, so that it works at once.
    ///
    /// The kernel makes the local route of an IPv6 address a little later than the address (`addrconf_dad_work`). A
    /// socket connected to it in between keeps the route to the device that it found, and all that it ever sends is
    /// lost; so on a device that is up, this waits for the local route.
    pub fn add_address(&mut self, device: &str, address: IpNet) -> Result<()> {
        let message = self.address(libc::RTM_NEWADDR, CREATE, device, address)?;
        self.tell(message, || format!("adding {address} to {device}"))?;
        if address.addr().is_ipv4() || !self.is_up(device)? {
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.is_local(address.addr()) {
            ensure!(Instant::now() < deadline, "{address} on {device} gets no local route");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn is_up(&mut self, device: &str) -> Result<bool> {
        let answers = self.look_for(device).with_context(|| format!("looking at {device}"))?;
        // `ifi_flags`.
        let flags = answers.first().and_then(|a| a.body.get(8..12)?.first_chunk());
        Ok(flags.is_some_and(|flags| i32::from_ne_bytes(*flags) & libc::IFF_UP != 0))
    }

    /// Whether packets to this address stay in the namespace.
    fn is_local(&mut self, address: IpAddr) -> bool {
        let bytes = octets(address);
        let mut header = [0; 12];
        header[0] = family(address);
        header[1] = IpNet::from(address).prefix_len();
        let get = Message::new(libc::RTM_GETROUTE, 0).raw(&header).attr(RTA_DST, &bytes);
        let answers = self.socket.exchange(get).unwrap_or_default();
        // `rtm_type`.
        answers.first().is_some_and(|a| a.body.get(7) == Some(&RTN_LOCAL))
    }

    /// Removes an address from a device.
    pub fn remove_address(&mut self, device: &str, address: IpNet) -> Result<()> {
        let message = self.address(libc::RTM_DELADDR, 0, device, address)?;
        self.tell(message, || format!("removing {address} from {device}"))
    }

    /// Adds a route to the main table, or replaces the one to the same destination.
    pub fn set_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route(libc::RTM_NEWROUTE, REPLACE, route)?;
        self.tell(message, || format!("setting {}", describe(route)))
    }

    /// Removes a route.
    pub fn remove_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route(libc::RTM_DELROUTE, 0, route)?;
        self.tell(message, || format!("removing {}", describe(route)))
    }

    fn address(&mut self, kind: u16, flags: i32, device: &str, address: IpNet) -> Result<Message> {
        let index = self.index(device)?;
        let nodad = match address {
            IpNet::V4(_) => 0,
            IpNet::V6(_) => IFA_F_NODAD,
        };
        let mut header = [family(address.addr()), address.prefix_len(), nodad, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index.to_ne_bytes());
        let bytes = octets(address.addr());
        Ok(Message::new(kind, flags).raw(&header).attr(IFA_LOCAL, &bytes).attr(IFA_ADDRESS, &bytes))
    }

    fn route(&mut self, kind: u16, flags: i32, route: &Route) -> Result<Message> {
        let (gateway, device, onlink) = match &route.hop {
            Hop::Device(device) => (None, Some(device), 0),
            Hop::Gateway(gateway) => (Some(gateway), None, 0),
            Hop::OnLink { gateway, device } => (Some(gateway), Some(device), RTNH_F_ONLINK),
        };
        let scope = match (&route.hop, route.destination) {
            (Hop::Device(_), IpNet::V4(_)) => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        };
        let destination = route.destination;
        let mut header = [0; 12];
        header[0] = family(destination.addr());
        header[1] = destination.prefix_len();
        header[4..8].copy_from_slice(&[RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST]);
        header[8..].copy_from_slice(&onlink.to_ne_bytes());
        let mut message =
            Message::new(kind, flags).raw(&header).attr(RTA_DST, &octets(destination.network()));
        if let Some(gateway) = gateway {
            message = message.attr(RTA_GATEWAY, &octets(*gateway));
        }
        if let Some(device) = device {
            message = message.attr(RTA_OIF, &self.index(device)?.to_ne_bytes());
        }
        Ok(message)
    }

    pub(crate) fn tell(&mut self, message: Message, what: impl Fn() -> String) -> Result<()> {
        let done: io::Result<()> = self.socket.request(message);
        done.with_context(what)
    }
}

/// `struct ifinfomsg`: family, type, index, flags, and the mask of the flags to change.
pub(crate) fn ifinfo(index: u32, flags: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

pub(crate) fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    u8::try_from(family).unwrap_or(0)
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn describe(route: &Route) -> String {
    let hop = match &route.hop {
        Hop::Device(device) => format!("dev {device}"),
        Hop::Gateway(gateway) => format!("via {gateway}"),
        Hop::OnLink { gateway, device } => format!("via {gateway} dev {device} onlink"),
    };
    format!("the route {} {hop}", route.destination)
}

/// The default route's destination in the family of this address.
pub(crate) fn everything(like: IpAddr) -> IpNet {
    match like {
        IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

/// An address as a network of its own, /32 or /128.
pub(crate) fn alone(address: IpAddr) -> IpNet {
    IpNet::from(address)
}
