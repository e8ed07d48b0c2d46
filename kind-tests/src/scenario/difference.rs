//! Where kube-proxy, or our own IPVS backend, is known to mean something else: lines of a `.flows` file that name a row of `docs/differences.md`.

use anyhow::{Context, Result, bail, ensure};
use shunt_cluster::Family;

use super::flow::{self, Expected};
use super::setup::Setup;
use super::text::Line;
use crate::kube_proxy::Mode;

/// What every line about kube-proxy begins with.
const PEER: &str = "kube-proxy";
/// What every line about our own IPVS backend begins with.
const IPVS: &str = "ipvs";
/// What stands before the name of the reason.
const BECAUSE: &str = " because ";

/// Something that kube-proxy, or our IPVS backend, does otherwise.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    /// Of kube-proxy; none: it is about our IPVS backend.
    modes: Vec<Mode>,
    /// Of one family, or of both.
    family: Option<Family>,
    /// The name of a row of `docs/differences.md`.
    pub(super) because: String,
    /// What it does.
    pub(super) instead: Instead,
}

/// What kube-proxy does in place of what shunt does.
#[derive(Clone, Debug)]
pub(super) enum Instead {
    /// This becomes of the flow above.
    Flow(Expected),
    /// What becomes of the flow above depends on chance.
    Chance,
    /// It does not play this step and those after it.
    Absent,
}

impl Difference {
    /// Reads a line about kube-proxy; none if it is about something else.
    pub(super) fn parse(line: &Line, setup: &Setup) -> Result<Option<Self>> {
        let Some(who) =
            line.words().first().copied().filter(|word| {
                word.starts_with(PEER) || *word == IPVS || word.starts_with("ipvs/")
            })
        else {
            return Ok(None);
        };
        Self::of(who, &line.text, setup)
            .map(Some)
            .map_err(|error| line.place.error(format_args!("{error:#}")))
    }

    fn of(who: &str, text: &str, setup: &Setup) -> Result<Self> {
        let (peer, family) = match who.split_once('/') {
            None => (who, None),
            Some((peer, "v4")) => (peer, Some(Family::V4)),
            Some((peer, "v6")) => (peer, Some(Family::V6)),
            Some((_, other)) => bail!("{other} is not v4 or v6"),
        };
        let named = |mode: &Mode| peer == PEER || peer == mode.to_string();
        let modes: Vec<_> = Mode::ALL.into_iter().filter(named).collect();
        ensure!(
            !modes.is_empty() || peer == IPVS,
            "{peer} is not kube-proxy, kube-proxy-nftables or -iptables"
        );
        let (what, because) =
            text.split_once(BECAUSE).context("a difference needs ` because NAME`")?;
        let because = because.trim().to_owned();
        ensure!(
            !because.contains(' '),
            "`{because}` is not the name of a row of docs/differences.md"
        );
        let instead = match what.split_once("->") {
            Some((_, result)) if result.trim() == "by chance" => Instead::Chance,
            Some((_, result)) => Instead::Flow(flow::parse_expected(result, setup)?),
            None if what.ends_with("does not play") && family.is_none() => Instead::Absent,
            None => bail!("`-> RESULT because NAME` or `does not play because NAME` is expected"),
        };
        Ok(Self { modes, family, because, instead })
    }

    /// Whether this is about kube-proxy in a mode, and a family.
    pub(super) fn concerns(&self, mode: Mode, family: Option<Family>) -> bool {
        self.modes.contains(&mode) && (self.family.is_none() || self.family == family)
    }
}

impl Difference {
    /// Whether this is about our IPVS backend.
    pub(super) fn is_of_ipvs(&self) -> bool {
        self.modes.is_empty()
    }

    /// The same, of a family.
    pub(super) fn concerns_ipvs(&self, family: Family) -> bool {
        self.is_of_ipvs() && self.family.is_none_or(|own| own == family)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::text::lines;
    use super::*;

    fn parse(text: &str) -> Result<Option<Difference>> {
        let setup = Setup::load(Path::new("/nonexistent"))?;
        Difference::parse(&lines(Path::new("f"), text)[0], &setup)
    }

    #[test]
    fn a_mode_and_a_family_can_be_named() {
        let both = parse("kube-proxy -> dropped because x").unwrap().unwrap();
        assert!(Mode::ALL.iter().all(|mode| both.concerns(*mode, Some(Family::V4))));
        let one =
            parse("kube-proxy-iptables/v6 -> web-1 | source kept because x").unwrap().unwrap();
        assert!(one.concerns(Mode::Iptables, Some(Family::V6)));
        assert!(!one.concerns(Mode::Iptables, Some(Family::V4)));
        assert!(!one.concerns(Mode::Nftables, Some(Family::V6)));
        assert!(parse("web-1 tcp vip-1:80 -> refused").unwrap().is_none());
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |text| parse(text).unwrap_err().to_string();
        assert_eq!(error("kube-proxy -> dropped"), "f:1: a difference needs ` because NAME`");
        assert!(
            error("kube-proxy-ipvs -> dropped because x")
                .starts_with("f:1: kube-proxy-ipvs is not")
        );
        assert!(error("kube-proxy sleeps because x").starts_with("f:1: `-> RESULT"));
    }
}
