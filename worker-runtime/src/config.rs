//! What can be set of a worker.

use std::path::PathBuf;
use std::time::Duration;

/// Default milliseconds between heartbeats.
pub const HEARTBEAT_MS: u64 = 15_000;
/// Milliseconds without a heartbeat after which a lease counts as lost, unless the task says otherwise.
pub const STALE_MS: u64 = 60_000;
const _: () = assert!(3 * HEARTBEAT_MS <= STALE_MS, "two heartbeats in a row may get lost");
/// Default tasks at a time.
pub const CONCURRENCY: usize = 16;
/// Most tasks at a time.
pub const CONCURRENCY_MAX: usize = 10_000;
/// Shortest time between heartbeats; what tasks ask for is raised to it.
pub const HEARTBEAT_MS_MIN: u64 = 10;
/// Default milliseconds that an attempt waits for its checkpoint.
pub const CHECKPOINT_WAIT_MS: u64 = 30_000;
/// Default milliseconds before results are written to disk.
pub const SPILL_AFTER_MS: u64 = 5_000;
/// Default time that handlers have to end by themselves when somebody has asked the worker to drain.
pub const DRAIN_GRACE_MS: u64 = 30_000;
/// Default bytes of results on disk.
pub const SPILL_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Longest time between the heartbeats of a job.
pub const JOB_HEARTBEAT_MS_MAX: u64 = 30_000;

/// What can be set of a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Names this worker instance: owner of its leases. Must differ between instances that live at the same time, and
    /// must not be reused by the next process. 1 to 200 bytes.
    pub worker_id: String,
    /// Put before handler types to name pools: `[tenant@][region/]`. Default empty.
    pub pool_prefix: String,
    /// Tasks at a time, of all handlers together. Default 16, at most 10,000.
    pub concurrency: usize,
    /// Milliseconds between heartbeats; tasks may ask for less. Default 15,000.
    pub heartbeat_ms: u64,
    /// Milliseconds between what the worker tells the engine of the jobs of stateful handlers. Default 15,000, at most 30,000.
    pub job_heartbeat_ms: u64,
    /// Milliseconds between claims when the bell does not ring. Default 1,000.
    pub poll_ms: u64,
    /// Milliseconds that a handler has to end after it was told of a cancellation. Default 10,000.
    pub cancel_grace_ms: u64,
    /// Milliseconds that a handler has to end after a drain's grace has passed, to save a checkpoint. Default 1,000.
    pub stop_grace_ms: u64,
    /// Milliseconds that handlers have to end by themselves when somebody has asked the worker to drain. Default 30,000.
    pub drain_grace_ms: u64,
    /// Milliseconds at the end of a drain for reporting what is done, while the queue is unreachable. Default 10,000.
    pub flush_ms: u64,
    /// Log lines kept of one attempt. Default 1,000.
    pub log_lines_max: usize,
    /// Milliseconds that an attempt waits for its checkpoint while no engine can be reached, before it is handed back. Default
    /// 30,000.
    pub checkpoint_wait_ms: u64,
    /// Version of the program, as people see it. Default: the version of this crate.
    pub version: String,
    /// Where results are kept that the queue does not take; made when it does not exist. Workers may share it. Default
    /// none: they are kept in memory, and lost with the process (their tasks run again).
    pub spill_dir: Option<PathBuf>,
    /// Milliseconds that the queue refuses results before they are written to `spill_dir`, or sent past the queue. Default
    /// 5,000.
    pub spill_after_ms: u64,
    /// Bytes of results that this worker keeps in `spill_dir`, those of dead workers that it has adopted included. At most
    /// 100,000 results in any case. Default 1 GiB.
    pub spill_bytes_max: u64,
}

impl WorkerConfig {
    /// The defaults, for the worker instance `worker_id`.
    #[must_use]
    pub fn new(worker_id: impl Into<String>) -> Self {
        Self {
            worker_id: worker_id.into(),
            pool_prefix: String::new(),
            concurrency: CONCURRENCY,
            heartbeat_ms: HEARTBEAT_MS,
            job_heartbeat_ms: HEARTBEAT_MS,
            poll_ms: 1_000,
            cancel_grace_ms: 10_000,
            stop_grace_ms: 1_000,
            drain_grace_ms: DRAIN_GRACE_MS,
            flush_ms: 10_000,
            log_lines_max: crate::journal::LOG_LINES_DEFAULT,
            checkpoint_wait_ms: CHECKPOINT_WAIT_MS,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            spill_dir: None,
            spill_after_ms: SPILL_AFTER_MS,
            spill_bytes_max: SPILL_BYTES_MAX,
        }
    }

    pub(crate) fn check(&self) -> Result<(), WorkerConfigError> {
        let mut problems = Vec::new();
        if self.worker_id.is_empty() || self.worker_id.len() > 200 {
            problems.push("worker_id must have 1 to 200 bytes".to_owned());
        }
        if self.concurrency == 0 || self.concurrency > CONCURRENCY_MAX {
            problems.push(format!("concurrency must be 1 to {CONCURRENCY_MAX}, is {}", self.concurrency));
        }
        if self.heartbeat_ms < HEARTBEAT_MS_MIN || self.heartbeat_ms > STALE_MS / 3 {
            let allowed = format!("{HEARTBEAT_MS_MIN} to {}", STALE_MS / 3);
            problems.push(format!("heartbeat_ms must be {allowed}, is {}", self.heartbeat_ms));
        }
        if self.job_heartbeat_ms < HEARTBEAT_MS_MIN || self.job_heartbeat_ms > JOB_HEARTBEAT_MS_MAX {
            let allowed = format!("{HEARTBEAT_MS_MIN} to {JOB_HEARTBEAT_MS_MAX}");
            problems.push(format!("job_heartbeat_ms must be {allowed}, is {}", self.job_heartbeat_ms));
        }
        if self.poll_ms == 0 {
            problems.push("poll_ms must not be 0".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(WorkerConfigError { problems }) }
    }

    /// The region in the prefix of pools.
    pub(crate) fn region(&self) -> Option<&str> {
        let after_tenant = self.pool_prefix.rsplit_once('@').map_or(&*self.pool_prefix, |(_, rest)| rest);
        after_tenant.strip_suffix('/').filter(|region| !region.is_empty())
    }

    /// The pool of a handler type.
    pub(crate) fn pool(&self, handler_type: &str) -> String {
        format!("{}{handler_type}", self.pool_prefix)
    }

    pub(crate) fn cancel_grace(&self) -> Duration {
        Duration::from_millis(self.cancel_grace_ms)
    }

    pub(crate) fn drain_grace(&self) -> Duration {
        Duration::from_millis(self.drain_grace_ms)
    }

    pub(crate) fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.stop_grace_ms)
    }
}

/// All that is wrong with a [`WorkerConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker's configuration is not valid: {}", problems.join("; "))]
pub struct WorkerConfigError {
    /// One sentence each.
    pub problems: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_problems_are_named_at_once() {
        let config =
            WorkerConfig { concurrency: 0, heartbeat_ms: 30_000, poll_ms: 0, ..WorkerConfig::new("") };
        let config = WorkerConfig { job_heartbeat_ms: 30_001, ..config };
        assert_eq!(config.check().unwrap_err().problems.len(), 5);
        assert_eq!(WorkerConfig::new("w").check(), Ok(()));
    }

    #[test]
    fn a_region_is_read_from_the_prefix() {
        let region = |prefix: &str| {
            let config = WorkerConfig { pool_prefix: prefix.into(), ..WorkerConfig::new("w") };
            config.region().map(str::to_owned)
        };
        assert_eq!(
            ["", "acme@", "eu/", "acme@eu/"].map(region),
            [None, None, Some("eu".into()), Some("eu".into())]
        );
    }
}
