//! What a watcher's events and errors mean.

use kube::runtime::watcher::{Error, Event};
use shunt_model::problem::Kind;

use crate::source::SourceEvent;
use crate::source::convert::{Converted, Converter, Wire};

/// How many streaming lists in a row may end half-way, without an error, before the server is
/// taken for one that cannot send them. One may be a connection that was closed.
const BROKEN_LISTS: u32 = 2;

/// Where a watcher is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No list has begun.
    Idle,
    /// The watcher has begun a list of which nothing has come yet.
    Asked,
    /// A list is under way.
    Listing,
    /// The list is complete.
    Watching,
}

/// Follows one watcher.
#[derive(Debug)]
pub(super) struct Tracker {
    kind: Kind,
    streaming: bool,
    phase: Phase,
    /// An error has been told since the last `Init`, so a list that breaks off is explained.
    failed: bool,
    broken_lists: u32,
}

impl Tracker {
    pub(super) fn new(kind: Kind, streaming: bool) -> Self {
        Self { kind, streaming, phase: Phase::Idle, failed: false, broken_lists: 0 }
    }

    /// Whether a streaming list is under way, which its bookmark ends.
    pub(super) fn awaits_bookmark(&self) -> bool {
        self.streaming && !self.failed && matches!(self.phase, Phase::Asked | Phase::Listing)
    }

    /// Whether the list is complete and changes to it are told.
    pub(super) fn is_watching(&self) -> bool {
        self.phase == Phase::Watching
    }

    /// To be asked on each `Init`, before it is taken in: whether streaming lists keep breaking off.
    pub(super) fn lists_broken_off(&mut self) -> bool {
        if self.awaits_bookmark() {
            self.broken_lists += 1;
        }
        self.broken_lists >= BROKEN_LISTS
    }

    /// Notes an error. It need not end the list under way: only another `Init` does.
    pub(super) fn note_failure(&mut self) {
        self.failed = true;
    }

    /// The changes that an event amounts to.
    pub(super) fn changes<K: Wire>(
        &mut self,
        converter: &mut Converter,
        event: Event<K>,
    ) -> impl Iterator<Item = SourceEvent> + use<K>
    where
        Converted<K::Object>: Into<SourceEvent>,
    {
        let kind = self.kind;
        let (begins, change) = match event {
            Event::Init => {
                self.phase = Phase::Asked;
                self.failed = false;
                (false, None)
            }
            Event::InitApply(object) => (self.begins(), Some(object.convert(converter).into())),
            Event::InitDone => {
                let begins = self.begins();
                self.phase = Phase::Watching;
                self.broken_lists = 0;
                (begins, Some(SourceEvent::list_done(kind)))
            }
            Event::Apply(object) => (false, Some(object.convert(converter).into())),
            Event::Delete(object) => {
                let key = converter.key(kind, object.meta());
                (false, Some(SourceEvent::deleted(kind, key)))
            }
        };
        begins.then_some(SourceEvent::list_started(kind)).into_iter().chain(change)
    }

    /// Whether this is the first that comes of a list.
    fn begins(&mut self) -> bool {
        let begins = self.phase != Phase::Listing;
        self.phase = Phase::Listing;
        begins
    }
}

/// What to do about an error, after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// The watcher knows how to go on.
    Resume,
    /// Drop the watcher: at its version it would fail for ever.
    Relist,
    /// Drop the watcher and do without streaming lists.
    PagedLists,
}

/// What to do about an error.
pub(super) fn reaction(error: &Error, tracker: &Tracker) -> Reaction {
    match error {
        // Before 1.27 `resourceVersionMatch` was forbidden in a watch, and where the feature is
        // off `sendInitialEvents` is: 422 Invalid; some servers say 400 Bad Request.
        Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 422) && tracker.streaming && !tracker.is_watching() =>
        {
            Reaction::PagedLists
        }
        Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 410 | 422) =>
        {
            Reaction::Relist
        }
        Error::WatchError(_) => Reaction::Relist,
        _ => Reaction::Resume,
    }
}

/// Why a resource cannot be had at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The server does not have it (404).
    Resource,
    /// We may not read it (403).
    Right,
}

/// What a failed list or watch says is lacking, if it says so.
pub(super) fn lack(error: &Error) -> Option<Lack> {
    let (Error::InitialListFailed(kube::Error::Api(status))
    | Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    match status.code {
        403 => Some(Lack::Right),
        404 => Some(Lack::Resource),
        _ => None,
    }
}
