//! Ten thousand random changes, with the daemon killed and the kernel tampered with meanwhile;
//! in the end, and now and then before, kernel = plan = API server.
//!
//! | variable | |
//! |---|---|
//! | `SHUNT_CHURN_SEED` | the seed; the one in use is printed |
//! | `SHUNT_CHURN_CHANGES` | how many changes, 10000 by default |

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use shunt_cluster::{Host, Load, LoadSpec, Protocol};
use shunt_kind_tests::control_plane::random::Random;
use shunt_kind_tests::control_plane::{Daemon, DaemonSpec, expect};
use shunt_nftables::kernel::inventory;
use tokio::task::JoinHandle;

use crate::change::{Tally, WRITERS, Writer};
use crate::site::{NODES, Site, cluster_ips, web_ports};

const CHANGES: usize = 10_000;
/// The checkpoints, the end included.
const ROUNDS: usize = 5;
/// The longest pause between two blows.
const PAUSE_MS: usize = 900;
/// Who is struck; the other node's daemon runs from the first to the last change.
const STRUCK: usize = 0;

fn number(variable: &str) -> Result<Option<u64>> {
    let Some(text) = env::var_os(variable) else { return Ok(None) };
    let text = text.to_string_lossy();
    Ok(Some(text.parse().with_context(|| format!("{variable}={text}"))?))
}

/// What was done to the daemon and to the kernel.
#[derive(Debug, Default)]
struct Blows {
    restarts: usize,
    damage: BTreeMap<&'static str, usize>,
    refused: usize,
    repairs: u64,
    syncs: u64,
}

struct Chaos {
    random: Random,
    owner: bool,
    blows: Blows,
}

#[test]
fn ten_thousand_changes_and_the_kernel_is_as_the_api_server_says() -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let seed = number("SHUNT_CHURN_SEED")?.unwrap_or(now.into());
    let changes = number("SHUNT_CHURN_CHANGES")?.map_or(Ok(CHANGES), usize::try_from)?;
    println!("SHUNT_CHURN_SEED={seed} SHUNT_CHURN_CHANGES={changes}");

    let mut site = Site::build()?;
    let steady = site.create_service("steady", json!({"ports": web_ports()}))?;
    let pods = ["web-1", "web-2"].map(|pod| site.host(pod).ip());
    site.plane.wait_for_endpoints("steady", &pods, &[])?;
    expect::settle(&site.plane, &NODES)?;
    let load = steady_load(site.host("shop-2"), SocketAddr::new(cluster_ips(&steady)?[0], 80))?;

    let mut chaos =
        Chaos { random: Random::part(seed, u64::MAX), owner: true, blows: Blows::default() };
    let mut writers: Vec<_> = (0..WRITERS).map(|index| Writer::new(seed, index)).collect();
    let mut tally = Tally::new();
    let began = Instant::now();
    let mut settling = Duration::ZERO;
    for round in 1..=ROUNDS {
        let share = (changes * round / ROUNDS).div_ceil(WRITERS)
            - (changes * (round - 1) / ROUNDS).div_ceil(WRITERS);
        let start = |writer: Writer| site.plane.api().spawn(|client| writer.work(client, share));
        let tasks: Vec<_> = writers.drain(..).map(start).collect();
        chaos.strike_until(&mut site, || tasks.iter().all(JoinHandle::is_finished))?;
        for task in tasks {
            let (writer, made) = site.plane.api().join(task)??;
            writers.push(writer);
            made.into_iter().for_each(|(change, count)| *tally.entry(change).or_default() += count);
        }
        let written = Instant::now();
        let settled = expect::settle(&site.plane, &NODES);
        let plan = settled.with_context(|| {
            let daemons: Vec<_> = site.daemons.iter_mut().map(Daemon::describe).collect();
            format!("seed {seed}, round {round}, {:?}\n{}", chaos.blows, daemons.join("\n"))
        })?;
        settling += written.elapsed();
        println!(
            "round {round}: {:.1} s, {} Services in the plan, {:?} behind at the end",
            began.elapsed().as_secs_f64(),
            plan.services.len(),
            written.elapsed()
        );
    }
    let report = load.stop()?;
    println!("on the node left alone: {report}");
    chaos.note(&mut site)?;
    let calm = site.daemons[1].wait_for_status("an answer", |_| true)?;
    println!("the calm daemon: {:?}, {:?}", calm.counters, calm.event_to_commit_us);
    println!("{tally:#?}");
    println!(
        "{} changes in {:.1} s ({:?} of it settling): {:?}",
        tally.values().sum::<usize>(),
        began.elapsed().as_secs_f64(),
        settling,
        chaos.blows
    );
    assert_eq!(report.losses(), 0, "a Service that nothing was done to: {report}");
    assert_eq!(calm.counters.failures, 0, "{calm:?}");
    site.daemons[STRUCK].expect_permitted()?;
    site.daemons[1].expect_permitted()?;
    site.daemons[1].expect_no_errors()
}

fn steady_load(from: &Host, destination: SocketAddr) -> Result<Load> {
    let spec = LoadSpec {
        protocol: Protocol::Tcp,
        destination,
        per_second: 50,
        duration: Duration::from_secs(3600),
        timeout: Duration::from_secs(10),
    };
    Load::start(from.netns(), &spec)
}

impl Chaos {
    /// Deals blows at random moments until the writers are done.
    fn strike_until(&mut self, site: &mut Site, done: impl Fn() -> bool) -> Result<()> {
        while !done() {
            let pause = u64::try_from(self.random.below(PAUSE_MS))?;
            let next = Instant::now() + Duration::from_millis(pause);
            while Instant::now() < next && !done() {
                thread::sleep(Duration::from_millis(10));
            }
            if self.random.chance(50) {
                self.restart(site)?;
            } else {
                self.damage(site)?;
            }
        }
        Ok(())
    }

    /// SIGKILL at any moment, then damage or not, then another one with or without a claim.
    fn restart(&mut self, site: &mut Site) -> Result<()> {
        self.note(site)?;
        let daemon = site.daemons.remove(STRUCK);
        daemon.expect_permitted()?;
        daemon.kill()?;
        if self.random.chance(30) {
            self.damage(site)?;
        }
        self.owner = self.random.chance(50);
        let mut flags = vec!["--verify-interval=1s".to_owned()];
        if !self.owner {
            flags.push("--table-owner=off".to_owned());
        }
        let spec = DaemonSpec { flags, ..DaemonSpec::default() };
        site.daemons.insert(STRUCK, Daemon::start(&site.plane, NODES[STRUCK], &spec)?);
        self.blows.restarts += 1;
        Ok(())
    }

    /// Notes what the daemon has done so far, if it answers.
    fn note(&mut self, site: &mut Site) -> Result<()> {
        if let Ok(status) = site.daemons[STRUCK].status()? {
            self.blows.repairs += status.counters.repairs + status.counters.drifts;
            self.blows.syncs += status.counters.syncs;
        }
        Ok(())
    }

    /// What others may do to our table. It is refused while the table has an owner.
    fn damage(&mut self, site: &Site) -> Result<()> {
        let node = site.host(NODES[STRUCK]);
        let flushed = self.random.one_of(&[
            "map inet shunt frontends_v4",
            "map inet shunt endpoints_v4",
            "map inet shunt frontends_v6",
            "map inet shunt node_ports_v4",
            "set inet shunt cluster_ips_v4",
        ]);
        let (what, command) = match self.random.below(6) {
            0 => ("flush ruleset", "flush ruleset".to_owned()),
            1 => ("delete table", "delete table inet shunt".to_owned()),
            2 => ("flush a map or set", format!("flush {flushed}")),
            3 => {
                ("add an element", "add element inet shunt cluster_ips_v4 { 192.0.2.1 }".to_owned())
            }
            // One that does no harm: what keeps the daemon from the API server cannot be put right.
            4 => ("add a rule", "insert rule inet shunt services_v4 counter".to_owned()),
            _ => match self.some_element(node)? {
                Some(element) => {
                    ("delete an element", format!("delete element inet shunt {element}"))
                }
                None => return Ok(()),
            },
        };
        if nft(node, command)? {
            *self.blows.damage.entry(what).or_default() += 1;
        } else {
            self.blows.refused += 1;
        }
        Ok(())
    }

    /// One that is installed now, as nft takes it.
    fn some_element(&mut self, node: &Host) -> Result<Option<String>> {
        // The daemon may be rebuilding the table: then there is nothing to read.
        let Ok(read) = node.netns().run(inventory) else { return Ok(None) };
        let elements: Vec<_> = read.installed.elements().collect();
        if elements.is_empty() {
            return Ok(None);
        }
        let element = &elements[self.random.below(elements.len())];
        let text = element.to_string();
        let key = text.split(" : ").next().and_then(|key| key.split(" comment ").next());
        Ok(key.map(|key| format!("{} {{ {key} }}", element.set)))
    }
}

/// Whether nft has done it.
fn nft(node: &Host, command: String) -> Result<bool> {
    let status = node.netns().run(move || {
        let mut nft = Command::new("setpriv");
        nft.args(["--pdeathsig", "KILL", "nft", &command]);
        nft.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
    })?;
    ensure!(status.code().is_some(), "nft has crashed: {status}");
    Ok(status.success())
}
