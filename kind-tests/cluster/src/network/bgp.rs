//! Between nodes as Calico with BGP: a real daemon (BIRD, from Debian) on each node announces the network of the node's
//! pods and learns those of the others. They speak with a route reflector on the underlay's own machine, so that a new
//! node is no one else's concern.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::host::{DEVICE, Families, Host};
use crate::netns::Netns;
use crate::numbering;
use crate::process::Process;

/// Where Debian has it.
const PROGRAM: &str = "/usr/sbin/bird";
/// The private number that Calico has by default.
const SYSTEM: u32 = 64512;
/// A session takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the daemon is installed.
pub(crate) fn is_installed() -> bool {
    Path::new(PROGRAM).exists()
}

/// Starts the route reflector: whoever is on the underlay may speak with it.
pub(crate) fn reflect(netns: &Netns, families: Families) -> Result<Process> {
    let mut text = header(numbering::GATEWAY);
    for own in numbering::underlay(families, numbering::GATEWAY) {
        let (ip, peers) = (version(own), numbering::in_underlay(own).trunc());
        text += &format!(
            "protocol bgp {{ local {own} as {SYSTEM}; neighbor range {peers} as {SYSTEM}; passive; rr client;\n\
             {ip} {{ import all; export all; }}; }}\n"
        );
    }
    start(netns, &text)
}

/// Starts a node's daemon. It announces these networks, and makes a route of each that it learns; those stay when the
/// daemon ends, as with Calico.
pub(crate) fn speak(node: &Host, number: u8, networks: &[IpNet]) -> Result<Process> {
    let mut text = header(number);
    for own in &node.addresses {
        let ip = version(*own);
        let reflector =
            numbering::in_network(numbering::in_underlay(*own).trunc(), numbering::GATEWAY);
        let routes = networks.iter().filter(|network| network.addr().is_ipv4() == own.is_ipv4());
        let routes: String = routes.map(|network| format!("route {network} blackhole; ")).collect();
        text += &format!(
            "protocol direct {{ {ip}; interface \"{DEVICE}\"; }}\n\
             protocol static {{ {ip}; {routes}}}\n\
             protocol kernel {{ persist; {ip} {{ import none; export where source = RTS_BGP; }}; }}\n\
             protocol bgp {{ local {own} as {SYSTEM}; neighbor {reflector} as {SYSTEM}; multihop; connect delay time 1;\n\
             {ip} {{ import all; export where source = RTS_STATIC; next hop self; gateway recursive; }}; }}\n"
        );
    }
    start(&node.netns, &text)
}

/// Waits until a node has learnt the way to a network.
pub(crate) fn wait_for(node: &Host, network: IpNet) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !node.has_route(network)? {
        if Instant::now() > deadline {
            bail!("{} has not learnt the way to {network} in {PATIENCE:?}", node.name);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn header(number: u8) -> String {
    format!("router id 0.0.0.{number};\nprotocol device {{}}\n")
}

const fn version(like: IpAddr) -> &'static str {
    match like {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    }
}

/// Its socket of control is in a file system of its own, which ends with it.
fn start(netns: &Netns, configuration: &str) -> Result<Process> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs none /run && mkdir /run/bird && exec \"$0\" -f -c /proc/self/fd/0");
    command.arg(PROGRAM).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = netns.spawn(command).context("is bird2 there?")?;
    let (input, _, _) = process.pipes();
    input.context("its input")?.write_all(configuration.as_bytes())?;
    Ok(process)
}
