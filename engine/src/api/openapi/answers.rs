//! How answers look. More fields may come with later versions.
#![expect(dead_code, reason = "says how answers look")]

use std::collections::BTreeMap;

use flowmonkey_plumbing::api::JobStatus;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::bodies::CloudEvent;
use super::words::{ColumnType, ExecutionStatus, ScopeWord, VerbWord};

macro_rules! answers {
    ($(
        $(#[doc = $about:literal])+
        $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }
    )+) => {$(
        $(#[doc = $about])+
        #[derive(Serialize, ToSchema)]
        #[serde(rename_all = "camelCase")]
        pub(in crate::api) struct $name {
            $($(#[$meta])* $field: $type,)*
        }
    )+};
}

macro_rules! pages {
    ($($name:ident of $item:ty, $about:literal;)+) => {$(
        #[doc = $about]
        #[derive(Serialize, ToSchema)]
        #[serde(rename_all = "camelCase")]
        pub(in crate::api) struct $name {
            /// What is on this page.
            items: Vec<$item>,
            /// The `cursor` of the next page; null: this is the last one.
            #[schema(required)]
            next_cursor: Option<String>,
        }
    )+};
}

pages! {
    FlowPage of PublishedFlow, "All published versions.";
    FlowVersionPage of FlowVersion, "The versions of a flow, the latest first.";
    ExecutionPage of ExecutionSummary, "Executions, newest first.";
    TaskPage of TaskShown, "The tasks of an execution.";
    ProgressPage of ProgressEntry, "What tasks reported, oldest first.";
    LogPage of LogEntry, "Log lines.";
    JobPage of Job, "Jobs, those of the newest executions first.";
    EventPage of CloudEvent, "Events, newest first.";
    WebhookPage of Webhook, "Webhooks.";
    DeliveryPage of WebhookDelivery, "Deliveries, newest first.";
    KeyPage of Key, "Keys, newest first.";
    AuditPage of AuditEntry, "Entries of the audit.";
    QueuePage of Queue, "Pools by name.";
    WorkerPage of Worker, "Workers by name.";
    FailedTaskPage of FailedTask, "Parked tasks, newest first.";
    OperationPage of OperationShown, "Operations on many executions, newest first.";
    OperationItemPage of OperationItem, "What came of an operation, newest execution first.";
    TablePage of Table, "Tables.";
    RowPage of Row, "Rows in the order of insertion.";
}

/// What came of a start; or the whole execution, if it has ended within `Prefer: wait=N`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum StartAnswer {
    /// It is there.
    Started(ExecutionStarted),
    /// It has ended.
    Ended(Box<ExecutionShown>),
}

/// An operation that is carried out, or what a dry run found.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::api) enum OperationAnswer {
    /// It is carried out in the background.
    Begun(Box<OperationShown>),
    /// Nothing was changed.
    Preview(OperationPreview),
}

answers! {
    /// An operation on many executions.
    OperationShown {
        id: String,
        verb: VerbWord,
        #[schema(required)]
        reason: Option<String>,
        /// As it was sent.
        #[schema(value_type = Object)]
        filter: Value,
        #[schema(required)]
        tenant_id: Option<String>,
        /// Who asked for it.
        by: String,
        /// At most so many executions.
        max: u64,
        /// `running`, `cancelling`, `cancelled`, `completed` or `failed`.
        state: String,
        /// Executions to which it was done.
        done: u64,
        /// Executions that refused it.
        refused: u64,
        #[schema(format = DateTime)]
        created_at: String,
        #[schema(required, format = DateTime)]
        ended_at: Option<String>,
        /// Why it could not go on.
        #[schema(required)]
        failure: Option<String>,
    }

    /// What came of an operation for one execution.
    OperationItem {
        execution_id: String,
        /// Whether it was done.
        done: bool,
        /// The code of the refusal.
        #[schema(required)]
        code: Option<String>,
    }

    /// Which executions an operation would go to.
    OperationPreview {
        dry_run: bool,
        verb: VerbWord,
        matching: Count,
        /// The first of them.
        ids: Vec<String>,
    }

    /// A worker that was asked to end.
    WorkerDraining {
        worker: String,
        pools: Vec<String>,
        /// Whether it was ending already.
        draining: bool,
    }

    /// Handler types by name.
    HandlerList {
        items: Vec<HandlerShown>,
        #[schema(required)]
        next_cursor: Option<String>,
        /// Whether all flows were looked at.
        flows_complete: bool,
    }

    /// A handler type.
    HandlerShown {
        #[serde(rename = "type")]
        handler_type: String,
        versions: Vec<HandlerVersion>,
        /// Pools in which it is served.
        pools: Vec<String>,
        /// Workers that serve it.
        workers: Vec<HandlerWorker>,
        /// Flows whose latest version uses it.
        flows: Vec<PublishedFlow>,
    }

    /// A version of a handler.
    HandlerVersion {
        version: String,
        #[schema(value_type = Object)]
        manifest: Value,
    }

    /// A worker that serves a handler type.
    HandlerWorker {
        worker: String,
        version: String,
        pools: Vec<String>,
        #[schema(required)]
        region: Option<String>,
        draining: bool,
    }

    /// How long executions of a flow are kept.
    FlowRetentionShown {
        flow_id: String,
        #[schema(required)]
        tenant_id: Option<String>,
        /// Days of those that completed; null: the default.
        #[schema(required)]
        completed_days: Option<u64>,
        /// Days of all others; null: the default.
        #[schema(required)]
        failed_days: Option<u64>,
        default_days: f64,
        #[schema(required, format = DateTime)]
        set_at: Option<String>,
        #[schema(required)]
        set_by: Option<String>,
    }

    /// A flow, drawn.
    FlowGraph {
        id: String,
        version: String,
        hash: String,
        /// Steps, by their places in the definition.
        #[schema(value_type = Vec<Object>)]
        nodes: Vec<Value>,
        /// What follows what.
        #[schema(value_type = Vec<Object>)]
        edges: Vec<Value>,
        /// Where the clean-up after a cancel begins.
        #[schema(required)]
        on_cancel: Option<String>,
        /// Where the clean-up after a failure begins.
        #[schema(required)]
        on_failure: Option<String>,
    }

    /// What was published.
    FlowPublished {
        id: String,
        version: String,
        /// Names the content.
        hash: String,
        /// What looks like a mistake.
        #[schema(nullable = false)]
        warnings: Option<Vec<ProblemDetail>>,
    }

    /// What is thought of a document.
    Validation {
        /// Whether it can be published.
        valid: bool,
        /// The flows in it, if it is valid.
        flows: Vec<PublishedFlow>,
        /// What is wrong with it, and what looks like a mistake.
        issues: Vec<ProblemDetail>,
    }

    /// A version of a flow.
    PublishedFlow {
        #[schema(nullable = false)]
        tenant_id: Option<String>,
        id: String,
        version: String,
        /// Names the content.
        hash: String,
    }

    /// A version of a flow, as its list shows it.
    FlowVersion {
        version: String,
        hash: String,
        /// `published`, `draft` or `archived`.
        status: String,
    }

    /// A flow with its definition.
    FlowShown {
        id: String,
        version: String,
        hash: String,
        #[schema(required)]
        status: Option<String>,
        #[schema(required)]
        paused: Option<PauseShown>,
        /// As it was published.
        #[schema(value_type = Object)]
        definition: Value,
        /// All of its versions.
        versions: Vec<String>,
    }

    /// What changed between two versions.
    FlowDifference {
        id: String,
        from: VersionHash,
        to: VersionHash,
        steps: StepDifferences,
        /// What changed outside of the steps.
        fields: Vec<Difference>,
    }

    /// A version and its content.
    VersionHash {
        version: String,
        hash: String,
    }

    /// Steps that differ.
    StepDifferences {
        added: Vec<String>,
        removed: Vec<String>,
        changed: Vec<StepDifference>,
    }

    /// A step that differs.
    StepDifference {
        step: String,
        changes: Vec<Difference>,
    }

    /// A place that differs.
    Difference {
        /// JSON pointer.
        pointer: String,
        /// `added`, `removed` or `changed`.
        kind: String,
        from: Value,
        to: Value,
    }

    /// Which versions are in use now.
    FlowArchived {
        id: String,
        /// How many versions changed.
        changed: u64,
        versions: Vec<FlowVersion>,
    }

    /// A pause.
    PauseShown {
        /// `pool` or `flow`.
        of: String,
        name: String,
        #[schema(required)]
        tenant_id: Option<String>,
        #[schema(format = DateTime)]
        since: String,
        by: String,
        #[schema(required)]
        reason: Option<String>,
    }

    /// Whether a flow is paused now.
    FlowPaused {
        flow_id: String,
        paused: bool,
        /// Whether that was different before.
        changed: bool,
        #[schema(required)]
        pause: Option<PauseShown>,
    }

    /// Whether a pool is paused now.
    PoolPaused {
        pool: String,
        paused: bool,
        /// Whether that was different before.
        changed: bool,
        #[schema(required)]
        pause: Option<PauseShown>,
    }

    /// What came of a start.
    ExecutionStarted {
        id: String,
        status: ExecutionStatus,
        /// False: the idempotency key named one that is there.
        created: bool,
        /// Whether that one had another input.
        #[schema(nullable = false)]
        input_differs: Option<bool>,
        /// Of which execution it is the rerun.
        #[schema(nullable = false)]
        rerun_of: Option<String>,
    }

    /// An execution, as lists show it.
    ExecutionSummary {
        id: String,
        flow_id: String,
        flow_version: String,
        status: ExecutionStatus,
        current_step_id: String,
        #[schema(nullable = false)]
        waiting_reason: Option<String>,
        #[schema(nullable = false)]
        error_code: Option<String>,
        #[schema(nullable = false)]
        parent_execution_id: Option<String>,
        #[schema(nullable = false)]
        labels: Option<BTreeMap<String, String>>,
        #[schema(format = DateTime)]
        created_at: String,
        #[schema(format = DateTime)]
        updated_at: String,
    }

    /// An execution.
    ExecutionShown {
        id: String,
        flow_id: String,
        flow_version: String,
        status: ExecutionStatus,
        current_step_id: String,
        #[schema(value_type = Object)]
        context: Value,
        /// Of a completed one.
        output: Value,
        #[schema(required)]
        error: Option<Failure>,
        step_count: u64,
        #[schema(format = DateTime)]
        created_at: String,
        #[schema(format = DateTime)]
        updated_at: String,
        /// Counts its changes.
        version: u64,
        /// Counts how often it was reopened.
        run: u64,
        has_errors: bool,
        cost: Cost,
        #[schema(nullable = false)]
        waiting_reason: Option<String>,
        /// When it goes on by itself.
        #[schema(nullable = false, format = DateTime)]
        wake_at: Option<String>,
        #[schema(nullable = false)]
        tenant_id: Option<String>,
        metadata: Option<Value>,
        #[schema(nullable = false)]
        idempotency_key: Option<String>,
        #[schema(nullable = false)]
        traceparent: Option<String>,
        #[schema(nullable = false)]
        parent_execution_id: Option<String>,
        /// Of which execution it is the rerun.
        lineage: Option<Value>,
        #[schema(nullable = false)]
        labels: Option<BTreeMap<String, String>>,
        #[schema(nullable = false)]
        cancellation: Option<Cancellation>,
        /// What its task reported last.
        #[schema(nullable = false)]
        progress: Option<ProgressShown>,
        /// The outcomes of its steps.
        #[schema(nullable = false)]
        history: Option<Vec<AttemptShown>>,
    }

    /// What went wrong.
    Failure {
        code: String,
        message: String,
        step_id: Option<String>,
        details: Option<Value>,
        #[schema(nullable = false, format = DateTime)]
        timestamp: Option<String>,
    }

    /// What it cost.
    Cost {
        usd: f64,
        tokens: u64,
        attempts: u64,
    }

    /// Who cancelled it, and why.
    Cancellation {
        source: String,
        #[schema(required)]
        reason: Option<String>,
        #[schema(format = DateTime)]
        cancelled_at: String,
    }

    /// An outcome of a step.
    AttemptShown {
        step_id: String,
        handler_type: String,
        outcome: String,
        attempt: u32,
        visit: u32,
        #[schema(format = DateTime)]
        started_at: String,
        #[schema(format = DateTime)]
        completed_at: String,
        duration_ms: u64,
        #[schema(nullable = false)]
        error: Option<Failure>,
        #[schema(nullable = false)]
        worker_id: Option<String>,
        #[schema(nullable = false)]
        compensates: Option<bool>,
    }

    /// A count.
    Count {
        count: u64,
        /// False: there are at least so many.
        exact: bool,
    }

    /// A count, or counts by status.
    ExecutionCount {
        #[schema(nullable = false)]
        count: Option<u64>,
        /// False: there are at least so many.
        #[schema(nullable = false)]
        exact: Option<bool>,
        #[schema(nullable = false)]
        counts: Option<BTreeMap<String, Count>>,
    }

    /// Events of an execution, in order.
    HistoryPage {
        items: Vec<HistoryEntry>,
        /// The `after` of the next page; null: this is the last one.
        #[schema(required)]
        next_after: Option<u64>,
    }

    /// An event of an execution.
    HistoryEntry {
        sequence: u64,
        #[schema(format = DateTime)]
        at: String,
        /// As the record has it.
        event: Value,
    }

    /// How an execution stands after a command.
    CommandAnswer {
        id: String,
        status: ExecutionStatus,
        #[schema(required)]
        waiting_reason: Option<String>,
        /// Counts its changes.
        version: u64,
    }

    /// How an execution stands after a signal.
    SignalAnswer {
        id: String,
        status: ExecutionStatus,
        #[schema(required)]
        waiting_reason: Option<String>,
        /// Counts its changes.
        version: u64,
        /// The signal is kept for a wait that comes later.
        kept: bool,
    }

    /// What was deleted.
    ExecutionsDeleted {
        id: String,
        /// How many executions went, children included.
        deleted: u64,
    }

    /// Why an execution does not move, and what would make it move.
    Explanation {
        id: String,
        status: ExecutionStatus,
        current_step_id: String,
        #[schema(required)]
        waiting_reason: Option<String>,
        #[schema(required)]
        held_back_by: Option<PauseShown>,
        live_cause: LiveCause,
        #[schema(required, format = DateTime)]
        next_wake_at: Option<String>,
        /// Where its task is.
        #[schema(required)]
        queue: Option<TaskInQueue>,
        #[schema(required)]
        job: Option<Job>,
    }

    /// The one thing that can move it now; what else is said depends on the kind.
    LiveCause {
        /// `engine`, `task`, `retry`, `timer`, `signal`, `event`, `approval`, `resume`, `children`, `paused`, `incident` or `ended`.
        kind: String,
    }

    /// What the queue says of a task.
    TaskInQueue {
        pool: String,
        reachable: bool,
        /// False: it will be delivered anew.
        #[schema(nullable = false)]
        present: Option<bool>,
        #[schema(nullable = false)]
        workers: Option<u64>,
        #[schema(nullable = false)]
        ready: Option<Ready>,
        #[schema(nullable = false)]
        in_flight: Option<u64>,
        #[schema(nullable = false)]
        oldest_age_ms: Option<u64>,
    }

    /// A task with its attempts.
    TaskShown {
        task_id: String,
        execution_id: String,
        step_id: String,
        #[schema(required)]
        handler_type: Option<String>,
        visit: u32,
        #[schema(required, format = DateTime)]
        scheduled_at: Option<String>,
        /// The attempt that is out now.
        #[schema(required)]
        out: Option<TaskOut>,
        attempts: Vec<TaskAttempt>,
        #[schema(required)]
        error: Option<Failure>,
        /// What its worker is given; of one task that is asked for only.
        payload: Option<Value>,
    }

    /// An attempt that is out.
    TaskOut {
        attempt: u32,
        pool: String,
        #[schema(format = DateTime)]
        scheduled_at: String,
        #[schema(required, format = DateTime)]
        start_by: Option<String>,
        #[schema(required)]
        paused: Option<PauseShown>,
    }

    /// An attempt that has ended.
    TaskAttempt {
        attempt: u32,
        outcome: String,
        #[schema(format = DateTime)]
        started_at: String,
        #[schema(format = DateTime)]
        completed_at: String,
        duration_ms: u64,
        #[schema(required)]
        worker_id: Option<String>,
        #[schema(required)]
        error: Option<Failure>,
    }

    /// What a task reported.
    ProgressEntry {
        task: u32,
        attempt: u32,
        #[schema(required)]
        step_id: Option<String>,
        progress: ProgressShown,
    }

    /// Progress.
    ProgressShown {
        /// 0 to 100.
        percent: f64,
        #[schema(required)]
        message: Option<String>,
        #[schema(nullable = false)]
        estimated_completion: Option<String>,
        /// Frames, bytes, rows: `{value, total?, unit?}` by name.
        counters: Option<Value>,
        #[schema(format = DateTime)]
        updated_at: String,
    }

    /// A log line.
    LogEntry {
        #[schema(required)]
        step_id: Option<String>,
        task: u32,
        attempt: u32,
        /// Which line of the attempt; null while it is only heard of.
        #[schema(required)]
        line: Option<u32>,
        level: flowmonkey_plumbing::wire::LogLevel,
        message: String,
        #[schema(format = DateTime)]
        at: String,
    }

    /// A task of a stateful handler.
    Job {
        /// The id of the task.
        id: String,
        execution_id: String,
        step_id: String,
        handler_type: String,
        status: JobStatus,
        attempt: u32,
        #[schema(required)]
        worker_id: Option<String>,
        #[schema(format = DateTime)]
        created_at: String,
        #[schema(required, format = DateTime)]
        claimed_at: Option<String>,
        #[schema(required, format = DateTime)]
        started_at: Option<String>,
        #[schema(required, format = DateTime)]
        completed_at: Option<String>,
        #[schema(required)]
        progress_percent: Option<f64>,
        #[schema(required)]
        progress_message: Option<String>,
        #[schema(required, format = DateTime)]
        last_heartbeat_at: Option<String>,
        #[schema(required)]
        checkpoint_id: Option<String>,
        #[schema(required)]
        timeout_ms: Option<u64>,
        #[schema(required)]
        max_retries: Option<u32>,
        retry_count: u32,
        error: Value,
    }

    /// What was published; of a batch each in its place.
    EventAccepted {
        /// Names the event in the record.
        #[schema(nullable = false)]
        id: Option<String>,
        /// False: it was published before.
        #[schema(nullable = false)]
        created: Option<bool>,
        /// Of a batch.
        #[schema(nullable = false)]
        items: Option<Vec<EventAcceptedItem>>,
    }

    /// One event of a batch.
    EventAcceptedItem {
        id: String,
        created: bool,
    }

    /// A webhook; its secret is shown when it is made, and never again.
    Webhook {
        id: String,
        #[schema(required)]
        tenant_id: Option<String>,
        url: String,
        events: Vec<String>,
        description: String,
        active: bool,
        /// `active`, `failing` or `inactive`.
        state: String,
        /// Why it was ended: `gone`.
        #[schema(required)]
        deactivated: Option<String>,
        #[schema(required, format = DateTime)]
        failing_since: Option<String>,
        #[schema(format = DateTime)]
        created_at: String,
    }

    /// A webhook that was made, with its secret.
    WebhookCreated {
        #[serde(flatten)]
        webhook: Webhook,
        /// Signs deliveries.
        secret: String,
    }

    /// How the delivery of a test went.
    WebhookTested {
        event_id: String,
        delivered: bool,
        duration_ms: u64,
        #[schema(required)]
        status_code: Option<u16>,
        #[schema(required)]
        error: Option<String>,
    }

    /// An event on its way to a webhook.
    WebhookDelivery {
        event_id: String,
        event_name: String,
        /// `pending`, `delivered` or `failed`.
        status: String,
        /// Tries until now.
        attempts: u32,
        #[schema(required, format = DateTime)]
        next_at: Option<String>,
        #[schema(format = DateTime)]
        created_at: String,
        #[schema(required)]
        last: Option<DeliveryTry>,
    }

    /// The last try of a delivery.
    DeliveryTry {
        #[schema(format = DateTime)]
        at: String,
        #[schema(required)]
        status_code: Option<u16>,
        #[schema(required)]
        error: Option<String>,
        duration_ms: u64,
    }

    /// A key; its text is shown when it is made, and never again.
    Key {
        id: String,
        name: String,
        scopes: Vec<ScopeWord>,
        #[schema(required)]
        tenant_id: Option<String>,
        /// `active`, `expired` or `revoked`.
        state: String,
        #[schema(format = DateTime)]
        created_at: String,
        #[schema(required, format = DateTime)]
        expires_at: Option<String>,
        #[schema(required, format = DateTime)]
        revoked_at: Option<String>,
        #[schema(required, format = DateTime)]
        last_used_at: Option<String>,
    }

    /// A key that was made, with its text.
    KeyCreated {
        #[serde(flatten)]
        shown: Key,
        /// What requests send: `Authorization: Bearer …`.
        key: String,
    }

    /// Who asked for which change, and what came of it.
    AuditEntry {
        sequence: i64,
        id: String,
        #[schema(format = DateTime)]
        at: String,
        actor: String,
        #[schema(required)]
        tenant_id: Option<String>,
        method: String,
        route: String,
        target: String,
        /// The HTTP status of the answer.
        status: u16,
        request_id: String,
        /// Its place in the chain, once it is sealed.
        #[schema(required)]
        place: Option<i64>,
        #[schema(required)]
        hash: Option<String>,
    }

    /// A pool and what it holds.
    Queue {
        pool: String,
        #[schema(required)]
        paused: Option<PauseShown>,
        handler: String,
        #[schema(required)]
        region: Option<String>,
        ready: Ready,
        /// Tasks in the hands of workers.
        in_flight: u64,
        /// Results that no engine has stored yet.
        results: u64,
        oldest_age_ms: u64,
    }

    /// Tasks that wait for a worker, by priority.
    Ready {
        high: u64,
        normal: u64,
        low: u64,
    }

    /// A worker as it announces itself.
    Worker {
        worker: String,
        pools: Vec<String>,
        /// Tasks that it runs at a time.
        slots: u32,
        /// Tasks that it runs now.
        running: u32,
        version: String,
        #[schema(nullable = false)]
        region: Option<String>,
        started_at: String,
        /// Whether it takes no more tasks.
        draining: bool,
        /// What it offers: `flowmonkey.handler` files, as JSON.
        manifests: Vec<Value>,
        /// Milliseconds since it was heard of.
        silent_ms: u64,
    }

    /// A task that failed for good and waits for a person.
    FailedTask {
        execution_id: String,
        execution_status: ExecutionStatus,
        task_id: String,
        step_id: String,
        visit: u32,
        attempt: u32,
        handler_type: String,
        #[schema(format = DateTime)]
        failed_at: String,
        /// `open`, `replayed`, `discarded` or `left`.
        state: String,
        #[schema(required)]
        settled: Option<Settled>,
        error: Failure,
        input: Value,
        /// After a verb: why its execution waits.
        waiting_reason: Option<String>,
    }

    /// What became of a parked task.
    Settled {
        /// `replayed` or `discarded`.
        r#as: String,
        #[schema(format = DateTime)]
        at: String,
        by: String,
        #[schema(required)]
        reason: Option<String>,
    }

    /// A table.
    Table {
        id: String,
        #[schema(nullable = false)]
        tenant_id: Option<String>,
        columns: Vec<Column>,
    }

    /// A column of a table.
    Column {
        id: String,
        name: String,
        r#type: ColumnType,
        required: bool,
    }

    /// A row of a table.
    Row {
        id: String,
        #[schema(value_type = Object)]
        row: Value,
        execution_id: String,
        #[schema(format = DateTime)]
        inserted_at: String,
    }

    /// Which engine answers.
    Version {
        version: String,
        engine_id: String,
        pid: u32,
    }

    /// How the process is.
    Health {
        /// `alive` or `ready`.
        status: String,
    }

    /// One thing that is wrong, and where.
    ProblemDetail {
        /// JSON pointer into the body.
        #[schema(nullable = false)]
        pointer: Option<String>,
        /// Name of the query parameter or header.
        #[schema(nullable = false)]
        parameter: Option<String>,
        /// Of flows: `error` or `warning`.
        #[schema(nullable = false)]
        severity: Option<String>,
        /// Of flows: the name of the rule.
        #[schema(nullable = false)]
        rule: Option<String>,
        message: String,
        #[schema(nullable = false)]
        hint: Option<String>,
        #[schema(nullable = false)]
        line: Option<u32>,
        #[schema(nullable = false)]
        column: Option<u32>,
    }

    /// An error (RFC 9457), as `application/problem+json`.
    ProblemDocument {
        /// `urn:flowmonkey:error:` and the code.
        r#type: String,
        /// The class of the error, in words.
        title: String,
        /// The HTTP status.
        status: u16,
        /// Stable.
        code: String,
        /// What happened, in words.
        detail: String,
        /// Names the request in the engine's log.
        request_id: String,
        /// What is wrong, and where.
        #[schema(nullable = false)]
        errors: Option<Vec<ProblemDetail>>,
    }
}
