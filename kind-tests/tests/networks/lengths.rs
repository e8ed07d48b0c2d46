//! Packets of all lengths: fragments, path MTU discovery, jumbo frames, and links that take little.

use shunt_cluster::Network;

use crate::LeftOut;

pub(crate) const SCENARIOS: &[&str] = &[
    "jumbo-frames",
    "long-datagrams",
    "long-ipv6-datagrams",
    "path-mtu",
    "path-mtu-of-ipv6-datagrams",
    "path-mtu-with-policy",
    "small-mtu",
];

pub(crate) const BEGIN: &str = "<!-- lengths:begin, written by SHUNT_WRITE_DOCS=1 cargo test -p shunt-kind-tests --test networks -->";
pub(crate) const END: &str = "<!-- lengths:end -->";

pub(crate) const NOT_ON: LeftOut = &[
    (Network::Macvlan, PATH_MTU, ONE_LINK),
    (Network::Ipvlan, PATH_MTU, ONE_LINK),
    (Network::IpvlanL3, PATH_MTU, NOT_ROUTED),
    (Network::IpvlanL3s, PATH_MTU, NOT_ROUTED),
    (Network::Bridge, IPV6_DATAGRAMS, PUT_TOGETHER),
    (Network::FlannelHostGw, IPV6_DATAGRAMS, PUT_TOGETHER),
    (Network::FlannelVxlan, IPV6_DATAGRAMS, PUT_TOGETHER),
    (Network::FlannelUdp, IPV6_DATAGRAMS, PUT_TOGETHER),
    (Network::CniBridge, IPV6_DATAGRAMS, PUT_TOGETHER),
    (Network::Flanneld, IPV6_DATAGRAMS, PUT_TOGETHER),
    (Network::CniBridge, JUMBO, CUTS_FOR_1500),
    (Network::Flanneld, JUMBO, CUTS_FOR_1500),
];

/// Nor these, with IPVS.
pub(crate) const NOT_WITH_IPVS_ON: LeftOut = &[
    (Network::Bridge, LONG_IPV6, SENT_WHOLE),
    (Network::FlannelHostGw, LONG_IPV6, SENT_WHOLE),
    (Network::FlannelVxlan, LONG_IPV6, SENT_WHOLE),
    (Network::FlannelUdp, LONG_IPV6, SENT_WHOLE),
    (Network::CniBridge, LONG_IPV6, SENT_WHOLE),
];

const PATH_MTU: &[&str] = &["path-mtu", "path-mtu-of-ipv6-datagrams", "path-mtu-with-policy"];
const ONE_LINK: &str = "pods are on one link, on which nobody tells that a packet is too long";
const NOT_ROUTED: &str =
    "the node does not route what comes for a pod, and tells nobody that a packet is too long";

const IPV6_DATAGRAMS: &[&str] = &["path-mtu-of-ipv6-datagrams"];
const PUT_TOGETHER: &str = "the bridge puts fragments together and the node sends them on as long as its next link takes, without a Service too";

const JUMBO: &[&str] = &["jumbo-frames"];
const CUTS_FOR_1500: &str = "the kernel cuts for 1500 bytes what it switches on a bridge that was made with another MTU, without a Service too";

const LONG_IPV6: &[&str] = &["long-ipv6-datagrams"];
const SENT_WHOLE: &str =
    "the bridge puts fragments together, and IPVS cuts nothing (`ipvs-long-datagrams`)";
