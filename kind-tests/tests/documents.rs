//! The pages of the repository lead where they say.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// All pages below a folder, without what is built or hidden.
fn pages(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if entry.file_type()?.is_dir() {
            let is_ours = name != "target" && !name.to_string_lossy().starts_with('.');
            is_ours.then(|| pages(&path, found)).transpose()?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Where the links of a text lead, but those to other sites.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://") && !target.contains(char::is_whitespace))
}

/// The names by which a page's headings are linked to.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    })
}

#[test]
fn no_link_is_dead() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut all, mut followed) = (Vec::new(), 0);
    pages(&root, &mut all)?;
    for page in all {
        let text = fs::read_to_string(&page)?;
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().context("a folder")?.join(file),
            };
            ensure!(target.exists(), "{}: {link} is not there", page.display());
            let is_there = anchor.is_empty()
                || anchors(&fs::read_to_string(&target)?).any(|found| found == anchor);
            ensure!(is_there, "{}: {link}: no such heading", page.display());
            followed += 1;
        }
    }
    ensure!(followed > 50, "only {followed} links were found");
    Ok(())
}
