//! What holds for all objects and all ways in which they arrive. [`World::update`] adds its own:
//! incremental equals full, a delta leads from the old plan to the new one and holds nothing that
//! stays the same, and the plan is sound.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::strategies::{change, local_addresses, object, settings};
use super::{World, applied};
use crate::object::ObjectKey;
use crate::plan::PlanDelta;
use crate::problem::Kind;
use crate::snapshot::{Change, Dirty, Object, Snapshot};

const KINDS: [Kind; 4] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr];

/// The last of the objects with each key.
fn newest(objects: Vec<Object>) -> Vec<Object> {
    let keyed = objects.into_iter().map(|object| ((object.kind(), object.key()), object));
    keyed.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// These objects as complete lists of every kind, mixed with each other.
fn relist(objects: &[Object]) -> impl Iterator<Item = Change> {
    let started = KINDS.into_iter().map(Change::ListStarted);
    let done = KINDS.into_iter().map(Change::ListDone);
    started.chain(objects.iter().cloned().map(applied)).chain(done)
}

fn service_keys(snapshot: &Snapshot) -> Vec<ObjectKey> {
    snapshot.services().map(|service| service.key.clone()).collect()
}

fn slice_keys(snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys: Vec<_> = snapshot.slices().map(|slice| slice.key.clone()).collect();
    keys.sort();
    keys
}

proptest! {
    /// Changes one by one or several at once, as the event loop coalesces them.
    #[test]
    fn incremental_equals_full(
        settings in settings(),
        steps in vec((change(), any::<bool>()), 0..60),
    ) {
        let mut world = World::empty(settings);
        let mut pending = Dirty::default();
        for (change, more_to_come) in steps {
            pending.merge(world.snapshot.apply(change));
            if !more_to_come {
                world.update(&std::mem::take(&mut pending));
            }
        }
        world.update(&pending);
    }

    #[test]
    fn merged_deltas_lead_to_the_same_plan(
        settings in settings(),
        changes in vec(change(), 0..30),
    ) {
        let mut world = World::empty(settings);
        let mut before = world.plan.clone();
        let mut merged = PlanDelta::default();
        for change in changes {
            merged.merge(world.apply(change));
        }
        before.apply(merged);
        prop_assert_eq!(before, world.plan);
    }

    #[test]
    fn the_order_of_events_does_not_matter(
        settings in settings(),
        addresses in local_addresses(),
        (objects, shuffled) in vec(object(), 0..14).prop_map(newest).prop_flat_map(|objects| {
            (Just(objects.clone()), Just(objects).prop_shuffle())
        }),
    ) {
        let mut one = World::empty(settings.clone());
        one.apply(addresses.clone());
        objects.into_iter().for_each(|object| drop(one.apply(applied(object))));
        let mut two = World::empty(settings);
        shuffled.into_iter().for_each(|object| drop(two.apply(applied(object))));
        two.apply(addresses);
        prop_assert_eq!(one.plan, two.plan);
    }

    /// Whatever was there before: after complete lists only these count.
    #[test]
    fn the_past_does_not_matter(
        settings in settings(),
        addresses in local_addresses(),
        past in vec(change(), 0..30),
        objects in vec(object(), 0..14).prop_map(newest),
    ) {
        let mut old = World::empty(settings.clone());
        past.into_iter().for_each(|change| drop(old.apply(change)));
        old.apply(addresses.clone());
        relist(&objects).for_each(|change| drop(old.apply(change)));
        let mut new = World::empty(settings);
        new.apply(addresses);
        relist(&objects).for_each(|change| drop(new.apply(change)));
        prop_assert_eq!(old.plan, new.plan);
        prop_assert_eq!(slice_keys(&old.snapshot), slice_keys(&new.snapshot));
        prop_assert!(old.snapshot.problems().eq(new.snapshot.problems()));
    }

    #[test]
    fn what_is_said_again_changes_nothing(
        settings in settings(),
        past in vec(change(), 0..30),
        objects in vec(object(), 0..14).prop_map(newest),
    ) {
        let mut world = World::empty(settings);
        past.into_iter().chain(relist(&objects)).for_each(|change| drop(world.apply(change)));
        for change in relist(&objects) {
            prop_assert!(world.snapshot.apply(change).is_empty());
        }
        let everything = world.snapshot.everything();
        prop_assert!(world.update(&everything).is_empty(), "compiling anew finds nothing");
    }

    /// A list under way takes nothing away before it is done, however often it begins again.
    #[test]
    fn nothing_vanishes_during_a_list(
        past in vec(change(), 0..30),
        listed in vec(object(), 0..20),
        again_after in 0_usize..20,
    ) {
        let mut snapshot = Snapshot::new();
        past.into_iter().for_each(|change| drop(snapshot.apply(change)));
        let before = (service_keys(&snapshot), slice_keys(&snapshot));
        KINDS.into_iter().for_each(|kind| drop(snapshot.apply(Change::ListStarted(kind))));
        for (at, object) in listed.into_iter().enumerate() {
            if at == again_after {
                KINDS.into_iter().for_each(|kind| drop(snapshot.apply(Change::ListStarted(kind))));
            }
            snapshot.apply(applied(object));
            prop_assert!(before.0.iter().all(|key| snapshot.service(key).is_some()));
            let slices = slice_keys(&snapshot);
            prop_assert!(before.1.iter().all(|key| slices.contains(key)));
        }
    }

    /// When all is deleted, nothing is left, neither in the plan nor in the claims.
    #[test]
    fn nothing_is_left_of_what_is_deleted(
        settings in settings(),
        past in vec(change(), 0..40),
    ) {
        let mut world = World::empty(settings);
        past.into_iter().for_each(|change| drop(world.apply(change)));
        relist(&[]).for_each(|change| drop(world.apply(change)));
        prop_assert!(world.plan.services.is_empty());
        prop_assert_eq!(world.snapshot.slices().count() + world.snapshot.problems().count(), 0);
        prop_assert!(world.compiler.holds_no_claims());
    }
}
