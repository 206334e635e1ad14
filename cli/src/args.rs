//! The command line: what can be asked, and the help that teaches it.

mod access;
mod ask;
mod checkpoints;
mod execution;
mod flow;
mod operate;
mod run;
mod servers;
mod upkeep;

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::output::Output;

pub(crate) use access::{AccessArgs, AccessPlace, AuditCommand, KeyCommand};
pub(crate) use ask::{Place, TableCommand};
pub(crate) use checkpoints::CheckpointArgs;
pub(crate) use execution::{ExecutionCommand, Filter};
pub(crate) use flow::{FlowCommand, FlowPlace};
pub(crate) use operate::{
    EventCommand, FailedCommand, ProfileCommand, QueueCommand, TaskCommand, WorkerCommand, WorkersCommand,
};
pub(crate) use run::{DemoArgs, DevArgs, Fallback, RunArgs};
pub(crate) use servers::{
    DatabaseArgs, EngineArgs, MigrateArgs, Pooler, RedisArgs, RedisSettings, WorkerArgs,
};
pub(crate) use upkeep::{AclFormat, AclRole, BackupArgs, DoctorArgs, MoveArgs, RedisAclArgs, RestoreArgs};

/// Where `flowmonkey dev` listens.
pub(crate) const DEV_LISTEN: &str = "127.0.0.1:7420";
/// The data directory of `flowmonkey dev`.
pub(crate) const DEV_DATA_DIR: &str = ".flowmonkey";
/// Begins the names of all keys in Redis.
pub(crate) const REDIS_PREFIX: &str = flowmonkey_plumbing::queue::redis::PREFIX;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Start here:
  flowmonkey run hello.yaml --input '{\"name\": \"Ada\"}'    run a flow to its end, no server needed
  flowmonkey flow validate flows/*.yaml                   all problems at once, with line and column
  flowmonkey dev --flows flows                            a durable engine with an HTTP API, here

Look and act:
  flowmonkey execution list                               what runs, what failed
  flowmonkey execution explain EXECUTION                  why it waits, and what moves it
  flowmonkey execution signal EXECUTION review --data '{\"approved\": true}'
  flowmonkey execution watch EXECUTION --server http://engine:7420    live, through restarts

Keep it safe:
  flowmonkey doctor                                       is this directory in good order?
  flowmonkey backup .flowmonkey backup.db                 while it runs, too

Exit codes: 0 done, 1 the execution failed or was cancelled, 2 usage, invalid flow or input, 3 only a signal or a \
person can move the execution, 4 it could not be carried out (disk, network, server).";

/// FlowMonkey: flows of handlers that survive crashes. One binary.
#[derive(Debug, Parser)]
#[command(name = "flowmonkey", version, styles = STYLES, after_help = EXAMPLES, propagate_version = true)]
#[command(infer_long_args = false, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands. Which of it counts is decided in [`crate::settings`] only.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Talk to the server at this URL instead of working in this process
    #[arg(long, global = true, value_name = "URL", env = "FLOWMONKEY_SERVER")]
    pub(crate) server: Option<String>,
    /// Take from this profile of the configuration file what neither options nor the environment say
    #[arg(long, global = true, value_name = "NAME", env = "FLOWMONKEY_PROFILE")]
    pub(crate) profile: Option<String>,
    /// File with the key or token that is shown to the server [default: what FLOWMONKEY_TOKEN holds, if anything]
    #[arg(long, global = true, value_name = "FILE", env = "FLOWMONKEY_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// How results are printed [default: table]
    #[arg(short, long, global = true, value_enum, value_name = "FORM", env = "FLOWMONKEY_OUTPUT")]
    pub(crate) output: Option<Output>,
    /// Log more: -v information, -vv debugging, -vvv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Which log lines go to standard error, as `level` or `target=level,…`
    #[arg(long, global = true, value_name = "FILTER", env = "FLOWMONKEY_LOG", hide_env = false)]
    pub(crate) log: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a flow to its end and print the result
    Run(Box<RunArgs>),
    /// Run an engine with workers and the HTTP API in this directory
    Dev(DevArgs),
    /// Run an engine over Postgres and Redis; any number of them share the work
    Engine(Box<EngineArgs>),
    /// Run handlers for engines, over Redis; list and drain workers
    #[command(visible_alias = "workers")]
    Worker(WorkerCommand),
    /// Bring the record's schema in Postgres up to date
    #[command(
        after_help = "Example:\n  flowmonkey migrate --database postgres://flowmonkey@localhost/flowmonkey"
    )]
    Migrate(MigrateArgs),
    /// Audit the packages that this program is built from, and write a report
    Demo(DemoArgs),
    /// Check, draw, publish and compare flows
    #[command(subcommand, visible_alias = "flows")]
    Flow(FlowCommand),
    /// Look at executions and act on them
    #[command(subcommand, visible_alias = "executions")]
    Execution(ExecutionCommand),
    /// Look at single tasks
    #[command(subcommand, visible_alias = "tasks")]
    Task(TaskCommand),
    /// Look at tasks that wait for a person, try them again or give them up
    #[command(subcommand)]
    Failed(FailedCommand),
    /// Look at queues, and hold them back
    #[command(subcommand, visible_alias = "queues")]
    Queue(QueueCommand),
    /// Publish events, and look at them
    #[command(subcommand, visible_alias = "events")]
    Event(EventCommand),
    /// Look at tables that flows write to
    #[command(subcommand, visible_alias = "tables")]
    Table(TableCommand),
    /// Make, list and take back keys for the HTTP API
    #[command(subcommand, visible_alias = "keys")]
    Key(KeyCommand),
    /// Check the audit of what was changed through the HTTP API
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Look at the profiles of the configuration file, and at what counts here
    #[command(subcommand, visible_alias = "profiles")]
    Profile(ProfileCommand),
    /// Check a data directory, or Postgres, Redis and engines, and explain what is found
    Doctor(DoctorArgs),
    /// Print what a user of Redis must be allowed, for workers of a pool, engines or KEDA
    RedisAcl(RedisAclArgs),
    /// Copy a data directory's record into one file, also while it is in use
    #[command(after_help = "Example:\n  flowmonkey backup .flowmonkey flowmonkey-2026-02-03.db")]
    Backup(BackupArgs),
    /// Make a data directory from a backup
    #[command(after_help = "Example:\n  flowmonkey restore flowmonkey-2026-02-03.db .flowmonkey")]
    Restore(RestoreArgs),
    /// Carry an embedded record to Postgres, with everything that is unfinished in it
    Move(MoveArgs),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  flowmonkey completions bash > ~/.local/share/bash-completion/completions/flowmonkey"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// What survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// Every commit is on the disk before anything follows from it
    #[default]
    Full,
    /// A power cut may lose the last moments; a crash of the process loses nothing
    Relaxed,
}

/// Handlers, and what they may do.
#[derive(Clone, Debug, Args)]
pub(crate) struct HandlerArgs {
    /// File or directory with handler manifests; may be given several times
    #[arg(long = "handlers", value_name = "FILE")]
    pub(crate) manifests: Vec<PathBuf>,
    /// Tasks at a time [default: of `worker` 16, of `engine` twice the cores, of others the same but at least 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: Option<u32>,
    /// Let HTTP requests reach more than public addresses: `loopback`, `private` or a network such as 10.1.0.0/16;
    /// may be given several times
    #[arg(long, value_name = "NETWORK")]
    pub(crate) allow_net: Vec<String>,
    /// Directory that the handlers `file` and `video-processing` may work in; may be given several times [default: the current directory]
    #[arg(long = "files", value_name = "DIR")]
    pub(crate) files: Vec<PathBuf>,
    /// Program that the handler `command` may run, or `all`; may be given several times [default: none]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) allow_command: Vec<String>,
    /// Mail server of the handler `email`: smtp://, smtp+starttls:// or smtps://[USER:PASSWORD@]HOST[:PORT]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_SMTP", hide_env_values = true)]
    pub(crate) smtp: Option<String>,
    /// Certificates (PEM) of authorities that HTTP requests and mails trust besides the public ones
    #[arg(long = "ca-file", value_name = "FILE")]
    pub(crate) ca_files: Vec<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn without_example(command: &Command, path: &str, found: &mut Vec<String>) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let is_leaf = !command.has_subcommands() || command.get_name() == "worker";
            if is_leaf && !help.contains("flowmonkey ") {
                found.push(path.clone());
            }
            for inner in command.get_subcommands() {
                without_example(inner, &path, found);
            }
        }
        let mut found = Vec::new();
        without_example(&Cli::command(), "", &mut found);
        assert_eq!(found, [""; 0]);
    }
}
