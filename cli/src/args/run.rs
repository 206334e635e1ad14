//! What runs flows here: `run`, `dev`, `demo`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{CheckpointArgs, DEV_DATA_DIR, Durability, HandlerArgs};
use crate::listen::ApiArgs;

/// `flowmonkey run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey run hello.yaml --input '{\"name\": \"Ada\"}'
  flowmonkey run order.yaml --input @order.json --output json | jq .output
  cat order.json | flowmonkey run order.yaml --input -
  flowmonkey run report.yaml --handlers handlers/ --data-dir ./data
  flowmonkey run reminder.yaml --skip-time             a 30-day wait passes at once
  flowmonkey run order.yaml --server http://engine:7420 --fallback embedded --idempotency-key order-17

Without --data-dir the record lives in a temporary directory, which is kept and named when the execution does not \
complete. The first Ctrl-C cancels the execution and lets it clean up, the second leaves at once.")]
pub(crate) struct RunArgs {
    /// File with one flow or several (JSON or YAML), or `-` for standard input; with --server also the id of a flow
    #[arg(value_name = "FLOW")]
    pub(crate) file: String,
    /// Which flow of the file, by id [default: the first]
    #[arg(long = "flow", value_name = "ID")]
    pub(crate) flow: Option<String>,
    /// The initial context: JSON text, @FILE, or `-` for standard input [default: {}]
    #[arg(short, long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: Option<String>,
    /// Keep the record here [default: a temporary directory]
    #[arg(long, value_name = "DIR", env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Let waits and delays pass at once, in virtual time
    #[arg(long)]
    pub(crate) skip_time: bool,
    /// The same key gives the same execution of the flow, for 24 hours; on a server, or in the same --data-dir
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// What to do when the server of --server cannot be reached: run the flow in this process
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) fallback: Option<Fallback>,
    /// How much a power cut may lose
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Durability,
    #[command(flatten)]
    pub(crate) checkpoints: CheckpointArgs,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}

/// Where a flow runs when a server cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fallback {
    /// In this process, as without --server
    Embedded,
}

/// `flowmonkey dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey dev --flows flows                          publish every flow file, again when it changes
  flowmonkey dev --handlers handlers/ --data-dir ./data
  flowmonkey dev --allow-net loopback --allow-command git

What was unfinished goes on. SIGTERM and the first Ctrl-C let running handlers end; the second Ctrl-C leaves at once \
and loses nothing: what ran then runs again at the next start.")]
pub(crate) struct DevArgs {
    /// Where the record lives
    #[arg(long, value_name = "DIR", default_value = DEV_DATA_DIR, env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Publish the flow files of this directory, now and when they change
    #[arg(long, value_name = "DIR")]
    pub(crate) flows: Option<PathBuf>,
    /// How much a power cut may lose
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Durability,
    #[command(flatten)]
    pub(crate) checkpoints: CheckpointArgs,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}

/// `flowmonkey demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey demo                          audit-report/index.html and packages.csv
  flowmonkey demo --project ../mine        the same for another Rust project

Needs cargo and the sources that cargo has downloaded; no network.")]
pub(crate) struct DemoArgs {
    /// Directory with the Cargo.toml of the project to audit [default: the source tree of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// Directory that the report is written to
    #[arg(long, value_name = "DIR", default_value = "audit-report")]
    pub(crate) report: PathBuf,
    /// Tasks at a time [default: twice the cores, at least 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: Option<u32>,
}
