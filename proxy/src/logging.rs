//! Logging: to standard error, as text or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What of the program's life is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogArgs {
    /// Verbosity as kube-proxy counts it: 0-3 info, 4-5 debug, 6 and more trace.
    pub verbosity: u32,
    /// A level, or directives such as `info,shunt::event_loop=debug`; outweighs the verbosity.
    pub log_level: Option<String>,
    /// How lines are written.
    pub logging_format: Format,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging.
///
/// # Errors
/// If the level is not one.
pub fn start(args: &LogArgs) -> Result<(), Failure> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(args)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.logging_format {
        Format::Text => builder.init(),
        Format::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn filter(args: &LogArgs) -> Result<EnvFilter, Failure> {
    let level = args.log_level.as_deref().unwrap_or(match args.verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    });
    let plain = ["error", "warn", "info", "debug", "trace"].contains(&level);
    // The API client's libraries tell of every retry, some with all they know; we say the same
    // once a minute. That is for those who ask for it.
    let quiet = "warn,kube_client=error,kube_runtime=error";
    let directives = if plain { format!("{quiet},shunt={level}") } else { level.to_owned() };
    EnvFilter::try_new(directives)
        .map_err(|error| Failure::usage(anyhow::anyhow!("--log-level {level}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verbosity: u32, log_level: Option<&str>) -> Result<String, Failure> {
        let log_level = log_level.map(ToOwned::to_owned);
        let args = LogArgs { verbosity, log_level, logging_format: Format::Text };
        filter(&args).map(|filter| filter.to_string())
    }

    #[test]
    fn verbosity_is_kube_proxys() {
        assert_eq!(of(2, None).unwrap(), "kube_runtime=error,kube_client=error,shunt=info,warn");
        assert_eq!(of(4, None).unwrap(), "kube_runtime=error,kube_client=error,shunt=debug,warn");
        assert_eq!(of(9, None).unwrap(), "kube_runtime=error,kube_client=error,shunt=trace,warn");
        assert_eq!(
            of(0, Some("error")).unwrap(),
            "kube_runtime=error,kube_client=error,shunt=error,warn"
        );
        assert_eq!(of(0, Some("kube=debug")).unwrap(), "kube=debug");
        assert!(of(0, Some("a=b=c")).is_err());
    }
}
