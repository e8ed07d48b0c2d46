//! DNS over TCP (RFC 7766): the messages that a server's segments come to.
//!
//! Segments are put together from the server's SYN on, or not at all: what begins a segment in the midst of a connection
//! may be anything, also what somebody has put into a record so that it looks like an answer of another name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A connection, as the server's packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The server, as the packet has it.
    pub server: IpAddr,
    /// Who asks.
    pub client: IpAddr,
    /// The client's port. The server's is 53.
    pub port: u16,
}

/// How many connections are followed at once; who was silent for longest is given up.
const CONNECTIONS: usize = 256;
/// How many of one client's, so that it does not have those of others given up.
const OF_ONE: usize = 32;
/// How long one may be silent.
const SILENCE: Duration = Duration::from_mins(5);
/// How much is kept of one that is not complete, or came too early; who sends more is given up.
const LONGEST: usize = 16 << 10;
/// What is kept beside the bytes of each segment that came too early, about.
const EARLY: usize = 64;
/// How far a segment may be from what is expected.
const WINDOW: u32 = 1 << 30;
/// The bits of a TCP header's flags (RFC 9293, section 3.1).
const FIN_OR_RST: u8 = 0x05;
const SYN: u8 = 0x02;

/// Where a connection is.
#[derive(Clone, Debug)]
struct Stream {
    /// The number of its first byte.
    first: u32,
    /// The number of the next byte.
    next: u32,
    /// What has come of a message.
    partial: Vec<u8>,
    /// What has come before what is between.
    early: BTreeMap<u32, Vec<u8>>,
    used: Instant,
}

/// A segment of a server's, from its TCP header on.
struct Segment<'a> {
    port: u16,
    number: u32,
    flags: u8,
    data: &'a [u8],
}

/// The connections that are followed.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    streams: BTreeMap<Flow, Stream>,
}

impl Streams {
    /// Takes a segment of a server's in, from its TCP header on: of which connection it is, and the messages that are
    /// complete with it. `None`: it is cut off.
    pub fn take(
        &mut self,
        (server, client): (IpAddr, IpAddr),
        segment: &[u8],
        now: Instant,
    ) -> Option<(Flow, Vec<Vec<u8>>)> {
        let Segment { port, mut number, flags, data } = Segment::read(segment)?;
        let flow = Flow { server, client, port };
        if flags & SYN != 0 {
            number = number.wrapping_add(1);
            self.begin(flow, number, now);
        }
        let Some(stream) = self.streams.get_mut(&flow) else { return Some((flow, Vec::new())) };
        stream.used = now;
        let messages = stream.take(number, data);
        if flags & FIN_OR_RST != 0 || stream.kept() > LONGEST {
            self.streams.remove(&flow);
        }
        Some((flow, messages))
    }

    /// Follows a connection from now on, unless it is one whose SYN was sent again.
    fn begin(&mut self, flow: Flow, first: u32, now: Instant) {
        if self.streams.get(&flow).is_some_and(|stream| stream.first == first) {
            return;
        }
        self.streams.retain(|_, stream| now.saturating_duration_since(stream.used) < SILENCE);
        let of_one = |other: &&Flow| other.client == flow.client;
        let silent = if self.streams.keys().filter(of_one).count() >= OF_ONE {
            self.most_silent(|other| of_one(&other))
        } else if self.streams.len() >= CONNECTIONS {
            self.most_silent(|_| true)
        } else {
            None
        };
        if let Some(silent) = silent {
            self.streams.remove(&silent);
        }
        let (partial, early) = (Vec::new(), BTreeMap::new());
        self.streams.insert(flow, Stream { first, next: first, partial, early, used: now });
    }

    /// Who was silent for longest among some.
    fn most_silent(&self, of: impl Fn(&Flow) -> bool) -> Option<Flow> {
        let some = self.streams.iter().filter(|(flow, _)| of(flow));
        some.min_by_key(|(_, stream)| stream.used).map(|(flow, _)| *flow)
    }
}

impl<'a> Segment<'a> {
    fn read(segment: &'a [u8]) -> Option<Self> {
        let header = usize::from(segment.get(12)? >> 4) * 4;
        Some(Self {
            port: u16::from_be_bytes(segment.get(2..4)?.try_into().ok()?),
            number: u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?),
            flags: *segment.get(13)?,
            data: segment.get(header..)?,
        })
    }
}

impl Stream {
    /// How many bytes it takes.
    fn kept(&self) -> usize {
        self.partial.len() + self.early.values().map(|data| data.len() + EARLY).sum::<usize>()
    }

    /// Takes bytes in that have this number; returns the messages that are complete with them.
    fn take(&mut self, number: u32, data: &[u8]) -> Vec<Vec<u8>> {
        let is_early = !data.is_empty() && number.wrapping_sub(self.next) < WINDOW;
        if !self.append(number, data) && is_early {
            // Of two the longer: what is sent again may have more in it than before.
            let held = self.early.entry(number).or_default();
            if held.len() < data.len() {
                *held = data.to_vec();
            }
        }
        while let Some((number, data)) = self.take_early() {
            self.append(number, &data);
        }
        let mut messages = Vec::new();
        while let Some(message) = complete(&mut self.partial) {
            messages.push(message);
        }
        messages
    }

    /// Appends what is new of bytes, unless some are missing before them.
    fn append(&mut self, number: u32, data: &[u8]) -> bool {
        let known = self.next.wrapping_sub(number);
        if known >= WINDOW {
            return false;
        }
        if let Some(news) = data.get(known as usize..) {
            self.partial.extend_from_slice(news);
            // No packet is as long.
            self.next = self.next.wrapping_add(u32::try_from(news.len()).unwrap_or_default());
        }
        true
    }

    /// What came too early and does not any more.
    fn take_early(&mut self) -> Option<(u32, Vec<u8>)> {
        let next = self.next;
        let number = self.early.keys().find(|number| next.wrapping_sub(**number) < WINDOW);
        self.early.remove_entry(&number.copied()?)
    }
}

/// Takes the first message off: two bytes say how long it is.
fn complete(partial: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(partial.get(..2)?.try_into().ok()?));
    let message = partial.get(2..2 + length)?.to_vec();
    partial.drain(..2 + length);
    Some(message)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    const ENDS: (IpAddr, IpAddr) = (SERVER, CLIENT);
    const ACK: u8 = 0x10;

    fn segment(number: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut segment = vec![0, 53, 0x9c, 0x40];
        segment.extend(number.to_be_bytes());
        segment.extend([0, 0, 0, 0, 0x60, flags, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
        segment.extend(data);
        segment
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut framed = u16::try_from(message.len()).expect("short").to_be_bytes().to_vec();
        framed.extend(message);
        framed
    }

    fn take(streams: &mut Streams, number: u32, flags: u8, data: &[u8]) -> Vec<Vec<u8>> {
        let taken = streams.take(ENDS, &segment(number, flags, data), Instant::now());
        taken.expect("a whole segment").1
    }

    /// A connection with these segments after the SYN, whose number is the last there is.
    fn play(segments: &[(u32, &[u8])]) -> Vec<Vec<u8>> {
        let mut streams = Streams::default();
        assert!(take(&mut streams, u32::MAX, SYN, &[]).is_empty());
        segments.iter().flat_map(|(number, data)| take(&mut streams, *number, ACK, data)).collect()
    }

    #[test]
    fn messages_are_put_together_wherever_segments_end_and_in_any_order() {
        let bytes = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let expected: Vec<Vec<u8>> = vec![b"one".to_vec(), Vec::new(), b"three".to_vec()];
        for size in 1..=bytes.len() {
            let numbers = (0..).step_by(size);
            let mut segments: Vec<_> = numbers.zip(bytes.chunks(size)).collect();
            assert_eq!(play(&segments), expected, "{size}");
            segments.reverse();
            assert_eq!(play(&segments), expected, "{size}, the last first");
        }
    }

    #[test]
    fn what_is_sent_again_counts_once_also_with_more_behind_it() {
        let bytes = [framed(b"one"), framed(b"two")].concat();
        assert_eq!(play(&[(0, &bytes[..7]), (0, &bytes[..7]), (0, &bytes)]), [b"one", b"two"]);
        assert_eq!(
            play(&[(5, &bytes[5..7]), (5, &bytes[5..]), (0, &bytes[..6])]),
            [b"one", b"two"]
        );
        let mut streams = Streams::default();
        take(&mut streams, 0, SYN, &[]);
        take(&mut streams, 1, ACK, &bytes[..3]);
        take(&mut streams, 0, SYN, &[]);
        assert_eq!(take(&mut streams, 4, ACK, &bytes[3..]), [b"one", b"two"]);
    }

    #[test]
    fn a_syn_may_carry_data_and_numbers_begin_anew_after_the_last() {
        let mut streams = Streams::default();
        let bytes = framed(b"one");
        assert!(take(&mut streams, u32::MAX - 2, SYN, &bytes[..2]).is_empty());
        assert_eq!(take(&mut streams, 0, ACK, &bytes[2..]), [b"one"]);
    }

    #[test]
    fn nothing_is_believed_after_a_gap_or_without_a_beginning() {
        let message = framed(b"one");
        assert_eq!(play(&[(100, &message)]), Vec::<Vec<u8>>::new());
        let mut streams = Streams::default();
        assert!(take(&mut streams, 0, ACK, &message).is_empty());
    }

    #[test]
    fn who_sends_too_much_or_ends_or_is_silent_is_forgotten() {
        let mut streams = Streams::default();
        take(&mut streams, 0, SYN, &[]);
        assert_eq!(take(&mut streams, 1, ACK | FIN_OR_RST, &framed(b"one")), [b"one"]);
        assert!(streams.streams.is_empty(), "it has ended");
        for (begin, step) in [(1, 1000), (2, 1001)] {
            take(&mut streams, 0, SYN, &[]);
            let sent = (0u32..).map(|index| {
                take(&mut streams, begin + index * step, ACK, &[0xff; 1000]);
                streams.streams.values().map(Stream::kept).sum()
            });
            let kept: Vec<usize> = sent.take_while(|kept| *kept > 0).collect();
            assert!((15..=16).contains(&kept.len()), "{kept:?}");
        }
        let now = Instant::now();
        let client = |number: u32| (SERVER, IpAddr::from(Ipv4Addr::from(number)));
        for number in 0..1000 {
            streams.take(client(number), &segment(0, SYN, &[]), now + SILENCE / 2);
            streams.take(client(0), &segment(1, ACK, &[]), now + SILENCE / 2 + SILENCE / 4);
        }
        let follows = |streams: &Streams, number| {
            streams.streams.keys().any(|flow| (flow.server, flow.client) == client(number))
        };
        assert_eq!(streams.streams.len(), CONNECTIONS);
        assert!(follows(&streams, 0) && follows(&streams, 999) && !follows(&streams, 1));
        for port in 0..1000_u16 {
            let mut syn = segment(0, SYN, &[]);
            syn[2..4].copy_from_slice(&port.to_be_bytes());
            streams.take(client(999), &syn, now + SILENCE / 2);
        }
        let of_others = (0..999).filter(|number| follows(&streams, *number)).count();
        assert_eq!(
            of_others,
            CONNECTIONS - OF_ONE,
            "a client's connections are given up for its own"
        );
        streams.take(client(1), &segment(0, SYN, &[]), now + SILENCE + SILENCE / 2);
        assert_eq!(streams.streams.len(), 2, "all others are silent for too long");
        assert!(streams.take(ENDS, &[0; 7], now).is_none(), "cut off");
    }
}
