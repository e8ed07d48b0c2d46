//! New connections are counted, whoever forwards them, and everybody tells the same numbers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_kind_tests::scenario::shunt_binary;

use crate::rig::{CLIENT, NODE, POD, Rig, VIP, until};

const FRONTEND: &str = "10.96.0.11:80/tcp";

/// What `shunt status` tells of a frontend: its connections, and those of its endpoints.
fn told(rig: &Rig, frontend: &str) -> Result<(u64, BTreeMap<String, u64>)> {
    let binary = shunt_binary()?.display().to_string();
    let status: Value = serde_json::from_str(&rig.on_node(&[&binary, "status", "-o", "json"])?)?;
    let rows = status["frontends"].as_array().context("rows")?;
    let is = |row: &&Value| row["frontend"].as_str() == Some(frontend);
    let row = rows.iter().find(is).with_context(|| format!("{frontend} in {status}"))?;
    let connections = row["connections"].as_u64().with_context(|| format!("a count: {row}"))?;
    let of = row["endpoint_connections"].as_object().cloned().unwrap_or_default();
    let of = of.into_iter().map(|(endpoint, count)| (endpoint, count.as_u64().unwrap_or_default()));
    Ok((connections, of.collect()))
}

/// Connects so often from everywhere to the ClusterIP, and to the NodePort; by endpoint.
fn connect(rig: &Rig, times: u64) -> Result<BTreeMap<String, u64>> {
    let node_port = format!("{}:30080", rig.cluster.host(NODE)?.ip());
    let mut reached = BTreeMap::new();
    for _ in 0..times {
        let pod = rig.asks(POD, &format!("{VIP}:80"))?;
        let endpoint = format!("{}:8080", rig.cluster.host(&pod)?.ip());
        *reached.entry(endpoint).or_default() += 1;
        rig.asks(CLIENT, &node_port)?;
    }
    Ok(reached)
}

/// The metrics have a line with these words and this value.
fn exported(rig: &Rig, metric: &str, words: &[&str], value: u64) -> Result<()> {
    let all = rig.get("/metrics")?;
    let end = format!("}} {value}");
    let is = |line: &&str| {
        line.starts_with(metric)
            && words.iter().all(|word| line.contains(word))
            && line.ends_with(&end)
    };
    ensure!(all.trim_end().ends_with("# EOF"), "{all}");
    let found = all.lines().filter(is).count();
    let lines: Vec<_> = all.lines().filter(|line| line.contains("_connections")).collect();
    ensure!(found == 1, "{metric} {words:?} {value} is not one of {lines:#?}");
    Ok(())
}

fn check(rig: &Rig, total: u64, of: &BTreeMap<String, u64>) -> Result<()> {
    let (connections, endpoints) = told(rig, FRONTEND)?;
    ensure!(connections == total, "{connections} connections are told, not {total}");
    let counted: BTreeMap<_, _> = endpoints.into_iter().filter(|(_, count)| *count > 0).collect();
    ensure!(counted == *of, "{counted:?} is told, not {of:?}");
    let frontend = format!("frontend=\"{FRONTEND}\"");
    let service = "namespace=\"default\",service=\"web\",port=\"web\"";
    exported(rig, "shunt_frontend_connections_total", &[service, &frontend], total)?;
    for (endpoint, count) in of {
        let endpoint = format!("endpoint=\"{endpoint}\"");
        let words = [service, &*frontend, &endpoint];
        exported(rig, "shunt_endpoint_connections_total", &words, *count)?;
    }
    Ok(())
}

fn node_port(rig: &Rig) -> Result<u64> {
    let binary = shunt_binary()?.display().to_string();
    let status: Value = serde_json::from_str(&rig.on_node(&[&binary, "status", "-o", "json"])?)?;
    let rows = status["frontends"].as_array().context("rows")?;
    let is = |row: &&Value| row["type"] == "NodePort" && row["port"] == "web";
    rows.iter().find(is).and_then(|row| row["connections"].as_u64()).context("a NodePort's count")
}

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn connections_are_counted_by_ipvs() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1", "web-2"])?;
    let flags = ["--proxy-mode=ipvs", "--service-metrics"];
    rig.start(&flags)?;
    let of = connect(&rig, 6)?;
    // The kernel sums up what its processors have counted every two seconds.
    until(|| check(&rig, 6, &of))?;
    until(|| {
        ensure!(node_port(&rig)? == 6);
        Ok(())
    })?;
    let stats =
        rig.on_node(&["ipvsadm", "-L", "-n", "--stats", "--exact", "-t", "10.96.0.11:80"])?;
    let line = stats.lines().find(|line| line.contains("10.96.0.11:80")).context("a line")?;
    ensure!(line.split_whitespace().nth(2) == Some("6"), "{stats}");
    rig.kill()?;
    rig.start(&flags)?;
    check(&rig, 6, &of)
}

#[test]
#[ignore = "a test runs it in the guest"]
fn connections_are_counted_by_nftables() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1", "web-2"])?;
    let flags = ["--proxy-mode=nftables", "--counters=endpoints", "--service-metrics"];
    rig.start(&flags)?;
    let of = connect(&rig, 6)?;
    check(&rig, 6, &of)?;
    ensure!(node_port(&rig)? == 6);
    let listing = rig.on_node(&["nft", "list", "map", "inet", "shunt", "frontends_v4"])?;
    ensure!(listing.contains("10.96.0.11 . tcp . 80 counter packets 6 bytes"), "{listing}");
    // Without a daemon the kernel tells it, and to the next one.
    rig.kill()?;
    rig.start(&flags)?;
    check(&rig, 6, &of)?;
    // Fewer counters: what is still counted goes on.
    rig.kill()?;
    rig.start(&["--proxy-mode=nftables", "--counters=frontends", "--service-metrics"])?;
    check(&rig, 6, &BTreeMap::new())?;
    connect(&rig, 1)?;
    check(&rig, 7, &BTreeMap::new())
}
