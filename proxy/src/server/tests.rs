//! The answers, and one conversation over a real socket.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::status::Status;

/// Where answers come from, with an event loop that only knows its name.
fn sources(health: Health) -> Sources {
    let (questions, mut asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(question) = asked.recv().await {
            match question {
                Question::Status(answer) => {
                    let status = Status { node: "n1".into(), ..Status::default() };
                    drop(answer.send(status));
                }
                Question::Plan(answer) => drop(answer.send(shunt_model::plan::Plan::default())),
                Question::Explain(asked, answer) => {
                    drop(answer.send(Err(format!("{} is unknown", asked.from))));
                }
            }
        }
    });
    let (metrics, registry) = Metrics::new();
    let health = watch::channel(health).1;
    let flags = crate::config::KubeProxyArgs::default();
    let effective = crate::config::Effective::new(flags.configuration()).unwrap();
    let pages = Arc::new(Pages::new(&effective, Instant::now()));
    let (registry, levels) = (Arc::new(registry), Levels::of_nothing());
    Sources { questions, health, metrics, registry, pages, levels, reporter: None }
}

async fn get(site: Site, path: &str, sources: &Sources) -> (u16, String) {
    let answer = answer(site, &Method::GET, &path.parse().unwrap(), sources).await;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn health_is_503_until_the_first_sync() {
    let starting = sources(Health::STARTING);
    let (code, body) = get(Site::Health, "/healthz", &starting).await;
    assert_eq!(code, 503);
    assert!(body.starts_with(r#"{"lastUpdated":"1970-01-01T00:00:00Z","currentTime":""#), "{body}");
    assert!(body.ends_with(r#"","nodeEligible":true,"healthy":false}"#), "{body}");
    // To wait for the first lists is no reason to be restarted.
    assert_eq!(get(Site::Health, "/livez", &starting).await.0, 200);
    let synced = sources(Health { synced: true, ..Health::STARTING });
    assert_eq!(get(Site::Health, "/livez", &synced).await.0, 200);
    assert_eq!(get(Site::Metrics, "/healthz", &synced).await.0, 200);
}

#[tokio::test]
async fn a_node_that_goes_is_told_to_load_balancers_alone() {
    let going = sources(Health { synced: true, node_eligible: false, ..Health::STARTING });
    let (code, body) = get(Site::Health, "/healthz", &going).await;
    assert_eq!(code, 503);
    assert!(body.contains(r#""nodeEligible":false,"healthy":true,"status":{"IPv4":{"#), "{body}");
    let (code, body) = get(Site::Health, "/livez", &going).await;
    assert_eq!(code, 200);
    assert!(!body.contains("nodeEligible"), "{body}");
}

#[tokio::test]
async fn a_loop_that_stands_still_turns_health_red() {
    let turned = Instant::now().checked_sub(Duration::from_secs(61));
    let stuck = sources(Health { synced: true, turned, ..Health::STARTING });
    assert_eq!(get(Site::Health, "/livez", &stuck).await.0, 503);
    assert_eq!(get(Site::Health, "/healthz", &stuck).await.0, 503);
}

#[tokio::test]
async fn each_site_has_its_own_paths() {
    let sources = sources(Health::STARTING);
    assert_eq!(get(Site::Metrics, "/proxyMode", &sources).await, (200, "nftables".into()));
    assert_eq!(get(Site::Health, "/metrics", &sources).await.0, 404);
    assert_eq!(get(Site::Metrics, "/livez", &sources).await.0, 404);
    let (code, body) = get(Site::Metrics, "/status", &sources).await;
    assert_eq!(code, 200);
    assert_eq!(serde_json::from_str::<Status>(&body).unwrap().node, "n1");
    assert_eq!(get(Site::Metrics, "/status/services", &sources).await, (200, String::new()));
    let refused =
        answer(Site::Metrics, &Method::POST, &Uri::from_static("/status"), &sources).await;
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn questions_that_are_wrong_are_refused() {
    let sources = sources(Health::STARTING);
    for (query, why) in [
        ("", "from: is missing\n"),
        ("?from=a&to=b", "port: is missing\n"),
        ("?from=a&to=b&port=x", "port: \"x\" is no port such as 80, 53/udp or 9000/sctp\n"),
        ("?from=shop%2Fweb-0&to=b&port=53%2Fudp", "shop/web-0 is unknown\n"),
    ] {
        let answered = get(Site::Metrics, &format!("{}{query}", explain::PATH), &sources).await;
        assert_eq!(answered, (400, why.to_owned()));
    }
}

#[tokio::test]
async fn the_configuration_can_be_read() {
    let sources = sources(Health::STARTING);
    let (code, body) = get(Site::Metrics, "/configz", &sources).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["kubeproxy.config.k8s.io"]["mode"]), (200, &"nftables".into()));
    let (code, body) = get(Site::Metrics, "/statusz", &sources).await;
    assert!(code == 200 && body.contains("\nMode: nftables\n"), "{body}");
    for path in METRICS_PATHS {
        assert_ne!(get(Site::Metrics, path, &sources).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn metrics_have_kube_proxys_names_and_ours() {
    let sources = sources(Health::STARTING);
    sources.metrics.event("applied");
    get(Site::Metrics, "/healthz", &sources).await;
    let (code, body) = get(Site::Metrics, "/metrics", &sources).await;
    assert_eq!(code, 200);
    for line in [
        "shunt_events_total{kind=\"applied\"} 1",
        "shunt_sync_failures_total 0",
        "shunt_repairs_total 0",
        "shunt_services 0",
        "shunt_event_to_commit_seconds_bucket{le=\"0.00005\"} 0",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"} 0.0",
        "kubeproxy_sync_proxy_rules_service_changes_total 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"300.0\",ip_family=\"IPv4\"} 0",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "process_resident_memory_bytes ",
        "# EOF",
    ] {
        assert!(body.lines().any(|found| found.starts_with(line)), "{line} is not in\n{body}");
    }
}

#[tokio::test]
async fn health_checks_are_counted_by_what_they_answer() {
    let starting = sources(Health::STARTING);
    let (_, none) = get(Site::Metrics, "/metrics/slis", &starting).await;
    assert!(!none.contains("kubernetes_healthcheck{"), "{none}");
    for (site, path) in
        [(Site::Metrics, "/healthz"), (Site::Health, "/healthz"), (Site::Health, "/livez")]
    {
        get(site, path, &starting).await;
    }
    let (code, body) = get(Site::Metrics, "/metrics/slis", &starting).await;
    assert_eq!(code, 200);
    for line in [
        "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 0",
        "kubernetes_healthcheck{name=\"proxy\",type=\"livez\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"error\",type=\"healthz\"} 1",
        "kubernetes_healthchecks_total{name=\"proxy\",status=\"error\",type=\"healthz\"} 1",
        "kubernetes_healthchecks_total{name=\"proxy\",status=\"success\",type=\"livez\"} 1",
        "process_start_time_seconds ",
    ] {
        assert!(body.lines().any(|found| found.starts_with(line)), "{line} is not in\n{body}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_tried_again_while_others_are_served() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    tokio::time::pause();
    let server = tokio::spawn(serve(Site::Health, address, sources(Health::STARTING)));
    tokio::time::sleep(BIND_AGAIN / 2).await;
    drop(taken);
    tokio::time::sleep(BIND_AGAIN).await;
    tokio::time::resume();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    server.abort();
}
