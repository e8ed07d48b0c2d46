//! `shunt explain`: where the packets of a connection go, and why; who is on call asks it.
//!
//! The answer is the oracles', which tests hold against real kernels. It comes from the running
//! daemon, with what the kernel holds beside it, or from the objects alone, without kernel or root.

mod answer;
mod lack;
mod service;
mod text;
mod walk;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use hyper::StatusCode;
use shunt_model::compile;
use shunt_model::interface::InterfaceName;
use tokio::runtime;

pub use self::answer::{Destination, Explanation, Fate, Judgement, Party, Unused};
pub use self::walk::{Asked, Facts};
use crate::ask::{Audit, Form, Objects, Port, World};
use crate::cli;
use crate::config::PlanArgs;
use crate::failure::{EXIT_CODES, Failure};
use crate::status::{Kernel, client};

/// The path of the metrics' address that answers.
pub const PATH: &str = "/explain";

/// The flags of `shunt explain`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct ExplainArgs {
    /// Who connects: an address, NAMESPACE/POD, POD (in the namespace default), or `node`, this one
    #[arg(value_name = "FROM")]
    pub from: String,
    /// To whom: an address, a pod, or service:NAMESPACE/NAME
    #[arg(value_name = "TO")]
    pub to: String,
    /// To which port: 80, 53/udp, 9000/sctp
    pub port: Port,
    /// By which interface of the node it comes in, where local pods are known by that
    #[arg(long, value_name = "NAME")]
    pub interface: Option<InterfaceName>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    /// The --metrics-bind-address of the daemon that is asked where no objects are given
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:10249")]
    pub address: SocketAddr,
    /// Ask no daemon, but a directory of manifests
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Ask no daemon, but the API server that this kubeconfig names
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The nodes run with --network-policy=audit; a daemon knows that of itself
    #[arg(long)]
    pub audit: bool,
    /// What decides about the plan, where objects are given.
    #[command(flatten)]
    pub plan: PlanArgs,
}

impl ExplainArgs {
    /// Does it.
    ///
    /// # Errors
    /// If a word stands for nothing, or there is nobody to ask.
    pub fn execute(&self) -> Result<(), Failure> {
        let asked = Asked {
            from: self.from.clone(),
            to: self.to.clone(),
            port: self.port,
            interface: self.interface,
        };
        let (manifests, kubeconfig) = (self.manifests.clone(), self.kubeconfig.clone());
        let answers = if manifests.is_some() || kubeconfig.is_some() {
            self.ask_objects(&Objects { manifests, kubeconfig }, &asked)?
        } else {
            ask_daemon(self.address, &asked)?
        };
        cli::print(&match self.output {
            Form::Text => answers.iter().map(text::print).collect::<Vec<_>>().join("\n"),
            Form::Json => format!("{}\n", serde_json::to_string_pretty(&answers)?),
        })
    }

    fn ask_objects(&self, objects: &Objects, asked: &Asked) -> Result<Vec<Explanation>, Failure> {
        let mut plan = self.plan.clone();
        let whole = |_| World::load(objects);
        let read = objects.manifests.as_ref().map(whole).transpose()?;
        if plan.node_name.is_none() {
            // A pod's packets meet the shunt of its own node first.
            let of_all = match &read {
                Some(world) => world,
                None => &World::load(objects)?,
            };
            plan.node_name = of_all.node_of(&asked.from);
        }
        let settings = plan.settings()?;
        let world = match read {
            Some(world) => world,
            // An API server is asked for that node's own objects.
            None => World::load_for(objects, Some(&settings.node_name))?,
        };
        let compiled = compile::full(&settings, &world.services);
        let facts = Facts {
            node: &settings.node_name,
            plan: &compiled,
            known: world.known(),
            enforced: true,
            audit: if self.audit { Audit::Everywhere } else { Audit::Off },
        };
        facts.explain(asked).map_err(Failure::Usage)
    }
}

/// Asks the daemon, and then the kernel whether it holds what the daemon has planned.
fn ask_daemon(address: SocketAddr, asked: &Asked) -> Result<Vec<Explanation>, Failure> {
    let path = format!("{PATH}?{}", asked.query());
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(client::get(address, &path));
    let (code, body) = answer.context("no running daemon was found")?;
    match code {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST => {
            return Err(Failure::Usage(anyhow!(String::from_utf8_lossy(&body).trim().to_owned())));
        }
        other => return Err(anyhow!("http://{address}{PATH}: {other}: is this shunt?").into()),
    }
    let mut answers: Vec<Explanation> =
        serde_json::from_slice(&body).with_context(|| format!("{PATH} is not understood"))?;
    let kernel = Kernel::read();
    for answer in &mut answers {
        answer.kernel = answer.frontend.as_mut().map(|row| kernel.beside(row));
    }
    Ok(answers)
}
