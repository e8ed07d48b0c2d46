//! How NRI's messages travel: ttrpc's, each way on a connection of its own, and both connections in one socket.
//!
//! A frame in the socket is the connection's number and a length (both 32 bits, big endian) and so many bytes
//! (`pkg/net/multiplex` of github.com/containerd/nri). A message of ttrpc is a length, the number of its stream (the
//! same), its kind and flags (a byte each), and so many bytes (`PROTOCOL.md` of github.com/containerd/ttrpc).

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The connection on which the runtime asks and the plugin answers.
pub(super) const PLUGIN: u32 = 1;
/// The connection on which the plugin asks and the runtime answers.
pub(super) const RUNTIME: u32 = 2;

/// The kind of a request.
pub(super) const REQUEST: u8 = 1;
/// The kind of a response.
pub(super) const RESPONSE: u8 = 2;

const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;
/// The longest message of ttrpc.
const LONGEST: usize = 4 << 20;

/// A message of ttrpc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// On which connection.
    pub(super) connection: u32,
    /// A request and its response have one number.
    pub(super) stream: u32,
    /// [`REQUEST`], [`RESPONSE`], or what we have no use for.
    pub(super) kind: u8,
    /// What it says.
    pub(super) payload: Bytes,
}

impl Message {
    /// The message in one frame. The runtime reads into buffers of 4096 bytes and takes no frame in parts; what we say is
    /// shorter.
    pub(super) fn encode(&self) -> Vec<u8> {
        let long = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(FRAME_HEADER + MESSAGE_HEADER + self.payload.len());
        out.put_u32(self.connection);
        out.put_u32(long(MESSAGE_HEADER + self.payload.len()));
        out.put_u32(long(self.payload.len()));
        out.put_u32(self.stream);
        out.put_u8(self.kind);
        out.put_u8(0);
        out.put_slice(&self.payload);
        out
    }
}

/// Makes messages of what the socket says.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    socket: BytesMut,
    connections: BTreeMap<u32, BytesMut>,
}

impl Decoder {
    /// Where bytes from the socket are put.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        self.socket.reserve(4096);
        &mut self.socket
    }

    /// The next whole message.
    ///
    /// # Errors
    /// If this cannot be NRI. What follows then means nothing.
    pub(super) fn next(&mut self) -> Result<Option<Message>> {
        loop {
            for (connection, bytes) in &mut self.connections {
                if let Some(message) = take_message(*connection, bytes)? {
                    return Ok(Some(message));
                }
            }
            let Some(mut header) = self.socket.get(..FRAME_HEADER) else { return Ok(None) };
            let (connection, length) = (header.get_u32(), header.get_u32() as usize);
            ensure!(length <= MESSAGE_HEADER + LONGEST, "a frame of {length} bytes is too long");
            if self.socket.len() < FRAME_HEADER + length {
                return Ok(None);
            }
            self.socket.advance(FRAME_HEADER);
            let payload = self.socket.split_to(length);
            if matches!(connection, PLUGIN | RUNTIME) {
                self.connections.entry(connection).or_default().unsplit(payload);
            }
        }
    }
}

fn take_message(connection: u32, bytes: &mut BytesMut) -> Result<Option<Message>> {
    let Some(mut header) = bytes.get(..MESSAGE_HEADER) else { return Ok(None) };
    let (length, stream, kind) = (header.get_u32() as usize, header.get_u32(), header.get_u8());
    ensure!(length <= LONGEST, "a message of {length} bytes is too long");
    if bytes.len() < MESSAGE_HEADER + length {
        return Ok(None);
    }
    bytes.advance(MESSAGE_HEADER);
    let payload = bytes.split_to(length).freeze();
    Ok(Some(Message { connection, stream, kind, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(connection: u32, length: usize) -> Message {
        Message { connection, stream: 7, kind: REQUEST, payload: vec![7; length].into() }
    }

    #[test]
    fn messages_are_found_wherever_frames_and_reads_end() {
        let sent = [message(PLUGIN, 0), message(RUNTIME, 5000), message(PLUGIN, 3)];
        let whole: Vec<u8> = sent.iter().flat_map(Message::encode).collect();
        for portion in [1, 7, 18, 4096, whole.len()] {
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for bytes in whole.chunks(portion) {
                decoder.buffer().extend_from_slice(bytes);
                while let Some(message) = decoder.next().expect("messages") {
                    got.push(message);
                }
            }
            assert_eq!(got, sent, "{portion}");
        }
    }

    #[test]
    fn a_message_may_come_in_several_frames_between_those_of_another_connection() {
        let mut decoder = Decoder::default();
        let sent = message(PLUGIN, 3);
        let (first, last) = {
            let encoded = sent.encode();
            (encoded[8..12].to_vec(), encoded[12..].to_vec())
        };
        for (connection, part) in [(PLUGIN, first), (9, b"noise".to_vec()), (PLUGIN, last)] {
            decoder.buffer().put_u32(connection);
            decoder.buffer().put_u32(u32::try_from(part.len()).expect("short"));
            decoder.buffer().put_slice(&part);
        }
        assert_eq!(decoder.next().expect("a message"), Some(sent));
        assert_eq!(decoder.next().expect("no more"), None);
    }

    #[test]
    fn what_is_too_long_is_an_error_before_it_has_come() {
        let mut decoder = Decoder::default();
        decoder.buffer().put_slice(&[0, 0, 0, 1, 0xff, 0, 0, 0]);
        assert!(decoder.next().is_err());
        let mut decoder = Decoder::default();
        decoder.buffer().put_slice(&[0, 0, 0, 1, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
        assert!(decoder.next().is_err());
    }
}
