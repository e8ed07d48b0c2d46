//! What the kernel has counted of each frontend and endpoint, by whichever backend: new connections.

use std::collections::HashMap;

use ipvs_rs::ServiceKey;
use shunt_ipvs::Scheduled;
use shunt_model::address::{Endpoint, Family, Frontend, FrontendAddress, Protocol};
use shunt_nftables::counting::Counts;
use shunt_nftables::element::{Place, View};
use shunt_nftables::kernel::counted;

/// What the kernel has counted.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    table: Counts,
    servers: HashMap<Frontend, Server>,
}

/// Of a frontend that IPVS serves.
#[derive(Clone, Debug, Default)]
struct Server {
    connections: u64,
    endpoints: HashMap<Endpoint, u64>,
}

impl Counted {
    /// Asks the kernel. What IPVS forwards, if it does, is its own to tell; `known` says whether
    /// there is a frontend with an address of its own: what is none is a NodePort.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn read(ipvs: bool, known: impl Fn(&Frontend) -> bool) -> anyhow::Result<Self> {
        let table = counted()?.unwrap_or_default();
        let mut servers: HashMap<Frontend, Server> = HashMap::new();
        let scheduled = if ipvs { shunt_ipvs::scheduled()? } else { Vec::new() };
        for each in scheduled {
            if let Some(frontend) = frontend(&each.key, &known) {
                servers.entry(frontend).or_default().add(&each);
            }
        }
        Ok(Self { table, servers })
    }

    /// How many new connections there were to a frontend; `None` where that is not counted.
    #[must_use]
    pub fn frontend(&self, place: &Place) -> Option<u64> {
        match self.server(place) {
            Some(server) => Some(server.connections),
            None => self.table.frontends.get(place).map(|count| count.packets),
        }
    }

    /// How many of them an endpoint got; `None` where that is not counted.
    #[must_use]
    pub fn endpoint(&self, place: &Place, endpoint: Endpoint) -> Option<u64> {
        match self.server(place) {
            Some(server) => server.endpoints.get(&endpoint).copied(),
            None => self.table.endpoints.get(&(*place, endpoint)).map(|count| count.packets),
        }
    }

    fn server(&self, place: &Place) -> Option<&Server> {
        self.servers.get(&place.frontend).filter(|_| place.view != View::Inside)
    }
}

impl Server {
    /// Adds one of its virtual servers: a NodePort has one for each address of the node.
    fn add(&mut self, scheduled: &Scheduled) {
        self.connections += scheduled.connections;
        for (each, connections) in &scheduled.destinations {
            let endpoint = Endpoint { address: each.address, port: each.port };
            *self.endpoints.entry(endpoint).or_default() += connections;
        }
    }
}

/// The frontend that a virtual server serves.
fn frontend(key: &ServiceKey, known: impl Fn(&Frontend) -> bool) -> Option<Frontend> {
    let ServiceKey::Address { address, protocol, port } = *key else { return None };
    let protocol = Protocol::from_number(protocol.0)?;
    let own = Frontend { address: FrontendAddress::Ip(address), protocol, port };
    let node_port = Frontend { address: FrontendAddress::Node(Family::of(address)), ..own };
    Some(if known(&own) { own } else { node_port })
}

#[cfg(test)]
mod tests {
    use ipvs_rs::DestinationKey;

    use super::*;

    #[test]
    fn a_node_port_is_the_sum_over_the_nodes_addresses() {
        let endpoint = Endpoint { address: [10, 0, 0, 1].into(), port: 8080 };
        let destination = DestinationKey { address: endpoint.address, port: endpoint.port };
        let at = |address: [u8; 4], connections| Scheduled {
            key: ServiceKey::address(address.into(), ipvs_rs::Protocol::TCP, 30_080),
            connections,
            destinations: vec![(destination, connections)],
        };
        let own =
            |frontend: &Frontend| frontend.address == FrontendAddress::Ip([10, 96, 0, 1].into());
        let mut counted = Counted::default();
        for each in [at([192, 168, 0, 1], 2), at([192, 168, 0, 2], 3), at([10, 96, 0, 1], 7)] {
            let frontend = frontend(&each.key, own).expect("a frontend");
            counted.servers.entry(frontend).or_default().add(&each);
        }
        let address = FrontendAddress::Node(Family::V4);
        let node_port = Frontend { address, protocol: Protocol::Tcp, port: 30_080 };
        let place = Place::everyone(node_port);
        assert_eq!(counted.frontend(&place), Some(5));
        assert_eq!(counted.endpoint(&place, endpoint), Some(5));
        assert_eq!(counted.frontend(&Place::inside(node_port)), None);
        let own = Frontend { address: FrontendAddress::Ip([10, 96, 0, 1].into()), ..node_port };
        assert_eq!(counted.frontend(&Place::everyone(own)), Some(7));
    }
}
