//! The IPVS backend in the guest kernel: draining, switching between the backends, settings, hours. Needs root.
//!
//! Each test runs in a guest; the two at the end of this file start one for all of a clock.

mod drain;
mod missing;
mod rig;
mod settings;
mod switch;

use anyhow::{Result, ensure};
use shunt_kind_tests::guest::{self, Clock};

/// Those in modules named `travels` need a clock that jumps.
const TRAVELS: &str = "::travels::";

#[test]
fn in_the_guest() -> Result<()> {
    told(&guest::run_tests(Clock::Running, &["--ignored", "--skip", TRAVELS])?)
}

#[test]
fn in_the_guest_where_hours_pass() -> Result<()> {
    // One at a time: the clock stands still while any of them does something.
    let arguments = ["--ignored", TRAVELS, "--test-threads", "1"];
    told(&guest::run_tests(Clock::TimeTravel, &arguments)?)
}

fn told(printed: &str) -> Result<()> {
    println!("{printed}");
    ensure!(!printed.contains("ok. 0 passed"), "no test was run");
    Ok(())
}
