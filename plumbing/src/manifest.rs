//! The handler manifest: what a handler is and needs. One document per handler; Rust handlers give the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a handler is and needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// The handler type: the name of its queue.
    #[serde(rename = "type")]
    pub handler_type: String,
    /// SemVer of the code. Default `0.0.0`.
    #[serde(default = "default_version")]
    pub version: String,
    /// Whether it keeps checkpoints and owns its task exclusively.
    #[serde(default)]
    pub mode: Mode,
    /// Shown to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Program and arguments of a handler that runs as a child process (the child protocol).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment of the child process: name to value. Nothing is inherited but `PATH`, `HOME` and `LANG`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Names of variables that the child inherits as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherit_env: Vec<String>,
    /// Directory of the child process; by default the directory of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Keep the child process for the next task.
    #[serde(default)]
    pub reuse: bool,
    /// Tasks at a time in one worker; none: the worker's own concurrency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Milliseconds: default hard limit of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Resources of the container, and limits of the child process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Limits of the child process.
    #[serde(default)]
    pub limits: ChildLimits,
    /// Scaling of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_scale: Option<Value>,
    /// Automatic checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// How a worker treats its tasks; none: `exclusive` for stateful handlers without `concurrency`, else `shared`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Ownership>,
    /// Limits of an attempt, for handlers that take long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// JSON Schema of the step's `config`; `flow validate` checks flows by it. What it refuses as an additional property is
    /// warned of, all else is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_schema: Option<Value>,
    /// JSON Schema of the input; checked before the handler runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_schema: Option<Value>,
    /// JSON Schema of the output; checked after the handler ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
}

/// Why a manifest contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Two limits of an attempt.
    #[error("`timeoutMs` and `ttl.hardMs` are the same limit: give one of them, or the same to both")]
    TwoLimits,
    /// The soft limit does not come first.
    #[error("`ttl.softMs` must be more than 0 and less than the limit of the attempt")]
    SoftLimit,
    /// An exclusive handler has one task at a time.
    #[error(
        "`ownership: exclusive` means one task at a time in each worker: leave `concurrency` out, or give 1"
    )]
    Ownership,
}

impl Manifest {
    /// Milliseconds: the default limit of one attempt, by whichever name it was given.
    #[must_use]
    pub fn limit_ms(&self) -> Option<u64> {
        self.timeout_ms.or(self.ttl.and_then(|ttl| ttl.hard_ms))
    }

    /// Milliseconds after which the handler of an attempt is told that it takes long.
    #[must_use]
    pub fn soft_limit_ms(&self) -> Option<u64> {
        self.ttl.and_then(|ttl| ttl.soft_ms)
    }

    /// Tasks at a time in one worker; none: the worker's own concurrency. An exclusive handler has one.
    #[must_use]
    pub fn slots(&self) -> Option<u32> {
        let exclusive = match self.ownership {
            Some(Ownership::Exclusive) => true,
            Some(Ownership::Shared) => false,
            None => self.mode == Mode::Stateful && self.concurrency.is_none(),
        };
        if exclusive { Some(1) } else { self.concurrency }
    }

    /// Whether its fields fit each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), ManifestError> {
        let hard_ms = self.ttl.and_then(|ttl| ttl.hard_ms);
        if self.timeout_ms.zip(hard_ms).is_some_and(|(one, other)| one != other) {
            return Err(ManifestError::TwoLimits);
        }
        let soft_ms = self.soft_limit_ms();
        if soft_ms == Some(0) || soft_ms.zip(self.limit_ms()).is_some_and(|(soft, hard)| soft >= hard) {
            return Err(ManifestError::SoftLimit);
        }
        if self.ownership == Some(Ownership::Exclusive) && self.concurrency.is_some_and(|tasks| tasks != 1) {
            return Err(ManifestError::Ownership);
        }
        Ok(())
    }
}

/// How a worker treats the tasks of a handler. Every task is one worker's at a time, whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// A worker has one task of this handler at a time: the task has the worker's copy of the handler to itself.
    Exclusive,
    /// A worker has as many as `concurrency` allows.
    Shared,
}

/// Limits of an attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ttl {
    /// Milliseconds after which the handler is told, and nothing is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_ms: Option<u64>,
    /// Milliseconds after which the attempt is ended: the same as the manifest's `timeoutMs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_ms: Option<u64>,
}

fn default_version() -> String {
    "0.0.0".into()
}

/// Whether a handler keeps checkpoints and owns its task exclusively.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The default.
    #[default]
    Stateless,
    /// Long-running, with checkpoints and progress.
    Stateful,
}

/// Resources of a handler's container, in Kubernetes' spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// For example `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// For example `512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// For example `nvidia-t4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

/// Limits of a child process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ChildLimits {
    /// Bytes of address space (rlimit); none: `resources.memory`, else no limit.
    pub memory_bytes: Option<u64>,
    /// Seconds of processor time (rlimit); none: no limit.
    pub cpu_seconds: Option<u64>,
    /// Bytes of one line of output. Default 16 MiB.
    pub line_bytes: usize,
    /// Bytes of all output of one task. Default 64 MiB.
    pub output_bytes: u64,
    /// Log lines kept of one task. Default 1000.
    pub log_lines: usize,
    /// Milliseconds between SIGTERM and SIGKILL. Default 5000.
    pub grace_ms: u64,
}

impl Default for ChildLimits {
    fn default() -> Self {
        Self {
            memory_bytes: None,
            cpu_seconds: None,
            line_bytes: 16 * 1024 * 1024,
            output_bytes: 64 * 1024 * 1024,
            log_lines: 1000,
            grace_ms: 5000,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(fields: serde_json::Value) -> Manifest {
        let mut all = json!({ "type": "video" });
        all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn stateful_handlers_have_one_task_at_a_time_unless_they_say_otherwise() {
        for (fields, slots) in [
            (json!({}), None),
            (json!({ "concurrency": 3 }), Some(3)),
            (json!({ "mode": "stateful" }), Some(1)),
            (json!({ "mode": "stateful", "concurrency": 3 }), Some(3)),
            (json!({ "mode": "stateful", "ownership": "shared" }), None),
            (json!({ "ownership": "exclusive" }), Some(1)),
        ] {
            assert_eq!(manifest(fields.clone()).slots(), slots, "{fields}");
        }
    }

    #[test]
    fn limits_must_fit_each_other() {
        for (fields, checked) in [
            (json!({ "ttl": { "softMs": 1, "hardMs": 2 } }), Ok(())),
            (json!({ "timeoutMs": 2, "ttl": { "softMs": 1, "hardMs": 2 } }), Ok(())),
            (json!({ "timeoutMs": 3, "ttl": { "hardMs": 2 } }), Err(ManifestError::TwoLimits)),
            (json!({ "timeoutMs": 3, "ttl": { "softMs": 3 } }), Err(ManifestError::SoftLimit)),
            (json!({ "ttl": { "softMs": 0 } }), Err(ManifestError::SoftLimit)),
            (json!({ "ownership": "exclusive", "concurrency": 2 }), Err(ManifestError::Ownership)),
        ] {
            assert_eq!(manifest(fields.clone()).check(), checked, "{fields}");
        }
        assert_eq!(manifest(json!({ "ttl": { "hardMs": 2 } })).limit_ms(), Some(2));
    }
}
