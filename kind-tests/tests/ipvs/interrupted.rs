//! A takeover that is killed on the way, then `shunt cleanup`: nothing of ours is left, and what
//! stays of kube-proxy's is whole.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_cluster::Families;

use crate::rig::{NODE, Rig, until};

/// How many moments of a takeover, from its beginning to its end, are played.
const MOMENTS: u32 = 16;
const NFTABLES: &[&str] = &["--proxy-mode=nftables"];
/// Addresses of a former proxy, with a virtual server each or without. Those of UDP go at once.
const ADDRESSES: [&str; 4] = ["10.96.0.21", "10.96.0.22", "fd00:96::21", "fd00:96::22"];
/// Those from which the node has a connection.
const HELD: [&str; 2] = ["10.96.0.22", "fd00:96::22"];

/// What kube-proxy's IPVS mode leaves, by stock tools.
fn kube_proxy_was_here(rig: &Rig) -> Result<()> {
    for words in [
        "ipset create KUBE-CLUSTER-IP hash:ip,port -exist",
        "ipset create KUBE-6-CLUSTER-IP hash:ip,port family inet6 -exist",
        "ip link add kube-ipvs0 type dummy",
        "ipvsadm -A -u 10.96.0.21:53 -s rr",
        "ipvsadm -A -u [fd00:96::21]:53 -s rr",
    ] {
        rig.on_node(&words.split(' ').collect::<Vec<_>>())?;
    }
    for address in ADDRESSES {
        rig.on_node(&["ip", "address", "add", address, "dev", "kube-ipvs0"])?;
    }
    Ok(())
}

/// All local routes of a node.
fn local_routes(rig: &Rig) -> Result<String> {
    let of = |family| rig.on_node(&["ip", family, "route", "show", "table", "local"]);
    Ok(of("-4")? + &of("-6")?)
}

/// Fails if a route of ours is there, or an address on the device has none.
fn expect_whole(rig: &Rig) -> Result<()> {
    let routes = local_routes(rig)?;
    ensure!(!routes.contains("proto 115"), "a route of ours is left:\n{routes}");
    let links = rig.on_node(&["ip", "-o", "address"])?;
    for line in links.lines().filter(|line| line.contains("kube-ipvs0")) {
        let address = line.split_whitespace().nth(3).and_then(|word| word.split('/').next());
        let address: IpAddr = address.context("an address")?.parse()?;
        let route = format!("local {address} dev kube-ipvs0");
        let link_local = matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
        ensure!(link_local || routes.contains(&route), "{line} has no route:\n{routes}");
    }
    Ok(())
}

/// Whatever is left of the former proxy goes.
fn clear(rig: &Rig) -> Result<()> {
    let script = "ip link delete kube-ipvs0; ipset destroy; ipvsadm -C; true";
    rig.on_node(&["sh", "-c", &format!("({script}) 2>/dev/null")]).map(drop)
}

/// Sockets that send from these addresses, to themselves: as long as they are, the addresses stay,
/// and our routes with them.
fn hold(rig: &Rig, addresses: &[&'static str]) -> Result<Vec<UdpSocket>> {
    let addresses = addresses.to_vec();
    let open = |address: &str| -> Result<UdpSocket> {
        let address: IpAddr = address.parse()?;
        let socket = UdpSocket::bind((address, 0))?;
        socket.connect((address, 9))?;
        Ok(socket)
    };
    rig.cluster.host(NODE)?.netns().run(move || addresses.into_iter().map(open).collect())
}

/// The addresses that are on the device.
fn kept(rig: &Rig) -> Result<Vec<&'static str>> {
    let addresses = rig.on_node(&["ip", "-o", "address"])?;
    let mut kept = ADDRESSES.to_vec();
    kept.retain(|address| addresses.contains(address));
    Ok(kept)
}

/// How long it takes from the daemon's start until only what is held is left.
fn undisturbed(rig: &mut Rig) -> Result<Duration> {
    kube_proxy_was_here(rig)?;
    let held = hold(rig, &HELD)?;
    let began = Instant::now();
    rig.start(NFTABLES)?;
    until(|| {
        let kept = kept(rig)?;
        ensure!(kept == HELD, "{kept:?}\n{}", rig.log());
        Ok(())
    })?;
    let took = began.elapsed();
    drop(held);
    until(|| {
        let kept = kept(rig)?;
        ensure!(kept.is_empty(), "{kept:?}\n{}", rig.log());
        Ok(())
    })?;
    rig.kill()?;
    expect_whole(rig)?;
    rig.cleanup()?;
    clear(rig)?;
    Ok(took)
}

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn at_any_moment() -> Result<()> {
    let mut rig = Rig::of(Families::Dual)?;
    rig.write("", &["web-1"])?;
    let took = undisturbed(&mut rig)?;
    let mut amid = 0;
    for moment in 0..MOMENTS {
        kube_proxy_was_here(&rig)?;
        let held = hold(&rig, &HELD)?;
        rig.spawn(NFTABLES)?;
        thread::sleep(took * moment * 3 / (MOMENTS * 2));
        rig.kill()?;
        amid += u32::from(local_routes(&rig)?.contains("proto 115"));
        let told = rig.cleanup()?;
        let when = || format!("killed {moment} of {MOMENTS} into {took:.1?}; {told}");
        expect_whole(&rig).with_context(when)?;
        let tables = rig.on_node(&["nft", "list", "tables"])?;
        ensure!(!tables.contains("shunt"), "{tables}");
        drop(held);
        clear(&rig)?;
    }
    println!("{amid} of {MOMENTS} kills met routes of ours");
    ensure!(amid > 0 && amid < MOMENTS, "all were too early or too late");
    Ok(())
}

/// Our routes are there, and someone else has taken the addresses away.
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn when_the_addresses_have_gone() -> Result<()> {
    let mut rig = Rig::of(Families::Dual)?;
    rig.write("", &["web-1"])?;
    // By `shunt cleanup`, and by the next start.
    for restarts in [false, true] {
        kube_proxy_was_here(&rig)?;
        let held = hold(&rig, &HELD)?;
        rig.start(NFTABLES)?;
        let has_routes = |rig: &Rig| -> Result<bool> {
            let routes = local_routes(rig)?;
            let is_ours = |address: &&str| {
                routes.lines().any(|line| line.contains(*address) && line.contains("proto 115"))
            };
            Ok(HELD.iter().all(is_ours))
        };
        until(|| {
            ensure!(has_routes(&rig)?, "{}\n{}", local_routes(&rig)?, rig.log());
            Ok(())
        })?;
        rig.kill()?;
        clear(&rig)?;
        ensure!(has_routes(&rig)?, "a route goes with its address");
        if restarts {
            rig.start(NFTABLES)?;
            until(|| expect_whole(&rig))?;
            rig.kill()?;
        }
        rig.cleanup()?;
        expect_whole(&rig)?;
        drop(held);
    }
    Ok(())
}
