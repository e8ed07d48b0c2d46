//! Where objects come from: the API server or a directory of manifests, and this machine's
//! interfaces for its addresses.
//!
//! Each source turns what it reads into [`Change`]s of the model as it arrives, so that no object
//! is ever held as the API states it, and sends them as [`SourceEvent`]s over one bounded channel.

pub mod api;
pub mod client;
pub mod convert;
pub mod local;
pub mod manifests;
pub mod network;
mod readiness;
pub mod wire;

#[cfg(test)]
mod testing;

use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use shunt_model::object::ObjectKey;
use shunt_model::problem::Kind;
use shunt_model::snapshot::Change;
use shunt_netpolicy::snapshot as policy;
use shunt_netpolicy_nftables::layout::Switched;

/// What network policy needs beside policies, and is told only while it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Pods and Namespaces: there is a policy.
    pub pods: bool,
    /// All Nodes: a policy speaks of nodes.
    pub nodes: bool,
}

/// What a source sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// Something about the objects that Services are made of.
    Change(Change),
    /// Something about the objects of network policy.
    Policy(policy::Change),
    /// Endpoints were changed at this time, says the annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`; the change itself follows.
    Triggered(Timestamp),
    /// What is wrong with the machine's network, in place of what was said before.
    Network {
        /// What, what follows, and what to do.
        problems: Vec<String>,
        /// There are pods on bridges that hooks of IP do not see, and how policy judges what is switched there.
        switched: Option<Switched>,
    },
    /// What there is of a second proxy beside us, in place of what was said before.
    SecondProxy(Option<String>),
    /// What is wrong with a file (or with the directory itself), in place of what was said about
    /// it before. Nothing: it is good again.
    FileProblems {
        /// The file's path.
        file: PathBuf,
        /// What is wrong with it.
        problems: Vec<FileProblem>,
    },
}

impl SourceEvent {
    /// A list begins.
    #[must_use]
    pub const fn list_started(kind: Kind) -> Self {
        if kind.is_of_policy() {
            Self::Policy(policy::Change::ListStarted(kind))
        } else {
            Self::Change(Change::ListStarted(kind))
        }
    }

    /// A list is complete.
    #[must_use]
    pub const fn list_done(kind: Kind) -> Self {
        if kind.is_of_policy() {
            Self::Policy(policy::Change::ListDone(kind))
        } else {
            Self::Change(Change::ListDone(kind))
        }
    }

    /// An object is gone.
    #[must_use]
    pub const fn deleted(kind: Kind, key: ObjectKey) -> Self {
        if kind.is_of_policy() {
            Self::Policy(policy::Change::Deleted { kind, key })
        } else {
            Self::Change(Change::Deleted { kind, key })
        }
    }

    /// Whether it says that there is no object, or none of ours.
    #[must_use]
    pub const fn is_deletion(&self) -> bool {
        matches!(
            self,
            Self::Change(Change::Deleted { .. }) | Self::Policy(policy::Change::Deleted { .. })
        )
    }
}

impl From<Change> for SourceEvent {
    fn from(change: Change) -> Self {
        Self::Change(change)
    }
}

/// Something about a file of manifests that keeps it, or one of its documents, from being used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileProblem {
    /// The file's path.
    pub file: PathBuf,
    /// The line, from 1, if one is to blame.
    pub line: Option<u64>,
    /// The field, as in the API: `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong and what was done.
    pub reason: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(field) = &self.field {
            write!(f, " {field}:")?;
        }
        write!(f, " {}", self.reason)
    }
}
