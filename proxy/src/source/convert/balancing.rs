//! Session affinity, and our own annotations. `docs/annotations.md` describes them.

use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use shunt_model::balancing::{
    Affinity, AffinityScope, Balancing, GREATEST_WEIGHT, Method, Scheduler, WEIGHT,
};

use super::Converter;
use super::fields::{Report, quoted};
use crate::source::wire;

/// What our annotations begin with.
const PREFIX: &str = "shunt.dev/";
const AFFINITY_SCOPE: &str = "affinity-scope";
const BALANCING: &str = "balancing";
const DRAIN_SECONDS: &str = "drain-seconds";
const IPVS_SCHEDULER: &str = "ipvs-scheduler";
const NODE_WEIGHTS: &str = "node-weights";
const WEIGHT_OF_SLICE: &str = "weight";

/// The API's default for `sessionAffinityConfig.clientIP.timeoutSeconds`: three hours.
const AFFINITY_SECONDS: u32 = 10_800;
/// The API's longest, and ours for draining.
const DAY_SECONDS: u32 = 86_400;

impl Converter {
    /// What a Service says of balancing; nothing if that is the default.
    pub(super) fn balancing(
        &mut self,
        wire: &wire::Service,
        report: &mut Report,
    ) -> Option<Arc<Balancing>> {
        let mut scope = None;
        let mut balancing = Balancing::default();
        for (name, text) in annotations(&wire.metadata) {
            match name {
                AFFINITY_SCOPE => scope = Some(word(name, text, AffinityScope::NAMES, report)),
                BALANCING => balancing.method = word(name, text, Method::NAMES, report),
                IPVS_SCHEDULER => {
                    balancing.scheduler = scheduler(text, report);
                }
                DRAIN_SECONDS => {
                    balancing.drain_seconds = number(name, text, 0..=DAY_SECONDS, report);
                }
                NODE_WEIGHTS => balancing.node_weights = self.node_weights(text, report),
                _ => unknown(name, report),
            }
        }
        let seconds = affinity_seconds(&wire.spec, report);
        if seconds.is_none() && scope.is_some() {
            complain(report, AFFINITY_SCOPE, "without sessionAffinity ClientIP it means nothing");
        }
        let scope = scope.unwrap_or_default();
        balancing.affinity = seconds.map(|seconds| Affinity { seconds, scope });
        (balancing != Balancing::default()).then(|| Arc::new(balancing))
    }

    /// Reads `node=weight,...`.
    fn node_weights(&mut self, text: &str, report: &mut Report) -> Vec<(Arc<str>, u8)> {
        let mut weights: Vec<(Arc<str>, u8)> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let Some((node, weight)) = entry.split_once('=') else {
                let reason = format!("{} is not node=weight; skipped", quoted(entry));
                complain(report, NODE_WEIGHTS, &reason);
                continue;
            };
            let (node, weight) = (self.names.shared(node.trim()), weight.trim());
            if weights.iter().any(|(other, _)| *other == node) {
                let reason = format!("{} stands there twice; the first counts", quoted(&node));
                complain(report, NODE_WEIGHTS, &reason);
            } else if let Some(weight) = weight_of(NODE_WEIGHTS, weight, report) {
                weights.push((node, weight));
            }
        }
        weights.sort_unstable();
        weights
    }
}

/// The weight that a slice gives to its endpoints.
pub(super) fn slice_weight(metadata: &ObjectMeta, report: &mut Report) -> u8 {
    let mut weight = WEIGHT;
    for (name, text) in annotations(metadata) {
        match name {
            WEIGHT_OF_SLICE => weight = weight_of(name, text, report).unwrap_or(WEIGHT),
            _ => unknown(name, report),
        }
    }
    weight
}

/// Our own annotations of an object, without the prefix, and their values.
pub(super) fn annotations(metadata: &ObjectMeta) -> impl Iterator<Item = (&str, &str)> {
    metadata
        .annotations
        .iter()
        .flatten()
        .filter_map(|(name, value)| name.strip_prefix(PREFIX).map(|name| (name, value.trim())))
}

pub(super) fn complain(report: &mut Report, name: &str, reason: &str) {
    report.add(format!("metadata.annotations[{PREFIX}{name}]"), reason);
}

pub(super) fn unknown(name: &str, report: &mut Report) {
    complain(report, name, "is no annotation for this kind of object; ignored");
}

/// One of a few words; the default for others.
fn word<T: FromStr + Default + std::fmt::Display>(
    name: &str,
    text: &str,
    names: &[&str],
    report: &mut Report,
) -> T {
    text.parse().unwrap_or_else(|_| {
        let default = T::default();
        let reason =
            format!("{} is not one of {}; {default} is used", quoted(text), names.join(", "));
        complain(report, name, &reason);
        default
    })
}

fn scheduler(text: &str, report: &mut Report) -> Option<Scheduler> {
    text.parse()
        .map_err(|()| {
            let names = Scheduler::NAMES.join(", ");
            let reason = format!("{} is not one of {names}; the usual one is used", quoted(text));
            complain(report, IPVS_SCHEDULER, &reason);
        })
        .ok()
}

/// A number in a range.
fn number(
    name: &str,
    text: &str,
    range: std::ops::RangeInclusive<u32>,
    report: &mut Report,
) -> Option<u32> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    if number.is_none() {
        let (least, most) = (range.start(), range.end());
        let reason = format!("{} is not a number from {least} to {most}; skipped", quoted(text));
        complain(report, name, &reason);
    }
    number
}

fn weight_of(name: &str, text: &str, report: &mut Report) -> Option<u8> {
    let weight = number(name, text, 1..=u32::from(GREATEST_WEIGHT), report)?;
    u8::try_from(weight).ok()
}

fn affinity_seconds(spec: &wire::ServiceSpec, report: &mut Report) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let other = quoted(other);
            report.add(
                "spec.sessionAffinity",
                format!("{other} is not None or ClientIP; None is used"),
            );
            return None;
        }
    }
    let Some(wanted) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return Some(AFFINITY_SECONDS);
    };
    let seconds = u32::try_from(wanted).ok();
    seconds.filter(|seconds| (1..=DAY_SECONDS).contains(seconds)).or_else(|| {
        report.add(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{wanted} is not 1-{DAY_SECONDS}; {AFFINITY_SECONDS} is used"),
        );
        Some(AFFINITY_SECONDS)
    })
}
