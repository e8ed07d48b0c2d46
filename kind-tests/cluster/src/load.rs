//! Traffic for a while: short connections or single datagrams at a steady rate, and a count of what became of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{self, MsgFlags, SockType, getsockname};

use crate::netns::{Netns, lock};
use crate::probe::{Outcome, Protocol, answer, closed_early};

/// Errors kept with their time; the others are only counted.
const ERRORS_KEPT: usize = 20;
/// Requests under way at once; beyond it the next ones wait.
const MOST_UNDER_WAY: u64 = 8192;
/// This part of the files that the process may have open is for one load: there are several, and the
/// servers are in the process, too.
const SHARE_OF_FILES: u64 = 16;
/// Requests sent in one go when the clock runs ahead.
const BURST: u64 = 64;
/// The event that says to look at `order`.
const WAKE: u64 = u64::MAX;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSpec {
    /// TCP: connect, read the first line, close. UDP: one datagram from a socket of its own.
    pub protocol: Protocol,
    /// Where to.
    pub destination: SocketAddr,
    /// Requests per second.
    pub per_second: u32,
    /// For how long; the most requests sent are `per_second` times this.
    pub duration: Duration,
    /// How long each request may take.
    pub timeout: Duration,
}

/// What became of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests sent. At the end it is the sum of the others.
    pub sent: u64,
    /// Requests answered, by the name of who answered.
    pub answered: BTreeMap<String, u64>,
    /// Requests refused.
    pub refused: u64,
    /// Requests without an answer in time.
    pub timed_out: u64,
    /// Requests that failed otherwise.
    pub failed: u64,
    /// The first errors: when, counted from the start of the load, the request was sent, and what became of it.
    pub errors: Vec<(Duration, String)>,
    /// The slowest answer.
    pub slowest: Duration,
    /// When, counted from the start of the load, its request was sent.
    pub slowest_at: Duration,
    /// How long the load took.
    pub elapsed: Duration,
}

impl Report {
    /// Requests answered by anyone.
    pub fn answers(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Requests that were not answered.
    pub fn losses(&self) -> u64 {
        self.refused + self.timed_out + self.failed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sent in {:.1} s, {} answered ({:?}; slowest {:.1} ms, sent at {:.3} s), {} refused, {} timed out, {} failed",
            self.sent,
            self.elapsed.as_secs_f64(),
            self.answers(),
            self.answered,
            self.slowest.as_secs_f64() * 1e3,
            self.slowest_at.as_secs_f64(),
            self.refused,
            self.timed_out,
            self.failed
        )?;
        for (at, text) in &self.errors {
            write!(f, "\n  at {:.3} s: {text}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

/// A load that runs in the background. Dropping it ends it at once.
pub struct Load {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

struct Shared {
    report: Mutex<Report>,
    order: AtomicU8,
    wake: EventFd,
}

/// Send until the time is over.
const RUN: u8 = 0;
/// Send nothing more, wait for what is under way.
const DRAIN: u8 = 1;
/// End now.
const ABORT: u8 = 2;

impl Load {
    /// Starts it, from within a namespace.
    pub fn start(netns: &Netns, spec: &LoadSpec) -> Result<Self> {
        ensure!(spec.per_second > 0, "a load needs a rate above 0");
        let shared = Arc::new(Shared {
            report: Mutex::new(Report::default()),
            order: AtomicU8::new(RUN),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?,
        });
        let sender = Sender::new(spec.clone(), Arc::clone(&shared))?;
        let handle = netns.thread("load", move || sender.run())?;
        Ok(Self { shared, handle: Some(handle) })
    }

    /// The figures as they stand.
    pub fn so_far(&self) -> Report {
        lock(&self.shared.report).clone()
    }

    /// Sends nothing more, waits for what is under way and reports.
    pub fn stop(self) -> Result<Report> {
        self.end(DRAIN)?;
        self.finish()
    }

    /// Waits for the end of its time and reports.
    pub fn finish(mut self) -> Result<Report> {
        if let Some(handle) = self.handle.take() {
            let ended = handle.join();
            ensure!(ended.is_ok(), "the load's thread panicked");
        }
        Ok(self.so_far())
    }

    fn end(&self, order: u8) -> Result<()> {
        self.shared.order.store(order, Ordering::SeqCst);
        let woken = self.shared.wake.write(1);
        woken.map(drop).context("waking the load's thread")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let told = self.end(ABORT).is_ok();
        if let Some(handle) = self.handle.take().filter(|_| told) {
            // A panic of the thread was printed when it happened.
            let _ = handle.join();
        }
    }
}

/// A request under way.
struct Request {
    fd: OwnedFd,
    sent: Instant,
    input: Vec<u8>,
}

struct Sender {
    spec: LoadSpec,
    shared: Arc<Shared>,
    epoll: Epoll,
    started: Instant,
    scheduled: u64,
    /// See [`MOST_UNDER_WAY`].
    most_under_way: usize,
    under_way: HashMap<u64, Request>,
    /// All have the same timeout, so the oldest is the first to run out.
    oldest: VecDeque<u64>,
}

impl Sender {
    fn new(spec: LoadSpec, shared: Arc<Shared>) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Edge triggered: it is written once or twice and never read.
        let once = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&shared.wake, EpollEvent::new(once, WAKE))?;
        let (files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let most_under_way = MOST_UNDER_WAY.min(files / SHARE_OF_FILES);
        Ok(Self {
            spec,
            shared,
            epoll,
            started: Instant::now(),
            scheduled: 0,
            most_under_way: usize::try_from(most_under_way)?,
            under_way: HashMap::new(),
            oldest: VecDeque::new(),
        })
    }

    fn run(mut self) {
        self.started = Instant::now();
        let mut events = [EpollEvent::empty(); 128];
        loop {
            let now = Instant::now();
            let next = match self.shared.order.load(Ordering::SeqCst) {
                RUN => self.send_due(now),
                DRAIN => None,
                _ => break,
            };
            self.expire(now);
            if next.is_none() && self.under_way.is_empty() {
                break;
            }
            match self.epoll.wait(&mut events, self.pause(next)) {
                Ok(count) => self.receive_all(&events[..count]),
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        lock(&self.shared.report).elapsed = self.started.elapsed();
    }

    /// Sends what is due by now; the time of the next request, if there is one.
    fn send_due(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..BURST {
            let due = self.due()?;
            if due > now || self.under_way.len() >= self.most_under_way {
                return Some(due);
            }
            self.send();
        }
        Some(now)
    }

    /// When the next request is due; none after the last one.
    fn due(&self) -> Option<Instant> {
        let nanos = u128::from(self.scheduled) * 1_000_000_000 / u128::from(self.spec.per_second);
        let offset = Duration::from_nanos(u64::try_from(nanos).ok()?);
        (offset < self.spec.duration).then(|| self.started + offset)
    }

    fn send(&mut self) {
        let number = self.scheduled;
        self.scheduled += 1;
        lock(&self.shared.report).sent += 1;
        let sent = Instant::now();
        match self.open(number) {
            Ok(fd) => {
                let request = Request { fd, sent, input: Vec::new() };
                self.under_way.insert(number, request);
                self.oldest.push_back(number);
            }
            Err(error) => self.count(sent, &Outcome::of_error(&error)),
        }
    }

    /// Starts a request. It becomes readable with its answer, and with its error.
    fn open(&self, number: u64) -> io::Result<OwnedFd> {
        let destination = self.spec.destination;
        let fd = match self.spec.protocol {
            Protocol::Tcp => crate::socket::tcp(destination.ip(), None)?,
            Protocol::Sctp => crate::socket::sctp(destination, None)?,
            Protocol::Udp => crate::socket::open(destination.ip(), SockType::Datagram)?,
        };
        crate::socket::start_connect(&fd, destination)?;
        if self.spec.protocol == Protocol::Udp {
            let question = format!("load #{number}");
            socket::send(fd.as_raw_fd(), question.as_bytes(), MsgFlags::empty())?;
        }
        self.epoll.add(fd.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        Ok(fd)
    }

    fn receive_all(&mut self, events: &[EpollEvent]) {
        for event in events.iter().filter(|e| e.data() != WAKE) {
            self.receive(event.data());
        }
    }

    fn receive(&mut self, number: u64) {
        let Some(request) = self.under_way.get_mut(&number) else {
            return;
        };
        let outcome = match request.read() {
            Ok(Some(outcome)) => outcome,
            Ok(None) => return,
            Err(error) => Outcome::of_error(&error),
        };
        let sent = request.sent;
        self.under_way.remove(&number);
        self.count(sent, &outcome);
    }

    /// Gives up what has run out of time, and forgets what has ended.
    fn expire(&mut self, now: Instant) {
        while let Some(number) = self.oldest.front() {
            if let Some(request) = self.under_way.get(number) {
                let sent = request.sent;
                if now.duration_since(sent) < self.spec.timeout {
                    return;
                }
                self.under_way.remove(number);
                self.count(sent, &Outcome::TimedOut);
            }
            self.oldest.pop_front();
        }
    }

    /// How long to wait: until the next request is due or the oldest one has run out, at least a millisecond.
    fn pause(&self, next: Option<Instant>) -> EpollTimeout {
        let oldest = self.oldest.front().and_then(|n| self.under_way.get(n));
        let expires = oldest.map(|request| request.sent + self.spec.timeout);
        let full = self.under_way.len() >= self.most_under_way;
        let until = [next.filter(|_| !full), expires].into_iter().flatten().min();
        let left =
            until.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(Instant::now()));
        if next.is_some() && left.is_zero() {
            return EpollTimeout::ZERO;
        }
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        EpollTimeout::from(millis.max(1))
    }

    fn count(&self, sent: Instant, outcome: &Outcome) {
        let mut report = lock(&self.shared.report);
        match outcome {
            Outcome::Answer { by, .. } => {
                *report.answered.entry(by.clone()).or_default() += 1;
                let took = sent.elapsed();
                if took > report.slowest {
                    report.slowest = took;
                    report.slowest_at = sent.duration_since(self.started);
                }
                return;
            }
            Outcome::Refused => report.refused += 1,
            Outcome::TimedOut => report.timed_out += 1,
            Outcome::Unreachable(_) | Outcome::Failed(_) => report.failed += 1,
        }
        if report.errors.len() < ERRORS_KEPT {
            let at = sent.duration_since(self.started);
            report.errors.push((at, outcome.to_string()));
        }
    }
}

impl Request {
    /// Reads what is there; the outcome once the first line is complete.
    fn read(&mut self) -> io::Result<Option<Outcome>> {
        let mut buffer = [0; 1024];
        match socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Err(closed_early()),
            Ok(length) => self.input.extend_from_slice(&buffer[..length]),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        let Some(end) = self.input.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&self.input[..end]);
        let local = getsockname::<nix::sys::socket::SockaddrStorage>(self.fd.as_raw_fd())?;
        let local = crate::datagram::address(&local)
            .ok_or_else(|| io::Error::other("a socket of no known family"))?;
        Ok(Some(answer(&line, local)))
    }
}
