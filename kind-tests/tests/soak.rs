//! Continuous scaling under new connections. Needs root. `make bench` does it for longer, beside kube-proxy.

use std::time::Duration;

use anyhow::Result;
use shunt_kind_tests::scenario::shunt_binary;
use shunt_kind_tests::traffic::Proxy;
use shunt_kind_tests::traffic::soak::{Soak, run};

#[test]
fn scaling_refuses_and_misdirects_nothing() -> Result<()> {
    let soak = Soak {
        services: 200,
        duration: Duration::from_secs(8),
        fewest: (101, 501),
        every: Duration::from_millis(5),
        seed: 1,
    };
    let report = run(&Proxy::Shunt(shunt_binary()?), &soak)?;
    println!("{report}");
    assert!(report.connections > 500 && report.changes > 100, "{report}");
    assert_eq!(report.failures(), 0, "{report}");
    Ok(())
}
