//! Between nodes as Flannel with UDP: the TUN device `flannel0`, and a forwarder of ours that sends what comes out of
//! it to the node it is for, as a datagram, and puts what arrives back in. Each family goes over its own underlay.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::host::Host;
use crate::link::{Hop, Route, alone};
use crate::netns::lock;

const DEVICE: &str = "flannel0";
/// Flannel's port.
const PORT: u16 = 8285;
/// Longer than any packet through the device.
const LONGEST: usize = 1 << 16;
/// Packets taken from one side before the others have their turn.
const BURST: usize = 64;

type Routes = Arc<Mutex<Vec<(IpNet, IpAddr)>>>;

/// A node's forwarder; it ends when this is dropped.
pub(crate) struct Forwarder {
    routes: Routes,
    /// Closed to say that it is over.
    stop: Option<std::os::fd::OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Gives a node its device, with an address of each family, and starts the forwarder behind it.
    pub(crate) fn start(node: &Host, own: &[IpAddr], mtu: u32) -> Result<Self> {
        let tun = node.netns.run(open).context("making a TUN device; is there a /dev/net/tun?")?;
        {
            let mut links = node.netns.links();
            links.set_mtu(DEVICE, mtu)?;
            for address in own {
                links.add_address(DEVICE, alone(*address))?;
            }
            links.set_up(DEVICE)?;
        }
        if own.iter().any(IpAddr::is_ipv6) {
            // The device has its network's first address, an anycast address by RFC 4291, section 2.6.1, if the route
            // there names no gateway: else routers would not tell it what they have dropped.
            node.netns.sysctl("net.ipv6.icmp.error_anycast_as_unicast", "1")?;
        }
        let underlay = node.addresses.clone();
        let sockets = node.netns.run(move || {
            let bind = |address: &IpAddr| -> io::Result<UdpSocket> {
                let socket = UdpSocket::bind(SocketAddr::new(*address, PORT))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            underlay.iter().map(bind).collect::<io::Result<Vec<_>>>()
        })?;
        let (stopped, stop) = unistd::pipe()?;
        let routes = Routes::default();
        let known = Arc::clone(&routes);
        let thread = node.netns.thread("flannel-udp", move || {
            // Without it, the cluster's tests see packets lost.
            let _ = forward(&tun, &sockets, &known, &stopped);
        })?;
        Ok(Self { routes, stop: Some(stop), thread: Some(thread) })
    }

    /// Packets for `network` go to the node at `via`.
    pub(crate) fn introduce(&self, node: &Host, network: IpNet, via: IpAddr) -> Result<()> {
        lock(&self.routes).push((network, via));
        let hop = Hop::Device(DEVICE.to_owned());
        node.netns.links().set_route(&Route { destination: network, hop })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

fn open() -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new().name(DEVICE).layer(Layer::L3).enable(false).build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

fn forward(
    tun: &SyncDevice,
    sockets: &[UdpSocket],
    routes: &Mutex<Vec<(IpNet, IpAddr)>>,
    stopped: &impl AsFd,
) -> Result<()> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let mut waiting = vec![
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(tun.as_fd(), PollFlags::POLLIN),
        ];
        waiting.extend(sockets.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        poll(&mut waiting, PollTimeout::NONE)?;
        if waiting[0].any().unwrap_or(true) {
            return Ok(());
        }
        for _ in 0..BURST {
            let Some(length) = received(tun.recv(&mut buffer))? else { break };
            send(&buffer[..length], sockets, routes);
        }
        for socket in sockets {
            for _ in 0..BURST {
                let Some(length) = received(socket.recv(&mut buffer))? else { break };
                // A packet that the kernel does not take is one that is lost.
                let _ = tun.send(&buffer[..length]);
            }
        }
    }
}

/// How long it was; none when nothing waits. What a socket says of a datagram that was sent before is no one's concern.
fn received(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a packet to the node it is for. Without a route, or when that node cannot be reached, it is lost.
fn send(packet: &[u8], sockets: &[UdpSocket], routes: &Mutex<Vec<(IpNet, IpAddr)>>) {
    let Some(to) = destination(packet) else { return };
    let via = lock(routes).iter().find(|(network, _)| network.contains(&to)).map(|(_, via)| *via);
    let Some(via) = via else { return };
    let same = |socket: &&UdpSocket| {
        socket.local_addr().is_ok_and(|local| local.is_ipv4() == via.is_ipv4())
    };
    if let Some(socket) = sockets.iter().find(same) {
        let _ = socket.send_to(packet, SocketAddr::new(via, PORT));
    }
}

/// The destination of an IP packet.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..20)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..40)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}
