//! What a kubelet tells the API server, and nothing it does.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use shunt_cluster::{Host, Role};

use super::api::Id;
use super::plane::Plane;

/// A port of a pod's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Its name.
    pub name: &'static str,
    /// TCP or UDP.
    pub protocol: &'static str,
    /// Its number.
    pub number: u16,
}

/// Ports in the API's words.
#[must_use]
pub fn container_ports(ports: &[PodPort]) -> Value {
    let port = |port: &PodPort| json!({"name": port.name, "protocol": port.protocol, "containerPort": port.number});
    ports.iter().map(port).collect()
}

impl Plane {
    /// Registers a node: its addresses and its pods' networks.
    pub(super) fn register(&self, node: &Host) -> Result<()> {
        let Role::Node { pod_networks } = node.role() else {
            anyhow::bail!("{} is no node", node.name());
        };
        self.api().create(json!({
            "apiVersion": "v1", "kind": "Node",
            // Every kubelet writes this one, and Flannel does not start on a node without any.
            "metadata": {"name": node.name(), "annotations": {
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            }},
            "spec": {"podCIDR": pod_networks[0], "podCIDRs": pod_networks},
        }))?;
        let addresses = node.addresses().iter();
        let addresses: Value =
            addresses.map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"status": {"addresses": addresses, "conditions": ready}});
        self.api().patch_status(&Id::node(node.name()), status)?;
        Ok(())
    }

    /// Has a pod of the cluster run and be ready, with the label `app`.
    pub fn run_pod(&self, pod: &Host, app: &str, ports: &[PodPort]) -> Result<()> {
        let Role::Pod { node, .. } = pod.role() else {
            anyhow::bail!("{} is no pod", pod.name());
        };
        self.api().create(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": pod.name(), "labels": {"app": app}},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "echo", "image": "echo", "ports": container_ports(ports)}],
            },
        }))?;
        let node = self.cluster().host(node)?;
        let ips =
            |host: &Host| host.addresses().iter().map(|ip| json!({"ip": ip})).collect::<Value>();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": pod.ip(), "podIPs": ips(pod),
            "hostIP": node.ip(), "hostIPs": ips(node),
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        self.api().patch_status(&Id::pod("default", pod.name()), status)?;
        Ok(())
    }

    /// Has a pod's readiness probe succeed or fail.
    pub fn set_ready(&self, pod: &str, ready: bool) -> Result<()> {
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        let patched = self.api().patch_status(&Id::pod("default", pod), patch)?;
        ensure!(patched["status"]["conditions"][0]["status"] == status, "{patched}");
        Ok(())
    }
}
