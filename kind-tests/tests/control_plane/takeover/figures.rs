//! The table of docs/migration.md: a row for each takeover and back, by the test that has done it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use shunt_cluster::Report;

const BEGIN: &str = "<!-- takeovers:begin, written by `make bench BENCH=--write-docs` -->";
const END: &str = "<!-- takeovers:end -->";
const HEAD: &str = "\
| from, to, Services | connections a second, in all | refused | failed (reset) | timed out | slowest | from kube-proxy's end to ours in its place |
|---|---|---:|---:|---:|---:|---:|
";

/// What a takeover and the way back have come to.
pub(super) struct Figures<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) services: usize,
    /// New connections asked for a second.
    pub(super) rate: u32,
    pub(super) took: Duration,
    pub(super) reports: &'a [Report],
}

impl Figures<'_> {
    /// Its row of the table.
    pub(super) fn row(&self) -> String {
        let sum = |of: fn(&Report) -> u64| self.reports.iter().map(of).sum::<u64>();
        let slowest = self.reports.iter().map(|report| report.slowest).max().unwrap_or_default();
        format!(
            "| {}, {}, {} | {}, {} | {} | {} | {} | {} ms | {:.2} s |",
            self.from,
            self.to,
            self.services,
            self.rate,
            sum(|report| report.sent),
            sum(|report| report.refused),
            sum(|report| report.failed),
            sum(|report| report.timed_out),
            slowest.as_millis(),
            self.took.as_secs_f64(),
        )
    }
}

/// Puts the rows among what is printed into the document, if that is asked for. A row takes the
/// place of an older one of the same modes and number of Services.
pub(super) fn write(printed: &str) -> Result<()> {
    if env::var("SHUNT_WRITE_DOCS").is_err() {
        return Ok(());
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migration.md");
    let new = splice(&fs::read_to_string(&page)?, printed).context("no markers in migration.md")?;
    Ok(fs::write(&page, new)?)
}

fn splice(page: &str, printed: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (old, after) = rest.split_once(END)?;
    let rows = old.lines().chain(printed.lines()).filter_map(|line| Some((key(line)?, line)));
    let rows: BTreeMap<_, _> = rows.collect();
    let rows: String = rows.values().map(|row| format!("{row}\n")).collect();
    Some(format!("{before}{BEGIN}\n{HEAD}{rows}{END}{after}"))
}

/// What a row is about: its first cell. None for other lines.
fn key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix("| ")?.split_once(" | ")?;
    ["iptables, ", "nftables, ", "ipvs, "].iter().any(|mode| key.starts_with(mode)).then_some(key)
}

#[test]
fn a_row_takes_the_place_of_its_older_one() {
    let page = format!(
        "a\n{BEGIN}\n{HEAD}| ipvs, ipvs, 9 | 1 |\n| iptables, nftables, 9 | 1 |\n{END}\nb\n"
    );
    let new = splice(&page, "told\n| ipvs, ipvs, 9 | 2 |\n| ipvs, ipvs, 10 | 3 |\n").unwrap();
    let rows = "| iptables, nftables, 9 | 1 |\n| ipvs, ipvs, 10 | 3 |\n| ipvs, ipvs, 9 | 2 |\n";
    assert_eq!(new, format!("a\n{BEGIN}\n{HEAD}{rows}{END}\nb\n"));
}
