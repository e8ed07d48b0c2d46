//! The headers of packets as the kernel hands them over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source, destination, protocol, and what the protocol begins with unless it is a later fragment.
pub(crate) type Parts<'a> = (IpAddr, IpAddr, u8, Option<&'a [u8]>);

/// What a packet begins with; nothing if it is cut off before.
pub(crate) fn parts(packet: &[u8]) -> Option<Parts<'_>> {
    match packet.first()? >> 4 {
        4 => ipv4(packet),
        6 => ipv6(packet),
        _ => None,
    }
}

/// RFC 791, section 3.1.
fn ipv4(packet: &[u8]) -> Option<Parts<'_>> {
    let address =
        |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let length = usize::from(packet[0] & 0xf) * 4;
    let is_first = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff == 0;
    let rest = packet.get(length..).filter(|_| is_first);
    Some((address(12)?.into(), address(16)?.into(), *packet.get(9)?, rest))
}

/// RFC 8200, sections 3 and 4.
fn ipv6(packet: &[u8]) -> Option<Parts<'_>> {
    let address =
        |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (mut next, mut at, mut is_first) = (*packet.get(6)?, 40, true);
    // Hop-by-hop options, routing, fragment, destination options.
    while matches!(next, 0 | 43 | 44 | 60) {
        let header = packet.get(at..at + 8)?;
        if next == 44 {
            is_first &= u16::from_be_bytes([header[2], header[3]]) >> 3 == 0;
        }
        at += if next == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
        next = header[0];
    }
    let rest = packet.get(at..).filter(|_| is_first);
    Some((address(8)?.into(), address(24)?.into(), next, rest))
}
