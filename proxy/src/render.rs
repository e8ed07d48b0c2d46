//! `shunt render`: each stage between manifests and the kernel, for people and for goldens.

mod plan;
mod snapshot;
mod yaml;

use std::path::Path;

use anyhow::anyhow;
use shunt_model::compile;
use shunt_model::snapshot::Snapshot;

use crate::cli::{self, RenderArgs, Stage};
use crate::failure::Failure;
use crate::source::{FileProblem, SourceEvent, manifests};

/// Prints a stage. Problems go to standard error; those of files make it a failure.
///
/// # Errors
/// If the directory or a file in it cannot be read.
pub fn render(args: &RenderArgs) -> Result<(), Failure> {
    let settings = args.plan.settings()?;
    let (snapshot, file_problems) = load(&args.manifests)?;
    let plan = compile::full(&settings, &snapshot);
    file_problems.iter().for_each(|problem| eprintln!("{problem}"));
    let of_services = plan.services.values().flat_map(|service| &service.problems);
    snapshot.problems().chain(of_services).for_each(|problem| eprintln!("{problem}"));
    cli::print(&match args.stage {
        Stage::Snapshot => snapshot::print(&snapshot),
        Stage::Plan => plan::print(&plan),
        Stage::Nft => shunt_nftables::text::render(&plan),
    })?;
    match file_problems.len() {
        0 => Ok(()),
        1 => Err(anyhow!("1 problem in the manifests").into()),
        number => Err(anyhow!("{number} problems in the manifests").into()),
    }
}

/// The objects of a directory, and what is wrong with its files.
fn load(directory: &Path) -> Result<(Snapshot, Vec<FileProblem>), Failure> {
    let mut snapshot = Snapshot::new();
    let mut found = Vec::new();
    for event in manifests::load_once(directory).map_err(Failure::usage)? {
        match event {
            SourceEvent::Change(change) => drop(snapshot.apply(change)),
            SourceEvent::FileProblems { problems, .. } => found.extend(problems),
            SourceEvent::Triggered(_) => {}
        }
    }
    Ok((snapshot, found))
}

#[cfg(test)]
mod tests;
