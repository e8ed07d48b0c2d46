//! Many questions at once from one namespace, each from a port that is told, and what became of each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockType, getsockname, recv, send, setsockopt, sockopt};

use crate::netns::Netns;
use crate::probe::{Outcome, Protocol, answer};
use crate::socket;

/// One question to an echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shot {
    /// TCP: a connection; UDP: a datagram.
    pub protocol: Protocol,
    /// Where to.
    pub destination: SocketAddr,
    /// From which port. Connection tracking remembers a flow for a while, so each shot needs one of its own.
    pub source_port: u16,
}

/// Sends them all, and waits for all answers until `patience` is over. The outcomes are in the order of the shots.
pub fn volley(netns: &Netns, shots: &[Shot], patience: Duration) -> Vec<Outcome> {
    let deadline = Instant::now() + patience;
    let shots = shots.to_vec();
    let mut flights = netns.run(move || shots.iter().map(launch).collect::<Vec<_>>());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut waiting: Vec<_> = flights.iter_mut().filter_map(Flight::waiting).collect();
        if waiting.is_empty() || left.is_zero() {
            break;
        }
        let mut ready: Vec<_> =
            waiting.iter().map(|(fd, _)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        let found = poll(&mut ready, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let ready: Vec<_> = ready.iter().map(|one| one.any().unwrap_or(false)).collect();
        if found.is_ok_and(|count| count > 0) {
            for ((fd, outcome), _) in waiting.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                **outcome = receive(fd);
            }
        }
    }
    flights.into_iter().map(|flight| flight.outcome.unwrap_or(Outcome::TimedOut)).collect()
}

/// A shot under way.
struct Flight {
    fd: Option<OwnedFd>,
    outcome: Option<Outcome>,
}

impl Flight {
    fn waiting(&mut self) -> Option<(&OwnedFd, &mut Option<Outcome>)> {
        let fd = self.fd.as_ref().filter(|_| self.outcome.is_none())?;
        Some((fd, &mut self.outcome))
    }
}

fn launch(shot: &Shot) -> Flight {
    match start(shot) {
        Ok(fd) => Flight { fd: Some(fd), outcome: None },
        Err(error) => Flight { fd: None, outcome: Some(Outcome::of_error(&error)) },
    }
}

fn start(shot: &Shot) -> io::Result<OwnedFd> {
    let peer = shot.destination.ip();
    let source = SocketAddr::new(socket::unspecified(peer), shot.source_port);
    let fd = match shot.protocol {
        Protocol::Tcp => socket::tcp(peer, Some(source))?,
        Protocol::Sctp => socket::sctp(shot.destination, Some(source))?,
        Protocol::Udp => {
            let fd = socket::open(peer, SockType::Datagram)?;
            nix::sys::socket::bind(
                fd.as_raw_fd(),
                &nix::sys::socket::SockaddrStorage::from(source),
            )?;
            fd
        }
    };
    if shot.protocol != Protocol::Udp {
        // The port shall be free again at once.
        setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    socket::start_connect(&fd, shot.destination)?;
    if shot.protocol == Protocol::Udp {
        let ask = || send(fd.as_raw_fd(), b"volley", MsgFlags::empty());
        match ask() {
            // To a process of the node itself the kernel tells a refusal like a drop, and only the second time that it
            // was one.
            Err(Errno::EPERM) => ask()?,
            other => other?,
        };
    }
    Ok(fd)
}

/// What has come; nothing if it is not all yet.
fn receive(fd: &OwnedFd) -> Option<Outcome> {
    let mut buffer = [0; 512];
    match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(0) => Some(Outcome::of_error(&crate::probe::closed_early())),
        Ok(length) => {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let line = text.split('\n').next().unwrap_or_default();
            let local = getsockname::<nix::sys::socket::SockaddrStorage>(fd.as_raw_fd());
            let local = local.ok().and_then(|storage| crate::datagram::address(&storage));
            Some(match local {
                Some(local) => answer(line, local),
                None => Outcome::Failed("a socket of no known family".to_owned()),
            })
        }
        Err(Errno::EAGAIN | Errno::EINTR) => None,
        Err(errno) => Some(Outcome::of_error(&errno.into())),
    }
}
