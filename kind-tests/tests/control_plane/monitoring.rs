//! Dashboard and alerts, held against what a daemon serves: a real Prometheus scrapes it and evaluates
//! them. When each alert fires is in `monitoring/alerts.yaml`, which Prometheus' own tool plays.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{ClusterSpec, Netns, NodeSpec, Process};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Plane, PlaneSpec, http_get, wait_for};

use crate::manifests::home;

const NODE: &str = "node-1";
const METRICS: &str = "127.0.0.1:10249";
const PROMETHEUS: &str = "127.0.0.1:9090";
/// It scrapes and evaluates each second, and a rate needs two scrapes.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the panels of the common dashboard ask for (kubernetes-mixin, `dashboards/proxy.libsonnet`), without the
/// selection of a job; `go_goroutines` is left out, and answers other than 200, of which there are none.
const ASKED_BY_OTHERS: [&str; 10] = [
    "sum(up)",
    "sum(rate(kubeproxy_sync_proxy_rules_duration_seconds_count[5m]))",
    "histogram_quantile(0.99, rate(kubeproxy_sync_proxy_rules_duration_seconds_bucket[5m]))",
    "sum(rate(kubeproxy_network_programming_duration_seconds_count[5m])) by (instance)",
    "histogram_quantile(0.99, sum(rate(kubeproxy_network_programming_duration_seconds_bucket[5m])) by (instance, le))",
    "sum(rate(rest_client_requests_total{code=~\"2..\"}[5m]))",
    "histogram_quantile(0.99, sum(rate(rest_client_request_duration_seconds_bucket{verb=\"GET\"}[5m])) by (verb, le))",
    "process_resident_memory_bytes",
    "rate(process_cpu_seconds_total[5m])",
    "process_start_time_seconds",
];

/// Debian's `prometheus` or `promtool`.
fn tool(program: &str) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus.sh");
    let mut command = Command::new(script);
    command.arg(program);
    command
}

#[test]
fn each_alert_fires_when_it_should_and_else_none() -> Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control_plane/monitoring");
    let mut command = tool("promtool");
    let output = command.args(["test", "rules", "alerts.yaml"]).current_dir(directory).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}{told}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

#[test]
fn prometheus_finds_what_dashboards_and_alerts_ask_for() -> Result<()> {
    // It is fetched when it is used first.
    ensure!(tool("promtool").arg("--version").output()?.status.success(), "no promtool");
    let cluster = ClusterSpec { nodes: vec![NodeSpec::new(NODE, &[])], ..Default::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    let mut daemon = Daemon::start(&plane, NODE, &DaemonSpec::default())?;
    daemon.wait_until_synced()?;
    let netns = plane.cluster().host(NODE)?.netns();
    let _prometheus = start_prometheus(netns, plane.scratch())?;
    let mut asked: Vec<_> = ASKED_BY_OTHERS.map(str::to_owned).to_vec();
    asked.extend(panels()?);
    ensure!(asked.len() > 20, "{asked:?}");
    for query in asked {
        wait_for(&query, PATIENCE, || {
            let found = ask(netns, &format!("query?query={}", escape(&query)));
            let found = found.and_then(|data| Ok(data["result"].as_array().context("data")?.len()));
            Ok(match found {
                Ok(0) => Err("nothing".to_owned()),
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error:#}")),
            })
        })?;
    }
    wait_for("the rules' evaluation", PATIENCE, || {
        let rules = ask(netns, "rules")?["groups"][0]["rules"].as_array().cloned();
        let rules = rules.context("no rules")?;
        let state = |rule: &Value| (rule["health"] == "ok", rule["state"] == "inactive");
        let quiet = rules.len() == 10 && rules.iter().all(|rule| state(rule) == (true, true));
        Ok(if quiet { Ok(()) } else { Err(json!(rules).to_string()) })
    })
}

/// A Prometheus on the node that scrapes the daemon.
fn start_prometheus(netns: &Netns, scratch: &Path) -> Result<Process> {
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [home().canonicalize()?.join("monitoring/alerts.yaml")],
        "scrape_configs": [{"job_name": "shunt", "static_configs": [{"targets": [METRICS]}]}],
    });
    let file = scratch.join("prometheus.yaml");
    fs::write(&file, config.to_string())?;
    let output = File::create(scratch.join("prometheus.log"))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(tool("prometheus").get_program()).arg("prometheus");
    command.arg("--config.file").arg(&file);
    command.arg("--storage.tsdb.path").arg(scratch.join("series"));
    command.args(["--web.listen-address", PROMETHEUS]);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    netns.spawn(command)
}

/// What Prometheus' interface answers to a question.
fn ask(netns: &Netns, question: &str) -> Result<Value> {
    let address: SocketAddr = PROMETHEUS.parse()?;
    let (code, body) = http_get(netns, address, &format!("/api/v1/{question}"))?;
    let mut answer: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    ensure!(code == 200 && answer["status"] == "success", "{body}");
    Ok(answer["data"].take())
}

/// A text as a part of a URL.
fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        // Writing to a string cannot fail.
        let _ = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => write!(url, "{}", byte as char),
            _ => write!(url, "%{byte:02X}"),
        };
        url
    })
}

/// The queries of our dashboard, for all instances.
fn panels() -> Result<Vec<String>> {
    let dashboard = fs::read_to_string(home().join("monitoring/dashboard.json"))?;
    let dashboard: Value = serde_json::from_str(&dashboard)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let query = |target: &Value| Some(target["expr"].as_str()?.replace("$instance", ".*"));
    Ok(targets.filter_map(query).collect())
}
