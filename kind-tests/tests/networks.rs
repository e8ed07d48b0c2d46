//! Services and policies on every network that shunt is meant to run beside, with both backends: the matrix of
//! `docs/networks/README.md`, which this test compares with what it has found, or writes.
//!
//! A choice of scenarios for each, so that it takes minutes; all others by `--ignored every_other_scenario`, which may be
//! ended and taken up again (`notes`). `SHUNT_SCENARIO=NAME` plays one. `SHUNT_NETWORK=NAME,NAME` plays some networks, and
//! leaves the others' rows as they are.

#[path = "networks/choice.rs"]
mod choice;
#[path = "networks/lengths.rs"]
mod lengths;
#[path = "networks/local_detection.rs"]
mod local_detection;
#[path = "networks/notes.rs"]
mod notes;
#[path = "networks/others.rs"]
mod others;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use notes::Notes;
use shunt_cluster::Network;
use shunt_kind_tests::guest::{self, Clock};
use shunt_kind_tests::scenario::{Played, Scenario};
use shunt_netpolicy_nftables::kernel::switched;
use shunt_netpolicy_nftables::layout::Switched;

/// What was played on a network with a backend.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    scenarios: usize,
    steps: usize,
    flows: usize,
}

/// By the names of network and backend.
type Table = BTreeMap<(String, String), Cell>;

/// What is played on each network, and has a table of its own in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suite {
    /// Scenarios of all kinds.
    Choice,
    /// Packets of all lengths.
    Lengths,
    /// All scenarios that are in neither.
    Others,
}

impl Suite {
    fn scenarios(self) -> Result<Vec<String>> {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        match self {
            Self::Choice => Ok(named(choice::SCENARIOS)),
            Self::Lengths => Ok(named(lengths::SCENARIOS)),
            Self::Others => others::scenarios(),
        }
    }

    /// What of it cannot be on a network, and why; with IPVS some more.
    const fn left_out(self, backend: Backend) -> LeftOut {
        match (self, backend) {
            (Self::Choice, Backend::Nftables) => choice::NOT_ON,
            (Self::Choice, Backend::Ipvs) => &[],
            (Self::Others, Backend::Nftables) => others::NOT_ON,
            (Self::Others, Backend::Ipvs) => others::NOT_WITH_IPVS_ON,
            (Self::Lengths, Backend::Nftables) => lengths::NOT_ON,
            (Self::Lengths, Backend::Ipvs) => lengths::NOT_WITH_IPVS_ON,
        }
    }

    /// Whether it is played on a network with IPVS, which takes a guest: API servers there take their time.
    const fn has_ipvs(self, network: Network) -> bool {
        matches!(self, Self::Choice) || !network.takes_daemons()
    }

    /// What the tests of its cells are called within those of their network.
    const fn module(self) -> &'static str {
        match self {
            Self::Choice => "choice",
            Self::Lengths => "lengths",
            Self::Others => "others",
        }
    }

    /// What its table is between.
    const fn marks(self) -> (&'static str, &'static str) {
        match self {
            Self::Choice => (BEGIN, END),
            Self::Lengths => (lengths::BEGIN, lengths::END),
            Self::Others => (others::BEGIN, others::END),
        }
    }
}

/// Networks, scenarios, and why these cannot be played there.
type LeftOut = &'static [(Network, &'static [&'static str], &'static str)];

/// The tests of each network: `cargo test --test networks -- --ignored flannel_vxlan`.
macro_rules! networks {
    ($($module:ident $network:ident)*) => {
        $(
            mod $module {
                cells!($network choice Choice);
                cells!($network lengths Lengths);
                cells!($network others Others);
            }
        )*
    };
}

macro_rules! cells {
    ($network:ident $module:ident $suite:ident) => {
        mod $module {
            use crate::{Backend, Network, Suite, play_one};

            #[test]
            #[ignore = "a part of the matrix"]
            fn nftables() {
                play_one(Network::$network, Suite::$suite, Backend::Nftables);
            }

            #[test]
            #[ignore = "needs IPVS; the matrix runs it in the guest"]
            fn ipvs() {
                play_one(Network::$network, Suite::$suite, Backend::Ipvs);
            }
        }
    };
}

networks! {
    routed Routed
    ipip Ipip
    bgp Bgp
    bridge Bridge
    bridge_unseen BridgeUnseen
    flannel_host_gw FlannelHostGw
    flannel_vxlan FlannelVxlan
    flannel_udp FlannelUdp
    ptp Ptp
    cni_bridge CniBridge
    cni_ptp CniPtp
    macvlan Macvlan
    ipvlan Ipvlan
    ipvlan_l3 IpvlanL3
    ipvlan_l3s IpvlanL3s
    geneve Geneve
    gre Gre
    ip6gre Ip6Gre
    sit Sit
    ip6tnl Ip6Tnl
    wireguard Wireguard
    flanneld Flanneld
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Nftables,
    Ipvs,
}

impl Backend {
    const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
        }
    }
}

/// How many scenarios are played at a time on this kernel: they wait most of the time.
const AT_A_TIME: usize = 6;
/// The same for each network in the guest, where all networks are played at a time.
const AT_A_TIME_IN_GUEST: usize = 2;
/// As many guests as there are CPUs wherever this is run.
const GUESTS: usize = 2;
/// How long all other scenarios may take in a guest.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_hours(3);
/// Begins a line that tells a cell.
const CELL: &str = "cell:";

/// The scenarios for a network.
fn scenarios(network: Network, suite: Suite, backend: Backend) -> Result<Vec<Scenario>> {
    let mut names = suite.scenarios()?;
    if let Ok(only) = env::var("SHUNT_SCENARIO") {
        names.retain(|name| *name == only);
    }
    let mut backends = vec![Backend::Nftables];
    backends.extend((backend == Backend::Ipvs).then_some(backend));
    let left_out = |name: &String| {
        let all = backends.iter().flat_map(|backend| suite.left_out(*backend));
        let mut here = all.filter(|(on, ..)| *on == network);
        here.any(|(_, names, _)| names.contains(&name.as_str()))
    };
    names.retain(|name| !left_out(name));
    if backend == Backend::Ipvs {
        let of_policy =
            |name: &str| choice::OF_POLICY.contains(&name) || others::OF_POLICY.contains(&name);
        names.retain(|name| !of_policy(name));
        let is_played =
            |name: &str| !network.takes_daemons() || choice::WITH_DAEMONS.contains(&name);
        names.retain(|name| is_played(name));
    }
    let scenarios = names.iter().map(|name| Scenario::load(&Scenario::home().join(name)));
    let mut scenarios = scenarios.collect::<Result<Vec<_>>>()?;
    scenarios.retain(|scenario| !scenario.has_its_network() && scenario.is_playable_here());
    scenarios.iter().map(|scenario| scenario.on(network)).collect()
}

/// Plays the scenarios of networks. All that fail are told.
fn play(networks: &[Network], suite: Suite, backend: Backend, at_a_time: usize) -> Result<Table> {
    let mut queue = Vec::new();
    let mut notes = BTreeMap::new();
    let mut table = Table::new();
    for network in networks {
        let of_network = Notes::read(*network, suite, backend)?;
        for (position, scenario) in scenarios(*network, suite, backend)?.into_iter().enumerate() {
            match of_network.held(scenario.name()) {
                Some(played) => add(&mut table, *network, backend, played),
                None => queue.push((*network, (position, scenario))),
            }
        }
        notes.insert(*network, of_network);
    }
    // The first of each network before the second of any.
    queue.sort_by_key(|(_, (position, _))| std::cmp::Reverse(*position));
    let queue = Mutex::new(queue);
    let results: Mutex<(Table, Vec<String>)> = Mutex::new((table, Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    // A statement of its own: the queue must not stay locked while it is played.
                    let next = lock(&queue).pop();
                    let Some((network, (_, scenario))) = next else { return };
                    let at = format!("on {} with {}", network.name(), backend.name());
                    let start = Instant::now();
                    let played = twice(&at, || match backend {
                        Backend::Nftables => scenario.play(),
                        Backend::Ipvs => scenario.play_with_ipvs(),
                    });
                    let noted = notes[&network].add(scenario.name(), &played, start.elapsed());
                    let played = noted.and(played);
                    let (table, failures) = &mut *lock(&results);
                    match played {
                        Ok(played) => add(table, network, backend, played),
                        Err(error) => failures.push(format!("{at}: {error:#}")),
                    }
                }
            });
        }
    });
    let (table, failures) = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n\n"));
    Ok(table)
}

/// Plays once more what has failed. Dozens of clusters run at once here, and one probe in many thousands waits
/// longer than its patience; `tests/scenarios.rs`, where fewer do, gives no second chance.
fn twice(at: &str, play: impl Fn() -> Result<Played>) -> Result<Played> {
    play().or_else(|error| {
        eprintln!("{at}: played once more after: {error:#}");
        play()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(table: &mut Table, network: Network, backend: Backend, played: Played) {
    let key = (network.name().to_owned(), backend.name().to_owned());
    let cell = table.entry(key).or_default();
    cell.scenarios += 1;
    cell.steps += played.steps;
    cell.flows += played.flows;
}

/// One cell, in a test of its own.
fn play_one(network: Network, suite: Suite, backend: Backend) {
    let at_a_time = match Clock::of_this_guest() {
        Some(_) if network.takes_daemons() => 1,
        Some(_) => AT_A_TIME_IN_GUEST,
        None => AT_A_TIME,
    };
    match play(&[network], suite, backend, at_a_time) {
        Err(error) => panic!("{error:#}"),
        Ok(table) => {
            for ((network, backend), cell) in table {
                let Cell { scenarios, steps, flows } = cell;
                println!("{CELL} {network} {backend} {scenarios} {steps} {flows}");
            }
        }
    }
}

/// The cells that tests in the guest have told.
fn read_cells(printed: &str) -> Result<Table> {
    let mut table = Table::new();
    // The test harness may have begun the line.
    for cell in printed.lines().filter_map(|line| line.split_once(CELL).map(|(_, cell)| cell)) {
        let words: Vec<_> = cell.split_whitespace().collect();
        let [network, backend, scenarios, steps, flows] = words[..] else {
            return Err(anyhow!("not a cell: {cell}"));
        };
        let cell =
            Cell { scenarios: scenarios.parse()?, steps: steps.parse()?, flows: flows.parse()? };
        table.insert((network.to_owned(), backend.to_owned()), cell);
    }
    Ok(table)
}

/// Plays cells in a guest of their own.
fn play_in_guest(suite: Suite, tests: &[String]) -> Result<Table> {
    let mut arguments = vec!["--ignored", "--nocapture", "--exact", "--test-threads", "6"];
    arguments.extend(tests.iter().map(String::as_str));
    let printed = match suite {
        Suite::Others => guest::run_tests_within(PATIENCE_WITH_OTHERS, Clock::Running, &arguments)?,
        Suite::Choice | Suite::Lengths => guest::run_tests(Clock::Running, &arguments)?,
    };
    read_cells(&printed)
}

#[test]
fn services_and_policies_on_every_network() -> Result<()> {
    matrix(Suite::Choice)
}

#[test]
fn packets_of_all_lengths_on_every_network() -> Result<()> {
    matrix(Suite::Lengths)
}

#[test]
#[ignore = "takes hours; SHUNT_PLAYED=DIRECTORY keeps what was played"]
fn every_other_scenario_on_every_network() -> Result<()> {
    matrix(Suite::Others)
}

fn matrix(suite: Suite) -> Result<()> {
    if Clock::of_this_guest().is_some() {
        return Ok(());
    }
    let chosen = chosen()?;
    let ipvs = |network: Network| test(network, suite, Backend::Ipvs);
    let (mut with_daemons, others): (Vec<_>, Vec<_>) =
        chosen.iter().copied().partition(|network: &Network| network.takes_daemons());
    with_daemons.retain(|network| suite.has_ipvs(*network));
    let mut in_guest: Vec<_> = others.into_iter().map(ipvs).collect();
    // What netfilter does not see on a bridge is judged wholly only where connections are tracked there.
    let tracks = switched()? == Some(Switched::Tracked);
    let is_whole = |network: Network| network != Network::BridgeUnseen || tracks;
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        chosen.into_iter().partition(|network| network.is_possible_here() && is_whole(*network));
    in_guest.extend(elsewhere.iter().map(|network| test(*network, suite, Backend::Nftables)));
    let guests: Vec<_> = (0..GUESTS)
        // One after the other, as those of one backend take as long as each other.
        .map(|guest| in_guest.iter().skip(guest).step_by(GUESTS).cloned().collect::<Vec<_>>())
        .filter(|tests| !tests.is_empty())
        .map(|tests| thread::spawn(move || play_in_guest(suite, &tests)))
        .collect();
    let mut table = play(&here, suite, Backend::Nftables, AT_A_TIME)?;
    for guest in guests {
        table.extend(guest.join().map_err(|_| anyhow!("a panic"))??);
    }
    // By themselves: their API servers start in time if nobody else has the CPU.
    for network in with_daemons {
        table.extend(play_in_guest(suite, &[ipvs(network)])?);
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/networks/README.md");
    let old = fs::read_to_string(&page)?;
    let text = page_section(suite, &table, &old)?;
    println!("{text}");
    if env::var("SHUNT_SCENARIO").is_ok() {
        return Ok(());
    }
    let new = splice(suite, &old, &text).context("docs/networks/README.md has no markers")?;
    if env::var("SHUNT_WRITE_DOCS").is_ok() {
        fs::write(&page, new)?;
        return Ok(());
    }
    // Scenarios that are new since then are no reason to play all again.
    ensure!(
        old == new || suite == Suite::Others,
        "the table of docs/networks/README.md is old; SHUNT_WRITE_DOCS=1 writes it"
    );
    Ok(())
}

/// The networks to play: all that have a suite, or those that are named.
fn chosen() -> Result<Vec<Network>> {
    match env::var("SHUNT_NETWORK") {
        Ok(names) => names.split(',').map(named).collect(),
        Err(_) => Ok(Network::ALL.to_vec()),
    }
}

fn named(name: &str) -> Result<Network> {
    Network::named(name).with_context(|| format!("no network is named {name}"))
}

fn module(network: Network) -> String {
    network.name().replace('-', "_")
}

/// The name of the test of a cell.
fn test(network: Network, suite: Suite, backend: Backend) -> String {
    format!("{}::{}::{}", module(network), suite.module(), backend.name())
}

const BEGIN: &str = "<!-- matrix:begin, written by SHUNT_WRITE_DOCS=1 cargo test -p shunt-kind-tests --test networks -->";
const END: &str = "<!-- matrix:end -->";

/// The table as it stands in the page; every network has its row, the old one if it was not played.
fn page_section(suite: Suite, table: &Table, old: &str) -> Result<String> {
    let mut out = String::from("| network | nftables | IPVS | |\n|---|---|---|---|\n");
    let played = chosen()?;
    let (begin, end) = suite.marks();
    let old = old.split_once(begin).map_or("", |(_, rest)| rest);
    let old = old.split_once(end).map_or("", |(own, _)| own);
    for network in Network::ALL {
        if !played.contains(&network) {
            let start = format!("| `{}` |", network.name());
            let row = old.lines().find(|line| line.starts_with(&start));
            out += &row.map(|row| format!("{row}\n")).unwrap_or_default();
            continue;
        }
        let cell = |backend: Backend| {
            let key = (network.name().to_owned(), backend.name().to_owned());
            let cell = table.get(&key);
            let Cell { scenarios, flows, .. } =
                cell.with_context(|| format!("{} was not played on {}", key.1, key.0))?;
            anyhow::Ok(format!("{scenarios} scenarios, {flows} flows"))
        };
        let notes = [(Backend::Nftables, ""), (Backend::Ipvs, "with IPVS ")].map(|(of, with)| {
            let notes = suite.left_out(of).iter().filter(|(on, ..)| *on == network);
            notes.map(move |(_, names, why)| format!("{with}without {}: {why}", names.join(", ")))
        });
        let mut notes: Vec<_> = notes.into_iter().flatten().collect();
        if suite == Suite::Choice && network.takes_daemons() {
            notes.push(
                "with IPVS fewer: an API server for each, in a guest with one CPU".to_owned(),
            );
        }
        let nftables = cell(Backend::Nftables)?;
        let ipvs = match suite.has_ipvs(network) {
            true => cell(Backend::Ipvs)?,
            false => "not played".to_owned(),
        };
        out += &format!("| `{}` | {nftables} | {ipvs} | {} |\n", network.name(), notes.join("; "));
    }
    Ok(out)
}

/// Puts a section in place of what is between the markers.
fn splice(suite: Suite, page: &str, section: &str) -> Option<String> {
    let (begin, end) = suite.marks();
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n{section}{end}{after}"))
}

#[test]
fn every_network_has_its_tests() {
    // The guest is asked for them by name.
    let source = include_str!("networks.rs");
    for network in Network::ALL {
        assert!(source.contains(&format!("\n    {} ", module(network))), "{}", network.name());
    }
}
