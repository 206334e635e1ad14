//! What each command does, one file each.

mod access;
mod backup;
mod dev;
mod doctor;
mod engine;
mod execution;
mod explain;
mod flow;
mod logs;
mod move_record;
mod place;
mod redis_acl;
mod run;
mod table;
mod worker;

use std::io::Write;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::errors::{CliError, Exit};

/// Carries out a command.
pub(crate) async fn run(cli: Cli) -> Result<Exit, CliError> {
    let Cli { global, command } = cli;
    match command {
        Command::Run(args) => run::run(args, global.server.as_deref()).await,
        Command::Dev(args) => dev::dev(args).await,
        Command::Engine(args) => engine::engine(*args).await,
        Command::Worker(args) => worker::worker(*args).await,
        Command::Migrate(args) => engine::migrate(args).await,
        Command::Demo(args) => crate::demo::demo(args).await,
        Command::Flow(command) => flow::flow(command),
        Command::Execution(command) => execution::execution(command, global.server.as_deref()).await,
        Command::Table(command) => table::table(command, global.server.as_deref()).await,
        Command::Key(command) => access::key(command, global.server.as_deref()).await,
        Command::Audit(command) => access::audit(command, global.server.as_deref()).await,
        Command::Doctor(args) => doctor::doctor(args).await,
        Command::RedisAcl(args) => redis_acl::redis_acl(args),
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => backup::restore(args).await,
        Command::Move(args) => move_record::move_record(args).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flowmonkey", &mut script);
            print(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Done)
        }
    }
}

/// Prints a result. A reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    let ending = if text.ends_with('\n') { "" } else { "\n" };
    match write!(stdout, "{text}{ending}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(CliError::io("cannot write the result")(error)),
    }
}

/// As [`print`], as one JSON value.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(&serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()))
}

/// Tells a person something that is no result.
pub(crate) fn tell(text: &str) {
    crate::tree::tell(text);
}
