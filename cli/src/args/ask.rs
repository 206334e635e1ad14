//! Where executions are asked for, and what looks at tables and defines them: `table`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DEV_DATA_DIR;

/// Where executions are.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// The record, where no server is named: the process that owns it is asked when one runs, else it is opened here
    #[arg(long, value_name = "DIR", default_value = DEV_DATA_DIR, env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
}

/// `flowmonkey table …`.
#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// List defined tables
    #[command(after_help = "Example:\n  flowmonkey table list")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Print rows in the order of insertion
    #[command(after_help = "Example:\n  flowmonkey table rows orders --limit 20")]
    Rows {
        /// The table
        table: String,
        /// Only rows after this sequence
        #[arg(long, value_name = "SEQUENCE")]
        after: Option<i64>,
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
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
