//! A live node goes from one backend to the other and back.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_cluster::{Load, LoadSpec, Protocol, sent_again};

use crate::rig::{CLIENT, NODE, POD, Rig, VIP, by, until};

const IPVS: &[&str] = &["--proxy-mode=ipvs"];
const NFTABLES: &[&str] = &["--proxy-mode=nftables"];
/// New connections a second, from each place.
const RATE: u32 = 150;

/// Streams from a pod, from outside and from the node itself, and a flow of datagrams, held from before a switch.
struct Held(Vec<shunt_cluster::Connection>, shunt_cluster::UdpFlow, String);

impl Held {
    fn open(rig: &Rig) -> Result<Self> {
        let web = format!("{VIP}:80");
        let node_port = format!("{}:30080", rig.cluster.host(NODE)?.ip());
        let streams =
            [rig.connect(POD, &web)?, rig.connect(CLIENT, &node_port)?, rig.connect(NODE, &web)?];
        let flow = rig.flow(POD, &format!("{VIP}:53"))?;
        let server = by(&flow)?;
        Ok(Self(streams.into(), flow, server))
    }

    fn live(&mut self, when: &str) -> Result<()> {
        for stream in &mut self.0 {
            let local = stream.local();
            stream.exchange("here").with_context(|| format!("{when}: the stream from {local}"))?;
        }
        let server = by(&self.1).with_context(|| format!("{when}: the flow of datagrams"))?;
        ensure!(server == self.2, "{when}: the flow went to {server}");
        Ok(())
    }
}

fn loads(rig: &Rig) -> Result<Vec<Load>> {
    let node_port = format!("{}:30080", rig.cluster.host(NODE)?.ip());
    let web = format!("{VIP}:80");
    let from_to = [(POD, &web), (NODE, &web), (CLIENT, &node_port)];
    let start = |(from, to): (&str, &String)| {
        let spec = LoadSpec {
            protocol: Protocol::Tcp,
            destination: to.parse()?,
            per_second: RATE,
            duration: Duration::from_secs(120),
            timeout: Duration::from_secs(30),
        };
        Load::start(rig.cluster.host(from)?.netns(), &spec)
    };
    from_to.into_iter().map(start).collect()
}

fn restart(rig: &mut Rig, flags: &[&str]) -> Result<()> {
    rig.kill()?;
    rig.start(flags)
}

/// Under new connections from everywhere, with streams and datagrams from before each switch.
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn there_and_back_without_a_lost_connection() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1", "web-2"])?;
    rig.start(NFTABLES)?;
    let mut of_nftables = Held::open(&rig)?;
    let loads = loads(&rig)?;
    restart(&mut rig, IPVS)?;
    ensure!(!rig.virtual_servers()?.is_empty());
    of_nftables.live("nftables to IPVS")?;
    let mut of_ipvs = Held::open(&rig)?;
    restart(&mut rig, NFTABLES)?;
    let mut later = Held::open(&rig)?;
    // Longer than it takes to look for what has no connections.
    for _ in 0..9 {
        std::thread::sleep(Duration::from_secs(1));
        of_nftables.live("and back")?;
        of_ipvs.live("IPVS to nftables")?;
        later.live("from then on")?;
    }
    for load in loads {
        let report = load.stop()?;
        ensure!(report.losses() == 0 && report.sent > 500, "{report}");
    }
    for place in [POD, NODE, CLIENT] {
        let again = sent_again(rig.cluster.host(place)?.netns())?;
        ensure!(again == 0, "{again} attempts from {place} were lost at first");
    }
    // While IPVS has connections its addresses are guarded: no server of the node is reachable there.
    let unknown = rig
        .asks(POD, &format!("{VIP}:8080"))
        .err()
        .context("a server on all addresses answered")?;
    ensure!(unknown.to_string().contains("refused"), "{unknown}");
    restart(&mut rig, IPVS)?;
    of_nftables.live("to IPVS once more")?;
    of_ipvs.live("to IPVS once more, IPVS's own")?;
    later.live("to IPVS once more, later ones")
}

/// What is not ours stays.
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn nothing_of_others_is_removed() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.on_node(&["ipvsadm", "-A", "-t", "192.0.2.1:80", "-s", "rr"])?;
    rig.start(IPVS)?;
    rig.on_node(&["ip", "address", "add", "192.0.2.1/32", "dev", "kube-ipvs0"])?;
    restart(&mut rig, NFTABLES)?;
    until(|| {
        let all = rig.virtual_servers()?;
        ensure!(all.keys().collect::<Vec<_>>() == ["TCP  192.0.2.1:80"], "{all:?}");
        let addresses = rig.on_node(&["ip", "-o", "-4", "address", "show", "kube-ipvs0"])?;
        ensure!(addresses.lines().count() == 1 && addresses.contains("192.0.2.1"), "{addresses}");
        Ok(())
    })
}

/// Minutes.
mod travels {
    use super::*;

    /// The node reaches a local address from that address, and keeps it while it needs it: not for
    /// what begins later.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn the_nodes_own_connections_outlive_the_device() -> Result<()> {
        let mut rig = Rig::new()?;
        rig.write("", &["web-1"])?;
        let vip: IpAddr = VIP.parse()?;
        let web = format!("{VIP}:80");
        rig.start(IPVS)?;
        let mut early = rig.connect(NODE, &web)?;
        ensure!(early.local().ip() == vip, "from {}", early.local());
        restart(&mut rig, NFTABLES)?;
        let mut later = rig.connect(NODE, &web)?;
        ensure!(later.local().ip() != vip, "from {}", later.local());
        std::thread::sleep(Duration::from_secs(180));
        early.exchange("still here")?;
        ensure!(rig.on_node(&["ip", "link", "show", "kube-ipvs0"]).is_ok(), "the device has gone");
        early.close()?;
        std::thread::sleep(Duration::from_secs(180));
        ensure!(rig.on_node(&["ip", "link", "show", "kube-ipvs0"]).is_err(), "the device is there");
        later.exchange("still here")?;
        let routes = rig.on_node(&["ip", "route", "show", "table", "local"])?;
        ensure!(!routes.contains(VIP), "{routes}");
        // Back to IPVS: all is as at first.
        restart(&mut rig, IPVS)?;
        later.exchange("still here")?;
        ensure!(rig.connect(NODE, &web)?.local().ip() == vip, "a route of ours is left");
        Ok(())
    }

    /// IPVS goes when its last connection has ended and is forgotten; then nothing tells of it.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn nothing_of_ipvs_is_left_in_the_end() -> Result<()> {
        let mut rig = Rig::new()?;
        rig.write("", &["web-1"])?;
        rig.start(IPVS)?;
        let mut stream = rig.connect(POD, &format!("{VIP}:80"))?;
        restart(&mut rig, NFTABLES)?;
        for _ in 0..3 {
            std::thread::sleep(Duration::from_secs(600));
            stream.exchange("still here")?;
        }
        let all = rig.virtual_servers()?;
        ensure!(all.len() == 1, "{all:?}");
        // It goes on where it was.
        restart(&mut rig, NFTABLES)?;
        stream.exchange("still here")?;
        stream.close()?;
        std::thread::sleep(Duration::from_secs(180));
        ensure!(rig.virtual_servers()?.is_empty());
        ensure!(rig.on_node(&["ip", "link", "show", "kube-ipvs0"]).is_err(), "the device is there");
        let table = rig.on_node(&["nft", "list", "table", "inet", "shunt"])?;
        ensure!(!table.contains("ip saddr @virtual_addresses"), "{table}");
        ensure!(rig.asks(POD, &format!("{VIP}:80"))? == "web-1");
        Ok(())
    }
}
