//! Health-check node ports: where a load balancer asks whether this node has endpoints of a
//! Service whose external traffic policy is Local.
//!
//! What is answered is published by the event loop, in step with the kernel: that there are
//! endpoints after they are installed, that there are none before they are removed.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use shunt_model::address::Family;
use shunt_model::object::ObjectKey;
use shunt_model::plan::HealthCheck;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::debug;

use super::{BIND_AGAIN, CONNECTIONS, HEADER_PATIENCE, status_code};
use crate::progress::Health;

/// What the event loop publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthChecks {
    /// Where to listen.
    pub addresses: BTreeSet<IpAddr>,
    /// The Services that are asked for.
    pub services: BTreeMap<ObjectKey, HealthCheck>,
}

/// What became of listening for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The Service.
    pub service: ObjectKey,
    /// Where.
    pub address: SocketAddr,
    /// Why it cannot be listened there; `None`: it can, or need not any more.
    pub obstacle: Option<String>,
}

/// Serves health-check node ports for ever, or until nobody publishes any more.
pub async fn serve(
    mut checks: watch::Receiver<HealthChecks>,
    health: watch::Receiver<Health>,
    reports: mpsc::UnboundedSender<Listening>,
) {
    let source = Source { checks: checks.clone(), health, reports, places: places() };
    let mut listeners: BTreeMap<SocketAddr, (ObjectKey, JoinHandle<()>)> = BTreeMap::new();
    loop {
        let wanted = wanted(&checks.borrow_and_update());
        listeners.retain(|address, (service, task)| {
            let stays = wanted.get(address) == Some(service);
            if !stays {
                task.abort();
                source.tell(service, *address, None);
            }
            stays
        });
        for (address, service) in wanted {
            listeners.entry(address).or_insert_with(|| {
                let listening = listen(service.clone(), address, source.clone());
                (service, tokio::spawn(listening))
            });
        }
        if checks.changed().await.is_err() {
            return;
        }
    }
}

/// Where to listen for whom; of two Services that want one port the first by name has it.
fn wanted(checks: &HealthChecks) -> BTreeMap<SocketAddr, ObjectKey> {
    let mut wanted = BTreeMap::new();
    for (service, check) in &checks.services {
        for address in &checks.addresses {
            let address = SocketAddr::new(*address, check.port);
            wanted.entry(address).or_insert_with(|| service.clone());
        }
    }
    wanted
}

fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

/// Where answers come from.
#[derive(Clone)]
struct Source {
    checks: watch::Receiver<HealthChecks>,
    health: watch::Receiver<Health>,
    reports: mpsc::UnboundedSender<Listening>,
    /// How many connections are served at a time, on all ports.
    places: Arc<Semaphore>,
}

impl Source {
    fn tell(&self, service: &ObjectKey, address: SocketAddr, obstacle: Option<String>) {
        let listening = Listening { service: service.clone(), address, obstacle };
        // The loop has gone: so will this task.
        let _ = self.reports.send(listening);
    }

    fn answer(&self, service: &ObjectKey, family: Family) -> Response<Full<Bytes>> {
        let checks = self.checks.borrow();
        let check = checks.services.get(service);
        let endpoints = check.map_or(0, |check| check.local_endpoints(family));
        let healthy = self.health.borrow().is_healthy(Instant::now());
        let body = Answer {
            service: Named { namespace: &service.namespace, name: &service.name },
            local_endpoints: endpoints,
            service_proxy_healthy: healthy,
        };
        // Strings, a number and a flag: this cannot fail.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut answer = Response::new(Full::new(Bytes::from(body)));
        *answer.status_mut() = status_code(endpoints > 0 && healthy);
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(endpoints));
        answer
    }
}

/// kube-proxy's answer.
#[derive(Serialize)]
struct Answer<'a> {
    service: Named<'a>,
    #[serde(rename = "localEndpoints")]
    local_endpoints: u32,
    #[serde(rename = "serviceProxyHealthy")]
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// Answers on one address until it is aborted. What cannot be had is tried again.
async fn listen(service: ObjectKey, address: SocketAddr, source: Source) {
    let mut told = None;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if told == Some(error.kind()) => {}
            Err(error) => {
                told = Some(error.kind());
                source.tell(&service, address, Some(error.to_string()));
            }
        }
        tokio::time::sleep(BIND_AGAIN).await;
    };
    if told.is_some() {
        source.tell(&service, address, None);
    }
    let family = Family::of(address.ip());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&source.places).acquire_owned().await else { return };
                let (service, source) = (service.clone(), source.clone());
                tokio::spawn(async move {
                    talk(stream, &service, family, &source).await;
                    drop(place);
                });
            }
            Err(error) => {
                debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// One question and its answer, whatever the path: a load balancer that keeps a connection would
/// be told of a Service after its port was given to another.
async fn talk(stream: TcpStream, service: &ObjectKey, family: Family, source: &Source) {
    let answer = service_fn(|_| async move { Ok::<_, Infallible>(source.answer(service, family)) });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended early");
    }
}
