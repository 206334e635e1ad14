//! `flowmonkey redis-acl`: what users of Redis must be allowed.

use flowmonkey_plumbing::queue::redis::{AclRole, acl_rules};

use super::print;
use crate::args::{self, AclFormat, RedisAclArgs};
use crate::errors::{CliError, Exit};

/// Prints the rules of one user.
pub(crate) fn redis_acl(args: RedisAclArgs) -> Result<Exit, CliError> {
    let pool = args.pool.unwrap_or_default();
    let (role, name) = match args.role {
        args::AclRole::Worker => (AclRole::Worker { pool: pool.clone() }, format!("worker-{pool}")),
        args::AclRole::Engine => (AclRole::Engine, "engine".to_owned()),
        args::AclRole::Keda => (AclRole::Keda, "keda".to_owned()),
    };
    if args.role != args::AclRole::Worker && !pool.is_empty() {
        return Err(CliError::Usage("--pool is for workers: the other roles see all pools".into()));
    }
    let rules = acl_rules(&role, &args.prefix).ok_or_else(|| {
        CliError::Usage(format!(
            "`{pool}` is no pool, or `{}` no prefix: a pool is [TENANT@][REGION/]HANDLER, and each part as well as the \
             prefix consists of a-z, 0-9, `.`, `_` and `-`",
            args.prefix
        ))
    })?;
    let name = args.user.unwrap_or(name);
    if name.is_empty()
        || name.chars().any(|character| character.is_whitespace() || "\"'\\".contains(character))
    {
        return Err(CliError::Usage(format!(
            "`{name}` cannot name a user: no spaces, quotes and backslashes"
        )));
    }
    let line = match args.format {
        AclFormat::File => format!("user {name} on {rules}"),
        // Old selectors would stay beside the new ones.
        AclFormat::Command => format!("ACL SETUSER {name} on clearselectors {rules}"),
    };
    print(&line)?;
    Ok(Exit::Done)
}
