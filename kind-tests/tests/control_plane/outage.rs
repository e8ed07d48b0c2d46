//! The API server dies, shunt dies, both come back: clients notice nothing.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shunt_cluster::{Load, LoadSpec, Process, Protocol};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, expect};
use shunt_model::plan::Plan;

use crate::site::{NODES, Site, cluster_ips, id, node_port, service, web_ports};

/// How long the API server is away for daemons that run, and for one that starts.
const AWAY: Duration = Duration::from_secs(3);

/// What `nft monitor` sees on a node.
struct Monitor {
    _process: Process,
    output: PathBuf,
}

impl Monitor {
    fn start(site: &Site, node: &str) -> Result<Self> {
        let output = site.plane.scratch().join(format!("monitor-{node}"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nft", "monitor"]);
        command.stdin(Stdio::null()).stdout(File::create(&output)?);
        let process = site.host(node).netns().spawn(command)?;
        Ok(Self { _process: process, output })
    }

    /// The lines that tell of the table being taken away, or of elements that name one of these.
    /// (Chains come and go with the pools that use them; the kernel keeps those in use.)
    fn deletions_of(&self, words: &[String]) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.output)?;
        let lines = text.lines().filter(|line| {
            let element = line.starts_with("delete element");
            let table = line.starts_with("delete table") || line.starts_with("destroy table");
            table || element && words.iter().any(|word| line.contains(word))
        });
        Ok(lines.map(str::to_owned).collect())
    }
}

/// Steady traffic of all kinds to one Service.
fn loads(site: &Site, steady: &Value) -> Result<Vec<Load>> {
    let ips = cluster_ips(steady)?;
    let node_2 = site.host("node-2").ip();
    let flows = [
        ("shop-1", Protocol::Tcp, SocketAddr::new(ips[0], 80)),
        ("shop-1", Protocol::Tcp, SocketAddr::new(ips[1], 80)),
        ("node-1", Protocol::Udp, SocketAddr::new(ips[0], 53)),
        ("outside", Protocol::Tcp, SocketAddr::new(node_2, node_port(steady, 0)?)),
        (
            "outside",
            Protocol::Udp,
            SocketAddr::new(site.host("node-1").ip(), node_port(steady, 1)?),
        ),
    ];
    let start = |(from, protocol, destination): (&str, _, _)| {
        let spec = LoadSpec {
            protocol,
            destination,
            per_second: 40,
            duration: Duration::from_secs(600),
            timeout: Duration::from_secs(10),
        };
        Load::start(site.host(from).netns(), &spec)
    };
    flows.into_iter().map(start).collect()
}

#[test]
fn clients_outlive_the_api_server_and_the_daemon() -> Result<()> {
    let mut site = Site::build()?;
    let spec =
        json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": web_ports()});
    let steady = site.create_service("steady", spec)?;
    site.create_service(
        "doomed",
        json!({"ipFamilyPolicy": "RequireDualStack", "ports": web_ports()}),
    )?;
    site.settle("steady", &["web-1", "web-2"], &[])?;
    site.settle("doomed", &["web-1", "web-2"], &[])?;
    let running = loads(&site, &steady)?;

    // Nobody can be asked later.
    let snapshot = expect::snapshot(site.plane.api())?;
    let plans = NODES.map(|node| expect::plan(node, &snapshot));
    the_server_dies(&mut site, &plans)?;
    the_daemon_starts_without_it(&mut site, &plans)?;
    let monitors = NODES.map(|node| Monitor::start(&site, node));
    let monitors = monitors.into_iter().collect::<Result<Vec<_>>>()?;
    it_comes_back_and_things_change(&mut site)?;
    a_restart_writes_nothing(&mut site)?;

    let mut live: Vec<_> = cluster_ips(&steady)?.iter().map(ToString::to_string).collect();
    live.extend([node_port(&steady, 0)?, node_port(&steady, 1)?].map(|port| port.to_string()));
    for monitor in &monitors {
        let deletions = monitor.deletions_of(&live)?;
        assert!(deletions.is_empty(), "{deletions:#?}");
    }
    for load in running {
        let report = load.stop()?;
        println!("{report}");
        assert!(report.sent > 200, "{report}");
        assert_eq!(report.losses(), 0, "{report}");
    }
    // Not that nothing was refused: a kube-apiserver that starts knows no roles for a moment.
    site.daemons.iter().try_for_each(Daemon::expect_no_errors)
}

/// SIGKILL: running daemons notice, say so once, stay healthy and change nothing.
fn the_server_dies(site: &mut Site, plans: &[Plan]) -> Result<()> {
    site.plane.server_mut().kill()?;
    for daemon in &mut site.daemons {
        daemon.wait_for_log("the watch fails; trying again")?;
    }
    thread::sleep(AWAY);
    for daemon in &mut site.daemons {
        let status = daemon.wait_for_status("an answer", |_| true)?;
        assert!(status.synced && status.healthy, "{status:?}");
    }
    expect_unchanged(site, plans)
}

/// SIGKILL of the daemon as well. The new one waits, and what the former has installed serves.
fn the_daemon_starts_without_it(site: &mut Site, plans: &[Plan]) -> Result<()> {
    site.daemons.remove(0).kill()?;
    let mut daemon = Daemon::start(&site.plane, NODES[0], &DaemonSpec::default())?;
    daemon.wait_for_log("the watch fails; trying again")?;
    thread::sleep(AWAY);
    let status = daemon.wait_for_status("an answer", |_| true)?;
    assert!(!status.synced && !status.awaiting.is_empty(), "{status:?}");
    assert_eq!(status.counters.operations, 0, "{status:?}");
    site.daemons.insert(0, daemon);
    expect_unchanged(site, plans)
}

fn it_comes_back_and_things_change(site: &mut Site) -> Result<()> {
    site.plane.server_mut().resume()?;
    let api = site.plane.api();
    api.create(service("late", json!({"ports": web_ports()})))?;
    api.delete(&id("doomed"), 0)?;
    let ports = json!([{"name": "http", "port": 81, "targetPort": "http"}]);
    api.create(service("later", json!({"type": "NodePort", "ports": ports})))?;
    for daemon in &mut site.daemons {
        daemon.wait_until_synced()?;
        daemon.wait_for_log("the watch works again")?;
    }
    let plan = expect::settle(&site.plane, &NODES)?;
    let names: Vec<_> = plan.services.keys().map(|key| &*key.name).collect();
    assert_eq!(names, ["kubernetes", "late", "later", "steady"]);
    Ok(())
}

/// With everything as it was left, a new daemon writes no element.
fn a_restart_writes_nothing(site: &mut Site) -> Result<()> {
    let pods = ["web-1", "web-2"].map(|pod| site.host(pod).ip());
    site.plane.wait_for_endpoints("late", &pods, &[])?;
    expect::settle(&site.plane, &NODES)?;
    site.daemons.remove(0).kill()?;
    let mut daemon = Daemon::start(&site.plane, NODES[0], &DaemonSpec::default())?;
    let status = daemon.wait_until_synced()?;
    assert_eq!(status.counters.operations, 0, "{status:?}");
    site.daemons.insert(0, daemon);
    expect::settle(&site.plane, &NODES).map(drop)
}

fn expect_unchanged(site: &Site, plans: &[Plan]) -> Result<()> {
    for (node, plan) in NODES.iter().zip(plans) {
        let compared = expect::compare(site.host(node).netns(), plan)?;
        compared.map_err(anyhow::Error::msg).with_context(|| format!("{node} has changed"))?;
    }
    Ok(())
}
