//! Tests of this program run once more, in a guest kernel: one runner, two places.

use std::env;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_guest::Guest;

use crate::scenario::shunt_binary;

/// Is set for programs that run in the guest.
const VARIABLE: &str = "SHUNT_IN_GUEST";
/// How long it may take. The whole suite takes 40 s where a CPU is free for it.
const PATIENCE: Duration = Duration::from_mins(5);

/// Whether this program runs in the guest.
#[must_use]
pub fn is_here() -> bool {
    env::var_os(VARIABLE).is_some()
}

/// Runs this test program in the guest with these arguments of the test harness, and returns what it printed.
///
/// # Errors
/// If a test fails there, or the guest itself does.
pub fn run_tests(arguments: &[&str]) -> Result<String> {
    ensure!(!is_here(), "this is the guest: it lacks what the test needs");
    let program = env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.args(arguments).env(VARIABLE, "1").env("SHUNT_BIN", shunt_binary()?);
    let outcome = Guest::builder().timeout(PATIENCE).run(&command).context("in the guest")?;
    ensure!(outcome.code == 0, "in the guest:\n{}{}", outcome.stdout, outcome.stderr);
    Ok(outcome.stdout)
}
