//! EndpointSlices.

use std::sync::Arc;

use shunt_model::address::Family;
use shunt_model::balancing::WEIGHT;
use shunt_model::object::{EndpointSlice, Hints, Locality, ObjectKey, SliceEndpoint, SlicePort};
use shunt_model::problem::Kind;
use shunt_model::snapshot::Object;

use super::balancing::slice_weight;
use super::fields::{Report, port, protocol, quoted, usable_address};
use super::{Converted, Converter, HEADLESS, SERVICE_NAME, label};
use crate::source::wire;

impl Converter {
    /// Converts an EndpointSlice.
    pub fn endpoint_slice(&mut self, wire: &wire::EndpointSlice) -> Converted {
        let key = self.key(Kind::EndpointSlice, &wire.metadata);
        let mut report = Report::new(Kind::EndpointSlice, key.clone());
        let service = label(&wire.metadata, SERVICE_NAME).filter(|name| !name.is_empty());
        let Some(service) = service else {
            return report.ignored();
        };
        if label(&wire.metadata, HEADLESS).is_some() {
            return report.ignored();
        }
        let family = match wire.address_type.as_deref() {
            Some("IPv4") => Family::V4,
            Some("IPv6") => Family::V6,
            // Names are nothing that packets can be sent to.
            Some("FQDN") => return report.ignored(),
            other => {
                let other = quoted(other.unwrap_or_default());
                report.add("addressType", format!("{other} is not IPv4, IPv6 or FQDN; not served"));
                return report.converted(None);
            }
        };
        let service = ObjectKey::of(Arc::clone(&key.namespace), service.into());
        let ports = self.slice_ports(&wire.ports, &mut report);
        let mut endpoints = self.slice_endpoints(&wire.endpoints, family, &mut report);
        let weight = slice_weight(&wire.metadata, &mut report);
        endpoints.iter_mut().for_each(|endpoint| endpoint.weight = weight);
        report.converted(Some(Object::EndpointSlice(EndpointSlice {
            key,
            service,
            ports,
            endpoints,
        })))
    }

    fn slice_ports(&mut self, ports: &[wire::EndpointPort], report: &mut Report) -> Vec<SlicePort> {
        let mut converted = Vec::with_capacity(ports.len());
        for (index, entry) in ports.iter().enumerate() {
            // The API means "all ports" by absence, which no proxy supports.
            let (Some(name), Some(number)) = (&entry.name, entry.port) else { continue };
            if number == 0 {
                continue;
            }
            let mut skip = |field: &str, reason: String| {
                report.add(
                    format!("ports[{index}].{field}"),
                    format!("{reason}; this port is skipped"),
                );
            };
            match (port(number), protocol(entry.protocol.as_deref())) {
                (Ok(port), Ok(protocol)) => {
                    converted.push(SlicePort { name: self.names.shared(name), protocol, port });
                }
                (Err(reason), _) => skip("port", reason),
                (_, Err(reason)) => skip("protocol", reason),
            }
        }
        converted
    }

    fn slice_endpoints(
        &mut self,
        endpoints: &[wire::Endpoint],
        family: Family,
        report: &mut Report,
    ) -> Vec<SliceEndpoint> {
        let mut converted = Vec::with_capacity(endpoints.len());
        for (index, entry) in endpoints.iter().enumerate() {
            match self.slice_endpoint(entry, family) {
                Ok(endpoint) => converted.push(endpoint),
                Err(reason) => report.add(
                    format!("endpoints[{index}].addresses[0]"),
                    format!("{reason}; this endpoint is skipped"),
                ),
            }
        }
        converted
    }

    fn locality(&mut self, entry: &wire::Endpoint) -> Arc<Locality> {
        let node = entry.node_name.as_deref().filter(|name| !name.is_empty());
        let node = node.map(|name| self.names.shared(name));
        let wire::EndpointHints { for_nodes, for_zones } = &entry.hints;
        let mut names = |hints: &[wire::Hint]| {
            let names = hints.iter().filter_map(|hint| hint.name.as_deref());
            names.map(|name| self.names.shared(name)).collect()
        };
        let hinted = !for_nodes.is_empty() || !for_zones.is_empty();
        let hints = hinted.then(|| Hints { nodes: names(for_nodes), zones: names(for_zones) });
        self.localities.one(Locality { node, hints })
    }

    fn slice_endpoint(
        &mut self,
        entry: &wire::Endpoint,
        family: Family,
    ) -> Result<SliceEndpoint, String> {
        let text = entry.addresses.first().ok_or("there is no address")?;
        let address = usable_address(text)?;
        if Family::of(address) != family {
            return Err(format!("{address} is not an {family} address, which addressType says"));
        }
        let conditions = &entry.conditions;
        Ok(SliceEndpoint {
            address,
            ready: conditions.ready.unwrap_or(true),
            // Not "as ready": kube-proxy takes absence for yes (endpointslicecache.go).
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            weight: WEIGHT,
            locality: self.locality(entry),
        })
    }
}
