//! The sets and maps.

use shunt_nftables::codec::{
    SetType, address_type, concat_map, concat_set, concatenated, datatype, number_set, plain_map,
    plain_set,
};

use crate::name::SetId;

/// How each set is declared.
pub(crate) fn set_type(set: SetId) -> SetType {
    use datatype::{CLASSID, INET_PROTO, INET_SERVICE};
    let row = (CLASSID, "classid", 4);
    let address = |family| address_type(family);
    match set {
        SetId::Protocols | SetId::DeniedProtocols => concat(&[row, (INET_PROTO, "inet_proto", 4)]),
        SetId::Ports | SetId::Ranges | SetId::DeniedPorts | SetId::DeniedRanges => {
            let parts = [row, (INET_PROTO, "inet_proto", 4), (INET_SERVICE, "inet_service", 4)];
            let mut described = concat(&parts);
            if set.has_port_ranges() {
                described.interval = true;
                described.fields = vec![4, 1, 2];
            }
            described
        }
        SetId::Others | SetId::DeniedOthers => {
            SetType { userdata: number_set(), ..plain((CLASSID, "classid", 4)) }
        }
        SetId::Named(family) => SetType { timeouts: true, ..map(plain(address(family))) },
        SetId::Learnt(family) => SetType { timeouts: true, ..concat(&[address(family), row]) },
        SetId::Peers(family) | SetId::Isolated(_, family) => map(plain(address(family))),
        SetId::Networks(family) => SetType { interval: true, ..map(plain(address(family))) },
        SetId::Rows(_, family) => map(concat(&[address(family), row])),
        SetId::Itself(family) => concat(&[address(family), address(family)]),
        SetId::Own(family)
        | SetId::ToNode(family)
        | SetId::Watched(family)
        | SetId::Audited(family)
        | SetId::Known(family) => plain(address(family)),
        SetId::PodNetworks(family) => SetType { interval: true, ..plain(address(family)) },
    }
}

/// Whether the elements of a set are ranges of addresses, which are replaced all at once.
pub(crate) const fn has_ranges(set: SetId) -> bool {
    matches!(set, SetId::Networks(_) | SetId::PodNetworks(_))
}

fn plain((key, name, key_length): (u32, &'static str, u32)) -> SetType {
    SetType::plain(name, key, key_length, plain_set())
}

fn concat(parts: &[(u32, &'static str, u32)]) -> SetType {
    let names: Vec<_> = parts.iter().map(|(_, name, _)| *name).collect();
    let types: Vec<_> = parts.iter().map(|(number, ..)| *number).collect();
    SetType {
        text: format!("type {}", names.join(" . ")),
        key: concatenated(&types),
        key_length: parts.iter().map(|(.., length)| length).sum(),
        userdata: concat_set(),
        ..plain(parts[0])
    }
}

/// A map of such keys to atoms or rows.
fn map(keys: SetType) -> SetType {
    let plain_key = keys.userdata == plain_set();
    SetType {
        word: "map",
        text: format!("{} : classid", keys.text),
        data: Some((datatype::CLASSID, 4)),
        userdata: if plain_key { plain_map() } else { concat_map() },
        ..keys
    }
}
