//! `shunt config check`: what a configuration file would do.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use shunt_model::compile::{LocalSources, NodePortAddresses, Settings};

use super::kube_proxy::{Conntrack, Mode};
use super::{Effective, load};
use crate::cli;
use crate::failure::Failure;

/// Prints what a file would do, and what it says in vain.
///
/// # Errors
/// If it cannot be read or is invalid: then nothing would be done, and the exit code is 2.
pub fn check(file: &Path) -> Result<(), Failure> {
    let loaded = load::file(file).map_err(Failure::Usage)?;
    let effective = Effective::new(loaded.configuration)?;
    cli::print(&explain(&effective, &loaded.remarks))
}

/// The explanation, a line for each thing.
#[must_use]
pub fn explain(effective: &Effective, remarks: &[String]) -> String {
    let mut out = String::new();
    let mut line = |what: &str, text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:<19}{text}", format!("{what}:"));
    };
    line("mode", mode(effective.mode).to_owned());
    line("node", effective.settings.node_name.to_string());
    line("NodePorts on", node_ports(&effective.settings));
    line("local pods", local_sources(&effective.settings.local_sources));
    let masquerade = match &effective.settings {
        settings if settings.masquerade_all => "all traffic to ClusterIPs",
        settings if settings.local_sources == LocalSources::Unknown => {
            "no traffic to ClusterIPs but pods' own to themselves"
        }
        _ => "traffic to ClusterIPs from others than local pods",
    };
    line("masqueraded", masquerade.to_owned());
    let credentials = effective.kubeconfig.as_ref().map_or_else(
        || "as a pod, by its service account".to_owned(),
        |path| path.display().to_string(),
    );
    line("API server", credentials);
    let listen = |address: Option<_>| {
        address.map_or_else(
            || "nowhere".to_owned(),
            |address: std::net::SocketAddr| format!("http://{address}"),
        )
    };
    line("metrics", listen(effective.metrics));
    line("health", listen(effective.healthz));
    let verify = effective.verify_interval;
    line("verified", if verify.is_zero() { "never".into() } else { format!("every {verify:?}") });
    line("table owner", format!("{:?}", effective.table_owner).to_lowercase());
    line("counters", format!("{:?}", effective.counters).to_lowercase());
    line("network policy", format!("{:?}", effective.network_policy).to_lowercase());
    line("policy's log", if effective.policy_log { "on".into() } else { "off".into() });
    line("policy's counters", if effective.policy_counters { "on".into() } else { "off".into() });
    line("new pods", format!("{:?}", effective.new_pods).to_lowercase());
    let nri = effective.nri_socket.as_ref();
    line(
        "NRI socket",
        nri.map_or_else(|| "not used".to_owned(), |path| path.display().to_string()),
    );
    line("live connections", format!("{:?}", effective.live_connections).to_lowercase());
    line("bridges shown", format!("{:?}", effective.bridge_netfilter).to_lowercase());
    if effective.mode == Mode::Ipvs {
        line("without IPVS", format!("{:?}", effective.ipvs_fallback).to_lowercase());
        line("IPVS", asked(&effective.configuration.ipvs));
    }
    line("conntrack", conntrack(&effective.conntrack));
    line("oom_score_adj", effective.oom_score_adj.to_string());
    for text in remarks.iter().chain(&effective.notes) {
        line("note", text.clone());
    }
    out
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Iptables => "nftables, in place of iptables",
        Mode::Ipvs => "IPVS",
        Mode::Nftables => "nftables",
    }
}

fn node_ports(settings: &Settings) -> String {
    let loopback = settings.localhost_node_ports;
    match &settings.node_port_addresses {
        NodePortAddresses::Primary => "the Node's own addresses".into(),
        NodePortAddresses::Within(networks) if networks.is_empty() => {
            let loopback = if loopback { ", 127.0.0.1 too" } else { " but loopback" };
            format!("all addresses{loopback}; nodePortAddresses: [primary] would be safer")
        }
        NodePortAddresses::Within(networks) => format!("addresses in {}", list(networks)),
    }
}

fn conntrack(limits: &Conntrack) -> String {
    // Alone the least has no meaning.
    let min = limits.min.filter(|_| limits.max_per_core.is_some_and(|most| most > 0));
    match asked(&Conntrack { min, ..limits.clone() }) {
        nothing if nothing.is_empty() => "left as it is".into(),
        limits => {
            format!("{limits}; to change the machine's takes more than NET_ADMIN (--init-only)")
        }
    }
}

/// The fields of a section that ask for something, as a file names them.
fn asked(section: &impl Serialize) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(section) else { return String::new() };
    let idle = [Value::Null, json!(0), json!("0s"), json!(""), json!(false), json!([])];
    let asked = fields.iter().filter(|(_, value)| !idle.contains(value));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    asked.map(|(name, value)| format!("{name} {}", text(value))).collect::<Vec<_>>().join(", ")
}

fn local_sources(sources: &LocalSources) -> String {
    match sources {
        LocalSources::Unknown => "unknown".into(),
        LocalSources::Cidrs(networks) => format!("sources in {}", list(networks)),
        LocalSources::Interfaces(pattern) => format!("what comes in by {pattern}"),
        LocalSources::NodePodCidrs => "sources in the Node's podCIDRs".into(),
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
