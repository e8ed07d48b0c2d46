//! Whether the first packet of a connection arrives, by the kernel's word.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::Netns;
use crate::probe::{Outcome, ProbeOptions, Protocol, probe};

/// In this time the kernel has sent again what was not answered: it waits for a second (RFC 6298).
const SENT_AGAIN: Duration = Duration::from_millis(1500);
/// How long all of it may take where others have the CPU.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often first packets of TCP connections were sent again from a namespace, as they were not answered
/// (`TCPSynRetrans` of `/proc/net/netstat`).
///
/// # Errors
/// If the kernel does not tell.
pub fn sent_again(netns: &Netns) -> Result<u64> {
    let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/netstat"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, counts) = lines.next().zip(lines.next()).context("TcpExt of netstat")?;
    let mut counters = names.split_whitespace().zip(counts.split_whitespace());
    let found = counters.find(|(name, _)| *name == "TCPSynRetrans");
    Ok(found.context("TCPSynRetrans")?.1.parse()?)
}

/// Whether an echo server answers the first packet of a TCP connection. Who waits for a time and takes silence for a
/// loss is wrong where an answer comes late; this waits until the kernel sends the packet again. Nobody else may open
/// connections from the namespace meanwhile.
///
/// # Errors
/// If the kernel does not tell, or neither happens.
pub fn first_packet_arrives(netns: &Netns, to: SocketAddr) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let before = sent_again(netns)?;
        let outcome = probe(netns, Protocol::Tcp, to, &ProbeOptions::within(SENT_AGAIN));
        if sent_again(netns)? > before {
            return Ok(false);
        }
        if outcome != Outcome::TimedOut {
            return Ok(outcome.is_answer());
        }
    }
    bail!("{to} is neither reached nor asked again")
}
