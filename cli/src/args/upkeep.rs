//! What keeps a record in good order: `doctor`, `redis-acl`, `backup`, `restore`, `move`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::REDIS_PREFIX;
use super::servers::{Pooler, RedisSettings};

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
