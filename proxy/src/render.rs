//! `shunt render`: each stage between manifests and the kernel, for people and for goldens.

mod plan;
mod snapshot;
mod yaml;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::anyhow;
use shunt_model::compile;
use shunt_model::problem::Problem;
use shunt_model::snapshot::Snapshot;
use shunt_netpolicy::snapshot as policy;
use shunt_netpolicy_nftables::lower::Beside;
use shunt_netpolicy_nftables::text;

use crate::cli::{self, RenderArgs, Stage};
use crate::failure::Failure;
use crate::source::{FileProblem, SourceEvent, manifests};

/// Prints a stage. Problems go to standard error; those of files make it a failure.
///
/// # Errors
/// If the directory or a file in it cannot be read.
pub fn render(args: &RenderArgs) -> Result<(), Failure> {
    let settings = args.plan.settings()?;
    let Loaded { snapshot, mut policy, policy_problems, file_problems } = load(&args.manifests)?;
    let plan = compile::full(&settings, &snapshot);
    file_problems.iter().for_each(|problem| eprintln!("{problem}"));
    let of_services = plan.services.values().flat_map(|service| &service.problems);
    let problems = snapshot.problems().chain(of_services).chain(&policy_problems);
    problems.for_each(|problem| eprintln!("{problem}"));
    cli::print(&match args.stage {
        Stage::Snapshot => snapshot::print(&snapshot),
        Stage::Plan => plan::print(&plan),
        Stage::Nft => shunt_nftables::text::render(&plan),
        Stage::Policy => {
            let node = snapshot.node(&settings.node_name);
            let own = node.map(|node| node.addresses.iter().copied().collect());
            let own: BTreeSet<_> = own.unwrap_or_default();
            policy.put_machine(&settings.node_name, own.clone());
            let table = shunt_netpolicy::compile::full(&settings.node_name, policy.store());
            let beside = Beside { own, ..Beside::default() };
            text::render(&text::fresh(&table, &beside))
        }
    })?;
    match file_problems.len() {
        0 => Ok(()),
        1 => Err(anyhow!("1 problem in the manifests").into()),
        number => Err(anyhow!("{number} problems in the manifests").into()),
    }
}

/// The objects of a directory, or of an API server.
#[derive(Default)]
pub(crate) struct Loaded {
    /// Those that Services are made of.
    pub(crate) snapshot: Snapshot,
    /// Those of network policy.
    pub(crate) policy: policy::Snapshot,
    /// What is wrong with those.
    pub(crate) policy_problems: Vec<Problem>,
    /// What is wrong with files.
    pub(crate) file_problems: Vec<FileProblem>,
}

/// Reads a directory.
pub(crate) fn load(directory: &Path) -> Result<Loaded, Failure> {
    let mut loaded = Loaded::default();
    let events = manifests::load_once(directory).map_err(Failure::usage)?;
    events.into_iter().for_each(|event| loaded.take(event));
    Ok(loaded)
}

impl Loaded {
    /// Takes in what a source says.
    pub(crate) fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Change(change) => drop(self.snapshot.apply(change)),
            SourceEvent::Policy(change) => {
                if let policy::Change::Applied { problems, .. } = &change {
                    self.policy_problems.extend(problems.iter().cloned());
                }
                drop(self.policy.apply(change));
            }
            // Only the API server tells it.
            SourceEvent::Triggered(_) => {}
            // Of a machine, not of manifests.
            SourceEvent::Network { .. } | SourceEvent::SecondProxy(_) => {}
            SourceEvent::FileProblems { problems, .. } => self.file_problems.extend(problems),
        }
    }
}

#[cfg(test)]
mod tests;
