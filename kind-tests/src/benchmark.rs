//! What the benchmarks share: how they end, and where their figures go.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;

/// The end of a benchmark of this name.
pub fn end(name: &str, done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where pages and pictures are.
#[must_use]
pub fn docs() -> PathBuf {
    checkout().join("docs")
}

/// Where raw figures and logs go.
#[must_use]
pub fn directory() -> PathBuf {
    checkout().join("target/bench")
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Writes all figures to a file of this name.
///
/// # Errors
/// If it cannot be written.
pub fn save<T: Serialize + ?Sized>(name: &str, figures: &T) -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory)?;
    let file = directory.join(format!("{name}.json"));
    let json = serde_json::to_vec_pretty(figures)?;
    fs::write(&file, json).with_context(|| file.display().to_string())
}

/// Puts a section in place of the one of this name in docs/benchmarks.md.
///
/// # Errors
/// If the page cannot be written, or has no place for it.
pub fn publish(name: &str, section: &str) -> Result<()> {
    let page = docs().join("benchmarks.md");
    let context = || page.display().to_string();
    let old = fs::read_to_string(&page).with_context(context)?;
    let new = splice(&old, name, section).with_context(|| format!("no place for {name}"));
    fs::write(&page, new.with_context(context)?).with_context(context)
}

/// Puts a section in place of what is between its markers.
fn splice(page: &str, name: impl Display, section: &str) -> Option<String> {
    let begin = format!("<!-- {name}:begin, written by `make bench BENCH=--write-docs` -->");
    let end = format!("<!-- {name}:end -->");
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{section}{end}{after}"))
}

/// A value with its goal, and whether that is met.
#[must_use]
pub fn goal(value: f64, most: f64) -> String {
    let verdict = if value <= most { "met" } else { "MISSED" };
    format!("{value:.2}, goal {most}: {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_the_markers_stays() {
        let page = "above\n\
            <!-- one:begin, written by `make bench BENCH=--write-docs` -->\nold\n<!-- one:end -->\n\
            <!-- two:begin, written by `make bench BENCH=--write-docs` -->\nkept\n<!-- two:end -->\n";
        let new = splice(page, "one", "new\n").unwrap();
        assert_eq!(new, page.replace("old", "new"));
        assert_eq!(splice(&new, "one", "new\n").unwrap(), new);
        assert_eq!(splice(page, "three", "new"), None);
    }

    #[test]
    fn the_page_has_a_place_for_each_benchmark() {
        let page = fs::read_to_string(docs().join("benchmarks.md")).unwrap();
        for name in ["bench", "traffic", "policy", "ipvs-10000", "ipvs-1000", "overlay"] {
            assert!(splice(&page, name, "new\n").is_some(), "{name}");
        }
    }

    #[test]
    fn a_goal_is_the_most_that_is_allowed() {
        assert_eq!(goal(1.5, 1.5), "1.50, goal 1.5: met");
        assert_eq!(goal(1.51, 1.5), "1.51, goal 1.5: MISSED");
    }
}
