//! `shunt config check`: what a configuration file would do.

use std::fmt::Write;
use std::path::Path;

use shunt_model::compile::{LocalSources, NodePortAddresses};

use super::kube_proxy::Mode;
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
    line("NodePorts on", node_ports(&effective.settings.node_port_addresses));
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
    }
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

fn node_ports(addresses: &NodePortAddresses) -> String {
    match addresses {
        NodePortAddresses::Primary => "the Node's own addresses".into(),
        NodePortAddresses::Within(networks) if networks.is_empty() => {
            "all addresses but loopback; nodePortAddresses: [primary] would be safer".into()
        }
        NodePortAddresses::Within(networks) => format!("addresses in {}", list(networks)),
    }
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
