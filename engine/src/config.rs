//! Settings of the engine, each with a bound and a default.

use std::time::Duration;

use flowmonkey_core::execution::state::StackPageLimits;
use flowmonkey_core::limits::Limits;
use flowmonkey_plumbing::api::LARGE_CHECKPOINT_BYTES_MAX;

use crate::objects::Objects;
use flowmonkey_plumbing::net::HttpPolicy;

/// Default time between heartbeats of a worker.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Default time without a heartbeat after which a lease ends.
pub const LEASE: Duration = Duration::from_secs(60);
const _: () = assert!(HEARTBEAT.as_secs() * 3 <= LEASE.as_secs());

/// Results that a collector takes at a time: enough that what a commit costs by itself is shared by many, and so few that the
/// next are decided while these are stored.
pub const COLLECT_BATCH_MAX: usize = 128;
/// Expired leases that the reaper handles at a time.
pub const REAP_BATCH_MAX: usize = 200;
/// Due executions that the timer handles at a time.
pub const TIMER_BATCH_MAX: usize = 500;
/// Tasks that the reconciler looks at a time.
pub const RECONCILE_BATCH_MAX: usize = 1000;
/// Tasks that the reconciler delivers first to a queue that was full.
pub const RECONCILE_PROBE: usize = 16;
/// Open jobs that are compared with their executions in one go.
pub const JOBS_PAGE: usize = 200;
/// Open jobs that are compared in one tick.
pub const JOBS_WALK_MAX: usize = 2000;
/// Datasets that are kept in memory.
pub const DATASETS_CACHED_MAX: usize = 4;
/// Children that are made in one commit.
pub const SPAWN_CHUNK_MAX: u32 = 1000;
/// Children whose stacks are read at a time, at first; twice as many each time that nothing is found.
pub const STACKS_READ_MIN: u32 = 16;
/// Children whose stacks are read at a time, at most.
pub const STACKS_READ_MAX: u32 = 256;
/// Reads of children for one page of their stacks.
pub const STACK_PAGE_READS_MAX: usize = 16;
/// Decisions that are stored in one commit.
pub const COMMIT_BATCH_MAX: usize = 1000;
/// Bytes of context above which no more decisions join a commit.
pub const COMMIT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Times a command is decided anew after a version conflict before the caller is told to come back.
pub const CONFLICTS_MAX: usize = 16;
/// Executions kept in memory because they moved lately.
pub const HOT_EXECUTIONS_MAX: usize = 4096;
/// Bytes of the contexts of all executions that are kept in memory.
pub const HOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of context above which an execution is not kept in memory.
pub const HOT_CONTEXT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of context above which nobody is handed an execution's history with its end: it is read.
pub const STORY_CONTEXT_BYTES_MAX: usize = 32 * 1024;
/// Steps to undo and early signals above which an execution is not kept in memory.
pub const HOT_EXTRAS_MAX: usize = 16;
/// Parsed flows kept in memory.
pub const FLOWS_CACHED_MAX: usize = 1024;
/// Fan-outs whose items are kept in memory.
pub const JOINS_CACHED_MAX: usize = 64;
/// Wakes that an engine which shares its record knows to be its own; others are answered a little later.
pub const OUR_WAKES_MAX: usize = 16_384;
/// Bytes of such items, and of the contexts at the fan-outs, each. One fan-out is kept whatever it weighs.
pub const JOINS_CACHED_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Due executions that did not move, which the timer remembers, so that they are not in the way of others.
pub const STUCK_TIMERS_MAX: usize = 10_000;
/// How long the timer leaves an execution alone that was due and did not move.
pub const STUCK_TIMER_REST: Duration = Duration::from_secs(5);
/// Fan-outs that the sweeper remembers from one tick to the next.
pub const SWEPT_JOINS_MAX: usize = 100_000;
/// Executions that the sweeper looks at in one tick, whether anything can still move them.
pub const SWEEP_EXECUTIONS_MAX: usize = 200;
/// Refused results that are kept as evidence.
pub const REFUSED_KEPT_MAX: usize = 1000;
/// Earlier events of a name that are offered to a wait that begins.
pub const EARLY_EVENTS_MAX: usize = 10_000;
/// Committed events that a slow watcher may lag behind before it has to read the record.
pub const WATCH_BUFFER: usize = 4096;
/// Log lines stored of one attempt, unless the settings say otherwise.
pub const LOG_LINES_PER_ATTEMPT: u32 = 1000;
/// Bytes of one stored log line.
pub const LOG_LINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the stored log lines of one attempt.
pub const LOG_BYTES_PER_ATTEMPT_MAX: usize = 4 * 1024 * 1024;
/// Progress of one task is told live no more often than this.
pub const LIVE_PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How often what waits to be stored is looked at, while anything waits.
pub const FLUSH_EVERY: Duration = Duration::from_millis(250);
/// Running tasks whose progress and log are being followed at once; more are not throttled, but left out and counted.
pub const TALKING_TASKS_MAX: usize = 10_000;
/// How long a task that says nothing is remembered.
pub const TALKING_TASK_REST: Duration = Duration::from_secs(60);
/// Log lines that wait to be stored, of all tasks together. More are left to the result, which brings them again.
pub const LINES_WAITING_MAX: usize = 20_000;
/// Bytes of those.
pub const LINE_BYTES_WAITING_MAX: usize = 16 * 1024 * 1024;
/// Rows of progress or log lines that are stored with one statement.
pub const TALK_ROWS_MAX: usize = 1000;
/// Fan-outs whose progress waits to be told, at most.
pub const ROLLUPS_WAITING_MAX: usize = 1000;
/// Fan-outs whose progress is read from the record in one flush.
pub const ROLLUPS_PER_FLUSH: usize = 32;
/// How long operations on many executions are kept after their end, with what came of them for each execution.
pub const KEEP_OPERATIONS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long a task may be out before the reconciler misses it: a relay may be on its way.
pub const RECONCILE_AFTER: Duration = Duration::from_secs(2);

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Names this engine process among others.
    pub engine_id: String,
    /// Limits of the core.
    pub limits: Limits,
    /// Time between heartbeats that workers are told.
    pub heartbeat: Duration,
    /// Time without a heartbeat after which a lease ends. At least three heartbeats.
    pub lease: Duration,
    /// How much of what children have left to undo a parent takes over at a time.
    pub stack_page: StackPageLimits,
    /// Where resume URLs point, without a slash at the end.
    pub public_url: String,
    /// What becomes of tasks for which no handler is known.
    pub unknown_handler: UnknownHandler,
    /// Whether a result that comes through a queue must prove its pool with a MAC. True wherever anybody but this process
    /// can write to the queues (Redis). Default false: embedded, the queue is memory. A MAC that is there is always checked.
    pub require_result_mac: bool,
    /// Whether other engine processes work on the same record. They take turns at what one of them can do for all.
    /// Default false: the record is this process's own.
    pub shares_record: bool,
    /// Batches of results that are applied at the same time, each with a commit of its own. Default 1; a record on another
    /// machine is kept busy by several.
    pub collectors: usize,
    /// Commits that are written at the same time. Default 1: what one disk flush holds up the next one shares.
    pub commits_in_flight: usize,
    /// How long the workers of a queue that was emptied have to re-assert what they run, before it is rebuilt.
    pub rebuild_grace: Duration,
    /// Time between looks whether a queue was emptied.
    pub look_at_queue_every: Duration,
    /// Time between signs of life to the queue and looks at the workers that are there.
    pub presence_every: Duration,
    /// Time between looks at expired leases.
    pub reap_every: Duration,
    /// Time between comparisons of queue and record.
    pub reconcile_every: Duration,
    /// Time between looks at fan-outs and events that nobody looked after.
    pub sweep_every: Duration,
    /// Time between looks at jobs whose executions have moved on.
    pub jobs_every: Duration,
    /// Time between deletions of what has passed its retention.
    pub prune_every: Duration,
    /// Time between seals of new entries of the audit.
    pub seal_audit_every: Duration,
    /// How long ended executions are kept.
    pub keep_executions: Duration,
    /// How long delivered events are kept.
    pub keep_events: Duration,
    /// How long checkpoints are kept after the end of their execution.
    pub keep_checkpoints: Duration,
    /// Where checkpoints go that are too large for the record. Default none: they are refused.
    pub objects: Option<Objects>,
    /// Bytes of one checkpoint. Default 1 GiB.
    pub checkpoint_bytes_max: u64,
    /// Time between deletions of objects that nothing refers to any more.
    pub collect_objects_every: Duration,
    /// Which addresses webhooks may be at. Default: public ones only.
    pub webhook_policy: HttpPolicy,
    /// How long progress is kept, at most as long as its execution.
    pub keep_progress: Duration,
    /// How long log lines of tasks are kept, at most as long as their execution.
    pub keep_logs: Duration,
    /// Time between two stored rows of progress of one task; the latest is always stored in the end.
    pub store_progress_every: Duration,
    /// Log lines stored of one attempt; one more says how many there were beside them.
    pub log_lines_max: u32,
}

/// What becomes of tasks for which no handler is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownHandler {
    /// The execution fails with `HANDLER_NOT_FOUND`.
    Fail,
    /// The task waits until a worker offers the handler.
    Wait,
}

impl Default for EngineConfig {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            engine_id: "engine".into(),
            limits: Limits::default(),
            heartbeat: HEARTBEAT,
            lease: LEASE,
            stack_page: StackPageLimits::default(),
            public_url: "http://127.0.0.1:7420".into(),
            unknown_handler: UnknownHandler::Wait,
            require_result_mac: false,
            shares_record: false,
            collectors: 1,
            commits_in_flight: 1,
            rebuild_grace: Duration::from_secs(3),
            look_at_queue_every: Duration::from_secs(1),
            presence_every: Duration::from_secs(3),
            reap_every: Duration::from_secs(1),
            reconcile_every: Duration::from_secs(10),
            sweep_every: Duration::from_secs(5),
            jobs_every: Duration::from_secs(5),
            prune_every: Duration::from_secs(60 * 60),
            seal_audit_every: Duration::from_secs(10),
            keep_executions: DAY * 30,
            keep_events: DAY * 7,
            keep_checkpoints: DAY * 7,
            objects: None,
            checkpoint_bytes_max: LARGE_CHECKPOINT_BYTES_MAX,
            collect_objects_every: Duration::from_secs(60),
            webhook_policy: HttpPolicy::default(),
            keep_progress: DAY * 30,
            keep_logs: DAY * 30,
            store_progress_every: Duration::from_secs(1),
            log_lines_max: LOG_LINES_PER_ATTEMPT,
        }
    }
}
