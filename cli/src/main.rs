//! `flowmonkey`: the one binary. Parses, hands over, and turns what comes back into an exit code.

mod args;
mod client;
mod commands;
mod demo;
mod distributed;
mod embedded;
mod errors;
mod listen;
mod output;
mod panics;
mod schemas;
mod settings;
mod show;
mod signals;
mod source;
mod tree;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches};
use flowmonkey_worker::TaskLogLayer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use args::{Cli, Command, Global, WorkerCommand};
use embedded::handlers::JQ_EVALUATOR;
use errors::CliError;
use settings::Given;

#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == JQ_EVALUATOR) {
        return flowmonkey_handlers::jq::serve();
    }
    let matches = Cli::command().get_matches();
    let given = Given::of(&matches);
    let cli =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut Cli::command()).exit());
    panics::install();
    match start(cli, given) {
        Ok(code) => code,
        Err(error) => {
            // Issues of a file start with its name, so that editors and terminals find the place.
            match error.downcast_ref() {
                Some(issues @ CliError::Issues { .. }) => eprintln!("{issues}"),
                Some(_) | None => eprintln!("flowmonkey: {}", errors::chain(error.as_ref())),
            }
            ExitCode::from(error.downcast_ref().map_or(4, CliError::exit_code))
        }
    }
}

fn start(cli: Cli, given: Given) -> anyhow::Result<ExitCode> {
    log_to_stderr(&cli)?;
    flowmonkey_handlers::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that do the work")?;
    let exit = runtime.block_on(commands::run(cli, given))?;
    // A handler that blocks its thread must not hold up the end.
    runtime.shutdown_background();
    Ok(exit.into())
}

/// Sends log lines to standard error: standard output is for results only.
fn log_to_stderr(cli: &Cli) -> Result<(), CliError> {
    let Global { log, verbose, .. } = &cli.global;
    let default = match &cli.command {
        Command::Dev(_) | Command::Engine(_) | Command::Worker(WorkerCommand::Run(_)) => 1,
        Command::Worker(WorkerCommand::Ask(_))
        | Command::Run(_)
        | Command::Demo(_)
        | Command::Migrate(_)
        | Command::Flow(_)
        | Command::Execution(_)
        | Command::Task(_)
        | Command::Failed(_)
        | Command::Queue(_)
        | Command::Event(_)
        | Command::Profile(_)
        | Command::Table(_)
        | Command::Key(_)
        | Command::Audit(_)
        | Command::Doctor(_)
        | Command::RedisAcl(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Move(_)
        | Command::Completions { .. } => 0,
    };
    let level = match default + *verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        3.. => "trace",
    };
    let filter = log.as_deref().filter(|filter| !filter.is_empty()).unwrap_or(level);
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        CliError::Usage(format!("the log filter `{filter}` cannot be understood: {error}"))
    })?;
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
    let printed =
        tracing_subscriber::fmt::layer().with_ansi(colours).with_writer(tree::above).with_filter(filter);
    // What handlers in this process log belongs to their tasks, too, whatever is printed.
    let of_tasks = TaskLogLayer::default().with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(printed).with(of_tasks).init();
    Ok(())
}
