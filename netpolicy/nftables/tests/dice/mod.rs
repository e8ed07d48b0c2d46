//! Random objects, the same in every run.

use shunt_model::address;
use shunt_model::object::ObjectKey;
use shunt_netpolicy::cluster::{Action, ClusterNetworkPolicy, Tier};
use shunt_netpolicy::object::{NetworkPolicy, Peer, PortNumber, Rule};
use shunt_netpolicy::selector::Selector;
use shunt_netpolicy::store::Dirty;

use crate::two_nodes::{NODES, PODS, World};
use crate::world::{block, cluster_policy, pods, policy, port, selector};

/// Numbers that are the same in every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }

    fn labels(&mut self) -> Vec<(&'static str, &'static str)> {
        const LABELS: [(&str, &str); 4] = [("app", "web"), ("app", "db"), ("tier", "x"), ("", "")];
        let one = self.pick(&LABELS);
        if one.0.is_empty() { Vec::new() } else { vec![one] }
    }

    fn peer(&mut self) -> Peer {
        const BLOCKS: [(&str, &[&str]); 6] = [
            ("10.77.0.0/16", &["10.77.1.12/31"]),
            ("10.77.2.11/32", &[]),
            ("192.168.77.0/24", &[]),
            ("0.0.0.0/0", &["10.77.1.0/24"]),
            ("fd00:10:77:1::/64", &["fd00:10:77:1::11/128"]),
            ("::/0", &["fd00:77::/64"]),
        ];
        match self.roll(3) {
            0 => pods(&self.labels(), true),
            1 => pods(&self.labels(), false),
            _ => {
                let (cidr, except) = self.pick(&BLOCKS);
                block(cidr, except)
            }
        }
    }

    fn rule(&mut self) -> Rule {
        let peers =
            (self.roll(5) > 0).then(|| (0..1 + self.roll(2)).map(|_| self.peer()).collect());
        let ports = (self.roll(3) > 0).then(|| {
            let protocol = self.pick(&[
                address::Protocol::Tcp,
                address::Protocol::Udp,
                address::Protocol::Sctp,
            ]);
            let number = match self.roll(4) {
                0 => PortNumber::Any,
                1 => PortNumber::Range(8000, 8080),
                2 => PortNumber::Range(8081, 8081),
                _ => PortNumber::Named("http".into()),
            };
            vec![port(protocol, number)]
        });
        Rule { peers, ports }
    }

    fn cluster_rules(&mut self) -> Vec<(Action, Rule)> {
        let mut rules = Vec::new();
        for _ in 0..self.roll(4) {
            let mut rule = self.rule();
            let node = self.roll(4) == 0;
            for peer in rule.peers.iter_mut().flatten() {
                match peer {
                    Peer::Pods { namespaces, .. } => *namespaces = Some(Selector::default()),
                    Peer::Block(_) if node => {
                        *peer = Peer::Nodes(selector(&[("node", self.pick(&NODES))]));
                    }
                    Peer::Block(_) | Peer::Nodes(_) | Peer::Domain(_) => {}
                }
            }
            rules.push((self.pick(&[Action::Accept, Action::Deny, Action::Pass]), rule));
        }
        rules
    }

    fn cluster_policy(&mut self) -> ClusterNetworkPolicy {
        let (name, labels) = (self.pick(&["p", "q", "r"]), self.labels());
        let place = (self.pick(&Tier::ALL), self.pick(&[1, 2]));
        let (ingress, egress) = (self.cluster_rules(), self.cluster_rules());
        cluster_policy(name, place, &labels, ingress, egress)
    }

    fn rules(&mut self) -> Option<Vec<Rule>> {
        (self.roll(3) > 0).then(|| (0..self.roll(3)).map(|_| self.rule()).collect())
    }

    fn policy(&mut self) -> NetworkPolicy {
        let (namespace, name) = (self.pick(&["x", "y"]), self.pick(&["p", "q", "r"]));
        let (labels, ingress, egress) = (self.labels(), self.rules(), self.rules());
        policy(namespace, name, &labels, ingress, egress)
    }
}

/// Changes something of everything.
pub(crate) fn change(world: &mut World, dice: &mut Dice, first: bool) {
    let mut dirty = Dirty::default();
    for (node, pods) in PODS {
        for name in pods {
            if first || dice.roll(3) == 0 {
                let (namespace, labels) = (dice.pick(&["x", "y"]), dice.labels());
                dirty.merge(world.label(node, name, namespace, &labels));
            }
        }
    }
    for _ in 0..2 {
        dirty.merge(world.store.put_policy(dice.policy()));
    }
    let key = ObjectKey::new(dice.pick(&["x", "y"]), dice.pick(&["p", "q", "r"]));
    dirty.merge(world.store.remove_policy(&key));
    dirty.merge(world.store.put_cluster_policy(dice.cluster_policy()));
    if dice.roll(3) == 0 {
        dirty.merge(world.store.remove_cluster_policy(dice.pick(&["p", "q", "r"])));
    }
    world.sync(&dirty);
}
