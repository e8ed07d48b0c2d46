//! Asking the daemon, over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the daemon may take for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it answers; to be called where tokio runs.
///
/// # Errors
/// If nobody answers in time.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let answer = timeout(PATIENCE, answer(address, path)).await;
    answer.unwrap_or_else(|_| Err(anyhow!("{address} gives no answer")))
}

async fn answer(address: SocketAddr, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its last answer; errors reach the one who waits for that.
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address.to_string());
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    Ok((answer.status(), answer.into_body().collect().await?.to_bytes()))
}
