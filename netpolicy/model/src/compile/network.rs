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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Block;

    fn block(cidr: &str, except: &[&str]) -> Arc<Feature> {
        let net = |text: &str| text.parse().expect("a network");
        let except = except.iter().map(|text| net(text)).collect();
        Arc::new(Is::Block(Block { cidr: net(cidr), except }).into())
    }

    #[test]
    fn each_address_has_the_blocks_that_hold_it() {
        let blocks = [
            block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24", "10.2.0.0/16"]),
            block("10.1.2.0/24", &[]),
            block("255.255.255.0/24", &["255.255.255.254/31"]),
            block("::/0", &["fd00::/64", "fd00::/64"]),
        ];
        let found = networks(blocks.iter());
        let texts = [
            "9.255.255.255",
            "10.0.0.0",
            "10.0.255.255",
            "10.1.0.0",
            "10.1.2.3",
            "10.1.3.0",
            "10.2.255.255",
            "10.3.0.0",
            "11.0.0.0",
            "255.255.255.253",
            "255.255.255.255",
            "::1",
            "fd00::1",
            "fd00:0:0:1::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ];
        for text in texts {
            let address = text.parse().expect("an address");
            let holds = |feature: &&Arc<Feature>| match &feature.is {
                Is::Block(block) => block.contains(address),
                _ => false,
            };
            let expected: Signature = blocks.iter().filter(holds).cloned().collect();
            let signature = crate::table::range_with(&found, address);
            assert_eq!(signature.cloned().unwrap_or_default(), expected, "{text}");
        }
        let of_v4 = found.iter().filter(|(range, _)| range.first.is_ipv4());
        assert_eq!(of_v4.count(), 4, "nothing is divided that is alike: {found:?}");
    }
}
