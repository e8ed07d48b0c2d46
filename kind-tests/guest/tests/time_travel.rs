//! Hours in seconds: timers of nftables, IPVS and conntrack where the guest's clock travels.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use shunt_guest::{Guest, Outcome};

fn travel(script: &str) -> Result<Outcome> {
    let guest = Guest::builder().memory(256).time_travel().timeout(Duration::from_mins(2));
    let outcome = guest.run(Command::new("sh").args(["-ec", script]))?;
    assert_eq!(outcome.code, 0, "{}\n{}", outcome.stdout, outcome.stderr);
    Ok(outcome)
}

#[test]
fn a_day_is_over_at_once() -> Result<()> {
    let started = Instant::now();
    let outcome = travel("date +%s; sleep 1d; date +%s")?;
    let times: Vec<u64> = outcome.stdout.lines().filter_map(|line| line.parse().ok()).collect();
    assert!((86_400..86_410).contains(&(times[1] - times[0])), "{times:?}");
    assert!(started.elapsed() < Duration::from_mins(1));
    Ok(())
}

/// What `sessionAffinity: ClientIP` rests on: 10800 s are its default.
#[test]
fn an_element_of_a_set_lives_for_three_hours() -> Result<()> {
    let outcome = travel(
        "nft add table inet t
        nft add set inet t clients '{ type ipv4_addr; timeout 3h; }'
        nft add element inet t clients '{ 10.0.0.1 }'
        sleep 10700; echo early; nft list set inet t clients
        sleep 200; echo late; nft list set inet t clients",
    )?;
    let (early, late) = outcome.stdout.split_once("late").unwrap_or_default();
    assert!(early.contains("10.0.0.1"), "{}", outcome.stdout);
    assert!(!late.is_empty() && !late.contains("10.0.0.1"), "{}", outcome.stdout);
    Ok(())
}

/// The kernel's timers are the coarser the longer they are: a template of 3 hours may live for some per cent more.
#[test]
fn a_persistence_template_lives_for_three_hours() -> Result<()> {
    let outcome = travel(
        "ip addr add 10.96.0.11/32 dev lo
        ip addr add 10.0.0.2/32 dev lo
        sysctl -qw net.ipv4.vs.conntrack=1
        ipvsadm -A -t 10.96.0.11:80 -s rr -p 10800
        ipvsadm -a -t 10.96.0.11:80 -r 10.0.0.2:8080 -m
        timeout 1 bash -c ': </dev/tcp/10.96.0.11/80' || true
        ipvsadm -Lnc
        sleep 10700; echo early; ipvsadm -Lnc
        sleep 1100; echo late; ipvsadm -Lnc",
    )?;
    let (before, late) = outcome.stdout.split_once("late").unwrap_or_default();
    let (_, early) = before.split_once("early").unwrap_or_default();
    assert!(early.contains("10.96.0.11:0"), "{}", outcome.stdout);
    assert!(!late.is_empty() && !late.contains("10.96.0.11:0"), "{}", outcome.stdout);
    Ok(())
}
