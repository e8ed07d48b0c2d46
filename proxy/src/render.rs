//! `shunt render`: each stage between manifests and the kernel, for people and for goldens.

mod plan;
mod snapshot;
mod yaml;

use shunt_model::compile;
use shunt_model::snapshot::Snapshot;

use crate::cli::{self, RenderArgs, Stage};
use crate::failure::Failure;
use crate::source::{SourceEvent, manifests};

/// Prints a stage. Problems go to standard error; those of files make it a failure.
///
/// # Errors
/// If the directory or a file in it cannot be read.
pub fn render(args: &RenderArgs) -> Result<(), Failure> {
    let settings = args.plan.settings()?;
    let mut snapshot = Snapshot::new();
    let mut file_problems = 0;
    let events = manifests::load_once(&args.manifests).map_err(Failure::usage)?;
    for event in events {
        match event {
            SourceEvent::Change(change) => drop(snapshot.apply(change)),
            SourceEvent::FileProblems { problems, .. } => {
                file_problems += problems.len();
                problems.iter().for_each(|problem| eprintln!("{problem}"));
            }
        }
    }
    let plan = compile::full(&settings, &snapshot);
    let of_services = plan.services.values().flat_map(|service| &service.problems);
    for problem in snapshot.problems().chain(of_services) {
        eprintln!("{problem}");
    }
    cli::print(&match args.stage {
        Stage::Snapshot => snapshot::print(&snapshot),
        Stage::Plan => plan::print(&plan),
        Stage::Nft => shunt_nftables::text::render(&plan),
    })?;
    if file_problems > 0 {
        let what = if file_problems == 1 { "problem" } else { "problems" };
        return Err(anyhow::anyhow!("{file_problems} {what} in the manifests").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
