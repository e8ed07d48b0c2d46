//! The checksums of one packet, computed anew: of IPv4's header (RFC 791), TCP, UDP (RFC 768, 8200) and SCTP (RFC 9260),
//! and of the packet inside, if it is one of VXLAN (RFC 7348) or GENEVE (RFC 8926).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// The ports of tunnels: Flannel's VXLAN, GENEVE.
const VXLAN: u16 = 8472;
const GENEVE: u16 = 6081;
/// Both have a header of as many bytes before options, and carry Ethernet.
const TUNNEL_HEADER: usize = 8;
const ETHERNET_HEADER: usize = 14;

/// A packet whose checksums are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub source: IpAddr,
    pub protocol: u8,
    /// Whether there is one at all; UDP need not have any.
    pub has_checksum: bool,
    /// What a tunnel has wrapped.
    pub inner: Option<Box<Packet>>,
}

/// Reads a packet from its IP header on; none if it is a fragment, or no TCP, UDP or SCTP.
///
/// # Errors
/// What has a wrong checksum, or is no packet.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Packet>> {
    let header = Header::read(bytes)?;
    let Some(Header { source, destination, protocol, payload }) = header else { return Ok(None) };
    let what = || format!("protocol {protocol} from {source} to {destination}");
    let mut packet = Packet { source, protocol, has_checksum: true, inner: None };
    match protocol {
        TCP => ensure!(is_right(source, destination, protocol, payload), "checksum: {}", what()),
        SCTP => {
            let sent = payload.get(8..12).with_context(what)?;
            let mut without = payload.to_vec();
            without[8..12].fill(0);
            ensure!(sent == crc32c(&without).to_le_bytes(), "checksum: {}", what());
        }
        UDP => {
            let length = usize::from(number(payload, 4).with_context(what)?);
            let payload = payload.get(..length).with_context(what)?;
            packet.has_checksum = number(payload, 6) != Some(0);
            let right = !packet.has_checksum || is_right(source, destination, protocol, payload);
            ensure!(right, "checksum: {}", what());
            packet.inner = match wrapped(payload) {
                Some(inner) => {
                    read(inner).with_context(|| format!("within {}", what()))?.map(Box::new)
                }
                None => None,
            };
        }
        _ => return Ok(None),
    }
    Ok(Some(packet))
}

/// The IP packet in a tunnel's datagram.
fn wrapped(datagram: &[u8]) -> Option<&[u8]> {
    let tunnel = datagram.get(8..)?;
    let options = match number(datagram, 2)? {
        VXLAN => 0,
        GENEVE => usize::from(tunnel.first()? & 0x3f) * 4,
        _ => return None,
    };
    tunnel.get(TUNNEL_HEADER + options + ETHERNET_HEADER..)
}

struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<Option<Self>> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::read_v4(bytes).context("IPv4"),
            Some(6) => Self::read_v6(bytes).context("IPv6"),
            _ => Ok(None),
        }
    }

    fn read_v4(bytes: &'a [u8]) -> Result<Option<Self>> {
        let length = usize::from(bytes[0] & 0x0f) * 4;
        let header = bytes.get(..length).context("cut off")?;
        ensure!(sum(0, header) == 0xffff, "the header's checksum is wrong: {header:02x?}");
        let all = usize::from(number(bytes, 2).context("cut off")?);
        let is_fragment = number(header, 6).context("cut off")? & 0x3fff != 0;
        let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).map(Ipv4Addr::from);
        Ok((!is_fragment).then_some(Self {
            source: address(12)?.into(),
            destination: address(16)?.into(),
            protocol: header[9],
            payload: bytes.get(length..all).context("cut off")?,
        }))
    }

    fn read_v6(bytes: &'a [u8]) -> Result<Option<Self>> {
        let header = bytes.get(..40).context("cut off")?;
        let length = usize::from(number(header, 4).context("cut off")?);
        let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).map(Ipv6Addr::from);
        Ok(Some(Self {
            source: address(8)?.into(),
            destination: address(24)?.into(),
            // An extension header is a protocol that nobody asks for.
            protocol: header[6],
            payload: bytes.get(40..40 + length).context("cut off")?,
        }))
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map(u16::from_be_bytes)
}

/// The Internet's checksum over the pseudo-header and all that follows.
fn is_right(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> bool {
    let mut so_far = u32::from(protocol) + u32::try_from(payload.len()).unwrap_or(u32::MAX);
    for address in [source, destination] {
        so_far += match address {
            IpAddr::V4(address) => sum(0, &address.octets()),
            IpAddr::V6(address) => sum(0, &address.octets()),
        };
    }
    sum(so_far, payload) == 0xffff
}

/// The sum of 16-bit words in one's complement (RFC 1071).
fn sum(begin: u32, bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|two| u64::from(u16::from_be_bytes([two[0], two.get(1).copied().unwrap_or(0)])));
    let mut sum = u64::from(begin) + words.sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u32::try_from(sum).unwrap_or(0)
}

/// CRC-32C (Castagnoli), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let of_byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    };
    !bytes.iter().fold(u32::MAX, of_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.1 to 10.0.0.2 over UDP, two bytes.
    const DATAGRAM: [u8; 30] = [
        0x45, 0, 0, 30, 0, 0, 0x40, 0, 64, 17, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2, //
        0x04, 0xd2, 0x00, 0x50, 0, 10, 0x7e, 0x4c, b'h', b'i',
    ];

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn one_wrong_bit_is_found() {
        let packet = read(&DATAGRAM).unwrap().unwrap();
        assert!(packet.has_checksum && packet.protocol == UDP);
        for at in [8, 13, 21, 26, 29] {
            let mut wrong = DATAGRAM;
            wrong[at] ^= 1;
            assert!(read(&wrong).is_err(), "byte {at}");
        }
        let mut without = DATAGRAM;
        without[26..28].fill(0);
        assert!(!read(&without).unwrap().unwrap().has_checksum);
    }

    #[test]
    fn what_is_wrapped_is_looked_at() {
        let wrap = |inner: &[u8]| {
            let mut bytes = vec![0x45, 0, 0, 80, 0, 0, 0x40, 0, 64, 17, 0x26, 0x9b];
            bytes.extend([10, 0, 0, 1, 10, 0, 0, 2, 0xff, 0xff, 0x21, 0x18, 0, 60, 0, 0]);
            bytes.extend([0; TUNNEL_HEADER + ETHERNET_HEADER]);
            bytes.extend(inner);
            bytes
        };
        let outside = read(&wrap(&DATAGRAM)).unwrap().unwrap();
        assert!(!outside.has_checksum && outside.inner.unwrap().has_checksum);
        let mut wrong = DATAGRAM;
        wrong[29] ^= 1;
        assert!(format!("{:#}", read(&wrap(&wrong)).unwrap_err()).contains("within protocol 17"));
    }
}
