//! User data of sets and rules: how stock `nft` learns to print what it did not write itself.
//!
//! The kernel keeps it as opaque bytes. The format is libnftnl's (`include/libnftnl/udata.h`):
//! type, length, value, each of the first two one byte, nested at will; numbers in host order.

/// `NFTNL_UDATA_TABLE_COMMENT`, `NFTNL_UDATA_RULE_COMMENT`, `NFTNL_UDATA_SET_ELEM_COMMENT`.
const COMMENT: u8 = 0;
/// A type of ours in the user data of rules, beyond those that nft knows and skipped by it: a
/// fingerprint, so that a rule is recognised without decoding its expressions.
const FINGERPRINT: u8 = 0x73;
/// nft accepts comments of up to 128 bytes with the terminating zero.
const COMMENT_LIMIT: usize = 127;

/// `NFTNL_UDATA_SET_*`.
mod set {
    pub(super) const KEY_BYTE_ORDER: u8 = 0;
    pub(super) const DATA_BYTE_ORDER: u8 = 1;
    pub(super) const KEY_TYPEOF: u8 = 3;
    pub(super) const DATA_TYPEOF: u8 = 4;
    pub(super) const DATA_INTERVAL: u8 = 6;
}

/// nft's `enum expr_types`.
mod expression {
    pub(super) const PAYLOAD: u32 = 7;
    pub(super) const META: u32 = 9;
    pub(super) const CONCAT: u32 = 13;
    pub(super) const NUMGEN: u32 = 23;
}

/// nft's `enum byteorder`.
const HOST_ENDIAN: u32 = 1;
const BIG_ENDIAN: u32 = 2;
const MIXED: u32 = 0;

/// One part of a key or value that nft shall print as the expression it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Typeof {
    /// `ip daddr`
    Ip4Daddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `ip saddr`
    Ip4Saddr,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `meta priority`
    Priority,
    /// `meta l4proto`
    L4Proto,
    /// `th dport`
    ThDport,
    /// `numgen random mod 65536`
    Slot,
}

/// Values of a data map: printed as the expressions they are used with.
pub(crate) fn typeof_map(key: &[Typeof], data: &[Typeof]) -> Vec<u8> {
    let mut out = byte_orders();
    put(&mut out, set::KEY_TYPEOF, &concat(key));
    put(&mut out, set::DATA_TYPEOF, &concat(data));
    put_u32(&mut out, set::DATA_INTERVAL, 0);
    out
}

/// A data map from one plain type in network byte order to a number in the host's.
#[must_use]
pub fn plain_map() -> Vec<u8> {
    let mut out = plain_set();
    put_u32(&mut out, set::DATA_BYTE_ORDER, HOST_ENDIAN);
    put_u32(&mut out, set::DATA_INTERVAL, 0);
    out
}

/// A data map from a concatenation of plain types to a number in the host's byte order.
#[must_use]
pub fn concat_map() -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, set::KEY_BYTE_ORDER, MIXED);
    put_u32(&mut out, set::DATA_BYTE_ORDER, HOST_ENDIAN);
    put(&mut out, set::KEY_TYPEOF, &concat(&[]));
    put_u32(&mut out, set::DATA_INTERVAL, 0);
    out
}

/// The same with values that are a number: `meta priority`.
pub(crate) fn typeof_map_to_priority(key: &[Typeof]) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, set::KEY_BYTE_ORDER, MIXED);
    put_u32(&mut out, set::DATA_BYTE_ORDER, HOST_ENDIAN);
    put(&mut out, set::KEY_TYPEOF, &concat(key));
    put(&mut out, set::DATA_TYPEOF, &Typeof::Priority.encode());
    put_u32(&mut out, set::DATA_INTERVAL, 0);
    out
}

/// A verdict map whose key is a concatenation of plain types.
pub(crate) fn verdict_map() -> Vec<u8> {
    let mut out = byte_orders();
    put(&mut out, set::KEY_TYPEOF, &concat(&[]));
    put_u32(&mut out, set::DATA_INTERVAL, 0);
    out
}

/// A set whose key is a concatenation of plain types.
#[must_use]
pub fn concat_set() -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, set::KEY_BYTE_ORDER, MIXED);
    put(&mut out, set::KEY_TYPEOF, &concat(&[]));
    out
}

/// A set of one plain type in network byte order.
#[must_use]
pub fn plain_set() -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, set::KEY_BYTE_ORDER, BIG_ENDIAN);
    out
}

/// A set of one plain type in the host's byte order.
#[must_use]
pub fn number_set() -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, set::KEY_BYTE_ORDER, HOST_ENDIAN);
    out
}

/// A comment, cut to what nft can print.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = fit_comment(text).as_bytes().to_vec();
    bytes.push(0);
    put(&mut out, COMMENT, &bytes);
    out
}

/// The part of a text that fits a comment.
pub(crate) fn fit_comment(text: &str) -> &str {
    let mut end = text.len().min(COMMENT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The comment in a user data, if there is one.
pub(crate) fn read_comment(bytes: &[u8]) -> Option<&str> {
    let value = find(bytes, COMMENT)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// User data of a rule: its fingerprint.
pub(crate) fn fingerprint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, FINGERPRINT, &value.to_be_bytes());
    out
}

/// The fingerprint in a rule's user data, if it is one of ours.
pub(crate) fn read_fingerprint(bytes: &[u8]) -> Option<u64> {
    find(bytes, FINGERPRINT)?.try_into().ok().map(u64::from_be_bytes)
}

fn find(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (kind, length) = (*rest.first()?, usize::from(*rest.get(1)?));
        let value = rest.get(2..2 + length)?;
        if kind == wanted {
            return Some(value);
        }
        rest = &rest[2 + length..];
    }
}

fn byte_orders() -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, set::KEY_BYTE_ORDER, MIXED);
    put_u32(&mut out, set::DATA_BYTE_ORDER, MIXED);
    out
}

fn concat(parts: &[Typeof]) -> Vec<u8> {
    let mut list = Vec::new();
    for (position, part) in (0u8..).zip(parts) {
        put(&mut list, position, &part.encode());
    }
    typed(expression::CONCAT, &list)
}

impl Typeof {
    fn encode(self) -> Vec<u8> {
        match self {
            // Header description and field, by nft's numbers.
            Self::Ip4Daddr => typed(expression::PAYLOAD, &numbers(&[12, 12])),
            Self::Ip6Daddr => typed(expression::PAYLOAD, &numbers(&[13, 9])),
            Self::Ip4Saddr => typed(expression::PAYLOAD, &numbers(&[12, 11])),
            Self::Ip6Saddr => typed(expression::PAYLOAD, &numbers(&[13, 8])),
            // NFT_META_PRIORITY.
            Self::Priority => typed(expression::META, &numbers(&[2])),
            Self::ThDport => typed(expression::PAYLOAD, &numbers(&[11, 2])),
            // NFT_META_L4PROTO.
            Self::L4Proto => typed(expression::META, &numbers(&[16])),
            // Random, modulus, offset.
            Self::Slot => typed(expression::NUMGEN, &numbers(&[1, 65536, 0])),
        }
    }
}

fn typed(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_u32(&mut out, 0, kind);
    put(&mut out, 1, data);
    out
}

fn numbers(values: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in (0u8..).zip(values) {
        put_u32(&mut out, kind, *value);
    }
    out
}

fn put_u32(out: &mut Vec<u8>, kind: u8, value: u32) {
    put(out, kind, &value.to_ne_bytes());
}

fn put(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.push(u8::try_from(value.len()).expect("user data is short"));
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Captured from nft 1.0.6 (`typeof ip daddr . meta l4proto . th dport . numgen random mod
    /// 65536 : ip daddr . th dport`).
    #[cfg(target_endian = "little")]
    #[test]
    fn a_typeof_map_is_described_as_nft_does() {
        let key = [Typeof::Ip4Daddr, Typeof::L4Proto, Typeof::ThDport, Typeof::Slot];
        let data = [Typeof::Ip4Daddr, Typeof::ThDport];
        assert_eq!(
            hex(&typeof_map(&key, &data)),
            "000400000000010400000000036000040d00000001580014000407000000010c00040c00000001040c00\
             0000010e00040900000001060004100000000214000407000000010c00040b000000010402000000031a\
             0004170000000112000401000000010400000100020400000000043400040d000000012c001400040700\
             0000010c00040c00000001040c0000000114000407000000010c00040b00000001040200000006040000\
             0000"
        );
    }

    /// Captured from nft 1.0.6 (`typeof meta priority . ip saddr : meta priority`).
    #[cfg(target_endian = "little")]
    #[test]
    fn a_typeof_map_to_a_number_is_described_as_nft_does() {
        assert_eq!(
            hex(&typeof_map_to_priority(&[Typeof::Priority, Typeof::Ip4Saddr])),
            "000400000000010401000000032e00040d0000000126000e0004090000000106000402000000011400040700\
             0000010c00040c00000001040b000000040e000409000000010600040200000006040000\
             0000"
        );
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn plain_sets_and_verdict_maps_are_described_as_nft_does() {
        let verdicts = "000400000000010400000000030800040d0000000100060400000000";
        assert_eq!(hex(&verdict_map()), verdicts);
        assert_eq!(hex(&concat_set()), "000400000000030800040d0000000100");
        assert_eq!(hex(&plain_set()), "000402000000");
    }

    #[test]
    fn comments_and_fingerprints_are_read_back() {
        assert_eq!(read_comment(&comment("default/web")), Some("default/web"));
        assert_eq!(read_fingerprint(&fingerprint(77)), Some(77));
        assert_eq!(read_fingerprint(&comment("x")), None);
        assert_eq!(read_comment(&[0, 9, 1]), None);
        assert_eq!(read_comment(&comment(&"ä".repeat(100))), Some("ä".repeat(63).as_str()));
    }
}
