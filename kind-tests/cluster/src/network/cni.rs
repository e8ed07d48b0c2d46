//! Pods connected by the stock CNI plugins (Debian's containernetworking-plugins), called as a container runtime does.

use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::host::{DEVICE, Host};
use crate::link::everything;
use crate::numbering;

/// Where Debian has them.
const HOME: &str = "/usr/lib/cni";
/// A plugin takes some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a node's pods are to be connected, as Flannel's daemon writes it to `/run/flannel/subnet.env`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The networks of all pods, one of each family: `FLANNEL_NETWORK` and `FLANNEL_IPV6_NETWORK`.
    pub all: Vec<IpNet>,
    /// The node's own, in the same order: `FLANNEL_SUBNET` and `FLANNEL_IPV6_SUBNET`.
    pub own: Vec<IpNet>,
    /// The pods' MTU in bytes: `FLANNEL_MTU`.
    pub mtu: u32,
    /// Whether the daemon masquerades, so that the plugin need not: `FLANNEL_IPMASQ`.
    pub masquerades: bool,
    /// A directory for host-local's notes on which addresses are in use.
    pub notes: PathBuf,
}

/// Whether the plugins are installed.
pub(crate) fn is_installed() -> bool {
    let plugins = ["bridge", "ptp", "static", "host-local"];
    plugins.iter().all(|plugin| Path::new(HOME).join(plugin).exists())
}

/// Has a plugin connect a pod with its addresses.
pub(crate) fn add(node: &Host, pod: &Host, plugin: &str, mtu: u32) -> Result<()> {
    call("ADD", node, pod, plugin, &settings(pod, plugin, mtu))
}

/// Has it undo that.
pub(crate) fn delete(node: &Host, pod: &Host, plugin: &str, mtu: u32) -> Result<()> {
    call("DEL", node, pod, plugin, &settings(pod, plugin, mtu))
}

/// Has the plugin bridge connect a pod as the network's daemon says.
pub(crate) fn add_configured(node: &Host, pod: &Host, settings: &Settings) -> Result<()> {
    call("ADD", node, pod, "bridge", &delegated(pod, settings))
}

/// Has it undo that.
pub(crate) fn delete_configured(node: &Host, pod: &Host, settings: &Settings) -> Result<()> {
    call("DEL", node, pod, "bridge", &delegated(pod, settings))
}

/// The environment and input are those of the CNI specification 1.0.0.
fn call(what: &str, node: &Host, pod: &Host, plugin: &str, settings: &str) -> Result<()> {
    let mut command = Command::new(Path::new(HOME).join(plugin));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let netns = format!("/proc/{}/fd/{}", process::id(), pod.netns.fd().as_raw_fd());
    command.env("CNI_COMMAND", what).env("CNI_PATH", HOME).env("CNI_IFNAME", DEVICE);
    command.env("CNI_CONTAINERID", &pod.name).env("CNI_NETNS", netns);
    let mut running = node.netns.spawn(command).context("is containernetworking-plugins there?")?;
    let (input, _, _) = running.pipes();
    input.context("its input")?.write_all(settings.as_bytes())?;
    match running.wait_timeout(PATIENCE)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("the CNI plugin {plugin}, {what}: {status}"),
        None => bail!("the CNI plugin {plugin}, {what}, takes longer than {PATIENCE:?}"),
    }
}

/// As in `/etc/cni/net.d`, but that a pod's addresses are not chosen by the plugin.
fn settings(pod: &Host, plugin: &str, mtu: u32) -> String {
    let addresses = list(&pod.addresses, |address| {
        let (own, gateway) =
            (numbering::in_pod_network(*address), numbering::own_gateway(*address));
        format!(r#"{{ "address": "{own}", "gateway": "{gateway}" }}"#)
    });
    let routes =
        list(&pod.addresses, |address| format!(r#"{{ "dst": "{}" }}"#, everything(*address)));
    let bridge = match plugin {
        "bridge" => r#""bridge": "cni0", "isGateway": true, "hairpinMode": true,"#,
        _ => "",
    };
    format!(
        r#"{{ "cniVersion": "1.0.0", "name": "pods", "type": "{plugin}", {bridge} "mtu": {mtu},
           "ipam": {{ "type": "static", "addresses": [{addresses}], "routes": [{routes}] }} }}"#
    )
}

/// What Flannel's CNI plugin hands to the plugin bridge, with the options of Flannel's manifest; host-local is asked for
/// the addresses that a pod is to have.
fn delegated(pod: &Host, settings: &Settings) -> String {
    let Settings { mtu, masquerades, .. } = settings;
    let ranges =
        list(&settings.own, |network| format!(r#"[{{ "subnet": "{}" }}]"#, network.trunc()));
    let routes = list(&settings.all, |network| format!(r#"{{ "dst": "{network}" }}"#));
    let ips = list(&pod.addresses, |address: &IpAddr| format!(r#""{address}""#));
    let (masquerade, notes) = (!masquerades, settings.notes.display());
    format!(
        r#"{{ "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "mtu": {mtu}, "ipMasq": {masquerade},
           "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
           "ipam": {{ "type": "host-local", "ranges": [{ranges}], "routes": [{routes}], "dataDir": "{notes}" }},
           "args": {{ "cni": {{ "ips": [{ips}] }} }} }}"#
    )
}

/// JSON's elements of an array.
fn list<T>(of: &[T], each: impl Fn(&T) -> String) -> String {
    of.iter().map(each).collect::<Vec<_>>().join(", ")
}
