//! The frontends that a Service asks for, whoever owns them in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::Settings;
use super::claims::{Claim, Strength};
use crate::address::{Family, Frontend, FrontendAddress};
use crate::object::{Service, ServicePort, ServiceType};
use crate::plan::FrontendKind;
use crate::problem::{Kind, Problem};

/// The field that a frontend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    ClusterIp(usize),
    LoadBalancer(usize),
    ExternalIp(usize),
    NodePort(usize),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp(at) => write!(f, "spec.clusterIPs[{at}]"),
            Self::LoadBalancer(at) => write!(f, "status.loadBalancer.ingress[{at}].ip"),
            Self::ExternalIp(at) => write!(f, "spec.externalIPs[{at}]"),
            Self::NodePort(at) => write!(f, "spec.ports[{at}].nodePort"),
        }
    }
}

impl Field {
    const fn kind(self) -> FrontendKind {
        match self {
            Self::ClusterIp(_) => FrontendKind::ClusterIp,
            Self::LoadBalancer(_) => FrontendKind::LoadBalancer,
            Self::ExternalIp(_) => FrontendKind::ExternalIp,
            Self::NodePort(_) => FrontendKind::NodePort,
        }
    }
}

/// One frontend that a Service asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Where it comes from.
    pub(super) field: Field,
    /// The index of its ServicePort.
    pub(super) port: usize,
}

impl Wanted {
    /// What the frontend is to its users.
    pub(super) const fn kind(&self) -> FrontendKind {
        self.field.kind()
    }
}

/// A problem with a Service.
pub(super) fn problem(service: &Service, field: impl ToString, reason: impl ToString) -> Problem {
    Problem {
        kind: Kind::Service,
        object: service.key.clone(),
        field: field.to_string(),
        reason: reason.to_string(),
    }
}

/// What a Service claims.
pub(super) fn claim(service: &Service, settings: &Settings) -> Claim {
    let strength = |wanted: Wanted| match wanted.field {
        Field::ClusterIp(_) => Strength::Allocated,
        Field::LoadBalancer(_) | Field::ExternalIp(_) | Field::NodePort(_) => Strength::Asked,
    };
    let wanted = wanted(service, settings, &mut Vec::new()).into_iter();
    Claim {
        created: service.created,
        frontends: wanted.map(|(frontend, wanted)| (frontend, strength(wanted))).collect(),
    }
}

/// The frontends that a Service asks for, each once.
pub(super) fn wanted(
    service: &Service,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> BTreeMap<Frontend, Wanted> {
    let addresses = addresses(service, settings, problems);
    let mut wanted = BTreeMap::new();
    for (at, port) in service.ports.iter().enumerate() {
        let on_addresses = addresses.iter().map(|(ip, field)| {
            let address = FrontendAddress::Ip(*ip);
            (Frontend { address, protocol: port.protocol, port: port.port }, *field)
        });
        let on_node = node_frontends(service, port).map(|front| (front, Field::NodePort(at)));
        for (frontend, field) in on_addresses.chain(on_node) {
            // What came first stays: the earlier ServicePort, then the stronger field.
            let first = wanted.entry(frontend).or_insert(Wanted { field, port: at });
            if first.port != at {
                problems.push(repeated(service, first.port, at, field));
            }
        }
    }
    wanted
}

/// The addresses of a Service, the field that wins for an address that stands in two of them first.
fn addresses(
    service: &Service,
    settings: &Settings,
    problems: &mut Vec<Problem>,
) -> Vec<(IpAddr, Field)> {
    let families: Vec<Family> = service.families().collect();
    let cluster = with_field(&service.cluster_ips, Field::ClusterIp);
    let balancer = with_field(&service.load_balancer_ips, Field::LoadBalancer);
    let external = with_field(&service.external_ips, Field::ExternalIp);
    let mut addresses = Vec::new();
    for (ip, field) in cluster.chain(balancer).chain(external) {
        let family = Family::of(ip);
        if matches!(field, Field::ExternalIp(_)) && !settings.external_ips {
            problems.push(problem(service, field, "external IPs are switched off; skipped"));
        } else if families.contains(&family) {
            addresses.push((ip, field));
        } else {
            let reason = format!("{ip} is {family}, the Service has no such ClusterIP; skipped");
            problems.push(problem(service, field, reason));
        }
    }
    addresses
}

fn with_field(ips: &[IpAddr], field: fn(usize) -> Field) -> impl Iterator<Item = (IpAddr, Field)> {
    ips.iter().enumerate().map(move |(at, ip)| (*ip, field(at)))
}

fn node_frontends(service: &Service, port: &ServicePort) -> impl Iterator<Item = Frontend> {
    let node_port = match service.service_type {
        ServiceType::ClusterIp => None,
        ServiceType::NodePort | ServiceType::LoadBalancer => port.node_port,
    };
    let protocol = port.protocol;
    node_port.into_iter().flat_map(move |port| {
        let addresses = service.families().map(FrontendAddress::Node);
        addresses.map(move |address| Frontend { address, protocol, port })
    })
}

/// Two ServicePorts of one Service that ask for the same.
fn repeated(service: &Service, first: usize, second: usize, field: Field) -> Problem {
    match field {
        Field::NodePort(_) => {
            let reason = format!("already used by spec.ports[{first}].nodePort; skipped");
            problem(service, field, reason)
        }
        Field::ClusterIp(_) | Field::LoadBalancer(_) | Field::ExternalIp(_) => {
            let field = format!("spec.ports[{second}].port");
            let reason = format!("already used by spec.ports[{first}].port; skipped");
            problem(service, field, reason)
        }
    }
}
