//! `shunt doctor` in a namespace into which stock tools have put what it must find.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shunt_cluster::Netns;
use shunt_kind_tests::scenario::shunt_binary;

/// Each command, and the start of what the doctor says after it.
const AILMENTS: &[(&str, &str)] = &[
    ("sysctl -q -w net.ipv4.ip_forward=0", "net.ipv4.ip_forward is 0"),
    ("sysctl -q -w net.ipv4.conf.all.rp_filter=1", "rp_filter is strict (1) on one, two"),
    (
        "nft add table inet fw; add chain inet fw forwarded { type filter hook forward priority 0; \
         policy drop; }",
        "table inet fw, chain forwarded: drops at forward by default",
    ),
    (
        "nft add table ip early; add chain ip early pre { type nat hook prerouting priority -150; }",
        "other programs choose destinations before shunt: table ip early, chain pre",
    ),
    (
        "nft add table inet tenants; add chain inet tenants in { type filter hook prerouting priority raw; }; \
         add rule inet tenants in iifname one ct zone set 7",
        "some packets are put into zones of connection tracking: table inet tenants, chain in",
    ),
    (
        "iptables-nft -t raw -A OUTPUT -o two -j CT --zone 8",
        "some packets are put into zones of connection tracking: table inet tenants, chain in; table ip raw, \
         chain OUTPUT",
    ),
    ("nft add table ip kube-proxy", "kube-proxy's rules of nftables mode: table ip kube-proxy"),
    (
        "iptables-nft -t nat -N KUBE-SVC-AAAA",
        "kube-proxy's rules: table ip kube-proxy, and 1 chains",
    ),
    ("iptables-nft -N cali-FORWARD", "another policy engine is at work: Calico"),
    (
        "sysctl -q -w net.bridge.bridge-nf-call-iptables=0",
        "bridge br0: net.bridge.bridge-nf-call-iptables is not 1",
    ),
    ("ip link set flannel.1 up", "pod0 has an MTU of 1500, the overlay flannel.1 one of 1450"),
];

fn run(netns: &Netns, line: &str) -> Result<()> {
    let (program, rest) = line.split_once(' ').context("a command")?;
    let arguments: Vec<_> = match program {
        // nft takes its commands as one text.
        "nft" => vec![rest.to_owned()],
        _ => rest.split(' ').map(str::to_owned).collect(),
    };
    let program = program.to_owned();
    let output = netns.run(move || Command::new(program).args(arguments).output())?;
    ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What it says: its exit code and its findings.
fn doctor(netns: &Netns) -> Result<(Option<i32>, Vec<Value>)> {
    let binary = shunt_binary()?;
    let output = netns.run(move || Command::new(binary).args(["doctor", "-o", "json"]).output())?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.code(), serde_json::from_str(&told).with_context(|| told)?))
}

#[test]
fn each_ailment_is_found() -> Result<()> {
    let netns = Netns::new("doctor")?;
    run(&netns, "sysctl -q -w net.ipv4.ip_forward=1")?;
    run(&netns, "ip link add br0 mtu 1500 type bridge")?;
    // Without a pod's end on it a bridge concerns nobody.
    run(&netns, "ip link add pod0 mtu 1500 master br0 type veth peer name pod1 mtu 1400")?;
    // Nobody uses a tunnel that is down.
    run(&netns, "ip link add flannel.1 mtu 1450 type vxlan id 1 dstport 8472 local 127.0.0.1")?;
    // Two networks, so that there is another way back.
    run(&netns, "ip link add one mtu 1400 type veth peer name two mtu 1400")?;
    for (device, address) in [("one", "192.0.2.1/24"), ("two", "198.51.100.1/24")] {
        run(&netns, &format!("ip addr add {address} dev {device}"))?;
        run(&netns, &format!("ip link set {device} up"))?;
        run(&netns, &format!("sysctl -q -w net.ipv4.conf.{device}.rp_filter=0"))?;
    }
    run(&netns, "sysctl -q -w net.ipv4.conf.all.rp_filter=0")?;
    let (code, healthy) = doctor(&netns)?;
    let whats = |found: &[Value]| -> Vec<String> {
        found.iter().filter_map(|one| one["what"].as_str()).map(str::to_owned).collect()
    };
    assert_eq!(code, Some(0), "{healthy:?}");
    // What asks alone, and everything: neither takes an answer to another zone.
    run(&netns, "iptables-nft -t raw -A PREROUTING -i one -j CT --zone-orig 8")?;
    run(
        &netns,
        "nft add table inet one; add chain inet one in { type filter hook prerouting priority raw; }; \
         add rule inet one in ct original zone set iifname map { \"one\" : 7 }; add rule inet one in ct zone set 3",
    )?;
    let told = whats(&doctor(&netns)?.1);
    ensure!(!told.iter().any(|what| what.contains("zones")), "{told:?}");
    for (command, expected) in AILMENTS {
        let before = whats(&doctor(&netns)?.1);
        let known = before.iter().any(|what| what.starts_with(expected));
        ensure!(!known, "{expected:?} is said before {command:?}: {before:?}");
        run(&netns, command)?;
        let found = doctor(&netns)?.1;
        let after = whats(&found);
        ensure!(after.iter().any(|what| what.starts_with(expected)), "{command}: {after:#?}");
        for finding in found {
            for field in ["consequence", "remedy", "severity"] {
                ensure!(!finding[field].as_str().unwrap_or_default().is_empty(), "{finding}");
            }
        }
    }
    assert_eq!(doctor(&netns)?.0, Some(3), "the worst is a problem");
    run(&netns, "sysctl -q -w net.ipv4.ip_forward=1")?;
    assert_eq!(doctor(&netns)?.0, Some(0));
    Ok(())
}

/// The finding that begins with these words.
fn finding<'a>(found: &'a [Value], start: &str) -> Option<&'a Value> {
    found.iter().find(|one| one["what"].as_str().is_some_and(|what| what.starts_with(start)))
}

#[test]
fn a_second_proxy_is_found() -> Result<()> {
    let netns = Netns::new("second")?;
    let scratch = tempfile::tempdir()?;
    let program = scratch.path().join("kube-proxy");
    std::fs::copy("/bin/sleep", &program)?;
    let mut command = Command::new(&program);
    command.arg("60");
    let running = netns.spawn(command)?;
    let start = format!("kube-proxy runs as process {}", running.pid());
    let (code, found) = doctor(&netns)?;
    let second = finding(&found, &start).with_context(|| format!("{found:#?}"))?;
    assert_eq!((code, &second["severity"]), (Some(3), &Value::from("problem")));
    drop(running);
    let (_, found) = doctor(&netns)?;
    ensure!(finding(&found, &start).is_none(), "{found:#?}");
    Ok(())
}

#[test]
fn missing_rights_are_a_problem() -> Result<()> {
    let netns = Netns::new("rights")?;
    let binary = shunt_binary()?;
    let output = netns.run(move || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(binary);
        command.args(["doctor", "-o", "json"]).output()
    })?;
    let found: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let rights = finding(&found, "nf_tables cannot be read").context("it is not said")?;
    ensure!(rights["remedy"].as_str().unwrap_or_default().contains("CAP_NET_ADMIN"), "{rights}");
    assert_eq!(output.status.code(), Some(3));
    Ok(())
}

/// Rules of kube-proxy and of a CNI, as legacy iptables holds them.
const LEGACY: &[&str] = &[
    "iptables-legacy -t nat -N KUBE-SERVICES",
    "iptables-legacy -t nat -N CNI-HOSTPORT-DNAT",
    "iptables-legacy -t nat -A KUBE-SERVICES -d 10.96.0.10 -p tcp -j DNAT --to-destination 10.244.0.9",
    "iptables-legacy -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
    "iptables-legacy -t nat -A OUTPUT -j KUBE-SERVICES",
];

/// We do not change these tables, so what is told must be what helps.
#[test]
fn the_remedy_for_legacy_iptables_works() -> Result<()> {
    let netns = Netns::new("legacy")?;
    LEGACY.iter().try_for_each(|line| run(&netns, line))?;
    let found = doctor(&netns)?.1;
    let finding = finding(&found, "iptables-legacy has tables (nat)");
    let finding = finding.with_context(|| format!("{found:#?}"))?;
    let remedy = finding["remedy"].as_str().context("no remedy")?;
    let command = remedy.split('`').nth(1).with_context(|| remedy.to_owned())?.to_owned();
    let save = || netns.run(|| Command::new("iptables-legacy-save").output());
    let before = String::from_utf8(save()?.stdout)?;
    ensure!(before.contains("-A OUTPUT -j KUBE-SERVICES"), "{before}");
    let output = netns.run(move || Command::new("sh").args(["-c", &command]).output())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = String::from_utf8(save()?.stdout)?;
    ensure!(!after.contains("KUBE-") && after.contains("-j CNI-HOSTPORT-DNAT"), "{after}");
    Ok(())
}
