//! The real kube-proxy starts beside a running shunt, which tells of it, leaves it alone, and tells when it is gone.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use shunt_cluster::{ClusterSpec, Netns, NodeSpec};
use shunt_kind_tests::control_plane::{
    Daemon, DaemonSpec, KubeProxy, Plane, PlaneSpec, http_get, wait_for,
};

use crate::events::events;

const NODE: &str = "node-1";
/// kube-proxy's own are taken.
const ELSEWHERE: [&str; 2] =
    ["--metrics-bind-address=127.0.0.1:20249", "--healthz-bind-address=127.0.0.1:20256"];
/// It is looked for each ten seconds, and kube-proxy takes some to write its first rules.
const PATIENCE: Duration = Duration::from_mins(2);
/// How what is said of it begins.
const START: &str = "beside this shunt there are rules of kube-proxy";

#[test]
fn a_kube_proxy_that_starts_beside_is_told_of_until_it_is_gone() -> Result<()> {
    let cluster = ClusterSpec { nodes: vec![NodeSpec::new(NODE, &[])], ..Default::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    let netns = plane.cluster().host(NODE)?.netns();
    let mut daemon = Daemon::start(&plane, NODE, &DaemonSpec::default())?;
    daemon.wait_until_synced()?;
    expect_problems(netns, 0)?;

    let kube_proxy = KubeProxy::start_with(&plane, NODE, "nftables", &ELSEWHERE)?;
    wait_for_problem(&mut daemon, "table ip kube-proxy, ")?;
    expect_problems(netns, 1)?;
    wait_for_event(&plane, "SecondProxy", "Warning")?;
    kube_proxy.stop()?;
    // It is not ours to take away while we run: who goes back to kube-proxy starts it beside us.
    for family in ["ip", "ip6"] {
        run(netns, "nft", &["delete", "table", family, "kube-proxy"])?;
    }
    wait_for_none(&mut daemon)?;
    daemon.wait_for_log(&format!("no longer a problem: {START}"))?;
    expect_problems(netns, 0)?;
    wait_for_event(&plane, "SecondProxyGone", "Normal")?;

    let kube_proxy = KubeProxy::start_with(&plane, NODE, "iptables", &ELSEWHERE)?;
    wait_for_problem(&mut daemon, "ip nat chain KUBE-SERVICES")?;
    kube_proxy.stop()?;
    // What it says is to be done helps.
    daemon.stop()?;
    let mut daemon = Daemon::start(&plane, NODE, &DaemonSpec::default())?;
    daemon.wait_for_log("shunt has taken over")?;
    wait_for_none(&mut daemon)?;
    daemon.expect_permitted()
}

fn wait_for_problem(daemon: &mut Daemon, part: &str) -> Result<()> {
    wait_for(part, PATIENCE, || {
        let problems = daemon.status()?.map(|status| status.problems);
        Ok(problems.and_then(|problems| {
            let told = |text: &String| text.starts_with(START) && text.contains(part);
            if problems.iter().any(told) { Ok(()) } else { Err(format!("{problems:#?}")) }
        }))
    })
}

fn wait_for_none(daemon: &mut Daemon) -> Result<()> {
    wait_for("no word of kube-proxy", PATIENCE, || {
        let problems = daemon.status()?.map(|status| status.problems);
        Ok(problems.and_then(|problems| {
            let told = problems.iter().any(|text| text.starts_with(START));
            if told { Err(format!("{problems:#?}")) } else { Ok(()) }
        }))
    })
}

fn wait_for_event(plane: &Plane, reason: &str, kind: &str) -> Result<()> {
    wait_for(reason, PATIENCE, || {
        let events = events(plane)?;
        let is_it = events.iter().any(|event| {
            event["reason"] == reason
                && event["type"] == kind
                && event["regarding"]["kind"] == "Node"
                && event["regarding"]["name"] == NODE
        });
        Ok(if is_it { Ok(()) } else { Err(format!("{events:#?}")) })
    })
}

/// Fails unless the metric counts so many.
fn expect_problems(netns: &Netns, count: usize) -> Result<()> {
    let address = SocketAddr::from(([127, 0, 0, 1], 10249));
    let (_, body) = http_get(netns, address, "/metrics")?;
    let line = format!("shunt_problems{{kind=\"second-proxy\"}} {count}");
    ensure!(body.lines().any(|found| found == line), "{line} is not in {body}");
    Ok(())
}

fn run(netns: &Netns, program: &'static str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = netns.run(move || command.output())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
