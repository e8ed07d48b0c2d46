//! How long a new connection takes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Netns;
use crate::socket;

/// Each may take so many milliseconds.
const PATIENCE: u16 = 5000;

/// Connects to each of these addresses in turn, `rounds` times, and gives the times of each, in their order: so all
/// meet the same machine. What is counted is from the call of `connect` until the kernel says that it is connected.
///
/// All must lead to one of the `listeners`, which do not block. Their connections are taken between two rounds: a server
/// that waits for them would be woken up by some of them, at the cost of those.
///
/// # Errors
/// If a connection fails.
pub fn connect_times(
    netns: &Netns,
    listeners: Vec<TcpListener>,
    destinations: &[SocketAddr],
    rounds: usize,
) -> io::Result<Vec<Vec<Duration>>> {
    let destinations = destinations.to_vec();
    netns.run(move || {
        let mut times = vec![Vec::with_capacity(rounds); destinations.len()];
        for round in 0..rounds {
            // Each comes first as often as any other.
            for place in 0..destinations.len() {
                let place = (place + round) % destinations.len();
                times[place].push(connect_time(destinations[place])?);
            }
            for listener in &listeners {
                while listener.accept().is_ok() {}
            }
        }
        Ok(times)
    })
}

fn connect_time(destination: SocketAddr) -> io::Result<Duration> {
    let fd = socket::tcp(destination.ip(), None)?;
    // No connection shall linger: the next ones need the ports.
    setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let started = Instant::now();
    if !socket::start_connect(&fd, destination)? {
        let count =
            poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(PATIENCE))?;
        if count == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket::pending_error(&fd)?;
    }
    Ok(started.elapsed())
}
