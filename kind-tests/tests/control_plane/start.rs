//! How long a start takes until load balancers and kubelets are told that the node serves.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shunt_cluster::{ClusterSpec, NodeSpec};
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, Plane, PlaneSpec, http_get};

const NODE: &str = "node-1";
const SERVICES: &str = "1000";
const PATIENCE: Duration = Duration::from_secs(60);
/// How many starts there are: with nothing in the kernel, and with all of it.
const STARTS: [&str; 2] = ["first start", "restart"];

/// Green comes with the first sync and not before. How soon that is, is printed: no time is too long
/// on a machine that does other things.
#[test]
fn healthy_with_a_thousand_services() -> Result<()> {
    let cluster = ClusterSpec { nodes: vec![NodeSpec::new(NODE, &[])], ..Default::default() };
    let plane = Plane::start(&PlaneSpec { cluster, ..PlaneSpec::default() })?;
    plane.server().command(&["load", "--services", SERVICES, "--endpoints", "10"])?;
    let host = plane.cluster().host(NODE)?;
    let address = SocketAddr::new(host.ip(), 10256);
    for start in STARTS {
        let began = Instant::now();
        let mut daemon = Daemon::start(&plane, NODE, &DaemonSpec::default())?;
        loop {
            // Nobody listens at first.
            let code = http_get(host.netns(), address, "/healthz").map_or(0, |(code, _)| code);
            if code == 200 {
                break;
            }
            ensure!([0, 503].contains(&code), "/healthz answers {code}");
            ensure!(began.elapsed() < PATIENCE, "{}", daemon.describe());
            thread::sleep(Duration::from_millis(5));
        }
        let took = began.elapsed();
        let status = daemon.wait_for_status("green only when synced", |_| true)?;
        ensure!(status.synced && status.services >= 1000, "{status:?}");
        println!(
            "{start}: /healthz is 200 after {took:.2?} with {} Services; {:?}",
            status.services, status.first_sync
        );
        daemon.kill()?;
    }
    Ok(())
}
