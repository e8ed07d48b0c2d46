use futures::stream;
use kube::core::Status;
use tokio::sync::mpsc;

use super::*;
use crate::source::testing::told_event;
use crate::source::wire::Service;

type Told = watcher::Result<Event<Service>>;

fn service(name: &str) -> Service {
    serde_json::from_value(serde_json::json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "1"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    }))
    .unwrap()
}

fn headless(name: &str) -> Service {
    let mut service = service(name);
    service.spec.cluster_ip = Some("None".to_owned());
    service
}

fn status(code: u16) -> Box<Status> {
    Status::failure("too old", "Expired").with_code(code).boxed()
}

fn connection_refused() -> watcher::Error {
    let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    watcher::Error::WatchStartFailed(kube::Error::Service(Box::new(error)))
}

/// Feeds one watcher's events in, then silence; returns what was passed on and why it ended.
async fn feed(streaming: bool, events: Vec<Told>) -> (Vec<String>, Option<End>) {
    feed_then(streaming, stream::iter(events).chain(stream::pending())).await
}

async fn feed_then<K: Wire>(
    streaming: bool,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
) -> (Vec<String>, Option<End>)
where
    Converted<K::Object>: Into<SourceEvent>,
{
    let (out, mut received) = mpsc::channel(100);
    let converter = Mutex::new(Converter::new());
    let mut watch = Watch {
        kind: K::KIND,
        out: &out,
        listed: false,
        complaints: Complaints::default(),
        backoff: Backoff::default(),
    };
    let tracker = Tracker::new(K::KIND, streaming);
    let follow = watch.follow(Box::pin(events), &converter, tracker);
    // Time is paused: this takes no time, and is longer than anything that follow waits for.
    let end = tokio::time::timeout(Duration::from_secs(3600), follow).await.ok();
    let mut told = Vec::new();
    while let Ok(event) = received.try_recv() {
        told.extend(told_event(&event));
    }
    (told, end)
}

#[tokio::test(start_paused = true)]
async fn a_list_then_changes() {
    let (told, end) = feed(
        true,
        vec![
            Ok(Event::Init),
            Ok(Event::InitApply(service("a"))),
            Ok(Event::InitApply(headless("b"))),
            Ok(Event::InitDone),
            Ok(Event::Apply(service("c"))),
            Ok(Event::Delete(service("a"))),
        ],
    )
    .await;
    assert_eq!(
        told,
        [
            "[ Service",
            "+ Service default/a",
            "- Service default/b",
            "] Service",
            "+ Service default/c",
            "- Service default/a",
        ]
    );
    assert_eq!(end, None, "goes on, however long nothing changes");
}

#[tokio::test(start_paused = true)]
async fn an_empty_list_is_a_list() {
    let (told, _) = feed(false, vec![Ok(Event::Init), Ok(Event::InitDone)]).await;
    assert_eq!(told, ["[ Service", "] Service"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_says_nothing() {
    let failed = || {
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Err(watcher::Error::InitialListFailed(kube::Error::Service(Box::new(error))))
    };
    let (told, end) = feed(false, vec![Ok(Event::Init), failed(), Ok(Event::Init), failed()]).await;
    assert_eq!((told.len(), end), (0, None));
    let (told, end) = feed(true, vec![Err(connection_refused()), Err(connection_refused())]).await;
    assert_eq!((told.len(), end), (0, None));
}

/// Servers before 1.31 have no ServiceCIDRs, and an account of an older release may not read them.
#[tokio::test(start_paused = true)]
async fn service_cidrs_that_cannot_be_had_are_none() {
    for code in [403, 404] {
        let failed = || Err(watcher::Error::WatchStartFailed(kube::Error::Api(status(code))));
        let events = || stream::iter([failed(), failed()]).chain(stream::pending());
        let (told, end) = feed_then::<wire::ServiceCidr>(true, events()).await;
        assert_eq!((told, end), (vec!["[ ServiceCIDR".into(), "] ServiceCIDR".into()], None));

        let failed = || Err(watcher::Error::WatchStartFailed(kube::Error::Api(status(code))));
        let (told, end) = feed(true, vec![failed(), failed()]).await;
        assert_eq!((told.len(), end), (0, None), "without Services nothing can be done");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_begins_again() {
    let (told, end) = feed(
        true,
        vec![
            Ok(Event::Init),
            Ok(Event::InitApply(service("a"))),
            Ok(Event::Init),
            Ok(Event::InitApply(service("b"))),
            Ok(Event::InitDone),
        ],
    )
    .await;
    assert_eq!(
        told,
        ["[ Service", "+ Service default/a", "[ Service", "+ Service default/b", "] Service",]
    );
    assert_eq!(end, None);
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_list_does_not_begin_it_again() {
    // kube's watcher goes on with the same stream after an object that it cannot read.
    let unreadable = serde_json::from_str::<u8>("x").unwrap_err();
    let (told, end) = feed(
        true,
        vec![
            Ok(Event::Init),
            Ok(Event::InitApply(service("a"))),
            Err(watcher::Error::WatchFailed(kube::Error::SerdeError(unreadable))),
            Ok(Event::InitApply(service("b"))),
            Ok(Event::InitDone),
        ],
    )
    .await;
    assert_eq!(told, ["[ Service", "+ Service default/a", "+ Service default/b", "] Service"]);
    assert_eq!(end, None);
}

#[tokio::test(start_paused = true)]
async fn streaming_lists_are_given_up_where_the_server_has_none() {
    // Refused.
    let refused = || Err(watcher::Error::WatchStartFailed(kube::Error::Api(status(422))));
    let (told, end) = feed(true, vec![refused()]).await;
    assert!(told.is_empty());
    assert!(matches!(end, Some(End::NoStreaming(_))), "{end:?}");

    // Ignored: objects come, their end does not.
    let begun = || vec![Ok(Event::Init), Ok(Event::InitApply(service("a")))];
    let (told, end) = feed(true, begun()).await;
    assert_eq!(told, ["[ Service", "+ Service default/a"]);
    assert!(matches!(end, Some(End::NoStreaming(_))), "{end:?}");

    // Ignored, with changes that keep coming.
    let busy = stream::unfold(true, |first| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let event = if first { Event::Init } else { Event::InitApply(service("a")) };
        Some((Ok(event), false))
    });
    let (_, end) = feed_then(true, busy).await;
    assert!(matches!(end, Some(End::NoStreaming(_))), "{end:?}");

    // Ended half-way, each time.
    let (_, end) = feed(true, [begun(), begun(), begun()].into_iter().flatten().collect()).await;
    assert!(matches!(end, Some(End::NoStreaming(_))), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paged_list_may_take_its_time() {
    let (_, end) = feed(false, vec![Ok(Event::Init), Ok(Event::InitApply(service("a")))]).await;
    assert_eq!(end, None);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_lists_anew_and_deletes_nothing() {
    let watching =
        || vec![Ok(Event::Init), Ok(Event::InitApply(service("a"))), Ok(Event::InitDone)];
    for error in [
        watcher::Error::WatchError(status(410)),
        watcher::Error::WatchError(status(500)),
        watcher::Error::WatchStartFailed(kube::Error::Api(status(410))),
    ] {
        let mut events = watching();
        events.push(Err(error));
        let (told, end) = feed(true, events).await;
        assert_eq!(told, ["[ Service", "+ Service default/a", "] Service"]);
        assert_eq!(end, Some(End::Relist));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_cannot_be_resumed_yet_is_kept() {
    let events = vec![
        Ok(Event::Init),
        Ok(Event::InitDone),
        Err(connection_refused()),
        Err(watcher::Error::WatchStartFailed(kube::Error::Api(status(403)))),
        Ok(Event::Apply(service("a"))),
    ];
    let (told, end) = feed(true, events).await;
    assert_eq!(told, ["[ Service", "] Service", "+ Service default/a"]);
    assert_eq!(end, None);
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let (out, received) = mpsc::channel(1);
    drop(received);
    let converter = Mutex::new(Converter::new());
    let mut watch = Watch {
        kind: Kind::Service,
        out: &out,
        listed: false,
        complaints: Complaints::default(),
        backoff: Backoff::default(),
    };
    let events = stream::pending::<Told>();
    let end = watch.follow(pin!(events), &converter, Tracker::new(Kind::Service, true)).await;
    assert_eq!(end, End::Closed);
}

#[test]
fn selectors_are_kube_proxys() {
    let selectors = Selectors::of_kube_proxy("node-1");
    let of = |config: &watcher::Config| {
        (
            config.label_selector.clone().unwrap_or_default(),
            config.field_selector.clone().unwrap_or_default(),
        )
    };
    let strings = |labels: &str, fields: &str| (labels.to_owned(), fields.to_owned());
    assert_eq!(
        of(&selectors.services),
        strings("!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None")
    );
    assert_eq!(of(&selectors.slices), strings("!service.kubernetes.io/headless", ""));
    assert_eq!(of(&selectors.node), strings("", "metadata.name=node-1"));
}

#[test]
fn delays_grow_to_a_limit_and_are_never_none() {
    let mut backoff = Backoff::default();
    let delays: Vec<_> = (0..50).map(|_| backoff.next()).collect();
    assert!(delays[0] >= Duration::from_millis(50) && delays[0] <= Duration::from_millis(100));
    assert!(delays.iter().all(|delay| *delay <= Duration::from_secs(5)));
    assert!(delays[40..].iter().all(|delay| *delay >= Duration::from_millis(2500)));
    backoff.reset();
    assert!(backoff.next() <= Duration::from_millis(100));
}

#[test]
fn a_failure_that_lasts_is_told_once_a_minute() {
    let mut complaints = Complaints::default();
    let start = Instant::now();
    let told: Vec<_> =
        (0..150).filter_map(|second| complaints.due(start + Duration::from_secs(second))).collect();
    assert_eq!(told, [1, 61, 121]);
    assert_eq!(complaints.recovered().map(|outage| outage.failures), Some(150));
    assert_eq!(complaints.recovered(), None);
    // Recovering does not make it talk more.
    assert_eq!(complaints.due(start + Duration::from_secs(151)), None);
    assert_eq!(complaints.recovered(), None);
}

#[test]
fn a_reason_is_one_line_and_names_the_cause_once() {
    assert_eq!(reason(&connection_refused()), "cannot watch: ServiceError: connection refused");
    assert_eq!(
        reason(&watcher::Error::WatchError(status(410))),
        "the watch was ended: too old (410 Expired)"
    );
    let forbidden = watcher::Error::InitialListFailed(kube::Error::Api(status(403)));
    assert_eq!(reason(&forbidden), "cannot list: too old (403 Expired)");
}
