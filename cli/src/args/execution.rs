//! What looks at executions and acts on them: `execution`.

use clap::{Args, Subcommand};

use super::Place;

/// Which executions are meant: all that is given has to hold.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Which executions")]
pub(crate) struct Filter {
    /// Only with this status; may be given several times
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    pub(crate) status: Vec<String>,
    /// Only of this flow
    #[arg(long = "flow", value_name = "ID")]
    pub(crate) flow: Option<String>,
    /// Only of this version of the flow
    #[arg(long = "flow-version", value_name = "VERSION")]
    pub(crate) flow_version: Option<String>,
    /// Only with this label; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Only of this tenant
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Only those created at this instant (RFC 3339) or later
    #[arg(long, value_name = "INSTANT")]
    pub(crate) created_after: Option<String>,
    /// Only those created before this instant
    #[arg(long, value_name = "INSTANT")]
    pub(crate) created_before: Option<String>,
    /// Only those that last changed at this instant or later
    #[arg(long, value_name = "INSTANT")]
    pub(crate) updated_after: Option<String>,
    /// Only those that last changed before this instant
    #[arg(long, value_name = "INSTANT")]
    pub(crate) updated_before: Option<String>,
    /// Only those that ended at this instant or later
    #[arg(long, value_name = "INSTANT")]
    pub(crate) ended_after: Option<String>,
    /// Only those that ended before this instant
    #[arg(long, value_name = "INSTANT")]
    pub(crate) ended_before: Option<String>,
    /// Only with this error
    #[arg(long, value_name = "CODE")]
    pub(crate) error_code: Option<String>,
    /// Only those that are at this step, or ended there
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<String>,
    /// Only those that wait, for a reason that begins like this: `signal approved`, or just `timer`
    #[arg(long, value_name = "REASON")]
    pub(crate) waiting: Option<String>,
    /// Only those whose ids begin like this
    #[arg(long = "id", value_name = "BEGINNING")]
    pub(crate) id_prefix: Option<String>,
    /// Only children of this execution
    #[arg(long, value_name = "EXECUTION")]
    pub(crate) parent: Option<String>,
    /// Children of all, too
    #[arg(long)]
    pub(crate) children: bool,
}

/// `flowmonkey execution …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExecutionCommand {
    /// List executions, newest first
    #[command(after_help = "\
Examples:
  flowmonkey execution list --status waiting,incident --flow order
  flowmonkey execution list --error-code HTTP_ERROR --created-after 2026-11-01T00:00:00Z --output json")]
    List {
        #[command(flatten)]
        filter: Box<Filter>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Where the page before ended
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Count executions, exactly up to 10,000
    #[command(after_help = "Example:\n  flowmonkey execution count --flow order --by-status")]
    Count {
        #[command(flatten)]
        filter: Box<Filter>,
        /// A count for each status
        #[arg(long)]
        by_status: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Show one execution
    #[command(after_help = "\
Examples:
  flowmonkey execution show EXECUTION
  flowmonkey execution show EXECUTION --output json | jq .context")]
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show what happened in an execution
    #[command(after_help = "Example:\n  flowmonkey execution history EXECUTION")]
    History {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show the tasks of an execution with their attempts
    #[command(after_help = "Example:\n  flowmonkey execution tasks EXECUTION")]
    Tasks {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// List what an execution started
    #[command(after_help = "Example:\n  flowmonkey execution children EXECUTION")]
    Children {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show what the tasks of an execution logged
    #[command(
        after_help = "Examples:\n  flowmonkey execution logs EXECUTION\n  flowmonkey execution logs EXECUTION --follow"
    )]
    Logs {
        /// Its id
        id: String,
        /// Go on with what is logged from now on, until the execution ends
        #[arg(short, long)]
        follow: bool,
        /// Only of the task with this number
        #[arg(long, value_name = "NUMBER")]
        task: Option<u32>,
        /// Only of this attempt of its task
        #[arg(long, value_name = "NUMBER")]
        attempt: Option<u32>,
        #[command(flatten)]
        place: Place,
    },
    /// List the events that an execution published
    #[command(after_help = "Example:\n  flowmonkey execution events EXECUTION")]
    Events {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Say why an execution waits and what moves it
    #[command(after_help = "Example:\n  flowmonkey execution explain EXECUTION")]
    Explain {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Follow an execution to its end: as a live tree in a terminal, else one line for each event
    #[command(after_help = "\
Examples:
  flowmonkey execution watch EXECUTION
  flowmonkey execution watch EXECUTION --output json | jq -r .type

It begins with what has happened so far, and comes again by itself when the connection is lost; what was missed follows, \
and nothing comes twice. Exits as `run` does: 0 completed, 1 failed or cancelled. Ctrl-C leaves, and the execution goes on.")]
    Watch {
        /// Its id
        id: String,
        /// Lines of what it started, too, from now on; the tree shows that anyway
        #[arg(long)]
        children: bool,
        #[command(flatten)]
        place: Place,
    },
    /// End an execution, undoing and cleaning up
    #[command(after_help = "Example:\n  flowmonkey execution cancel EXECUTION --reason 'ordered twice'")]
    Cancel {
        /// Its id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Let nothing move in an execution until it is resumed
    #[command(after_help = "Example:\n  flowmonkey execution pause EXECUTION --reason lunch")]
    Pause {
        /// Its id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Let a paused execution move again
    #[command(after_help = "Example:\n  flowmonkey execution resume EXECUTION")]
    Resume {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Send a signal that a step waits for, now or later
    #[command(after_help = "\
Examples:
  flowmonkey execution signal EXECUTION review --data '{\"approved\": true}'
  flowmonkey execution signal EXECUTION paid --data @payment.json --signal-id bank-77     counts once")]
    Signal {
        /// Its id
        id: String,
        /// The signal's name
        name: String,
        /// Data: JSON text, @FILE, or `-` for standard input
        #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
        data: Option<String>,
        /// Names this signal, so that it counts once however often it is sent
        #[arg(long, value_name = "ID")]
        signal_id: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Try the failed step of a failed or parked execution again
    #[command(after_help = "Example:\n  flowmonkey execution retry EXECUTION")]
    Retry {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Run an ended execution again from a step, as a new execution
    #[command(after_help = "Example:\n  flowmonkey execution rerun EXECUTION --from charge")]
    Rerun {
        /// Its id
        id: String,
        /// The step to begin at
        #[arg(long, value_name = "STEP")]
        from: String,
        /// Another context: JSON text, @FILE, or `-` for standard input [default: as it was at that step]
        #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
        input: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// End an execution at once: nothing is undone, nothing is cleaned up
    #[command(
        after_help = "Example:\n  flowmonkey execution terminate EXECUTION --reason 'cannot be undone'"
    )]
    Terminate {
        /// Its id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Delete an ended execution with its children and all that belongs to them, for good
    #[command(after_help = "\
Examples:
  flowmonkey execution delete EXECUTION
  flowmonkey execution delete EXECUTION --terminate     ends it first")]
    Delete {
        /// Its id
        id: String,
        /// End it first, if it has not ended
        #[arg(long)]
        terminate: bool,
        #[command(flatten)]
        place: Place,
    },
}
