//! Pods connected by the stock CNI plugins (Debian's containernetworking-plugins), called as a container runtime does.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host::{DEVICE, Host};
use crate::link::everything;
use crate::numbering;

/// Where Debian has them.
const HOME: &str = "/usr/lib/cni";
/// A plugin takes some ten milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the plugins are installed.
pub(crate) fn is_installed() -> bool {
    ["bridge", "ptp", "static"].iter().all(|plugin| Path::new(HOME).join(plugin).exists())
}

/// Has a plugin connect a pod with its addresses.
pub(crate) fn add(node: &Host, pod: &Host, plugin: &str, mtu: u32) -> Result<()> {
    call("ADD", node, pod, plugin, mtu)
}

/// Has it undo that.
pub(crate) fn delete(node: &Host, pod: &Host, plugin: &str, mtu: u32) -> Result<()> {
    call("DEL", node, pod, plugin, mtu)
}

/// The environment and input are those of the CNI specification 1.0.0.
fn call(what: &str, node: &Host, pod: &Host, plugin: &str, mtu: u32) -> Result<()> {
    let mut command = Command::new(Path::new(HOME).join(plugin));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let netns = format!("/proc/{}/fd/{}", process::id(), pod.netns.fd().as_raw_fd());
    command.env("CNI_COMMAND", what).env("CNI_PATH", HOME).env("CNI_IFNAME", DEVICE);
    command.env("CNI_CONTAINERID", &pod.name).env("CNI_NETNS", netns);
    let mut running = node.netns.spawn(command).context("is containernetworking-plugins there?")?;
    let (input, _, _) = running.pipes();
    input.context("its input")?.write_all(settings(pod, plugin, mtu).as_bytes())?;
    match running.wait_timeout(PATIENCE)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("the CNI plugin {plugin}, {what}: {status}"),
        None => bail!("the CNI plugin {plugin}, {what}, takes longer than {PATIENCE:?}"),
    }
}

/// As in `/etc/cni/net.d`, but that a pod's addresses are not chosen by the plugin.
fn settings(pod: &Host, plugin: &str, mtu: u32) -> String {
    let list = |each: &dyn Fn(std::net::IpAddr) -> String| {
        pod.addresses.iter().map(|address| each(*address)).collect::<Vec<_>>().join(", ")
    };
    let addresses = list(&|address| {
        let (own, gateway) = (numbering::in_pod_network(address), numbering::own_gateway(address));
        format!(r#"{{ "address": "{own}", "gateway": "{gateway}" }}"#)
    });
    let routes = list(&|address| format!(r#"{{ "dst": "{}" }}"#, everything(address)));
    let bridge = match plugin {
        "bridge" => r#""bridge": "cni0", "isGateway": true, "hairpinMode": true,"#,
        _ => "",
    };
    format!(
        r#"{{ "cniVersion": "1.0.0", "name": "pods", "type": "{plugin}", {bridge} "mtu": {mtu},
           "ipam": {{ "type": "static", "addresses": [{addresses}], "routes": [{routes}] }} }}"#
    )
}
