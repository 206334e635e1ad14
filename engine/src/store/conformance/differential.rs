//! The same random work on two stores must give the same record.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowmonkey_core::execution::command::{
    Command, EmittedEvent, JoinOutputs, JoinReport, NextStep, ReportedOutcome, TableRow, TaskAttempt,
    TaskReport,
};
use flowmonkey_core::execution::state::{CancelSource, Cost};
use flowmonkey_core::execution::{Activity, Execution, StartRequest, Status};
use flowmonkey_core::flow::definition::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};

use super::fixture::{
    as_update, at, commit, each, fan, id, listen, nap, report, shout, spawning, started, task, try_decide,
    work,
};
use crate::store::control::FailedTaskFilter;
use crate::store::model::{
    Batch, CheckpointContent, ExecutionFilter, JoinState, PublishedEvent, Retention, StoredCheckpoint, Update,
};
use crate::store::{Span, Store};

/// Executions that one batch changes, at most.
const UPDATES: u64 = 6;
/// Filters that are compared after each batch.
const FILTERS: usize = 8;
/// The tenant of some of what is made; the rest is of none.
const TENANT: &str = "acme";
/// More rows than any answer has.
const ALL: usize = 10_000;

/// Random numbers that a seed decides (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let bound = u64::try_from(from.len()).ok().filter(|bound| *bound > 0)?;
        from.get(usize::try_from(self.below(bound)).ok()?)
    }
}

/// What the random work knows.
struct Work {
    random: Random,
    flows: BTreeMap<String, Arc<Flow>>,
    number: u64,
    now: i64,
}

/// Does the same random work on `left` and `right`, and compares all that they answer. Says how many batches had at
/// least one change that counted, so that a caller can see that something happened.
pub async fn compare(left: &dyn Store, right: &dyn Store, seed: u64, rounds: usize) -> usize {
    let flows = [work(), listen(), nap(), shout(), each(), fan()].map(|flow| (flow.id.clone(), flow));
    let mut work = Work { random: Random(seed), flows: flows.into(), number: 0, now: 0 };
    let mut effective = 0;
    for round in 0..rounds {
        work.now += i64::try_from(work.random.below(15_000)).unwrap();
        let batch = work.batch(left).await;
        let place = format!("seed {seed}, round {round}");
        let changed = batch.updates.iter().map(|update| update.execution.id());
        let touched: Vec<_> =
            changed.chain(batch.creates.iter().map(|create| create.execution.id())).collect();
        let committed = commit(left, batch.clone()).await;
        assert_eq!(committed, commit(right, batch.clone()).await, "{place}");
        effective += usize::from(committed.updates.contains(&true));
        if work.random.one_in(8) {
            assert_eq!(commit(left, batch.clone()).await, commit(right, batch).await, "again: {place}");
        }
        work.side_work(left, right).await;
        let filters = work.filters();
        let parents = touched.iter().copied().chain(committed.joins.iter().map(|state| state.parent));
        let deep: Vec<ExecutionId> = parents.collect();
        compare_reads(left, right, &filters, at(work.now), Some(&deep), &place).await;
    }
    compare_reads(left, right, &work.filters(), at(work.now), None, &format!("seed {seed}, end")).await;
    effective
}

impl Work {
    async fn batch(&mut self, store: &dyn Store) -> Batch {
        let now = at(self.now);
        let mut batch = Batch { now, ..Batch::default() };
        let tend = store.joins_to_tend(None, ALL).await.unwrap();
        let roomy: Vec<JoinState> = tend.iter().filter(|state| state.room() > 0).cloned().collect();
        if let Some(state) = self.random.pick(&roomy) {
            let join = store.join(state.parent, state.join).await.unwrap().unwrap();
            let flow = self.flows[&join.spec.inherited.flow.id].clone();
            let to = state.spawned + state.room();
            let from = if self.random.one_in(6) { 0 } else { state.spawned };
            batch = spawning(&flow, &join.spec, from, to, now);
        }
        for _ in 0..self.random.below(3) {
            let create = self.create(now);
            batch.creates.push(create);
        }
        let known = everything(store).await;
        let mut chosen = Vec::new();
        for _ in 0..self.random.below(UPDATES + 1) {
            if let Some(id) = self.random.pick(&known).filter(|id| !chosen.contains(*id)) {
                chosen.push(*id);
            }
        }
        for execution in store.load(&chosen).await.unwrap() {
            if let Some(update) = self.update(store, &execution, now).await {
                batch.updates.push(update);
            }
        }
        batch
    }

    fn create(&mut self, now: Timestamp) -> crate::store::model::Create {
        let names: Vec<String> = self.flows.keys().cloned().collect();
        let flow = self.flows[self.random.pick(&names).unwrap()].clone();
        if !self.random.one_in(10) {
            self.number += 1;
        }
        let items: Vec<Value> =
            (0..=self.random.below(12)).map(|item| json!({ "n": item, "parts": [1, item] })).collect();
        let context = json!({ "items": items, "float": self.random.next() as f64 / 3.0 });
        let mut request = StartRequest::new(id(self.number.max(1)), context);
        request.tenant_id = self.random.one_in(3).then(|| TENANT.to_owned());
        if self.random.one_in(3) {
            request.idempotency_key = Some(format!("key {}", self.random.below(4)));
            request.idempotency_window_ms = Some(self.random.below(60_000));
        }
        if self.random.one_in(2) {
            request.labels =
                [("colour".to_owned(), ["red", "blue"][usize::from(self.random.one_in(2))].to_owned())]
                    .into();
        }
        if self.random.one_in(2) {
            request.tenant_id = Some(["acme", "other"][usize::from(self.random.one_in(2))].to_owned());
        }
        let mut create = started(&flow, request, now);
        create.input_hash = format!("input {}", self.random.below(2));
        create
    }

    async fn update(&mut self, store: &dyn Store, execution: &Execution, now: Timestamp) -> Option<Update> {
        let flow = self.flows[&execution.identity.flow.id].clone();
        let outer = match execution.identity.parent.filter(|_| !execution.identity.graph.is_empty()) {
            Some(link) => store.snapshot(link.execution, link.join).await.unwrap(),
            None => None,
        };
        let command = self.command(store, execution).await?;
        let decision = try_decide(&flow, execution, outer.as_deref(), command, now).ok()?;
        let mut update = as_update(execution, decision, now);
        if self.random.one_in(8) {
            update.expected_version += 1;
        }
        Some(update)
    }

    async fn command(&mut self, store: &dyn Store, execution: &Execution) -> Option<Command> {
        if execution.is_terminal() {
            return self.random.one_in(4).then_some(Command::Retry { by: None });
        }
        match self.random.below(24) {
            0 => return Some(Command::Pause { reason: Some("pause".into()) }),
            1 => return Some(Command::Terminate { reason: None }),
            2 => return Some(Command::Cancel { source: CancelSource::User, reason: None }),
            _ => {}
        }
        if execution.pause.is_some() && self.random.one_in(2) {
            return Some(Command::Unpause);
        }
        Some(match &execution.activity {
            Activity::Task(task) if self.random.one_in(10) => {
                let attempt = TaskAttempt { task: task.run.task, attempt: task.run.attempt };
                let saved_at = self.random.one_in(2).then_some(task.scheduled_at);
                Command::LeaseLost { attempt, saved_at }
            }
            Activity::Task(_) => Command::Report(Box::new(self.report(execution))),
            Activity::Wait(_) if self.random.one_in(2) => Command::Event {
                id: format!("event {}", self.now),
                name: "parcel".into(),
                data: json!({ "at": self.now }),
            },
            Activity::Children(fan) => {
                let state = store.join_state(execution.id(), fan.join).await.unwrap()?;
                if !state.is_complete() {
                    return self.random.one_in(6).then_some(Command::JoinDecided { join: fan.join });
                }
                Command::JoinEnded(Box::new(JoinReport {
                    join: fan.join,
                    succeeded: state.succeeded,
                    failed: state.failed,
                    outputs: JoinOutputs::Inline(Vec::new()),
                    errors: Vec::new(),
                    undoable: 0,
                    cost: state.cost,
                    has_errors: state.failed > 0,
                }))
            }
            Activity::Incident(_) => Command::Retry { by: Some("someone".into()) },
            Activity::Ready | Activity::Backoff { .. } | Activity::Wait(_) => Command::Wake,
            Activity::Nothing => return None,
        })
    }

    fn report(&mut self, execution: &Execution) -> TaskReport {
        let outcome = if self.random.one_in(6) {
            ReportedOutcome::Failure {
                code: None,
                message: "it broke".into(),
                retryable: true,
                details: Some(json!({ "why": [0.1, null] })),
                retry_after_ms: None,
                next: NextStep::Transition,
            }
        } else {
            ReportedOutcome::Success { output: Some(json!({ "n": self.now })), next: NextStep::Transition }
        };
        let row = |number: u64| TableRow {
            table: "table".into(),
            id: format!("row {number}"),
            row: [("n".to_owned(), json!(number))].into_iter().collect(),
            pipe: None,
        };
        let rows = (0..self.random.below(3)).map(|_| row(self.random.below(40))).collect::<Vec<_>>();
        let emitted = (0..self.random.below(2)).map(|_| EmittedEvent {
            id: None,
            name: "said".into(),
            data: json!(self.now),
        });
        let emitted = emitted.collect();
        let cost =
            Cost { usd: self.random.below(1000) as f64 / 7.0, tokens: self.random.below(99), attempts: 0 };
        TaskReport { rows, emitted, cost, ..report(execution, outcome) }
    }

    /// What goes into the record beside batches.
    async fn side_work(&mut self, left: &dyn Store, right: &dyn Store) {
        let event = PublishedEvent {
            tenant: self.random.one_in(3).then(|| TENANT.to_owned()),
            id: format!("outside {}", self.random.below(50)),
            name: "parcel".into(),
            data: json!(self.now),
            source: None,
            attributes: None,
            at: at(self.now - i64::try_from(self.random.below(50)).unwrap()),
        };
        assert_eq!(left.publish_event(&event).await.unwrap(), right.publish_event(&event).await.unwrap());
        let some = left.undelivered_events(2).await.unwrap();
        let delivered: Vec<String> = some.into_iter().map(|event| event.id).collect();
        for tenant in [None, Some(TENANT)] {
            left.mark_delivered(tenant, &delivered).await.unwrap();
            right.mark_delivered(tenant, &delivered).await.unwrap();
        }
        if let Some(out) = left.tasks_out(None, at(self.now), ALL).await.unwrap().pop() {
            let attempt = out.attempt + u32::from(self.random.one_in(3));
            let saved = StoredCheckpoint {
                id: "cp".into(),
                saved_at: at(self.now),
                version: 0,
                bytes: self.now.unsigned_abs(),
                content: CheckpointContent::Json(json!(self.now)),
            };
            let (one, other) = if self.random.one_in(4) {
                (
                    left.clear_checkpoint(out.task, attempt).await.map(u64::from).map(Some),
                    right.clear_checkpoint(out.task, attempt).await.map(u64::from).map(Some),
                )
            } else {
                (
                    left.save_checkpoint(out.task, attempt, &saved).await,
                    right.save_checkpoint(out.task, attempt, &saved).await,
                )
            };
            assert_eq!(one.unwrap(), other.unwrap());
        }
        if self.random.one_in(20) {
            let before = at(self.now - 100_000);
            let retention = Retention {
                executions_before: before,
                events_before: before,
                checkpoints_before: before,
                keys_before: before,
                progress_before: before,
                logs_before: before,
            };
            assert_eq!(
                left.prune(&retention, ALL).await.unwrap(),
                right.prune(&retention, ALL).await.unwrap()
            );
        }
    }

    /// Some filters, most of which find something.
    fn filters(&mut self) -> Vec<ExecutionFilter> {
        (0..FILTERS).map(|_| self.filter()).collect()
    }

    fn filter(&mut self) -> ExecutionFilter {
        let mut filter = ExecutionFilter {
            include_children: self.random.one_in(2),
            before: self.random.one_in(4).then(|| id(self.random.below(self.number.max(1)))),
            max: usize::try_from(self.random.below(6)).unwrap(),
            ..ExecutionFilter::default()
        };
        for _ in 0..self.random.below(4) {
            self.narrow(&mut filter);
        }
        filter
    }

    /// Adds one condition.
    fn narrow(&mut self, filter: &mut ExecutionFilter) {
        match self.random.below(15) {
            0 | 1 => {
                let count = 1 + self.random.below(3);
                filter.statuses =
                    (0..count).filter_map(|_| self.random.pick(&Status::ALL).copied()).collect();
            }
            2 => {
                let flows: Vec<String> = self.flows.keys().cloned().collect();
                filter.flow_id = self.random.pick(&flows).cloned();
            }
            3 => filter.labels = [("colour".to_owned(), "red".to_owned())].into(),
            4 => filter.parent = Some(id(self.random.below(self.number.max(1)))),
            5 | 6 => filter.created = self.span(),
            7 => filter.updated = self.span(),
            8 => filter.ended = self.span(),
            9 => filter.current_step = self.word(&["first", "second", "again"]),
            10 => filter.flow_version = self.word(&["1.0.0", "2.0.0"]),
            11 => filter.tenant = self.word(&["acme", "other", "none"]),
            12 => filter.error_code = self.word(&["BROKEN", "CANCELLED", "CHILD_FAILED"]),
            13 => {
                let reasons = ["a worker of", "event", "2 children", "pause", "é"];
                filter.waiting_reason = self.word(&reasons);
            }
            _ => {
                let known = id(self.random.below(self.number.max(1))).to_string();
                let end = 4 + usize::try_from(self.random.below(32)).unwrap();
                filter.id_prefix = Some(known[..end].parse().unwrap());
            }
        }
    }

    fn word(&mut self, words: &[&str]) -> Option<String> {
        self.random.pick(words).map(|word| (*word).to_owned())
    }

    fn span(&mut self) -> Span {
        let mut end = || {
            let now = u64::try_from(self.now).unwrap();
            let chosen = at(i64::try_from(self.random.below(now + 1)).unwrap());
            (!self.random.one_in(3)).then_some(chosen)
        };
        Span { from: end(), until: end() }
    }
}

async fn everything(store: &dyn Store) -> Vec<ExecutionId> {
    let filter = ExecutionFilter { include_children: true, max: ALL, ..ExecutionFilter::default() };
    store.list(&filter).await.unwrap().items.into_iter().map(|item| item.id).collect()
}

/// Compares lists and chores of all, and everything there is of the executions in `deep` (none: of all).
async fn compare_reads(
    left: &dyn Store,
    right: &dyn Store,
    filters: &[ExecutionFilter],
    now: Timestamp,
    deep: Option<&[ExecutionId]>,
    place: &str,
) {
    macro_rules! same {
        ($($call:tt)+) => {{
            let (one, other) = (left.$($call)+.await.unwrap(), right.$($call)+.await.unwrap());
            assert_eq!(one, other, "{}, {place}", stringify!($($call)+));
            one
        }};
    }
    let known = everything(left).await;
    assert_eq!(known, everything(right).await, "{place}");
    let executions = same!(load(&known));
    for filter in filters {
        let place = format!("{filter:?}, {place}");
        let (page, other) = (left.list(filter).await.unwrap(), right.list(filter).await.unwrap());
        assert_eq!(page, other, "{place}");
        let (count, other) = (left.count(filter).await.unwrap(), right.count(filter).await.unwrap());
        assert_eq!(count, other, "{place}");
        assert!(count.count >= page.items.len() as u64, "{place}");
    }
    same!(count(&ExecutionFilter { include_children: true, ..ExecutionFilter::default() }));
    same!(due(now, ALL));
    same!(due(now, 3));
    same!(next_due());
    same!(tasks_out(None, now, ALL));
    same!(failed_tasks(&FailedTaskFilter { max: ALL, ..FailedTaskFilter::default() }));
    same!(failed_tasks(&FailedTaskFilter {
        max: ALL,
        tenant: Some(TENANT.into()),
        ..FailedTaskFilter::default()
    }));
    same!(undelivered_events(ALL));
    for tenant in [None, Some(TENANT)] {
        same!(events_since(tenant, "parcel", at(0), ALL));
        same!(events_since(tenant, "said", at(0), 7));
        same!(subscribers(tenant, "parcel", None, ALL));
    }
    same!(counts());
    let rows = |found: Vec<crate::store::model::TableRowRecord>| {
        found.into_iter().map(|row| (row.id, row.row, row.execution, row.at)).collect::<Vec<_>>()
    };
    for tenant in [None, Some(TENANT)] {
        let (one, other) =
            (left.table_rows(tenant, "table", None, ALL), right.table_rows(tenant, "table", None, ALL));
        assert_eq!(rows(one.await.unwrap()), rows(other.await.unwrap()), "{place}");
    }
    let tend = same!(joins_to_tend(None, ALL));
    for state in tend.iter().filter(|state| deep.is_none_or(|deep| deep.contains(&state.parent))) {
        let (parent, join) = (state.parent, state.join);
        same!(join_state(parent, join));
        same!(snapshot(parent, join));
        same!(children(parent, join, 0, ALL));
        same!(live_children(parent, join, 1, 3));
        let specs = (left.join(parent, join).await.unwrap(), right.join(parent, join).await.unwrap());
        assert_eq!(specs.0.map(|join| join.spec), specs.1.map(|join| join.spec), "{place}");
    }
    for execution in executions.iter().filter(|one| deep.is_none_or(|deep| deep.contains(&one.id()))) {
        let history = same!(history(execution.id(), 0, ALL));
        assert_eq!(history.last().map(|recorded| recorded.sequence), Some(execution.events), "{place}");
        same!(history(execution.id(), 2, 1));
        if execution.tasks > 0 {
            same!(load_checkpoint(task(execution)));
        }
    }
}
