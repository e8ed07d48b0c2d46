//! A guest's directory on the host: what it shall run, and what it leaves.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// The guest's first process, and what it does once the host's files are its root.
const SCRIPTS: &[(&str, &str)] =
    &[("init", include_str!("init.sh")), ("second.sh", include_str!("second.sh"))];

/// The directory; it goes with this.
pub(crate) struct Home(TempDir);

impl Home {
    /// Writes down the job.
    pub(crate) fn new(command: &Command, writable: &[PathBuf]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("shunt-guest-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()?;
        let home = Self(directory);
        for (name, text) in SCRIPTS {
            fs::write(home.file(name), text)?;
        }
        fs::set_permissions(
            home.file("init"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        for name in ["console", "stdout", "stderr"] {
            fs::write(home.file(name), "")?;
        }
        fs::write(home.file("job.sh"), job(command)?)?;
        let mut lent = String::new();
        for directory in writable {
            let path = fs::canonicalize(directory)
                .with_context(|| format!("{}: lent to the guest", directory.display()))?;
            let path = path.to_str().context("a path that is text")?;
            ensure!(!path.contains('\n'), "{path:?} has more than one line");
            writeln!(lent, "{path}")?;
        }
        fs::write(home.file("writable"), lent)?;
        Ok(home)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What the kernel wrote to its console.
    pub(crate) fn console(&self) -> String {
        // QEMU writes what the kernel says to a file of its own.
        self.read("console") + &self.read("kernel-log")
    }

    /// Where the command's standard output is.
    pub(crate) fn stdout_path(&self) -> PathBuf {
        self.file("stdout")
    }

    /// Where the command's standard error is.
    pub(crate) fn stderr_path(&self) -> PathBuf {
        self.file("stderr")
    }

    /// The command's standard output.
    pub(crate) fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// The command's standard error.
    pub(crate) fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// The command's exit code; none if it did not come to its end.
    pub(crate) fn status(&self) -> Result<Option<i32>> {
        let text = self.read("status");
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).with_context(|| format!("the guest's status {text:?}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.file(name)).unwrap_or_default()).into_owned()
    }
}

/// The command as a script for the guest's shell.
fn job(command: &Command) -> Result<Vec<u8>> {
    let mut script = Vec::new();
    let directory = match command.get_current_dir() {
        Some(directory) => directory.to_owned(),
        None => std::env::current_dir()?,
    };
    line(&mut script, "cd", &[directory.as_os_str()]);
    for (name, value) in command.get_envs() {
        let Some(value) = value else { continue };
        let name = name.to_str().filter(|name| is_a_name(name));
        let name = name.context("a variable's name must be letters, digits and _")?;
        script.extend_from_slice(b"export ");
        line(&mut script, &format!("{name}="), &[value]);
    }
    let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    line(&mut script, "exec", &words);
    Ok(script)
}

fn is_a_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// One line of the script; a first word that ends in `=` and what follows are one word.
fn line(script: &mut Vec<u8>, first: &str, words: &[&OsStr]) {
    script.extend_from_slice(first.as_bytes());
    for word in words {
        if !first.ends_with('=') {
            script.push(b' ');
        }
        script.push(b'\'');
        for byte in word.as_bytes() {
            match byte {
                b'\'' => script.extend_from_slice(b"'\\''"),
                other => script.push(*other),
            }
        }
        script.push(b'\'');
    }
    script.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_command_as_they_are() {
        let mut command = Command::new("printf");
        command.args(["%s|", "it's", "$HOME `x`", "two\nlines", ""]).env("GREETING", "it's 1");
        command.current_dir("/usr");
        let script = job(&command).unwrap();
        let shell = Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "it's|$HOME `x`|two\nlines||");
        let text = String::from_utf8(script).unwrap();
        assert!(text.starts_with("cd '/usr'\nexport GREETING='it'\\''s 1'\n"), "{text}");
    }

    #[test]
    fn a_variable_has_a_name() {
        assert!(job(Command::new("true").env("A B", "")).is_err());
        assert!(job(Command::new("true").env("1A", "")).is_err());
    }
}
