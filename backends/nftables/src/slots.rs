//! What the slots of a pool hold, so that a draw of one has the meaning that the plan asks for.

use std::net::IpAddr;
use std::sync::Arc;

use shunt_model::address::Endpoint;
use shunt_model::balancing::Method;
use shunt_model::plan::ServicePlan;

use crate::pool::Draw;

/// The most slots that weights may ask for, unless there are more endpoints than that.
const WEIGHTED_SLOTS: usize = 4096;
/// Sizes of a table of buckets, each for up to an eighth as many endpoints. There are few, because
/// a table of another size sends most clients elsewhere.
const TABLES: [u32; 2] = [1024, 8192];

/// How a pool is drawn from, and what its slots hold: in any order, unless it is drawn by a hash.
#[must_use]
pub fn slots(service: &ServicePlan, pool: &Arc<[Endpoint]>) -> (Draw, Arc<[Endpoint]>) {
    let method = service.method();
    if method != Method::Random {
        let table = table(service, pool);
        let slots = u32::try_from(table.len()).unwrap_or(u32::MAX);
        return (Draw { slots, method, affinity: None }, table);
    }
    let slots = if service.weights.is_empty() { Arc::clone(pool) } else { weighted(service, pool) };
    (Draw::random(slots.len()), slots)
}

/// Each endpoint as often as its weight says, sorted.
fn weighted(service: &ServicePlan, pool: &Arc<[Endpoint]>) -> Arc<[Endpoint]> {
    let weights: Vec<usize> = pool.iter().map(|e| usize::from(service.weight(e))).collect();
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let total: usize = weights.iter().map(|weight| weight / divisor).sum();
    let room = WEIGHTED_SLOTS.max(pool.len());
    let places = |weight: usize| match weight / divisor {
        weight if total <= room => weight,
        weight => (weight * room / total).max(1),
    };
    let repeat = |(endpoint, weight)| std::iter::repeat_n(endpoint, places(weight));
    pool.iter().copied().zip(weights).flat_map(repeat).collect()
}

const fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The endpoint of each bucket by rendezvous hashing: every endpoint draws as many lots for it as
/// its weight says, and the highest lot wins. So an endpoint that goes leaves its own buckets and
/// no other, and one that comes takes its share evenly from all. It depends on nothing but the
/// endpoints and their weights, and is the same on every node.
fn table(service: &ServicePlan, pool: &[Endpoint]) -> Arc<[Endpoint]> {
    let fits = |buckets: &u32| pool.len() <= *buckets as usize / 8;
    let buckets = TABLES.into_iter().find(fits).unwrap_or(TABLES[TABLES.len() - 1]);
    let players: Vec<_> = pool.iter().map(|e| (*e, hash(e), service.weight(e))).collect();
    let best = |bucket: u32| {
        let highest = |(_, seed, weight): &&(Endpoint, u64, u8)| {
            (0..u64::from(*weight)).map(|lot| mix(seed ^ mix(u64::from(bucket) << 8 | lot))).max()
        };
        players.iter().max_by_key(highest).map(|(endpoint, ..)| *endpoint)
    };
    (0..buckets).filter_map(best).collect()
}

/// FNV-1a over address and port.
fn hash(endpoint: &Endpoint) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325;
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = match endpoint.address {
        IpAddr::V4(ip) => ip.octets().into_iter().fold(seed, add),
        IpAddr::V6(ip) => ip.octets().into_iter().fold(seed, add),
    };
    mix(endpoint.port.to_be_bytes().into_iter().fold(hash, add))
}

/// The finalizer of MurmurHash3: each bit of the argument changes each bit of the result.
const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

#[cfg(test)]
mod tests {
    use shunt_model::balancing::Balancing;
    use shunt_model::object::ServiceType;

    use super::*;

    fn endpoint(n: u8) -> Endpoint {
        Endpoint { address: [10, 0, 0, n].into(), port: 80 }
    }

    fn pool(endpoints: std::ops::Range<u8>) -> Arc<[Endpoint]> {
        endpoints.map(endpoint).collect()
    }

    fn service(method: Method, weights: &[(u8, u8)]) -> ServicePlan {
        ServicePlan {
            service_type: ServiceType::ClusterIp,
            frontends: Vec::new(),
            cluster_ips: Vec::new(),
            hairpins: Vec::new(),
            balancing: Some(Arc::new(Balancing { method, ..Balancing::default() })),
            weights: weights.iter().map(|(n, weight)| (endpoint(*n), *weight)).collect(),
            lingering: Box::default(),
            health_check: None,
            problems: Vec::new(),
        }
    }

    fn count(slots: &[Endpoint], n: u8) -> usize {
        slots.iter().filter(|e| **e == endpoint(n)).count()
    }

    #[test]
    fn weights_are_slots() {
        let (draw, held) = slots(&service(Method::Random, &[]), &pool(0..5));
        assert_eq!((draw.slots, held.len()), (8, 5));
        let (draw, held) = slots(&service(Method::Random, &[(0, 4), (1, 6), (2, 2)]), &pool(0..3));
        assert_eq!((draw.slots, &*held), (8, &[0, 0, 1, 1, 1, 2].map(endpoint)[..]));
    }

    #[test]
    fn weights_that_ask_for_too_much_keep_their_proportion() {
        let weights: Vec<(u8, u8)> = (0..200).map(|n| (n, if n == 0 { 37 } else { 100 })).collect();
        let (draw, held) = slots(&service(Method::Random, &weights), &pool(0..200));
        assert!(held.len() <= 4096 && draw.slots == 4096, "{}", held.len());
        assert_eq!((count(&held, 0), count(&held, 1)), (7, 20));
    }

    #[test]
    fn buckets_follow_the_weights() {
        let (draw, table) = slots(&service(Method::HashAddress, &[(0, 5)]), &pool(0..6));
        assert_eq!((draw.slots, table.len()), (1024, 1024));
        assert!((440..590).contains(&count(&table, 0)), "{}", count(&table, 0));
        for n in 1..6 {
            assert!((60..150).contains(&count(&table, n)), "{}", count(&table, n));
        }
    }

    #[test]
    fn only_the_buckets_of_who_goes_move() {
        let service = service(Method::HashConnection, &[(3, 4)]);
        let (_, before) = slots(&service, &pool(0..20));
        let (_, after) = slots(&service, &pool(0..19));
        let moved = before.iter().zip(&*after).filter(|(old, new)| old != new);
        assert_eq!(moved.count(), count(&before, 19));
        assert!(count(&before, 19) < 2 * 1024 / 23);
    }
}
