//! Reading attributes (`struct nlattr`): length, type, payload, padding to four bytes.

/// `NLA_TYPE_MASK`: the type without its nested and byte-order flags.
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// One attribute of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The type, without flags.
    pub kind: u16,
    /// The payload, without padding.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The payload as a big-endian 32-bit number, as nfnetlink writes numbers.
    #[must_use]
    pub fn u32_be(&self) -> Option<u32> {
        self.payload.try_into().ok().map(u32::from_be_bytes)
    }

    /// The payload as a string, without the terminating zero.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        std::str::from_utf8(&self.payload[..end]).ok()
    }

    /// The attributes nested in this one.
    pub fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.payload)
    }

    /// The payload of the first nested attribute of this type.
    #[must_use]
    pub fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.nested().find(|attribute| attribute.kind == kind)
    }
}

/// The attributes in a payload. Ends at the first that is malformed: a reader never fails on
/// what a newer kernel adds.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Attribute { kind, payload })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_in_order_and_padding_is_skipped() {
        let bytes = [5, 0, 1, 0, 7, 0, 0, 0, 8, 0, 2, 0x80, 1, 2, 3, 4];
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(
            read,
            [Attribute { kind: 1, payload: &[7] }, Attribute { kind: 2, payload: &[1, 2, 3, 4] }]
        );
    }

    #[test]
    fn malformed_attributes_end_the_reading() {
        for bytes in [&[3u8, 0, 1, 0][..], &[200, 0, 1, 0, 1], &[0, 0], &[0; 8]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }
}
