use proptest::prelude::*;

use super::*;

const PODS: u8 = 3;

fn pod(number: u8) -> IpAddr {
    [10, 0, 0, number].into()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_pod_leaves_when_a_walk_long_enough_after_the_change_finds_nothing() {
    let start = Instant::now();
    let mut watch = Watch::default();
    watch.committed(&[pod(1), pod(2)].into(), start);
    assert_eq!(watch.look_at(), Some(start + SETTLE));
    let early = start + SETTLE - Duration::from_millis(1);
    assert!(watch.walked(early, early, |_| false).is_empty(), "a walk that began too early");
    let now = start + SETTLE;
    assert_eq!(watch.walked(now, now, |it| it == pod(2)), [pod(1)].into());
    watch.committed(&[pod(2)].into(), now);
    assert_eq!(watch.look_at(), Some(now + SETTLE), "as long again");
    let now = start + seconds(60);
    assert!(watch.walked(now, now, |_| true).is_empty());
    assert_eq!(watch.look_at(), Some(now + seconds(60)));
}

#[test]
fn a_change_during_a_walk_keeps_the_pod() {
    let start = Instant::now();
    let mut watch = Watch::default();
    watch.committed(&[pod(1)].into(), start);
    let began = start + seconds(10);
    watch.again([pod(1)]);
    assert!(watch.walked(began, began + seconds(1), |_| false).is_empty(), "not committed yet");
    watch.committed(&[pod(1)].into(), began + seconds(1));
    assert!(watch.walked(began, began + seconds(2), |_| false).is_empty());
}

#[test]
fn what_is_left_of_a_pod_is_looked_for_once() {
    let start = Instant::now();
    let mut watch = Watch::default();
    watch.leave([pod(1)], start);
    watch.leave([pod(2)], start + seconds(1));
    assert_eq!(watch.look_at(), Some(start + SETTLE));
    assert_eq!(watch.looked_for(start + seconds(4)), BTreeSet::new(), "it began too early");
    watch.failed(start);
    assert_eq!(watch.look_at(), Some(start + LONGEST));
    watch.leave([pod(2)], start + LONGEST);
    assert_eq!(watch.looked_for(start + LONGEST), [pod(1)].into());
    assert_eq!(watch.looked_for(start + LONGEST + SETTLE), [pod(2)].into(), "left once more");
    assert_eq!(watch.look_at(), None);
}

/// Something that happens. Times are in seconds.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody tries to open a connection; its first packet is judged now, and this long after it
    /// is a connection that a walk sees.
    Open {
        pod: u8,
        peer: u8,
        seen_after: u64,
    },
    Close {
        pod: u8,
        peer: u8,
    },
    /// A pod's policies allow these peers from now on; the kernel takes it, or refuses.
    Change {
        pod: u8,
        allowed: u8,
        refused: bool,
    },
    BeginWalk,
    EndWalk,
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let (pod, peer) = (0..PODS, 0..4u8);
    let event = prop_oneof![
        3 => (pod.clone(), peer.clone(), 0..5u64)
            .prop_map(|(pod, peer, seen_after)| Event::Open { pod, peer, seen_after }),
        1 => (pod.clone(), peer).prop_map(|(pod, peer)| Event::Close { pod, peer }),
        3 => (pod, 0..16u8, prop::bool::weighted(0.2))
            .prop_map(|(pod, allowed, refused)| Event::Change { pod, allowed, refused }),
        3 => Just(Event::BeginWalk),
        3 => Just(Event::EndWalk),
        4 => (1..8u64).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 1..80)
}

/// A kernel with connections, and us beside it.
struct Model {
    now: Instant,
    watch: Watch,
    /// Whom pods allow: as wanted, and as the kernel holds it.
    wanted: [u8; PODS as usize],
    held: [u8; PODS as usize],
    watched_wanted: BTreeSet<IpAddr>,
    watched_held: BTreeSet<IpAddr>,
    is_installed: bool,
    /// Connections, and from when a walk sees them.
    connections: BTreeMap<(u8, u8), Instant>,
    walk: Option<(Instant, BTreeSet<(u8, u8)>)>,
}

impl Model {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            watch: Watch::default(),
            wanted: [15; PODS as usize],
            held: [15; PODS as usize],
            watched_wanted: BTreeSet::new(),
            watched_held: BTreeSet::new(),
            is_installed: true,
            connections: BTreeMap::new(),
            walk: None,
        }
    }

    fn commit(&mut self) {
        (self.held, self.watched_held) = (self.wanted, self.watched_wanted.clone());
        self.is_installed = true;
        self.watch.committed(&self.watched_wanted, self.now);
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Open { pod, peer, seen_after } => {
                if self.held[usize::from(pod)] & 1 << peer != 0 {
                    let from = self.now + seconds(seen_after);
                    self.connections.entry((pod, peer)).or_insert(from);
                }
            }
            Event::Close { pod, peer } => drop(self.connections.remove(&(pod, peer))),
            Event::Change { pod: number, allowed, refused } => {
                let before = std::mem::replace(&mut self.wanted[usize::from(number)], allowed);
                if before & !allowed != 0 {
                    self.watch.again([pod(number)]);
                    self.watched_wanted.insert(pod(number));
                }
                if refused { self.is_installed = false } else { self.commit() }
            }
            Event::BeginWalk => {
                let seen = self.connections.iter().filter(|(_, from)| **from <= self.now);
                let walk = || (self.now, seen.map(|(connection, _)| *connection).collect());
                self.walk = Some(self.walk.take().unwrap_or_else(walk));
            }
            Event::EndWalk if self.is_installed => {
                let Some((began, seen)) = self.walk.take() else { return };
                let entangled = |at: IpAddr| {
                    seen.iter().any(|(number, peer)| {
                        pod(*number) == at && self.wanted[usize::from(*number)] & 1 << peer == 0
                    })
                };
                let leave = self.watch.walked(began, self.now, entangled);
                self.watched_wanted.retain(|pod| !leave.contains(pod));
                self.commit();
            }
            Event::EndWalk => {}
            Event::Pass(time) => self.now += seconds(time),
        }
    }

    /// A connection that the kernel's table does not allow is of a pod that it watches.
    fn holds(&self) -> bool {
        self.connections.keys().all(|(number, peer)| {
            self.held[usize::from(*number)] & 1 << peer != 0
                || self.watched_held.contains(&pod(*number))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever happens in whichever order, no packet of a connection that is not allowed passes.
    #[test]
    fn no_pod_leaves_too_early(events in events()) {
        let mut model = Model::new();
        for event in &events {
            model.happens(event);
            prop_assert!(model.holds(), "{event:?}");
        }
    }

    /// When nothing changes any more and what is not allowed has ended, every pod leaves.
    #[test]
    fn every_pod_leaves_in_the_end(events in events()) {
        let mut model = Model::new();
        events.iter().for_each(|event| model.happens(event));
        model.commit();
        let wanted = model.wanted;
        model.connections.retain(|(pod, peer), _| wanted[usize::from(*pod)] & 1 << peer != 0);
        let end = [Event::EndWalk, Event::Pass(6), Event::BeginWalk, Event::EndWalk];
        end.iter().for_each(|event| model.happens(event));
        prop_assert!(model.watched_held.is_empty());
    }
}
