//! Services.

use std::net::IpAddr;

use ipnet::IpNet;
use shunt_model::address::Family;
use shunt_model::object::{Service, ServicePort, ServiceType, TrafficPolicy};
use shunt_model::problem::Kind;
use shunt_model::snapshot::Object;

use super::fields::{Report, cidr, port, protocol, quoted, usable_address};
use super::{Converted, Converter, SERVICE_PROXY_NAME, label, push_new};
use crate::source::wire;

/// `clusterIP` of a headless Service.
const NONE: &str = "None";

impl Converter {
    /// Converts a Service.
    pub fn service(&mut self, wire: &wire::Service) -> Converted {
        let key = self.key(Kind::Service, &wire.metadata);
        let mut report = Report::new(Kind::Service, key.clone());
        let spec = &wire.spec;
        if !is_proxied(wire) {
            return report.ignored();
        }
        let service_type = service_type(spec, &mut report);
        let cluster_ips = cluster_ips(spec, &mut report);
        let ports = self.service_ports(spec, service_type, &mut report);
        if cluster_ips.is_empty() || ports.is_empty() {
            if spec.ports.is_empty() {
                report.add("spec.ports", "there is no port; not served");
            }
            return report.converted(None);
        }
        let (load_balancer_ips, load_balancer_source_ranges) = load_balancer(wire, &mut report);
        let mut policy = |field, value: &Option<String>| traffic_policy(field, value, &mut report);
        let service = Service {
            key,
            created: wire.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            service_type,
            cluster_ips,
            ports,
            external_traffic_policy: policy("externalTrafficPolicy", &spec.external_traffic_policy),
            internal_traffic_policy: policy("internalTrafficPolicy", &spec.internal_traffic_policy),
            external_ips: frontends("spec.externalIPs", spec.external_ips.iter(), &mut report),
            load_balancer_ips,
            balancing: self.balancing(wire, &mut report),
            health_check_node_port: health_check_node_port(spec, service_type, &mut report),
            load_balancer_source_ranges,
        };
        report.converted(Some(Object::Service(service)))
    }

    fn service_ports(
        &mut self,
        spec: &wire::ServiceSpec,
        service_type: ServiceType,
        report: &mut Report,
    ) -> Vec<ServicePort> {
        let mut ports: Vec<ServicePort> = Vec::with_capacity(spec.ports.len());
        for (index, entry) in spec.ports.iter().enumerate() {
            let place = format!("spec.ports[{index}]");
            match self.service_port(entry, &ports) {
                Ok(mut port) => {
                    port.node_port = node_port(entry, service_type, &place, report);
                    ports.push(port);
                }
                Err((field, reason)) => {
                    let reason = format!("{reason}; this port is skipped");
                    report.add(format!("{place}.{field}"), reason);
                }
            }
        }
        ports
    }

    /// A port without its `nodePort`, or which field is wrong and why.
    fn service_port(
        &mut self,
        entry: &wire::ServicePort,
        before: &[ServicePort],
    ) -> Result<ServicePort, (&'static str, String)> {
        let number = entry.port.ok_or_else(|| ("port", "there is no number".to_owned()))?;
        let port = port(number).map_err(|reason| ("port", reason))?;
        let protocol =
            protocol(entry.protocol.as_deref()).map_err(|reason| ("protocol", reason))?;
        let name = entry.name.as_deref().unwrap_or_default();
        let mut same = before.iter().filter(|other| other.protocol == protocol);
        if let Some(other) = same.find(|other| other.port == port || *other.name == *name) {
            return Err(if other.port == port {
                ("port", format!("{port}/{protocol} is used by a port before"))
            } else {
                ("name", format!("{} is the name of a port before", quoted(name)))
            });
        }
        Ok(ServicePort { name: self.names.shared(name), protocol, port, node_port: None })
    }
}

/// The port is for load balancers that must know where the Service's pods are.
fn health_check_node_port(
    spec: &wire::ServiceSpec,
    service_type: ServiceType,
    report: &mut Report,
) -> Option<u16> {
    let number = spec.health_check_node_port.filter(|number| *number != 0)?;
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    if service_type != ServiceType::LoadBalancer || !local {
        return None;
    }
    let read = port(number);
    let tell = |reason: &String| {
        report.add("spec.healthCheckNodePort", format!("{reason}; the port is not answered"));
    };
    read.inspect_err(tell).ok()
}

/// Whether kube-proxy would serve a Service at all.
fn is_proxied(wire: &wire::Service) -> bool {
    let spec = &wire.spec;
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let first = single.or_else(|| spec.cluster_ips.first().map(String::as_str));
    spec.r#type.as_deref() != Some("ExternalName")
        && first.is_some_and(|text| !text.is_empty() && text != NONE)
        && label(&wire.metadata, SERVICE_PROXY_NAME).is_none()
}

fn service_type(spec: &wire::ServiceSpec, report: &mut Report) -> ServiceType {
    match spec.r#type.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some(other) => {
            let other = quoted(other);
            report
                .add("spec.type", format!("{other} is not a type of Service; served as ClusterIP"));
            ServiceType::ClusterIp
        }
    }
}

/// One address of each family at most.
fn cluster_ips(spec: &wire::ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
    let (field, texts) = match spec.cluster_ips.as_slice() {
        [] => ("spec.clusterIP", spec.cluster_ip.as_slice()),
        several => ("spec.clusterIPs", several),
    };
    let mut cluster_ips: Vec<IpAddr> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let second =
            |ip: &IpAddr| cluster_ips.iter().find(|other| Family::of(**other) == Family::of(*ip));
        let result = usable_address(text).and_then(|ip| match second(&ip) {
            Some(other) => {
                Err(format!("{ip} is a second {} address after {other}", Family::of(ip)))
            }
            None => Ok(ip),
        });
        match result {
            Ok(ip) => cluster_ips.push(ip),
            Err(reason) => {
                let single = spec.cluster_ips.is_empty();
                let place = if single { field.to_owned() } else { format!("{field}[{index}]") };
                report.add(place, format!("{reason}; this address is not served"));
            }
        }
    }
    cluster_ips
}

/// Addresses on which clients come in from outside, each once.
fn frontends<'a>(
    field: &str,
    texts: impl Iterator<Item = &'a String>,
    report: &mut Report,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (index, text) in texts.enumerate() {
        match usable_address(text) {
            Ok(address) => push_new(&mut addresses, Some(address)),
            Err(reason) => report
                .add(format!("{field}[{index}]"), format!("{reason}; this address is not served")),
        }
    }
    addresses
}

fn node_port(
    entry: &wire::ServicePort,
    service_type: ServiceType,
    place: &str,
    report: &mut Report,
) -> Option<u16> {
    let number = entry.node_port.filter(|number| *number != 0)?;
    let result = match service_type {
        ServiceType::ClusterIp => Err("a ClusterIP Service has no node ports".to_owned()),
        ServiceType::NodePort | ServiceType::LoadBalancer => port(number),
    };
    result
        .map_err(|reason| {
            report.add(format!("{place}.nodePort"), format!("{reason}; not served on nodes"));
        })
        .ok()
}

fn traffic_policy(field: &str, value: &Option<String>, report: &mut Report) -> TrafficPolicy {
    match value.as_deref() {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let other = quoted(other);
            report.add(
                format!("spec.{field}"),
                format!("{other} is not Cluster or Local; Cluster is used"),
            );
            TrafficPolicy::Cluster
        }
    }
}

/// The load balancer's addresses, and who may use them.
fn load_balancer(wire: &wire::Service, report: &mut Report) -> (Vec<IpAddr>, Vec<IpNet>) {
    let mut addresses = Vec::new();
    for (index, ingress) in wire.status.load_balancer.ingress.iter().enumerate() {
        let Some(ip) = ingress.ip.as_deref().filter(|ip| !ip.is_empty()) else { continue };
        let field = || format!("status.loadBalancer.ingress[{index}]");
        match ingress.ip_mode.as_deref() {
            None | Some("" | "VIP") => {}
            Some("Proxy") => continue,
            Some(other) => {
                let other = quoted(other);
                report.add(
                    format!("{}.ipMode", field()),
                    format!("{other} is not VIP or Proxy; VIP is meant"),
                );
            }
        }
        match usable_address(ip) {
            Ok(address) => push_new(&mut addresses, Some(address)),
            Err(reason) => {
                report.add(
                    format!("{}.ip", field()),
                    format!("{reason}; this address is not served"),
                );
            }
        }
    }
    let ranges = source_ranges(&wire.spec, report);
    if ranges.is_empty() && !wire.spec.load_balancer_source_ranges.is_empty() {
        // No range means everyone, which is the last thing that whoever wrote them wanted.
        let reason = "no range is left; the load balancer's addresses are not served";
        report.add("spec.loadBalancerSourceRanges", reason);
        addresses.clear();
    }
    (addresses, ranges)
}

fn source_ranges(spec: &wire::ServiceSpec, report: &mut Report) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        match cidr(text.trim()) {
            Ok(range) => push_new(&mut ranges, Some(range)),
            Err(reason) => report.add(
                format!("spec.loadBalancerSourceRanges[{index}]"),
                format!("{reason}; this range is skipped"),
            ),
        }
    }
    ranges
}
