//! Reading what the kernel holds: the start of the record, after a restart or an error.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use shunt_model::address::Family;
use shunt_netlink::Socket;
use shunt_netpolicy::table::{Atom, Range};
use shunt_nftables::codec::{
    Chain, Error, Rule, Table, TableInfo, kind, read_chain, read_counter, read_raw_elements,
    read_raw_set, read_rule, table,
};

use crate::element::{Key, decode, decode_value};
use crate::installed::{Counts, Installed};
use crate::kernel::Learnt;
use crate::layout::{self, Variant};
use crate::name::SetId;
use crate::transaction::{BRIDGE, OURS, SPARE, table_comment};

/// The tables that are there.
pub(crate) type Found = Vec<(Table, TableInfo)>;

/// What was found in the kernel.
pub(crate) enum ReadBack {
    /// No table.
    Nothing,
    /// Tables that are not as this release makes them: replaced in one transaction.
    Unfit(&'static str, Found),
    /// Ours.
    Ours(Box<Installed>, Found),
}

/// Reads the whole of all tables.
pub(crate) fn read(socket: &mut Socket, variant: Variant) -> Result<ReadBack, Error> {
    let mut found = Found::new();
    for ours in [OURS, BRIDGE] {
        found.extend(table(socket, ours)?.map(|info| (ours, info)));
    }
    if found.is_empty() {
        return Ok(ReadBack::Nothing);
    }
    Ok(match contents(socket, variant, &found)? {
        Ok(installed) => ReadBack::Ours(Box::new(installed), found),
        Err(reason) => ReadBack::Unfit(reason, found),
    })
}

/// What the tables hold, if they are as this release makes them, and hold the same.
fn contents(
    socket: &mut Socket,
    variant: Variant,
    found: &Found,
) -> Result<Result<Installed, &'static str>, Error> {
    let made = layout::tables(variant);
    if !made.iter().map(|(table, _)| table).eq(found.iter().map(|(table, _)| table)) {
        return Ok(Err("the tables are not those that are needed"));
    }
    let mut held: Option<Installed> = None;
    for ((table, chains), (_, info)) in made.iter().zip(found) {
        if let Err(reason) = frame(socket, *table, info, chains, variant.counting)? {
            return Ok(Err(reason));
        }
        let mut installed = Installed::default();
        for set in SetId::all() {
            if !elements(socket, *table, set, &mut installed)? {
                return Ok(Err("an element is none of ours"));
            }
        }
        if held.as_ref().is_some_and(|held| *held != installed) {
            return Ok(Err("the tables do not hold the same"));
        }
        held = Some(installed);
    }
    Ok(held.ok_or("there is no table"))
}

/// Whether tables, sets, chains and rules are as this release makes them and, on kernels that count
/// them, there are as many elements as recorded.
pub(crate) fn still_holds(
    socket: &mut Socket,
    variant: Variant,
    recorded: &Counts,
) -> Result<bool, Error> {
    for (ours, chains) in layout::tables(variant) {
        let Some(info) = table(socket, ours)? else { return Ok(false) };
        let Ok(counted) = frame(socket, ours, &info, &chains, variant.counting)? else {
            return Ok(false);
        };
        let as_recorded = counted.iter().all(|(set, count)| {
            let recorded = recorded.count(*set);
            layout::has_ranges(*set) || usize::try_from(*count).is_ok_and(|n| n == recorded)
        });
        if !as_recorded {
            return Ok(false);
        }
    }
    Ok(true)
}

type Frame = Result<BTreeMap<SetId, u32>, &'static str>;

/// How many elements each set has, if all that is fixed is as this release makes it.
fn frame(
    socket: &mut Socket,
    ours: Table,
    info: &TableInfo,
    expected: &[Chain<SetId>],
    counting: bool,
) -> Result<Frame, Error> {
    if info.comment != table_comment(expected) {
        return Ok(Err("it has another layout"));
    }
    let request = ours.get(kind::GETSET);
    let mut sets = socket.dump("list the sets", &request, |sets: &mut Vec<_>, payload| {
        sets.extend(read_raw_set(ours, payload));
    })?;
    sets.retain(|set| !set.is_anonymous());
    let mut counts = BTreeMap::new();
    let as_made = sets.iter().all(|set| {
        SetId::parse(&set.name).is_some_and(|id| {
            counts.extend(set.count.map(|count| (id, count)));
            set.is(&layout::set_type(id)) && set.counts == (counting && id.is_of_rows())
        })
    });
    if !as_made || sets.len() != SetId::all().count() {
        return Ok(Err("a set is not as it was made"));
    }
    let request = ours.get(kind::GETCHAIN);
    let mut chains = socket.dump("list the chains", &request, |chains: &mut Vec<_>, payload| {
        chains.extend(read_chain(ours, payload));
    })?;
    let mut made: Vec<_> =
        expected.iter().map(|chain| (chain.name.clone(), chain.hook.is_some())).collect();
    chains.sort();
    made.sort();
    if chains != made {
        return Ok(Err("a chain is not as it was made"));
    }
    let request = ours.get(kind::GETRULE);
    let rules = socket.dump(
        "list the rules",
        &request,
        |rules: &mut BTreeMap<String, Vec<u64>>, payload| {
            if let Some((chain, fingerprint)) = read_rule(ours, payload) {
                rules.entry(chain).or_default().push(fingerprint);
            }
        },
    )?;
    let fingerprints = |chain: &Chain<SetId>| {
        (chain.name.clone(), chain.rules.iter().map(Rule::fingerprint).collect::<Vec<_>>())
    };
    if rules != expected.iter().map(fingerprints).collect() {
        return Ok(Err("a rule is not as it was made"));
    }
    Ok(Ok(counts))
}

/// Reads a set; false if there is something in it that we never write.
fn elements(
    socket: &mut Socket,
    table: Table,
    set: SetId,
    installed: &mut Installed,
) -> Result<bool, Error> {
    #[derive(Default)]
    struct Read {
        elements: Vec<(Key, Option<u32>)>,
        bounds: Vec<(IpAddr, Option<u32>)>,
        strange: bool,
    }
    let request = table.get_elements(&set.to_string());
    // A dump that is interrupted starts with an empty hand again.
    let read = socket.dump("list elements", &request, |read: &mut Read, payload| {
        read_raw_elements(payload, |element| {
            let value = element.value.and_then(decode_value);
            match decode(set, element.key, element.end) {
                Some(Key::Address(address)) if layout::has_ranges(set) => {
                    let begins = !element.ends_interval;
                    read.bounds.push((address, begins.then(|| value.unwrap_or_default())));
                }
                Some(key) if value.is_some() == layout::set_type(set).data.is_some() => {
                    read.elements.push((key, value));
                }
                Some(_) | None => read.strange = true,
            }
        });
    })?;
    if let SetId::Networks(family) | SetId::PodNetworks(family) = set {
        installed.networks.insert(set, networks(family, read.bounds));
    }
    installed.elements.extend(read.elements.into_iter().map(|(key, value)| ((set, key), value)));
    Ok(!read.strange)
}

/// The domain names of addresses that a table holds; none if there is no table of ours.
pub(crate) fn learnt(socket: &mut Socket) -> Result<Vec<Learnt>, Error> {
    if table(socket, OURS)?.is_none() {
        return Ok(Vec::new());
    }
    let mut learnt = Vec::new();
    for family in Family::ALL {
        let set = SetId::Learnt(family);
        let request = OURS.get_elements(&set.to_string());
        let read = socket.dump("list elements", &request, |read: &mut Vec<_>, payload| {
            read_raw_elements(payload, |element| {
                let holds = element.expires.map(Duration::from_millis).unwrap_or_default();
                if let Some(Key::Pair(address, Atom(name))) = decode(set, element.key, None) {
                    read.push(Learnt { address, name, holds: holds.saturating_sub(SPARE) });
                }
            });
        });
        match read {
            Ok(read) => learnt.extend(read),
            // A table of an earlier release has no such set.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(learnt)
}

/// Ranges from bounds: those with a value begin one, all end the one before.
fn networks(family: Family, mut bounds: Vec<(IpAddr, Option<u32>)>) -> Vec<(Range, Atom)> {
    bounds.sort_unstable();
    let greatest: IpAddr = match family {
        Family::V4 => [255; 4].into(),
        Family::V6 => [255; 16].into(),
    };
    let mut networks = Vec::new();
    for (position, (first, value)) in bounds.iter().enumerate() {
        let Some(value) = value else { continue };
        let next = bounds[position + 1..].iter().map(|(address, _)| *address).find(|at| at > first);
        let last = next.map_or(greatest, before);
        networks.push((Range { first: *first, last }, Atom(*value)));
    }
    networks
}

fn before(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(u32::from(address).saturating_sub(1).into()),
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).saturating_sub(1).into()),
    }
}

/// What the elements of rows have counted, in all tables: packets.
pub(crate) fn counted(
    socket: &mut Socket,
    variant: Variant,
) -> Result<BTreeMap<(SetId, Key), u64>, Error> {
    let mut counted: BTreeMap<_, u64> = BTreeMap::new();
    let tables = [Some(OURS), variant.switched.map(|_| BRIDGE)];
    let sets = || SetId::all().filter(|set| set.is_of_rows());
    for (table, set) in tables.into_iter().flatten().flat_map(|t| sets().map(move |s| (t, s))) {
        let request = table.get_elements(&set.to_string());
        let read = socket.dump("list elements", &request, |read: &mut Vec<_>, payload| {
            read_raw_elements(payload, |element| {
                let count = element.count.filter(|count| count.packets > 0);
                let key = decode(set, element.key, element.end);
                read.extend(key.zip(count).map(|(key, count)| ((set, key), count.packets)));
            });
        })?;
        read.into_iter().for_each(|(place, packets)| *counted.entry(place).or_default() += packets);
    }
    Ok(counted)
}

/// How many packets each chain that ends in one counter has seen, in all tables.
pub(crate) fn counters(socket: &mut Socket) -> Result<BTreeMap<String, u64>, Error> {
    let mut all = BTreeMap::new();
    for table in [OURS, BRIDGE] {
        let request = table.get(kind::GETRULE);
        let counters =
            socket.dump("list the rules", &request, |counters: &mut Vec<_>, payload| {
                counters.extend(read_counter(table, payload));
            })?;
        for (chain, packets) in counters {
            *all.entry(chain).or_default() += packets;
        }
    }
    Ok(all)
}
