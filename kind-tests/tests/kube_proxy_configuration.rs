//! Flags and configuration files, held against kube-proxy itself: what it writes by
//! `--write-config-to`, and what it refuses.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use serde_json::Value;
use shunt::cli::{Cli, Command as Subcommand};
use shunt::config::{Effective, arguments, load};

fn kube_proxy() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/controlplane/kube-proxy");
    assert!(path.exists(), "{}: `make controlplane` builds it", path.display());
    path
}

/// What shunt makes of flags.
fn ours(flags: &[&str]) -> Result<Effective, String> {
    let words = ["shunt", "run"].iter().chain(flags).map(OsString::from);
    let cli = Cli::try_parse_from(arguments(words)).map_err(|error| error.to_string())?;
    let Subcommand::Run(args) = cli.command else { panic!("not run") };
    args.effective().map(|(effective, _)| effective).map_err(|failure| failure.to_string())
}

/// What kube-proxy writes, or why it refuses.
fn theirs(flags: &[&str]) -> Result<Value, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("written");
    let output = Command::new(kube_proxy())
        .args(flags)
        .arg("--write-config-to")
        .arg(&file)
        .output()
        .expect("kube-proxy");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(tree(&std::fs::read_to_string(file).expect("what it wrote")))
}

fn tree(yaml: &str) -> Value {
    let mut tree = serde_saphyr::from_str(yaml).expect("YAML");
    floats(&mut tree);
    tree
}

/// Numbers are equal whether they have a point or not.
fn floats(value: &mut Value) {
    match value {
        Value::Number(number) => *value = Value::from(number.as_f64()),
        Value::Array(items) => items.iter_mut().for_each(floats),
        Value::Object(fields) => fields.values_mut().for_each(floats),
        _ => {}
    }
}

#[test]
fn flags_make_the_same_configuration() {
    let cases: &[&[&str]] = &[
        &["--proxy-mode=iptables"],
        &["--proxy-mode=nftables", "--masquerade-all", "--iptables-min-sync-period=2s"],
        &["--proxy-mode=nftables", "--nodeport-addresses=10.0.0.0/8,fd00::/8"],
        // As Go programs may be told: other names, other booleans and numbers, and nothing.
        &[
            "--proxy_mode=",
            "--bind-address=::ffff:10.0.0.1",
            "--masquerade-all=T",
            "--profiling=1",
            "--cleanup=false",
            "--init-only=0",
            "--conntrack_min=0x10",
            "--conntrack-max-per-core=010",
            "--oom-score-adj=-0b11",
            "--feature-gates=",
            "--vmodule=",
            "--kubeconfig=",
            "--config=",
        ],
        &[
            "--proxy-mode=ipvs",
            "--nodeport-addresses=primary",
            "--ipvs-scheduler=lc",
            "--ipvs-exclude-cidrs=10.9.0.0/16,10.8.0.0/16",
            "--ipvs-strict-arp",
            "--ipvs-tcp-timeout=15m",
            "--ipvs-sync-period=1m",
            "--masquerade-all=true",
        ],
        &[
            "--proxy-mode=iptables",
            "--bind-address=::1",
            "--hostname-override=Worker",
            "--cluster-cidr=10.0.0.0/8,fd00::/48",
            "--detect-local-mode=NodeCIDR",
            "--conntrack-max-per-core=0",
            "--conntrack-min=7",
            "--conntrack-tcp-timeout-established=1h30m",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--conntrack-udp-timeout=10s",
            "--conntrack-udp-timeout-stream=1m",
            "--conntrack-tcp-be-liberal",
            "--oom-score-adj=-500",
            "--kube-api-qps=1.5",
            "--kube-api-burst=0",
            "--kube-api-content-type=application/json",
            "--config-sync-period=1h",
            "--kubeconfig=/x",
            "--profiling",
            "--iptables-masquerade-bit=0",
            "--iptables-localhost-nodeports=false",
            "--iptables-sync-period=45s",
            "-v=3",
            "--vmodule=a=1,b=2",
            "--log-flush-frequency=1s",
            "--feature-gates=AllAlpha=false",
            "--metrics-bind-address=0.0.0.0:1",
            "--healthz-bind-address=1.2.3.4:5",
            "--bind-address-hard-fail",
        ],
    ];
    for flags in cases {
        let theirs = theirs(flags).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
        let ours = ours(flags).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
        let ours = tree(&load::print(&ours.configuration).expect("YAML"));
        assert_eq!(ours, theirs, "{flags:?}");
    }
}

#[test]
fn files_make_the_same_configuration() {
    let bodies = [
        "",
        "mode: nftables\nnftables: {masqueradeAll: true}\n",
        "mode: ipvs\nipvs: {scheduler: sh}\nconntrack: {min: null, udpTimeout: 3s}\n",
        "portRange: 1-2\noomScoreAdj: 0\n",
        "bindAddress: '::'\nlogging: {format: json, verbosity: 4, flushFrequency: 2s}\n",
    ];
    for body in bodies {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config");
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        std::fs::write(&file, format!("{head}{body}")).expect("the file");
        let flags = ["--config", file.to_str().expect("a path"), "-v", "2"];
        let theirs = theirs(&flags).unwrap_or_else(|error| panic!("{body}: {error}"));
        let ours = ours(&flags).unwrap_or_else(|error| panic!("{body}: {error}"));
        let ours = tree(&load::print(&ours.configuration).expect("YAML"));
        assert_eq!(ours, theirs, "{body}");
    }
}

/// Each is refused by both, with the same value and the same words about what is allowed.
#[test]
fn the_same_is_refused() {
    const CASES: &[(&str, &str)] = &[
        ("--oom-score-adj=1001", "1001 must be within the range [-1000, 1000]"),
        ("--conntrack-max-per-core=-1", "-1 must be greater than or equal to 0"),
        ("--conntrack-udp-timeout=-2s", "-2s must be greater than or equal to 0"),
        ("--conntrack-tcp-timeout-established=-1h", "-1h0m0s must be greater than or equal to 0"),
        ("--kube-api-burst=-3", "-3 must be greater than or equal to 0"),
        ("--config-sync-period=0s", "0s must be greater than 0"),
        ("--iptables-sync-period=0s", "0s must be greater than 0"),
        ("--iptables-min-sync-period=-1s", "-1s must be greater than or equal to 0"),
        ("--iptables-masquerade-bit=32", "32 must be within the range [0, 31]"),
        ("--nodeport-addresses=primary,10.0.0.0/8", "primary can't use both 'primary' and CIDRs"),
        ("--nodeport-addresses=10.0.0.1", "10.0.0.1 must be a valid CIDR"),
        ("--conntrack-min=08", "08 invalid"),
        ("--profiling=yes", "yes invalid"),
        ("--log-flush-frequency=-1s", "-1s greater than"),
        ("--cluster-cidr=10.0.0.0", "10.0.0.0 must be a valid CIDR block"),
        ("--cluster-cidr=10.0.0.0/8,11.0.0.0/8", "10.0.0.0/8 single CIDR or dual-stack pair"),
        ("--detect-local-mode=BridgeInterface", "must not be empty"),
        ("--detect-local-mode=InterfaceNamePrefix", "must not be empty"),
        ("--detect-local-mode=Any", "Any \"ClusterCIDR\", \"NodeCIDR\", \"BridgeInterface\""),
    ];
    for (flag, words) in CASES {
        let flags = ["--proxy-mode=iptables", flag];
        let ours = ours(&flags).expect_err(flag);
        let theirs = theirs(&flags).expect_err(flag).replace('\\', "");
        // The value comes first, what is allowed after it; kube-proxy prints a pointer for some.
        let (value, allowed) = words.split_once(' ').expect("two parts");
        let allowed = if value == "must" { *words } else { allowed };
        assert!(theirs.contains(allowed), "{flag}: kube-proxy says {theirs}");
        assert!(ours.contains(allowed), "{flag}: we say {ours}");
        assert!(value == "must" || ours.contains(value), "{flag}: we say {ours}");
    }
}
