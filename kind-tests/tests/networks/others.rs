//! All scenarios that are neither in the choice nor about the lengths of packets. They are not played by `make test`.

use std::fs;

use anyhow::{Result, anyhow};
use shunt_cluster::Network;
use shunt_kind_tests::scenario::Scenario;

use crate::{LeftOut, Suite};

pub(crate) const BEGIN: &str = "<!-- others:begin, written by SHUNT_WRITE_DOCS=1 cargo test -p shunt-kind-tests --test networks -- --ignored every_other_scenario -->";
pub(crate) const END: &str = "<!-- others:end -->";

/// Their names, in order.
pub(crate) fn scenarios() -> Result<Vec<String>> {
    let known = [Suite::Choice.scenarios()?, Suite::Lengths.scenarios()?].concat();
    let mut names = Vec::new();
    for entry in fs::read_dir(Scenario::home())? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| anyhow!("{name:?}"))?;
        if entry.file_type()?.is_dir() && !known.contains(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What cannot be on a network, and why.
pub(crate) const NOT_ON: LeftOut = &[
    (Network::Macvlan, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::Ipvlan, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::IpvlanL3, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::IpvlanL3s, OF_POLICY, "policy does not see what pods say to one another"),
    (Network::IpvlanL3, LOCAL, NO_ANSWER),
    (Network::IpvlanL3s, LOCAL, NO_ANSWER),
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
    (Network::IpvlanL3s, BY_DEVICE, OTHER_DEVICES),
    (Network::Flanneld, BY_DEVICE, OTHER_DEVICES),
    (Network::FlannelHostGw, BY_CLIENT, HIDDEN),
    (Network::FlannelVxlan, BY_CLIENT, HIDDEN),
    (Network::FlannelUdp, BY_CLIENT, HIDDEN),
    (Network::Flanneld, BY_CLIENT, HIDDEN),
    (Network::Ipip, BY_NODE, AS_TUNNEL),
    (Network::FlannelVxlan, BY_NODE, AS_TUNNEL),
    (Network::FlannelUdp, BY_NODE, AS_TUNNEL),
    (Network::Geneve, BY_NODE, AS_TUNNEL),
    (Network::Gre, BY_NODE, AS_TUNNEL),
    (Network::Ip6Gre, BY_NODE, AS_TUNNEL),
    (Network::Sit, BY_NODE, AS_TUNNEL),
    (Network::Ip6Tnl, BY_NODE, AS_TUNNEL),
    (Network::Wireguard, BY_NODE, AS_TUNNEL),
    (Network::Flanneld, BY_NODE, AS_TUNNEL),
];

/// With IPVS besides.
pub(crate) const NOT_WITH_IPVS_ON: LeftOut = &[
    (Network::Ipip, OF_ANOTHER_NODE, CUT_OFF),
    (Network::FlannelVxlan, OF_ANOTHER_NODE, CUT_OFF),
    (Network::FlannelUdp, OF_ANOTHER_NODE, CUT_OFF),
    (Network::Geneve, OF_ANOTHER_NODE, CUT_OFF),
    (Network::Gre, OF_ANOTHER_NODE, CUT_OFF),
    (Network::Ip6Gre, OF_ANOTHER_NODE, CUT_OFF),
    (Network::Sit, OF_ANOTHER_NODE, CUT_OFF),
    (Network::Ip6Tnl, OF_ANOTHER_NODE, CUT_OFF),
    (Network::Wireguard, OF_ANOTHER_NODE, CUT_OFF),
];

/// A policy names a node by its address.
const BY_NODE: &[&str] = &["policy-blocks-and-nodes"];
const AS_TUNNEL: &str = "a node asks another's pods from its tunnel's address";

/// The external IP is another node's address.
const OF_ANOTHER_NODE: &[&str] = &["external-ip-of-a-node"];
const CUT_OFF: &str =
    "the tunnel ends at an address that IPVS has made this node's own (`ipvs-addresses-are-local`)";

/// The client's address chooses the endpoint, whichever node it asks.
const BY_CLIENT: &[&str] = &["consistent-hash"];
const HIDDEN: &str = "the network itself gives a pod that asks another node its own node's address";

/// Who is local is told there by the name of a pod's device on its node. `local_detection` has what networks have.
const BY_DEVICE: &[&str] =
    &["masquerade-and-policies-by-bridge", "masquerade-and-policies-by-interface-prefix"];
const OTHER_DEVICES: &str = "packets of pods come in by another device";

const LOCAL: &[&str] = &[
    "masquerade-and-policies-of-everyone",
    "masquerade-and-policies-where-nobody-is-known",
    "sctp-service",
    "session-affinity-and-policy-local",
    "terminating-endpoints-and-policy-local",
];
const NO_ANSWER: &str = "a pod that asks a frontend with policy Local at its own node is not masqueraded, and gets no answer";

/// Those that have policies alone, whatever the backend: with IPVS they need not be played again.
pub(crate) const OF_POLICY: &[&str] = &[
    "cnp-fails-closed-on-bad-input",
    "cnp-live-connections",
    "cnp-nodes-and-networks",
    "cnp-truth-table",
    "policy-address-of-another-pod",
    "policy-blocks-and-nodes",
    "policy-fails-closed-on-bad-input",
    "policy-host-network-and-ended-pods",
    "policy-stays-while-the-daemon-is-dead",
];
