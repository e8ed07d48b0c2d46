//! Services that the kernel refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use shunt_model::object::ObjectKey;
use shunt_model::plan::{Plan, PlanDelta, ServicePlan};

/// Services that were taken out of a plan because the kernel refuses part of them, so that all
/// others are served; each with the reason.
#[derive(Clone, Debug, Default)]
pub struct Quarantine(BTreeMap<ObjectKey, (Arc<ServicePlan>, String)>);

impl Quarantine {
    /// Takes a Service out of the plan, unless it is not in it.
    pub fn set_aside(&mut self, plan: &mut Plan, key: ObjectKey, reason: String) {
        if let Some(service) = plan.services.remove(&key) {
            self.0.insert(key, (service, reason));
        }
    }

    /// Forgets those of which a delta says something new. Whether there was one: the plan before
    /// the delta does not tell then what the kernel holds.
    pub fn supersede(&mut self, delta: &PlanDelta) -> bool {
        let before = self.0.len();
        self.0.retain(|key, _| !delta.services.contains_key(key));
        self.0.len() != before
    }

    /// Puts all back into the plan, to be tried again; they are given back as a delta.
    pub fn release(&mut self, plan: &mut Plan) -> PlanDelta {
        let services = std::mem::take(&mut self.0).into_iter();
        let services = services.map(|(key, (service, _))| (key, Some(service))).collect();
        let delta = PlanDelta { node: None, services };
        plan.apply(delta.clone());
        delta
    }

    /// Who is set aside, and why.
    pub fn reasons(&self) -> impl Iterator<Item = (ObjectKey, String)> + '_ {
        self.0.iter().map(|(key, (_, reason))| (key.clone(), reason.clone()))
    }
}
