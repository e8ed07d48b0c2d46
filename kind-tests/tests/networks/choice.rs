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
];

/// The same of those that only `SHUNT_NETWORKS=all` plays.
pub(crate) const NOT_ON_WITH_ALL: LeftOut = &[
    (Network::Macvlan, MORE_OF_POLICY, "policy does not see what pods say to one another"),
    (Network::Ipvlan, MORE_OF_POLICY, "policy does not see what pods say to one another"),
    (Network::IpvlanL3, MORE_OF_POLICY, "policy does not see what pods say to one another"),
    (Network::Bridge, BY_DEVICE, OTHER_DEVICES),
    (Network::BridgeUnseen, BY_DEVICE, OTHER_DEVICES),
    (Network::FlannelHostGw, BY_DEVICE, OTHER_DEVICES),
    (Network::FlannelVxlan, BY_DEVICE, OTHER_DEVICES),
    (Network::FlannelUdp, BY_DEVICE, OTHER_DEVICES),
    (Network::CniBridge, BY_DEVICE, OTHER_DEVICES),
    (Network::CniPtp, BY_DEVICE, OTHER_DEVICES),
    (Network::Macvlan, BY_DEVICE, OTHER_DEVICES),
    (Network::Ipvlan, BY_DEVICE, OTHER_DEVICES),
    (Network::IpvlanL3, BY_DEVICE, OTHER_DEVICES),
    (Network::Flanneld, BY_DEVICE, OTHER_DEVICES),
    (Network::FlannelHostGw, BY_CLIENT, HIDDEN),
    (Network::FlannelVxlan, BY_CLIENT, HIDDEN),
    (Network::FlannelUdp, BY_CLIENT, HIDDEN),
    (Network::Flanneld, BY_CLIENT, HIDDEN),
];

/// The client's address chooses the endpoint, whichever node it asks.
const BY_CLIENT: &[&str] = &["consistent-hash"];
const HIDDEN: &str = "the network itself gives a pod that asks another node its own node's address";

/// Who is local is told there by the name of a pod's device on its node. `local_detection` has what networks have.
const BY_DEVICE: &[&str] =
    &["masquerade-and-policies-by-bridge", "masquerade-and-policies-by-interface-prefix"];
const OTHER_DEVICES: &str = "packets of pods come in by another device";

/// Scenarios of policy between pods that are not in the choice.
const MORE_OF_POLICY: &[&str] = &[
    "cnp-fails-closed-on-bad-input",
    "cnp-live-connections",
    "cnp-nodes-and-networks",
    "cnp-truth-table",
    "policy-blocks-and-nodes",
    "policy-fails-closed-on-bad-input",
    "policy-host-network-and-ended-pods",
    "policy-stays-while-the-daemon-is-dead",
];
