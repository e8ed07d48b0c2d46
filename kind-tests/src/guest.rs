//! Tests of this program run once more, in a guest kernel: one runner, two places.

use std::env;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shunt_guest::Guest;
pub use shunt_guest::Kernel;

use crate::scenario::shunt_binary;

/// Names a directory of this machine where what tests write in the guest stays.
pub const WRITABLE: &str = "SHUNT_PLAYED";
/// Is set for programs that run in the guest, to its clock.
const VARIABLE: &str = "SHUNT_IN_GUEST";
/// How long it may take. The whole suite takes minutes where a CPU is free for it, and several times as long where other
/// guests want that, too.
const PATIENCE: Duration = Duration::from_mins(30);

/// A guest's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Like any clock.
    Running,
    /// See [`Guest::time_travel`].
    TimeTravel,
}

impl Clock {
    /// That of the guest this program runs in; none outside.
    #[must_use]
    pub fn of_this_guest() -> Option<Self> {
        let name = env::var(VARIABLE).ok()?;
        [Self::Running, Self::TimeTravel].into_iter().find(|clock| clock.name() == name)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::TimeTravel => "time-travel",
        }
    }
}

/// Runs this test program in the guest with these arguments of the test harness, and returns what it printed.
///
/// # Errors
/// If a test fails there, or the guest itself does.
pub fn run_tests(clock: Clock, arguments: &[&str]) -> Result<String> {
    run_tests_within(PATIENCE, clock, arguments)
}

/// Runs tests of this program in the guest, by their names. A test that does so is itself among the program's, and does
/// nothing in the guest.
///
/// # Errors
/// If one of them fails there or is not run, or the guest itself fails.
pub fn replay(tests: &[&str]) -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    let arguments = ["--include-ignored", "--nocapture", "--exact"];
    let printed = run_tests(Clock::Running, &[&arguments, tests].concat())?;
    println!("{printed}");
    let passed = format!("ok. {} passed", tests.len());
    ensure!(printed.contains(&passed), "not all of {tests:?} were run");
    Ok(())
}

/// The same as [`run_tests`] for tests that take longer.
///
/// # Errors
/// As [`run_tests`].
pub fn run_tests_within(patience: Duration, clock: Clock, arguments: &[&str]) -> Result<String> {
    let guest = Guest::builder().timeout(patience);
    let guest = if clock == Clock::TimeTravel { guest.time_travel() } else { guest };
    run(&guest, clock, this_program()?.args(arguments))
}

/// The same on one of Debian's stock kernels, once these modules are loaded; others come on demand.
///
/// # Errors
/// As [`run_tests`].
pub fn run_tests_on(kernel: Kernel, modules: &[&str], arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", "[ -z \"$0\" ] || modprobe -a -q $0; exec \"$@\"", &modules.join(" ")]);
    command.arg(this_program()?.get_program()).args(arguments);
    run(&Guest::builder().kernel(kernel).timeout(PATIENCE), Clock::Running, &mut command)
}

fn this_program() -> Result<Command> {
    ensure!(Clock::of_this_guest().is_none(), "this is the guest: it lacks what the test needs");
    Ok(Command::new(env::current_exe().context("finding this program")?))
}

fn run(guest: &Guest, clock: Clock, command: &mut Command) -> Result<String> {
    // Whatever tests are told by their environment is told there, too.
    command.envs(env::vars().filter(|(name, _)| name.starts_with("SHUNT_")));
    command.env(VARIABLE, clock.name()).env("SHUNT_BIN", shunt_binary()?);
    let guest = match env::var_os(WRITABLE) {
        Some(directory) => guest.clone().writable(directory),
        None => guest.clone(),
    };
    let outcome = guest.run(command).context("in the guest")?;
    ensure!(outcome.code == 0, "in the guest:\n{}{}", outcome.stdout, outcome.stderr);
    Ok(outcome.stdout)
}
