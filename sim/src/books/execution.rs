//! The book of one execution: its history as committed, replayed event by event, with what follows from it.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a checker looks at the events that it is about, and no others"
)]

use std::collections::{BTreeMap, BTreeSet};

use flowmonkey_core::execution::error::codes;
use flowmonkey_core::execution::event::{AttemptEnded, AttemptOutcome, WaitEnd};
use flowmonkey_core::execution::state::{Compensation, StepRun};
use flowmonkey_core::execution::{Event, Execution, RecordedEvent, apply};
use flowmonkey_core::ids::ExecutionId;

use super::leases::Leases;
use crate::workload::StepTable;

/// Names a visit of a step that can be undone.
pub(super) type Undo = (ExecutionId, String, u32);

/// The key under which signals of the simulation carry what names them.
pub const NONCE: &str = "nonce";

/// The book of one execution.
#[derive(Debug)]
pub struct ExecutionBook {
    /// Its history as it was committed.
    pub history: Vec<RecordedEvent>,
    /// Its state by this history.
    pub state: Execution,
    /// Whether it was ended without undoing.
    pub terminated: bool,
    /// What is left to be undone, the last first.
    pub to_undo: Vec<Undo>,
    undone: BTreeSet<Undo>,
    added: BTreeSet<Undo>,
    attempts: BTreeMap<u32, u32>,
    accepted: BTreeSet<(u32, u32)>,
    /// Attempts of tasks whose ends are known.
    closed: BTreeSet<(u32, u32)>,
    outcomes: u32,
    retries: BTreeMap<(Option<ExecutionId>, String, u32), u32>,
    signals: BTreeSet<String>,
    nonces: BTreeSet<String>,
}

type Checked = Result<(), (&'static str, String)>;

fn undo(compensation: &Compensation) -> Undo {
    (compensation.execution, compensation.step.to_string(), compensation.visit)
}

impl ExecutionBook {
    pub(super) fn new(created: &Execution) -> Self {
        Self {
            history: Vec::new(),
            state: created.clone(),
            terminated: false,
            to_undo: Vec::new(),
            undone: BTreeSet::new(),
            added: BTreeSet::new(),
            attempts: BTreeMap::new(),
            accepted: BTreeSet::new(),
            closed: BTreeSet::new(),
            outcomes: 0,
            retries: BTreeMap::new(),
            signals: BTreeSet::new(),
            nonces: BTreeSet::new(),
        }
    }

    /// Writes down an event.
    pub(super) fn note(&mut self, recorded: &RecordedEvent, steps: &StepTable, leases: &Leases) -> Checked {
        let next = self.history.last().map_or(1, |last| last.sequence + 1);
        if recorded.sequence != next {
            let what = format!("{} got event {} where {next} is next", self.state.id(), recorded.sequence);
            return Err(("history", what));
        }
        let checked = self.check(recorded, steps, leases);
        self.history.push(recorded.clone());
        apply_event(&mut self.state, recorded);
        checked?;
        self.check_undoing(&recorded.event)
    }

    fn check(&mut self, recorded: &RecordedEvent, steps: &StepTable, leases: &Leases) -> Checked {
        let id = self.state.id();
        if let Event::Created { .. } = &recorded.event {
            // What is created may have ended in the same commit; its history begins here all the same.
            return match self.history.len() {
                0 => Ok(()),
                _ => Err(("history", format!("{id} was created twice"))),
            };
        }
        if self.state.is_terminal() && !matches!(recorded.event, Event::Reopened { .. }) {
            return Err(("terminal", format!("{id} has ended and then: {:?}", recorded.event)));
        }
        match &recorded.event {
            Event::TaskScheduled { task } => {
                self.check_scheduled(&task.run)?;
                self.check_missing(&task.run, recorded.at.as_millis(), leases)
            }
            Event::AttemptEnded(ended) => self.check_ended(ended, recorded.at.as_millis(), leases),
            Event::LeaseLost { attempt, .. } => {
                let Some(task) = self.state.task() else {
                    return Err(("leases", format!("{id} lost a lease that it does not have")));
                };
                self.closed.insert((task.run.task, *attempt));
                let delivery = delivery(&self.state, task.run.task, *attempt);
                leases.may_be_lost(&delivery, recorded.at.as_millis()).map_err(|what| ("leases", what))
            }
            Event::RetryScheduled { run, .. } => self.check_retry(run, steps),
            Event::IncidentResolved { .. } | Event::Reopened { .. } => {
                self.retries.clear();
                Ok(())
            }
            Event::SignalAccepted { id: signal } => {
                if self.signals.insert(signal.clone()) {
                    return Ok(());
                }
                Err(("signals", format!("{id} accepted {signal} twice")))
            }
            Event::WaitEnded { by: WaitEnd::Resume { data: Some(data) }, .. } => {
                let Some(nonce) = data.get(NONCE).and_then(|nonce| nonce.as_str()) else { return Ok(()) };
                if self.nonces.insert(nonce.into()) {
                    return Ok(());
                }
                Err(("signals", format!("{nonce} ended two waits of {id}")))
            }
            Event::Failed | Event::Cancelled { .. } if !self.terminated => {
                if self.to_undo.is_empty() {
                    return Ok(());
                }
                Err(("undoing", format!("{id} ended and did not undo {:?}", self.to_undo)))
            }
            _ => Ok(()),
        }
    }

    fn check_scheduled(&mut self, run: &StepRun) -> Checked {
        let before = self.attempts.insert(run.task, run.attempt);
        if before.is_some_and(|before| before >= run.attempt) {
            let what = format!("task {} of {}: {before:?}, then {}", run.task, self.state.id(), run.attempt);
            return Err(("attempts", what));
        }
        Ok(())
    }

    /// A delivery that follows one which nobody ended: that one was missing.
    fn check_missing(&self, run: &StepRun, at_ms: i64, leases: &Leases) -> Checked {
        let Some(before) = run.attempt.checked_sub(1) else { return Ok(()) };
        let was_out =
            self.state.task().is_some_and(|task| task.run.task == run.task && task.run.attempt == before);
        let missing = delivery(&self.state, run.task, before);
        if !was_out || self.closed.contains(&(run.task, before)) || leases.was_handed_in(&missing) {
            return Ok(());
        }
        leases.may_be_missing(&missing, at_ms).map_err(|what| ("grace", what))
    }

    fn check_ended(&mut self, ended: &AttemptEnded, at_ms: i64, leases: &Leases) -> Checked {
        self.outcomes += 1;
        self.closed.insert((ended.task, ended.attempt));
        let id = self.state.id();
        let Some(worker) = &ended.worker_id else {
            let is_unstarted =
                ended.error.as_ref().is_some_and(|error| error.code == codes::SCHEDULE_TO_START_TIMEOUT);
            let unstarted = delivery(&self.state, ended.task, ended.attempt);
            if !is_unstarted || leases.was_handed_in(&unstarted) {
                return Ok(());
            }
            return leases.may_be_missing(&unstarted, at_ms).map_err(|what| ("grace", what));
        };
        let delivery = delivery(&self.state, ended.task, ended.attempt);
        let current = self.attempts.get(&ended.task) == Some(&ended.attempt)
            && self
                .state
                .task()
                .is_some_and(|task| task.run.task == ended.task && task.run.attempt == ended.attempt);
        if !current {
            return Err((
                "attempts",
                format!("a result of {delivery} counted for {id}, whose task is another"),
            ));
        }
        if !self.accepted.insert((ended.task, ended.attempt)) {
            return Err(("attempts", format!("two results of {delivery} counted")));
        }
        leases.may_be_accepted(&delivery, worker).map_err(|what| ("grants", what))
    }

    fn check_retry(&mut self, run: &StepRun, steps: &StepTable) -> Checked {
        let undoing = self.state.undoing.as_ref().filter(|_| run.compensates);
        let flow = undoing.map_or(&self.state.identity.flow.id, |undoing| &undoing.flow.id);
        let whose = undoing.map(|undoing| undoing.execution);
        let limit = steps.retries(flow, &run.step);
        let count = self.retries.entry((whose, run.step.to_string(), run.visit)).or_default();
        *count += 1;
        if *count > limit {
            let what = format!("{} retried {} {count} times, {limit} allowed", self.state.id(), run.step);
            return Err(("retries", what));
        }
        Ok(())
    }

    /// More to undo, oldest first.
    pub(super) fn inherit(&mut self, left: Vec<Undo>) -> Checked {
        let again = left.iter().find(|undo| self.added.contains(*undo)).cloned();
        self.added.extend(left.iter().cloned());
        self.to_undo.extend(left);
        match again {
            Some(undo) => Err(("undoing", format!("{} is to undo {undo:?} twice", self.state.id()))),
            None => Ok(()),
        }
    }

    fn check_undoing(&mut self, event: &Event) -> Checked {
        let id = self.state.id();
        match event {
            Event::CompensationAdded(compensation) => self.inherit(vec![undo(compensation)])?,
            Event::CompensationBegan => {
                let expected = self.to_undo.pop();
                if self.state.undoing.as_ref().map(undo) != expected {
                    let what = format!("{id} undoes {:?}, not {expected:?}", self.state.undoing);
                    return Err(("undoing", what));
                }
                if let Some(expected) = expected
                    && !self.undone.insert(expected)
                {
                    return Err(("undoing", format!("{id} undoes a visit twice")));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// After all events of a decision: what holds of them together, and of the state that is stored with them.
    pub(super) fn close(&mut self, stored: &Execution, new: &[RecordedEvent], steps: &StepTable) -> Checked {
        let id = stored.id();
        for recorded in new {
            let Event::AttemptEnded(ended) = &recorded.event else { continue };
            let undone = steps.undone_by(&stored.identity.flow.id, &ended.step_id).is_some();
            let visit = (id, ended.step_id.to_string(), ended.visit);
            if ended.outcome == AttemptOutcome::Success
                && !ended.compensates
                && undone
                && !self.added.contains(&visit)
            {
                return Err(("undoing", format!("{visit:?} succeeded and is not remembered")));
            }
        }
        if self.outcomes != stored.step_count {
            let what = format!("{id} counts {} outcomes; it had {}", stored.step_count, self.outcomes);
            return Err(("steps", what));
        }
        flowmonkey_core::execution::invariants::check(stored).map_err(|what| ("invariants", what))?;
        self.state.version = stored.version;
        if self.state != *stored {
            let what =
                format!("{id}: stored, and as its history gives it: {}", difference(stored, &self.state));
            return Err(("replay", what));
        }
        Ok(())
    }
}

fn apply_event(state: &mut Execution, recorded: &RecordedEvent) {
    if let Event::Created { execution } = &recorded.event {
        *state = (**execution).clone();
        state.events = recorded.sequence;
        return;
    }
    apply(state, &recorded.event, recorded.at);
}

fn delivery(state: &Execution, task: u32, attempt: u32) -> flowmonkey_plumbing::queue::Delivery {
    flowmonkey_plumbing::queue::Delivery { task_id: state.task_id(task).to_string(), attempt }
}

/// The fields in which two states differ, each with both values.
pub(super) fn difference(left: &Execution, right: &Execution) -> String {
    let fields = |state: &Execution| match serde_json::to_value(state) {
        Ok(serde_json::Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let (left, right) = (fields(left), fields(right));
    let names: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let differing = names.into_iter().filter(|name| left.get(*name) != right.get(*name));
    differing.map(|name| format!("{name}: {:?} / {:?}; ", left.get(name), right.get(name))).collect()
}
