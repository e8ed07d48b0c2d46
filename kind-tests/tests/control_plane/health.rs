//! The answers that load balancers, kubelets and dashboards know from kube-proxy, held against
//! kube-proxy's own where that runs beside us.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{ClusterSpec, Netns, NodeSpec, Process};
use shunt_kind_tests::control_plane::{
    Daemon, DaemonSpec, Id, KubeProxy, Plane, PlaneSpec, http_get,
};

const NODES: [&str; 2] = ["node-1", "node-2"];
const METRICS: &str = "127.0.0.1:10249";
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_until(what: &str, mut met: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if met()? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("{what} has not come in {PATIENCE:?}")
}

/// Code and body of one of the two health answers of a node.
fn health(plane: &Plane, path: &str) -> Result<(u16, Value)> {
    let host = plane.cluster().host(NODES[0])?;
    let (code, body) = http_get(host.netns(), SocketAddr::new(host.ip(), 10256), path)?;
    Ok((code, serde_json::from_str(&body).with_context(|| body)?))
}

fn codes(plane: &Plane) -> Result<(u16, u16)> {
    Ok((health(plane, "/healthz")?.0, health(plane, "/livez")?.0))
}

#[test]
fn health_follows_the_kernel_and_the_node() -> Result<()> {
    let cluster = ClusterSpec { nodes: vec![NodeSpec::new(NODES[0], &[])], ..Default::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    // Health turns red after two of these.
    let flags = ["--iptables-sync-period=1s", "--iptables-min-sync-period=0s", "--table-owner=off"];
    let spec = DaemonSpec { flags: flags.map(str::to_owned).to_vec(), ..Default::default() };
    let mut daemon = Daemon::start(&plane, NODES[0], &spec)?;
    daemon.wait_until_synced()?;
    wait_until("green at first", || Ok(codes(&plane)? == (200, 200)))?;
    let holder = holder_of_table(plane.cluster().host(NODES[0])?.netns(), "shunt")?;
    daemon.wait_for_status("a refused sync", |status| status.failure.is_some())?;
    wait_until("red", || Ok(codes(&plane)? == (503, 503)))?;
    drop(holder);
    wait_until("green", || Ok(codes(&plane)? == (200, 200)))?;
    follows_the_node(&plane)?;
    // A process that stands still answers nothing.
    daemon.freeze()?;
    ensure!(health(&plane, "/livez").is_err(), "an answer of a frozen process");
    daemon.thaw()?;
    wait_until("green again", || Ok(codes(&plane)? == (200, 200)))
}

fn follows_the_node(plane: &Plane) -> Result<()> {
    let (_, body) = health(plane, "/healthz")?;
    assert_eq!(body["nodeEligible"], true, "{body}");
    assert_eq!(body["status"]["IPv6"]["healthy"], true, "{body}");
    let node = Id::node(NODES[0]);
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    plane.api().patch(&node, json!({"spec": {"taints": taint}}))?;
    wait_until("the taint", || Ok(codes(plane)? == (503, 200)))?;
    assert_eq!(health(plane, "/healthz")?.1["nodeEligible"], false);
    plane.api().patch(&node, json!({"spec": {"taints": null}}))?;
    wait_until("the taint's end", || Ok(codes(plane)? == (200, 200)))?;
    plane.api().delete(&node, 0)?;
    wait_until("the Node's end", || Ok(codes(plane)? == (503, 200)))?;
    plane.api().create(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODES[0]},
    }))?;
    wait_until("the Node again", || Ok(codes(plane)? == (200, 200)))
}

/// Another program that owns a table of our name, so that the kernel refuses our writes.
pub(crate) fn holder_of_table(netns: &Netns, table: &'static str) -> Result<Process> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nft", "-i"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = netns.spawn(command)?;
    let mut input = process.pipes().0.context("a pipe")?;
    // Deleted only if it is there.
    writeln!(
        input,
        "add table inet {table}; delete table inet {table}; add table inet {table} {{ flags owner; }}"
    )?;
    // nft ends with its input.
    std::mem::forget(input);
    let listed = || {
        let output =
            netns.run(|| Command::new("nft").args(["list", "table", "inet", table]).output())?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("flags owner"))
    };
    wait_until("the table", listed)?;
    Ok(process)
}

#[test]
fn kube_proxys_metrics_and_pages_are_all_there() -> Result<()> {
    let nodes = NODES.map(|node| NodeSpec::new(node, &[])).to_vec();
    let cluster = ClusterSpec { nodes, ..Default::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    let _kube_proxy = KubeProxy::start(&plane, NODES[1], "nftables")?;
    let mut daemon = Daemon::start(&plane, NODES[0], &DaemonSpec::default())?;
    daemon.wait_until_synced()?;
    programmed(&plane)?;
    let read = |node, path| {
        let netns = plane.cluster().host(node)?.netns();
        http_get(netns, METRICS.parse()?, path)
    };
    wait_until("kube-proxy", || {
        let synced = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}";
        Ok(read(NODES[1], "/metrics").is_ok_and(|(_, body)| body.contains(synced)))
    })?;
    let ours = families("kubeproxy_", &read(NODES[0], "/metrics")?.1);
    let theirs = families("kubeproxy_", &read(NODES[1], "/metrics")?.1);
    ensure!(theirs.len() >= 9, "{theirs:?}");
    for (name, family) in &theirs {
        let found = ours.get(name).with_context(|| format!("{name} is missing"))?;
        // What has no value yet has no labels.
        if !family.1.is_empty() {
            assert_eq!(found, family, "{name}");
        }
    }
    let asked = "rest_client_requests_total{code=\"200\"";
    for node in NODES {
        let (_, body) = read(node, "/metrics")?;
        ensure!(body.lines().any(|line| line.starts_with(asked)), "{node}: {body}");
    }
    levels_change_at_run_time(&plane, &daemon)?;
    for path in ["/configz", "/flagz", "/statusz", "/proxyMode", "/healthz"] {
        let codes = NODES.map(|node| read(node, path).map(|(code, _)| code));
        let [ours, theirs] = codes;
        assert_eq!((ours?, theirs?), (200, 200), "{path}");
    }
    // Each has been asked for its health once.
    let [ours, theirs] = NODES.map(|node| read(node, "/metrics/slis"));
    let [ours, theirs] = [ours?.1, theirs?.1];
    let checked = families("kubernetes_", &theirs);
    ensure!(checked.len() == 2 && families("kubernetes_", &ours) == checked, "{ours}{theirs}");
    let counted =
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 1";
    for line in [counted, "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1"] {
        ensure!(ours.lines().any(|found| found == line), "{line}: {ours}");
        ensure!(theirs.lines().any(|found| found == line), "{line}: {theirs}");
    }
    assert_eq!(read(NODES[0], "/proxyMode")?.1, read(NODES[1], "/proxyMode")?.1);
    let configuration =
        |node| -> Result<Value> { Ok(serde_json::from_str(&read(node, "/configz")?.1)?) };
    let [ours, theirs] = NODES.map(configuration);
    let name = "kubeproxy.config.k8s.io";
    // kube-proxy prints its internal type, whose fields have other names than those of files.
    assert!(theirs?[name].is_object() && ours?[name]["mode"] == "nftables");
    Ok(())
}

/// Fails unless the log's levels follow a request, as klog's do.
fn levels_change_at_run_time(plane: &Plane, daemon: &Daemon) -> Result<()> {
    let netns = plane.cluster().host(NODES[0])?.netns();
    for (level, answer) in
        [("error", "shunt=error"), ("a=b=c", "--log-level a=b=c"), ("5", "shunt=debug")]
    {
        let mut stream = netns.tcp_connect(METRICS.parse()?, PATIENCE)?;
        let length = level.len();
        write!(stream, "PUT /debug/flags/v HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{level}")?;
        let mut told = String::new();
        stream.read_to_string(&mut told)?;
        ensure!(told.contains(answer), "{level}: {told}");
    }
    daemon.wait_for_log("other log levels")
}

/// Fails unless the time from an endpoint's change to its rules is measured.
fn programmed(plane: &Plane) -> Result<()> {
    let now = jiff::Timestamp::now().to_string();
    plane.api().create(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "timed"},
        "spec": {"ports": [{"port": 80}]},
    }))?;
    plane.api().create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "default", "name": "timed-1",
            "labels": {"kubernetes.io/service-name": "timed"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now}},
        "ports": [{"name": "", "port": 80}],
        "endpoints": [{"addresses": ["10.77.9.9"]}],
    }))?;
    let netns = plane.cluster().host(NODES[0])?.netns();
    let count = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} ";
    wait_until("the measurement", || {
        let (_, body) = http_get(netns, METRICS.parse()?, "/metrics")?;
        let line = body.lines().find_map(|line| line.strip_prefix(count));
        Ok(line.is_some_and(|count| count.trim() != "0"))
    })
}

/// The type and the names of the labels of each metric whose name begins so.
fn families(prefix: &str, text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(&format!("# TYPE {prefix}")) {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
            // OpenMetrics names a counter without its suffix.
            let suffix = if kind == "counter" && !name.ends_with("_total") { "_total" } else { "" };
            families.insert(format!("{name}{suffix}"), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for line in text.lines().filter_map(|line| line.strip_prefix(prefix)) {
        let Some((name, labels)) = line.split_once('{') else { continue };
        let base = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix).filter(|base| families.contains_key(*base))
            })
            .unwrap_or(name);
        if let Some((_, known)) = families.get_mut(base) {
            let labels = labels.split('}').next().unwrap_or_default().split(',');
            known.extend(labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned())));
        }
    }
    families
}
