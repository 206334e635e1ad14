//! What each command does, one file each.

mod access;
mod backup;
mod dev;
mod doctor;
mod engine;
mod event;
mod execution;
mod explain;
mod failed;
mod flow;
mod logs;
mod move_record;
mod place;
mod profile;
mod queue;
mod redis_acl;
mod run;
mod table;
mod watch;
mod worker;

use clap::CommandFactory;

use crate::args::{Cli, Command, WorkerCommand};
use crate::errors::{CliError, Exit};
use crate::output::print;
use crate::settings::{Given, Settings};

/// Carries out a command.
pub(crate) async fn run(cli: Cli, given: Given) -> Result<Exit, CliError> {
    let Cli { global, command } = cli;
    // Not before it is needed: what opens no connection works whatever profiles and tokens say.
    let settings = || Settings::resolve(&global, given);
    match command {
        Command::Run(args) => run::run(*args, &settings()?).await,
        Command::Dev(args) => dev::dev(args).await,
        Command::Engine(args) => engine::engine(*args).await,
        Command::Worker(WorkerCommand::Run(args)) => worker::worker(*args).await,
        Command::Worker(WorkerCommand::Ask(command)) => queue::workers(command, &settings()?).await,
        Command::Migrate(args) => engine::migrate(args).await,
        Command::Demo(args) => crate::demo::demo(args, settings()?.output).await,
        Command::Flow(command) => flow::flow(command, &settings()?).await,
        Command::Execution(command) => execution::execution(command, &settings()?).await,
        Command::Task(command) => failed::task(command, &settings()?).await,
        Command::Failed(command) => failed::failed(command, &settings()?).await,
        Command::Queue(command) => queue::queue(command, &settings()?).await,
        Command::Event(command) => event::event(command, &settings()?).await,
        Command::Table(command) => table::table(command, &settings()?).await,
        Command::Key(command) => access::key(command, &settings()?).await,
        Command::Audit(command) => access::audit(command, &settings()?).await,
        Command::Profile(command) => profile::profile(&command, &global, given),
        Command::Doctor(args) => doctor::doctor(args, &settings()?).await,
        Command::RedisAcl(args) => redis_acl::redis_acl(args),
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => backup::restore(args).await,
        Command::Move(args) => move_record::move_record(args, settings()?.output).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flowmonkey", &mut script);
            print(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
    }
}

/// Tells a person something that is no result.
pub(crate) fn tell(text: &str) {
    crate::tree::tell(text);
}
