//! What the command line accepts, and how it refuses.

use clap::CommandFactory;
use shunt_model::compile::{LocalSources, NodePortAddresses};

use super::*;
use crate::settings::DetectLocal;

fn run(flags: &[&str]) -> Result<RunArgs, clap::Error> {
    let cli = Cli::try_parse_from(["shunt", "run"].iter().chain(flags))?;
    match cli.command {
        Command::Run(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

/// The first line of what a wrong command line is answered.
fn refusal(flags: &[&str]) -> String {
    let error = run(flags).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// How settings are refused that only make no sense together.
fn conflict(flags: &[&str]) -> String {
    match run(flags).unwrap().plan.settings() {
        Err(failure @ Failure::Usage(_)) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_kube_proxys_in_nftables_mode() {
    let args = run(&["--node-name", "Worker-1"]).unwrap();
    assert_eq!(args.metrics_bind_address, Bind::At("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(args.healthz_bind_address, Bind::At("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(args.verify_interval, Duration::from_secs(900));
    let settings = args.plan.settings().unwrap();
    assert_eq!(&*settings.node_name, "worker-1");
    assert_eq!(settings.node_port_addresses, NodePortAddresses::Primary);
    assert_eq!(settings.local_sources, LocalSources::Unknown);
    assert!(!settings.masquerade_all);
}

#[test]
fn kube_proxys_flags_are_understood() {
    let args = run(&[
        "--hostname-override=n",
        "--cluster-cidr=10.244.0.0/16,fd00::/48",
        "--nodeport-addresses=10.0.0.0/8,fd00::/8",
        "--metrics-bind-address=",
        "-v=4",
    ])
    .unwrap();
    let settings = args.plan.settings().unwrap();
    assert!(matches!(settings.local_sources, LocalSources::Cidrs(networks) if networks.len() == 2));
    assert!(
        matches!(settings.node_port_addresses, NodePortAddresses::Within(nets) if nets.len() == 2)
    );
    assert_eq!((args.metrics_bind_address, args.log.verbosity), (Bind::Off, 4));
    let args = run(&["--detect-local-mode=NodeCIDR"]).unwrap();
    assert_eq!(args.plan.detect_local_mode, DetectLocal::NodeCidr);
}

#[test]
fn wrong_values_are_refused_in_one_line() {
    expect_test::expect!["error: invalid value '10.244.0.0' for '--cluster-cidr <CIDR,...>': invalid IP address syntax"].assert_eq(&refusal(&["--cluster-cidr=10.244.0.0"]));
    expect_test::expect!["error: invalid value 'often' for '--verify-interval <DURATION>': not a duration such as 15m, 1h30m or 0"].assert_eq(&refusal(&["--verify-interval=often"]));
    expect_test::expect!["error: invalid value 'localhost:1' for '--metrics-bind-address <IP:PORT>': not ADDRESS:PORT; the default port is 10249"].assert_eq(&refusal(&["--metrics-bind-address=localhost:1"]));
    expect_test::expect![
        "error: the argument '--kubeconfig <FILE>' cannot be used with '--manifests <DIR>'"
    ]
    .assert_eq(&refusal(&["--kubeconfig=a", "--manifests=b"]));
    expect_test::expect!["error: invalid value 'BridgeInterface' for '--detect-local-mode <MODE>'"]
        .assert_eq(&refusal(&["--detect-local-mode=BridgeInterface"]));
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    expect_test::expect!["--nodeport-addresses: primary stands alone, or there are networks"]
        .assert_eq(&conflict(&["--nodeport-addresses=primary,10.0.0.0/8"]));
    expect_test::expect!["--nodeport-addresses: eth0 is not a network: invalid IP address syntax"]
        .assert_eq(&conflict(&["--nodeport-addresses=eth0"]));
    expect_test::expect!["--cluster-cidr: one network, or one of each family"]
        .assert_eq(&conflict(&["--cluster-cidr=10.0.0.0/8,11.0.0.0/8"]));
}
