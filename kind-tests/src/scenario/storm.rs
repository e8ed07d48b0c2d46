//! Random Services, random changes, random packets: what becomes of each packet on the wire is what the oracle says, on
//! shunt and on kube-proxy.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shunt_cluster::{Outcome, Protocol, Shot, volley};
use shunt_model::address::Endpoint;
use shunt_model::oracle::Verdict;

use self::world::{Target, World};
use super::lab::Lab;
use super::oracle::{self, Plans, Ruling};
use super::peer::Game;
use super::probe::is_barred;
use super::setup::Setup;
use super::site::Site;
use super::step::{self, Files};
use super::text::lines;
use crate::control_plane::random::Random;
use crate::kube_proxy::{Mode, Objects};

/// What it is played on.
const CLUSTER: &str =
    "daemon --cluster-cidr 10.77.0.0/16,fd00:10:77::/48 --nodeport-addresses primary";
/// Who asks: pods, nodes, someone outside.
const CLIENTS: [&str; 6] = ["web-1", "web-4", "dns-1", "node-1", "node-2", "client"];
/// Questions in a round, each with a client, a destination and several packets.
const QUESTIONS: usize = 60;
/// Packets for each endpoint of a pool: one of four is missed by 96 packets in one of 10^11 cases.
const FOR_EACH: usize = 24;
/// Packets that must not lead anywhere.
const ASTRAY: usize = 4;
/// Source ports, each used once: below NodePorts and what the kernel gives out, above what proxies listen on.
const SOURCE_PORTS: std::ops::Range<u16> = 17_000..29_900;
/// How long an answer may take; on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long silence lasts that counts as silence.
const SILENCE: Duration = Duration::from_millis(400);

/// Who is played on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Player {
    /// shunt.
    Shunt,
    /// The real kube-proxy.
    KubeProxy(Mode),
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// States of all Services.
    pub rounds: usize,
    /// Pairs of client and destination.
    pub questions: usize,
    /// Packets that asked for a connection, or datagrams.
    pub packets: usize,
    /// Those that a pod or a node answered.
    pub answered: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} states, {} questions, {} packets, {} of them answered",
            self.rounds, self.questions, self.packets, self.answered
        )
    }
}

/// Plays so many rounds of a seed. Needs root.
///
/// # Errors
/// At the first round with a packet that the oracle sees otherwise.
pub fn play(player: Player, seed: u64, rounds: usize) -> Result<Tally> {
    let setup = Setup::parse(&lines(Path::new("storm"), CLUSTER))?;
    let mut random = Random::new(seed);
    let mut world = World::new(&mut random);
    let mut storm = Storm::start(&setup, player)?;
    for round in 1..=rounds {
        storm.put(&world)?;
        storm.ask(&world, &mut random).with_context(|| {
            let objects = world
                .objects(&setup)
                .iter()
                .map(|object| format!("{object}\n"))
                .collect::<String>();
            format!("round {round} of seed {seed}, of these objects:\n{objects}")
        })?;
        storm.tally.rounds = round;
        world.change(&mut random);
    }
    Ok(storm.tally)
}

/// The proxy that is asked.
enum Proxy<'a> {
    Shunt(Lab<'a>),
    KubeProxy(Game<'a>),
}

struct Storm<'a> {
    setup: &'a Setup,
    proxy: Proxy<'a>,
    /// The manifests, for the oracle.
    files: tempfile::TempDir,
    plans: Plans,
    next_port: BTreeMap<&'static str, u16>,
    tally: Tally,
}

/// A question, what the oracle says to it, and its packets.
struct Question {
    from: &'static str,
    target: Target,
    to: SocketAddr,
    ruling: Ruling,
    shots: Vec<Shot>,
}

impl<'a> Storm<'a> {
    fn start(setup: &'a Setup, player: Player) -> Result<Self> {
        let proxy = match player {
            Player::Shunt => {
                let mut lab = Lab::build(setup)?;
                for node in &setup.cluster.nodes {
                    lab.start(&node.name)?;
                }
                Proxy::Shunt(lab)
            }
            Player::KubeProxy(mode) => Proxy::KubeProxy(Game::start(setup, mode)?),
        };
        let files = tempfile::Builder::new().prefix("shunt-storm-").tempdir()?;
        let (plans, next_port) = (Plans::new(), BTreeMap::new());
        Ok(Self { setup, proxy, files, plans, next_port, tally: Tally::default() })
    }

    const fn site(&self) -> &Site<'a> {
        match &self.proxy {
            Proxy::Shunt(lab) => lab.site(),
            Proxy::KubeProxy(game) => game.site(),
        }
    }

    /// Puts a state before the proxy, and waits until the kernel has it.
    fn put(&mut self, world: &World) -> Result<()> {
        let documents: Vec<_> = world.objects(self.setup).iter().map(ToString::to_string).collect();
        let text = documents.join("\n---\n");
        std::fs::write(self.files.path().join("storm.yaml"), &text)?;
        for node in &self.setup.cluster.nodes {
            let plan = oracle::plan(&node.name, self.files.path(), self.setup)?;
            self.plans.insert(node.name.clone(), plan);
        }
        match &mut self.proxy {
            Proxy::KubeProxy(game) => game.put(Objects::read([text.as_str()])?),
            Proxy::Shunt(lab) => {
                let files = Files::from([("storm.yaml".to_owned(), text)]);
                step::write_files(&lab.manifests(), &files, &lab.aside())?;
                self.plans.iter().try_for_each(|(node, plan)| lab.wait(node, plan, &[]))
            }
        }
    }

    /// Asks at random; all that is otherwise than the oracle says is told.
    fn ask(&mut self, world: &World, random: &mut Random) -> Result<()> {
        let targets = world.targets();
        let mut questions = Vec::new();
        for _ in 0..QUESTIONS {
            let from = random.one_of(&CLIENTS);
            let target = targets[random.below(targets.len())].clone();
            if self.is_sound(from, &target) {
                questions.push(self.question(from, target)?);
            }
        }
        let iptables = self.iptables();
        let mut wrong = Vec::new();
        // What must be answered ends with its answers; for silence one has to wait.
        for (silent, patience) in [(false, PATIENCE), (true, SILENCE)] {
            let asked: Vec<_> = questions
                .iter()
                .filter(|question| question.is_silent(iptables) == silent)
                .collect();
            for (question, outcomes) in send(self.site(), &asked, patience)? {
                self.tally.questions += 1;
                self.tally.packets += outcomes.len();
                self.tally.answered += outcomes.iter().filter(|one| one.is_answer()).count();
                if let Err(error) = question.check(&outcomes, self.setup, iptables) {
                    wrong.push(format!("{question}: {error:#}"));
                }
            }
        }
        ensure!(wrong.is_empty(), "{} questions:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    }

    /// Whether the rules are those of kube-proxy's iptables mode: see docs/differences.md.
    fn iptables(&self) -> bool {
        matches!(&self.proxy, Proxy::KubeProxy(game) if game.mode() == Mode::Iptables)
    }

    /// Answers to pods that came to another node's NodePort unmasked go past that node's NAT, whoever the proxy is.
    fn is_sound(&self, from: &str, target: &Target) -> bool {
        let own = self.setup.node_of(from);
        let is_pod = own.is_some() && own != Some(from);
        !(target.own_node_only && is_pod && own != target.name.split('/').next())
    }

    fn question(&mut self, from: &'static str, target: Target) -> Result<Question> {
        let address = self.setup.names.resolve(&target.name)?[0];
        let to = SocketAddr::new(address, target.port);
        let ruling = oracle::rule(from, target.protocol, to, &self.plans, self.setup)?;
        let packets = match &ruling.verdict {
            Verdict::Forward(pool) => FOR_EACH * pool.len(),
            _ => ASTRAY,
        };
        let mut shots = Vec::with_capacity(packets);
        for _ in 0..packets {
            let next = self.next_port.entry(from).or_insert(SOURCE_PORTS.start);
            ensure!(SOURCE_PORTS.contains(next), "{from} has used all its ports: fewer rounds");
            shots.push(Shot { protocol: target.protocol, destination: to, source_port: *next });
            *next += 1;
        }
        Ok(Question { from, target, to, ruling, shots })
    }
}

/// Sends the packets of these questions, from all clients at once.
fn send<'q>(
    site: &Site<'_>,
    asked: &[&'q Question],
    patience: Duration,
) -> Result<Vec<(&'q Question, Vec<Outcome>)>> {
    let volleys = thread::scope(|scope| {
        let one = |from: &'static str| {
            let netns = site.cluster().host(from)?.netns().clone();
            let own: Vec<_> = asked.iter().copied().filter(|one| one.from == from).collect();
            let shots: Vec<_> = own.iter().flat_map(|question| question.shots.clone()).collect();
            Ok((own, scope.spawn(move || volley(&netns, &shots, patience))))
        };
        let volleys = CLIENTS.map(one).into_iter().collect::<Result<Vec<_>>>()?;
        let done = volleys.into_iter().map(|(own, thread)| Some((own, thread.join().ok()?)));
        done.collect::<Option<Vec<_>>>().context("a thread has panicked")
    })?;
    let mut answers = Vec::new();
    for (own, outcomes) in volleys {
        let mut outcomes = outcomes.into_iter();
        for question in own {
            answers.push((question, outcomes.by_ref().take(question.shots.len()).collect()));
        }
    }
    Ok(answers)
}

impl Question {
    /// Whether nobody is expected to answer.
    fn is_silent(&self, iptables: bool) -> bool {
        match self.ruling.verdict {
            Verdict::Forward(_) => false,
            Verdict::Reject => iptables,
            Verdict::Drop | Verdict::Pass => true,
        }
    }

    fn check(&self, outcomes: &[Outcome], setup: &Setup, iptables: bool) -> Result<()> {
        let pool = match &self.ruling.verdict {
            Verdict::Forward(pool) => pool,
            verdict => {
                return outcomes
                    .iter()
                    .try_for_each(|outcome| self.astray(verdict, outcome, iptables));
            }
        };
        let node = self.ruling.node.as_deref().unwrap_or_default();
        let mut reached = BTreeSet::new();
        for outcome in outcomes {
            let Outcome::Answer { by, seen_source, local } = outcome else { bail!("{outcome}") };
            let is_it = |(endpoint, _): &&(Endpoint, bool)| is_called(endpoint, by, setup);
            let Some((endpoint, masqueraded)) = pool.iter().find(is_it) else {
                bail!("{outcome}, which is none of the pool {pool:?}");
            };
            let own = |ip: IpAddr| setup.addresses_of(node).any(|own| own == ip);
            let seen = seen_source.ip();
            let fits = if *masqueraded { own(seen) } else { seen == local.ip() };
            ensure!(fits, "{outcome}; masqueraded: {masqueraded}, the client is {local}");
            reached.insert(*endpoint);
        }
        if self.target.sticky {
            ensure!(reached.len() == 1, "one client was sent to each of {reached:?}");
        } else {
            ensure!(reached.len() == pool.len(), "only {reached:?} of {pool:?} were reached");
        }
        Ok(())
    }

    fn astray(&self, verdict: &Verdict, outcome: &Outcome, iptables: bool) -> Result<()> {
        let refused = *outcome == Outcome::Refused;
        let silent = matches!(outcome, Outcome::TimedOut | Outcome::Unreachable(_));
        let fits = match verdict {
            // It says nothing of ports that a ClusterIP does not have.
            Verdict::Reject => refused || iptables && silent,
            // It refuses where there is no endpoint before it looks whom the source ranges let in.
            Verdict::Drop => {
                *outcome == Outcome::TimedOut || is_barred(outcome) || iptables && refused
            }
            // What is there may refuse.
            _ => refused || silent,
        };
        ensure!(fits, "{outcome}, not {verdict:?}");
        Ok(())
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.target.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        write!(
            f,
            "{} {protocol} {}:{} ({})",
            self.from, self.target.name, self.target.port, self.to
        )
    }
}

/// Servers are named `pod:port`.
fn is_called(endpoint: &Endpoint, name: &str, setup: &Setup) -> bool {
    setup
        .names
        .host_of(endpoint.address)
        .is_some_and(|host| format!("{host}:{}", endpoint.port) == name)
}
