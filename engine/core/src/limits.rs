//! Every limit of the core, named, with its default. Past a limit there is a clear error, and nothing is lost.

use serde::{Deserialize, Serialize};

/// Bytes of one flow document as text.
pub const FLOW_DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Nodes (scalars, lists, objects) of one flow document; also the guard against alias bombs in YAML.
pub const FLOW_DOCUMENT_NODES_MAX: usize = 500_000;
/// Nesting of a flow document.
pub const FLOW_DOCUMENT_DEPTH_MAX: usize = 128;
/// Bytes of one CEL expression.
pub const EXPRESSION_BYTES_MAX: usize = 8 * 1024;
/// Nesting of bodies within bodies (map in parallel in loop …) of one flow.
pub const BODY_DEPTH_MAX: usize = 16;
/// Issues reported for one document; the rest is counted only.
pub const FLOW_ISSUES_MAX: usize = 500;
/// Longest duration that a flow can name: 100 years in milliseconds, so that adding one to an instant cannot overflow.
pub const DURATION_MAX_MS: u64 = 100 * 366 * 24 * 60 * 60 * 1000;
/// Largest `retry.maxAttempts`.
pub const RETRY_ATTEMPTS_MAX: u32 = 1000;
/// Iterations of a `loop` that does not say.
pub const LOOP_ITERATIONS_DEFAULT: u32 = 1000;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 512;
/// Labels of one execution: those of its start and those that its flow reads from the input together.
pub const LABELS_MAX: usize = 20;
/// Bytes of a label's name.
pub const LABEL_NAME_BYTES_MAX: usize = 128;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES_MAX: usize = 512;
/// Bytes of all datasets (fan-out results too large for a context) that one step may read.
pub const DATASET_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Milliseconds that an idempotency key is remembered, when nothing else is said: 24 h.
pub const IDEMPOTENCY_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;
/// Longest time that an idempotency key is remembered: 7 days.
pub const IDEMPOTENCY_WINDOW_MAX_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Limits of one value in a context and of the context, as FlowMonkey's. Sizes are bytes of JSON text in UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContextLimits {
    /// One written value (`CONTEXT_VALUE_TOO_LARGE`). Default 1 MiB.
    pub max_value_size: usize,
    /// The whole context (`CONTEXT_SIZE_LIMIT`). Default 10 MiB.
    pub max_total_size: usize,
    /// Top-level keys (`CONTEXT_KEY_LIMIT`). Default 500.
    pub max_keys: usize,
    /// Nesting of one written value (`CONTEXT_NESTING_LIMIT`). Default 15.
    pub max_depth: usize,
}

impl ContextLimits {
    /// No limit at all: for replaying what was accepted before.
    pub const UNLIMITED: Self = Self {
        max_value_size: usize::MAX,
        max_total_size: usize::MAX,
        max_keys: usize::MAX,
        max_depth: usize::MAX,
    };
}

impl Default for ContextLimits {
    fn default() -> Self {
        Self { max_value_size: 1024 * 1024, max_total_size: 10 * 1024 * 1024, max_keys: 500, max_depth: 15 }
    }
}

/// Limits of the engine on one execution. A flow may narrow or widen `max_steps` and the context's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Limits of the context.
    pub context: ContextLimits,
    /// Applied outcomes of one execution (`MAX_STEPS`). Default 1000.
    pub max_steps: u32,
    /// Lease losses of one task in a row, without a new checkpoint between them, before it becomes an incident. Default 3.
    pub max_lost: u32,
    /// Lease losses of one task in all before it becomes an incident: a task that kills its worker right after each
    /// checkpoint ends, too. Default 1000.
    pub max_lost_total: u32,
    /// Items of one `map`, branches of one `parallel` (`FAN_OUT_LIMIT`). Default 1,000,000.
    pub max_fan_out: u32,
    /// Children of one `map` alive at a time, when the flow does not say. Default 1000.
    pub max_concurrency: u32,
    /// Executions within executions (`DEPTH_LIMIT`). Default 32.
    pub max_depth: u16,
    /// Bytes of a fan-out's results kept in the context; more become a dataset reference. Default 256 KiB.
    pub inline_results_bytes: usize,
    /// Bytes of the declared part of a context that travel with a task; a larger part is read from the engine. Default
    /// 64 KiB.
    pub inline_context_bytes: usize,
    /// Signals kept for an execution that does not wait for them yet (`SIGNAL_BUFFER_FULL`). Default 100.
    pub max_buffered_signals: usize,
    /// Steps the engine does itself in one decision, before it lets others go on. Default 500.
    pub max_inline_steps: u32,
    /// Milliseconds that tasks and children get to end after a cancel. Default 10 s.
    pub cancel_grace_ms: u64,
    /// Milliseconds for all compensation of one execution; past it, an incident. Default 24 h.
    pub compensation_ms: u64,
    /// Milliseconds of one attempt when neither step nor manifest says. Default 30 s, as FlowMonkey.
    pub default_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            context: ContextLimits::default(),
            max_steps: 1000,
            max_lost: 3,
            max_lost_total: 1000,
            max_fan_out: 1_000_000,
            max_concurrency: 1000,
            max_depth: 32,
            inline_results_bytes: 256 * 1024,
            inline_context_bytes: 64 * 1024,
            max_buffered_signals: 100,
            max_inline_steps: 500,
            cancel_grace_ms: 10_000,
            compensation_ms: 24 * 60 * 60 * 1000,
            default_timeout_ms: 30_000,
        }
    }
}
