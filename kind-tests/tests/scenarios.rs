//! Every scenario under `kind-tests/scenarios` is a test here. Needs root.
//!
//! The test harness runs as many at a time as there are cores.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use shunt_kind_tests::scenario::Scenario;

/// One test for each scenario: the directory is named like the test, with `-` for `_`.
macro_rules! scenarios {
    ($($name:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($name)),*];

        $(
            #[test]
            fn $name() -> Result<()> {
                play(stringify!($name))
            }
        )*
    };
}

scenarios! {
    cluster_ip_spreads_over_pods
}

fn play(test: &str) -> Result<()> {
    let directory = Scenario::home().join(test.replace('_', "-"));
    let played = Scenario::load(&directory)?.play()?;
    println!("{test}: {} steps, {} flows", played.steps, played.flows);
    Ok(())
}

#[test]
fn no_scenario_is_forgotten() -> Result<()> {
    let mut directories = BTreeSet::new();
    for entry in std::fs::read_dir(Scenario::home())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().into_string().ok().context("a name that is text")?;
            directories.insert(name.replace('-', "_"));
        }
    }
    let listed: BTreeSet<_> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(listed, directories, "the list in {} and the directories", file!());
    Ok(())
}
