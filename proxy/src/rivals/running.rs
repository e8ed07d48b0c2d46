//! Whether another service proxy runs in our network namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::config::kube_proxy::HEALTHZ_PORT;

/// How long the other one's answer is waited for: it is on this machine.
const ANSWER: Duration = Duration::from_millis(500);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(250);
/// How often the waiting is told.
const TOLD: Duration = Duration::from_secs(60);

/// What tells that another service proxy runs, in words.
///
/// A pod sees no processes but its own, so kube-proxy is also known by its answer at its health
/// port; other replacements answer there in the same way. Ours names itself.
#[must_use]
pub fn running() -> Option<String> {
    let process = of_the_same_namespace().map(|pid| format!("kube-proxy runs as process {pid}"));
    process.or_else(|| {
        let is_other = health_answer()? == Answer::Other;
        is_other.then(|| format!("a service proxy answers at port {HEALTHZ_PORT}, /healthz"))
    })
}

/// Whether a shunt answers at the health port. A table tells by its owner, but only where the kernel has that (6.9).
pub(super) fn is_ours() -> bool {
    health_answer() == Some(Answer::Ours)
}

/// Waits until no other service proxy runs. It need not be long: when kube-proxy's pod ends, what
/// it has installed serves on.
pub fn wait_until_alone() {
    let mut told: Option<Instant> = None;
    while let Some(other) = running() {
        if told.is_none_or(|told| told.elapsed() >= TOLD) {
            told = Some(Instant::now());
            error!("{other}: a Service must have one proxy; waiting for its end, writing nothing");
        }
        std::thread::sleep(LOOK);
    }
    if told.is_some() {
        info!("the other service proxy has ended");
    }
}

/// The process of a kube-proxy in our network namespace. A pod sees none but its own.
pub(super) fn of_the_same_namespace() -> Option<u32> {
    let namespace = fs::read_link("/proc/self/ns/net").ok()?;
    let own = fs::read_link("/proc/self/exe").ok();
    let is_kube_proxy = |directory: &Path| {
        let name = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        name.trim() == "kube-proxy"
            && fs::read_link(directory.join("ns/net")).is_ok_and(|of| of == namespace)
            // We may be called so ourselves.
            && fs::read_link(directory.join("exe")).ok() != own
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        is_kube_proxy(&entry.path()).then_some(pid)
    })
}

/// Who answers at the health port as service proxies do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ours,
    Other,
}

fn health_answer() -> Option<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, HEALTHZ_PORT));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    // What came before the time was over is enough.
    let _ = stream.take(4096).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let is_ours = head.to_ascii_lowercase().contains("\r\nserver: shunt");
    let of_a_proxy = body.contains("\"lastUpdated\"");
    of_a_proxy.then_some(if is_ours { Answer::Ours } else { Answer::Other })
}
