//! `shunt status`: the daemon's state beside what the kernel holds.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use hyper::StatusCode;
use hyper::body::Bytes;

use super::beside::Kernel;
use super::table::{Report, print_table};
use super::{FrontendRow, Status, client};
use crate::cli::{self, Output, StatusArgs};
use crate::failure::Failure;

/// Prints the state.
///
/// # Errors
/// If the daemon does not answer; what the kernel holds is printed nevertheless.
pub fn show(args: &StatusArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let daemon = runtime.block_on(ask(args.address));
    let Kernel(kernel) = Kernel::read();
    let (daemon, silence) = match daemon {
        Ok(daemon) => (Some(daemon), None),
        Err(error) => (None, Some(error)),
    };
    let (status, rows) = match daemon {
        Some((status, rows)) => (Some(status), rows),
        // Without the daemon the kernel alone says what there is.
        None => (None, kernel.as_ref().map(|held| held.rows()).unwrap_or_default()),
    };
    let mut report = Report { status, rows, kernel };
    report.count();
    cli::print(&match args.output {
        Output::Json => json(&report)?,
        Output::Table => print_table(&report, super::table::Width::Narrow),
        Output::Wide => print_table(&report, super::table::Width::Wide),
    })?;
    match silence {
        Some(error) => Err(error.context("no running daemon was found").into()),
        None => Ok(()),
    }
}

/// Asks the daemon for its state and its frontends.
async fn ask(address: SocketAddr) -> anyhow::Result<(Status, Vec<FrontendRow>)> {
    let status = get(address, "/status").await?;
    let status = serde_json::from_slice(&status).context("/status is not understood")?;
    let services = get(address, "/status/services").await?;
    let lines = services.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let rows: Result<_, _> = lines.map(serde_json::from_slice).collect();
    Ok((status, rows.context("/status/services is not understood")?))
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    match client::get(address, path).await? {
        (StatusCode::OK, body) => Ok(body),
        (code, _) => bail!("http://{address}{path}: {code}: is this shunt?"),
    }
}

fn json(report: &Report) -> anyhow::Result<String> {
    let kernel = match &report.kernel {
        Ok(held) => serde_json::json!({
            "table": held.table,
            "frontends": held.frontends,
            "endpoints": held.endpoints,
        }),
        Err(error) => serde_json::json!({ "error": error }),
    };
    let whole = serde_json::json!({
        "daemon": report.status,
        "kernel": kernel,
        "frontends": report.rows,
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&whole)?))
}
