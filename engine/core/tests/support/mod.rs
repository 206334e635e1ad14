//! Runs executions without a store, a queue or a clock: what the engine does around the core, in its plainest form. After
//! every decision it checks what must hold of every decision.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "test code")]

pub mod join;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flowmonkey_core::execution::command::{
    Command, EmittedEvent, NextStep, ReportedOutcome, Signal, TableRow, TaskAttempt, TaskReport,
};
use flowmonkey_core::execution::decision::{FailedTask, Record};
use flowmonkey_core::execution::event::{AttemptEnded, Event};
use flowmonkey_core::execution::state::{Activity, CancelSource, Cost};
use flowmonkey_core::execution::{
    Creation, Decision, Effect, Execution, Handlers, RecordedEvent, Rejection, StartRequest, Status,
    TaskDraft, World, children, create, decide, encode_task, invariants, replay,
};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::{Format, parse_document};
use flowmonkey_core::flow::scope::Snapshot;
use flowmonkey_core::ids::{ExecutionId, FlowHash};
use flowmonkey_core::limits::Limits;
use flowmonkey_core::time::{Moment, Timestamp};
use join::Join;
use serde_json::Value;
use uuid::Uuid;

/// The instant at which every bench begins.
pub const BEGINNING: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Decisions after which a bench that should come to rest is taken to be going in circles.
const DECISIONS_MAX: usize = 200_000;

type Handler = Box<dyn FnMut(&TaskDraft) -> ReportedOutcome>;

/// An execution and its history.
pub struct Slot {
    pub execution: Execution,
    pub history: Vec<RecordedEvent>,
}

/// Executions, and everything around them.
pub struct Bench {
    pub flows: Vec<Arc<Flow>>,
    pub limits: Limits,
    pub now: Timestamp,
    pub chance: u64,
    pub executions: BTreeMap<ExecutionId, Slot>,
    pub joins: BTreeMap<(ExecutionId, u32), Join>,
    /// Tasks that are out, by execution.
    pub queue: BTreeMap<ExecutionId, TaskDraft>,
    pub rows: Vec<TableRow>,
    pub published: Vec<EmittedEvent>,
    pub failed_tasks: Vec<FailedTask>,
    pub spent: Cost,
    pub cancelled_tasks: Vec<(ExecutionId, u32, u32)>,
    /// All drafts ever published, in order.
    pub dispatched: Vec<TaskDraft>,
    /// Handler types that the engine knows; none: all.
    pub known_types: Option<BTreeSet<String>>,
    pub timeout_ms: Option<u64>,
    /// JSON round trips of states and events are checked too.
    pub check_json: bool,
    pub decisions: usize,
    handlers: BTreeMap<String, Handler>,
    effects: VecDeque<(ExecutionId, Effect)>,
    counted: BTreeSet<ExecutionId>,
    started: u32,
}

struct Known<'a>(&'a Option<BTreeSet<String>>, Option<u64>);

impl Handlers for Known<'_> {
    fn accepts(&self, handler_type: &str) -> bool {
        self.0.as_ref().is_none_or(|known| known.contains(handler_type))
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        self.1
    }
}

/// An output, and the transitions decide.
pub fn success(output: Value) -> ReportedOutcome {
    ReportedOutcome::Success { output: Some(output), next: NextStep::Transition }
}

/// A failure that may be retried.
pub fn failure(code: &str) -> ReportedOutcome {
    ReportedOutcome::Failure {
        code: Some(code.into()),
        message: format!("it is {code}"),
        retryable: true,
        details: None,
        retry_after_ms: None,
        next: NextStep::Transition,
    }
}

/// A report of the task that is out.
pub fn report(draft: &TaskDraft, outcome: ReportedOutcome) -> TaskReport {
    TaskReport {
        task: draft.task.number,
        attempt: draft.attempt,
        outcome,
        context_changes: Vec::new(),
        emitted: Vec::new(),
        rows: Vec::new(),
        cost: Cost::default(),
        started_at: None,
        duration_ms: 7,
        worker: Some("w1".into()),
    }
}

impl Bench {
    /// A bench that knows the flows of the text (JSON or YAML).
    pub fn new(text: &str) -> Self {
        let document = parse_document(text, Format::guess(text)).unwrap_or_else(|issues| {
            panic!("{}", issues.iter().map(|issue| format!("{issue}\n")).collect::<String>())
        });
        Self::with_flows(document.flows)
    }

    pub fn with_flows(flows: Vec<Arc<Flow>>) -> Self {
        Self {
            flows,
            limits: Limits::default(),
            now: BEGINNING,
            chance: 0,
            executions: BTreeMap::new(),
            joins: BTreeMap::new(),
            queue: BTreeMap::new(),
            rows: Vec::new(),
            published: Vec::new(),
            failed_tasks: Vec::new(),
            spent: Cost::default(),
            cancelled_tasks: Vec::new(),
            dispatched: Vec::new(),
            known_types: None,
            timeout_ms: None,
            check_json: true,
            decisions: 0,
            handlers: BTreeMap::new(),
            effects: VecDeque::new(),
            counted: BTreeSet::new(),
            started: 0,
        }
    }

    /// Answers tasks of this type from now on.
    pub fn on(&mut self, handler_type: &str, handler: impl FnMut(&TaskDraft) -> ReportedOutcome + 'static) {
        self.handlers.insert(handler_type.into(), Box::new(handler));
    }

    /// Leaves tasks of this type in the queue again.
    pub fn off(&mut self, handler_type: &str) {
        self.handlers.remove(handler_type);
    }

    pub fn flow(&self, id: &str, version: Option<&str>) -> Option<Arc<Flow>> {
        self.flows
            .iter()
            .filter(|flow| flow.id == id && version.is_none_or(|wanted| flow.version.to_string() == wanted))
            .max_by(|left, right| left.version.cmp(&right.version))
            .cloned()
    }

    fn flow_by_hash(&self, hash: &FlowHash) -> Arc<Flow> {
        self.flows.iter().find(|flow| flow.hash == *hash).cloned().expect("a flow of the bench")
    }

    /// The next root's id.
    pub fn next_id(&mut self) -> ExecutionId {
        self.started += 1;
        let millis = u128::from(self.now.as_millis().unsigned_abs());
        ExecutionId::from_uuid(Uuid::from_u128(
            (millis << 80) | (0x7 << 76) | (0x8 << 60) | u128::from(self.started),
        ))
    }

    /// Creates and begins an execution of the first flow, and runs until nothing moves.
    pub fn start(&mut self, context: Value) -> ExecutionId {
        let flow = self.flows[0].id.clone();
        self.start_flow(&flow, context)
    }

    /// As [`Self::start`], of the named flow.
    pub fn start_flow(&mut self, flow: &str, context: Value) -> ExecutionId {
        let id = self.created(flow, context);
        self.must(id, Command::Begin);
        self.run();
        id
    }

    /// Creates an execution without beginning it.
    pub fn created(&mut self, flow: &str, context: Value) -> ExecutionId {
        let flow = self.flow(flow, None).expect("the flow exists");
        let request = StartRequest::new(self.next_id(), context);
        let creation = create(request, &flow, &self.limits, self.now).expect("it starts");
        self.admit(creation)
    }

    /// Takes a creation in.
    pub fn admit(&mut self, creation: Creation) -> ExecutionId {
        let id = creation.execution.id();
        let first = RecordedEvent { sequence: 1, at: self.now, event: creation.event };
        invariants::check(&creation.execution).unwrap();
        let before = self.executions.insert(id, Slot { execution: creation.execution, history: vec![first] });
        assert!(before.is_none(), "two executions with the id {id}");
        id
    }

    pub fn get(&self, id: ExecutionId) -> &Execution {
        &self.executions[&id].execution
    }

    pub fn status(&self, id: ExecutionId) -> Status {
        self.get(id).status()
    }

    pub fn context(&self, id: ExecutionId) -> Value {
        Value::Object(self.get(id).context.clone())
    }

    /// The code it failed with.
    pub fn code(&self, id: ExecutionId) -> String {
        self.get(id).error().map_or_else(String::new, |error| error.code.clone())
    }

    pub fn events(&self, id: ExecutionId) -> impl Iterator<Item = &Event> {
        self.executions[&id].history.iter().map(|recorded| &recorded.event)
    }

    /// The history that people read.
    pub fn attempts(&self, id: ExecutionId) -> Vec<&AttemptEnded> {
        self.events(id)
            .filter_map(|event| if let Event::AttemptEnded(ended) = event { Some(&**ended) } else { None })
            .collect()
    }

    /// Delays of the retries, in order.
    pub fn backoffs(&self, id: ExecutionId) -> Vec<u64> {
        self.executions[&id]
            .history
            .iter()
            .filter_map(|recorded| match &recorded.event {
                Event::RetryScheduled { until, .. } => Some(until.since(recorded.at)),
                _ => None,
            })
            .collect()
    }

    pub fn children(&self, id: ExecutionId) -> Vec<ExecutionId> {
        let mut children: Vec<_> = self
            .executions
            .values()
            .filter_map(|slot| Some((slot.execution.identity.parent?, slot.execution.id())))
            .filter(|(parent, _)| parent.execution == id)
            .map(|(parent, child)| (parent.join, parent.index, child))
            .collect();
        children.sort();
        children.into_iter().map(|(_, _, child)| child).collect()
    }

    /// The attempt that is out.
    pub fn attempt(&self, id: ExecutionId) -> TaskAttempt {
        let run = &self.get(id).task().expect("a task is out").run;
        TaskAttempt { task: run.task, attempt: run.attempt }
    }

    /// Answers the task that is out.
    pub fn answer(&mut self, id: ExecutionId, outcome: ReportedOutcome) {
        let draft = self.queue[&id].clone();
        self.must(id, Command::Report(Box::new(report(&draft, outcome))));
        self.run();
    }

    /// A signal without an id.
    pub fn signal(&mut self, id: ExecutionId, name: &str, data: Value) -> Result<(), Rejection> {
        let signal = Signal { name: name.into(), data: Some(data), id: None };
        self.command(id, Command::Signal(signal)).map(|()| self.run())
    }

    pub fn cancel(&mut self, id: ExecutionId) -> Result<(), Rejection> {
        self.command(id, Command::Cancel { source: CancelSource::User, reason: None }).map(|()| self.run())
    }

    /// A command that is not refused, and what follows.
    pub fn must(&mut self, id: ExecutionId, command: Command) {
        let shown = format!("{command:?}");
        if let Err(rejection) = self.command(id, command) {
            panic!("{shown} is refused: {rejection}\n{:#?}", self.get(id));
        }
        self.run();
    }

    /// What the parent, and its parents, offer to a body.
    fn outer(&self, execution: &Execution) -> Option<Arc<Snapshot>> {
        let parent = execution.identity.parent?;
        if execution.identity.graph.is_empty() {
            return None;
        }
        self.joins.get(&(parent.execution, parent.join)).map(|join| Arc::clone(&join.spec.snapshot))
    }

    fn with_world<T>(&self, execution: &Execution, see: impl FnOnce(&World<'_>) -> T) -> T {
        let flow = self.flow_by_hash(&execution.identity.flow.hash);
        let outer = self.outer(execution);
        see(&World {
            flow: &flow,
            flows: &|hash| self.flows.iter().find(|flow| flow.hash == *hash).cloned(),
            outer: outer.as_deref(),
            limits: &self.limits,
            flow_exists: &|id, version| self.flow(id, version).is_some(),
            handlers: &Known(&self.known_types, self.timeout_ms),
            datasets: &|_| flowmonkey_core::execution::Dataset::Unknown,
            stacks: &|stacks| Some(self.stack_page(*stacks)),
            resume_url: &|step, visit| format!("https://resume/{step}/{visit}"),
        })
    }

    /// Decides, checks, stores. What follows is left for [`Self::run`].
    pub fn command(&mut self, id: ExecutionId, command: Command) -> Result<(), Rejection> {
        let moment = Moment { now: self.now, chance: self.chance };
        let before = self.get(id).clone();
        let (decision, again) = self.with_world(&before, |world| {
            (decide(&before, world, command.clone(), moment), decide(&before, world, command.clone(), moment))
        });
        self.decisions += 1;
        assert!(self.decisions < DECISIONS_MAX, "going in circles");
        let decision = match (decision, again) {
            (Ok(decision), Ok(again)) => {
                same(&decision, &again);
                decision
            }
            (Err(rejection), Err(again)) => {
                assert_eq!(rejection, again);
                return Err(rejection);
            }
            (first, second) => panic!("two decisions differ: {first:?} {second:?}"),
        };
        self.commit(&before, decision, &command);
        Ok(())
    }

    fn commit(&mut self, before: &Execution, decision: Decision, command: &Command) {
        let id = before.id();
        let after = decision.execution;
        let fine = invariants::check(&after);
        assert_eq!(fine, Ok(()), "after {command:?}");
        assert_eq!(after.version, before.version + 1, "after {command:?}");
        assert!(!decision.events.is_empty(), "{command:?} decides nothing:\n{before:#?}");
        assert_eq!(after.events, before.events + decision.events.len() as u64, "after {command:?}");
        let slot = self.executions.get_mut(&id).unwrap();
        for (place, event) in decision.events.into_iter().enumerate() {
            let sequence = before.events + 1 + place as u64;
            slot.history.push(RecordedEvent { sequence, at: self.now, event });
        }
        let replayed = replay(&slot.history).expect("it begins with a creation");
        let comparable = Execution { version: 0, ..after.clone() };
        assert_eq!(Execution { version: 0, ..replayed }, comparable, "a replay differs after {command:?}");
        if self.check_json {
            let text = serde_json::to_string(&after).unwrap();
            let read: Execution =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!(read, after, "{text}");
            let bare = Execution { context: serde_json::Map::new(), output: None, ..after.clone() };
            let stored = serde_json::to_string(&after.stored()).unwrap();
            assert_eq!(stored, serde_json::to_string(&bare).unwrap());
            for recorded in &slot.history[usize::try_from(before.events).unwrap()..] {
                let text = serde_json::to_string(recorded).unwrap();
                let read: RecordedEvent =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                assert_eq!(&read, recorded, "{text}");
            }
        }
        slot.execution = after;
        for record in decision.records {
            self.record(id, record);
        }
        self.effects.extend(decision.effects.into_iter().map(|effect| (id, effect)));
        let execution = self.get(id);
        if let Some(task) = execution.task()
            && execution.pause.is_none()
            && let Some(Effect::PublishTask(draft)) =
                self.effects.iter().rev().filter(|(of, _)| *of == id).map(|(_, effect)| effect).find(
                    |effect| matches!(effect, Effect::PublishTask(draft) if draft.attempt == task.run.attempt),
                )
        {
            let encoded = self.with_world(execution, |world| encode_task(execution, world));
            assert_eq!(encoded.as_ref(), Ok(&**draft), "a re-publication differs from the publication");
        }
    }

    fn record(&mut self, id: ExecutionId, record: Record) {
        match record {
            Record::OpenJoin(spec) => {
                assert_eq!(spec.parent, id);
                let before = self.joins.insert((id, spec.join), Join::new(*spec));
                assert!(before.is_none(), "a fan-out is opened once");
            }
            Record::CloseJoin { join } => self.joins.get_mut(&(id, join)).unwrap().closing = true,
            Record::EndJoin { join } => {
                let join = self.joins.get_mut(&(id, join)).unwrap();
                assert!(!join.taken, "a fan-out's result is taken once");
                join.taken = true;
            }
            Record::ChildEnded { parent, succeeded, cost } => {
                assert!(self.counted.insert(id), "a child is counted once");
                let join = self.joins.get_mut(&(parent.execution, parent.join)).unwrap();
                join.count(succeeded, cost);
                self.effects.push_back((parent.execution, Effect::CheckJoin { join: parent.join }));
            }
            Record::StartChild(start) => {
                let flow = self.flow(&start.start.flow_id, start.start.version.as_deref()).unwrap();
                if let Ok(creation) = children::detached(&start, &flow, &self.limits, self.now) {
                    self.admit(creation);
                }
            }
            Record::InsertRow(row) => {
                if !self.rows.iter().any(|other| other.id == row.id) {
                    self.rows.push(row);
                }
            }
            Record::Publish(event) => self.publish(event),
            Record::Spend { cost, .. } => self.spent = self.spent.plus(cost),
            Record::FailedTask(task) => self.failed_tasks.push(*task),
        }
    }

    /// Publishes an event to whoever waits for it.
    pub fn publish(&mut self, event: EmittedEvent) {
        self.published.push(event.clone());
        let waiting: Vec<ExecutionId> = self
            .executions
            .values()
            .filter(|slot| match &slot.execution.activity {
                Activity::Wait(wait) => wait.on.event() == Some(&*event.name),
                _ => false,
            })
            .map(|slot| slot.execution.id())
            .collect();
        for id in waiting {
            self.effects.push_back((id, Effect::Subscribe { event: event.name.clone() }));
        }
    }

    fn effect(&mut self, id: ExecutionId, effect: Effect) {
        match effect {
            Effect::PublishTask(draft) => {
                assert_eq!(draft.task.execution, id);
                let current = self.get(id).task();
                if current.is_some_and(|task| task.run.attempt == draft.attempt) {
                    self.dispatched.push((*draft).clone());
                    self.queue.insert(id, *draft);
                }
            }
            Effect::CancelTask { task, attempt, .. } => self.cancelled_tasks.push((id, task, attempt)),
            Effect::DropTask { task, attempt, .. } => {
                self.queue
                    .retain(|of, draft| *of != id || draft.task.number != task || draft.attempt > attempt);
            }
            Effect::SpawnChildren { join } | Effect::CheckJoin { join } => self.tend(id, join),
            Effect::CancelChildren { join } => {
                for child in self.children(id) {
                    let execution = self.get(child);
                    if execution.identity.parent.is_some_and(|parent| parent.join == join)
                        && !execution.is_terminal()
                    {
                        // Refused where it is ending already.
                        let command = Command::Cancel { source: CancelSource::Parent, reason: None };
                        self.command(child, command).unwrap_or_default();
                    }
                }
                self.tend(id, join);
            }
            Effect::BeginChild { child } => {
                if self.executions.contains_key(&child) {
                    self.command(child, Command::Begin).unwrap();
                }
            }
            Effect::Subscribe { event } => {
                for (place, published) in self.published.clone().into_iter().enumerate() {
                    if published.name == event && !self.get(id).is_terminal() {
                        let command = Command::Event {
                            id: place.to_string(),
                            name: event.clone(),
                            data: published.data,
                        };
                        // Refused where it does not match, or was consumed before.
                        self.command(id, command).unwrap_or_default();
                    }
                }
            }
            Effect::CancelDetached => {
                for child in self.children(id) {
                    let execution = self.get(child);
                    let ends =
                        execution.identity.parent.is_some_and(|link| !link.is_joined() && !link.abandon);
                    if ends && !execution.is_terminal() {
                        let command = Command::Cancel { source: CancelSource::Parent, reason: None };
                        self.command(child, command).unwrap_or_default();
                    }
                }
            }
        }
    }

    /// Everything that needs no time and no answer from outside.
    pub fn run(&mut self) {
        loop {
            if let Some((id, effect)) = self.effects.pop_front() {
                self.effect(id, effect);
                continue;
            }
            let ready = self.queue.values().find(|draft| self.handlers.contains_key(&*draft.handler_type));
            let Some(draft) = ready.cloned() else { break };
            let id = draft.task.execution;
            self.queue.remove(&id);
            let outcome =
                RefCell::new(self.handlers.get_mut(&*draft.handler_type).unwrap()).borrow_mut()(&draft);
            // Refused where the attempt does not count any more.
            self.command(id, Command::Report(Box::new(report(&draft, outcome)))).unwrap_or_default();
            self.forget_stale();
        }
        self.forget_stale();
    }

    /// Tasks that are not out any more are answered by nobody.
    fn forget_stale(&mut self) {
        let executions = &self.executions;
        self.queue.retain(|id, draft| {
            let task = executions[id].execution.task();
            task.is_some_and(|task| task.run.task == draft.task.number && task.run.attempt == draft.attempt)
        });
    }

    /// When time itself moves an execution next.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.executions.values().filter_map(|slot| slot.execution.next_wake()).min()
    }

    /// Jumps to the next instant at which something is due, and lets it happen. False when nothing ever is.
    pub fn advance(&mut self) -> bool {
        let Some(wake) = self.next_wake() else { return false };
        self.now = self.now.max(wake);
        self.wake_due();
        true
    }

    /// Lets `millis` pass, and what is due meanwhile happen at its instant.
    pub fn pass(&mut self, millis: u64) {
        let until = self.now.plus(millis);
        while self.next_wake().is_some_and(|wake| wake <= until) {
            self.advance();
        }
        self.now = until;
    }

    fn wake_due(&mut self) {
        let due: Vec<ExecutionId> = self
            .executions
            .values()
            .filter(|slot| slot.execution.next_wake().is_some_and(|wake| wake <= self.now))
            .map(|slot| slot.execution.id())
            .collect();
        for id in due {
            let execution = self.get(id);
            if execution.next_wake().is_none_or(|wake| wake > self.now) {
                continue;
            }
            let late = execution.task().filter(|task| {
                task.start_by.is_some_and(|due| due <= self.now)
                    && task.total_by.is_none_or(|due| due > self.now)
            });
            let command = match late {
                Some(task) => {
                    Command::NotStarted(TaskAttempt { task: task.run.task, attempt: task.run.attempt })
                }
                None => Command::Wake,
            };
            let shown = format!("{command:?}");
            self.command(id, command).unwrap_or_else(|error| panic!("{shown}: {error}\n{:#?}", self.get(id)));
            self.run();
        }
    }

    /// Runs, and jumps from wake to wake, until nothing is due.
    pub fn run_to_end(&mut self) {
        self.run();
        while self.advance() {}
    }
}

fn same(left: &Decision, right: &Decision) {
    assert_eq!(left.execution, right.execution);
    assert_eq!(left.events, right.events);
    assert_eq!(left.records, right.records);
    assert_eq!(left.effects, right.effects);
}
