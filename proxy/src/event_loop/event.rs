//! What happens to the event loop, and where it comes from.

use shunt_model::snapshot::Change;
use tokio::sync::mpsc;

use super::Question;
use crate::drops::DropEvent;
use crate::kernel::KernelEvent;
use crate::names::NamesEvent;
use crate::nri::NriEvent;
use crate::server::Listening;
use crate::source::SourceEvent;

/// Everything that can happen to the loop.
#[derive(Debug)]
pub enum Event {
    /// A source of objects has something to say.
    Source(SourceEvent),
    /// The kernel thread reports.
    Kernel(KernelEvent),
    /// Network policy has dropped something.
    Drops(DropEvent),
    /// A DNS answer has come for a pod whose policies speak of domain names.
    Names(NamesEvent),
    /// The container runtime tells of a pod.
    Nri(NriEvent),
    /// The kernel thread of network policy reports.
    PolicyKernel(KernelEvent),
    /// Someone wants to know something.
    Question(Question),
    /// A health-check node port can be listened on, or cannot.
    Listening(Listening),
}

impl Event {
    /// The value of the label `kind` of `shunt_events_total`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Source(SourceEvent::Change(change)) => match change {
                Change::ListStarted(_) => "list_started",
                Change::ListDone(_) => "list_done",
                Change::Applied { .. } => "applied",
                Change::Rejected { .. } => "rejected",
                Change::Deleted { .. } => "deleted",
                Change::LocalAddresses(_) => "local_addresses",
                Change::BlindLinks(_) => "blind_links",
            },
            Self::Source(SourceEvent::Policy(_)) => "policy",
            Self::PolicyKernel(_) => "policy_kernel",
            Self::Drops(_) => "drops",
            Self::Names(_) => "names",
            Self::Nri(_) => "nri",
            Self::Source(SourceEvent::Triggered(_)) => "triggered",
            Self::Source(SourceEvent::FileProblems { .. }) => "file_problems",
            Self::Source(SourceEvent::Network { .. }) => "network",
            Self::Source(SourceEvent::SecondProxy(_)) => "second_proxy",
            Self::Kernel(KernelEvent::Synced(_)) => "synced",
            Self::Kernel(KernelEvent::Failed(_)) => "sync_failed",
            Self::Kernel(KernelEvent::ForeignChange { .. }) => "foreign_change",
            Self::Kernel(KernelEvent::Swept(_)) => "swept",
            Self::Question(_) => "question",
            Self::Listening(_) => "listening",
        }
    }
}

/// Where events come from.
#[derive(Debug)]
pub struct Inputs {
    /// Objects and manifests.
    pub sources: mpsc::Receiver<SourceEvent>,
    /// The kernel thread.
    pub kernel: mpsc::UnboundedReceiver<KernelEvent>,
    /// The kernel thread of network policy, if there is one.
    pub policy: Option<mpsc::UnboundedReceiver<KernelEvent>>,
    /// What network policy drops.
    pub drops: mpsc::Receiver<DropEvent>,
    /// DNS answers.
    pub names: mpsc::Receiver<NamesEvent>,
    /// The container runtime.
    pub nri: mpsc::Receiver<NriEvent>,
    /// The HTTP server.
    pub questions: mpsc::Receiver<Question>,
    /// Health-check node ports.
    pub listening: mpsc::UnboundedReceiver<Listening>,
}
