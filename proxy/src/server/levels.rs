//! `/debug/flags/v`: what is logged, and changing it, at the path and in the words of klog.

use std::net::IpAddr;

use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::Body;
use tracing::info;

use super::{Answer, text};
use crate::logging::Levels;

/// The path.
pub(super) const PATH: &str = "/debug/flags/v";
/// The longest text that is taken, in bytes.
const LONGEST: usize = 1024;

/// Changes what is logged to what a request's body says. Only who is on this machine may: the
/// metrics may be open to others.
pub(super) async fn put<B>(levels: &Levels, peer: IpAddr, body: B) -> Answer
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !peer.to_canonical().is_loopback() {
        return text(StatusCode::FORBIDDEN, "only from this machine, by its loopback\n".into());
    }
    let Ok(body) = Limited::new(body, LONGEST).collect().await else {
        return text(StatusCode::BAD_REQUEST, format!("more than {LONGEST} bytes\n"));
    };
    let body = body.to_bytes();
    match levels.set(String::from_utf8_lossy(&body).trim()) {
        Ok(directives) => {
            info!(directives, "other log levels");
            let told = format!("successfully set klog.logging.verbosity: {directives}\n");
            text(StatusCode::OK, told)
        }
        Err(wrong) => text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::body::Bytes;

    use super::*;

    async fn put_text(peer: [u8; 4], body: &str) -> StatusCode {
        let body = Full::new(Bytes::from(body.to_owned()));
        put(&Levels::of_nothing(), peer.into(), body).await.status()
    }

    #[tokio::test]
    async fn only_this_machine_changes_levels() {
        assert_eq!(put_text([127, 0, 0, 1], "4\n").await, StatusCode::OK);
        assert_eq!(put_text([127, 0, 0, 1], "a=b=c").await, StatusCode::BAD_REQUEST);
        assert_eq!(put_text([127, 0, 0, 1], &"x".repeat(2000)).await, StatusCode::BAD_REQUEST);
        assert_eq!(put_text([192, 0, 2, 1], "4").await, StatusCode::FORBIDDEN);
    }
}
