//! An open connection of which both ends are ours, and bytes through it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shunt_cluster::Netns;

/// What is written at a time, in bytes, and read at most.
const CHUNK: usize = 128 << 10;
/// How long a connection may stand still.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection. One thread serves both ends, so that no scheduler decides who of them waits for whom.
pub(super) struct Lane {
    sending: TcpStream,
    receiving: TcpStream,
    buffer: Vec<u8>,
}

impl Lane {
    /// Connects to where the listener can be reached.
    pub(super) fn open(from: &Netns, to: SocketAddr, listener: &TcpListener) -> Result<Self> {
        let sending = from.tcp_connect(to, PATIENCE).with_context(|| to.to_string())?;
        let deadline = Instant::now() + PATIENCE;
        let receiving = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                Err(error) => return Err(error).context("nobody connects"),
            }
        };
        sending.set_nonblocking(true)?;
        receiving.set_nonblocking(true)?;
        Ok(Self { sending, receiving, buffer: vec![0; CHUNK] })
    }

    /// Sends so many bytes, and has received them all when it returns.
    pub(super) fn carry(&mut self, bytes: u64) -> Result<()> {
        let (mut sent, mut received) = (0, 0);
        while received < bytes {
            let length = usize::try_from(bytes - sent).map_or(CHUNK, |left| left.min(CHUNK));
            let written =
                if length > 0 { moved(self.sending.write(&self.buffer[..length]))? } else { 0 };
            let read = moved(self.receiving.read(&mut self.buffer))?;
            sent += written;
            received += read;
            if written == 0 && read == 0 {
                self.wait(sent < bytes)?;
            }
        }
        Ok(())
    }

    /// Until there is something to read, or something can be written.
    fn wait(&self, writes: bool) -> Result<()> {
        let mut ends = vec![PollFd::new(self.receiving.as_fd(), PollFlags::POLLIN)];
        if writes {
            ends.push(PollFd::new(self.sending.as_fd(), PollFlags::POLLOUT));
        }
        let ready = poll(&mut ends, PollTimeout::try_from(PATIENCE)?)?;
        ensure!(ready > 0, "a connection stands still");
        Ok(())
    }
}

/// How many bytes; none when it would have to wait.
fn moved(result: io::Result<usize>) -> Result<u64> {
    match result {
        Ok(length) => Ok(length as u64),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}
