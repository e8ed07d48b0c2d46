//! `/metrics/slis`: what health checks have answered, by the names that Kubernetes' components give it
//! (`k8s.io/component-base/metrics/prometheus/slis`).
//!
//! As there, a check has its series once it was made.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Probe;
use super::process::StartTime;

/// Who asks for our health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Whoever asks at the metrics' address: kube-proxy's only check, and its name for it.
    Ping,
    /// Load balancers and the kubelet, at the health address.
    Proxy,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    name: &'static str,
    status: &'static str,
    r#type: &'static str,
}

/// What health checks have answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Slis {
    last: Family<Of, Gauge>,
    total: Family<Ended, Counter>,
}

impl Slis {
    /// A check was answered.
    pub(super) fn answered(&self, check: Check, probe: Probe, healthy: bool) {
        let name = match check {
            Check::Ping => "ping",
            Check::Proxy => "proxy",
        };
        let r#type = match probe {
            Probe::Healthz => "healthz",
            Probe::Livez => "livez",
        };
        let status = if healthy { "success" } else { "error" };
        self.last.get_or_create(&Of { name, r#type }).set(healthy.into());
        self.total.get_or_create(&Ended { name, status, r#type }).inc();
    }

    /// A registry of these alone.
    pub(super) fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let help = "Whether a health check was last answered with success";
        registry.register("kubernetes_healthcheck", help, self.last.clone());
        let help = "Answers of health checks, by their result";
        registry.register("kubernetes_healthchecks", help, self.total.clone());
        registry.register_collector(Box::new(StartTime));
        registry
    }
}
