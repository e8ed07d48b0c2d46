//! The ranges of addresses that blocks tell apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use shunt_model::address::Family;

use super::feature::{Feature, Is, Signature};
use crate::table::Range;

/// The ranges that some blocks tell apart, of both families, sorted; those without any are left out, and neighbours that
/// are alike are one.
pub(super) fn networks<'a>(
    blocks: impl Iterator<Item = &'a Arc<Feature>>,
) -> Vec<(Range, Signature)> {
    let blocks: Vec<_> = blocks.collect();
    Family::ALL.into_iter().flat_map(|family| of_family(&blocks, family)).collect()
}

/// What begins at an address, and what has ended before it.
#[derive(Default)]
struct Edges<'a> {
    blocks: Vec<(&'a Arc<Feature>, bool)>,
    holes: Vec<(&'a Arc<Feature>, bool)>,
}

fn of_family(blocks: &[&Arc<Feature>], family: Family) -> Vec<(Range, Signature)> {
    let greatest = match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    let mut edges: BTreeMap<u128, Edges<'_>> = BTreeMap::new();
    for feature in blocks {
        let Is::Block(block) = &feature.is else { continue };
        for (at, begins) in ends(&block.cidr, family, greatest) {
            edges.entry(at).or_default().blocks.push((feature, begins));
        }
        for (at, begins) in block.except.iter().flat_map(|hole| ends(hole, family, greatest)) {
            edges.entry(at).or_default().holes.push((feature, begins));
        }
    }
    let mut within = Within::default();
    let mut pieces: Vec<(Range, Signature)> = Vec::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((start, at)) = edges.next() {
        within.cross(&at);
        let last = edges.peek().map_or(greatest, |(next, _)| next - 1);
        let (first, last) = (address(family, start), address(family, last));
        let signature = within.signature();
        match pieces.last_mut() {
            Some((before, same)) if *same == signature && number(before.last) + 1 == start => {
                before.last = last;
            }
            _ if signature == Signature::default() => {}
            _ => pieces.push((Range { first, last }, signature)),
        }
    }
    pieces
}

/// Where a network begins, and where what is after it does, if it is of this family.
fn ends(net: &IpNet, family: Family, greatest: u128) -> impl Iterator<Item = (u128, bool)> + use<> {
    let is_of_family = Family::of(net.addr()) == family;
    let (first, last) = (number(net.network()), number(net.broadcast()));
    let after = (last < greatest).then(|| (last + 1, false));
    [(first, true)].into_iter().chain(after).filter(move |_| is_of_family)
}

/// The blocks that hold the addresses of a range.
#[derive(Default)]
struct Within<'a> {
    blocks: BTreeSet<&'a Arc<Feature>>,
    /// Of how many holes of theirs, which may overlap.
    holes: BTreeMap<&'a Arc<Feature>, usize>,
}

impl<'a> Within<'a> {
    fn cross(&mut self, edges: &Edges<'a>) {
        for (block, begins) in &edges.blocks {
            match begins {
                true => self.blocks.insert(block),
                false => self.blocks.remove(block),
            };
        }
        for (block, begins) in &edges.holes {
            let holes = self.holes.entry(block).or_default();
            match begins {
                true => *holes += 1,
                false => *holes -= 1,
            }
            if *holes == 0 {
                self.holes.remove(block);
            }
        }
    }

    fn signature(&self) -> Signature {
        let holds = |block: &&&Arc<Feature>| !self.holes.contains_key(**block);
        self.blocks.iter().filter(holds).map(|block| Arc::clone(block)).collect()
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}
