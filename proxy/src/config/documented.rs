//! docs/configuration.md names every flag, field, path and metric there is.

use std::collections::BTreeSet;

use clap::CommandFactory;
use serde_json::Value;

use super::KubeProxyConfiguration;
use crate::cli::Cli;
use crate::metrics::{self, Metrics};
use crate::server::METRICS_PATHS;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// What stands in backticks. `.x` after `a.b` is `a.x`.
fn named() -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for line in DOCUMENT.lines() {
        let mut section = "";
        for token in line.split('`').skip(1).step_by(2) {
            if let Some(field) = token.strip_prefix('.') {
                named.insert(format!("{section}.{field}"));
            } else {
                section = token.rsplit_once('.').map_or(token, |(section, _)| section);
                named.insert(token.to_owned());
            }
        }
    }
    named
}

/// The paths of a configuration's fields.
fn fields(value: &Value, path: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(fields_of) if !fields_of.is_empty() => {
            for (name, value) in fields_of {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                fields(value, &path, into);
            }
        }
        _ => into.push(path.to_owned()),
    }
}

/// The flags of `shunt run`.
fn flags() -> BTreeSet<String> {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().filter_map(clap::Arg::get_long);
    let flags = flags.filter(|flag| !["help", "v", "version"].contains(flag));
    flags.map(|flag| format!("--{flag}")).collect()
}

/// The metrics that are served, without what begins and ends their names.
fn families() -> BTreeSet<String> {
    let served = metrics::print(&Metrics::new().1);
    let families =
        served.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let prefixes = ["kubeproxy_", "shunt_"];
    let short = |name| prefixes.iter().find_map(|prefix| str::strip_prefix(name, prefix));
    let on_demand = metrics::services::NAMES.iter().map(|(name, _)| *name);
    families.chain(on_demand).map(|name| short(name).unwrap_or(name).to_owned()).collect()
}

/// What stands in backticks in the first cells of the rows after a heading.
fn first_cells(heading: &str) -> BTreeSet<&'static str> {
    let (_, section) = DOCUMENT.split_once(heading).unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

#[test]
fn every_flag_is_documented() {
    let (named, flags) = (named(), flags());
    assert!(flags.len() > 60, "{flags:?}");
    let missing: Vec<_> = flags.difference(&named).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn nothing_is_documented_that_is_not() {
    let command = Cli::command();
    let arguments = command.find_subcommand("run").unwrap().get_arguments();
    let aliases = arguments.flat_map(|argument| argument.get_all_aliases().unwrap_or_default());
    let mut flags = flags();
    flags.extend(aliases.map(|alias| format!("--{alias}")));
    // curl's.
    let of_others = |name: &str| name == "--data";
    let named = named();
    let named = named.iter().filter_map(|name| name.split(['=', ' ']).next());
    let gone: Vec<_> = named
        .filter(|name| name.starts_with("--") && !flags.contains(*name) && !of_others(name))
        .collect();
    assert!(gone.is_empty(), "{gone:?}");
    let (metrics, families) = (first_cells("\n## Metrics"), families());
    assert!(metrics.len() > 20, "{metrics:?}");
    // What is not there is said in words; two come with their first value.
    let gone: Vec<_> = metrics.into_iter().filter(|name| !families.contains(*name)).collect();
    assert_eq!(gone, ["events", "iptables", "kubeproxy_", "policy", "shunt_"]);
}

#[test]
fn every_field_is_documented() {
    let named = named();
    let mut configuration = KubeProxyConfiguration::default();
    configuration.set_defaults();
    let mut paths = Vec::new();
    fields(&serde_json::to_value(&configuration).unwrap(), "", &mut paths);
    assert!(paths.len() > 50, "{paths:?}");
    let is_named = |path: &String| {
        let ends = path.match_indices('.').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| named.contains(&path[..end]))
    };
    let missing: Vec<_> = paths
        .iter()
        .filter(|path| !["apiVersion", "kind"].contains(&path.as_str()) && !is_named(path))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_path_and_metric_is_documented() {
    let named = named();
    let missing: Vec<_> = METRICS_PATHS.iter().filter(|path| !named.contains(**path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let families = families();
    assert!(families.len() > 30, "{families:?}");
    let missing: Vec<_> = families.difference(&named).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
