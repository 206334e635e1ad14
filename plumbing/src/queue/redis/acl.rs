//! What each kind of user may do, as rules for `ACL SETUSER` or an ACL file. Needs Redis 7.0 (selectors).
//!
//! A pool is the border of trust: workers of one pool could disturb each other, but see nothing of other pools. Commands
//! within functions are checked against the same rules, so a worker that calls an engine's function gets nowhere.

use super::keys::{Keys, PoolKeys, is_prefix};

/// A kind of user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclRole {
    /// The workers of one pool.
    Worker {
        /// The pool.
        pool: String,
    },
    /// Engines: all keys under the prefix, and the loading of functions.
    Engine,
    /// The autoscaler KEDA: lengths of lists. Its scaler uses EVAL, for which Redis wants the right to write; that script
    /// can then still only ask for types and lengths.
    Keda,
}

/// The rules for a user, to follow `ACL SETUSER <name> on ><password>` or `user <name> on ><password>`; none: the pool or
/// the prefix is not valid.
#[must_use]
pub fn acl_rules(role: &AclRole, prefix: &str) -> Option<String> {
    if !is_prefix(prefix) {
        return None;
    }
    match role {
        AclRole::Worker { pool } => Keys::new(prefix).pool(pool).map(|pool| worker(&pool)),
        AclRole::Engine => Some(engine(prefix)),
        AclRole::Keda => Some(format!(
            "resetkeys resetchannels -@all ~{prefix}:tasks:* ~{prefix}:leases:* +ping +hello +select \
             +client|setname +cluster|slots +eval +type +llen +zcard +scard +hlen"
        )),
    }
}

/// Reading and writing, but nothing that stops, empties or configures the server. Patterns of channels that engines
/// subscribe to stand there as they are: Redis compares those word by word.
fn engine(prefix: &str) -> String {
    format!(
        "resetkeys resetchannels ~{prefix}:* &{prefix}:* &{prefix}:results-bell:* &{prefix}:progress:* -@all +@read +@write +@pubsub +@connection -@dangerous \
         -function +function|load +fcall +time +info +cluster|slots +cluster|info"
    )
}

fn worker(pool: &PoolKeys) -> String {
    let (high, normal, low) = (pool.high(), pool.normal(), pool.low());
    let processing = pool.processing("*");
    let every = pool.all().map(|key| format!("~{key}")).join(" ");
    [
        // Not in selectors: commands without keys, and channels. Nobody but this pool's workers reads its progress there.
        format!(
            "resetkeys resetchannels &{} &{} -@all +ping +hello +select +client|setname +time +publish +cluster|slots",
            pool.results_bell(),
            pool.progress()
        ),
        format!("(+fcall {every} ~{processing})"),
        format!("(+llen +lrange +lrem +rpush +rpop +exists ~{high} ~{normal} ~{low})"),
        format!("(+llen +lpush +lrem +lrange ~{processing})"),
        format!("(+hmget +hlen +hexists %R~{})", pool.payload()),
        format!("(+hget +hmget +hset +hdel +hlen ~{} ~{})", pool.terms(), pool.owners()),
        format!("(+hget +hset +hlen ~{})", pool.latest()),
        format!("(+zadd +zrem +zscore +zcard ~{})", pool.leases()),
        // Results go in, and are not read.
        format!("(+llen +lpush %W~{} %W~{})", pool.results(), pool.addressed("*")),
        format!("(+hget +hmget +hlen %R~{} %R~{})", pool.senders(), pool.listeners()),
        format!("(+hlen +hexists +hsetnx %W~{})", pool.outcomes()),
        format!("(+sismember +srem +scard ~{})", pool.cancel()),
        format!("(+get %R~{})", pool.generation()),
        format!("(+llen +lpush +ltrim +blpop ~{})", pool.bell()),
        format!("(+hget +hset +hdel ~{})", pool.workers()),
        format!("(+llen +lpush +ltrim %W~{})", pool.unreadable()),
        format!("(+hget +hset +hincrby +hlen ~{})", pool.gone()),
    ]
    .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_in_patterns_get_no_rules() {
        assert_eq!(acl_rules(&AclRole::Worker { pool: "*".into() }, "flowmonkey"), None);
        assert_eq!(acl_rules(&AclRole::Worker { pool: "a b".into() }, "flowmonkey"), None);
        assert_eq!(acl_rules(&AclRole::Engine, "flow*"), None);
        assert_eq!(acl_rules(&AclRole::Keda, "a ~*"), None);
    }
}
