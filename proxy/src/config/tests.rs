//! Configuration files: what is read from them, and how they are refused.

use shunt_model::compile::{LocalSources, NodePortAddresses};

use super::*;
use crate::failure::Failure;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn loaded(body: &str) -> load::Loaded {
    load::parse(&format!("{HEAD}{body}")).unwrap()
}

fn refused(text: &str) -> String {
    format!("{:#}", load::parse(text).unwrap_err())
}

fn invalid(body: &str) -> String {
    match Effective::new(loaded(body).configuration) {
        Err(failure @ Failure::Usage(_)) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The ConfigMap that kubeadm makes.
const KUBEADM: &str = r#"bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"#;

#[test]
fn all_that_is_wrong_with_our_own_settings_is_told_at_once() {
    let loaded = loaded(
        "mode: nftables\noomScoreAdj: 5000\nshunt: {networkPolicy: maybe, tableOwner: on, counters: \"\", dnsServers: [\"::1\", x]}\n",
    );
    let failure = Effective::new(loaded.configuration).unwrap_err();
    expect_test::expect![[r#"
        oomScoreAdj: 5000 is invalid: must be within the range [-1000, 1000]
        shunt.tableOwner: "on" is invalid: must be auto or off
        shunt.networkPolicy: "maybe" is invalid: must be auto, audit or off
        shunt.counters: "" is invalid: must be off, frontends or endpoints
        shunt.dnsServers[1]: "x" is invalid: must be an IP address"#]]
    .assert_eq(&failure.to_string());
}

#[test]
fn kubeadms_configuration_is_taken_as_it_is() {
    let loaded = loaded(KUBEADM);
    assert!(loaded.remarks.is_empty(), "{:?}", loaded.remarks);
    let made = Effective::new(loaded.configuration).unwrap();
    assert_eq!(made.mode, Mode::Iptables);
    assert_eq!(made.kubeconfig, Some("/var/lib/kube-proxy/kubeconfig.conf".into()));
    assert_eq!(made.settings.node_port_addresses, NodePortAddresses::Within(Vec::new()));
    assert!(matches!(made.settings.local_sources, LocalSources::Cidrs(nets) if nets.len() == 2));
    assert_eq!(made.conntrack.max_per_core, Some(32768));
    assert!(made.notes.is_empty(), "{:?}", made.notes);
}

#[test]
fn what_is_written_is_read_again_as_the_same() {
    let first = loaded(
        "mode: nftables\nclusterCIDR: 10.0.0.0/8\nshunt: {tableOwner: \"off\", counters: off}\n",
    );
    let words = [&first.configuration.shunt.table_owner, &first.configuration.shunt.counters];
    assert_eq!(words.map(Option::as_deref), [Some("off"); 2]);
    let text = load::print(&first.configuration).unwrap();
    let second = load::parse(&text).unwrap();
    assert_eq!(second.configuration, first.configuration);
    assert!(text.contains("tcpEstablishedTimeout: 24h0m0s"), "{text}");
}

#[test]
fn unknown_and_doubled_fields_are_named_and_do_no_harm() {
    let loaded =
        loaded("mode: ipvs\nmode: nftables\nflubber: 1\nconntrack: {mni: 7}\nipvs: {a: {b: 1}}\n");
    assert_eq!(loaded.configuration.mode, "nftables");
    expect_test::expect![[r#"
        line 4: duplicate mapping key: mode; the last one counts
        conntrack.mni: unknown field
        flubber: unknown field
        ipvs.a: unknown field"#]]
    .assert_eq(&loaded.remarks.join("\n"));
}

#[test]
fn what_is_no_configuration_is_refused() {
    let with = |body: &str| refused(&format!("{HEAD}{body}"));
    expect_test::expect!["kind: must be KubeProxyConfiguration: the file is empty"]
        .assert_eq(&refused(""));
    expect_test::expect![[r#"kind: "Pod" is not known: must be KubeProxyConfiguration"#]]
        .assert_eq(&refused("kind: Pod\n"));
    expect_test::expect!["apiVersion: is missing: must be kubeproxy.config.k8s.io/v1alpha1"]
        .assert_eq(&refused("kind: KubeProxyConfiguration\n"));
    expect_test::expect![[r#"conntrack.min: invalid type: string "many", expected i32"#]]
        .assert_eq(&with("conntrack: {min: many}"));
    expect_test::expect![[
        r#"iptables.syncPeriod: "soon" is not a duration such as 15m, 1h30m or 0s"#
    ]]
    .assert_eq(&with("iptables: {syncPeriod: soon}"));
    expect_test::expect!["conntrack: invalid type: sequence, expected a map"]
        .assert_eq(&with("conntrack: [5, 6]"));
    expect_test::expect!["logging.options.json: invalid type: sequence, expected a map"]
        .assert_eq(&with("logging: {options: {json: []}}"));
    expect_test::expect!["shunt: invalid type: sequence, expected a map"]
        .assert_eq(&with("shunt: [auto]"));
    expect_test::expect!["line 3: unclosed bracket '['"].assert_eq(&with("conntrack: [\n"));
}

#[test]
fn invalid_fields_are_named_by_their_path() {
    expect_test::expect![[r#"
        bindAddress: "localhost" is invalid: not a valid textual representation of an IP address
        metricsBindAddress: "localhost:1" is invalid: must be IP:port
        ipvs.tcpTimeout: -1s is invalid: must be greater than or equal to 0
        ipvs.excludeCIDRs[0]: "x" is invalid: must be a valid CIDR
        ipvs.syncPeriod: 1s is invalid: must be greater than or equal to ipvs.minSyncPeriod
        logging.flushFrequency: "soon" is invalid: must be a duration greater than 0
        logging.vmodule[0].filePattern: "a=b" is invalid: must not be empty, nor contain an equal sign or comma"#]]
    .assert_eq(&invalid(
        "mode: ipvs\nbindAddress: localhost\nmetricsBindAddress: localhost:1\n\
         ipvs: {tcpTimeout: -1s, excludeCIDRs: [x], syncPeriod: 1s, minSyncPeriod: 2s}\n\
         logging: {flushFrequency: soon, vmodule: [{filePattern: a=b}]}\n",
    ));
    expect_test::expect![[r#"mode: "ebpf" is invalid: must be iptables, ipvs, nftables or blank"#]]
        .assert_eq(&invalid("mode: ebpf\n"));
}

#[test]
fn a_file_is_explained() {
    let loaded =
        loaded("mode: iptables\nclusterCIDR: 10.0.0.0/8\nhostnameOverride: node-1\nx: 1\n");
    let made = Effective::new(loaded.configuration).unwrap();
    expect_test::expect![[r#"
        mode:              nftables, in place of iptables
        node:              node-1
        NodePorts on:      all addresses, 127.0.0.1 too; nodePortAddresses: [primary] would be safer
        local pods:        sources in 10.0.0.0/8
        masqueraded:       traffic to ClusterIPs from others than local pods
        API server:        as a pod, by its service account
        metrics:           http://127.0.0.1:10249
        health:            http://0.0.0.0:10256
        verified:          every 900s
        table owner:       auto
        counters:          off
        network policy:    auto
        policy's log:      on
        policy's counters: off
        new pods:          open
        NRI socket:        /var/run/nri/nri.sock
        live connections:  cut
        bridges shown:     auto
        conntrack:         maxPerCore 32768, min 131072, tcpCloseWaitTimeout 1h0m0s, tcpEstablishedTimeout 24h0m0s; to change the machine's takes more than NET_ADMIN (--init-only)
        oom_score_adj:     -999
        note:              x: unknown field
    "#]]
    .assert_eq(&check::explain(&made, &loaded.remarks));
}

#[test]
fn what_a_file_asks_of_ipvs_and_of_connection_tracking_is_told() {
    let loaded = loaded(
        "mode: ipvs\nipvs: {scheduler: mh, strictARP: true, excludeCIDRs: [192.0.2.0/24], tcpTimeout: 20s}\n\
         conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}\n",
    );
    let told = check::explain(&Effective::new(loaded.configuration).unwrap(), &[]);
    let line = |what: &str| told.lines().find(|line| line.starts_with(what)).unwrap_or_default();
    assert_eq!(
        line("IPVS:"),
        "IPVS:              excludeCIDRs [\"192.0.2.0/24\"], scheduler mh, strictARP true, syncPeriod 30s, tcpTimeout 20s"
    );
    assert_eq!(line("conntrack:"), "conntrack:         left as it is");
    assert_eq!(
        line("NodePorts on:"),
        "NodePorts on:      all addresses but loopback; nodePortAddresses: [primary] would be safer"
    );
}
