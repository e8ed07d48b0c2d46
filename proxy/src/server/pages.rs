//! Pages that do not change while the daemon runs, and those made of them: `/configz`, `/flagz`,
//! `/statusz`, `/proxyMode`.

use std::fmt::Write;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::json;

use crate::config::{Effective, Mode};

/// The name of the mode in which IPVS forwards.
pub const IPVS: &str = "ipvs";

/// What the pages are made of.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The mode that is carried out.
    pub mode: &'static str,
    /// `/metrics` has what is counted of each frontend and endpoint.
    pub service_metrics: bool,
    /// `/configz`: the whole configuration, under the name that kube-proxy gives it.
    pub configuration: String,
    /// `/flagz`: the flags as they were given.
    pub flags: Vec<String>,
    /// When the program was started.
    pub started: (Instant, Timestamp),
}

impl Pages {
    /// The pages of a configuration.
    #[must_use]
    pub fn new(effective: &Effective, started: Instant) -> Self {
        let configuration = json!({ "kubeproxy.config.k8s.io": effective.configuration });
        Self {
            mode: match effective.mode {
                Mode::Iptables | Mode::Nftables => "nftables",
                Mode::Ipvs => IPVS,
            },
            service_metrics: effective.service_metrics,
            configuration: configuration.to_string(),
            flags: std::env::args().skip(1).collect(),
            started: (started, Timestamp::now()),
        }
    }

    /// `/flagz`.
    #[must_use]
    pub fn flagz(&self) -> String {
        format!("{}{}\n", heading("flagz"), self.flags.join("\n"))
    }

    /// `/statusz`.
    #[must_use]
    pub fn statusz(&self) -> String {
        let mut out = heading("statusz");
        let up = self.started.0.elapsed().as_secs();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "Started: {}", self.started.1);
        let _ = writeln!(out, "Up: {} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
        let _ = writeln!(out, "Binary version: {}", env!("CARGO_PKG_VERSION"));
        let _ = writeln!(out, "Mode: {}", self.mode);
        let _ = writeln!(out, "Paths: {}", super::METRICS_PATHS.join(" "));
        out
    }
}

fn heading(page: &str) -> String {
    format!("\nshunt {page}\nWarning: This endpoint is for people; /status is for programs.\n\n")
}
