//! Random Services, changes and packets: oracle = kernel = kube-proxy. Needs root, and what `make controlplane` builds.
//!
//! | variable | |
//! |---|---|
//! | `SHUNT_STORM_SEED` | the seed, a fixed one by default; `clock` takes one from the clock, and prints it |
//! | `SHUNT_STORM_ROUNDS` | how many states of all Services, 20 by default |

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use shunt_kind_tests::kube_proxy::Mode;
use shunt_kind_tests::scenario::storm::{Player, play};

const ROUNDS: u64 = 20;
/// Every run asks the same, so that what fails is what was changed. Searching is for whoever has the time.
const SEED: u64 = 20_261_121;

fn number(variable: &str) -> Result<Option<u64>> {
    let Some(text) = env::var_os(variable) else { return Ok(None) };
    let text = text.to_string_lossy();
    Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?))
}

fn storm(player: Player) -> Result<()> {
    let seed = match env::var("SHUNT_STORM_SEED") {
        Ok(text) if text == "clock" => {
            SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into()
        }
        _ => number("SHUNT_STORM_SEED")?.unwrap_or(SEED),
    };
    let rounds = number("SHUNT_STORM_ROUNDS")?.unwrap_or(ROUNDS);
    println!("SHUNT_STORM_SEED={seed} SHUNT_STORM_ROUNDS={rounds}");
    let tally = play(player, seed, usize::try_from(rounds)?)?;
    println!("{player:?}: {tally}");
    ensure!(tally.answered > 0, "nobody was reached");
    Ok(())
}

#[test]
fn every_packet_goes_where_the_oracle_says() -> Result<()> {
    storm(Player::Shunt)
}

#[test]
fn kube_proxy_nftables_does_as_the_oracle_says() -> Result<()> {
    storm(Player::KubeProxy(Mode::Nftables))
}

#[test]
fn kube_proxy_iptables_does_as_the_oracle_says() -> Result<()> {
    storm(Player::KubeProxy(Mode::Iptables))
}
