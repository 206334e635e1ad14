//! The load generator and the benchmarks. Each scenario prints its figures on standard output.
//!
//! `short` runs a small set in some minutes. What the figures mean and what they were is in `loadtest/README.md`.

mod client;
mod distributed;
mod embedded;
mod flows;
mod garbage;
mod harness;
mod idle;
mod lists;
mod load;
mod micro;
mod peers;
mod plumbing;
mod plumbing_load;
mod progress;
mod queue;
mod report;
mod system;
mod watchers;
mod worker;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use embedded::{fan_out, group_commit, latency, throughput, waiting};
use flowmonkey_engine::store::Durability;
use plumbing_load::{Load, plumbing_load};
use report::Output;

/// That of the program that is measured.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Load generator and benchmarks of FlowMonkey")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
    /// How the record is flushed.
    #[arg(long, global = true, value_enum, default_value_t = Flush::Full)]
    durability: Flush,
    /// How figures are written.
    #[arg(long, global = true, value_enum, default_value_t = Output::Json)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Flush {
    /// Each commit is on disk when it is answered.
    Full,
    /// A crash of the machine may lose the last commits; a crash of the process does not.
    Relaxed,
}

#[derive(Subcommand)]
enum Scenario {
    /// Everything, small.
    Short,
    /// One execution after the other: start to result of a one-step flow.
    Latency {
        /// Executions.
        #[arg(long, default_value_t = 2000)]
        executions: usize,
    },
    /// Many executions at a time.
    Throughput {
        /// Executions.
        #[arg(long, default_value_t = 5000)]
        executions: usize,
        /// At a time.
        #[arg(long, default_value_t = 256)]
        clients: usize,
        /// Steps of the flow.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
        steps: u16,
    },
    /// A map over items, each a child execution with one task, and its join.
    FanOut {
        /// Items.
        #[arg(long, default_value_t = 1000)]
        items: usize,
    },
    /// What each call of the plumbing APIs costs, in process and over HTTP.
    Plumbing {
        /// Calls of each kind, one after the other.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=2000))]
        calls: u16,
    },
    /// Jobs that report progress and emit events over HTTP at a given rate, and whether what they were promised is kept.
    PlumbingLoad {
        /// Tasks that talk at the same time.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        tasks: u16,
        /// Reports of progress a second, of all tasks together.
        #[arg(long, default_value_t = 10_000)]
        progress: u32,
        /// Events a second, of all tasks together.
        #[arg(long, default_value_t = 1000)]
        events: u32,
        /// For how long.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
        seconds: u16,
    },
    /// Lists and counts of executions in a private Postgres, by each filter.
    Lists {
        /// Executions.
        #[arg(long, default_value_t = 1_000_000)]
        executions: u32,
        /// Where the plans are written.
        #[arg(long, default_value = "lists-plans.txt")]
        plans: std::path::PathBuf,
    },
    /// Executions that wait, then a restart of the engine on them.
    Waiting {
        /// Executions.
        #[arg(long, default_value_t = 100_000)]
        executions: usize,
    },
    /// What `flowmonkey dev` takes when nothing happens.
    Idle(idle::Idle),
    /// Connections that watch one engine, some of which never read: how late events come, and what it takes.
    Watchers(watchers::Watchers),
    /// What no server should be sent, at a given rate: nothing is lost, and memory does not grow.
    Garbage(garbage::Garbage),
    /// A whole system of processes over Postgres and Redis, started for the scenario.
    Distributed {
        #[command(flatten)]
        shape: system::Shape,
        #[command(subcommand)]
        scenario: distributed::Scenario,
    },
    /// Peers (Restate, DBOS, BullMQ, Temporal) on this machine, in turns with ours, and how they compare.
    Peers(peers::Peers),
    /// What the pure parts cost, each alone.
    Micro(micro::Micro),
    /// What each call of the queues costs, alone: in the process and over a private Redis.
    Queue,
    /// Starts that meet and are committed together: what each of them takes.
    GroupCommit,
    /// A worker of such a system.
    #[command(hide = true)]
    Worker(worker::WorkerArguments),
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { scenario, durability, output } = Arguments::parse();
    report::choose(output);
    let durability = match durability {
        Flush::Full => Durability::Full,
        Flush::Relaxed => Durability::Relaxed,
    };
    // In a task, as requests of the HTTP API are: the thread of `main` is none of the runtime's workers, and each answer
    // would cross to it.
    #[expect(clippy::disallowed_methods, reason = "it is waited for at once")]
    let running = tokio::spawn(run(scenario, durability));
    running.await?
}

async fn run(scenario: Scenario, durability: Durability) -> Result<()> {
    match scenario {
        Scenario::Short => {
            latency(durability, 2000).await?;
            throughput(durability, 5000, 256, 3).await?;
            fan_out(durability, 1000).await?;
            fan_out(durability, 10_000).await?;
            waiting(durability, 20_000).await?;
            idle::idle(idle::Idle::default()).await?;
            micro::micro(&micro::Micro::default())?;
            queue::queue().await?;
            group_commit(durability).await?;
            for scenario in distributed::short() {
                distributed::run(scenario, system::Shape::default()).await?;
            }
            Ok(())
        }
        Scenario::Latency { executions } => latency(durability, executions).await,
        Scenario::Throughput { executions, clients, steps } => {
            throughput(durability, executions, clients, steps).await
        }
        Scenario::FanOut { items } => fan_out(durability, items).await,
        Scenario::Plumbing { calls } => plumbing::plumbing(durability, calls.into()).await,
        Scenario::PlumbingLoad { tasks, progress, events, seconds } => {
            plumbing_load(durability, Load { tasks, progress, events, seconds }).await
        }
        Scenario::Lists { executions, plans } => {
            // Its futures borrow what the compiler cannot prove to be sendable; they stay on one thread.
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(lists::lists(executions, &plans))).await?
        }
        Scenario::Waiting { executions } => waiting(durability, executions).await,
        Scenario::Idle(wanted) => idle::idle(wanted).await,
        Scenario::Watchers(wanted) => watchers::watchers(durability, wanted).await,
        Scenario::Garbage(wanted) => garbage::garbage(wanted).await,
        Scenario::Distributed { shape, scenario } => distributed::run(scenario, shape).await,
        Scenario::Peers(wanted) => peers::peers(wanted).await,
        Scenario::Micro(wanted) => micro::micro(&wanted),
        Scenario::Queue => queue::queue().await,
        Scenario::GroupCommit => group_commit(durability).await,
        Scenario::Worker(arguments) => worker::work(arguments).await,
    }
}
