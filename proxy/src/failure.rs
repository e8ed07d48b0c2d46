//! Failures as the shell sees them.

use std::fmt;
use std::process::ExitCode;

/// Why a command ends without success: one clear sentence, and the exit code that goes with it.
#[derive(Debug)]
pub enum Failure {
    /// 1: it went wrong at run time.
    Runtime(anyhow::Error),
    /// 2: it was asked for wrongly: a flag, a kubeconfig, a directory that is not there.
    Usage(anyhow::Error),
    /// 3: this machine, or this process, lacks something: a capability, nf_tables.
    Machine(anyhow::Error),
}

/// The exit codes, as `--help` tells them.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed at run time
  2  wrong usage or configuration (a flag, a kubeconfig, a missing directory)
  3  the machine lacks something (the capability CAP_NET_ADMIN, nf_tables)";

impl Failure {
    /// Wrong usage.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::Usage(error.into())
    }

    /// Something the machine lacks.
    pub fn machine(error: impl Into<anyhow::Error>) -> Self {
        Self::Machine(error.into())
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Runtime(_) => 1,
            Self::Usage(_) => 2,
            Self::Machine(_) => 3,
        })
    }

    const fn error(&self) -> &anyhow::Error {
        match self {
            Self::Runtime(error) | Self::Usage(error) | Self::Machine(error) => error,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Runtime(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        for cause in self.error().chain() {
            let text = cause.to_string();
            // Some errors already say what their source says.
            if last.ends_with(&text) {
                continue;
            }
            let separator = if last.is_empty() { "" } else { ": " };
            write!(f, "{separator}{text}")?;
            last = text;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_one_sentence_with_its_causes() {
        let cause = anyhow::anyhow!("no such file").context("cannot read /x");
        assert_eq!(Failure::usage(cause).to_string(), "cannot read /x: no such file");
        let told_twice = Err::<(), _>(std::io::Error::other("inner")).context("outer: inner");
        assert_eq!(Failure::usage(told_twice.unwrap_err()).to_string(), "outer: inner");
    }
}
