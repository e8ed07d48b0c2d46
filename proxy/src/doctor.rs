//! `shunt doctor`: what on this machine keeps Services from working, or may.
//!
//! It only reads: nf_tables and the links over netlink, the rest from /proc. Each finding says
//! what follows from it and what to do.

mod anycast;
mod checksums;
mod hooks;
mod links;
mod machine;
mod reverse_path;

use std::fmt::Write;
use std::path::Path;

use anyhow::anyhow;
use serde::Serialize;
use shunt_nftables::{ruleset, zones};

pub(crate) use self::links::Instead;
use crate::cli::{self, DoctorArgs, Output};
use crate::failure::Failure;
use crate::links::{BridgeNetfilter, Link};
use crate::rivals;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Services do not work, or not all.
    Problem,
    /// Some traffic may fail.
    Warning,
    /// To know.
    Note,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// What follows.
    pub consequence: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn new(
        severity: Severity,
        what: impl Into<String>,
        consequence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (what, consequence, remedy) = (what.into(), consequence.into(), remedy.into());
        Self { severity, what, consequence, remedy }
    }
}

/// Looks, and prints what was found, the worst first.
///
/// # Errors
/// If there is a [`Severity::Problem`]: the machine lacks something.
pub fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let found = examine();
    let text = match args.output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&found)?),
        Output::Table | Output::Wide => print(&found),
    };
    cli::print(&text)?;
    let problems = found.iter().filter(|finding| finding.severity == Severity::Problem).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::machine(anyhow!("1 problem"))),
        number => Err(Failure::machine(anyhow!("{number} problems"))),
    }
}

/// All that is found on this machine, the worst first.
#[must_use]
pub fn examine() -> Vec<Finding> {
    let mut found = machine::findings(Path::new("/"));
    match ruleset::read() {
        Ok(ruleset) => found.extend(hooks::findings(&ruleset)),
        Err(error) => found.push(Finding::new(
            Severity::Problem,
            format!("nf_tables cannot be read: {error}"),
            "shunt cannot install anything, in either mode",
            "run as root or with CAP_NET_ADMIN; load nf_tables, nft_chain_nat and nft_fib",
        )),
    }
    // Rules that cannot be read are told above.
    found.extend(hooks::zones(&zones::read().unwrap_or_default()));
    let links = crate::links::read().unwrap_or_default();
    found.extend(links::findings(&links));
    found.extend(reverse_path::findings(Path::new("/"), &links));
    found.extend(anycast::findings(Path::new("/")));
    found.extend(checksums::findings(Path::new("/"), &links));
    found.extend(rivals::running().map(|what| {
        Finding::new(
            Severity::Problem,
            what,
            "shunt waits for its end and writes nothing, or the other one undoes what it writes",
            "remove it from this node: kubectl -n kube-system delete daemonset kube-proxy",
        )
    }));
    let legacy = "kube-proxy's rules in them would still be applied";
    let rest = rivals::rest(Path::new("/"));
    found.extend(rest.into_iter().map(|text| {
        let (what, remedy) = text.split_once(": ").unwrap_or((&text, ""));
        Finding::new(Severity::Note, what, legacy, remedy)
    }));
    found.sort_by_key(|finding| finding.severity);
    found
}

/// What keeps packets between pods of this machine from us, in words.
pub(crate) fn unseen_pods(
    links: &[Link],
    netfilter: BridgeNetfilter,
    instead: Instead,
) -> Vec<String> {
    let found = links::bridged(links, netfilter, || instead).into_iter();
    let found = found.chain(links::on_one_link(links, || instead));
    let wrong = found.filter(|finding| finding.severity != Severity::Note);
    let text = |Finding { what, consequence, remedy, .. }| {
        format!("{what}: {consequence}; to do: {remedy}")
    };
    wrong.map(text).collect()
}

fn print(found: &[Finding]) -> String {
    let mut out = String::new();
    for finding in found {
        let word = match finding.severity {
            Severity::Problem => "PROBLEM",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{word:<8} {}", finding.what);
        let _ = writeln!(out, "{:<8} consequence: {}", "", finding.consequence);
        let _ = writeln!(out, "{:<8} remedy: {}", "", finding.remedy);
    }
    if found.is_empty() {
        out.push_str("nothing stands in the way\n");
    }
    out
}
