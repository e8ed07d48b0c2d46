//! What the command line accepts, and how it refuses.

use std::time::Duration;

use clap::CommandFactory;
use shunt_model::compile::{LocalSources, NodePortAddresses};
use shunt_model::interface::InterfacePattern;

use super::*;

fn run(flags: &[&str]) -> Result<RunArgs, clap::Error> {
    let cli = Cli::try_parse_from(["shunt", "run"].iter().chain(flags))?;
    match cli.command {
        Command::Run(args) => Ok(*args),
        other => panic!("{other:?}"),
    }
}

fn effective(flags: &[&str]) -> Effective {
    run(flags).unwrap().effective().unwrap().0
}

/// The first line of what a wrong command line is answered.
fn refusal(flags: &[&str]) -> String {
    let error = run(flags).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// How values are refused that are read only after the command line.
fn invalid(flags: &[&str]) -> String {
    match run(flags).unwrap().effective() {
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
    let made = effective(&["--node-name", "Worker-1"]);
    assert_eq!(made.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert_eq!(made.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(made.verify_interval, Duration::from_secs(900));
    assert_eq!(&*made.settings.node_name, "worker-1");
    assert_eq!(made.settings.node_port_addresses, NodePortAddresses::Primary);
    assert_eq!(made.settings.local_sources, LocalSources::Unknown);
    assert!(!made.settings.masquerade_all);
    assert!(made.notes.is_empty(), "{:?}", made.notes);
}

#[test]
fn kube_proxys_flags_are_understood() {
    let made = effective(&[
        "--hostname-override=n",
        "--cluster-cidr=10.244.0.0/16,fd00::/48",
        "--nodeport-addresses=10.0.0.0/8,fd00::/8",
        "--metrics-bind-address=",
        "--masquerade-all",
        "--masquerade-all=false",
        "-v=4",
    ]);
    let settings = made.settings;
    assert!(matches!(settings.local_sources, LocalSources::Cidrs(networks) if networks.len() == 2));
    assert!(
        matches!(settings.node_port_addresses, NodePortAddresses::Within(nets) if nets.len() == 2)
    );
    assert!(!settings.masquerade_all, "the last one counts, as in kube-proxy");
    assert_eq!((made.metrics, made.log.verbosity), (None, 4));
    let made = effective(&["--detect-local-mode=NodeCIDR"]);
    assert_eq!(made.settings.local_sources, LocalSources::NodePodCidrs);
    let made = effective(&["--proxy-mode=iptables"]);
    assert_eq!(made.settings.node_port_addresses, NodePortAddresses::Within(Vec::new()));
}

#[test]
fn wrong_values_are_refused_in_one_line() {
    expect_test::expect![[r#"error: invalid value 'often' for '--verify-interval <DURATION>': "often" is not a duration such as 15m, 1h30m or 0s"#]].assert_eq(&refusal(&["--verify-interval=often"]));
    expect_test::expect!["error: invalid value 'localhost:1' for '--metrics-bind-address <IP:PORT>': not ADDRESS or ADDRESS:PORT"].assert_eq(&refusal(&["--metrics-bind-address=localhost:1"]));
    expect_test::expect![
        "error: the argument '--kubeconfig <FILE>' cannot be used with '--manifests <DIR>'"
    ]
    .assert_eq(&refusal(&["--kubeconfig=a", "--manifests=b"]));
}

#[test]
fn invalid_values_are_all_named_with_their_fields() {
    expect_test::expect![[r#"
        oomScoreAdj: 5000 is invalid: must be within the range [-1000, 1000]
        nodePortAddresses[0]: "primary" is invalid: can't use both 'primary' and CIDRs
        conntrack.min: -1 is invalid: must be greater than or equal to 0
        clusterCIDR: "10.0.0.0" is invalid: must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"#]]
    .assert_eq(&invalid(&[
        "--nodeport-addresses=primary,10.0.0.0/8",
        "--oom-score-adj=5000",
        "--cluster-cidr=10.0.0.0",
        "--conntrack-min=-1",
    ]));
    expect_test::expect![[r#"
        nodePortAddresses[0]: "eth0" is invalid: must be a valid CIDR
        clusterCIDR: "10.0.0.0/8,11.0.0.0/8" is invalid: must be a either a single CIDR or dual-stack pair of CIDRs"#]]
    .assert_eq(&invalid(&["--nodeport-addresses=eth0", "--cluster-cidr=10.0.0.0/8,11.0.0.0/8"]));
    expect_test::expect![[r#"detectLocal.bridgeInterface: "" is invalid: must not be empty"#]]
        .assert_eq(&invalid(&["--detect-local-mode=BridgeInterface"]));
    expect_test::expect![[r#"detectLocal.interfaceNamePrefix: "cali*" is invalid: must be the name of an interface: 1 to 15 letters, digits and -_.@+"#]]
        .assert_eq(&invalid(&[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=cali*",
        ]));
}

#[test]
fn localhost_has_node_ports_as_the_mode_has_it() {
    let localhost = |flags: &[&str]| effective(flags).settings.localhost_node_ports;
    assert!(localhost(&["--proxy-mode=iptables"]));
    assert!(localhost(&["--proxy-mode=iptables", "--nodeport-addresses=127.0.0.0/8,10.0.0.0/8"]));
    assert!(localhost(&["--proxy-mode=iptables", "--nodeport-addresses=fd00::/8"]));
    assert!(localhost(&["--nodeport-addresses=127.0.0.0/8"]), "asked for");
    for flags in [
        &["--proxy-mode=iptables", "--iptables-localhost-nodeports=false"][..],
        &["--proxy-mode=iptables", "--nodeport-addresses=primary"],
        &["--proxy-mode=iptables", "--nodeport-addresses=10.0.0.0/8"],
        &["--proxy-mode=ipvs", "--nodeport-addresses=127.0.0.0/8"],
        &["--nodeport-addresses=0.0.0.0/0"],
        &[],
    ] {
        assert!(!localhost(flags), "{flags:?}");
    }
}

#[test]
fn local_pods_can_be_told_by_their_interface() {
    let made =
        effective(&["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"]);
    let prefix = InterfacePattern::Prefix("cali".parse().unwrap());
    assert_eq!(made.settings.local_sources, LocalSources::Interfaces(prefix));
    let made = effective(&["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"]);
    let bridge = InterfacePattern::Exact("cni0".parse().unwrap());
    assert_eq!(made.settings.local_sources, LocalSources::Interfaces(bridge));
}

#[test]
fn flags_that_mean_nothing_here_are_accepted_and_named() {
    let made = effective(&[
        "--kube-api-qps=50",
        "--iptables-min-sync-period=5s",
        "--iptables-masquerade-bit=7",
        "--feature-gates=AllAlpha=true",
        "--vmodule=proxier=4",
        "--boot-id-file=/x",
    ]);
    expect_test::expect![[r#"
        clientConnection.qps has no effect: shunt lists once and watches, so there is nothing to slow down
        nftables.minSyncPeriod has no effect: a change is written at once, what comes meanwhile with the next; shunt.verifyInterval says how often all is compared
        masqueradeBit has no effect: shunt sets and reads no packet mark
        featureGates has no effect: of kube-proxy's gates shunt has AllowServiceExternalIPs only
        logging.vmodule has no effect: use shunt.logLevel"#]].assert_eq(&made.notes.join("\n"));
}
