//! What is done to one virtual server after the other, beside the orders.

use std::time::{Duration, Instant};

use ipvs_rs::ServiceKey;

/// The longest that orders wait for a turn, but for one virtual server's.
const TURN: Duration = Duration::from_millis(1);

/// Rounds through virtual servers. A round is made in turns: there may be thousands, each is a question to the kernel, and
/// a change must not wait for them.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// From the end of a round, or from when there is something to look at, to the next one.
    interval: Duration,
    /// Between two turns.
    pause: Duration,
    at: Option<Instant>,
    /// What is left of the round.
    rest: Vec<ServiceKey>,
}

impl Rounds {
    /// No round is planned yet.
    pub(crate) const fn new(interval: Duration, pause: Duration) -> Self {
        Self { interval, pause, at: None, rest: Vec::new() }
    }

    /// When the next turn is due.
    pub(crate) const fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Plans a round, if none is planned or under way; none if there is nothing to look at.
    pub(crate) fn plan(&mut self, anything: bool) {
        if !anything {
            self.at = None;
            self.rest = Vec::new();
        } else if self.at.is_none() {
            self.at = Some(Instant::now() + self.interval);
        }
    }

    /// Takes a turn, if one is due: asks about one after the other, and adds up the answers. `all` is what a new round goes
    /// through.
    ///
    /// # Errors
    /// The first of `ask`; the round goes on with the next one.
    pub(crate) fn turn<T, E>(
        &mut self,
        now: Instant,
        all: impl FnOnce() -> Vec<ServiceKey>,
        mut ask: impl FnMut(ServiceKey) -> Result<Vec<T>, E>,
    ) -> Result<Vec<T>, E> {
        let mut answers = Vec::new();
        if self.at.is_none_or(|at| at > now) {
            return Ok(answers);
        }
        if self.rest.is_empty() {
            self.rest = all();
            // Also where there is nothing to go through, or the next turn would be due for ever.
            self.at = Some(now + self.interval);
        }
        let began = Instant::now();
        while let Some(key) = self.rest.pop() {
            self.at = Some(now + if self.rest.is_empty() { self.interval } else { self.pause });
            answers.extend(ask(key)?);
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

    const INTERVAL: Duration = Duration::from_secs(2);
    const PAUSE: Duration = Duration::from_millis(10);

    fn keys(numbers: std::ops::Range<u8>) -> Vec<ServiceKey> {
        let key = |number| ServiceKey::address([10, 96, 0, number].into(), Protocol::TCP, 80);
        numbers.map(key).collect()
    }

    #[test]
    fn a_round_is_made_in_turns_and_asks_for_each_once() {
        let mut rounds = Rounds::new(INTERVAL, PAUSE);
        rounds.plan(true);
        let mut at = rounds.at().unwrap();
        let slow = |key| {
            thread::sleep(TURN);
            Ok::<_, ()>(vec![key])
        };
        assert_eq!(rounds.turn(at - TURN, || keys(0..5), slow), Ok(Vec::new()));
        let mut asked = Vec::new();
        for _ in 0..2 {
            let answers = rounds.turn(at, || keys(0..5), slow).unwrap();
            assert_eq!(answers.len(), 1, "an order is heard after each slow answer");
            asked.extend(answers);
            assert_eq!(rounds.at(), Some(at + PAUSE), "the next turn is due soon");
            at += PAUSE;
        }
        // What has come meanwhile is for the next round.
        let last = rounds.turn(at, || keys(0..9), |key| Ok::<_, ()>(vec![key])).unwrap();
        asked.extend(last);
        asked.reverse();
        assert_eq!(asked, keys(0..5));
        assert_eq!(rounds.at(), Some(at + INTERVAL));
    }

    #[test]
    fn what_cannot_be_asked_for_does_not_end_the_round() {
        let mut rounds = Rounds::new(INTERVAL, PAUSE);
        rounds.plan(true);
        let at = rounds.at().unwrap();
        assert_eq!(rounds.turn(at, || keys(0..3), |_| Err::<Vec<()>, _>("no")), Err("no"));
        let ask = |key| Ok::<_, ()>(vec![key]);
        let rest = rounds.turn(at + PAUSE, || keys(0..3), ask).unwrap();
        assert_eq!(rest.len(), 2);
    }

    #[test]
    fn a_round_through_nothing_is_over_at_once() {
        let mut rounds = Rounds::new(INTERVAL, PAUSE);
        rounds.plan(true);
        let at = rounds.at().unwrap();
        assert_eq!(rounds.turn(at, Vec::new, |key| Ok::<_, ()>(vec![key])), Ok(Vec::new()));
        assert_eq!(rounds.at(), Some(at + INTERVAL));
    }

    #[test]
    fn a_round_is_not_put_off_by_what_comes() {
        let mut rounds = Rounds::new(INTERVAL, PAUSE);
        rounds.plan(false);
        assert_eq!(rounds.at(), None);
        rounds.plan(true);
        let at = rounds.at();
        rounds.plan(true);
        assert!(at.is_some() && rounds.at() == at);
        rounds.plan(false);
        assert_eq!(rounds.at(), None);
    }
}
