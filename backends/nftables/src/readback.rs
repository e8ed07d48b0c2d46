//! Reading what the kernel holds: the start of the record, after a restart or an error.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use nix::errno::Errno;
use shunt_model::address::Family;
use shunt_netlink::Socket;

use crate::answer::{self, Client, Found, SetInfo, Stranger, TableInfo};
use crate::counting::{Counting, Counts};
use crate::element::{Key, encode_key};
use crate::error::Error;
use crate::forwarding::Forwarding;
use crate::installed::Installed;
use crate::layout;
use crate::message::{self, OURS, Table, kind};
use crate::name::{SetId, SetKind};
use crate::pool::PoolChain;
use crate::rule::{Chain, Rule};

/// What was found in the kernel.
pub(crate) enum ReadBack {
    /// No table.
    Nothing,
    /// A table that is not as this release makes it: replaced in one transaction.
    Unfit(&'static str, TableInfo),
    /// Ours, with elements that are none of ours.
    Ours(Box<Installed>, Vec<Stranger>, TableInfo),
}

/// Who forwards packets by a table of ours; `None` if it is of another release's layout.
pub(crate) fn forwarding(table: &TableInfo) -> Option<Forwarding> {
    let of_layout = |forwarding: &Forwarding| table.comment == message::table_comment(*forwarding);
    Forwarding::ALL.into_iter().find(of_layout)
}

/// Reads the whole table.
pub(crate) fn read(socket: &mut Socket) -> Result<ReadBack, Error> {
    let Some(table) = table(socket, OURS)? else {
        return Ok(ReadBack::Nothing);
    };
    let Some(forwarding) = forwarding(&table) else {
        return Ok(ReadBack::Unfit("it has another layout", table));
    };
    let mut installed = Installed { forwarding, ..Installed::default() };
    match pools(socket, forwarding)? {
        Ok(pools) => installed.pools = pools,
        Err(reason) => return Ok(ReadBack::Unfit(reason, table)),
    }
    let sets = sets(socket)?;
    for set in &sets {
        match SetId::parse(&set.name) {
            _ if set.anonymous => {}
            Some(id) if set.as_declared => {
                installed.capacity.insert(id, set.capacity);
            }
            _ => return Ok(ReadBack::Unfit("a set is not as it was made", table)),
        }
    }
    if installed.capacity.len() != SetId::all().count() {
        return Ok(ReadBack::Unfit("a set is missing", table));
    }
    match counting(&sets) {
        Some(counting) => installed.counting = counting,
        None => return Ok(ReadBack::Unfit("a set is not as it was made", table)),
    }
    let mut strangers = Vec::new();
    for set in SetId::all().filter(|set| !set.is_dynamic()) {
        elements(socket, set, &mut installed, &mut strangers)?;
    }
    Ok(ReadBack::Ours(Box::new(installed), strangers, table))
}

/// What the kernel says of a table; `None` if there is none.
///
/// # Errors
/// If nftables cannot be read.
pub fn table(socket: &mut Socket, table: Table) -> Result<Option<TableInfo>, Error> {
    let mut info = None;
    let request = table.get(kind::GETTABLE);
    match socket.request("read the table", request, |payload| {
        info = Some(answer::read_table(payload));
    }) {
        Ok(()) => Ok(info),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether chains, rules, sets and, on kernels that count them, the numbers of elements are those
/// of the record: what is asked after others have written, without reading every element.
pub(crate) fn still_holds(socket: &mut Socket, installed: &Installed) -> Result<bool, Error> {
    let Some(table) = table(socket, OURS)? else { return Ok(false) };
    let forwarding = installed.forwarding;
    if table.comment != message::table_comment(forwarding)
        || pools(socket, forwarding)?.as_ref() != Ok(&installed.pools)
    {
        return Ok(false);
    }
    let mut named = sets(socket)?;
    named.retain(|set| !set.anonymous);
    let as_recorded = |set: &SetInfo| {
        let Some(id) = SetId::parse(&set.name) else { return false };
        let recorded = installed.count.get(&id).copied().unwrap_or_default();
        // The record does not know how many bounds the kernel keeps of touching intervals.
        let counted = id.holds_networks()
            || id.is_dynamic()
            || set.count.is_none_or(|count| count == recorded);
        counted
            && set.as_declared
            && set.counts == installed.counting.counts(id)
            && installed.capacity.get(&id) == Some(&set.capacity)
    };
    Ok(named.len() == installed.capacity.len() && named.iter().all(as_recorded))
}

/// What the elements count; `None` if these are not all of our sets, or count at random.
pub(crate) fn counting(sets: &[SetInfo]) -> Option<Counting> {
    let counted: HashSet<_> =
        sets.iter().filter(|set| set.counts).filter_map(|set| SetId::parse(&set.name)).collect();
    Counting::of(&counted)
}

/// All that the table has counted.
pub(crate) fn counts(socket: &mut Socket, counting: Counting) -> Result<Counts, Error> {
    let mut all = Counts::default();
    for set in SetId::all().filter(|set| counting.counts(*set)) {
        let request = message::get_elements(set);
        let read = socket.dump("list elements", &request, |counts: &mut Counts, payload| {
            answer::read_counts(set, payload, |element, count| counts.add(element, count));
        })?;
        all.frontends.extend(read.frontends);
        for (endpoint, count) in read.endpoints {
            *all.endpoints.entry(endpoint).or_default() += count;
        }
    }
    Ok(all)
}

/// What some elements have counted.
pub(crate) fn counts_of(
    socket: &mut Socket,
    elements: impl Iterator<Item = (SetId, Key)>,
) -> Result<Counts, Error> {
    /// The kernel answers with a message for each, and all of them have to fit our socket.
    const AT_ONCE: usize = 64;
    let mut by_set: BTreeMap<SetId, Vec<Key>> = BTreeMap::new();
    for (set, key) in elements {
        by_set.entry(set).or_default().push(key);
    }
    let mut counts = Counts::default();
    for (set, keys) in by_set {
        for keys in keys.chunks(AT_ONCE) {
            let mut list = OURS.look_up(&set.to_string());
            keys.iter().for_each(|key| list.push(&encode_key(set, key), |_| {}));
            socket.request("list elements", list.finish(), |payload| {
                answer::read_counts(set, payload, |element, count| counts.add(element, count));
            })?;
        }
    }
    Ok(counts)
}

/// The clients that session affinity remembers.
pub(crate) fn clients(socket: &mut Socket) -> Result<Vec<(SetId, Vec<Client>)>, Error> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let set = SetId::new(SetKind::Affinity, family);
        let request = message::get_elements(set);
        let clients = socket.dump("list clients", &request, |clients: &mut Vec<_>, payload| {
            answer::read_clients(payload, |client| clients.push(client));
        })?;
        all.push((set, clients));
    }
    Ok(all)
}

pub(crate) fn sets(socket: &mut Socket) -> Result<Vec<SetInfo>, Error> {
    let request = message::get(kind::GETSET);
    Ok(socket.dump("list the sets", &request, |sets: &mut Vec<_>, payload| {
        sets.extend(answer::read_set(payload));
    })?)
}

/// The pool chains, if all chains and rules are as this release makes them.
fn pools(
    socket: &mut Socket,
    forwarding: Forwarding,
) -> Result<Result<BTreeSet<PoolChain>, &'static str>, Error> {
    let request = message::get(kind::GETCHAIN);
    let chains = socket.dump("list the chains", &request, |chains: &mut Vec<_>, payload| {
        chains.extend(answer::read_chain(OURS, payload));
    })?;
    let request = message::get(kind::GETRULE);
    let found = socket.dump(
        "list the rules",
        &request,
        |rules: &mut BTreeMap<String, Vec<u64>>, payload| {
            if let Some((chain, fingerprint)) = answer::read_rule(OURS, payload) {
                rules.entry(chain).or_default().push(fingerprint);
            }
        },
    )?;
    let fixed = layout::chains(forwarding);
    let mut pools = BTreeSet::new();
    let mut expected = BTreeMap::new();
    for chain in &fixed {
        expected.insert(chain.name.clone(), fingerprints(chain));
    }
    for (name, base) in &chains {
        if let Some(pool) = PoolChain::parse(name) {
            expected.insert(name.clone(), fingerprints(&layout::pool(pool)));
            pools.insert(pool);
        } else if !fixed.iter().any(|chain| chain.name == *name && chain.hook.is_some() == *base) {
            return Ok(Err("a chain is none of ours"));
        }
    }
    if chains.len() != expected.len() {
        return Ok(Err("a chain is missing"));
    }
    Ok(if found == expected { Ok(pools) } else { Err("a rule is not as it was made") })
}

fn fingerprints(chain: &Chain) -> Vec<u64> {
    chain.rules.iter().map(Rule::fingerprint).collect()
}

fn elements(
    socket: &mut Socket,
    set: SetId,
    installed: &mut Installed,
    strangers: &mut Vec<Stranger>,
) -> Result<(), Error> {
    #[derive(Default)]
    struct Read {
        begun: bool,
        bounds: Vec<(IpAddr, bool)>,
        strangers: Vec<Stranger>,
    }
    let request = message::get_elements(set);
    let read = socket.dump("list elements", &request, |read: &mut Read, payload| {
        // A dump that is interrupted starts with an empty hand again. The record is made in place: a second
        // one for each set would be as large.
        if !std::mem::replace(&mut read.begun, true) {
            installed.empty(set);
        }
        answer::read_elements(set, payload, |found| match found {
            Found::Ours(element) => installed.add(&element),
            Found::Bound(address, end) => read.bounds.push((address, end)),
            Found::Stranger(stranger) => read.strangers.push(stranger),
        });
    })?;
    if !read.begun {
        installed.empty(set);
    }
    strangers.extend(read.strangers);
    if set.holds_networks() {
        let bounds = u32::try_from(read.bounds.len()).unwrap_or(u32::MAX);
        installed.count.insert(set, bounds);
        installed.set_networks(set, networks(read.bounds));
    }
    Ok(())
}

/// Networks from the bounds of intervals.
fn networks(mut bounds: Vec<(IpAddr, bool)>) -> Vec<IpNet> {
    // At one address an end comes before a start.
    bounds.sort_unstable_by_key(|(address, end)| (*address, !end));
    let mut networks = Vec::new();
    for (position, (start, end)) in bounds.iter().enumerate() {
        if !end {
            let next = bounds.get(position + 1).map(|(address, _)| *address);
            networks.extend(interval(*start, next));
        }
    }
    networks
}

fn interval(start: IpAddr, next: Option<IpAddr>) -> Vec<IpNet> {
    match (start, next) {
        (IpAddr::V4(start), Some(IpAddr::V4(next))) => {
            Ipv4Subnets::new(start, (u32::from(next).saturating_sub(1)).into(), 0)
                .map(IpNet::from)
                .collect()
        }
        (IpAddr::V4(start), _) => {
            Ipv4Subnets::new(start, u32::MAX.into(), 0).map(IpNet::from).collect()
        }
        (IpAddr::V6(start), Some(IpAddr::V6(next))) => {
            Ipv6Subnets::new(start, (u128::from(next).saturating_sub(1)).into(), 0)
                .map(IpNet::from)
                .collect()
        }
        (IpAddr::V6(start), _) => {
            Ipv6Subnets::new(start, u128::MAX.into(), 0).map(IpNet::from).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_become_the_networks_they_came_from() {
        let at = |address: &str| address.parse::<IpAddr>().expect("an address");
        let bounds = vec![
            (at("10.1.0.0"), true),
            (at("0.0.0.0"), true),
            (at("10.0.0.0"), false),
            (at("10.2.0.0"), false),
            (at("10.2.1.0"), false),
            (at("10.2.1.128"), true),
            (at("255.0.0.0"), false),
        ];
        let texts: Vec<_> = networks(bounds).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/16", "10.2.0.0/24", "10.2.1.0/25", "255.0.0.0/8"]);
    }
}
