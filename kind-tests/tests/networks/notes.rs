//! What was played before: a run that takes hours can be ended, and goes on where it was.
//!
//! `SHUNT_PLAYED` names a directory, in which each network and backend has a file with a line for each scenario that held:
//! its name, steps, flows and seconds. Beside it stands what did not hold, and is played again.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use shunt_cluster::Network;
use shunt_kind_tests::guest;
use shunt_kind_tests::scenario::Played;

use crate::{Backend, Suite};

/// The notes of a network and a backend; nothing is noted where no directory is named.
pub(crate) struct Notes {
    file: Option<PathBuf>,
    held: BTreeMap<String, Played>,
}

impl Notes {
    pub(crate) fn read(network: Network, suite: Suite, backend: Backend) -> Result<Self> {
        let name = format!("{}.{}.{}", suite.module(), network.name(), backend.name());
        let file =
            env::var_os(guest::WRITABLE).map(|directory| PathBuf::from(directory).join(name));
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let held = text.iter().flat_map(|text| text.lines()).map(parse).collect::<Result<_>>()?;
        Ok(Self { file, held })
    }

    /// What was played of a scenario that has held.
    pub(crate) fn held(&self, scenario: &str) -> Option<Played> {
        self.held.get(scenario).copied()
    }

    /// Notes how a scenario came out.
    pub(crate) fn add(
        &self,
        scenario: &str,
        result: &Result<Played>,
        took: Duration,
    ) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (file, text) = match result {
            Ok(Played { steps, flows }) => {
                (file.clone(), format!("{scenario} {steps} {flows} {:.1}\n", took.as_secs_f64()))
            }
            Err(error) => (file.with_added_extension("failures"), format!("{error:#}\n\n")),
        };
        let opened = OpenOptions::new().create(true).append(true).open(&file);
        let mut opened = opened.with_context(|| file.display().to_string())?;
        // One write: others may be about to write, too.
        Ok(opened.write_all(text.as_bytes())?)
    }
}

fn parse(line: &str) -> Result<(String, Played)> {
    let mut words = line.split(' ');
    let mut next = || words.next().with_context(|| format!("not a note: {line:?}"));
    let (scenario, steps, flows) = (next()?.to_owned(), next()?.parse()?, next()?.parse()?);
    Ok((scenario, Played { steps, flows }))
}
