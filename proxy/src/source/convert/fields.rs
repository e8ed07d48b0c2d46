//! Values of single fields, and the report of those that are wrong.

use std::net::IpAddr;

use ipnet::IpNet;
use shunt_model::address::Protocol;
use shunt_model::object::ObjectKey;
use shunt_model::problem::{Kind, Problem};

use super::Converted;

/// How many problems of one object are told one by one.
const TOLD: usize = 20;
/// How much of a wrong value is repeated.
const REPEATED: usize = 64;

/// Collects what is wrong with one object.
pub(super) struct Report {
    kind: Kind,
    key: ObjectKey,
    problems: Vec<Problem>,
    untold: usize,
}

impl Report {
    pub(super) fn new(kind: Kind, key: ObjectKey) -> Self {
        Self { kind, key, problems: Vec::new(), untold: 0 }
    }

    pub(super) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        if self.problems.len() == TOLD {
            self.untold += 1;
            return;
        }
        self.problems.push(Problem {
            kind: self.kind,
            object: self.key.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    pub(super) fn converted<O>(mut self, object: Option<O>) -> Converted<O> {
        if self.untold > 0 {
            self.problems.push(Problem {
                kind: self.kind,
                object: self.key.clone(),
                field: "...".to_owned(),
                reason: format!("and {} more problems", self.untold),
            });
        }
        Converted { kind: self.kind, key: self.key, object, problems: self.problems }
    }

    /// An object that is none of ours.
    pub(super) fn ignored(self) -> Converted {
        Converted { kind: self.kind, key: self.key, object: None, problems: Vec::new() }
    }
}

/// A value as it is repeated in a reason: quoted, escaped, and not at any length.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(REPEATED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Reads an address. An IPv4 address in IPv6 form is the IPv4 address, and leading zeros mean nothing, as for kube-proxy.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>().ok().or_else(|| with_leading_zeros(text)) {
        Some(address) => Ok(address.to_canonical()),
        None => Err(format!("{} is not an address", quoted(text))),
    }
}

/// API servers took `010.0.0.1` for 10.0.0.1 until release 1.33, and still hold what they took (KEP-4858).
fn with_leading_zeros(text: &str) -> Option<IpAddr> {
    let octet = |digits: &str| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u8>().ok()).flatten()
    };
    let octets: Vec<_> = text.split('.').map(octet).collect::<Option<_>>()?;
    Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?))
}

/// Reads an address that one can connect to from elsewhere.
pub(super) fn usable_address(text: &str) -> Result<IpAddr, String> {
    let address = address(text)?;
    let nature = if address.is_unspecified() {
        "unspecified"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) {
        "the broadcast address"
    } else {
        return Ok(address);
    };
    Err(format!("{address} is {nature}"))
}

/// Reads a range of addresses. Bits beyond the prefix length mean nothing.
pub(super) fn cidr(text: &str) -> Result<IpNet, String> {
    let parts = text.split_once('/');
    let with_zeros = || IpNet::new(with_leading_zeros(parts?.0)?, parts?.1.parse().ok()?).ok();
    match text.parse::<IpNet>().ok().or_else(with_zeros) {
        Some(cidr) => Ok(cidr.trunc()),
        None => Err(format!("{} is not a range of addresses (address/length)", quoted(text))),
    }
}

/// Reads a port number.
pub(super) fn port(number: i64) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{number} is not a port (1-65535)")),
    }
}

/// Reads a protocol; absent means TCP.
pub(super) fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{} is not TCP, UDP or SCTP", quoted(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_mean_nothing() {
        assert_eq!(address("010.009.000.1"), Ok("10.9.0.1".parse().unwrap()));
        assert_eq!(cidr("192.168.077.000/024"), Ok("192.168.77.0/24".parse().unwrap()));
        for wrong in
            ["010.0.0.256", "010.0.0", "010.0.0.0.1", "010.0.0.-1", "010.0.0.", "+1.0.0.01"]
        {
            assert!(address(wrong).is_err(), "{wrong}");
        }
        assert!(cidr("010.0.0.0/33").is_err() && cidr("010.0.0.0").is_err());
    }
}
