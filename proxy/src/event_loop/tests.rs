//! The event loop, driven with literals.

use std::io::Write;
use std::sync::{Arc, Mutex};

use shunt_model::address::Protocol;
use shunt_model::compile::{LocalSources, NodePortAddresses};
use shunt_model::object::{
    EndpointSlice, ObjectKey, Service, ServicePort, ServiceType, SliceEndpoint, SlicePort,
    TrafficPolicy,
};
use shunt_model::problem::Kind;
use shunt_model::snapshot::{Change, Object};

use super::*;
use crate::backend::SyncReport;
use crate::kernel::{Failed, Order, Reason, Synced};
use crate::source::FileProblem;

fn event_loop(start: Instant) -> EventLoop {
    event_loop_with(start, PATIENCE, watch::channel(Health::STARTING).0)
}

pub(super) fn event_loop_with(
    start: Instant,
    patience: Duration,
    health: watch::Sender<Health>,
) -> EventLoop {
    let identity = Identity {
        started: start,
        started_at: Timestamp::UNIX_EPOCH,
        node: "n1".into(),
        source: "literals".into(),
        patience,
        has_node: true,
    };
    let settings = Settings {
        node_name: "n1".into(),
        node_port_addresses: NodePortAddresses::Primary,
        local_sources: LocalSources::Unknown,
        masquerade_all: false,
        external_ips: true,
        reset_tcp: false,
        localhost_node_ports: false,
    };
    EventLoop::new(identity, settings, Metrics::new().0, health)
}

fn service(name: &str, last: u8) -> Service {
    Service {
        key: ObjectKey::new("default", name),
        created: 0,
        service_type: ServiceType::ClusterIp,
        cluster_ips: vec![[10, 96, 0, last].into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        external_traffic_policy: TrafficPolicy::Cluster,
        internal_traffic_policy: TrafficPolicy::Cluster,
        balancing: None,
        health_check_node_port: None,
        load_balancer_source_ranges: Vec::new(),
    }
}

fn slice(service: &str, addresses: &[u8]) -> EndpointSlice {
    let endpoint = |last: &u8| SliceEndpoint {
        address: [10, 244, 0, *last].into(),
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        locality: Arc::default(),
    };
    EndpointSlice {
        key: ObjectKey::new("default", &format!("{service}-1")),
        service: ObjectKey::new("default", service),
        ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: addresses.iter().map(endpoint).collect(),
    }
}

fn applied(object: Object, problems: Vec<Problem>) -> Change {
    Change::Applied { object, problems }
}

fn problem(name: &str) -> Problem {
    Problem {
        kind: Kind::Service,
        object: ObjectKey::new("default", name),
        field: "spec.ports[1].port".into(),
        reason: "70000 is not a port (1-65535); port skipped".into(),
    }
}

/// Lets the loop take changes in, as one batch.
fn take(state: &mut EventLoop, changes: impl IntoIterator<Item = Change>, now: Instant) {
    for change in changes {
        state.handle(Event::Source(SourceEvent::Change(change)), now);
    }
}

/// The first lists: two Services, one of which has endpoints.
pub(super) fn lists() -> Vec<Change> {
    vec![
        Change::ListStarted(Kind::Service),
        applied(Object::Service(service("a", 1)), Vec::new()),
        applied(Object::Service(service("b", 2)), Vec::new()),
        Change::ListDone(Kind::Service),
        Change::ListStarted(Kind::EndpointSlice),
        applied(Object::EndpointSlice(slice("a", &[1, 2])), Vec::new()),
        Change::ListDone(Kind::EndpointSlice),
        Change::ListStarted(Kind::Node),
        Change::ListDone(Kind::Node),
        Change::ListStarted(Kind::ServiceCidr),
        Change::ListDone(Kind::ServiceCidr),
        Change::LocalAddresses(BTreeSet::new()),
    ]
}

/// A loop that has given its first order.
fn listed(now: Instant) -> EventLoop {
    let mut state = event_loop(now);
    take(&mut state, lists(), now);
    state.next_order(now).unwrap();
    state
}

fn named(order: &Order) -> Vec<&str> {
    order.delta.services.keys().map(|key| &*key.name).collect()
}

fn synced(order: u64, reason: Reason, began: Instant) -> Synced {
    let report = SyncReport { operations: 7, transactions: 2, ..SyncReport::default() };
    let latency = Some(Duration::from_micros(300));
    Synced { reason, order, services: 1, began, latency, report }
}

fn report(state: &mut EventLoop, synced: Synced, now: Instant) {
    state.handle(Event::Kernel(KernelEvent::Synced(Box::new(synced))), now);
}

#[test]
fn nothing_is_ordered_before_all_first_lists_are_complete() {
    let now = Instant::now();
    let mut state = event_loop(now);
    let lists = lists();
    let (last, before) = lists.split_last().unwrap();
    for change in before {
        take(&mut state, [change.clone()], now);
        assert_eq!(state.next_order(now), None, "after {change:?}");
    }
    assert_eq!(state.status(now).awaiting, ["the local addresses"]);
    take(&mut state, [last.clone()], now);
    let order = state.next_order(now).unwrap();
    assert_eq!((order.number, named(&order)), (1, vec!["a", "b"]));
    assert!(state.status(now).awaiting.is_empty());
}

#[test]
fn a_node_that_never_shows_up_holds_services_back_for_a_while_only() {
    let now = Instant::now();
    let mut state = event_loop(now);
    take(&mut state, lists().into_iter().take(7), now);
    assert_eq!(state.next_order(now), None);
    let at = state.planner.wake_at().unwrap();
    assert!(at > now && at < now + Duration::from_secs(30));
    assert_eq!(named(&state.next_order(at).unwrap()), ["a", "b"]);
    assert_eq!(state.planner.wake_at(), None);
}

#[test]
fn the_first_order_is_given_also_if_there_is_nothing_in_it() {
    let now = Instant::now();
    let mut state = event_loop(now);
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
        take(&mut state, [Change::ListStarted(kind), Change::ListDone(kind)], now);
    }
    take(&mut state, [Change::LocalAddresses(BTreeSet::new())], now);
    let order = state.next_order(now).expect("what an earlier run has left must go");
    assert!(order.delta.services.is_empty());
}

#[test]
fn what_waits_becomes_one_order_from_its_oldest_event() {
    let now = Instant::now();
    let mut state = listed(now);
    let later = now + Duration::from_millis(1);
    take(&mut state, [applied(Object::EndpointSlice(slice("a", &[1])), Vec::new())], now);
    take(&mut state, [applied(Object::EndpointSlice(slice("a", &[3])), Vec::new())], later);
    take(&mut state, [applied(Object::EndpointSlice(slice("b", &[4])), Vec::new())], later);
    let order = state.next_order(later).unwrap();
    assert_eq!((order.number, order.since, named(&order)), (2, now, vec!["a", "b"]));
    assert_eq!(state.next_order(later), None);
    let totals = state.planner.totals();
    assert_eq!((totals.services, totals.frontends, totals.endpoints), (2, 2, 2));
}

#[test]
fn what_says_nothing_new_is_not_ordered() {
    let now = Instant::now();
    let mut state = listed(now);
    take(&mut state, [applied(Object::Service(service("a", 1)), Vec::new())], now);
    assert_eq!(state.next_order(now), None);
    // Back and forth within one batch.
    take(&mut state, [applied(Object::EndpointSlice(slice("a", &[1])), Vec::new())], now);
    take(&mut state, [applied(Object::EndpointSlice(slice("a", &[1, 2])), Vec::new())], now);
    assert_eq!(state.next_order(now), None);
}

#[test]
fn a_list_anew_removes_what_it_does_not_name_when_it_is_done() {
    let now = Instant::now();
    let mut state = listed(now);
    let list =
        [Change::ListStarted(Kind::Service), applied(Object::Service(service("a", 1)), Vec::new())];
    take(&mut state, list, now);
    assert_eq!(state.next_order(now), None);
    take(&mut state, [Change::ListDone(Kind::Service)], now);
    let order = state.next_order(now).unwrap();
    assert_eq!(named(&order), ["b"]);
    assert_eq!(order.delta.services.values().next(), Some(&None));
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What was logged since the last time.
    fn lines(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

/// tracing remembers of each line of code whether anyone listens, for all threads: a test that
/// comes to a line at the wrong moment would silence it for another. With this, someone does.
fn hear_everything() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let listener = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(std::io::sink)
            .finish();
        // Another test's may be there already, which will do.
        let _ = tracing::subscriber::set_global_default(listener);
    });
}

/// Does something while a log is kept, without times.
fn logged(act: impl FnOnce(&Log)) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .finish();
    hear_everything();
    tracing::subscriber::with_default(subscriber, || act(&log));
}

#[test]
fn a_problem_is_logged_once_when_it_comes_and_once_when_it_goes() {
    let now = Instant::now();
    let mut state = listed(now);
    let bad = || applied(Object::Service(service("a", 1)), vec![problem("a")]);
    logged(|log| {
        take(&mut state, [bad()], now);
        let told =
            "Service default/a: spec.ports[1].port: 70000 is not a port (1-65535); port skipped\n";
        assert_eq!(log.lines(), format!(" WARN {told}"));
        take(&mut state, [bad(), Change::ListStarted(Kind::Service), bad()], now);
        assert_eq!(log.lines(), "");
        assert_eq!(state.status(now).problems.len(), 1);
        // A list that does not name it any more.
        take(
            &mut state,
            [Change::ListStarted(Kind::Service), Change::ListDone(Kind::Service)],
            now,
        );
        assert_eq!(log.lines(), format!(" INFO no longer a problem: {told}"));
        assert!(state.status(now).problems.is_empty());
    });
}

#[test]
fn problems_of_files_and_rejections_by_the_kernel_are_problems_too() {
    let now = Instant::now();
    let mut state = listed(now);
    let file = std::path::PathBuf::from("/m/a.yaml");
    let reason = "not YAML; skipped".to_owned();
    let found = FileProblem { file: file.clone(), line: Some(3), field: None, reason };
    let event = SourceEvent::FileProblems { file, problems: vec![found] };
    state.handle(Event::Source(event), now);
    let mut rejecting = synced(1, Reason::First, now);
    rejecting.report.rejected = vec![(ObjectKey::new("default", "a"), "no room".into())];
    report(&mut state, rejecting, now);
    let expected = [
        "/m/a.yaml:3: not YAML; skipped",
        "Service default/a: the kernel rejects it, so it is not served: no room",
    ];
    assert_eq!(state.status(now).problems, expected);
    report(&mut state, synced(1, Reason::Verify, now), now);
    assert_eq!(state.status(now).problems, expected[..1]);
}

#[test]
fn failures_are_logged_once_and_their_end_too() {
    let now = Instant::now();
    let mut state = listed(now);
    let failed = |attempts| Failed {
        reason: Reason::First,
        attempts,
        error: "no".into(),
        retry_in: Duration::from_millis(100),
    };
    logged(|log| {
        state.handle(Event::Kernel(KernelEvent::Failed(failed(1))), now);
        assert_eq!(log.lines(), "ERROR sync failed: no reason=\"first\" retry_in=100ms\n");
        state.handle(Event::Kernel(KernelEvent::Failed(failed(2))), now);
        assert_eq!(log.lines(), "");
        assert_eq!(state.status(now).failure.as_deref(), Some("no"));
        report(&mut state, synced(1, Reason::Retry, now), now);
        let lines = log.lines();
        assert!(lines.starts_with(" INFO syncing works again attempts=2\n"), "{lines}");
        assert_eq!((state.status(now).failure, lines.lines().count()), (None, 2));
    });
}

#[test]
fn health_follows_the_kernel() {
    let now = Instant::now();
    let mut state = listed(now);
    let late = now + Duration::from_secs(61);
    assert!(!state.status(now).healthy, "nothing is installed yet");
    report(&mut state, synced(1, Reason::First, now), now);
    assert!(state.status(late).healthy);
    take(&mut state, [applied(Object::EndpointSlice(slice("b", &[1])), Vec::new())], now);
    assert_eq!(state.next_order(now).unwrap().number, 2);
    let status = state.status(late);
    assert_eq!((status.healthy, status.waiting_ms), (false, Some(61_000)));
    report(&mut state, synced(2, Reason::Change, late), late);
    assert!(state.status(late).healthy);
}

#[test]
fn the_status_is_stable_json() {
    let start = Instant::now();
    let mut state = event_loop(start);
    let now = start + Duration::from_millis(250);
    take(&mut state, lists(), now);
    state.next_order(now).unwrap();
    report(&mut state, synced(1, Reason::First, now), now + Duration::from_millis(50));
    take(&mut state, [applied(Object::EndpointSlice(slice("b", &[1])), Vec::new())], now);
    state.next_order(now).unwrap();
    report(&mut state, synced(2, Reason::Change, now), now);
    let mut status = state.status(now);
    // What differs from run to run.
    status.version = "V".into();
    status.pid = 1;
    status.resident_bytes = 1;
    status.last_sync.as_mut().unwrap().at = "T".into();
    let json = serde_json::to_string_pretty(&status).unwrap();
    expect_test::expect![[r#"
        {
          "version": "V",
          "pid": 1,
          "started": "1970-01-01T00:00:00Z",
          "node": "n1",
          "source": "literals",
          "synced": true,
          "healthy": true,
          "awaiting": [],
          "waiting_ms": null,
          "failure": null,
          "first_sync": {
            "listed_ms": 250.0,
            "read_ms": 0.0,
            "diff_ms": 0.0,
            "commit_ms": 0.0,
            "synced_ms": 300.0
          },
          "last_sync": {
            "at": "T",
            "reason": "change",
            "services": 1,
            "operations": 7,
            "transactions": 2,
            "read_ms": 0.0,
            "diff_ms": 0.0,
            "commit_ms": 0.0
          },
          "event_to_commit_us": {
            "count": 1,
            "p50": 300,
            "p99": 300,
            "max": 300
          },
          "counters": {
            "events": 15,
            "orders": 2,
            "syncs": 2,
            "failures": 0,
            "operations": 14,
            "transactions": 4,
            "repairs": 0,
            "drifts": 0,
            "flows_ended": 0
          },
          "services": 2,
          "frontends": 2,
          "endpoints": 3,
          "network_policy": null,
          "resident_bytes": 1,
          "problems": []
        }"#]]
    .assert_eq(&json);
    assert_eq!(serde_json::from_str::<crate::status::Status>(&json).unwrap(), status);
}
