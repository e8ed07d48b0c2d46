//! Whether a first packet arrives is told by the kernel. To be run as root.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use shunt_cluster::{Cluster, ClusterSpec, EchoServer, NodeSpec, first_packet_arrives, sent_again};

const PORT: u16 = 8080;
const CLOSED: u16 = 8081;
/// Drops what comes to the port.
const RULES: &str = "add table inet t; add chain inet t in { type filter hook input priority 0; }; \
                     add rule inet t in tcp dport 8080 drop";

#[test]
fn a_first_packet_that_is_lost_is_sent_again() -> Result<()> {
    let spec = ClusterSpec {
        nodes: vec![NodeSpec::new("node-1", &["asks", "web"])],
        ..ClusterSpec::default()
    };
    let cluster = Cluster::build(&spec)?;
    let (asks, web) = (cluster.host("asks")?.netns(), cluster.host("web")?);
    let to = |port| SocketAddr::new(web.ip(), port);
    let _server = EchoServer::start(web.netns(), "web", &[PORT])?;
    ensure!(first_packet_arrives(asks, to(PORT))?, "nothing keeps it");
    ensure!(!first_packet_arrives(asks, to(CLOSED))?, "it is refused");
    ensure!(sent_again(asks)? == 0, "nothing was lost");

    let mut nft = Command::new("nft");
    nft.arg(RULES);
    ensure!(web.netns().run(move || nft.status())?.success(), "{RULES}");
    let began = Instant::now();
    ensure!(!first_packet_arrives(asks, to(PORT))?, "it is dropped");
    ensure!(began.elapsed() > Duration::from_secs(1), "the kernel waits for a second");
    ensure!(sent_again(asks)? > 0, "it is sent again");
    Ok(())
}
