//! Random clusters and random policies on real kernels: what packets do is what the oracle and the
//! compiled table say. And live connections.

mod dice;
mod live;
mod two_nodes;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dice::{Dice, change};
use shunt_cluster::{Outcome, ProbeOptions, Protocol, probe};
use shunt_model::address;
use shunt_netpolicy::compile::Compiler;
use shunt_netpolicy::object::Direction;
use shunt_netpolicy::oracle;
use shunt_netpolicy::table::{Packet, Verdict};
use shunt_netpolicy_nftables::kernel::{Count, Options, PolicyCounts, PolicyTable};
use shunt_netpolicy_nftables::layout::Variant;
use two_nodes::{NODES, PODS, PORTS, World};

/// How long an answer may take where others have the CPU.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited for one that is not expected. Nothing is sent again in that time.
const SILENCE: Duration = Duration::from_millis(400);

impl World {
    /// What every node on the way says: the oracle and the table, which must agree.
    fn expected(&self, packet: &Packet) -> bool {
        self.nodes.iter().all(|(node, (compiler, _))| {
            let said = oracle::verdict(&self.store, node, packet);
            assert_eq!(compiler.table().verdict(packet), said, "{node}: {packet:?}");
            said == Verdict::Accept
        })
    }

    /// What each node counts for each policy when these packets are sent.
    fn decided<'a>(
        &self,
        packets: impl Iterator<Item = &'a Packet>,
    ) -> BTreeMap<&'static str, PolicyCounts> {
        let mut counts: BTreeMap<&str, PolicyCounts> =
            NODES.map(|node| (node, PolicyCounts::new())).into();
        for packet in packets.filter(|packet| packet.source != packet.destination) {
            for direction in [Direction::Egress, Direction::Ingress] {
                let of = |(node, (compiler, _)): (&&'static str, &(Compiler, PolicyTable))| {
                    let own = self.store.machine(node).expect("a machine");
                    let table = compiler.table();
                    let to_node = own.contains(&packet.destination)
                        && !table.locals.get(&packet.source).is_some_and(|local| local.to_node);
                    let decision = table.decision(direction, packet).filter(|_| !to_node)?;
                    Some((*node, decision.clone()))
                };
                let Some((node, decision)) = self.nodes.iter().find_map(of) else { continue };
                for policy in decision.by.iter() {
                    let count = match decision.accepts {
                        true => Count { accepted: 1, denied: 0 },
                        false => Count { accepted: 0, denied: 1 },
                    };
                    let of_node = counts.get_mut(node).expect("a node");
                    *of_node.entry(Arc::clone(policy)).or_default() += count;
                }
                if !decision.accepts {
                    break;
                }
            }
        }
        counts
    }

    /// Tries every pair of hosts, protocol and port; returns how many passed and how many did not.
    fn check(&self) -> (u64, u64) {
        let (mut passed, mut dropped) = (0, 0);
        let before = self.dropped();
        for (packet, expected, outcome) in self.probed() {
            let fits = match &outcome {
                Outcome::Answer { .. } => expected,
                Outcome::TimedOut => !expected,
                _ => false,
            };
            assert!(fits, "{packet:?}: {outcome}, expected to pass: {expected}\n{:#?}", self.store);
            if expected { passed += 1 } else { dropped += 1 }
        }
        // It was no late answer: the kernel has dropped them. Packets of former connections may be among those too.
        let counted = self.dropped() - before;
        assert!(counted >= dropped, "{counted} of {dropped} were dropped\n{:#?}", self.store);
        (passed, dropped)
    }

    /// Tries them: what was sent, whether it is expected to pass, and what became of it.
    fn probed(&self) -> Vec<(Packet, bool, Outcome)> {
        let pods = || PODS.iter().flat_map(|(_, pods)| pods.iter().copied());
        let mut probes = Vec::new();
        for (from, to) in pods()
            .flat_map(|from| pods().chain(NODES).map(move |to| (from, to)))
            .chain(pods().map(|to| ("client", to)))
        {
            for (source, destination) in self.addresses(from).into_iter().zip(self.addresses(to)) {
                for (protocol, port) in
                    [Protocol::Tcp, Protocol::Udp].into_iter().flat_map(|p| PORTS.map(|n| (p, n)))
                {
                    probes.push((from, source, destination, protocol, port));
                }
            }
        }
        thread::scope(|scope| {
            let ask = |(from, source, destination, protocol, port)| {
                scope.spawn(move || {
                    let netns = self.cluster.host(from).expect("a host").netns();
                    let to = SocketAddr::new(destination, port);
                    let number = match protocol {
                        Protocol::Tcp => address::Protocol::Tcp,
                        Protocol::Udp => address::Protocol::Udp,
                        Protocol::Sctp => address::Protocol::Sctp,
                    };
                    let packet = Packet {
                        source,
                        destination,
                        protocol: number.number(),
                        port,
                        from_node: false,
                    };
                    let expected = self.expected(&packet);
                    let patience = if expected { PATIENCE } else { SILENCE };
                    let outcome = probe(netns, protocol, to, &ProbeOptions::within(patience));
                    (packet, expected, outcome)
                })
            };
            let threads: Vec<_> = probes.into_iter().map(ask).collect();
            threads.into_iter().map(|thread| thread.join().expect("a probe")).collect()
        })
    }
}

/// Each probe is one connection. Worlds of their own, as in one of them a port may be that of an earlier connection.
#[test]
fn the_kernel_counts_for_each_policy_what_the_oracle_says_it_decides() {
    let mut dice = Dice(0x5eed_4321);
    let (mut accepted, mut denied) = (0, 0);
    for _ in 0..6 {
        let variant = Variant { counting: true, ..Variant::default() };
        let mut world = World::with(Options { variant, keep_connections: true });
        for first in [true, false] {
            change(&mut world, &mut dice, first);
        }
        let probed = world.probed();
        let expected = world.decided(probed.iter().map(|(packet, ..)| packet));
        for (node, (_, table)) in &mut world.nodes {
            let mut counted = table.counted().expect("counters");
            counted.retain(|_, count| *count != Count::default());
            assert_eq!(Some(&counted), expected.get(node), "{node}: {:#?}", world.store);
            accepted += counted.values().map(|count| count.accepted).sum::<u64>();
            denied += counted.values().map(|count| count.denied).sum::<u64>();
        }
    }
    println!("{accepted} accepted, {denied} denied, as expected");
    assert!(accepted > 50 && denied > 100, "{accepted} accepted, {denied} denied");
}

#[test]
fn random_policies_do_to_packets_what_the_oracle_says() {
    let mut world = World::new();
    let mut dice = Dice(0x5eed_1234);
    let (mut passed, mut dropped) = (0, 0);
    for round in 0..12 {
        change(&mut world, &mut dice, round == 0);
        let found = world.check();
        passed += found.0;
        dropped += found.1;
    }
    println!("{passed} probes passed, {dropped} were dropped, all as expected");
    assert!(passed > 100 && dropped > 100, "{passed} passed, {dropped} dropped");
}
