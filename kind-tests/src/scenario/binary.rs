//! Where the `shunt` binary is.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

/// Names a binary to test in place of the one that is built here.
const VARIABLE: &str = "SHUNT_BIN";

/// The daemon that is named, or else the one to test.
///
/// # Errors
/// There is no such file, or it cannot be built.
pub fn shunt_binary_or(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(path) => fs::canonicalize(path).with_context(|| path.display().to_string()),
        None => shunt_binary(),
    }
}

/// The daemon to test: what `SHUNT_BIN` names, or the workspace's own, built when first asked for with the profile of
/// this test. Cargo has no stable way to let a test depend on another package's binary.
pub fn shunt_binary() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    if let Some(path) = env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{VARIABLE} names {}, which is no file", path.display());
        return Ok(path);
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let path = build()?;
    Ok(built.insert(path).clone())
}

fn build() -> Result<PathBuf> {
    let own = env::current_exe().context("finding this program")?;
    let release = own.components().any(|part| part.as_os_str() == "release");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // All packages are named so that features are those of the whole workspace: nothing is built a second time.
    command.args([
        "build",
        "--workspace",
        "--bin",
        "shunt",
        "--message-format=json-render-diagnostics",
    ]);
    if release {
        command.arg("--release");
    }
    // Cargo has described this package to the test. Build scripts that look at these variables would run again.
    let about_the_test = |name: &OsString| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_PRIMARY_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    for (name, _) in env::vars_os().filter(|(name, _)| about_the_test(name)) {
        command.env_remove(name);
    }
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let output = command.stderr(Stdio::inherit()).output().context("starting cargo")?;
    ensure!(output.status.success(), "cargo build of shunt: {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executables.next_back().context("cargo named no executable")
}
