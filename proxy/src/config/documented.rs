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

#[test]
fn every_flag_is_documented() {
    let named = named();
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    let flags = run.get_arguments().filter_map(clap::Arg::get_long);
    let flags: Vec<_> = flags.filter(|flag| !["help", "v", "version"].contains(flag)).collect();
    assert!(flags.len() > 60, "{flags:?}");
    let missing: Vec<_> =
        flags.into_iter().filter(|flag| !named.contains(&format!("--{flag}"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
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
    let served = metrics::print(&Metrics::new().1);
    let families =
        served.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let short = |name: &str| {
        let prefixes = ["kubeproxy_", "shunt_"];
        prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_owned()
    };
    let on_demand = metrics::services::NAMES.iter().map(|(name, _)| *name);
    let families: Vec<_> = families.chain(on_demand).map(short).collect();
    assert!(families.len() > 30, "{families:?}");
    let missing: Vec<_> = families.into_iter().filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
