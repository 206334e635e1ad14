//! The command line: what can be asked, and the help that teaches it.

use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::listen::ApiArgs;

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

/// What every command understands; the server is of use where executions and tables are asked for.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Talk to the server at this URL instead of working in this process: run, execution, table
    #[arg(long, global = true, value_name = "URL", env = "FLOWMONKEY_SERVER")]
    pub(crate) server: Option<String>,
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
    Run(RunArgs),
    /// Run an engine with workers and the HTTP API in this directory
    Dev(DevArgs),
    /// Run an engine over Postgres and Redis; any number of them share the work
    Engine(Box<EngineArgs>),
    /// Run handlers for engines, over Redis
    Worker(Box<WorkerArgs>),
    /// Bring the record's schema in Postgres up to date
    #[command(
        after_help = "Example:\n  flowmonkey migrate --database postgres://flowmonkey@localhost/flowmonkey"
    )]
    Migrate(MigrateArgs),
    /// Audit the packages that this program is built from, and write a report
    Demo(DemoArgs),
    /// Check, draw and describe flows
    #[command(subcommand)]
    Flow(FlowCommand),
    /// Look at executions and act on them
    #[command(subcommand, visible_alias = "executions")]
    Execution(ExecutionCommand),
    /// Look at tables that flows write to
    #[command(subcommand, visible_alias = "tables")]
    Table(TableCommand),
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

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON value on standard output
    Json,
    /// For people
    #[default]
    Table,
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

/// `flowmonkey run`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey run hello.yaml --input '{\"name\": \"Ada\"}'
  flowmonkey run order.yaml --input @order.json --output json | jq .output
  cat order.json | flowmonkey run order.yaml --input -
  flowmonkey run report.yaml --handlers handlers/ --data-dir ./data
  flowmonkey run reminder.yaml --skip-time             a 30-day wait passes at once
  flowmonkey run order.yaml --server http://engine:7420 --fallback embedded --idempotency-key order-17

Without --data-dir the record lives in a temporary directory, which is kept and named when the execution does not \
complete. The first Ctrl-C cancels the execution and lets it clean up, the second leaves at once.")]
pub(crate) struct RunArgs {
    /// File with one flow or several (JSON or YAML), or `-` for standard input; with --server also the id of a flow
    #[arg(value_name = "FLOW")]
    pub(crate) file: String,
    /// Which flow of the file, by id [default: the first]
    #[arg(long = "flow", value_name = "ID")]
    pub(crate) flow: Option<String>,
    /// The initial context: JSON text, @FILE, or `-` for standard input [default: {}]
    #[arg(short, long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: Option<String>,
    /// Keep the record here [default: a temporary directory]
    #[arg(long, value_name = "DIR", env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Let waits and delays pass at once, in virtual time
    #[arg(long)]
    pub(crate) skip_time: bool,
    /// The same key gives the same execution of the flow, for 24 hours; on a server, or in the same --data-dir
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// What to do when the server of --server cannot be reached: run the flow in this process
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) fallback: Option<Fallback>,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
    /// How much a power cut may lose
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Durability,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}

/// Where a flow runs when a server cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fallback {
    /// In this process, as without --server
    Embedded,
}

/// `flowmonkey dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey dev --flows flows                          publish every flow file, again when it changes
  flowmonkey dev --handlers handlers/ --data-dir ./data
  flowmonkey dev --allow-net loopback --allow-command git

What was unfinished goes on. SIGTERM and the first Ctrl-C let running handlers end; the second Ctrl-C leaves at once \
and loses nothing: what ran then runs again at the next start.")]
pub(crate) struct DevArgs {
    /// Where the record lives
    #[arg(long, value_name = "DIR", default_value = DEV_DATA_DIR, env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Publish the flow files of this directory, now and when they change
    #[arg(long, value_name = "DIR")]
    pub(crate) flows: Option<PathBuf>,
    /// How much a power cut may lose
    #[arg(long, value_enum, default_value_t)]
    pub(crate) durability: Durability,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}

/// `flowmonkey demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey demo                          audit-report/index.html and packages.csv
  flowmonkey demo --project ../mine        the same for another Rust project

Needs cargo and the sources that cargo has downloaded; no network.")]
pub(crate) struct DemoArgs {
    /// Directory with the Cargo.toml of the project to audit [default: the source tree of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) project: Option<PathBuf>,
    /// Directory that the report is written to
    #[arg(long, value_name = "DIR", default_value = "audit-report")]
    pub(crate) report: PathBuf,
    /// Tasks at a time [default: twice the cores, at least 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: Option<u32>,
    /// How the summary is printed
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

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

/// `flowmonkey doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey doctor                                     the data directory here
  flowmonkey doctor --database postgres://db/flowmonkey --redis redis://cache --engine http://engine:7420

With --database, --redis or --engine the data directory is only checked when it is named. No record is \
migrated; Redis gets the functions if it lacks them and this user may load them. Exits with 0 when all is well (warnings \
included), with 1 when something must be mended.")]
pub(crate) struct DoctorArgs {
    /// The data directory to check [default: .flowmonkey, if nothing else is to be checked]
    #[arg(long, value_name = "DIR", env = "FLOWMONKEY_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The record of engines that share it: postgres://USER:PASSWORD@HOST:PORT/DATABASE[?sslmode=…]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_DATABASE", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// What pools the connections between here and Postgres
    #[arg(long, value_enum, default_value_t, env = "FLOWMONKEY_POOLER")]
    pub(crate) pooler: Pooler,
    /// The queues: redis://, redis+sentinel://HOST,HOST/PRIMARY or redis+cluster://; rediss… for TLS
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_REDIS", hide_env_values = true)]
    pub(crate) redis: Option<String>,
    #[command(flatten)]
    pub(crate) redis_settings: RedisSettings,
    /// An engine's HTTP API; several are separated by commas
    #[arg(long = "engine", value_name = "URL", env = "FLOWMONKEY_ENGINE", value_delimiter = ',')]
    pub(crate) engines: Vec<String>,
    /// Handler manifests to check
    #[arg(long = "handlers", value_name = "FILE")]
    pub(crate) manifests: Vec<PathBuf>,
    /// How findings are printed
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// `flowmonkey redis-acl`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey redis-acl --pool http-request >> users.acl          one line for an ACL file (--format file)
  flowmonkey redis-acl --pool eu/encode --format command | redis-cli
  flowmonkey redis-acl --role engine --user engines

Passwords are never asked for nor printed. A new user is `on` and lets nobody in until it gets a password: in an ACL file \
add `#` and the password's SHA-256 to its line (printf %s \"$PASSWORD\" | sha256sum), then ACL LOAD; on a running server
  ACL SETUSER NAME >PASSWORD
and ACL SAVE if the server has an ACL file. The rules replace older ones of the user; its passwords stay. Needs Redis 7.0.
The name and the password then go into the URL: redis://NAME:PASSWORD@HOST (FLOWMONKEY_REDIS).")]
pub(crate) struct RedisAclArgs {
    /// For whom
    #[arg(long, value_enum, default_value_t)]
    pub(crate) role: AclRole,
    /// The pool whose tasks the workers take: [TENANT@][REGION/]HANDLER
    #[arg(long, value_name = "POOL", required_if_eq("role", "worker"))]
    pub(crate) pool: Option<String>,
    /// Begins the names of all keys, as --redis-prefix of engines and workers
    #[arg(long, value_name = "PREFIX", default_value = REDIS_PREFIX, env = "FLOWMONKEY_REDIS_PREFIX")]
    pub(crate) prefix: String,
    /// Name of the user [default: the role; of workers worker-POOL]
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// How the rules are printed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: AclFormat,
}

/// A kind of user of Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AclRole {
    /// Workers of one pool: they see and touch nothing of other pools
    #[default]
    Worker,
    /// Engines: everything under the prefix, and loading the functions
    Engine,
    /// The autoscaler KEDA: how long the queues are
    Keda,
}

/// How rules are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AclFormat {
    /// A line of an ACL file
    #[default]
    File,
    /// A command for redis-cli
    Command,
}

/// `flowmonkey backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The data directory
    #[arg(value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The file to make; it must not exist
    pub(crate) file: PathBuf,
}

/// `flowmonkey move`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  flowmonkey move --from sqlite:.flowmonkey --to postgres://flowmonkey@db/flowmonkey

The data directory must not be in use, the database must be empty. Everything comes along or nothing does. Afterwards the \
old record has another name, so that nothing goes on in two places. A backup is moved as it is, and keeps its name.")]
pub(crate) struct MoveArgs {
    /// sqlite:DIR, a data directory, or sqlite:FILE, a backup
    #[arg(long, value_name = "SOURCE")]
    pub(crate) from: String,
    /// The database: postgres://USER:PASSWORD@HOST:PORT/DATABASE[?sslmode=verify-full&sslrootcert=FILE]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_DATABASE", hide_env_values = true)]
    pub(crate) to: String,
    /// What pools the connections between here and Postgres
    #[arg(long, value_enum, default_value_t, env = "FLOWMONKEY_POOLER")]
    pub(crate) pooler: Pooler,
    /// How the numbers of rows are printed
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// `flowmonkey restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A file made by `flowmonkey backup`
    pub(crate) file: PathBuf,
    /// The data directory to make; it must not hold a record
    #[arg(value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
}

/// `flowmonkey migrate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The record: postgres://USER:PASSWORD@HOST:PORT/DATABASE[?sslmode=verify-full&sslrootcert=FILE]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_DATABASE", hide_env_values = true)]
    pub(crate) database: String,
    /// What pools the connections between here and Postgres
    #[arg(long, value_enum, default_value_t, env = "FLOWMONKEY_POOLER")]
    pub(crate) pooler: Pooler,
}

/// The record of engines that share it.
#[derive(Clone, Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// The record: postgres://USER:PASSWORD@HOST:PORT/DATABASE[?sslmode=verify-full&sslrootcert=FILE]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_DATABASE", hide_env_values = true)]
    pub(crate) database: String,
    /// What pools the connections between here and Postgres
    #[arg(long, value_enum, default_value_t, env = "FLOWMONKEY_POOLER")]
    pub(crate) pooler: Pooler,
    /// Leave the schema as it is; one that is too old is then an error
    #[arg(long, env = "FLOWMONKEY_NO_MIGRATE")]
    pub(crate) no_migrate: bool,
}

/// What stands between an engine and Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pooler {
    /// Nothing, or a pooler of whole sessions
    #[default]
    None,
    /// A pooler of transactions that knows prepared statements (`PgBouncer` 1.21 and later)
    Transaction,
    /// A pooler of transactions that does not
    TransactionUnnamed,
}

/// The queues.
#[derive(Clone, Debug, Args)]
pub(crate) struct RedisArgs {
    /// The queues: redis://, redis+sentinel://HOST,HOST/PRIMARY or redis+cluster://; rediss… for TLS
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_REDIS", hide_env_values = true)]
    pub(crate) redis: String,
    #[command(flatten)]
    pub(crate) settings: RedisSettings,
}

/// How the queues are used.
#[derive(Clone, Debug, Args)]
pub(crate) struct RedisSettings {
    /// Begins the names of all keys, so that several systems can share a Redis
    #[arg(long, value_name = "PREFIX", default_value = REDIS_PREFIX, env = "FLOWMONKEY_REDIS_PREFIX")]
    pub(crate) redis_prefix: String,
    /// Certificates (PEM) that sign those of the Redis servers [default: those of the web]
    #[arg(long, value_name = "FILE", env = "FLOWMONKEY_REDIS_CA_FILE")]
    pub(crate) redis_ca_file: Option<PathBuf>,
    /// Certificate (PEM) by which this process shows who it is to Redis
    #[arg(long, value_name = "FILE", env = "FLOWMONKEY_REDIS_CERTIFICATE_FILE")]
    pub(crate) redis_certificate_file: Option<PathBuf>,
    /// Key (PEM) of that certificate
    #[arg(long, value_name = "FILE", env = "FLOWMONKEY_REDIS_KEY_FILE")]
    pub(crate) redis_key_file: Option<PathBuf>,
    /// Work with a Redis that may evict tasks; they are then found again and run late
    #[arg(long, env = "FLOWMONKEY_REDIS_ALLOW_EVICTION")]
    pub(crate) redis_allow_eviction: bool,
}

/// `flowmonkey engine`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey engine --database postgres://flowmonkey@db/flowmonkey --redis redis://cache
  flowmonkey engine --queue-percent http-request=10     a tenth goes to workers, the rest runs here
  flowmonkey engine --fall-back transform               runs here while no worker is there for it
  flowmonkey engine --listen 0.0.0.0:7420 --insecure --allow-host e1 --public-url http://e1:7420

Any number of engines work on one record, none of them is special. SIGTERM and the first Ctrl-C let it finish what it \
has begun; others go on with the rest. Secrets can come from the environment (FLOWMONKEY_DATABASE, FLOWMONKEY_REDIS).")]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) redis: RedisArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    /// Names this engine among others [default: made anew at each start]
    #[arg(long, value_name = "NAME", env = "FLOWMONKEY_ENGINE_NAME")]
    pub(crate) name: Option<String>,
    /// Milliseconds between heartbeats that workers are told
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(crate) heartbeat_ms: u64,
    /// Milliseconds without a heartbeat after which a task is given to another worker
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(30..=3_600_000))]
    pub(crate) lease_ms: u64,
    /// Of a hundred executions so many send tasks of this handler to workers, the others run them here; separated by
    /// commas
    #[arg(long, value_name = "HANDLER=PERCENT", env = "FLOWMONKEY_QUEUE_PERCENT", value_delimiter = ',')]
    pub(crate) queue_percent: Vec<String>,
    /// Run tasks of these handlers here while no worker is there for them; separated by commas
    #[arg(long, value_name = "HANDLER", env = "FLOWMONKEY_FALL_BACK", value_delimiter = ',')]
    pub(crate) fall_back: Vec<String>,
    /// Milliseconds that tasks which run here have to end when the engine stops
    #[arg(long, value_name = "MS", default_value_t = 20_000)]
    pub(crate) grace_ms: u64,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}

/// `flowmonkey worker`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  flowmonkey worker --redis redis://cache --engine http://engine:7420
  flowmonkey worker --handler http-request,transform --concurrency 64
  flowmonkey worker --handlers handlers/ --handler encode --spill-dir /var/lib/flowmonkey/spill

A worker needs the queues and an engine's URL, and nothing else. SIGTERM and the first Ctrl-C let running handlers end; \
what is not done within the grace is given back and runs elsewhere, and no retry is used up.")]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    pub(crate) redis: RedisArgs,
    /// An engine's HTTP API; several are separated by commas
    #[arg(
        long = "engine",
        value_name = "URL",
        required = true,
        env = "FLOWMONKEY_ENGINE",
        value_delimiter = ','
    )]
    pub(crate) engines: Vec<String>,
    /// Handler types to run, separated by commas [default: all stock handlers and those of --handlers]
    #[arg(long, value_name = "TYPE", env = "FLOWMONKEY_HANDLER", value_delimiter = ',')]
    pub(crate) handler: Vec<String>,
    /// Begins the worker's name
    #[arg(long, value_name = "NAME", env = "FLOWMONKEY_WORKER_NAME")]
    pub(crate) name: Option<String>,
    /// The region whose tasks it runs
    #[arg(long, value_name = "REGION", env = "FLOWMONKEY_REGION")]
    pub(crate) region: Option<String>,
    /// Where results wait while Redis is away [default: in memory]
    #[arg(long, value_name = "DIR", env = "FLOWMONKEY_SPILL_DIR")]
    pub(crate) spill_dir: Option<PathBuf>,
    /// Milliseconds between heartbeats; tasks may ask for less
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(10..=20_000))]
    pub(crate) heartbeat_ms: u64,
    /// Milliseconds that running handlers have to end when the worker stops
    #[arg(long, value_name = "MS", default_value_t = 20_000)]
    pub(crate) grace_ms: u64,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }
}
