//! The daemon: sources of objects, event loop, kernel thread, command line.

pub mod ask;
pub mod backend;
pub mod cli;
pub mod config;
pub mod counted;
pub mod demo;
pub mod doctor;
pub mod drops;
pub mod event_loop;
pub mod failure;
pub mod kernel;
pub mod ledger;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod planner;
pub mod policy;
pub mod progress;
pub mod render;
pub mod reporter;
pub mod rivals;
pub mod run;
pub mod server;
pub mod settings;
pub mod source;
pub mod status;
