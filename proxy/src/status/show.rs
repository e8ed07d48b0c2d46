//! `shunt status`: the daemon's state beside what the kernel holds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::table::{Held, Report, print_table};
use super::{FrontendRow, Status, in_kernel};
use crate::cli::{self, Output, StatusArgs};
use crate::failure::Failure;

/// How long the daemon may take for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints the state.
///
/// # Errors
/// If the daemon does not answer; what the kernel holds is printed nevertheless.
pub fn show(args: &StatusArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let daemon = runtime.block_on(ask(args.address));
    let kernel = in_kernel::read().map_err(|error| Failure::machine(error).to_string());
    let (daemon, silence) = match daemon {
        Ok(daemon) => (Some(daemon), None),
        Err(error) => (None, Some(error)),
    };
    let (status, rows) = match daemon {
        Some((status, rows)) => (Some(status), rows),
        // Without the daemon the kernel alone says what there is.
        None => (None, kernel.as_ref().map(|held| held.rows.clone()).unwrap_or_default()),
    };
    let mut report = Report { status, rows, kernel: kernel.map(Held::from) };
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
    let answers = async {
        let status = get(address, "/status").await?;
        let status = serde_json::from_slice(&status).context("/status is not understood")?;
        let services = get(address, "/status/services").await?;
        let lines = services.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let rows: Result<_, _> = lines.map(serde_json::from_slice).collect();
        Ok((status, rows.context("/status/services is not understood")?))
    };
    let timely = tokio::time::timeout(PATIENCE, answers).await;
    timely.unwrap_or_else(|_| Err(anyhow!("{address} gives no answer")))
}

async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Bytes> {
    let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its last answer; errors reach the one who waits for that.
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address.to_string());
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if answer.status() != StatusCode::OK {
        bail!("http://{address}{path}: {}: is this shunt?", answer.status());
    }
    Ok(answer.into_body().collect().await?.to_bytes())
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
