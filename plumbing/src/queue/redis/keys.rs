//! The names of all keys and channels, and what they may be made of.
//!
//! The hash tag `{pool}` keeps the keys of a pool in one slot of a Cluster. `docs`, autoscalers and ACLs rely on these
//! names: they change only together with the version of the functions.

/// Bytes of a pool's id.
pub const POOL_BYTES_MAX: usize = 200;
/// Bytes of the name of a worker or an engine, and of the prefix.
pub(super) const NAME_BYTES_MAX: usize = 200;

/// Whether `pool` is a pool's id: `[tenant@][region/]handler`, each of `[a-z0-9._-]`.
#[must_use]
pub fn is_pool(pool: &str) -> bool {
    let without_tenant = match pool.split_once('@') {
        Some((tenant, rest)) if is_word(tenant) => rest,
        Some(_) => return false,
        None => pool,
    };
    let handler = match without_tenant.split_once('/') {
        Some((region, rest)) if is_word(region) => rest,
        Some(_) => return false,
        None => without_tenant,
    };
    pool.len() <= POOL_BYTES_MAX && is_word(handler)
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// Whether `prefix` can begin the names of keys: a word as in pools, so that it means nothing in the patterns of ACLs.
pub(super) fn is_prefix(prefix: &str) -> bool {
    prefix.len() <= NAME_BYTES_MAX && is_word(prefix)
}

/// Whether `name` can name a worker or an engine in keys.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.bytes().any(|byte| byte.is_ascii_control())
}

/// The keys that all pools share.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    /// `prefix` is checked by the options.
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Set of the pools that engines know.
    pub(super) fn pools(&self) -> String {
        format!("{}:pools", self.prefix)
    }

    /// Sorted set of engines, by when they were last heard of.
    pub(super) fn engines(&self) -> String {
        format!("{}:engines", self.prefix)
    }

    /// Channel of the messages from each engine to all engines.
    pub(super) fn events(&self) -> String {
        format!("{}:events", self.prefix)
    }

    /// Pattern of the channels of all pools' result bells.
    pub(super) fn results_bells(&self) -> String {
        format!("{}:results-bell:*", self.prefix)
    }

    /// The pool whose results' bell is `channel`.
    pub(super) fn pool_of_bell<'a>(&self, channel: &'a str) -> Option<&'a str> {
        let tagged = channel.strip_prefix(self.prefix.as_str())?.strip_prefix(":results-bell:{")?;
        tagged.strip_suffix('}').filter(|pool| is_pool(pool))
    }

    /// The keys of one pool; none: `pool` is no pool's id.
    pub(super) fn pool(&self, pool: &str) -> Option<PoolKeys> {
        is_pool(pool).then(|| PoolKeys { prefix: self.prefix.clone(), pool: pool.to_owned() })
    }
}

/// The keys of one pool.
#[derive(Clone, Debug)]
pub(super) struct PoolKeys {
    prefix: String,
    pool: String,
}

impl PoolKeys {
    pub(super) fn pool(&self) -> &str {
        &self.pool
    }

    fn key(&self, kind: &str) -> String {
        format!("{}:{kind}:{{{}}}", self.prefix, self.pool)
    }

    /// Ready, high priority: list of ids.
    pub(super) fn high(&self) -> String {
        self.key("tasks") + ":high"
    }

    /// Ready, normal priority: list of ids.
    pub(super) fn normal(&self) -> String {
        self.key("tasks")
    }

    /// Ready, low priority: list of ids.
    pub(super) fn low(&self) -> String {
        self.key("tasks") + ":low"
    }

    /// Hash: id to encoded task.
    pub(super) fn payload(&self) -> String {
        self.key("payload")
    }

    /// Hash: id to the terms of its lease.
    pub(super) fn terms(&self) -> String {
        self.key("terms")
    }

    /// Hash: task to its latest attempt.
    pub(super) fn latest(&self) -> String {
        self.key("latest")
    }

    /// Sorted set: id by the end of its lease.
    pub(super) fn leases(&self) -> String {
        self.key("leases")
    }

    /// Hash: id to worker.
    pub(super) fn owners(&self) -> String {
        self.key("owners")
    }

    /// List of ids whose results nobody has taken.
    pub(super) fn results(&self) -> String {
        self.key("results")
    }

    /// Hash: id to encoded result.
    pub(super) fn outcomes(&self) -> String {
        self.key("outcomes")
    }

    /// Set of ids whose owners are to cancel them.
    pub(super) fn cancel(&self) -> String {
        self.key("cancel")
    }

    /// The pool's generation.
    pub(super) fn generation(&self) -> String {
        self.key("generation")
    }

    /// List of rings that no worker has heard.
    pub(super) fn bell(&self) -> String {
        self.key("bell")
    }

    /// Hash: worker to when it was last heard of, and its presence.
    pub(super) fn workers(&self) -> String {
        self.key("workers")
    }

    /// List of elements that are no ids.
    pub(super) fn unreadable(&self) -> String {
        self.key("unreadable")
    }

    /// Hash: list to how many of its elements are withdrawn.
    pub(super) fn gone(&self) -> String {
        self.key("gone")
    }

    /// Where a key of the wrong type is kept; the last one.
    pub(super) fn wrong_type(&self) -> String {
        self.key("unreadable") + ":key"
    }

    /// List of ids in a worker's hands.
    pub(super) fn processing(&self, worker: &str) -> String {
        self.key("processing") + ":" + worker
    }

    /// List of ids whose results `engine` took.
    pub(super) fn taken(&self, engine: &str) -> String {
        self.key("results") + ":processing:" + engine
    }

    /// List of ids whose results are for `engine`, which has not taken them.
    pub(super) fn addressed(&self, engine: &str) -> String {
        self.key("results") + ":for:" + engine
    }

    /// Hash: id to the engine that sent the task.
    pub(super) fn senders(&self) -> String {
        self.key("senders")
    }

    /// Hash: engine to when it last asked for its results.
    pub(super) fn listeners(&self) -> String {
        self.key("listeners")
    }

    /// Channel on which results are told of.
    pub(super) fn results_bell(&self) -> String {
        self.key("results-bell")
    }

    /// Pattern of the channels of progress, for ACLs.
    pub(super) fn progress(&self) -> String {
        self.key("progress") + ":*"
    }

    /// The keys that every function gets, in the order of `scripts/common.lua`.
    pub(super) fn all(&self) -> [String; 18] {
        [
            self.high(),
            self.normal(),
            self.low(),
            self.payload(),
            self.terms(),
            self.latest(),
            self.leases(),
            self.owners(),
            self.results(),
            self.outcomes(),
            self.cancel(),
            self.generation(),
            self.bell(),
            self.workers(),
            self.unreadable(),
            self.gone(),
            self.senders(),
            self.listeners(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_words_with_a_region_and_a_tenant() {
        for pool in ["http", "us-east-1/http", "acme@us-east-1/http", "acme@http", "a.b_c-9"] {
            assert!(is_pool(pool), "{pool}");
        }
        let long = "x".repeat(POOL_BYTES_MAX + 1);
        for pool in ["", "A", "a b", "a/", "/a", "@a", "a@", "a/b/c", "a@b@c", "{a}", "a*", "a:b", "ä", &long]
        {
            assert!(!is_pool(pool), "{pool}");
        }
    }

    #[test]
    fn all_keys_of_a_pool_share_its_tag_and_no_two_are_one() {
        let keys = Keys::new("flowmonkey");
        let pool = keys.pool("us-east-1/http").unwrap();
        assert_eq!(pool.normal(), "flowmonkey:tasks:{us-east-1/http}");
        assert_eq!(pool.taken("e1"), "flowmonkey:results:{us-east-1/http}:processing:e1");
        let mut all = pool.all().to_vec();
        assert_eq!(pool.addressed("e1"), "flowmonkey:results:{us-east-1/http}:for:e1");
        all.extend([
            pool.processing("w"),
            pool.taken("e"),
            pool.addressed("e"),
            pool.wrong_type(),
            pool.results_bell(),
        ]);
        assert!(all.iter().all(|key| key.contains("{us-east-1/http}")));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(keys.pool_of_bell(&pool.results_bell()), Some("us-east-1/http"));
        assert_eq!(keys.pool_of_bell("flowmonkey:results-bell:{A}"), None);
        assert!(keys.pool("{x}").is_none());
    }
}
