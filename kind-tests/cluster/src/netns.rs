//! One anonymous network namespace, and the thread that lives in it.
//!
//! The namespace has no name in the file system (nothing under `/run/netns`): it exists as long as its thread, its
//! file descriptor or a socket in it does. Whatever ends this process, SIGKILL included, ends the namespace.

use std::any::Any;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::link::Links;
use crate::process::{self, Process};
use crate::socket;

type Job = Box<dyn FnOnce() + Send>;

/// How long the end of a namespace waits for a closure that is still running in it.
const FAREWELL: Duration = Duration::from_secs(2);

/// A handle to a network namespace with a thread of its own. Clones share it; it goes with the last of them (and the
/// last socket and child process in it).
#[derive(Clone)]
pub struct Netns {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    file: File,
    links: Mutex<Links>,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: ThreadId,
    /// Disconnected once the thread has left its loop.
    gone: Mutex<Receiver<()>>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl Netns {
    /// Makes a namespace, with `lo` up. `name` is for people: thread name and error messages.
    pub fn new(name: &str) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let (leaving, gone) = mpsc::channel::<()>();
        let handle = thread::Builder::new()
            .name(format!("ns-{name}"))
            .spawn(move || {
                let made = create();
                let failed = made.is_err();
                if ready.send(made).is_err() || failed {
                    return;
                }
                drop(ready);
                live(&queue);
                drop(leaving);
            })
            .with_context(|| format!("starting the thread of namespace {name}"))?;
        let made = started.recv().context("its thread ended").and_then(|m| m);
        let (file, links) = match made {
            Ok(made) => made,
            Err(error) => {
                // It has given up; waiting for it leaves no thread behind. Why it did is in the error.
                let _ = handle.join();
                return Err(error.context(format!("making the namespace of {name}")));
            }
        };
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                file,
                links: Mutex::new(links),
                jobs: Mutex::new(Some(jobs)),
                thread: handle.thread().id(),
                gone: Mutex::new(gone),
                handle: Mutex::new(Some(handle)),
            }),
        })
    }

    /// The name given to [`Netns::new`].
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The namespace as a file descriptor, as `setns` and netlink take it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.file.as_fd()
    }

    /// Runs `work` in the namespace's thread and returns its value; a panic in it goes on in the caller. Closures are
    /// run one after the other: for long work take [`Netns::thread`].
    pub fn run<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if thread::current().id() == self.shared.thread {
            return work();
        }
        let (answer, result) = mpsc::channel::<Result<T, Box<dyn Any + Send>>>();
        let job: Job = Box::new(move || {
            // A caller that is gone wants no answer.
            let _ = answer.send(panic::catch_unwind(AssertUnwindSafe(work)));
        });
        let sent = lock(&self.shared.jobs).as_ref().map(|jobs| jobs.send(job));
        assert!(
            matches!(sent, Some(Ok(()))),
            "the thread of namespace {} is gone",
            self.shared.name
        );
        match result.recv() {
            Ok(Ok(value)) => value,
            Ok(Err(panic)) => panic::resume_unwind(panic),
            Err(_) => panic!("the thread of namespace {} is gone", self.shared.name),
        }
    }

    /// Starts another thread in the namespace, for work that takes its time. It is the caller's to end and join.
    pub fn thread<T, F>(&self, name: &str, work: F) -> Result<JoinHandle<T>>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let builder = thread::Builder::new().name(name.to_owned());
        // A new thread is in the namespace of the thread that starts it.
        self.run(move || builder.spawn(work)).with_context(|| format!("starting the thread {name}"))
    }

    /// Moves the calling thread into this namespace for good.
    pub fn enter(&self) -> Result<()> {
        setns(self.fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("entering the namespace of {}", self.name()))
    }

    /// Starts a process in the namespace. It is killed when the guard is dropped. See [`crate::die_with_parent`] for
    /// what happens to it when this process is killed.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let started = self.run(move || process::start(command));
        let (child, program) =
            started.with_context(|| format!("in the namespace of {}", self.name()))?;
        Ok(Process::new(child, program, self.clone()))
    }

    /// The links, addresses and routes of the namespace.
    pub fn links(&self) -> MutexGuard<'_, Links> {
        lock(&self.shared.links)
    }

    /// Connects to `address` from within the namespace.
    pub fn tcp_connect(&self, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let socket = self.run(move || socket::tcp(address.ip(), None))?;
        socket::connect(socket, address, timeout)
    }

    /// A UDP socket of the namespace, bound to the unspecified address of this family and a free port.
    pub fn udp_socket(&self, family: IpAddr) -> io::Result<UdpSocket> {
        self.run(move || socket::udp(family, None))
    }

    /// Writes a sysctl of the namespace: `net.ipv4.ip_forward` or, for names with dots in them,
    /// `net/ipv4/conf/eth0.1/proxy_arp`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let (path, value) = (path.to_owned(), value.to_owned());
        self.run(move || write_sysctl(&path, &value))
            .with_context(|| format!("in the namespace of {}", self.name()))
    }

    /// Reads a sysctl of the namespace, without the final newline.
    pub fn read_sysctl(&self, path: &str) -> Result<String> {
        let file = sysctl_file(path);
        let text = self.run(move || fs::read_to_string(&file));
        let text =
            text.with_context(|| format!("reading {path} in the namespace of {}", self.name()))?;
        Ok(text.trim_end().to_owned())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        lock(&self.jobs).take();
        // The last handle may be dropped by a closure in the namespace's own thread.
        if thread::current().id() == self.thread {
            return;
        }
        let over = lock(&self.gone).recv_timeout(FAREWELL) != Err(mpsc::RecvTimeoutError::Timeout);
        if let Some(handle) = lock(&self.handle).take().filter(|_| over) {
            // It catches the panics of its closures; there is nothing to learn from it.
            let _ = handle.join();
        }
    }
}

/// Moves the calling thread into a new namespace.
fn create() -> Result<(File, Links)> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
        anyhow!("unshare: {errno}; it takes CAP_SYS_ADMIN, or a user namespace entered first")
    })?;
    // Not /proc/self: that is the namespace of the process's first thread.
    let file =
        File::open("/proc/thread-self/ns/net").context("opening /proc/thread-self/ns/net")?;
    let mut links = Links::open_here()?;
    links.set_up("lo")?;
    Ok((file, links))
}

fn live(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job();
    }
}

/// Writes a sysctl of the calling thread's namespace: `/proc/sys/net` shows each thread its own.
pub(crate) fn write_sysctl(path: &str, value: &str) -> Result<()> {
    let file = sysctl_file(path);
    fs::write(&file, value).with_context(|| format!("writing {value} to {file}"))
}

pub(crate) fn sysctl_file(path: &str) -> String {
    if path.contains('/') {
        format!("/proc/sys/{path}")
    } else {
        format!("/proc/sys/{}", path.replace('.', "/"))
    }
}

/// A panic while the lock was held leaves nothing half done here, so poison is no reason to stop.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
