//! Short ways to write objects in tests.

use shunt_model::problem::Kind;
use shunt_model::snapshot::Change;

use super::SourceEvent;

/// A one-line account of a change: `+ Service default/web`, `- ...`, `! ...` (rejected), `[ Service`
/// and `] Service` around a list.
pub(super) fn told(change: &Change) -> String {
    match change {
        Change::ListStarted(kind) => format!("[ {kind}"),
        Change::ListDone(kind) => format!("] {kind}"),
        Change::Applied { object, problems } => {
            format!("+ {} {}{}", object.kind(), object.key(), "!".repeat(problems.len()))
        }
        Change::Rejected { kind, key, .. } => format!("! {kind} {key}"),
        Change::Deleted { kind, key } => format!("- {kind} {key}"),
        Change::LocalAddresses(addresses) => format!("= {addresses:?}"),
        Change::BlindLinks(links) => format!("blind {links:?}"),
    }
}

/// The same for what a source sends; problems of files in words.
pub(super) fn told_event(event: &SourceEvent) -> Vec<String> {
    match event {
        SourceEvent::Change(change) => vec![told(change)],
        SourceEvent::Policy(change) => told_policy(change).into_iter().collect(),
        SourceEvent::Triggered(at) => vec![format!("triggered at {at}")],
        SourceEvent::Network { problems, .. } => vec![format!("network: {problems:?}")],
        SourceEvent::SecondProxy(found) => vec![format!("second proxy: {found:?}")],
        SourceEvent::FileProblems { file, problems } if problems.is_empty() => {
            vec![format!("{} is good", base_name(file))]
        }
        SourceEvent::FileProblems { file, problems } => {
            let directory =
                file.parent().map(|dir| format!("{}/", dir.display())).unwrap_or_default();
            problems.iter().map(|problem| problem.to_string().replace(&directory, "")).collect()
        }
    }
}

/// The same for a change of what network policy is made of, but for the brackets of its lists: in a
/// directory they come with those of Services.
fn told_policy(change: &shunt_netpolicy::snapshot::Change) -> Option<String> {
    use shunt_netpolicy::snapshot::Change;
    match change {
        Change::ListStarted(_) | Change::ListDone(_) => None,
        // The other view of a Node that is told already.
        Change::Applied { object, .. } if object.kind() == Kind::PeerNode => None,
        Change::Deleted { kind: Kind::PeerNode, .. } => None,
        Change::Applied { object, problems } => {
            let wrong = "!".repeat(problems.len());
            Some(format!("+ {} {}{wrong}", object.kind(), object.key()))
        }
        Change::Deleted { kind, key } => Some(format!("- {kind} {key}")),
        // No source of objects has them.
        Change::SandboxStarted(_) | Change::SandboxStopped(_) | Change::Sandboxes(_) => None,
    }
}

fn base_name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
