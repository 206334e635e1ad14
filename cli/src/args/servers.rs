//! What works over Postgres and Redis: `migrate`, `engine`, `worker`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{AccessArgs, CheckpointArgs, HandlerArgs, REDIS_PREFIX};
use crate::listen::ApiArgs;

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
  flowmonkey engine --listen 0.0.0.0:7420 --allow-host e1 --public-url http://e1:7420

Who asks shows a key: `flowmonkey key create --database …` makes the first.

Any number of engines work on one record, none of them is special. SIGTERM and the first Ctrl-C let it finish what it \
has begun; others go on with the rest. Secrets can come from the environment (FLOWMONKEY_DATABASE, FLOWMONKEY_REDIS).")]
pub(crate) struct EngineArgs {
    #[command(flatten)]
    pub(crate) database: DatabaseArgs,
    #[command(flatten)]
    pub(crate) redis: RedisArgs,
    #[command(flatten)]
    pub(crate) api: ApiArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    /// Names this engine among others [default: made anew at each start]
    #[arg(long, value_name = "NAME", env = "FLOWMONKEY_ENGINE_NAME")]
    pub(crate) name: Option<String>,
    /// Milliseconds between heartbeats that workers are told
    #[arg(long, value_name = "MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(crate) heartbeat_ms: u64,
    /// Milliseconds without a heartbeat after which a task is given to another worker
    #[arg(long, value_name = "MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(30..=3_600_000))]
    pub(crate) lease_ms: u64,
    /// Bytes of the context that travel with a task; of a larger one workers read what they need from the engine
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    pub(crate) context_inline_bytes: u32,
    /// Where checkpoints over 1 MiB are kept: file:///FOLDER (shared by all engines), s3://BUCKET/PREFIX, gs://… or az://…
    /// [default: they are refused]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_OBJECT_STORE", hide_env_values = true)]
    pub(crate) object_store: Option<String>,
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
    pub(crate) checkpoints: CheckpointArgs,
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
    pub(crate) checkpoints: CheckpointArgs,
    #[command(flatten)]
    pub(crate) handlers: HandlerArgs,
}
