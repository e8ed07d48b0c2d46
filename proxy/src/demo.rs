//! `shunt demo`: the main job, shown and measured on a cluster of network namespaces.
//!
//! Everything that is printed was measured in the same run. Each step says what must hold, and
//! ends the demo with an error when it does not.

mod daemon;
mod ending;
mod expect;
mod held;
mod manifests;
mod scene;
mod screen;
mod steps;
mod traffic;

use std::time::Instant;

use clap::Args;
use shunt_cluster::{Privilege, enter_user_namespace};

use self::ending::{Directory, Ending};
use self::scene::Scene;
use self::screen::Screen;
use self::steps::Demo;
use crate::failure::{EXIT_CODES, Failure};

pub use self::daemon::end_with_demo;

/// The flags of `shunt demo`.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct DemoArgs {
    /// Keep the cluster until Enter is pressed, and print how to enter its namespaces
    #[arg(long)]
    pub pause: bool,
}

/// Shows it. Whatever was made is gone when this returns.
///
/// # Errors
/// If something is not as it should be, or this machine does not let us build a cluster.
pub fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let started = Instant::now();
    // First of all: a process that has threads cannot enter a user namespace.
    let privilege = enter_user_namespace().map_err(Failure::Machine)?;
    let directory = Directory::new()?;
    let ending = Ending::watch(directory.path())?;
    let screen = Screen::new();
    screen.title(&format!(
        "shunt {}: Services in a cluster of network namespaces{}",
        env!("CARGO_PKG_VERSION"),
        match privilege {
            Privilege::Held => "",
            Privilege::UserNamespace => ", inside a user namespace",
        }
    ));
    let scene = Scene::build(directory, ending, privilege)?;
    Demo::new(scene, screen, started).run(args)
}
