//! When which real servers that drain are looked at.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipvs_rs::ServiceKey;

/// How often each of them is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// The longest that orders wait for looks, but for one virtual server's.
const TURN: Duration = Duration::from_millis(1);

/// Rounds through the virtual servers of which a real server drains. A round is made in turns: when a node has gone
/// there are thousands, each is a question to the kernel, and a change must not wait for them.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    at: Option<Instant>,
    /// What is left of the round.
    rest: Vec<ServiceKey>,
}

impl Looks {
    /// When the next turn is due.
    pub(crate) const fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Plans a round, if none is planned or under way; none without anything that drains.
    pub(crate) fn plan(&mut self, draining: Option<&BTreeSet<ServiceKey>>) {
        if draining.is_none_or(BTreeSet::is_empty) {
            *self = Self::default();
        } else if self.at.is_none() {
            self.at = Some(Instant::now() + INTERVAL);
        }
    }

    /// Takes a turn, if one is due: asks about one after the other, and adds up the answers.
    ///
    /// # Errors
    /// The first of `ask`; the round goes on with the next one.
    pub(crate) fn turn<T, E>(
        &mut self,
        now: Instant,
        draining: &BTreeSet<ServiceKey>,
        mut ask: impl FnMut(ServiceKey) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        let mut answers = Vec::new();
        if self.at.is_none_or(|at| at > now) {
            return Ok(answers);
        }
        if self.rest.is_empty() {
            self.rest = draining.iter().copied().collect();
        }
        let began = Instant::now();
        while let Some(key) = self.rest.pop() {
            self.at = Some(if self.rest.is_empty() { now + INTERVAL } else { now });
            if draining.contains(&key) {
                answers.extend(ask(key)?);
            }
            if began.elapsed() >= TURN {
                break;
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use ipvs_rs::Protocol;

    use super::*;

    fn keys(numbers: std::ops::Range<u8>) -> BTreeSet<ServiceKey> {
        let key = |number| ServiceKey::address([10, 96, 0, number].into(), Protocol::TCP, 80);
        numbers.map(key).collect()
    }

    #[test]
    fn a_round_is_made_in_turns_and_asks_for_each_that_still_drains_once() {
        let mut looks = Looks::default();
        looks.plan(Some(&keys(0..5)));
        let at = looks.at().unwrap();
        let slow = |key| {
            thread::sleep(TURN);
            Ok::<_, ()>(vec![key])
        };
        assert_eq!(looks.turn(at - TURN, &keys(0..5), slow), Ok(Vec::new()));
        let mut asked = BTreeSet::new();
        for _ in 0..2 {
            let answers = looks.turn(at, &keys(0..5), slow).unwrap();
            assert_eq!(answers.len(), 1, "an order is heard after each slow answer");
            asked.extend(answers);
            assert_eq!(looks.at(), Some(at), "the next turn is due at once");
        }
        // One that came back while the round was under way is not asked for, one that came too is for the next.
        let last = looks.turn(at, &keys(1..6), |key| Ok::<_, ()>(vec![key])).unwrap();
        asked.extend(last);
        assert_eq!(asked, keys(1..5));
        assert_eq!(looks.at(), Some(at + INTERVAL));
    }

    #[test]
    fn what_cannot_be_asked_for_does_not_end_the_round() {
        let mut looks = Looks::default();
        let draining = keys(0..3);
        looks.plan(Some(&draining));
        let at = looks.at().unwrap();
        assert_eq!(looks.turn(at, &draining, |_| Err::<Vec<()>, _>("no")), Err("no"));
        let rest = looks.turn(at, &draining, |key| Ok::<_, ()>(vec![key])).unwrap();
        assert_eq!(rest.len(), 2);
    }

    #[test]
    fn without_anything_that_drains_there_is_nothing_to_do() {
        let mut looks = Looks::default();
        looks.plan(Some(&BTreeSet::new()));
        assert_eq!(looks.at(), None);
        looks.plan(Some(&keys(0..1)));
        let at = looks.at();
        looks.plan(Some(&keys(0..2)));
        assert!(at.is_some() && looks.at() == at, "a round is not put off by what comes");
        looks.plan(None);
        assert_eq!(looks.at(), None);
    }
}
