//! How each set and map is declared: to the kernel, and as nft prints it.

use std::collections::HashMap;

use shunt_model::address::Family;

use crate::affinity::CLIENTS;
use crate::message::{SET_CONCAT, SET_EVAL, SET_INTERVAL, SET_MAP, SET_TIMEOUT};
use crate::name::{SetId, SetKind};
use crate::userdata::{self, Typeof};

/// `NFT_DATA_VERDICT`.
const DATA_VERDICT: u32 = 0xffff_ff00;
/// nft's number of the type `inet_proto`.
pub(crate) const INET_PROTO: u32 = datatype::INET_PROTO;

/// nft's numbers of data types; a concatenation is six bits for each.
pub mod datatype {
    /// `integer`
    pub const INTEGER: u32 = 4;
    /// `ipv4_addr`
    pub const IPV4_ADDR: u32 = 7;
    /// `ipv6_addr`
    pub const IPV6_ADDR: u32 = 8;
    /// `inet_proto`
    pub const INET_PROTO: u32 = 12;
    /// `inet_service`
    pub const INET_SERVICE: u32 = 13;
    /// `ifname`
    pub const IFNAME: u32 = 41;
    /// `classid`, of `meta priority`
    pub const CLASSID: u32 = 23;
}

/// How a set is declared.
#[derive(Clone, Debug)]
pub struct SetType {
    /// `map` or `set`.
    pub word: &'static str,
    /// The declaration of its type, as nft prints it.
    pub text: String,
    /// It holds ranges.
    pub interval: bool,
    /// The lengths of a key's parts, of a set of intervals over several of them.
    pub fields: Vec<u32>,
    /// The kernel fills it while packets pass, and forgets each element in time.
    pub dynamic: bool,
    /// Its elements may have a time after which the kernel forgets them.
    pub timeouts: bool,
    /// The number of the key's type.
    pub key: u32,
    /// The length of a key in bytes.
    pub key_length: u32,
    /// The number of the value's type and its length, of a map.
    pub data: Option<(u32, u32)>,
    /// How nft prints it.
    pub userdata: Vec<u8>,
}

impl SetType {
    /// A plain set whose key has this type: as nft prints it, its number and its length in bytes.
    #[must_use]
    pub fn plain(text: &str, key: u32, key_length: u32, userdata: Vec<u8>) -> Self {
        Self {
            word: "set",
            text: format!("type {text}"),
            interval: false,
            fields: Vec::new(),
            dynamic: false,
            timeouts: false,
            key,
            key_length,
            data: None,
            userdata,
        }
    }

    /// `NFTA_SET_FLAGS`.
    #[must_use]
    pub const fn flags(&self) -> u32 {
        let interval = if self.interval { SET_INTERVAL } else { 0 };
        let concatenated = if self.fields.is_empty() { 0 } else { SET_CONCAT };
        let map = if self.data.is_some() { SET_MAP } else { 0 };
        let dynamic = if self.dynamic { SET_TIMEOUT | SET_EVAL } else { 0 };
        let timeouts = if self.timeouts { SET_TIMEOUT } else { 0 };
        interval | concatenated | map | dynamic | timeouts
    }
}

/// The declaration of each set.
pub(crate) fn set_type(set: SetId) -> SetType {
    use SetKind as Kind;
    match set.kind {
        Kind::Endpoints
        | Kind::NodePortEndpoints
        | Kind::InsideEndpoints
        | Kind::InsideNodePortEndpoints => endpoint_type(set, Part::Slot),
        Kind::AffinityEndpoints
        | Kind::NodePortAffinityEndpoints
        | Kind::InsideAffinityEndpoints
        | Kind::InsideNodePortAffinityEndpoints => endpoint_type(set, Part::Id),
        Kind::AffinityGroups | Kind::NodePortAffinityGroups => id_type(frontend_parts(set)),
        Kind::AffinitySlots
        | Kind::NodePortAffinitySlots
        | Kind::InsideAffinitySlots
        | Kind::InsideNodePortAffinitySlots => {
            let mut parts = frontend_parts(set);
            parts.push(Part::Slot);
            id_type(parts)
        }
        Kind::Affinity => {
            let described = id_type(vec![Part::Id, Part::Source(set.family)]);
            SetType { dynamic: true, ..described }
        }
        Kind::Frontends
        | Kind::NodePorts
        | Kind::InsideFrontends
        | Kind::InsideNodePorts
        | Kind::AllowedFrontends => {
            let (types, text, key_length) = frontend_key(set);
            SetType {
                word: "map",
                text: format!("type {text} : verdict"),
                interval: false,
                fields: Vec::new(),
                dynamic: false,
                timeouts: false,
                key: concatenated(&types),
                key_length,
                data: Some((DATA_VERDICT, 16)),
                userdata: userdata::verdict_map(),
            }
        }
        Kind::Masquerade
        | Kind::MasqueradeNodePorts
        | Kind::MasqueradeOwn
        | Kind::MasqueradeOwnNodePorts
        | Kind::VirtualServers
        | Kind::VirtualNodePorts => {
            let (types, text, key_length) = frontend_key(set);
            SetType::plain(&text, concatenated(&types), key_length, userdata::concat_set())
        }
        Kind::AllowedSources => {
            let (mut types, text, key_length) = frontend_key(set);
            let (address, name, width) = address_type(set.family);
            types.push(address);
            let text = format!("{text} . {name}");
            let key = concatenated(&types);
            let userdata = userdata::concat_set();
            let mut described = SetType::plain(&text, key, key_length + width, userdata);
            described.interval = true;
            described.fields = vec![width, 1, 2, width];
            described
        }
        Kind::BlindLinks => {
            let (address, name, width) = address_type(set.family);
            let key = concatenated(&[datatype::IFNAME, datatype::IFNAME, address]);
            let text = format!("ifname . ifname . {name}");
            let mut described = SetType::plain(&text, key, 32 + width, userdata::concat_set());
            described.interval = true;
            described.fields = vec![16, 16, width];
            described
        }
        Kind::Hairpins => {
            let (address, name, width) = address_type(set.family);
            let key = concatenated(&[address, address]);
            SetType::plain(&format!("{name} . {name}"), key, 2 * width, userdata::concat_set())
        }
        Kind::LocalInterfaces => {
            let userdata = userdata::number_set();
            let mut described = SetType::plain("ifname", datatype::IFNAME, 16, userdata);
            described.interval = true;
            described
        }
        Kind::NodeAddresses
        | Kind::ClusterIps
        | Kind::LocalSources
        | Kind::LocalPods
        | Kind::ServiceNetworks
        | Kind::VirtualAddresses
        | Kind::OwnAddresses => {
            let (address, name, width) = address_type(set.family);
            let mut described = SetType::plain(name, address, width, userdata::plain_set());
            described.interval = set.holds_networks();
            described
        }
    }
}

/// A part of a key or value that nft prints as the expression it comes from.
#[derive(Clone, Copy, Debug)]
enum Part {
    Source(Family),
    Destination(Family),
    Protocol,
    Port,
    Slot,
    Id,
}

impl Part {
    /// As nft knows it and writes it, the number of its type, and its length.
    const fn describe(self) -> (Typeof, &'static str, u32, u32) {
        use datatype::{CLASSID, INET_PROTO, INET_SERVICE, INTEGER, IPV4_ADDR, IPV6_ADDR};
        match self {
            Self::Source(Family::V4) => (Typeof::Ip4Saddr, "ip saddr", IPV4_ADDR, 4),
            Self::Source(Family::V6) => (Typeof::Ip6Saddr, "ip6 saddr", IPV6_ADDR, 16),
            Self::Destination(Family::V4) => (Typeof::Ip4Daddr, "ip daddr", IPV4_ADDR, 4),
            Self::Destination(Family::V6) => (Typeof::Ip6Daddr, "ip6 daddr", IPV6_ADDR, 16),
            Self::Protocol => (Typeof::L4Proto, "meta l4proto", INET_PROTO, 4),
            Self::Port => (Typeof::ThDport, "th dport", INET_SERVICE, 4),
            Self::Slot => (Typeof::Slot, "numgen random mod 65536", INTEGER, 4),
            Self::Id => (Typeof::Priority, "meta priority", CLASSID, 4),
        }
    }
}

/// A concatenation: as nft knows it and writes it, the number of its type, and its length.
fn concatenation(parts: &[Part]) -> (Vec<Typeof>, String, u32, u32) {
    let described: Vec<_> = parts.iter().map(|part| part.describe()).collect();
    let texts: Vec<_> = described.iter().map(|(_, text, ..)| *text).collect();
    let types: Vec<_> = described.iter().map(|(_, _, number, _)| *number).collect();
    let length = described.iter().map(|(.., length)| length).sum();
    let known = described.iter().map(|(known, ..)| *known).collect();
    (known, texts.join(" . "), concatenated(&types), length)
}

fn frontend_parts(set: SetId) -> Vec<Part> {
    let address = set.has_address().then_some(Part::Destination(set.family));
    address.into_iter().chain([Part::Protocol, Part::Port]).collect()
}

/// A map from a frontend and a slot or an id to an endpoint.
fn endpoint_type(set: SetId, last: Part) -> SetType {
    let mut parts = frontend_parts(set);
    parts.push(last);
    let (known, text, key, key_length) = concatenation(&parts);
    let (value, value_text, number, length) =
        concatenation(&[Part::Destination(set.family), Part::Port]);
    SetType {
        word: "map",
        text: format!("typeof {text} : {value_text}"),
        interval: false,
        fields: Vec::new(),
        dynamic: false,
        timeouts: false,
        key,
        key_length,
        data: Some((number, length)),
        userdata: userdata::typeof_map(&known, &value),
    }
}

/// A map to groups or ids.
fn id_type(key: Vec<Part>) -> SetType {
    let (known, text, key, key_length) = concatenation(&key);
    SetType {
        word: "map",
        text: format!("typeof {text} : meta priority"),
        interval: false,
        fields: Vec::new(),
        dynamic: false,
        timeouts: false,
        key,
        key_length,
        data: Some((datatype::CLASSID, 4)),
        userdata: userdata::typeof_map_to_priority(&known),
    }
}

/// Types, text and length of address . protocol . port; a NodePort has no address.
fn frontend_key(set: SetId) -> (Vec<u32>, String, u32) {
    let (address, name, width) = address_type(set.family);
    let mut types = vec![datatype::INET_PROTO, datatype::INET_SERVICE];
    let text = "inet_proto . inet_service";
    if set.has_address() {
        types.insert(0, address);
        return (types, format!("{name} . {text}"), width + 8);
    }
    (types, text.to_owned(), 8)
}

/// Number, name and length of a family's type of addresses.
#[must_use]
pub const fn address_type(family: Family) -> (u32, &'static str, u32) {
    match family {
        Family::V4 => (datatype::IPV4_ADDR, "ipv4_addr", 4),
        Family::V6 => (datatype::IPV6_ADDR, "ipv6_addr", 16),
    }
}

/// The number of the type of a concatenation.
#[must_use]
pub fn concatenated(types: &[u32]) -> u32 {
    types.iter().fold(0, |all, one| all << 6 | one)
}

/// Room for each set: twice what is there, so that a set is seldom made anew.
pub(crate) fn capacities(counts: &HashMap<SetId, u32>) -> HashMap<SetId, u32> {
    const LEAST: u32 = 1024;
    let room = |set: SetId| {
        if set.is_dynamic() {
            return (set, CLIENTS);
        }
        let count = counts.get(&set).copied().unwrap_or_default();
        (set, count.saturating_mul(2).max(LEAST).checked_next_power_of_two().unwrap_or(u32::MAX))
    };
    SetId::all().map(room).collect()
}
