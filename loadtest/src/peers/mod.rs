//! Peers: other engines, measured by the same questions on the same machine in the same session as this one.
//!
//! Each round starts each of them anew, with servers of its own, and asks it; ours comes first in each round and once more at
//! the end, so that a machine that changes meanwhile shows. What is compared are medians. The drivers and the handlers of the
//! peers are in `loadtest/peers`, which this program contains.

mod bullmq;
mod closed;
mod dbos;
mod driver;
mod figures;
mod flowmonkey;
mod install;
mod processes;
mod question;
mod restate;
mod table;
mod temporal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::figures::{Figures, median};
use self::install::{Installed, Installer};
use self::question::Size;
use crate::progress::Progress;
use crate::report::{Output, output, report};

/// What is asked for.
#[derive(clap::Args)]
pub(crate) struct Peers {
    /// Measure this one; may be given several times [default: all]
    #[arg(long = "peer", value_name = "NAME")]
    peers: Vec<Peer>,
    /// Rounds; medians of them are compared [default: 3, or 1 if quick]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=100))]
    runs: Option<u8>,
    /// Ask little, to see that all of it works
    #[arg(long)]
    quick: bool,
    /// Flows of a peer under way at a time, for throughput [default: 256; DBOS: 64; Temporal: 60]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Option<u16>,
    /// Where the peers are installed
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    folder: PathBuf,
}

/// Another engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// Restate: a server with a log of its own
    Restate,
    /// DBOS: a library over Postgres
    Dbos,
    /// BullMQ: queues in Redis
    Bullmq,
    /// Temporal: its server for development, over SQLite
    Temporal,
}

impl Peer {
    /// As on the command line.
    fn key(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Where steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steps {
    /// In the process that has the flow: no other takes part in a step but the one that stores it.
    Inline,
    /// Handed out to whichever worker asks.
    Dispatched,
}

/// What Redis keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendOnly {
    /// Nothing.
    Off,
    /// A file, flushed each second.
    EverySecond,
}

/// A peer with its settings, or ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrant {
    FlowMonkey,
    Restate(Steps),
    Dbos,
    Bullmq(AppendOnly),
    Temporal(Steps),
}

/// In the order of a round.
const ENTRANTS: [Entrant; 8] = [
    Entrant::FlowMonkey,
    Entrant::Restate(Steps::Inline),
    Entrant::Restate(Steps::Dispatched),
    Entrant::Dbos,
    Entrant::Bullmq(AppendOnly::Off),
    Entrant::Bullmq(AppendOnly::EverySecond),
    Entrant::Temporal(Steps::Inline),
    Entrant::Temporal(Steps::Dispatched),
];

impl Entrant {
    const fn peer(self) -> Option<Peer> {
        match self {
            Self::FlowMonkey => None,
            Self::Restate(_) => Some(Peer::Restate),
            Self::Dbos => Some(Peer::Dbos),
            Self::Bullmq(_) => Some(Peer::Bullmq),
            Self::Temporal(_) => Some(Peer::Temporal),
        }
    }

    /// For people.
    const fn name(self) -> &'static str {
        match self {
            Self::FlowMonkey => "FlowMonkey",
            Self::Restate(Steps::Inline) => "Restate inline",
            Self::Restate(Steps::Dispatched) => "Restate dispatched",
            Self::Dbos => "DBOS inline",
            Self::Bullmq(AppendOnly::Off) => "BullMQ",
            Self::Bullmq(AppendOnly::EverySecond) => "BullMQ AOF",
            Self::Temporal(Steps::Inline) => "Temporal local",
            Self::Temporal(Steps::Dispatched) => "Temporal",
        }
    }

    /// In reports.
    const fn key(self) -> &'static str {
        match self {
            Self::FlowMonkey => "flowmonkey",
            Self::Restate(Steps::Inline) => "restate.inline",
            Self::Restate(Steps::Dispatched) => "restate.dispatched",
            Self::Dbos => "dbos.inline",
            Self::Bullmq(AppendOnly::Off) => "bullmq.memory",
            Self::Bullmq(AppendOnly::EverySecond) => "bullmq.appendOnly",
            Self::Temporal(Steps::Inline) => "temporal.local",
            Self::Temporal(Steps::Dispatched) => "temporal.activities",
        }
    }

    /// What is on disk when a step counts.
    const fn durability(self) -> &'static str {
        match self {
            Self::FlowMonkey => "each commit of Postgres is flushed; Redis keeps nothing",
            Self::Restate(_) => "each write to the log is flushed",
            Self::Dbos => "each commit of Postgres is flushed",
            Self::Bullmq(AppendOnly::Off) => "nothing",
            Self::Bullmq(AppendOnly::EverySecond) => "append-only file, flushed each second",
            Self::Temporal(_) => "commits of SQLite are written, and not flushed (synchronous=1, WAL)",
        }
    }

    /// Flows under way at a time, for throughput.
    const fn clients(self) -> usize {
        match self {
            Self::FlowMonkey | Self::Restate(_) | Self::Bullmq(_) => CLIENTS,
            // More of them make it no faster, and as they all go in step, a window would hold few rounds of them.
            Self::Dbos => 64,
            Self::Temporal(_) => 60,
        }
    }
}

/// Flows under way at a time, for throughput.
pub(crate) const CLIENTS: usize = 256;

/// Measures peers beside ours.
///
/// # Errors
/// When ours does not work, or a peer was not measured.
pub(crate) async fn peers(wanted: Peers) -> Result<()> {
    let runs = wanted.runs.unwrap_or(if wanted.quick { 1 } else { 3 });
    let size = if wanted.quick { Size::quick() } else { Size::full() };
    let peers: BTreeSet<Peer> = if wanted.peers.is_empty() {
        Peer::value_variants().iter().copied().collect()
    } else {
        wanted.peers.into_iter().collect()
    };
    let installer = Installer::new(&wanted.folder)?;
    let clients = wanted.clients.map(usize::from);
    let mut session =
        Session { size, clients, installed: BTreeMap::new(), measured: Vec::new(), failed: Vec::new() };
    for peer in peers {
        match installer.install(peer).await {
            Ok(installed) => drop(session.installed.insert(peer, installed)),
            Err(error) => session.fail(peer.key(), &error.context("cannot be installed")),
        }
    }
    for run in 1..=runs {
        for entrant in ENTRANTS {
            if session.takes_part(entrant) {
                session.measure(entrant, run).await?;
            }
        }
    }
    session.measure(Entrant::FlowMonkey, runs + 1).await?;
    session.tell(runs)
}

struct Session {
    size: Size,
    /// Of peers, instead of what suits each.
    clients: Option<usize>,
    installed: BTreeMap<Peer, Installed>,
    /// By entrant, one of each run.
    measured: Vec<(Entrant, Figures)>,
    failed: Vec<(String, String)>,
}

impl Session {
    fn takes_part(&self, entrant: Entrant) -> bool {
        let has_failed = self.failed.iter().any(|(key, _)| key == entrant.key());
        !has_failed && entrant.peer().is_none_or(|peer| self.installed.contains_key(&peer))
    }

    fn fail(&mut self, key: String, error: &anyhow::Error) {
        eprintln!("{key}: {error:#}");
        self.failed.push((key, format!("{error:#}")));
    }

    /// # Errors
    /// When ours fails: there is nothing to compare with, then.
    async fn measure(&mut self, entrant: Entrant, run: u8) -> Result<()> {
        let clients = match entrant.peer() {
            Some(_) => self.clients.unwrap_or(entrant.clients()),
            None => CLIENTS,
        };
        let installed = entrant.peer().and_then(|peer| self.installed.get(&peer)).cloned();
        let versions = installed.as_ref().map_or_else(|| json!({}), Installed::versions);
        // Ours shows its own bars.
        let progress = entrant.peer().map(|_| Progress::of_work(format!("{}, run {run}", entrant.name())));
        // In a task of its own: servers that do not start panic, and the others shall go on.
        let mut task = JoinSet::new();
        task.spawn(ask(entrant, installed, self.size, clients));
        let done = match task.join_next().await.context("a task was spawned")? {
            Ok(done) => done,
            Err(failed) => Err(anyhow!("{}", message_of(failed))),
        };
        if let Some(progress) = progress {
            progress.end();
        }
        match done {
            Ok(figures) => {
                let settings = json!({
                    "run": run,
                    "durability": entrant.durability(),
                    "clients": clients,
                    "versions": versions,
                });
                if output() == Output::Json {
                    report(&format!("peers.{}", entrant.key()), &settings, &figures.told());
                }
                self.measured.push((entrant, figures));
                Ok(())
            }
            Err(error) if entrant == Entrant::FlowMonkey => Err(error),
            Err(error) => {
                self.fail(entrant.key().to_owned(), &error);
                Ok(())
            }
        }
    }

    /// Medians and ratios, and what was not measured.
    fn tell(self, runs: u8) -> Result<()> {
        let of = |entrant: Entrant| -> Vec<&Figures> {
            self.measured.iter().filter(|(whose, _)| *whose == entrant).map(|(_, figures)| figures).collect()
        };
        let medians: Vec<(Entrant, Figures)> =
            ENTRANTS.into_iter().filter_map(|entrant| Some((entrant, median(&of(entrant))?))).collect();
        let (_, ours) = medians.first().context("ours was measured")?;
        let told: Value = medians
            .iter()
            .map(|(entrant, figures)| {
                let told = json!({ "figures": figures.told(), "ratio": ours.over(figures).told() });
                (entrant.key().to_owned(), told)
            })
            .collect();
        let table = table::table(&medians, &of(Entrant::FlowMonkey));
        match output() {
            Output::Json => {
                report("peers", &json!({ "runs": runs }), &told);
                eprintln!("{table}");
            }
            Output::Table => println!("{table}"),
        }
        let failed: Vec<String> = self.failed.iter().map(|(key, why)| format!("{key}: {why}")).collect();
        ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
        Ok(())
    }
}

async fn ask(entrant: Entrant, installed: Option<Installed>, size: Size, clients: usize) -> Result<Figures> {
    let installed = installed.context("it is installed");
    match entrant {
        Entrant::FlowMonkey => flowmonkey::measure(&size).await,
        Entrant::Restate(steps) => restate::measure(&installed?, steps, &size, clients).await,
        Entrant::Dbos => dbos::measure(&installed?, &size, clients).await,
        Entrant::Bullmq(append_only) => bullmq::measure(&installed?, append_only, &size, clients).await,
        Entrant::Temporal(steps) => temporal::measure(&installed?, steps, &size, clients).await,
    }
}

/// What a task that panicked said.
fn message_of(failed: tokio::task::JoinError) -> String {
    let Ok(panic) = failed.try_into_panic() else { return "its task was cancelled".to_owned() };
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => {
            panic.downcast::<&str>().map_or_else(|_| "it panicked".to_owned(), |it| (*it).to_owned())
        }
    }
}
