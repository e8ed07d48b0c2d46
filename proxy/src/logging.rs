//! Logging: to standard error, as text or as JSON.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

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

/// The levels.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, which can be changed while the program runs.
#[derive(Clone)]
pub struct Levels {
    reload: Reload,
    directives: Arc<Mutex<String>>,
}

/// Puts another filter in place.
type Reload = Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

impl Levels {
    fn new(args: &LogArgs, reload: Reload) -> Result<Self, Failure> {
        Ok(Self { reload, directives: Arc::new(Mutex::new(filter(args)?.to_string())) })
    }

    /// Levels of a program that logs nothing.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self { reload: Arc::new(|_| Ok(())), directives: Arc::default() }
    }

    /// The directives in force.
    #[must_use]
    pub fn directives(&self) -> String {
        self.directives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes them: to kube-proxy's verbosity (a number), a level, or directives. Returns those in
    /// force then.
    ///
    /// # Errors
    /// What is wrong with the text, in words; nothing is changed then.
    pub fn set(&self, text: &str) -> Result<String, String> {
        let args = match text.parse() {
            Ok(verbosity) => LogArgs { verbosity, log_level: None, logging_format: Format::Text },
            Err(_) => LogArgs {
                verbosity: 0,
                log_level: Some(text.to_owned()),
                logging_format: Format::Text,
            },
        };
        let filter = filter(&args).map_err(|failure| failure.to_string())?;
        let directives = filter.to_string();
        (self.reload)(filter)?;
        directives.clone_into(&mut self.directives.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(directives)
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Levels").field(&self.directives()).finish()
    }
}

/// Starts logging.
///
/// # Errors
/// If the level is not one.
pub fn start(args: &LogArgs) -> Result<Levels, Failure> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(args)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.logging_format {
        Format::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Levels::new(args, Arc::new(move |to| handle.reload(to).map_err(|e| e.to_string())))
        }
        Format::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Levels::new(args, Arc::new(move |to| handle.reload(to).map_err(|e| e.to_string())))
        }
    }
}

/// Whether it is a bare word that is no level. The filter takes it for a target, and would log nothing else: nothing at all,
/// after a slip of the pen.
fn is_no_directive(word: &str) -> bool {
    let is_level = |level: &&str| word.eq_ignore_ascii_case(level);
    !word.contains(['=', '[']) && word != "off" && !LEVELS.iter().any(is_level)
}

fn filter(args: &LogArgs) -> Result<EnvFilter, Failure> {
    let level = args.log_level.as_deref().unwrap_or(match args.verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    });
    let plain = LEVELS.contains(&level);
    if let Some(word) = level.split(',').map(str::trim).find(|word| is_no_directive(word)) {
        return Err(Failure::usage(anyhow::anyhow!(
            "--log-level {level}: {word:?} is neither a level ({}) nor TARGET=LEVEL",
            LEVELS.join(", ")
        )));
    }
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
    fn levels_change_and_wrong_ones_change_nothing() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let reload = move |filter: EnvFilter| {
            told.lock().unwrap().push(filter.to_string());
            Ok(())
        };
        let args = LogArgs { verbosity: 2, log_level: None, logging_format: Format::Text };
        let levels = Levels::new(&args, Arc::new(reload)).unwrap();
        assert!(levels.directives().contains("shunt=info"));
        assert!(levels.set("5").unwrap().contains("shunt=debug"));
        assert_eq!(levels.set("kube=trace").unwrap(), "kube=trace");
        assert!(levels.set("a=b=c").unwrap_err().contains("a=b=c"));
        assert!(levels.set("warn,inof").unwrap_err().contains("\"inof\" is neither a level"));
        assert_eq!(levels.directives(), "kube=trace");
        assert_eq!(seen.lock().unwrap().len(), 2);
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
