//! What the operator sets: networks that are left alone, ARP, timeouts, how long clients are remembered.

use anyhow::{Result, ensure};

use crate::rig::{NODE, POD, Rig, VIP, WEB, until};

/// What someone else has: a virtual server with a real server, and an address on the device.
fn foreigner(rig: &Rig) -> Result<()> {
    for words in [
        "ip link add kube-ipvs0 type dummy",
        "ip address add 192.0.2.1/32 dev kube-ipvs0",
        "ipvsadm -A -t 192.0.2.1:80 -s wlc",
        "ipvsadm -a -t 192.0.2.1:80 -r 198.51.100.1:80 -m -w 7",
    ] {
        rig.on_node(&words.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

fn foreigner_is_untouched(rig: &Rig) -> Result<()> {
    let saved = rig.on_node(&["ipvsadm", "--save", "--numeric"])?;
    for line in ["-A -t 192.0.2.1:80 -s wlc", "-a -t 192.0.2.1:80 -r 198.51.100.1:80 -m -w 7"] {
        ensure!(saved.lines().any(|saved| saved.trim() == line), "{line} is not in:\n{saved}");
    }
    let addresses = rig.on_node(&["ip", "-o", "address", "show", "kube-ipvs0"])?;
    ensure!(addresses.contains("192.0.2.1/32"), "{addresses}");
    Ok(())
}

fn cleanup(rig: &Rig) -> Result<String> {
    let binary = shunt_kind_tests::scenario::shunt_binary()?;
    rig.on_node(&[&binary.display().to_string(), "cleanup"])
}

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn what_is_excluded_or_of_others_stays() -> Result<()> {
    let mut rig = Rig::new()?;
    foreigner(&rig)?;
    rig.write("", &["web-1"])?;
    rig.start(&["--proxy-mode=ipvs", "--ipvs-exclude-cidrs=192.0.2.0/24"])?;
    foreigner_is_untouched(&rig)?;
    rig.kill()?;
    // From now on the Service's own network is the operator's.
    rig.start(&["--proxy-mode=ipvs", "--ipvs-exclude-cidrs=192.0.2.0/24,10.96.0.0/16"])?;
    rig.write_text("")?;
    until(|| {
        let addresses = rig.on_node(&["ip", "-o", "address", "show", "kube-ipvs0"])?;
        ensure!(!addresses.contains(VIP), "{addresses}");
        Ok(())
    })?;
    let servers = rig.virtual_servers()?;
    ensure!(
        servers.contains_key(WEB) && !servers.keys().any(|key| key.contains(":30080")),
        "{servers:?}"
    );
    foreigner_is_untouched(&rig)?;
    rig.kill()?;
    ensure!(cleanup(&rig)?.contains("virtual servers"));
    foreigner_is_untouched(&rig)?;
    let servers = rig.virtual_servers()?;
    ensure!(servers.keys().collect::<Vec<_>>() == ["TCP  192.0.2.1:80"], "{servers:?}");
    Ok(())
}

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn sysctls_and_timeouts_are_read_back() -> Result<()> {
    const ALWAYS: [(&str, &str); 4] = [
        ("net.ipv4.vs.conntrack", "1"),
        ("net.ipv4.vs.expire_nodest_conn", "1"),
        ("net.ipv4.vs.expire_quiescent_template", "1"),
        ("net.ipv4.ip_forward", "1"),
    ];
    const USUAL: (&[&str], [(&str, &str); 2]) = (
        &["--proxy-mode=ipvs"],
        [("net.ipv4.conf.all.arp_ignore", "3"), ("net.ipv4.conf.all.arp_announce", "0")],
    );
    const STRICT: (&[&str], [(&str, &str); 2]) = (
        &[
            "--proxy-mode=ipvs",
            "--ipvs-strict-arp",
            "--ipvs-tcp-timeout=1h",
            "--ipvs-tcpfin-timeout=30s",
            "--ipvs-udp-timeout=2m",
        ],
        [("net.ipv4.conf.all.arp_ignore", "1"), ("net.ipv4.conf.all.arp_announce", "2")],
    );
    for (flags, arp) in [USUAL, STRICT] {
        let mut rig = Rig::new()?;
        rig.write("", &["web-1"])?;
        rig.start(flags)?;
        for (name, wanted) in ALWAYS.iter().chain(&arp) {
            let value = rig.on_node(&["sysctl", "-n", name])?;
            ensure!(value.trim() == *wanted, "{name} is {value}, not {wanted}, with {flags:?}");
        }
        let timeouts = rig.on_node(&["ipvsadm", "-L", "--timeout"])?;
        let wanted = if flags.len() > 1 { "3600 30 120" } else { "900 120 300" };
        ensure!(timeouts.trim().ends_with(wanted), "{timeouts}");
    }
    Ok(())
}

/// What the Service's annotations name, over what is set for all; and changed in place, as a connection that goes on
/// shows.
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn the_scheduler_is_the_services_own() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.start(&["--proxy-mode=ipvs", "--ipvs-scheduler=lc"])?;
    let mut stream = rig.connect(POD, &format!("{VIP}:80"))?;
    for (annotation, scheduler) in [
        ("", "-s lc"),
        ("shunt.dev/ipvs-scheduler: sed", "-s sed"),
        ("shunt.dev/ipvs-scheduler: sh", "sh-fallback"),
        ("shunt.dev/balancing: hash-connection", "mh-port"),
    ] {
        rig.write(annotation, &["web-1"])?;
        until(|| {
            let saved = rig.on_node(&["ipvsadm", "--save", "--numeric"])?;
            let mut of_web = saved.lines().filter(|line| line.starts_with("-A -t 10.96.0.11:80 "));
            let told = of_web.any(|line| line.contains(scheduler));
            ensure!(told, "{annotation} gives:\n{saved}");
            Ok(())
        })?;
        stream.exchange("on")?;
    }
    Ok(())
}

/// Why source ranges and policies see the node otherwise than with nftables (`ipvs-node-is-the-frontend` in
/// docs/differences.md).
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn the_node_begins_at_the_address_that_it_asks() -> Result<()> {
    for (mode, from_itself) in [("ipvs", true), ("nftables", false)] {
        let mut rig = Rig::new()?;
        rig.write("", &["web-1"])?;
        rig.start(&[&format!("--proxy-mode={mode}")])?;
        let route = rig.on_node(&["ip", "-o", "route", "get", VIP])?;
        ensure!(route.contains(&format!("src {VIP} ")) == from_itself, "{mode}: {route}");
        ensure!(rig.asks(NODE, &format!("{VIP}:80"))? == "web-1");
    }
    Ok(())
}

/// Hours.
mod travels {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    /// The kernel forgets it after a quarter of an hour otherwise.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn a_silent_stream_lives_for_as_long_as_is_set() -> Result<()> {
        let mut rig = Rig::new()?;
        rig.write("", &["web-1"])?;
        rig.start(&["--proxy-mode=ipvs", "--ipvs-tcp-timeout=2h"])?;
        let mut stream = rig.connect(POD, &format!("{VIP}:80"))?;
        rig.write("", &["web-2"])?;
        sleep(Duration::from_secs(6600));
        rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
        stream.exchange("still here")?;
        // Long timers of the kernel fire a few per cent late.
        sleep(Duration::from_secs(8000));
        rig.expect(WEB, &[("web-2", 1)])
    }

    /// Three hours are the default of `sessionAffinity: ClientIP`.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn a_client_keeps_its_pod_for_three_hours() -> Result<()> {
        let mut rig = Rig::new()?;
        rig.write_sticky("ClientIP", "", &["web-1", "web-2"])?;
        rig.start(&["--proxy-mode=ipvs"])?;
        let web = format!("{VIP}:80");
        let first = rig.asks(POD, &web)?;
        for _ in 0..3 {
            sleep(Duration::from_secs(10_000));
            ensure!(rig.asks(POD, &web)? == first, "another pod than {first}");
            // Round robin would be at the other one by now.
            ensure!(rig.asks(POD, &web)? == first, "another pod than {first}");
        }
        let remembered = |rig: &Rig| -> Result<bool> {
            let all = rig.on_node(&["ipvsadm", "-L", "-n", "-c"])?;
            let client = format!("{}:0", rig.cluster.host(POD)?.ip());
            Ok(all.contains(&client))
        };
        ensure!(remembered(&rig)?);
        sleep(Duration::from_secs(10_000));
        ensure!(remembered(&rig)?, "the client is forgotten early");
        sleep(Duration::from_secs(2_000));
        ensure!(!remembered(&rig)?, "the client is not forgotten");
        Ok(())
    }
}
