//! Flows, executions and decisions for the suite: all made by the core, as the engine makes them.

use std::sync::Arc;

use flowmonkey_core::execution::command::{Command, NextStep, ReportedOutcome, TableRow, TaskReport};
use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{
    Activity, Decision, Execution, Handlers, JoinSpec, Record, Rejection, StartRequest, World, children,
    create, decide,
};
use flowmonkey_core::flow::definition::Flow;
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, TaskId};
use flowmonkey_core::limits::Limits;
use flowmonkey_core::time::{Moment, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::model::{Batch, Committed, Create, CreateOutcome, FlowRow, Spawn, Update, awaited_event};
use crate::store::{Store, number};

/// The first instant of every rule: all of its years are far from the limits of instants.
pub const START: i64 = 1_790_000_000_000;

/// An instant of a rule.
#[must_use]
pub const fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

/// An execution's id; greater numbers are newer.
#[must_use]
pub fn id(number: u64) -> ExecutionId {
    ExecutionId::from_uuid(Uuid::from_u128((0x0199_0000_0000_7000_8000 << 48) | u128::from(number)))
}

struct AnyHandler;

impl Handlers for AnyHandler {
    fn accepts(&self, _handler_type: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _handler_type: &str) -> Option<u64> {
        None
    }
}

/// The flow with these steps; the first one is called `first`.
///
/// # Panics
/// When the flow is refused.
#[must_use]
pub fn flow(name: &str, version: &str, steps: &Value) -> Arc<Flow> {
    let source = json!({
        "id": name, "version": version, "initialStepId": "first", "steps": steps,
        "budget": { "maxAttempts": 1000 },
    });
    match parse_flow_value(&source) {
        Ok((flow, _)) => flow,
        Err(issues) => panic!("the suite's flow {name} is refused: {issues:?}"),
    }
}

/// Two tasks, one after the other.
#[must_use]
pub fn work() -> Arc<Flow> {
    let first = json!({ "type": "do", "outputKey": "one", "transitions": { "onSuccess": "second" } });
    flow("work", "1.0.0", &json!({ "first": first, "second": { "type": "do", "outputKey": "two" } }))
}

/// Waits for the event `parcel`, for a minute.
#[must_use]
pub fn listen() -> Arc<Flow> {
    flow(
        "listen",
        "1.0.0",
        &json!({
            "first": { "type": "wait-event", "config": { "event": "parcel", "timeoutMs": 60_000 }, "outputKey": "parcel" },
        }),
    )
}

/// Waits as long as its context says.
#[must_use]
pub fn nap() -> Arc<Flow> {
    flow(
        "nap",
        "1.0.0",
        &json!({
            "first": { "type": "delay", "config": { "seconds": 60 } },
        }),
    )
}

/// Publishes two events, then ends.
#[must_use]
pub fn shout() -> Arc<Flow> {
    flow(
        "shout",
        "1.0.0",
        &json!({
            "first": { "type": "emit", "config": { "event": "said", "data": { "type": "static", "value": 1 } },
                "transitions": { "onSuccess": "again" } },
            "again": { "type": "emit", "config": { "event": "said", "data": { "type": "static", "value": 2 } } },
        }),
    )
}

/// A map over `items`; its body is a map over `item.parts`, whose body is a task.
#[must_use]
pub fn fan() -> Arc<Flow> {
    let inner = json!({ "id": "part", "type": "map",
        "config": { "items": { "type": "path", "path": "item.parts" }, "as": "part", "body": { "type": "do" } } });
    flow(
        "fan",
        "1.0.0",
        &json!({
            "first": { "type": "map", "outputKey": "results", "config": {
                "items": { "type": "path", "path": "items" }, "as": "item", "maxConcurrency": 8, "body": inner } },
        }),
    )
}

/// A map over `items` whose body is a task.
#[must_use]
pub fn each() -> Arc<Flow> {
    flow(
        "each",
        "1.0.0",
        &json!({
            "first": { "type": "map", "outputKey": "results", "config": {
                "items": { "type": "path", "path": "items" }, "as": "item", "maxConcurrency": 8,
                "body": { "type": "do" } } },
        }),
    )
}

/// A flow as it is stored.
#[must_use]
pub fn row(flow: &Flow) -> FlowRow {
    FlowRow {
        id: flow.id.clone(),
        version: flow.version.to_string(),
        hash: flow.hash.clone(),
        status: "published".into(),
        definition: flow.source.clone(),
    }
}

/// What the core decides on `command` at `now`.
///
/// # Panics
/// When the core refuses: the rule is wrong.
#[must_use]
pub fn decided(
    flow: &Flow,
    execution: &Execution,
    outer: Option<&Snapshot>,
    command: Command,
    now: Timestamp,
) -> Decision {
    match try_decide(flow, execution, outer, command, now) {
        Ok(decision) => decision,
        Err(rejection) => panic!("the core refuses: {rejection}"),
    }
}

/// As [`decided`], where the core may refuse.
///
/// # Errors
/// The core's.
pub fn try_decide(
    flow: &Flow,
    execution: &Execution,
    outer: Option<&Snapshot>,
    command: Command,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let limits = Limits::default();
    let world = World {
        flow,
        flows: &|_| None,
        flow_exists: &|_, _| true,
        outer,
        limits: &limits,
        handlers: &AnyHandler,
        datasets: &|_| flowmonkey_core::execution::Dataset::Unknown,
        stacks: &|_| None,
        resume_url: &|step, visit| format!("https://resume.example/{step}/{visit}"),
    };
    decide(execution, &world, command, Moment { now, chance: 0 })
}

/// A new execution that has taken its first step.
///
/// # Panics
/// When the core refuses.
#[must_use]
pub fn started(flow: &Flow, request: StartRequest, now: Timestamp) -> Create {
    match create(request, flow, &Limits::default(), now) {
        Ok(creation) => begun(flow, creation, None, now),
        Err(error) => panic!("the core refuses: {error}"),
    }
}

fn begun(
    flow: &Flow,
    creation: flowmonkey_core::execution::Creation,
    outer: Option<&Snapshot>,
    now: Timestamp,
) -> Create {
    let decision = decided(flow, &creation.execution, outer, Command::Begin, now);
    let mut events = vec![creation.event];
    events.extend(decision.events);
    Create {
        events: number(&decision.execution, events, now),
        execution: Arc::new(decision.execution),
        records: decision.records,
        idempotency: creation.idempotency,
        input_hash: "input".into(),
        spawn: None,
        cause: None,
        flows: None,
    }
}

/// A new root with nothing special.
#[must_use]
pub fn root(flow: &Flow, number: u64, now: Timestamp) -> Create {
    started(flow, StartRequest::new(id(number), json!({})), now)
}

/// The child with number `index` of a fan-out of `flow`, which has taken its first step.
///
/// # Panics
/// When the core refuses.
#[must_use]
pub fn child(flow: &Flow, spec: &JoinSpec, index: u32, now: Timestamp) -> Create {
    match children::child(spec, index, flow, &Limits::default(), now) {
        Ok(creation) => Create { spawn: Some(0), ..begun(flow, creation, Some(&spec.snapshot), now) },
        Err(error) => panic!("the core refuses: {error}"),
    }
}

/// The update that `command` gives.
#[must_use]
pub fn update(flow: &Flow, execution: &Execution, command: Command, now: Timestamp) -> Update {
    update_within(flow, execution, None, command, now)
}

/// As [`update`], for an execution that sees `outer`.
#[must_use]
pub fn update_within(
    flow: &Flow,
    execution: &Execution,
    outer: Option<&Snapshot>,
    command: Command,
    now: Timestamp,
) -> Update {
    as_update(execution, decided(flow, execution, outer, command, now), now)
}

/// The update that stores `decision` on `execution`.
#[must_use]
pub fn as_update(execution: &Execution, decision: Decision, now: Timestamp) -> Update {
    Update {
        expected_version: execution.version,
        wake_before: execution.next_wake(),
        awaited_before: awaited_event(execution).map(Into::into),
        events: number(&decision.execution, decision.events, now),
        execution: Arc::new(decision.execution),
        records: decision.records,
    }
}

/// A report of the task that is out.
///
/// # Panics
/// When no task is out.
#[must_use]
pub fn report(execution: &Execution, outcome: ReportedOutcome) -> TaskReport {
    let Activity::Task(task) = &execution.activity else { panic!("no task is out: {execution:?}") };
    TaskReport {
        task: task.run.task,
        attempt: task.run.attempt,
        outcome,
        context_changes: Vec::new(),
        emitted: Vec::new(),
        rows: Vec::new(),
        cost: Cost::default(),
        started_at: None,
        duration_ms: 5,
        worker: None,
    }
}

/// The task that is out succeeded.
#[must_use]
pub fn success(execution: &Execution, output: Value) -> Command {
    let outcome = ReportedOutcome::Success { output: Some(output), next: NextStep::Transition };
    Command::Report(Box::new(report(execution, outcome)))
}

/// As [`success`], with rows for tables.
#[must_use]
pub fn success_with_rows(execution: &Execution, rows: Vec<TableRow>) -> Command {
    let outcome = ReportedOutcome::Success { output: None, next: NextStep::Transition };
    Command::Report(Box::new(TaskReport { rows, ..report(execution, outcome) }))
}

/// The task that is out failed for good.
#[must_use]
pub fn failure(execution: &Execution) -> Command {
    let outcome = ReportedOutcome::Failure {
        code: Some("BROKEN".into()),
        message: "it broke".into(),
        retryable: false,
        details: None,
        retry_after_ms: None,
        next: NextStep::Transition,
    };
    Command::Report(Box::new(report(execution, outcome)))
}

/// The task that is out.
#[must_use]
pub fn task(execution: &Execution) -> TaskId {
    execution.task_id(execution.tasks)
}

/// The fan-out that records open.
///
/// # Panics
/// When they open none.
#[must_use]
pub fn opened(records: &[Record]) -> JoinSpec {
    let mut specs = records.iter().filter_map(|record| match record {
        Record::OpenJoin(spec) => Some((**spec).clone()),
        Record::CloseJoin { .. }
        | Record::EndJoin { .. }
        | Record::ChildEnded { .. }
        | Record::StartChild(_)
        | Record::InsertRow(_)
        | Record::Publish(_)
        | Record::Spend { .. }
        | Record::FailedTask(_) => None,
    });
    match specs.next_back() {
        Some(spec) => spec,
        None => panic!("no fan-out is opened: {records:?}"),
    }
}

/// A batch of creates.
#[must_use]
pub fn creates(now: Timestamp, creates: Vec<Create>) -> Batch {
    Batch { now, creates, ..Batch::default() }
}

/// A batch of updates.
#[must_use]
pub fn updates(now: Timestamp, updates: Vec<Update>) -> Batch {
    Batch { now, updates, ..Batch::default() }
}

/// A batch that makes the children of `spec` from place `from` up to `to`.
#[must_use]
pub fn spawning(flow: &Flow, spec: &JoinSpec, from: u32, to: u32, now: Timestamp) -> Batch {
    Batch {
        now,
        creates: (from..to).map(|index| child(flow, spec, index, now)).collect(),
        updates: Vec::new(),
        spawns: vec![Spawn { parent: spec.parent, join: spec.join, from, to }],
    }
}

/// Commits a batch of which everything has to be stored.
///
/// # Panics
/// When something is not.
pub async fn store_all(store: &dyn Store, batch: Batch) -> Committed {
    let committed = commit(store, batch).await;
    assert!(committed.creates.iter().all(|outcome| *outcome == CreateOutcome::Created), "{committed:?}");
    assert!(committed.updates.iter().all(|held| *held), "{committed:?}");
    committed
}

/// Commits a batch.
///
/// # Panics
/// When the store fails.
pub async fn commit(store: &dyn Store, batch: Batch) -> Committed {
    match store.commit(batch).await {
        Ok(committed) => committed,
        Err(error) => panic!("the commit fails: {error}"),
    }
}

/// Loads one execution that is there.
///
/// # Panics
/// When it is not.
pub async fn load(store: &dyn Store, id: ExecutionId) -> Arc<Execution> {
    match store.load(&[id]).await {
        Ok(mut found) if found.len() == 1 => Arc::new(found.remove(0)),
        other => panic!("{id} cannot be loaded: {other:?}"),
    }
}

/// Starts `flow` as number `number`, commits it, and returns it.
///
/// # Panics
/// When the store fails.
pub async fn start(store: &dyn Store, flow: &Flow, number: u64, now: Timestamp) -> Arc<Execution> {
    let create = root(flow, number, now);
    let execution = create.execution.clone();
    store_all(store, creates(now, vec![create])).await;
    execution
}
