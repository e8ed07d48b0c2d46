//! The IPVS backend in the guest kernel: draining, switching between the backends, counters, settings, hours. Needs root.
//!
//! Each test runs in a guest; those in this file start one for all that need the same.

mod counters;
mod drain;
mod interrupted;
mod meddling;
mod missing;
mod refused;
mod rig;
mod settings;
mod switch;

use anyhow::{Result, ensure};
use shunt_kind_tests::guest::{self, Clock, Kernel};

/// Those in modules named `modules` need a kernel that has some and has loaded none.
const MODULES: &str = "::modules::";
/// Those in modules named `travels` need a clock that jumps.
const TRAVELS: &str = "::travels::";

#[test]
fn in_the_guest() -> Result<()> {
    told(&guest::run_tests(Clock::Running, &["--ignored", "--skip", TRAVELS, "--skip", MODULES])?)
}

#[test]
fn in_the_guest_where_hours_pass() -> Result<()> {
    // One at a time: the clock stands still while any of them does something.
    let arguments = ["--ignored", TRAVELS, "--test-threads", "1"];
    told(&guest::run_tests(Clock::TimeTravel, &arguments)?)
}

#[test]
fn on_a_kernel_that_loads_modules() -> Result<()> {
    told(&guest::run_tests_on(Kernel::Debian6_1, &[], &["--ignored", MODULES])?)
}

fn told(printed: &str) -> Result<()> {
    println!("{printed}");
    ensure!(!printed.contains("ok. 0 passed"), "no test was run");
    Ok(())
}
