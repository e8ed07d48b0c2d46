//! A running node is taken over from kube-proxy, and left: no connection is refused or reset.
//!
//! `SHUNT_TAKEOVER_SERVICES` and `SHUNT_TAKEOVER_RATE` make it larger: how many Services there are,
//! and how many new connections a second. `make bench` does so, and `make takeovers` does nothing else.

mod cleanup;
mod figures;
mod ground;
mod interrupted;
mod left;
mod traffic;

use std::env;
use std::hint::black_box;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shunt_cluster::{Load, Netns, Report};
use shunt_kind_tests::control_plane::{Daemon, KubeProxy};
use shunt_kind_tests::guest::{self, Clock};
use shunt_kind_tests::scenario::shunt_binary;

use self::figures::Figures;
use self::ground::{ApiServer, Ground};
use self::left::Left;
use self::traffic::{Held, loads, most_direct};

const NODE: &str = "node-1";
/// How many Services there are beside the one that is used, and new connections a second, of all
/// loads: here, and in the guest. That has one CPU, and kube-proxy starts a program for each Service.
const SIZE: [u32; 2] = [200, 500];
const SIZE_IN_GUEST: [u32; 2] = [20, 200];
/// More connections a second take all of the guest's CPU.
const MOST_RATE_IN_GUEST: u32 = 400;
/// With more Services than this the guest's one CPU is too little for the real API server beside kube-proxy: it loses
/// its connections. The small one, which both proxies follow as they do the real one, takes its place.
const MOST_OF_REAL_API_IN_GUEST: u32 = 500;
/// Memory of the guest that is used once before a large play.
const MEMORY_IN_GUEST: usize = 1200 << 20;
/// Patience with kube-proxy's first sync, and with the guest for each Service more: it starts
/// programs for them.
const SYNC: Duration = Duration::from_mins(5);
const SYNC_OF_EACH: Duration = Duration::from_millis(300);
const GUEST: Duration = Duration::from_mins(15);
const GUEST_OF_EACH: Duration = Duration::from_millis(1200);
/// Between two steps, for whom they might harm.
const PAUSE: Duration = Duration::from_secs(1);
/// Virtual servers that are neither's.
const FOREIGN: &str = "192.0.2.0/24";

#[test]
fn from_iptables_mode() -> Result<()> {
    take_over("iptables", "nftables")
}

#[test]
fn from_nftables_mode() -> Result<()> {
    take_over("nftables", "nftables")
}

/// IPVS is not in every kernel: these are played in the guest's.
mod ipvs {
    #[test]
    #[ignore = "needs IPVS; a test runs it in the guest"]
    fn from_ipvs_mode_to_ipvs() -> anyhow::Result<()> {
        super::take_over("ipvs", "ipvs")
    }

    #[test]
    #[ignore = "needs IPVS; a test runs it in the guest"]
    fn from_ipvs_mode_to_nftables() -> anyhow::Result<()> {
        super::take_over("ipvs", "nftables")
    }
}

#[test]
fn from_ipvs_mode_in_the_guest() -> Result<()> {
    let tests = ["takeover::ipvs", "--ignored", "--nocapture", "--test-threads", "1"];
    let larger = env::var("SHUNT_TAKEOVER_SERVICES").is_ok();
    let patience = GUEST + GUEST_OF_EACH * if larger { size()?[0] } else { 0 };
    let printed = guest::run_tests_within(patience, Clock::Running, &tests)?;
    print!("{printed}");
    // What is written in the guest is lost.
    figures::write(&printed)
}

/// How many Services, and how many new connections a second.
fn size() -> Result<[u32; 2]> {
    let in_guest = Clock::of_this_guest().is_some();
    let [services, rate] = if in_guest { SIZE_IN_GUEST } else { SIZE };
    let read = |variable, or| match env::var(variable) {
        Ok(text) => text.parse().with_context(|| format!("{variable}: {text}")),
        Err(_) => Ok(or),
    };
    let most = if in_guest { MOST_RATE_IN_GUEST } else { u32::MAX };
    Ok([read("SHUNT_TAKEOVER_SERVICES", services)?, read("SHUNT_TAKEOVER_RATE", rate)?.min(most)])
}

/// What a program prints in a namespace.
fn print(netns: &Netns, program: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = netns.run(move || command.output())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn take_over(from: &str, to: &str) -> Result<()> {
    let [services, rate] = size()?;
    let api = if Clock::of_this_guest().is_some() && services > MOST_OF_REAL_API_IN_GUEST {
        // The host gives the guest a page when it is used first: kube-proxy's many programs would wait for that.
        black_box(vec![1u8; MEMORY_IN_GUEST]);
        ApiServer::Small
    } else {
        ApiServer::Real
    };
    Play { from, to, services, rate, api }.run()
}

/// One takeover, under load.
struct Play<'a> {
    from: &'a str,
    to: &'a str,
    /// How many Services there are beside the one that is used.
    services: u32,
    /// New connections a second, of all loads.
    rate: u32,
    /// Whom both proxies follow.
    api: ApiServer,
}

impl Play<'_> {
    fn run(&self) -> Result<()> {
        let ground = Ground::build(self.api, self.services)?;
        let netns = ground.host(NODE).netns();
        let direct = most_direct(&ground)?;
        println!("{} connections a second, of {direct:.0} from pod to pod", self.rate);
        let left = Left::of(self.from);
        left.put_others(netns)?;
        let kube_proxy = self.start_kube_proxy(&ground)?;
        left.expect_kube_proxys(netns)?;
        let running = loads(&ground, self.rate)?;
        let began = Instant::now();
        let held = Held::open(&ground)?;
        thread::sleep(PAUSE);
        let mut daemon = self.wait_beside_kube_proxy(&ground)?;
        let ended = Instant::now();
        kube_proxy.stop()?;
        let status = daemon.wait_until_synced()?;
        daemon.wait_for_log("shunt has taken over")?;
        let took = ended.elapsed();
        daemon.wait_for_log(left.told())?;
        expect_nothing_dropped(netns)?;
        // With those who hold one kube-proxy's IPVS goes only when they have ended.
        let gone = left.expect_all_gone(netns, self.to, || held.end());
        let after = gone.with_context(|| daemon.describe())?;
        println!(
            "kube-proxy's end at {:.3?}, ours in its place {took:.3?} later, its IPVS gone after \
             {after:.1?}; first sync {:?}; back from {:.3?} on",
            ended - began,
            status.first_sync,
            began.elapsed() + PAUSE
        );
        thread::sleep(PAUSE);
        self.go_back(&ground, daemon)?;
        let reports = running.into_iter().map(Load::stop).collect::<Result<Vec<_>>>()?;
        self.judge(status.services, took, &reports)
    }

    /// Starts shunt beside kube-proxy: while that runs nothing is written.
    fn wait_beside_kube_proxy(&self, ground: &Ground) -> Result<Daemon> {
        let flags = vec![format!("--proxy-mode={}", self.to), exclude()];
        let daemon = ground.shunt(flags)?;
        daemon.wait_for_log("a Service must have one proxy")?;
        let ruleset = print(ground.host(NODE).netns(), "nft", &["list", "tables"])?;
        ensure!(!ruleset.contains("inet shunt"), "{ruleset}");
        Ok(daemon)
    }

    fn start_kube_proxy(&self, ground: &Ground) -> Result<KubeProxy> {
        let kube_proxy = ground.kube_proxy(self.from, &[&exclude()])?;
        let began = Instant::now();
        kube_proxy.wait_until_synced_within(SYNC + SYNC_OF_EACH * self.services)?;
        println!("kube-proxy in {} mode has synced after {:.1?}", self.from, began.elapsed());
        Ok(kube_proxy)
    }

    /// Back to kube-proxy: it syncs, then what is ours goes.
    fn go_back(&self, ground: &Ground, daemon: Daemon) -> Result<()> {
        let netns = ground.host(NODE).netns();
        daemon.stop()?;
        let kube_proxy = self.start_kube_proxy(ground)?;
        thread::sleep(PAUSE);
        let told = print(netns, &shunt_binary()?.to_string_lossy(), &["cleanup"])?;
        ensure!(told.contains("table inet shunt"), "{told}");
        let ruleset = print(netns, "nft", &["list", "tables"])?;
        ensure!(!ruleset.contains("inet shunt"), "{ruleset}");
        thread::sleep(PAUSE);
        kube_proxy.stop()
    }

    /// Fails if a connection was lost; else tells, and writes, what it has come to.
    fn judge(&self, services: usize, took: Duration, reports: &[Report]) -> Result<()> {
        let Self { from, to, rate, .. } = *self;
        let row = Figures { from, to, services, rate, took, reports }.row();
        println!("{row}");
        // Each of the loads makes its part of the rate, for some seconds.
        let least = u64::from(rate / 2).min(200);
        for report in reports {
            println!("{report}");
            assert!(report.sent > least, "{report}");
            assert_eq!(report.losses(), 0, "{report}");
        }
        figures::write(&row)
    }
}

/// The flag of both proxies that leaves the foreign virtual server alone.
fn exclude() -> String {
    format!("--ipvs-exclude-cidrs={FOREIGN}")
}

/// Fails if our table has dropped a packet: its client sends it again after a second.
fn expect_nothing_dropped(netns: &Netns) -> Result<()> {
    let table = print(netns, "nft", &["list", "table", "inet", "shunt"])?;
    let drops: Vec<_> = table.lines().filter(|line| line.ends_with(" drop")).collect();
    let dropped =
        drops.iter().find(|line| line.contains("counter") && !line.contains(" packets 0 "));
    ensure!(drops.len() > 2 && dropped.is_none(), "{drops:#?}");
    Ok(())
}
