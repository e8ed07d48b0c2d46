//! A Service whose part of the nftables table the kernel refuses: it must not be served by IPVS either, since who may
//! use it stands in the table.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use ipnet::IpNet;
use ipvs_rs::{Protocol as IpProtocol, ServiceKey};
use shunt_cluster::Netns;
use shunt_ipvs::kernel::VirtualServers;
use shunt_ipvs::{Settings, inventory};
use shunt_model::address::{Endpoint, Frontend, FrontendAddress, Protocol};
use shunt_model::object::{ObjectKey, ServiceType};
use shunt_model::plan::{
    Action, FrontendKind, FrontendPlan, Masquerade, NodePlan, PlanDelta, ServicePlan,
};

const GOOD: &str = "203.0.113.1";
const BAD: &str = "203.0.113.2";

/// A load balancer's address for some clients.
fn service(address: IpAddr, clients: &str) -> Result<Option<Arc<ServicePlan>>> {
    let clients: IpNet = clients.parse()?;
    let pod = Endpoint { address: "10.77.1.11".parse()?, port: 8080 };
    let frontend = FrontendPlan {
        frontend: Frontend {
            address: FrontendAddress::Ip(address),
            protocol: Protocol::Tcp,
            port: 80,
        },
        kind: FrontendKind::LoadBalancer,
        port_name: "http".into(),
        sources: Some([clients].into()),
        action: Action::Forward([pod].into()),
        from_inside: None,
        masquerade: Masquerade::Always,
    };
    Ok(Some(Arc::new(ServicePlan {
        service_type: ServiceType::LoadBalancer,
        frontends: [frontend].into(),
        cluster_ips: Vec::new(),
        hairpins: Vec::new(),
        balancing: None,
        weights: Box::default(),
        lingering: Box::default(),
        health_check: None,
        problems: Vec::new(),
    })))
}

/// Whether IPVS and the device have it.
fn is_served(address: &str) -> Result<(bool, bool)> {
    let address = address.parse()?;
    let held = inventory()?.installed;
    let key = ServiceKey::address(address, IpProtocol::TCP, 80);
    Ok((held.virtuals.contains_key(&key), held.addresses.contains_key(&address)))
}

#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn what_the_table_refuses_is_not_served_and_all_else_is() -> Result<()> {
    let node = Netns::new("refused")?;
    node.run(|| {
        let mut backend = VirtualServers::open(Settings::default())?;
        let (good, bad) = (ObjectKey::new("default", "good"), ObjectKey::new("default", "bad"));
        // Too long for a map of IPv4: the compiler would not let it pass.
        let services = BTreeMap::from([
            (good, service(GOOD.parse()?, "192.0.2.0/24")?),
            (bad.clone(), service(BAD.parse()?, "2001:db8::/64")?),
        ]);
        let node = Some(Arc::new(NodePlan::default()));
        let report = backend.sync(PlanDelta { node, services })?;
        let rejected: Vec<_> = report.rejected.iter().map(|(key, _)| key).collect();
        ensure!(rejected == [&bad], "{:?}", report.rejected);
        ensure!(is_served(GOOD)? == (true, true) && is_served(BAD)? == (false, false));
        // It is tried again when all is verified, and served as soon as it is mended.
        backend.forget();
        let report = backend.sync(PlanDelta::default())?;
        ensure!(report.rejected.len() == 1 && is_served(BAD)? == (false, false));
        let mended = BTreeMap::from([(bad, service(BAD.parse()?, "192.0.2.0/24")?)]);
        let report = backend.sync(PlanDelta { node: None, services: mended })?;
        ensure!(report.rejected.is_empty() && is_served(BAD)? == (true, true));
        Ok(())
    })
}
