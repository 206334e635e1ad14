//! What checks, draws, publishes and compares flows: `flow`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Place;

/// Where flows are, and whose.
#[derive(Clone, Debug, Args)]
pub(crate) struct FlowPlace {
    /// Whose flow it is, for who sees those of all tenants [default: the caller's tenant, or none]
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `flowmonkey flow …`.
#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Report all problems of flow files as `file:line:column: severity: reason`
    #[command(after_help = "\
Examples:
  flowmonkey flow validate flows/*.yaml
  flowmonkey flow validate order.json --output json
  flowmonkey flow validate order.yaml --server http://engine:7420     by the rules of that server's release")]
    Validate {
        /// Flow files, directories with flow files, or `-` for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<String>,
        /// Manifests of the handlers that the flows use: a `configSchema` in one is checked, as those of the stock handlers are
        #[arg(long = "handlers", value_name = "FILE")]
        manifests: Vec<PathBuf>,
    },
    /// Draw a flow as a Mermaid chart
    #[command(disable_version_flag = true)]
    #[command(after_help = "\
Examples:
  flowmonkey flow graph order.yaml > order.mmd
  flowmonkey flow graph order --server http://engine:7420     a published flow, by its id")]
    Graph {
        /// Flow file, or `-` for standard input; else the id of a published flow
        #[arg(value_name = "FILE|ID")]
        flow: String,
        /// Which flow of the file, by id [default: the first]
        #[arg(long = "flow", value_name = "ID")]
        of_file: Option<String>,
        /// Which version of the published flow [default: the latest]
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// Print the JSON Schema of flow files, for editors
    #[command(after_help = "Example:\n  flowmonkey flow schema > flow.schema.json")]
    Schema,
    /// Publish all flows of files, and define their tables; nothing is published when one of the files has errors
    #[command(after_help = "\
Examples:
  flowmonkey flow publish flows/ --server http://engine:7420
  flowmonkey flow publish order.yaml --profile production")]
    Publish {
        /// Flow files, directories with flow files, or `-` for standard input
        #[arg(required = true, value_name = "FILE|DIR")]
        files: Vec<String>,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// List published flows with their versions
    #[command(after_help = "Example:\n  flowmonkey flow list --server http://engine:7420")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show a published flow: its state, its versions, its definition
    #[command(disable_version_flag = true)]
    #[command(after_help = "\
Examples:
  flowmonkey flow show order
  flowmonkey flow show order --version 1.2.0 --output json | jq .definition")]
    Show {
        /// The flow's id
        id: String,
        /// Which version [default: the latest]
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// Say what changed between two versions
    #[command(after_help = "Example:\n  flowmonkey flow diff order 1.1.0 1.2.0")]
    Diff {
        /// The flow's id
        id: String,
        /// The older version
        from: String,
        /// The newer version
        to: String,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// Take versions out of use: they do not start any more, their executions go on
    #[command(disable_version_flag = true)]
    #[command(after_help = "Example:\n  flowmonkey flow archive order --version 1.1.0")]
    Archive {
        /// The flow's id
        id: String,
        /// Which version [default: all of them]
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// Take archived versions back into use
    #[command(disable_version_flag = true)]
    #[command(after_help = "Example:\n  flowmonkey flow restore order --version 1.1.0")]
    Restore {
        /// The flow's id
        id: String,
        /// Which version [default: all of them]
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// Hold back the tasks of all executions of a flow
    #[command(after_help = "Example:\n  flowmonkey flow pause order --reason 'the shop moves'")]
    Pause {
        /// The flow's id
        id: String,
        /// Why
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        at: FlowPlace,
    },
    /// Let the executions of a paused flow go on
    #[command(after_help = "Example:\n  flowmonkey flow resume order")]
    Resume {
        /// The flow's id
        id: String,
        #[command(flatten)]
        at: FlowPlace,
    },
}
