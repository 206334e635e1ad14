//! What looks at flows, executions and tables, and acts on them: `flow`, `execution`, `table`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DEV_DATA_DIR, Output};

/// `flowmonkey flow …`.
#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Report all problems of flow files as `file:line:column: severity: reason`
    #[command(
        after_help = "Examples:\n  flowmonkey flow validate flows/*.yaml\n  flowmonkey flow validate order.json --output json"
    )]
    Validate {
        /// Flow files, directories with flow files, or `-` for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<String>,
        /// Manifests of the handlers that the flows use: a `configSchema` in one is checked, as those of the stock handlers are
        #[arg(long = "handlers", value_name = "FILE")]
        manifests: Vec<PathBuf>,
        /// How issues are printed
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Draw a flow as a Mermaid chart
    #[command(after_help = "Example:\n  flowmonkey flow graph order.yaml > order.mmd")]
    Graph {
        /// Flow file, or `-` for standard input
        #[arg(value_name = "FILE")]
        file: String,
        /// Which flow of the file, by id [default: the first]
        #[arg(long = "flow", value_name = "ID")]
        flow: Option<String>,
    },
    /// Print the JSON Schema of flow files, for editors
    Schema,
}

/// Where executions are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// The record: the process that owns it is asked when one runs, else it is opened here
    #[arg(long, value_name = "DIR", default_value = DEV_DATA_DIR, env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// `flowmonkey execution …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExecutionCommand {
    /// List executions, newest first
    List {
        /// Only with this status; may be given several times
        #[arg(long, value_name = "STATUS")]
        status: Vec<String>,
        /// Only of this flow
        #[arg(long = "flow", value_name = "ID")]
        flow: Option<String>,
        /// Only with this label; may be given several times
        #[arg(long, value_name = "NAME=VALUE")]
        label: Vec<String>,
        /// At most this many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Where the page before ended
        #[arg(long, value_name = "CURSOR")]
        cursor: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Show one execution
    Show {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Show what happened in an execution
    History {
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
    /// Say why an execution waits and what moves it
    Explain {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// End an execution, undoing and cleaning up
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
    Resume {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Send a signal that a step waits for, now or later
    Signal {
        /// Its id
        id: String,
        /// The signal's name
        name: String,
        /// Data: JSON text, @FILE, or `-` for standard input
        #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
        data: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Try the failed step of a failed or parked execution again
    Retry {
        /// Its id
        id: String,
        #[command(flatten)]
        place: Place,
    },
    /// Run an ended execution again from a step, as a new execution
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
}

/// `flowmonkey table …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// List defined tables
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Print rows in the order of insertion
    Rows {
        /// The table
        table: String,
        /// Only rows after this sequence
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<i64>,
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Define a table, or replace its columns; rows stay
    #[command(
        after_help = "Example:\n  flowmonkey table define '{\"id\": \"orders\", \"columns\": [{\"id\": \"total\", \"type\": \"number\"}]}'"
    )]
    Define {
        /// Definition: JSON text, @FILE, or `-` for standard input
        #[arg(value_name = "JSON|@FILE|-")]
        definition: String,
        #[command(flatten)]
        place: Place,
    },
}
