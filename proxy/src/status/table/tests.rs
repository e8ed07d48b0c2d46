//! The table as people see it.

use expect_test::expect;

use super::*;
use crate::status::{Counters, FirstSync, LastSync};

fn row(name: &str, frontend: &str, endpoints: &[&str]) -> FrontendRow {
    FrontendRow {
        namespace: "default".into(),
        name: name.into(),
        port: "http".into(),
        kind: "ClusterIP".into(),
        frontend: frontend.into(),
        action: if endpoints.is_empty() { "reject" } else { "forward" }.into(),
        masquerade: "outsiders".into(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        ..FrontendRow::default()
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 42,
        started: "2026-01-01T00:00:00Z".into(),
        node: "worker-1".into(),
        source: "API server".into(),
        synced: true,
        healthy: true,
        first_sync: Some(FirstSync { synced_ms: 812.4, ..FirstSync::default() }),
        last_sync: Some(LastSync {
            at: "2026-01-01T00:05:00Z".into(),
            reason: "change".into(),
            operations: 3,
            ..LastSync::default()
        }),
        counters: Counters { failures: 1, ..Counters::default() },
        services: 2,
        frontends: 3,
        endpoints: 2,
        problems: vec!["Service default/web: spec.ports[0].port: 70000 is not a port".into()],
        ..Status::default()
    }
}

#[test]
fn planned_and_installed_stand_side_by_side() {
    let rows = vec![
        row("dns", "10.96.0.10:53/udp", &["10.244.0.2:53", "10.244.1.2:53"]),
        row("empty", "10.96.0.11:80/tcp", &[]),
        row("new", "10.96.0.12:80/tcp", &["10.244.0.9:80"]),
    ];
    let installed = vec![rows[0].clone(), rows[1].clone()];
    let kernel = InKernel { table: "inet shunt, open to other writers".into(), rows: installed };
    let report = Report { status: Some(status()), rows, kernel: Ok(kernel.into()) };
    expect![[r#"
        shunt:       0.1.0 (process 42), healthy
        node:        worker-1
        source:      API server
        started:     2026-01-01T00:00:00Z
        synced:      yes, 812 ms after the start
        last sync:   2026-01-01T00:05:00Z, change, 3 operations
        since start: 1 failed syncs, 0 repairs, 0 drifts
        plan:        2 services, 3 frontends, 2 endpoints
        problems:    1
        kernel:      table inet shunt, open to other writers; 2 frontends, 2 slots

        NAMESPACE/NAME  PORT  TYPE       FRONTEND           ENDPOINTS  STATE
        default/dns     http  ClusterIP  10.96.0.10:53/udp  2          serving
        default/empty   http  ClusterIP  10.96.0.11:80/tcp  0          no endpoints
        default/new     http  ClusterIP  10.96.0.12:80/tcp  1          not installed

        PROBLEMS
        Service default/web: spec.ports[0].port: 70000 is not a port
    "#]]
    .assert_eq(&print_table(&report, Width::Narrow));
    let wide = print_table(&report, Width::Wide);
    assert!(wide.contains("outsiders   10.244.0.2:53,10.244.1.2:53\n"), "{wide}");
}

#[test]
fn what_the_kernel_counts_stands_with_what_is_planned() {
    let rows = vec![
        row("dns", "10.96.0.10:53/udp", &["10.244.0.2:53", "10.244.1.2:53"]),
        row("new", "10.96.0.12:80/tcp", &["10.244.0.9:80"]),
    ];
    let mut held = rows[0].clone();
    held.connections = Some(12);
    held.endpoint_connections = BTreeMap::from([("10.244.0.2:53".to_owned(), 7)]);
    let kernel = InKernel { table: "inet shunt".into(), rows: vec![held] };
    let mut report = Report { status: None, rows, kernel: Ok(kernel.into()) };
    report.count();
    expect![[r#"
        shunt:       not running; this is what the kernel holds
        kernel:      table inet shunt; 1 frontends, 2 slots

        NAMESPACE/NAME  PORT  TYPE       FRONTEND           ENDPOINTS  STATE    CONNECTIONS  MASQUERADE  ADDRESSES
        default/dns     http  ClusterIP  10.96.0.10:53/udp  2          serving  12           outsiders   10.244.0.2:53 (7),10.244.1.2:53
        default/new     http  ClusterIP  10.96.0.12:80/tcp  1          serving  -            outsiders   10.244.0.9:80
    "#]]
    .assert_eq(&print_table(&report, Width::Wide));
}

#[test]
fn without_a_daemon_the_kernel_speaks() {
    let report = Report { status: None, rows: Vec::new(), kernel: Err("no permission".into()) };
    expect![[r#"
        shunt:       not running; this is what the kernel holds
        kernel:      cannot be read: no permission
    "#]]
    .assert_eq(&print_table(&report, Width::Narrow));
}

#[test]
fn before_the_first_sync_it_says_what_is_awaited() {
    let status = Status { awaiting: vec!["Services".into()], ..Status::default() };
    assert_eq!(synced(&status), "not yet, waiting for Services");
}
