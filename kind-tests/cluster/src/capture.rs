//! Packets as they lie in memory when a namespace receives them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};

use crate::netns::Netns;

/// From linux/if_packet.h: what the machine itself has sent.
const PACKET_OUTGOING: u8 = 4;
/// How many bytes may wait to be taken.
const ROOM: usize = 32 << 20;
/// The longest packet there is.
const LONGEST: usize = 1 << 16;

/// All that a namespace receives, by whatever device: from the header of IP, or whatever there is, on (packet(7),
/// `SOCK_DGRAM`). Takes `CAP_NET_RAW`.
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Begins.
    pub fn start(netns: &Netns) -> Result<Self> {
        let opened = netns.run(|| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let protocol = SockProtocol::EthAll;
            socket(AddressFamily::Packet, SockType::Datagram, flags, protocol)
        });
        let socket = opened.context("opening a packet socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).context("making room for packets")?;
        Ok(Self { socket })
    }

    /// What was received since this was asked last, but for what the namespace has sent.
    pub fn take(&self) -> Result<Vec<Vec<u8>>> {
        let mut buffer = vec![0; LONGEST];
        let mut packets = Vec::new();
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if from.pkttype() == PACKET_OUTGOING => {}
                Ok((length, _)) => packets.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => return Ok(packets),
                Err(errno) => return Err(io::Error::from(errno)).context("reading packets"),
            }
        }
    }
}
