//! The HTTP servers: metrics and status on one address, health on another.
//!
//! Neither keeps the proxy from its work: an address that cannot be had is tried again.

mod levels;
mod pages;
pub mod service_health;

use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{debug, error, info};

pub use self::pages::{IPVS, Pages};
pub use self::service_health::{HealthChecks, Listening};
use crate::counted::Counted;
use crate::event_loop::Question;
use crate::explain::{self, Asked};
use crate::logging::Levels;
use crate::metrics::{self, Check, Metrics, Probe};
use crate::progress::Health;
use crate::reporter::{About, Report};
use crate::status::rows;

/// How long until an address that cannot be had is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// How long a client may take for its request's headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// How many connections are served at a time; more of them wait.
const CONNECTIONS: usize = 64;
/// How many Services are printed before other tasks get their turn.
const SLICE: usize = 256;

/// What metrics are printed in.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The paths of the metrics' address.
pub const METRICS_PATHS: [&str; 11] = [
    "/configz",
    levels::PATH,
    explain::PATH,
    "/flagz",
    "/healthz",
    "/metrics",
    "/metrics/slis",
    "/proxyMode",
    "/status",
    "/status/services",
    "/statusz",
];

/// What is served on an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// [`METRICS_PATHS`].
    Metrics,
    /// `/healthz`, `/livez`.
    Health,
}

impl Site {
    const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Health => "health",
        }
    }

    /// The reason of kube-proxy's event when its address cannot be had.
    const fn failure(self) -> &'static str {
        match self {
            Self::Metrics => "FailedToStartMetricServer",
            Self::Health => "FailedToStartProxierHealthcheck",
        }
    }
}

/// Where answers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The event loop.
    pub questions: mpsc::Sender<Question>,
    /// What the event loop publishes about health.
    pub health: watch::Receiver<Health>,
    /// What counts the answers.
    pub metrics: Metrics,
    /// What prints the metrics.
    pub registry: Arc<Registry>,
    /// What does not change.
    pub pages: Arc<Pages>,
    /// What is logged.
    pub levels: Levels,
    /// Who tells the API that an address cannot be had.
    pub reporter: Option<mpsc::Sender<Report>>,
}

type Answer = Response<Full<Bytes>>;

/// Serves a site for ever, once its address can be had.
pub async fn serve(site: Site, address: SocketAddr, sources: Sources) {
    let listener = listen(site, address, sources.reporter.as_ref()).await;
    serve_on(site, listener, sources).await;
}

/// Serves a site for ever, on an address that must be free now.
///
/// # Errors
/// If it is not.
pub async fn serve_or_fail(
    site: Site,
    address: SocketAddr,
    sources: Sources,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    info!("{} answers on http://{address}", site.name());
    tokio::spawn(serve_on(site, listener, sources));
    Ok(())
}

async fn serve_on(site: Site, listener: TcpListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let sources = sources.clone();
                tokio::spawn(async move {
                    talk(site, stream, peer.ip(), &sources).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: they come back when others hang up.
                debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Listens on an address, however long it takes to get it. Each new obstacle is told once.
async fn listen(
    site: Site,
    address: SocketAddr,
    reporter: Option<&mpsc::Sender<Report>>,
) -> TcpListener {
    let name = site.name();
    let mut told = None;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!("{name} answers on http://{address}");
                return listener;
            }
            Err(error) if told == Some(error.kind()) => {}
            Err(error) => {
                let note = format!("cannot serve {name} on {address}, trying again: {error}");
                error!("{note}");
                if let Some(reporter) = reporter {
                    let reason = site.failure();
                    // What comes too fast is left out.
                    let report = Report { about: About::Node, reason, note, wrong: true };
                    let _ = reporter.try_send(report);
                }
                told = Some(error.kind());
            }
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

async fn talk(site: Site, stream: TcpStream, peer: IpAddr, sources: &Sources) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let path = request.uri().path();
        let sets = site == Site::Metrics && path == levels::PATH && request.method() == Method::PUT;
        let answer = if sets {
            levels::put(&sources.levels, peer, request.into_body()).await
        } else {
            answer(site, request.method(), request.uri(), sources).await
        };
        Ok::<_, Infallible>(answer)
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended early");
    }
}

async fn answer(site: Site, method: &Method, uri: &Uri, sources: &Sources) -> Answer {
    let path = uri.path();
    if method != Method::GET && method != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match (site, path) {
        (Site::Metrics, "/healthz") => health(Check::Ping, Probe::Healthz, sources),
        (Site::Health, "/healthz") => health(Check::Proxy, Probe::Healthz, sources),
        (Site::Health, "/livez") => health(Check::Proxy, Probe::Livez, sources),
        (Site::Metrics, "/metrics") => {
            let mut text = metrics::print(&sources.registry);
            if sources.pages.service_metrics {
                text = with_services(text, sources).await;
            }
            respond(StatusCode::OK, OPEN_METRICS, text.into())
        }
        (Site::Metrics, "/metrics/slis") => {
            respond(StatusCode::OK, OPEN_METRICS, sources.metrics.print_slis().into())
        }
        (Site::Metrics, "/proxyMode") => text(StatusCode::OK, sources.pages.mode.into()),
        (Site::Metrics, "/configz") => {
            let body = sources.pages.configuration.clone();
            respond(StatusCode::OK, "application/json", body.into())
        }
        (Site::Metrics, levels::PATH) => {
            text(StatusCode::OK, format!("{}\n", sources.levels.directives()))
        }
        (Site::Metrics, "/flagz") => text(StatusCode::OK, sources.pages.flagz()),
        (Site::Metrics, "/statusz") => text(StatusCode::OK, sources.pages.statusz()),
        (Site::Metrics, "/status") => match ask(sources, Question::Status).await {
            Some(status) => json(StatusCode::OK, &status),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into()),
        },
        (Site::Metrics, "/status/services") => services(sources).await,
        (Site::Metrics, explain::PATH) => explained(uri.query().unwrap_or_default(), sources).await,
        _ => text(StatusCode::NOT_FOUND, format!("{path}: there is nothing here\n")),
    }
}

/// Asks the event loop; `None` while the daemon is stopping.
async fn ask<T>(
    sources: &Sources,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    sources.questions.send(question(answer)).await.ok()?;
    answered.await.ok()
}

/// Where the packets of a connection go.
async fn explained(query: &str, sources: &Sources) -> Answer {
    let wrong = |reason| text(StatusCode::BAD_REQUEST, format!("{reason}\n"));
    let asked = match Asked::parse(query) {
        Ok(asked) => asked,
        Err(reason) => return wrong(reason),
    };
    match ask(sources, |answer| Question::Explain(asked, answer)).await {
        Some(Ok(explained)) => json(StatusCode::OK, &explained),
        Some(Err(reason)) => wrong(reason),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into()),
    }
}

/// The metrics, with what the kernel has counted. To read it takes a tenth of a second at 100,000
/// endpoints, so that is done beside the event loop.
async fn with_services(text: String, sources: &Sources) -> String {
    let Some(plan) = ask(sources, Question::Plan).await else { return text };
    let ipvs = sources.pages.mode == IPVS;
    let fallback = text.clone();
    let read = tokio::task::spawn_blocking(move || {
        let frontends = plan.services.values().flat_map(|service| &service.frontends);
        let own: HashSet<_> = frontends.filter(|_| ipvs).map(|each| each.frontend).collect();
        let counted = Counted::read(ipvs, |frontend| own.contains(frontend))?;
        let mut text = text;
        metrics::services::add(&mut text, &plan, &counted);
        anyhow::Ok(text)
    });
    match read.await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => {
            debug!("what the kernel counts cannot be read: {error:#}");
            fallback
        }
        Err(_) => fallback,
    }
}

/// All frontends, one JSON object a line. They are printed from the shared plan slice by slice:
/// ten thousand Services must neither hold up the event loop nor be held twice.
async fn services(sources: &Sources) -> Answer {
    let Some(plan) = ask(sources, Question::Plan).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
    };
    let mut body = Vec::new();
    for (number, (key, service)) in plan.services.iter().enumerate() {
        for row in rows(key, service) {
            // Writing strings and numbers to memory cannot fail.
            let _ = serde_json::to_writer(&mut body, &row);
            body.push(b'\n');
        }
        if number % SLICE == SLICE - 1 {
            tokio::task::yield_now().await;
        }
    }
    respond(StatusCode::OK, "application/x-ndjson", body)
}

/// kube-proxy's health answer.
#[derive(Serialize)]
struct HealthAnswer {
    #[serde(rename = "lastUpdated")]
    last_updated: String,
    #[serde(rename = "currentTime")]
    current_time: String,
    #[serde(rename = "nodeEligible", skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyHealth>,
}

/// The part of one address family. Ours are written in one transaction, so they are alike.
#[derive(Serialize)]
struct FamilyHealth {
    #[serde(rename = "lastUpdated")]
    last_updated: String,
    healthy: bool,
}

fn health(check: Check, probe: Probe, sources: &Sources) -> Answer {
    let health = *sources.health.borrow();
    let alive = health.is_alive(Instant::now());
    let (healthy, code) = match probe {
        // As kube-proxy: a Node that is to go is told by the code, and by its own field.
        Probe::Healthz => {
            let healthy = health.synced && alive;
            (healthy, status_code(healthy && health.node_eligible))
        }
        Probe::Livez => (alive, status_code(alive)),
    };
    let now = Timestamp::now();
    // As kube-proxy: who is healthy is up to date now, also if nothing has changed for long.
    let updated = if code.is_success() { Some(now) } else { health.updated };
    sources.metrics.health_answered(check, probe, code.is_success());
    let family = || FamilyHealth {
        last_updated: health.updated.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        healthy: alive,
    };
    let families = if health.synced { &["IPv4", "IPv6"][..] } else { &[] };
    let answer = HealthAnswer {
        last_updated: updated.unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        current_time: now.to_string(),
        node_eligible: (probe == Probe::Healthz).then_some(health.node_eligible),
        healthy,
        status: families.iter().map(|name| (*name, family())).collect(),
    };
    json(code, &answer)
}

const fn status_code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json(code: StatusCode, value: &impl Serialize) -> Answer {
    // The types on the wire have no map keys that are not strings, so this cannot fail.
    let body = serde_json::to_vec(value).unwrap_or_default();
    respond(code, "application/json", body)
}

fn text(code: StatusCode, text: String) -> Answer {
    respond(code, "text/plain; charset=utf-8", text.into())
}

fn respond(code: StatusCode, content: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content));
    // By this a shunt tells another from a second proxy.
    headers.insert(SERVER, hyper::header::HeaderValue::from_static("shunt"));
    answer
}

#[cfg(test)]
mod tests;
