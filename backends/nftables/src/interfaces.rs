//! Patterns of interfaces as the kernel's sets hold them: a name is 16 bytes with zeros at its end,
//! and all names that begin alike are an interval, just as an IPv6 network is.

use std::fmt;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use shunt_model::interface::InterfacePattern;

/// The bytes of a pattern, as the network that has the same.
pub(crate) fn network(pattern: &InterfacePattern) -> IpNet {
    let (name, length) = match pattern {
        InterfacePattern::Exact(name) => (name, 128),
        InterfacePattern::Prefix(name) => (name, 8 * name.as_str().len()),
    };
    let mut bytes = [0; 16];
    bytes[..name.padded().len()].copy_from_slice(name.padded());
    let length = u8::try_from(length).unwrap_or(128);
    Ipv6Net::new_assert(Ipv6Addr::from(bytes), length).into()
}

/// Such a network, as nft prints it.
pub(crate) struct Listed(pub(crate) IpNet);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IpNet::V6(network) = self.0 else { return Err(fmt::Error) };
        let bytes = network.addr().octets();
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let star = if network.prefix_len() < 128 { "*" } else { "" };
        write!(f, "\"{}{star}\"", String::from_utf8_lossy(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_printed_as_nft_does() {
        let name = |text: &str| text.parse().expect("a name");
        let listed = |pattern| Listed(network(&pattern)).to_string();
        assert_eq!(listed(InterfacePattern::Exact(name("cni0"))), "\"cni0\"");
        assert_eq!(listed(InterfacePattern::Prefix(name("cali"))), "\"cali*\"");
    }
}
