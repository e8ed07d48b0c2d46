//! The daemon: sources of objects, event loop, kernel thread, command line.

pub mod source;
