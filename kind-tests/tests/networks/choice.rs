//! Which scenarios are played on every network, and what cannot be on some.

use shunt_cluster::Network;

use crate::LeftOut;

/// Every kind of frontend, both families alone and together, traffic policies, masquerade, hairpin, affinity, UDP,
/// refusals, live connections, and policy's truth table.
pub(crate) const SCENARIOS: &[&str] = &[
    // The longest first; it waits all the time.
    "policy-truth-table",
    "cluster-cidr-masquerades-outsiders",
    "cluster-ip-spreads-over-pods",
    "external-ip",
    "external-traffic-policy-local",
    "hairpin-pod-reaches-itself",
    "host-network-endpoints",
    "internal-traffic-policy-local",
    "load-balancer-source-ranges",
    "masquerade-all",
    "masquerade-and-policies",
    "no-endpoints-is-refused",
    "node-port",
    "pod-source-is-kept",
    "policy-behind-services",
    "policy-live-connections",
    "session-affinity",
    "single-stack-v4",
    "single-stack-v6",
    "udp-service",
    "undefined-port-of-cluster-ip-is-refused",
];

/// Those that have policies alone, whatever the backend: with IPVS they need not be played again.
pub(crate) const OF_POLICY: &[&str] = &["policy-live-connections", "policy-truth-table"];

/// What is played with IPVS where the network takes daemons: an API server for each, in a guest with one CPU.
pub(crate) const WITH_DAEMONS: &[&str] = &[
    "cluster-ip-spreads-over-pods",
    "hairpin-pod-reaches-itself",
    "node-port",
    "pod-source-is-kept",
    "udp-service",
];

/// What cannot be on a network, and why.
pub(crate) const NOT_ON: LeftOut = &[
    (Network::Macvlan, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::Macvlan, &["policy-behind-services"], "nor what their nodes have masqueraded"),
    (Network::Ipvlan, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::Ipvlan, &["policy-behind-services"], "nor what their nodes have masqueraded"),
    (Network::IpvlanL3, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::IpvlanL3, &["policy-behind-services"], "nor what their nodes have masqueraded"),
    (
        Network::IpvlanL3,
        &["external-traffic-policy-local", "masquerade-and-policies"],
        "a pod that asks a frontend with policy Local at its own node is not masqueraded, and gets no answer",
    ),
    (
        Network::IpvlanL3,
        &["host-network-endpoints"],
        "those of its own node see a pod as that node: its packets are the node's own",
    ),
    (Network::IpvlanL3s, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::IpvlanL3s, &["policy-behind-services"], "nor what their nodes have masqueraded"),
    (
        Network::IpvlanL3s,
        &["external-traffic-policy-local", "masquerade-and-policies"],
        "a pod that asks a frontend with policy Local at its own node is not masqueraded, and gets no answer",
    ),
    (
        Network::IpvlanL3s,
        &["host-network-endpoints"],
        "those of its own node see a pod as that node: its packets are the node's own",
    ),
];
