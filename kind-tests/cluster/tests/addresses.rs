//! What a host may do as soon as it has an address. To be run as root.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use shunt_cluster::{EchoServer, Netns};

const PORT: u16 = 8080;

#[test]
fn a_new_address_answers_its_own_host_at_once() -> Result<()> {
    let netns = Netns::new("host")?;
    let _server = EchoServer::start(&netns, "host", &[PORT])?;
    for number in 1..=100 {
        let ip = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number));
        let socket = netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        netns.links().add_address("lo", ip.into())?;
        // Nothing in between: the socket keeps the route that it finds here.
        socket.connect(SocketAddr::new(ip, PORT))?;
        socket.send(b"hello")?;
        socket.recv(&mut [0; 100]).with_context(|| format!("{ip} does not answer"))?;
    }
    Ok(())
}
