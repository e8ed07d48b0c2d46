//! A real server that leaves keeps its connections, also through a restart of ours.

use anyhow::{Result, ensure};

use crate::rig::{CLIENT, DNS, POD, Rig, VIP, WEB, by};

/// The port for SCTP.
const SIGNALS: &str = "SCTP  10.96.0.11:3868";
const IPVS: &[&str] = &["--proxy-mode=ipvs"];

/// The NodePort of the Service on the node.
fn node_port(rig: &Rig) -> Result<String> {
    Ok(format!("{}:30080", rig.cluster.host("node-1")?.ip()))
}

/// A stream through a ClusterIP and one through a NodePort, held while everything happens.
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn a_stream_outlives_its_endpoint_and_the_daemon() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.start(IPVS)?;
    let web = format!("{VIP}:80");
    let mut streams = [rig.connect(POD, &web)?, rig.connect(CLIENT, &node_port(&rig)?)?];
    let mut talk = |when: &str| {
        streams.iter_mut().try_for_each(|stream| {
            ensure!(stream.by() == "web-1");
            stream.exchange(when)
        })
    };

    rig.write("", &["web-2"])?;
    rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
    talk("while it drains")?;
    rig.kill()?;
    talk("while no daemon runs")?;
    ensure!(rig.asks(POD, &web)? == "web-2");
    rig.start(IPVS)?;
    rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
    talk("with another daemon")?;
    ensure!(rig.asks(CLIENT, &node_port(&rig)?)? == "web-2");

    rig.write("", &["web-1", "web-2"])?;
    rig.expect(WEB, &[("web-1", 1), ("web-2", 1)])?;
    talk("after it has come back")?;
    rig.write("", &["web-2"])?;
    rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
    rig.kill()?;
    // It comes back while nobody looks.
    rig.write("", &["web-1", "web-2"])?;
    rig.start(IPVS)?;
    rig.expect(WEB, &[("web-1", 1), ("web-2", 1)])?;
    talk("after it has come back once more")
}

/// Clients of UDP never stop by themselves: without being asked for time they get another pod.
#[test]
#[ignore = "needs IPVS; a test runs it in the guest"]
fn udp_follows_its_service_unless_it_asks_for_time() -> Result<()> {
    let mut rig = Rig::new()?;
    rig.write("", &["web-1"])?;
    rig.start(IPVS)?;
    let flow = rig.flow(POD, &format!("{VIP}:53"))?;
    ensure!(by(&flow)? == "web-1");
    rig.write("", &["web-2"])?;
    rig.expect(DNS, &[("web-2", 1)])?;
    ensure!(by(&flow)? == "web-2");

    rig.write("shunt.dev/drain-seconds: '600'", &["web-1"])?;
    rig.expect(DNS, &[("web-1", 1), ("web-2", 0)])?;
    ensure!(by(&flow)? == "web-2");
    rig.kill()?;
    rig.start(IPVS)?;
    rig.expect(DNS, &[("web-1", 1), ("web-2", 0)])?;
    ensure!(by(&flow)? == "web-2");
    ensure!(by(&rig.flow(POD, &format!("{VIP}:53"))?)? == "web-1");
    Ok(())
}

/// Minutes and hours.
mod travels {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Without a deadline a stream is never cut; when it has ended, and the kernel has forgotten it (two minutes),
    /// its real server goes.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn a_real_server_goes_with_its_last_stream() -> Result<()> {
        let mut rig = Rig::new()?;
        rig.write("", &["web-1"])?;
        rig.start(IPVS)?;
        let mut stream = rig.connect(POD, &format!("{VIP}:80"))?;
        rig.write("", &["web-2"])?;
        for turn in 0..3 {
            sleep(10 * MINUTE);
            stream.exchange("still here")?;
            rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
            if turn == 1 {
                rig.kill()?;
                rig.start(IPVS)?;
            }
        }
        stream.close()?;
        rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
        sleep(3 * MINUTE);
        rig.expect(WEB, &[("web-2", 1)])
    }

    /// Associations of SCTP are treated as TCP's streams are.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn an_association_outlives_its_endpoint_until_the_deadline() -> Result<()> {
        const HALF_AN_HOUR: &str = "shunt.dev/drain-seconds: '1800'";
        let mut rig = Rig::new()?;
        let _servers = rig.serve_sctp()?;
        rig.write_sctp(HALF_AN_HOUR, "web-1")?;
        rig.start(IPVS)?;
        let signals = format!("{VIP}:3868");
        let mut association = rig.associate(POD, &signals)?;
        ensure!(association.by() == "web-1");
        rig.write_sctp(HALF_AN_HOUR, "web-2")?;
        rig.expect(SIGNALS, &[("web-1", 0), ("web-2", 1)])?;
        association.exchange("while it drains")?;
        rig.kill()?;
        rig.start(IPVS)?;
        ensure!(rig.associate(POD, &signals)?.by() == "web-2");
        for _ in 0..5 {
            sleep(5 * MINUTE - MINUTE / 60);
            association.exchange("with another daemon")?;
            rig.expect(SIGNALS, &[("web-1", 0), ("web-2", 1)])?;
        }
        sleep(6 * MINUTE);
        rig.expect(SIGNALS, &[("web-2", 1)])?;
        ensure!(association.exchange("it is over").is_err(), "the deadline has not cut it");
        Ok(())
    }

    /// The deadline is counted from when the endpoint left, however often the daemon is started.
    #[test]
    #[ignore = "needs a clock that jumps; a test runs it in the guest"]
    fn the_deadline_ends_a_drain() -> Result<()> {
        let mut rig = Rig::new()?;
        let an_hour = "shunt.dev/drain-seconds: '3600'";
        rig.write(an_hour, &["web-1"])?;
        rig.start(IPVS)?;
        let mut stream = rig.connect(POD, &format!("{VIP}:80"))?;
        rig.write(an_hour, &["web-2"])?;
        rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
        for minutes in (4..60).step_by(5) {
            // IPVS forgets a stream that is silent for a quarter of an hour.
            sleep(5 * MINUTE - MINUTE / 60);
            stream.exchange("time to go")?;
            rig.expect(WEB, &[("web-1", 0), ("web-2", 1)])?;
            if minutes == 29 {
                rig.kill()?;
                rig.start(IPVS)?;
            }
        }
        sleep(2 * MINUTE);
        rig.expect(WEB, &[("web-2", 1)])?;
        ensure!(stream.exchange("it is over").is_err(), "the deadline has not cut the stream");
        Ok(())
    }
}
