//! `shunt policy`: what policy says of connections, asked of a directory of manifests or of an API
//! server; no kernel and no root.
//!
//! The answers are the oracle's, which knows nothing of the compiled table.

mod answer;
mod classes;
mod ends;
mod expectations;
mod matrix;
mod page;
mod world;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use shunt_model::address::Protocol;

pub(crate) use self::answer::{Audit, Clause, judge, node_of, why};
pub(crate) use self::ends::{End, Known, key};
use self::matrix::Matrix;
pub(crate) use self::world::World;
use crate::cli;
use crate::failure::{EXIT_CODES, Failure};

/// What to ask.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub enum PolicyCommand {
    /// Whether one may connect to another, and which policy and rule decide that
    Explain(ExplainArgs),
    /// Who may connect to whom
    Matrix(MatrixArgs),
    /// Check a file of expectations; the exit code is 1 if one does not hold
    Test(TestArgs),
}

/// Where the objects come from.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[group(required = true, multiple = false)]
pub struct Objects {
    /// A directory of manifests
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// The API server that this kubeconfig names
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// The flags of `shunt policy explain`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct ExplainArgs {
    /// Who connects: NAMESPACE/POD, POD (in the namespace default) or an address
    #[arg(value_name = "POD-OR-IP")]
    pub from: String,
    /// To whom: the same, service:NAMESPACE/NAME, a Service's ClusterIP, or the name of a domain
    #[arg(value_name = "POD-OR-IP")]
    pub to: String,
    /// To which port: 80, 53/udp, 9000/sctp
    pub port: Port,
    /// The nodes run with --network-policy=audit, which objects do not tell
    #[arg(long)]
    pub audit: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Form::Text)]
    pub output: Form,
    /// Where the objects come from.
    #[command(flatten)]
    pub objects: Objects,
}

/// The flags of `shunt policy matrix`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct MatrixArgs {
    /// Only this port: 80, 53/udp, 9000/sctp [default: all that make a difference]
    #[arg(long)]
    pub port: Option<Port>,
    /// An address beside the pods, such as one outside of the cluster; as often as needed
    #[arg(long, value_name = "IP")]
    pub address: Vec<IpAddr>,
    /// Only the pods of this namespace; as often as needed
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Vec<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = MatrixForm::Text)]
    pub output: MatrixForm,
    /// Where the objects come from.
    #[command(flatten)]
    pub objects: Objects,
}

/// The flags of `shunt policy test`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = EXIT_CODES)]
pub struct TestArgs {
    /// The expectations, in YAML: docs/policy.md
    pub file: PathBuf,
    /// Where the objects come from.
    #[command(flatten)]
    pub objects: Objects,
}

/// How to print an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How to print a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MatrixForm {
    /// Columns.
    Text,
    /// For programs.
    Json,
    /// A page to look at; it needs nothing beside itself.
    Html,
}

/// A protocol and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = Protocol::ALL.into_iter().find(|p| p.to_string() == protocol.to_lowercase());
        match (number.parse(), protocol) {
            (Ok(number), Some(protocol)) if number != 0 => Ok(Self { protocol, number }),
            _ => Err(format!("{text:?} is no port such as 80, 53/udp or 9000/sctp")),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl PolicyCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the objects cannot be read, a name is unknown, or an expectation does not hold.
    pub fn execute(&self) -> Result<(), Failure> {
        match self {
            Self::Explain(args) => {
                let mut world = World::load(&args.objects)?;
                world.place_domain(&args.to);
                let audit = if args.audit { Audit::Everywhere } else { Audit::Off };
                let answer = answer::ask(&world, &args.from, &args.to, args.port, audit);
                let answer = answer.map_err(Failure::Usage)?;
                cli::print(&match args.output {
                    Form::Text => answer.text(),
                    Form::Json => format!("{:#}\n", answer.json()),
                })
            }
            Self::Matrix(args) => {
                let world = World::load(&args.objects)?;
                let matrix = Matrix::new(&world, args);
                cli::print(&match args.output {
                    MatrixForm::Text => matrix.text(),
                    MatrixForm::Json => format!("{:#}\n", matrix.json()),
                    MatrixForm::Html => page::page(&matrix),
                })
            }
            Self::Test(args) => {
                let mut world = World::load(&args.objects)?;
                let text = std::fs::read_to_string(&args.file)
                    .with_context(|| format!("{} cannot be read", args.file.display()))
                    .map_err(Failure::Usage)?;
                let checked = expectations::check(&mut world, &args.file, &text);
                let checked = checked.map_err(Failure::Usage)?;
                cli::print(&checked.report)?;
                match checked.failed {
                    0 => Ok(()),
                    failed => {
                        Err(anyhow!("{failed} of {} expectations do not hold", checked.all).into())
                    }
                }
            }
        }
    }
}
