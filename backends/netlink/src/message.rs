//! Writing messages: header, attributes, nests.

use nix::libc;

/// Bytes of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

/// Where a nest began; given back to [`Message::end`].
#[derive(Debug)]
#[must_use = "a nest has to be ended"]
pub struct Mark(usize);

/// One netlink message being written. Numbers are big-endian, as nfnetlink wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of a type with `NLM_F_REQUEST` and these flags; the sequence number is set when
    /// it is sent.
    #[must_use]
    pub fn new(kind: u16, flags: u16) -> Self {
        let flags = flags | u16::try_from(libc::NLM_F_REQUEST).unwrap_or(1);
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    /// The length so far, in bytes. A nest's own length is 16 bits wide, so lists are cut well
    /// before 64 KiB.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing but the header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= HEADER
    }

    /// Adds raw bytes, padded: the family header.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Adds an attribute.
    ///
    /// # Panics
    /// If the value is longer than an attribute can be (65,531 bytes): a bug of the caller.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("an attribute fits 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Adds a string with its terminating zero.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// Adds a 32-bit number.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Begins a nest.
    pub fn begin(&mut self, kind: u16) -> Mark {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Mark(start)
    }

    /// Ends a nest.
    ///
    /// # Panics
    /// If it has grown past 64 KiB: a bug of the caller.
    pub fn end(&mut self, mark: Mark) {
        let length = u16::try_from(self.bytes.len() - mark.0).expect("a nest fits 64 KiB");
        self.bytes[mark.0..mark.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds a nest written by `fill`.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let mark = self.begin(kind);
        fill(self);
        self.end(mark);
    }

    /// The finished bytes with this sequence number and additional flags.
    pub(crate) fn finish(&mut self, sequence: u32, flags: u16) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("a message fits 4 GiB");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        add_flags(&mut self.bytes, flags);
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    /// Writes the message with this sequence number to the end of others.
    pub(crate) fn write(&self, out: &mut Vec<u8>, sequence: u32) {
        let length = u32::try_from(self.bytes.len()).expect("a message fits 4 GiB");
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.bytes[4..8]);
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&self.bytes[12..]);
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Adds flags to a finished message.
pub(crate) fn add_flags(message: &mut [u8], flags: u16) {
    let all = u16::from_ne_bytes([message[6], message[7]]) | flags;
    message[6..8].copy_from_slice(&all.to_ne_bytes());
}

/// `struct nfgenmsg`: family, version 0, resource id in network byte order.
#[must_use]
pub fn nfnetlink(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_laid_out_as_the_kernel_reads_it() {
        let mut message = Message::new(0x0a03, 0x400);
        message.raw(&nfnetlink(1, 10));
        message.text(1, "ab");
        message.nest(4, |message| message.u32(1, 5));
        let expected = [
            44, 0, 0, 0, 0x03, 0x0a, 0x05, 0x04, 9, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
            1, 0, 0, 10, // nfgenmsg
            7, 0, 1, 0, b'a', b'b', 0, 0, // a string and its padding
            12, 0, 4, 0x80, 8, 0, 1, 0, 0, 0, 0, 5, // a nest of one number
        ];
        let bytes = message.finish(9, 4).to_vec();
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[4..], expected[4..]);
        assert_eq!(bytes[0], 40);
        // As one of a batch, which asks for the ack in the end.
        let mut batch = vec![7; 4];
        message.write(&mut batch, 9);
        add_flags(&mut batch[4..], 4);
        assert_eq!((&batch[..4], &batch[4..]), (&[7; 4][..], &*bytes));
    }
}
