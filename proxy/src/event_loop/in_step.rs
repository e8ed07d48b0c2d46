//! What health-check node ports may say, in step with the kernel.

use std::collections::BTreeMap;

use shunt_model::object::ObjectKey;
use shunt_model::plan::{HealthCheck, PlanDelta};
use tokio::sync::watch;

use crate::server::HealthChecks;

/// Counts of endpoints go up when they are installed, and down when that is ordered.
#[derive(Debug, Default)]
pub(crate) struct InStep {
    /// By the plan.
    wanted: BTreeMap<ObjectKey, HealthCheck>,
    /// Those that may say more once this order is installed.
    waiting: BTreeMap<ObjectKey, u64>,
    /// What is said, where those who answer read it.
    said: watch::Sender<HealthChecks>,
}

impl InStep {
    /// Takes an order in that is about to be given. Returns whether something else is said now.
    pub(crate) fn ordered(&mut self, number: u64, delta: &PlanDelta) -> bool {
        let Self { wanted, waiting, said } = self;
        said.send_if_modified(|said| {
            let mut changed = false;
            if let Some(node) = &delta.node {
                changed = said.addresses != node.node_port_addresses;
                said.addresses.clone_from(&node.node_port_addresses);
            }
            for (key, service) in &delta.services {
                let Some(check) = service.as_ref().and_then(|service| service.health_check) else {
                    wanted.remove(key);
                    waiting.remove(key);
                    changed |= said.services.remove(key).is_some();
                    continue;
                };
                let former = said.services.get(key).filter(|said| said.port == check.port);
                let least =
                    former.map_or(HealthCheck::none(check.port), |former| former.least(&check));
                changed |= said.services.insert(key.clone(), least) != Some(least);
                wanted.insert(key.clone(), check);
                waiting.insert(key.clone(), number);
            }
            changed
        })
    }

    /// An order is installed, but for the Services that the kernel refuses: what these have is told
    /// when it refuses them no more, which needs no other order. Returns whether something else is
    /// said now.
    pub(crate) fn installed<'a>(
        &mut self,
        number: u64,
        rejected: impl Iterator<Item = &'a ObjectKey>,
    ) -> bool {
        let Self { wanted, waiting, said } = self;
        let installed = waiting.iter().filter(|(_, order)| **order <= number);
        let ready: Vec<_> = installed.map(|(key, _)| key.clone()).collect();
        said.send_if_modified(|said| {
            let mut changed = false;
            for key in ready {
                waiting.remove(&key);
                if let Some(check) = wanted.get(&key) {
                    changed |= said.services.insert(key, *check) != Some(*check);
                }
            }
            for key in rejected {
                if let Some(check) = said.services.get_mut(key) {
                    let none = HealthCheck::none(check.port);
                    changed |= *check != none;
                    *check = none;
                    waiting.entry(key.clone()).or_insert(number);
                }
            }
            changed
        })
    }

    /// What is said, and when that changes.
    pub(crate) fn said(&self) -> watch::Receiver<HealthChecks> {
        self.said.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shunt_model::object::ServiceType;
    use shunt_model::plan::ServicePlan;

    use super::*;

    fn order(local: Option<[u32; 2]>) -> PlanDelta {
        let service = local.map(|local| {
            Arc::new(ServicePlan {
                health_check: Some(HealthCheck { port: 32000, local }),
                service_type: ServiceType::LoadBalancer,
                frontends: Vec::new(),
                cluster_ips: Vec::new(),
                hairpins: Vec::new(),
                balancing: None,
                weights: Box::default(),
                lingering: Box::default(),
                problems: Vec::new(),
            })
        });
        let services = BTreeMap::from([(ObjectKey::new("default", "web"), service)]);
        PlanDelta { node: None, services }
    }

    fn said(state: &InStep) -> Option<[u32; 2]> {
        state.said.borrow().services.values().next().map(|check| check.local)
    }

    #[test]
    fn endpoints_are_told_after_they_are_there_and_untold_before_they_go() {
        let mut state = InStep::default();
        assert!(state.ordered(1, &order(Some([2, 1]))));
        assert_eq!(said(&state), Some([0, 0]), "it is listened, and nothing is there yet");
        assert!(state.installed(1, std::iter::empty()));
        assert_eq!(said(&state), Some([2, 1]));
        assert!(state.ordered(2, &order(Some([1, 3]))));
        assert_eq!(said(&state), Some([1, 1]), "down at once, up later");
        assert!(state.ordered(3, &order(Some([0, 3]))));
        assert!(!state.installed(2, std::iter::empty()), "a later order waits");
        assert_eq!(said(&state), Some([0, 1]));
        assert!(state.installed(3, std::iter::empty()));
        assert_eq!(said(&state), Some([0, 3]));
        assert!(state.ordered(4, &order(None)));
        assert_eq!(said(&state), None);
    }

    #[test]
    fn a_service_that_the_kernel_refuses_has_no_endpoints() {
        let mut state = InStep::default();
        state.ordered(1, &order(Some([2, 1])));
        let key = ObjectKey::new("default", "web");
        state.installed(1, std::iter::once(&key));
        assert_eq!(said(&state), Some([0, 0]));
        state.installed(1, std::iter::once(&key));
        assert_eq!(said(&state), Some([0, 0]), "it is refused still");
    }

    #[test]
    fn a_service_that_the_kernel_refuses_no_more_has_its_endpoints() {
        let mut state = InStep::default();
        state.ordered(1, &order(Some([2, 1])));
        let key = ObjectKey::new("default", "web");
        state.installed(1, std::iter::once(&key));
        // A repair tries it again without any order.
        assert!(state.installed(1, std::iter::empty()));
        assert_eq!(said(&state), Some([2, 1]));
    }
}
