//! The connections that IPVS forwards, as `/proc/net/ip_vs_conn` lists them
//! (`net/netfilter/ipvs/ip_vs_conn.c`).
//!
//! A real server's count of active connections is not enough where something else translates new
//! ones: when a client takes a port again, IPVS sees the answer alone, and counts what it remembers of
//! the former connection as one that begins.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipvs_rs::{Protocol, ServiceKey};

const FILE: &str = "/proc/thread-self/net/ip_vs_conn";

/// How many TCP connections are established, by virtual server.
pub(crate) fn established() -> io::Result<HashMap<ServiceKey, u32>> {
    Ok(count(&std::fs::read_to_string(FILE)?))
}

fn count(text: &str) -> HashMap<ServiceKey, u32> {
    let mut counts = HashMap::new();
    for key in text.lines().filter_map(of_established) {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// The virtual server of a line, if its connection is established.
fn of_established(line: &str) -> Option<ServiceKey> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let ["TCP", _, _, address, port, _, _, "ESTABLISHED", ..] = fields.as_slice() else {
        return None;
    };
    let v4 = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?));
    let address: IpAddr = match address.parse::<Ipv6Addr>() {
        Ok(address) => address.into(),
        Err(_) => v4(address)?.into(),
    };
    Some(ServiceKey::address(address, Protocol::TCP, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP 0A4D0115 CF10 0A6221A6 0050 0A4D010B 1F90 ESTABLISHED     897
TCP 0A4D0115 CF12 0A6221A6 0050 0A4D010B 1F90 ESTABLISHED     897
TCP 0A4D0115 CF11 0A6221A6 0050 0A4D010B 1F90 SYN_SENT        118
UDP 0A4D0115 CF11 0A6221A6 0035 0A4D010B 14E9 UDP             298
TCP fd00:0077:0000:0000:0000:0000:0000:0021 CF10 fd00:0096:0000:0000:0000:0000:0000:0080 0050 \
fd00:0077:0000:0000:0000:0000:0000:000b 1F90 ESTABLISHED     897
";

    #[test]
    fn only_what_is_established_counts() {
        let counts = count(FILE);
        let key = |text: &str| ServiceKey::address(text.parse().unwrap(), Protocol::TCP, 80);
        let expected = [(key("10.98.33.166"), 2), (key("fd00:96::80"), 1)];
        assert_eq!(counts, HashMap::from(expected));
    }
}
