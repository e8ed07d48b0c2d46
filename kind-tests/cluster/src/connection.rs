//! A TCP connection or SCTP association to an echo server that stays open.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;
use crate::probe::{Outcome, ProbeOptions, answer, dial, dial_sctp, read_line};

/// A held connection. It must be served by the same echo server from its first to its last line.
pub struct Connection {
    stream: TcpStream,
    rest: Vec<u8>,
    timeout: Duration,
    by: String,
    seen_source: SocketAddr,
    local: SocketAddr,
}

impl Connection {
    /// Connects from within a namespace and reads who answered. The timeout is also that of each exchange.
    pub fn open(netns: &Netns, destination: SocketAddr, options: &ProbeOptions) -> Result<Self> {
        Self::try_open(netns, destination, options, dial)
            .with_context(|| format!("connecting from {} to {destination}", netns.name()))
    }

    /// The same with an SCTP association.
    pub fn open_sctp(
        netns: &Netns,
        destination: SocketAddr,
        options: &ProbeOptions,
    ) -> Result<Self> {
        Self::try_open(netns, destination, options, dial_sctp)
            .with_context(|| format!("an association from {} to {destination}", netns.name()))
    }

    fn try_open(
        netns: &Netns,
        destination: SocketAddr,
        options: &ProbeOptions,
        dial: impl FnOnce(&Netns, SocketAddr, &ProbeOptions) -> io::Result<TcpStream>,
    ) -> Result<Self> {
        let deadline = Instant::now() + options.timeout;
        let mut stream = dial(netns, destination, options)?;
        let mut rest = Vec::new();
        let line = read_line(&mut stream, &mut rest, deadline)?;
        match answer(&line, stream.local_addr()?) {
            Outcome::Answer { by, seen_source, local } => {
                Ok(Self { stream, rest, timeout: options.timeout, by, seen_source, local })
            }
            other => bail!("{other}"),
        }
    }

    /// The name of the server.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// The client as the server saw it.
    pub fn seen_source(&self) -> SocketAddr {
        self.seen_source
    }

    /// The client as it sees itself.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// From now on an exchange waits so long: a little where an answer is not expected.
    pub fn wait(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends a line and checks that the same server answers it.
    pub fn exchange(&mut self, text: &str) -> Result<()> {
        ensure!(!text.contains('\n'), "one line at a time");
        let line = self.ask(text).with_context(|| format!("on the connection to {}", self.by))?;
        let expected = format!("{} {text}", self.by);
        ensure!(line == expected, "expected {expected:?}, got {line:?}");
        Ok(())
    }

    /// Closes it and waits until the server has closed it too.
    pub fn close(mut self) -> Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let deadline = Instant::now() + self.timeout;
        match read_line(&mut self.stream, &mut self.rest, deadline) {
            Err(error) if is_the_end(&error) => Ok(()),
            Err(error) => Err(error).context("waiting for the server to close"),
            Ok(line) => bail!("the server sent {line:?} at the end"),
        }
    }

    fn ask(&mut self, text: &str) -> io::Result<String> {
        let deadline = Instant::now() + self.timeout;
        self.stream.write_all(format!("{text}\n").as_bytes())?;
        read_line(&mut self.stream, &mut self.rest, deadline)
    }
}

/// TCP says that there is no more, SCTP that there is no association any more.
fn is_the_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotConnected)
}
