//! The manifests: two Nodes, a Service, its EndpointSlices.

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use shunt_cluster::{Family, Host, Protocol, Role};

/// The Service's namespace and name.
pub(super) const SERVICE: &str = "shop/web";
/// What `--cluster-cidr` says: all pods of the cluster.
pub(super) const POD_NETWORKS: &str = "10.77.0.0/16,fd00:10:77::/48";

/// The Service's address in a family.
pub(super) const fn cluster_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 96, 0, 80)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x80)),
    }
}

/// The Service's port.
pub(super) const fn port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => 80,
        Protocol::Udp => 53,
    }
}

/// The Service's port on every node.
pub(super) const fn node_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => 30080,
        Protocol::Udp => 30053,
    }
}

/// The port that pods listen on.
pub(super) const fn target_port(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => 8080,
        Protocol::Udp => 5353,
    }
}

const fn port_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => "http",
        Protocol::Udp => "query",
    }
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The Nodes.
pub(super) fn nodes<'a>(nodes: impl Iterator<Item = &'a Host>) -> String {
    let mut yaml = String::new();
    for node in nodes {
        // Writing to a string cannot fail; here and below.
        let _ =
            write!(yaml, "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n", node.name());
        if let Role::Node { pod_networks } = node.role() {
            let _ = writeln!(yaml, "spec:\n  podCIDRs: {}", list(pod_networks));
        }
        yaml.push_str("status:\n  addresses:\n");
        for address in node.addresses() {
            let _ = writeln!(yaml, "  - {{type: InternalIP, address: {}}}", quoted(address));
        }
    }
    yaml
}

/// The Service.
pub(super) fn service() -> String {
    let (namespace, name) = SERVICE.split_once('/').unwrap_or_default();
    let addresses = [Family::V4, Family::V6].map(cluster_ip);
    let mut yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\n\
         spec:\n  type: NodePort\n  clusterIP: {}\n  clusterIPs: {}\n  ports:\n",
        quoted(addresses[0]),
        list(&addresses)
    );
    for protocol in PROTOCOLS {
        let _ = writeln!(
            yaml,
            "  - {{name: {}, protocol: {protocol}, port: {}, targetPort: {}, nodePort: {}}}",
            port_name(protocol),
            port(protocol),
            target_port(protocol),
            node_port(protocol)
        );
    }
    yaml
}

/// The EndpointSlices, one for each family, with these pods in them.
pub(super) fn endpoints(pods: &[&Host]) -> String {
    let (namespace, name) = SERVICE.split_once('/').unwrap_or_default();
    let mut yaml = String::new();
    for (family, word) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let _ = write!(
            yaml,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: {name}-{}\n  namespace: {namespace}\n  labels:\n    \
             kubernetes.io/service-name: {name}\naddressType: {word}\nports:\n",
            word.to_lowercase()
        );
        for protocol in PROTOCOLS {
            let _ = writeln!(
                yaml,
                "- {{name: {}, protocol: {protocol}, port: {}}}",
                port_name(protocol),
                target_port(protocol)
            );
        }
        let here: Vec<_> =
            pods.iter().filter_map(|pod| Some((pod, pod.address(family)?))).collect();
        yaml.push_str(if here.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        for (pod, address) in here {
            let _ = writeln!(yaml, "- addresses: {}", list(&[address]));
            if let Role::Pod { node, .. } = pod.role() {
                let _ = writeln!(yaml, "  nodeName: {node}");
            }
            yaml.push_str("  conditions: {ready: true}\n");
        }
    }
    yaml
}

fn list<T: Display>(values: &[T]) -> String {
    let quoted: Vec<_> = values.iter().map(quoted).collect();
    format!("[{}]", quoted.join(", "))
}

/// Colons of IPv6 mean something in YAML.
fn quoted(value: impl Display) -> String {
    format!("\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_both_families_and_protocols() {
        expect_test::expect![[r#"
            apiVersion: v1
            kind: Service
            metadata:
              name: web
              namespace: shop
            spec:
              type: NodePort
              clusterIP: "10.96.0.80"
              clusterIPs: ["10.96.0.80", "fd00:96::80"]
              ports:
              - {name: http, protocol: TCP, port: 80, targetPort: 8080, nodePort: 30080}
              - {name: query, protocol: UDP, port: 53, targetPort: 5353, nodePort: 30053}
        "#]]
        .assert_eq(&service());
    }

    #[test]
    fn slices_without_pods_are_empty_lists() {
        assert_eq!(endpoints(&[]).matches("endpoints: []").count(), 2);
    }
}
