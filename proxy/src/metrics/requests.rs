//! What is asked of the API server, under client-go's names (`k8s.io/component-base/metrics`).

use std::task::{Context, Poll};
use std::time::Instant;

use futures::future::BoxFuture;
use hyper::{Request, Response};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tower::Service;

/// client-go's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

/// How a histogram is made.
#[derive(Clone, Copy, Debug)]
struct Latency;

impl MetricConstructor<Histogram> for Latency {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// Two and three labels with their values.
type ByVerb = [(&'static str, String); 2];
type ByCode = [(&'static str, String); 3];

/// Requests to the API server, by verb, host and code.
#[derive(Clone, Debug)]
pub struct Requests {
    total: Family<ByCode, Counter>,
    duration: Family<ByVerb, Histogram, Latency>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { total: Family::default(), duration: Family::new_with_constructor(Latency) }
    }
}

impl Requests {
    pub(super) fn register(&self, registry: &mut Registry) {
        let client = registry.sub_registry_with_prefix("rest_client");
        let help = "Requests to the API server, by status code, method and host";
        client.register("requests", help, self.total.clone());
        let help = "Time until the API server began to answer, by verb and host";
        client.register_with_unit("request_duration", help, Unit::Seconds, self.duration.clone());
    }

    fn answered(&self, verb: &str, host: &str, code: String, began: Instant) {
        let (verb, host) = (verb.to_owned(), host.to_owned());
        let by_verb = [("verb", verb.clone()), ("host", host.clone())];
        self.duration.get_or_create(&by_verb).observe(began.elapsed().as_secs_f64());
        let by_code = [("code", code), ("host", host), ("method", verb)];
        self.total.get_or_create(&by_code).inc();
    }

    /// The service `inner`, with its requests counted.
    pub const fn counting<S>(self, inner: S) -> Counting<S> {
        Counting { inner, requests: self }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counting<S> {
    inner: S,
    requests: Requests,
}

impl<S, B, A> Service<Request<B>> for Counting<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (began, requests) = (Instant::now(), self.requests.clone());
        let verb = request.method().to_string();
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(answer) => answer.status().as_u16().to_string(),
                // As client-go says it.
                Err(_) => "<error>".to_owned(),
            };
            requests.answered(&verb, &host, code, began);
            answer
        })
    }
}
