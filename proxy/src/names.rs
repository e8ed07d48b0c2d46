//! The thread that reads DNS answers on their way to pods, for policies that speak of domain names, and lets them go on
//! when what they say is in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use shunt_netpolicy::dns::{self, stream::Flow};
use shunt_netpolicy::domain::DomainName;
use shunt_netpolicy_nftables::answers::{Answer, Answers, Wanted, Way};
use tokio::sync::mpsc;
use tracing::warn;

/// How many events may wait for the loop; answers that come faster go on and are not learnt.
pub const QUEUE: usize = 256;
/// How long an answer waits at most. A client asks again after 5 s.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether the table is still there.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long it is rested after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// What is asked of the thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Whose answers, and from whom.
    pub answers: Wanted,
    /// The names that policies speak of.
    pub names: BTreeSet<DomainName>,
}

/// A name that DNS has given to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The address.
    pub address: IpAddr,
    /// The name, as a policy writes it.
    pub name: DomainName,
    /// The time to live that the answer gives it.
    pub seconds: u32,
}

/// What the thread has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamesEvent {
    /// An answer.
    Answer {
        /// By what it is let go, if it waits.
        held: Option<u32>,
        /// What it says of names that policies speak of.
        found: Vec<Named>,
    },
    /// What is not as it should be, if anything.
    State(Option<String>),
}

enum Command {
    Ask(Asked),
    Release(u32),
}

/// The thread, as the loop sees it. It ends when this is dropped.
#[derive(Debug)]
pub struct Names {
    commands: Option<Sender<Command>>,
    wake: Arc<EventFd>,
}

impl Names {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no thread, or the kernel has no nftables.
    pub fn start(owner: bool, out: mpsc::Sender<NamesEvent>) -> anyhow::Result<Self> {
        let answers = Answers::open(owner)?;
        let (commands, inbox) = channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let reader = Reader {
            answers,
            asked: Asked::default(),
            held: BTreeMap::new(),
            state: None,
            look_at: Instant::now(),
            inbox,
            wake: Arc::clone(&wake),
            out,
        };
        thread::Builder::new()
            .name("names".into())
            .spawn(move || reader.run())
            .context("the thread for DNS answers cannot be started")?;
        Ok(Self { commands: Some(commands), wake })
    }

    /// Tells what is wanted from now on.
    pub fn ask(&self, asked: Asked) {
        self.send(Command::Ask(asked));
    }

    /// Lets an answer go on.
    pub fn release(&self, held: u32) {
        self.send(Command::Release(held));
    }

    fn send(&self, command: Command) {
        // The thread ends only after us.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
        let _ = self.wake.write(1);
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.commands = None;
        let _ = self.wake.write(1);
    }
}

/// An answer that waits.
struct Held {
    since: Instant,
    /// The connection that it is of.
    flow: Option<Flow>,
    /// What has come of that connection since: among it may be the answer once more.
    behind: Vec<u32>,
}

struct Reader {
    answers: Answers,
    asked: Asked,
    /// Answers that wait.
    held: BTreeMap<u32, Held>,
    /// What was told last.
    state: Option<Option<String>>,
    look_at: Instant,
    inbox: Receiver<Command>,
    wake: Arc<EventFd>,
    out: mpsc::Sender<NamesEvent>,
}

impl Reader {
    fn run(mut self) {
        while self.obey() {
            let now = Instant::now();
            if now >= self.look_at {
                self.look(now);
            }
            self.read(now);
            self.release_overdue(now);
            self.wait();
        }
    }

    /// Until there is something to do.
    fn wait(&self) {
        let oldest = self.held.values().map(|held| held.since + PATIENCE).min();
        let until = oldest.map_or(self.look_at, |oldest| oldest.min(self.look_at));
        let longest = until.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.answers.events().map(|events| PollFd::new(events, PollFlags::POLLIN)));
        // One more, as it cuts off what is less than a millisecond.
        let timeout = PollTimeout::try_from(longest + Duration::from_millis(1));
        let _ = poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX));
        let _ = self.wake.read();
    }

    /// Takes all commands in; `false`: there will be no more.
    fn obey(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Ask(asked)) => {
                    self.asked = asked;
                    self.look_at = Instant::now();
                }
                Ok(Command::Release(held)) => self.release(held),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Brings the table to what is wanted.
    fn look(&mut self, now: Instant) {
        let changed = self.answers.foreign_change();
        if matches!(changed, Ok(true)) {
            warn!("another process has changed the table that hands DNS answers over");
        }
        let result = changed.and_then(|_| self.answers.sync(&self.asked.answers));
        self.look_at = now + if result.is_ok() { LOOK_EVERY } else { RETRY };
        let state = match result {
            Err(error) => Some(format!("DNS answers are not seen, so domainNames allow nothing: {error}")),
            Ok(()) if self.answers.events().is_some() && self.answers.way() == Way::Copy => Some(
                "the kernel has no nft_queue: DNS answers do not wait until their addresses are known to policy, and the \
                 first packet to an address may come too early and be sent again"
                    .to_owned(),
            ),
            Ok(()) => None,
        };
        if self.state.as_ref() != Some(&state) {
            let _ = self.out.try_send(NamesEvent::State(state.clone()));
            self.state = Some(state);
        }
    }

    fn read(&mut self, now: Instant) {
        let mut read = Vec::new();
        if let Err(error) = self.answers.read(|answer| read.push(answer)) {
            warn!("DNS answers cannot be read: {error}");
        }
        for Answer { held, flow, messages } in read {
            let found: Vec<_> = messages.iter().flat_map(|message| self.find(message)).collect();
            let told =
                !found.is_empty() && self.out.try_send(NamesEvent::Answer { held, found }).is_ok();
            if let Some(held) = held {
                self.hold(held, flow, told.then_some(now));
            }
        }
    }

    /// Has a packet wait if it is an answer that was told now, or behind one of the same connection: a server sends again
    /// what is not acknowledged, and what it sends again must not come first.
    fn hold(&mut self, held: u32, flow: Option<Flow>, told: Option<Instant>) {
        if let Some(since) = told {
            self.held.insert(held, Held { since, flow, behind: Vec::new() });
            return;
        }
        let mut of_same = self.held.values_mut().rev().filter(|other| other.flow == flow);
        match of_same.next().filter(|_| flow.is_some()) {
            Some(other) => other.behind.push(held),
            None => self.let_go(held),
        }
    }

    /// What an answer says of names that policies speak of.
    fn find(&self, message: &[u8]) -> Vec<Named> {
        let mut found = Vec::new();
        for dns::Found { name, address, seconds } in dns::read(message) {
            let asked = self.asked.names.iter().filter(|asked| asked.matches(&name));
            found.extend(asked.map(|name| Named { address, name: name.clone(), seconds }));
        }
        found
    }

    fn release_overdue(&mut self, now: Instant) {
        let overdue = self.held.iter().filter(|(_, held)| held.since + PATIENCE <= now);
        let overdue: Vec<_> = overdue.map(|(held, _)| *held).collect();
        overdue.into_iter().for_each(|held| self.release(held));
    }

    fn release(&mut self, held: u32) {
        if let Some(Held { behind, .. }) = self.held.remove(&held) {
            self.let_go(held);
            behind.into_iter().for_each(|behind| self.let_go(behind));
        }
    }

    fn let_go(&mut self, held: u32) {
        if let Err(error) = self.answers.release(held) {
            warn!("a DNS answer cannot be let go: {error}");
        }
    }
}
