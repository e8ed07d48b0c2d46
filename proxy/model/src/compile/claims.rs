//! Who claims which frontend. A frontend has one owner: the oldest Service that claims it.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::Frontend;
use crate::object::ObjectKey;

/// How good a claim is, before any age counts. Who may write a Service may put any address into
/// its external IPs, and must not take another's ClusterIP with it (CVE-2020-8554).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strength {
    /// The address is the Service's ClusterIP, which the API server gave to it alone.
    Allocated,
    /// Anything else.
    Asked,
}

/// A Service as a claimant; the least of all claimants owns the frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    /// How good the claim is.
    pub(super) strength: Strength,
    /// When the Service was created; an unknown age counts as the newest.
    pub(super) created: i64,
    /// The Service.
    pub(super) key: ObjectKey,
}

impl Claimant {
    /// The claimant that a Service is, by its `created`, which is 0 if unknown.
    pub(super) fn new(strength: Strength, created: i64, key: ObjectKey) -> Self {
        Self { strength, created: if created == 0 { i64::MAX } else { created }, key }
    }
}

/// What one Service claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The Service's `created`, which is 0 if unknown.
    pub(super) created: i64,
    /// The frontends, sorted, each once.
    pub(super) frontends: Box<[(Frontend, Strength)]>,
}

impl Claim {
    fn claimant(&self, key: &ObjectKey, frontend: &Frontend) -> Option<Claimant> {
        let at = self.frontends.binary_search_by_key(frontend, |(frontend, _)| *frontend).ok()?;
        Some(Claimant::new(self.frontends[at].1, self.created, key.clone()))
    }
}

/// All claims, by frontend and by Service.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// Sorted, never empty. Nearly every frontend has one claimant, so this is no map of maps.
    claimants: BTreeMap<Frontend, Vec<Claimant>>,
    claims: BTreeMap<ObjectKey, Claim>,
}

impl Claims {
    /// The owner of a frontend.
    pub(super) fn owner(&self, frontend: &Frontend) -> Option<&Claimant> {
        self.claimants.get(frontend).and_then(|claimants| claimants.first())
    }

    /// Whether no one claims anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.claimants.is_empty() && self.claims.is_empty()
    }

    /// Replaces what a Service claims; `None` if it is gone. Returns whose plans may change by
    /// it: the new owner gains a frontend, the old one loses it, and those who stay behind name
    /// another winner in their problems.
    pub(super) fn replace(&mut self, key: &ObjectKey, new: Option<Claim>) -> BTreeSet<ObjectKey> {
        let old = self.claims.remove(key);
        let mut affected = BTreeSet::new();
        if old != new {
            let claims = || [&old, &new].into_iter().flatten();
            let touched: BTreeSet<Frontend> = claims()
                .flat_map(|claim| claim.frontends.iter().map(|(frontend, _)| *frontend))
                .collect();
            for frontend in touched {
                let claimant = |claim: &Option<Claim>| claim.as_ref()?.claimant(key, &frontend);
                self.exchange(frontend, claimant(&old), claimant(&new), &mut affected);
            }
        }
        if let Some(new) = new {
            self.claims.insert(key.clone(), new);
        }
        affected
    }

    fn exchange(
        &mut self,
        frontend: Frontend,
        old: Option<Claimant>,
        new: Option<Claimant>,
        affected: &mut BTreeSet<ObjectKey>,
    ) {
        if old == new {
            return;
        }
        let claimants = self.claimants.entry(frontend).or_default();
        let before = claimants.first().cloned();
        if let Some(Ok(at)) = old.map(|old| claimants.binary_search(&old)) {
            claimants.remove(at);
        }
        if let Some(new) = new
            && let Err(at) = claimants.binary_search(&new)
        {
            claimants.reserve_exact(1);
            claimants.insert(at, new);
        }
        if claimants.first() != before.as_ref() {
            affected.extend(claimants.iter().map(|claimant| claimant.key.clone()));
        }
        if claimants.is_empty() {
            self.claimants.remove(&frontend);
        }
    }
}
