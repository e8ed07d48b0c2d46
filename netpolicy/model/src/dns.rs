//! What a DNS answer says of addresses (RFC 1035, section 4; RFC 3596): the name that was asked for, the names that it
//! is an alias of, and their addresses.

pub mod stream;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use crate::domain::is_label;

const HEADER: usize = 12;
/// The bits of the header's second word: it is an answer; it is cut off; how it went.
const ANSWER: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const OUTCOME: u16 = 0x000f;
/// The types `A`, `CNAME` and `AAAA`, and the class `IN`.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
/// How many aliases lead to an address at most.
const ALIASES: usize = 16;
/// How often a name may go on elsewhere in the message; each time it is before.
const JUMPS: usize = 32;
const LONGEST: usize = 253;

/// An address of a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// In lower case, without the last dot.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// For how many seconds: the shortest time to live on the way from the name to the address.
    pub seconds: u32,
}

/// The addresses that an answer gives to the name that was asked for, and to each name that this one is an alias of. None
/// if it is no answer, tells of a failure, was cut off, or cannot be read to the end of its answers.
#[must_use]
pub fn read(message: &[u8]) -> Vec<Found> {
    parse(message).unwrap_or_default()
}

/// What the answers say, by the names that they speak of.
#[derive(Default)]
struct Records {
    aliases: BTreeMap<String, (String, u32)>,
    addresses: BTreeMap<String, Vec<(IpAddr, u32)>>,
}

fn parse(message: &[u8]) -> Option<Vec<Found>> {
    let mut reader = Reader { message, at: 2 };
    let flags = reader.word()?;
    if flags & ANSWER == 0 || flags & (TRUNCATED | OUTCOME) != 0 {
        return None;
    }
    let (questions, answers) = (reader.word()?, reader.word()?);
    reader.at = HEADER;
    // Nobody asks for several.
    if questions != 1 {
        return None;
    }
    let asked = reader.name()?;
    reader.skip(4)?;
    let mut records = Records::default();
    for _ in 0..answers {
        let name = reader.name()?;
        let (kind, class) = (reader.word()?, reader.word()?);
        let seconds = u32::from(reader.word()?) << 16 | u32::from(reader.word()?);
        // RFC 2181, section 8: what does not fit into 31 bits is 0.
        let seconds = if seconds > u32::MAX >> 1 { 0 } else { seconds };
        let length = usize::from(reader.word()?);
        let data = message.get(reader.at..reader.at + length)?;
        let (Some(name), true) = (name, class == INTERNET) else {
            reader.skip(length)?;
            continue;
        };
        let address = match kind {
            A => <[u8; 4]>::try_from(data).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
            AAAA => <[u8; 16]>::try_from(data).ok().map(|bytes| Ipv6Addr::from(bytes).into()),
            CNAME => {
                let target = Reader { message, at: reader.at }.name()?;
                records.aliases.extend(target.map(|target| (name.clone(), (target, seconds))));
                None
            }
            _ => None,
        };
        if let Some(address) = address {
            records.addresses.entry(name).or_default().push((address, seconds));
        }
        reader.skip(length)?;
    }
    Some(records.follow(asked?))
}

impl Records {
    fn follow(&self, asked: String) -> Vec<Found> {
        let mut found = Vec::new();
        // The names so far, each with the shortest time from it on.
        let mut names = vec![(asked, u32::MAX)];
        let _ = (0..ALIASES).try_for_each(|_| {
            let last = names.last().map(|(name, _)| name.clone()).unwrap_or_default();
            for (address, seconds) in self.addresses.get(&last).into_iter().flatten() {
                found.extend(names.iter().map(|(name, least)| Found {
                    name: name.clone(),
                    address: *address,
                    seconds: *seconds.min(least),
                }));
            }
            let Some((target, seconds)) = self.aliases.get(&last) else {
                return ControlFlow::Break(());
            };
            names.iter_mut().for_each(|(_, least)| *least = (*least).min(*seconds));
            names.push((target.clone(), u32::MAX));
            ControlFlow::Continue(())
        });
        found
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.message.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        self.at = self.at.checked_add(length).filter(|at| *at <= self.message.len())?;
        Some(())
    }

    /// A name; the inner `None` is one that no policy can name: a label with a dot in it must not become two.
    #[expect(clippy::option_option, reason = "unreadable, and read but nobody's")]
    fn name(&mut self) -> Option<Option<String>> {
        let (mut name, mut sound) = (String::new(), true);
        let mut reader = *self;
        let mut jumps = 0;
        loop {
            let length = reader.byte()?;
            match length >> 6 {
                0 if length == 0 => break,
                0 => {
                    let label = reader.message.get(reader.at..reader.at + usize::from(length))?;
                    reader.skip(label.len())?;
                    let text = std::str::from_utf8(label).ok().filter(|text| is_label(text));
                    sound &= text.is_some() && name.len() + label.len() < LONGEST;
                    if let (Some(text), true) = (text, sound) {
                        let dot = if name.is_empty() { "" } else { "." };
                        name = format!("{name}{dot}{}", text.to_ascii_lowercase());
                    }
                }
                3 => {
                    let to = usize::from(length & 0x3f) << 8 | usize::from(reader.byte()?);
                    if jumps == 0 {
                        self.at = reader.at;
                    }
                    jumps += 1;
                    if to >= reader.at || jumps > JUMPS {
                        return None;
                    }
                    reader.at = to;
                }
                _ => return None,
            }
        }
        if jumps == 0 {
            self.at = reader.at;
        }
        Some(sound.then_some(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Vec<u8> {
        let label =
            |label: &str| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat();
        let mut bytes: Vec<u8> = text.split('.').flat_map(label).collect();
        bytes.push(0);
        bytes
    }

    fn record(owner: &[u8], kind: u16, seconds: u32, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        let head = [kind.to_be_bytes(), INTERNET.to_be_bytes()].concat();
        [owner, &head, &seconds.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    fn answer(asked: &[u8], records: &[Vec<u8>]) -> Vec<u8> {
        let count = u16::try_from(records.len()).unwrap().to_be_bytes();
        let head = [0, 7, 0x81, 0x80, 0, 1, count[0], count[1], 0, 0, 0, 0];
        [&head[..], asked, &[0, 1, 0, 1], &records.concat()].concat()
    }

    fn found(name: &str, address: &str, seconds: u32) -> Found {
        Found { name: name.into(), address: address.parse().unwrap(), seconds }
    }

    /// Points to the name that was asked for.
    const ASKED: &[u8] = &[0xc0, 12];

    #[test]
    fn every_name_on_the_way_to_an_address_has_it() {
        let target = name("edge.example.net");
        let message = answer(
            &name("WWW.example.com"),
            &[
                record(ASKED, CNAME, 300, &target),
                record(&name("other.example.org"), A, 60, &[192, 0, 2, 9]),
                record(&target, A, 20, &[192, 0, 2, 1]),
                record(&target, AAAA, 3600, &[0xfd; 16]),
            ],
        );
        let v6 = "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd";
        let expected = [
            found("www.example.com", "192.0.2.1", 20),
            found("edge.example.net", "192.0.2.1", 20),
            found("www.example.com", v6, 300),
            found("edge.example.net", v6, 3600),
        ];
        assert_eq!(read(&message), expected);
        // Cut off anywhere it says nothing: half an answer could be anything.
        for length in 0..message.len() {
            assert_eq!(read(&message[..length]), []);
        }
        for (at, bits) in [(2, 0x01), (2, 0x83), (3, 0x83)] {
            let mut other = message.clone();
            other[at] = bits;
            assert_eq!(read(&other), [], "a question, cut off, no such name");
        }
    }

    #[test]
    fn a_label_with_a_dot_in_it_is_no_two_labels() {
        let mut asked = vec![11];
        asked.extend(b"example.com\0");
        assert_eq!(read(&answer(&asked, &[record(ASKED, A, 9, &[192, 0, 2, 1])])), []);
    }

    #[test]
    fn names_that_lead_in_circles_end() {
        let (a, b) = (name("a.example.com"), name("b.example.com"));
        let circle = [record(&a, CNAME, 9, &b), record(&b, CNAME, 9, &a)];
        assert_eq!(read(&answer(&a, &circle)), []);
        assert_eq!(read(&answer(&[0xc0, 12], &[])), [], "a name that is itself");
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_breaks(
            head in any::<[u8; 10]>(),
            rest in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..13, Just(0xc0)], 0..300),
        ) {
            let message = [&head[..2], &[0x81, 0x80, 0, 1], &head[6..], &rest].concat();
            for found in read(&message) {
                prop_assert!(found.name.split('.').all(is_label) && found.name.len() <= LONGEST);
            }
            let _ = read(&rest);
        }

        #[test]
        fn what_is_written_is_read(
            labels in proptest::collection::vec("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", 1..6),
            addresses in proptest::collection::vec((any::<[u8; 4]>(), 0u32..100_000), 0..120),
        ) {
            let asked = labels.join(".");
            let records: Vec<_> =
                addresses.iter().map(|(address, ttl)| record(ASKED, A, *ttl, address)).collect();
            let expected: Vec<_> = addresses
                .iter()
                .map(|(address, seconds)| Found {
                    name: asked.clone(),
                    address: IpAddr::from(*address),
                    seconds: *seconds,
                })
                .collect();
            prop_assert_eq!(read(&answer(&name(&asked), &records)), expected);
        }
    }
}
