//! Whether Redis is set up as it should be.

use std::collections::BTreeSet;

use redis::{ErrorKind, ServerErrorKind, Value};

use super::failure::RedisFailure;
use super::functions::Function;
use super::memory::Info;
use super::options::RedisOptions;
use super::shared::Shared;
use super::values::Answer;
use crate::queue::QueueError;

/// The oldest Redis that has functions and selectors in ACLs.
const VERSION_MIN: (u32, u32) = (7, 0);
const IS_CLUSTER: &str = "REDIS_IS_CLUSTER";
/// Any pool will do to see whether functions answer.
const PROBED_POOL: &str = "doctor";

/// How bad a finding is. Ordered: the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Works, and will cause trouble.
    Warning,
    /// An engine refuses to start.
    Refuse,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Names the finding: `SCREAMING_SNAKE`.
    pub code: &'static str,
    /// What is the case, and what comes of it.
    pub reason: String,
    /// What to do.
    pub cure: String,
}

impl Finding {
    fn new(
        severity: Severity,
        code: &'static str,
        reason: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { severity, code, reason: reason.into(), cure: cure.into() }
    }
}

impl Shared {
    pub(super) async fn check(&self) -> Result<Vec<Finding>, QueueError> {
        let mut found = BTreeSet::new();
        match self.info("everything").await {
            Ok(nodes) => {
                for node in &nodes {
                    found.extend(judge(node, &self.options, self.client.is_cluster()));
                }
            }
            Err(error) if is_forbidden(&error) => {
                found.insert(missing_right("INFO"));
            }
            Err(error) => return Err(error.into_queue_error("INFO of Redis")),
        }
        found.extend(self.check_persistence().await?);
        // A node that does not have the key answers nothing else.
        if !found.iter().any(|finding| finding.code == IS_CLUSTER) {
            found.extend(self.check_rights().await?);
        }
        // The worst first.
        Ok(found.into_iter().rev().collect())
    }

    async fn check_persistence(&self) -> Result<Option<Finding>, QueueError> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("appendonly").arg("save");
        let settings = match self.calls.query("reading the configuration", &command).await {
            Ok(answer) => words(answer).map_err(|error| error.into_queue_error("configuration"))?,
            // Hidden from most users; then nobody can say.
            Err(RedisFailure::Command { source, .. }) if super::failure::is_answer(&source) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into_queue_error("configuration")),
        };
        let setting = |name: &str| {
            settings.chunks_exact(2).find(|pair| pair[0] == name).map_or("", |pair| pair[1].as_str())
        };
        let is_off = setting("appendonly") == "no" && setting("save").is_empty();
        Ok(is_off.then(|| {
            let reason =
                "nothing is persisted: after a restart of Redis all pools are rebuilt from the record";
            Finding::new(
                Severity::Info,
                "REDIS_NOT_PERSISTENT",
                reason,
                "set `appendonly yes` for quicker restarts",
            )
        }))
    }

    /// Tries harmless commands of each kind.
    async fn check_rights(&self) -> Result<Vec<Finding>, QueueError> {
        let mut found = Vec::new();
        if let Some(pool) = self.keys.pool(PROBED_POOL) {
            match self.call(Function::Depth, "depth", &pool, &[], &[]).await {
                Ok(_) => {}
                Err(RedisFailure::FunctionsMissing { .. }) => found.push(Finding::new(
                    Severity::Refuse,
                    "REDIS_FUNCTIONS_MISSING",
                    "the functions are not in Redis, and this user may not load them",
                    "allow `+function|load` to the engines' user, or start an engine that has it first",
                )),
                Err(error) if is_forbidden(&error) => found.push(missing_right("FCALL")),
                Err(error) if error.is_wrong_type() => {}
                Err(error) => return Err(error.into_queue_error(PROBED_POOL)),
            }
        }
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.keys.pools());
        match self.calls.query("reading the pools", &members).await {
            Err(error) if is_forbidden(&error) => found.push(missing_right("SMEMBERS")),
            Err(error) if error.is_wrong_type() => {}
            answer => drop(answer.map_err(|error| error.into_queue_error("pools"))?),
        }
        let subscribing = async {
            let mut subscriber = self.client.subscriber(0).await?;
            let doing = "subscribing";
            let answer = subscriber.psubscribe(self.keys.results_bells()).await;
            answer.map_err(|source| RedisFailure::Command { doing: doing.to_owned(), source })
        };
        match subscribing.await {
            Err(error) if is_forbidden(&error) => found.push(missing_right("PSUBSCRIBE")),
            answer => answer.map_err(|error| error.into_queue_error("subscription"))?,
        }
        Ok(found)
    }
}

fn words(answer: Value) -> Result<Vec<String>, RedisFailure> {
    Answer::new("reading the configuration", answer).list()?.into_iter().map(Answer::text).collect()
}

fn is_forbidden(error: &RedisFailure) -> bool {
    match error {
        RedisFailure::Command { source, .. } => {
            source.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
                || source.to_string().contains("NOPERM")
        }
        RedisFailure::Deadline { .. }
        | RedisFailure::BackingOff { .. }
        | RedisFailure::FunctionsMissing { .. }
        | RedisFailure::Answer { .. }
        | RedisFailure::Shutdown => false,
    }
}

fn missing_right(command: &str) -> Finding {
    let reason = format!("this user may not use {command} as an engine must");
    Finding::new(
        Severity::Refuse,
        "REDIS_RIGHT_MISSING",
        reason,
        "give it the rules of `flowmonkey redis-acl --role engine`",
    )
}

/// What INFO of one node says.
fn judge(info: &Info, options: &RedisOptions, by_cluster: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    let version = info.get("redis_version").unwrap_or("?");
    if read_version(version).is_none_or(|version| version < VERSION_MIN) {
        found.push(Finding::new(
            Severity::Refuse,
            "REDIS_TOO_OLD",
            format!("Redis is version {version}; functions need 7.0"),
            "use Redis 7.0 or newer, or Valkey",
        ));
    }
    let policy = info.get("maxmemory_policy").unwrap_or("noeviction");
    if policy != "noeviction" {
        let severity = if options.allow_eviction { Severity::Warning } else { Severity::Refuse };
        let reason = format!("maxmemory-policy is {policy}: a full Redis would delete tasks and leases");
        found.push(Finding::new(severity, "REDIS_EVICTS", reason, "set `maxmemory-policy noeviction`"));
    }
    if info.number("maxmemory").is_none_or(|max| max <= 0.0) {
        found.push(Finding::new(
            Severity::Warning,
            "REDIS_WITHOUT_MEMORY_LIMIT",
            "maxmemory is not set: a long backlog may fill the machine's memory",
            "set `maxmemory` below what the machine has",
        ));
    }
    let (ratio, limit) = (info.memory_ratio(), options.memory_ratio_max);
    if ratio > limit {
        let reason = format!("{:.0} % of maxmemory are in use, over {:.0} %", ratio * 100.0, limit * 100.0);
        let cure = "raise `maxmemory`, or let workers take the backlog; nothing is dispatched meanwhile";
        found.push(Finding::new(Severity::Warning, "REDIS_ALMOST_FULL", reason, cure));
    }
    if info.get("role") == Some("slave") {
        found.push(Finding::new(
            Severity::Refuse,
            "REDIS_IS_REPLICA",
            "this server is a replica: it takes no writes",
            "name the primary, or the Sentinels by `redis+sentinel://`",
        ));
    }
    let is_cluster = info.get("cluster_enabled") == Some("1");
    if is_cluster && !by_cluster {
        found.push(Finding::new(
            Severity::Refuse,
            IS_CLUSTER,
            "this server is a node of a Cluster, and the URL names a single server",
            "use `redis+cluster://`",
        ));
    }
    if info.get("role") == Some("master") && info.number("connected_slaves") == Some(0.0) {
        let reason = "the primary has no replica: while it is down, nothing is dispatched";
        found.push(Finding::new(
            Severity::Info,
            "REDIS_WITHOUT_REPLICA",
            reason,
            "add a replica with Sentinels",
        ));
    }
    found
}

fn read_version(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str, options: &RedisOptions, by_cluster: bool) -> Vec<(Severity, &'static str)> {
        let info = Info::of(text);
        judge(&info, options, by_cluster)
            .into_iter()
            .map(|finding| (finding.severity, finding.code))
            .collect()
    }

    #[test]
    fn each_fact_is_judged() {
        let options = RedisOptions::new("redis://a");
        let good = "redis_version:7.2.4\r\nmaxmemory:100\r\nused_memory:10\r\nmaxmemory_policy:noeviction\r\n\
                    role:master\r\nconnected_slaves:1\r\ncluster_enabled:0\r\n";
        assert_eq!(codes(good, &options, false), []);
        for (from, to, severity, code) in [
            ("7.2.4", "6.2.1", Severity::Refuse, "REDIS_TOO_OLD"),
            ("7.2.4", "x", Severity::Refuse, "REDIS_TOO_OLD"),
            ("noeviction", "allkeys-lru", Severity::Refuse, "REDIS_EVICTS"),
            ("maxmemory:100", "maxmemory:0", Severity::Warning, "REDIS_WITHOUT_MEMORY_LIMIT"),
            ("used_memory:10", "used_memory:90", Severity::Warning, "REDIS_ALMOST_FULL"),
            ("role:master", "role:slave", Severity::Refuse, "REDIS_IS_REPLICA"),
            ("cluster_enabled:0", "cluster_enabled:1", Severity::Refuse, "REDIS_IS_CLUSTER"),
            ("connected_slaves:1", "connected_slaves:0", Severity::Info, "REDIS_WITHOUT_REPLICA"),
        ] {
            assert_eq!(codes(&good.replace(from, to), &options, false), [(severity, code)]);
        }
        let evicting = good.replace("noeviction", "volatile-lru");
        let allowed = RedisOptions { allow_eviction: true, ..options.clone() };
        assert_eq!(codes(&evicting, &allowed, false), [(Severity::Warning, "REDIS_EVICTS")]);
        assert_eq!(codes(&good.replace("cluster_enabled:0", "cluster_enabled:1"), &options, true), []);
    }
}
