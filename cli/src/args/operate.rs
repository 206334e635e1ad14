//! What operators look at and act on: `task`, `failed`, `queue`, `worker list`, `event`, `profile`.

use clap::error::Error;
use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};

use super::{Place, WorkerArgs};

/// `flowmonkey task …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Show one task: its attempts, and what its worker is given while it is out
    #[command(
        after_help = "Example:\n  flowmonkey task show TASK     ids are in `flowmonkey execution tasks EXECUTION`"
    )]
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// `flowmonkey failed …`.
#[derive(Debug, Subcommand)]
pub(crate) enum FailedCommand {
    /// List tasks that wait for a person, newest first
    #[command(after_help = "Example:\n  flowmonkey failed list --handler http-request --code HTTP_ERROR")]
    List {
        /// Those that were replayed or discarded, too
        #[arg(long)]
        all: bool,
        /// Only of this handler type
        #[arg(long, value_name = "TYPE")]
        handler: Option<String>,
        /// Only of executions of this flow
        #[arg(long = "flow", value_name = "ID")]
        flow: Option<String>,
        /// Only with this error
        #[arg(long, value_name = "CODE")]
        code: Option<String>,
        /// Only of this execution
        #[arg(long, value_name = "EXECUTION")]
        execution: Option<String>,
        /// Only those parked at this instant (RFC 3339) or later
        #[arg(long, value_name = "INSTANT")]
        since: Option<String>,
        /// Only those parked before this instant
        #[arg(long, value_name = "INSTANT")]
        until: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Where the page before ended
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Show one of them, with its error and input
    #[command(after_help = "Example:\n  flowmonkey failed show TASK")]
    Show {
        /// The task's id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Try the task again, with fresh retries and the same idempotency key
    #[command(after_help = "Example:\n  flowmonkey failed replay TASK")]
    Replay {
        /// The task's id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Give the task up, which cancels its execution
    #[command(after_help = "Example:\n  flowmonkey failed discard TASK --reason 'the customer is gone'")]
    Discard {
        /// The task's id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

/// `flowmonkey queue …`.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues: what is ready, what workers have, what is paused
    #[command(after_help = "Example:\n  flowmonkey queue list --server http://engine:7420")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Give no task of a pool to workers until it is resumed
    #[command(after_help = "Example:\n  flowmonkey queue pause eu/http-request --reason repairs")]
    Pause {
        /// The pool: [TENANT@][REGION/]HANDLER
        pool: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Give the tasks of a paused pool to workers again
    #[command(after_help = "Example:\n  flowmonkey queue resume eu/http-request")]
    Resume {
        /// The pool: [TENANT@][REGION/]HANDLER
        pool: String,
        #[command(flatten)]
        place: Place,
    },
}

/// `flowmonkey event …`.
#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Publish an event for all who wait for its name, and for webhooks
    #[command(
        after_help = "Example:\n  flowmonkey event publish parcel.arrived --data '{\"id\": 7}' --event-id depot-7"
    )]
    Publish {
        /// Its name
        name: String,
        /// Data: JSON text, @FILE, or `-` for standard input
        #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
        data: Option<String>,
        /// Names this event, so that it counts once however often it is published
        #[arg(long, value_name = "ID")]
        event_id: Option<String>,
        /// Whose it is, for who sees the rows of all tenants [default: the caller's tenant, or none]
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// List events, newest first
    #[command(after_help = "Example:\n  flowmonkey event list --name parcel.arrived --limit 20")]
    List {
        /// Only of this name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Only those that this execution published
        #[arg(long, value_name = "EXECUTION")]
        source: Option<String>,
        /// Only those published at this instant (RFC 3339) or later
        #[arg(long, value_name = "INSTANT")]
        since: Option<String>,
        /// Only those published before this instant
        #[arg(long, value_name = "INSTANT")]
        until: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Where the page before ended
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
        #[command(flatten)]
        place: Place,
    },
}

/// `flowmonkey profile …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProfileCommand {
    /// List the profiles of the configuration file
    #[command(after_help = "\
Example:
  flowmonkey profile list

The file is $FLOWMONKEY_CONFIG, else ~/.config/flowmonkey/config.toml:
  [profiles.production]
  server = \"https://flowmonkey.example\"
  token-file = \"production.token\"
  output = \"yaml\"")]
    List,
    /// Show which server, token and form of output count here, and who says so; the token itself is not shown
    #[command(after_help = "\
Examples:
  flowmonkey profile show                          what counts for commands like this one
  flowmonkey profile show --profile production")]
    Show,
}

/// `flowmonkey worker list` and `drain`.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// List workers: what they serve, how busy they are
    #[command(after_help = "Example:\n  flowmonkey worker list --server http://engine:7420")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Ask a worker to leave: it takes nothing new, ends what it runs within its grace and gives back the rest
    #[command(after_help = "Example:\n  flowmonkey worker drain WORKER --server http://engine:7420")]
    Drain {
        /// Its name, as `flowmonkey worker list` shows it
        worker: String,
        #[command(flatten)]
        place: Place,
    },
}

/// `flowmonkey worker`: runs one, or asks about those that run.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    Run(Box<WorkerArgs>),
    Ask(WorkersCommand),
}

// By hand: with a subcommand, what a worker needs to run is not asked for.
impl FromArgMatches for WorkerCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        if matches.subcommand_name().is_some() {
            WorkersCommand::from_arg_matches(matches).map(Self::Ask)
        } else {
            WorkerArgs::from_arg_matches(matches).map(|args| Self::Run(Box::new(args)))
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for WorkerCommand {
    fn augment_args(command: Command) -> Command {
        WorkersCommand::augment_subcommands(WorkerArgs::augment_args(command))
            .subcommand_required(false)
            .arg_required_else_help(false)
            .subcommand_negates_reqs(true)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
