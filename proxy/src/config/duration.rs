//! Durations as Go writes them: `15m0s`, `1.5h`, `-1s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in nanoseconds, which may be negative until it is validated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub i64);

const NANOSECOND: i64 = 1;
const SECOND: i64 = 1_000_000_000;

/// Go's units, the longer names first.
const UNITS: [(&str, i64); 8] = [
    ("ns", NANOSECOND),
    ("us", 1_000 * NANOSECOND),
    ("\u{b5}s", 1_000 * NANOSECOND),
    ("\u{3bc}s", 1_000 * NANOSECOND),
    ("ms", 1_000_000 * NANOSECOND),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

impl GoDuration {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: i64) -> Self {
        Self(seconds * SECOND)
    }

    /// As an ordinary duration; one that is negative counts as none.
    #[must_use]
    pub fn to_duration(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or_default())
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_seconds(self) -> i64 {
        self.0 / SECOND
    }
}

impl FromStr for GoDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a duration such as 15m, 1h30m or 0s");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(refuse());
        }
        let mut sum = 0_i64;
        while !rest.is_empty() {
            let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
            let (digits, tail) = rest.split_at(number.ok_or_else(refuse)?);
            let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let unit = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?.1;
            let part = scaled(digits, unit).ok_or_else(refuse)?;
            sum = sum.checked_add(part).ok_or_else(refuse)?;
            rest = tail;
        }
        Ok(Self(if negative { -sum } else { sum }))
    }
}

/// A decimal number of units, in nanoseconds; what is shorter than one is cut off.
fn scaled(digits: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().ok()? };
    let mut sum = whole.checked_mul(unit)?;
    let mut worth = unit;
    for digit in fraction.chars() {
        worth /= 10;
        sum = sum.checked_add(i64::from(digit.to_digit(10)?) * worth)?;
    }
    Some(sum)
}

/// As Go prints it: `1h30m0s`, `1.5s`, `300ms`.
impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let decimal = |value: u64, unit: u64| {
            let digits = unit.ilog10() as usize;
            let text = format!("{}.{:0digits$}", value / unit, value % unit);
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        let second = SECOND.unsigned_abs();
        match all {
            0 => write!(f, "0s"),
            1..1_000 => write!(f, "{sign}{all}ns"),
            1_000..1_000_000 => write!(f, "{sign}{}\u{b5}s", decimal(all, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{sign}{}ms", decimal(all, 1_000_000)),
            _ => {
                let (minutes, rest) = (all / (60 * second), all % (60 * second));
                let rest = if rest == 0 { "0".into() } else { decimal(rest, second) };
                match (minutes / 60, minutes % 60) {
                    (0, 0) => write!(f, "{sign}{rest}s"),
                    (0, minutes) => write!(f, "{sign}{minutes}m{rest}s"),
                    (hours, minutes) => write!(f, "{sign}{hours}h{minutes}m{rest}s"),
                }
            }
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        let pairs = [
            ("15m", "15m0s"),
            ("1h30m", "1h30m0s"),
            ("24h", "24h0m0s"),
            ("1.5s", "1.5s"),
            (".5m", "30s"),
            ("300ms", "300ms"),
            ("1500us", "1.5ms"),
            ("7ns", "7ns"),
            ("-2h", "-2h0m0s"),
            ("0", "0s"),
            ("0s", "0s"),
            ("61.25s", "1m1.25s"),
        ];
        for (given, printed) in pairs {
            let read: GoDuration = given.parse().unwrap();
            assert_eq!(read.to_string(), printed);
            assert_eq!(printed.parse::<GoDuration>().unwrap(), read);
        }
        for wrong in ["", "15", "soon", "1x", "-", ".s", "1h-1s", "9999999h", "1.2.3s"] {
            assert!(wrong.parse::<GoDuration>().is_err(), "{wrong}");
        }
    }
}
