//! Waits: they hold nothing, and end by time, signal, resume, event, or answer.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::codes;
use super::super::command::{NextStep, Signal};
use super::super::decision::Effect;
use super::super::encode;
use super::super::error::{ExecutionError, Rejection};
use super::super::event::{AttemptOutcome, Event, WaitEnd};
use super::super::state::{Activity, AwaitedEvent, BufferedSignal, ResumedBy, StepRun, Wait, WaitOn};
use super::step::Done;
use super::turn::Turn;
use crate::flow::definition::{Approval, Delay, Step, StepKind, WaitEvent, WaitSignal};
use crate::flow::expression::Expression;
use crate::time::Timestamp;

impl Turn<'_> {
    /// The instant at which a wait with this limit, or with the flow's, fails.
    pub(super) fn wait_deadline(&self, timeout_ms: Option<u64>) -> Option<Timestamp> {
        timeout_ms
            .or(self.execution.identity.wait_timeout_ms)
            .or(self.world.flow.timeouts.wait_ms)
            .map(|millis| self.now().plus(millis))
    }

    /// Begins the wait; unless what it waits for is there already.
    pub(super) fn begin_wait(&mut self, wait: Wait) {
        self.emit(Event::WaitBegan(wait.clone()));
        self.take_early(&wait);
    }

    fn wait_of(&self, run: &StepRun, on: WaitOn, deadline: Option<Timestamp>) -> Wait {
        Wait { run: run.clone(), on, since: self.now(), deadline, reason: None }
    }

    /// The wait that a handler asked for. Where the same task goes on afterwards, the pause is part of the visit, and counts
    /// against its limit.
    pub(super) fn begin_handler_wait(
        &mut self,
        step: &Arc<Step>,
        run: StepRun,
        on: WaitOn,
        reason: Option<String>,
    ) {
        let goes_on = matches!(on, WaitOn::Handler { again: true, .. });
        let max_steps = encode::max_steps(self.world.flow, self.limits());
        if goes_on && !self.is_ending() && self.execution.step_count >= max_steps {
            let error = self.error(codes::MAX_STEPS, format!("Exceeded {max_steps} steps"), Some(step));
            return self.fail_execution(error, Some(run));
        }
        let deadline = if goes_on { self.step_deadline(step, &run, None) } else { self.wait_deadline(None) };
        self.begin_wait(Wait { run, on, since: self.now(), deadline, reason });
        self.subscribe();
    }

    /// Whether the event that a handler wants to wait for can be waited for.
    pub(super) fn check_awaited(
        &self,
        step: &Step,
        event: Option<&AwaitedEvent>,
    ) -> Result<(), ExecutionError> {
        match event.and_then(|event| event.condition.as_deref()).map(Expression::parse) {
            Some(Err(invalid)) => {
                let message = format!("the event that the handler waits for: {invalid}");
                Err(self.error(codes::INVALID_RESULT, message, Some(step)))
            }
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Asks for the events that came before the wait began, when it waits for one.
    fn subscribe(&mut self) {
        let event = match &self.execution.activity {
            Activity::Wait(wait) => wait.on.event().map(ToOwned::to_owned),
            Activity::Ready
            | Activity::Task(_)
            | Activity::Backoff { .. }
            | Activity::Children(_)
            | Activity::Incident(_)
            | Activity::Nothing => None,
        };
        if let Some(event) = event {
            self.wish(Effect::Subscribe { event });
        }
    }

    /// Notes the wait in the history that people read, and begins it.
    fn note_and_wait(&mut self, step: &Arc<Step>, wait: Wait) -> Done {
        self.note_outcome(step, &wait.run, AttemptOutcome::Wait, None);
        self.run_pipes(step, &wait.run, None, false);
        self.begin_wait(wait);
        Done::UnderWay
    }

    /// As [`Self::wait_deadline`], with the step's own limit of a whole visit.
    fn step_deadline(&self, step: &Step, run: &StepRun, timeout_ms: Option<u64>) -> Option<Timestamp> {
        let total = step.total_timeout_ms.map(|millis| run.began_at.plus(millis));
        [self.wait_deadline(timeout_ms), total].into_iter().flatten().min()
    }

    pub(super) fn begin_delay(&mut self, step: &Arc<Step>, run: &StepRun, delay: &Delay) -> Done {
        let until = match delay {
            Delay::For(millis) => self.now().plus(*millis),
            Delay::Until(selector) => match self.select(selector, step) {
                Ok(value) => match instant(value.as_ref()) {
                    Some(until) => until,
                    None => {
                        let shown = value.map_or_else(|| "nothing".into(), |value| value.to_string());
                        let message =
                            format!("`until` must give RFC 3339 text or epoch milliseconds, not {shown}");
                        return Done::Failure(self.error(codes::INVALID_DELAY, message, Some(step)));
                    }
                },
                Err(error) => return Done::Failure(error),
            },
        };
        let wait = self.wait_of(run, WaitOn::Timer { until }, None);
        self.note_and_wait(step, wait)
    }

    pub(super) fn begin_signal_wait(&mut self, step: &Arc<Step>, run: &StepRun, config: &WaitSignal) -> Done {
        let on = WaitOn::Signal { signal: config.signal.clone() };
        let wait = self.wait_of(run, on, self.step_deadline(step, run, config.timeout_ms));
        self.note_and_wait(step, wait)
    }

    pub(super) fn begin_event_wait(&mut self, step: &Arc<Step>, run: &StepRun, config: &WaitEvent) -> Done {
        let on = WaitOn::Event { event: config.event.clone() };
        let wait = self.wait_of(run, on, self.step_deadline(step, run, config.timeout_ms));
        let done = self.note_and_wait(step, wait);
        self.subscribe();
        done
    }

    pub(super) fn begin_approval(&mut self, step: &Arc<Step>, run: &StepRun, config: &Approval) -> Done {
        let on = WaitOn::Approval {
            signal: config.signal.clone(),
            assignees: config.assignees.clone(),
            escalate_at: config.escalation.as_ref().map(|escalation| self.now().plus(escalation.after_ms)),
        };
        let wait = self.wait_of(run, on, self.step_deadline(step, run, config.timeout_ms));
        self.note_and_wait(step, wait)
    }

    /// A signal: for the wait of that name, or for later.
    pub(super) fn signal(&mut self, signal: Signal) -> Result<(), Rejection> {
        if self.is_draining() {
            return Err(Rejection::NotWaiting(format!("signal {}", signal.name)));
        }
        if let Some(id) = &signal.id
            && self.execution.signal_ids.contains(id)
        {
            return Err(Rejection::DuplicateSignal);
        }
        let waiting = match &self.execution.activity {
            Activity::Wait(wait) => match &wait.on {
                WaitOn::Signal { signal: name } | WaitOn::Approval { signal: name, .. }
                    if *name == signal.name =>
                {
                    Some(wait.clone())
                }
                WaitOn::Signal { .. }
                | WaitOn::Approval { .. }
                | WaitOn::Timer { .. }
                | WaitOn::Event { .. }
                | WaitOn::Handler { .. } => None,
            },
            Activity::Ready
            | Activity::Task(_)
            | Activity::Backoff { .. }
            | Activity::Children(_)
            | Activity::Incident(_)
            | Activity::Nothing => None,
        };
        match waiting {
            Some(wait) => {
                if let Some(step) = self.step_of(&wait.run) {
                    self.check_answer(&step, signal.data.as_ref())?;
                }
                if self.execution.pause.is_some() {
                    return self.buffer(signal);
                }
                self.accept_signal_id(signal.id);
                self.end_wait(wait, ResumedBy::Resume, signal.data);
            }
            None => self.buffer(signal)?,
        }
        Ok(())
    }

    fn buffer(&mut self, signal: Signal) -> Result<(), Rejection> {
        let limit = self.limits().max_buffered_signals;
        if self.execution.signals.len() >= limit {
            return Err(Rejection::SignalBufferFull { limit });
        }
        self.accept_signal_id(signal.id.clone());
        let Signal { name, data, id } = signal;
        self.emit(Event::SignalBuffered(BufferedSignal { name, data, id }));
        Ok(())
    }

    fn accept_signal_id(&mut self, id: Option<String>) {
        if let Some(id) = id {
            self.emit(Event::SignalAccepted { id });
        }
    }

    /// A verified resume token: for the wait of that visit, or for later.
    pub(super) fn resume(&mut self, step: &str, visit: u32, data: Option<Value>) -> Result<(), Rejection> {
        if self.is_draining() {
            return Err(Rejection::NotWaiting("a resume".into()));
        }
        let name = resume_name(step, visit);
        // Usable once.
        if self.execution.signal_ids.contains(&name) {
            return Err(Rejection::DuplicateSignal);
        }
        if let Activity::Wait(wait) = self.execution.activity.clone()
            && &*wait.run.step == step
            && wait.run.visit == visit
        {
            if let Some(step) = self.step_of(&wait.run) {
                self.check_answer(&step, data.as_ref())?;
            }
            if self.execution.pause.is_some() {
                return self.buffer(Signal { name: name.clone(), data, id: Some(name) });
            }
            self.accept_signal_id(Some(name));
            self.end_wait(wait, ResumedBy::Resume, data);
            return Ok(());
        }
        // Early: kept for the visit to come, when that may still wait. It can be used once, so a wrong answer is refused
        // now, while someone can be told.
        let over =
            self.execution.visits.get(step).copied().unwrap_or(0) > visit || self.visit_is_over(step, visit);
        let Some(step_of_token) = self.step(step).filter(|_| !over) else {
            return Err(Rejection::NotWaiting(format!("a resume of step {step}")));
        };
        self.check_answer(&step_of_token, data.as_ref())?;
        self.buffer(Signal { name: name.clone(), data, id: Some(name) })
    }

    /// Whether the execution is past that visit of the step, so that nothing will ever take a resume of it.
    fn visit_is_over(&self, step: &str, visit: u32) -> bool {
        let visited = self.execution.visits.get(step).copied().unwrap_or(0) >= visit;
        // Between visits the cursor is at the next step already.
        visited && *self.execution.cursor != *step
    }

    /// A token that a worker chose.
    pub(super) fn resume_by_token(&mut self, token: &str, data: Option<Value>) -> Result<(), Rejection> {
        let Activity::Wait(wait) = self.execution.activity.clone() else {
            return Err(Rejection::NotWaiting("a resume".into()));
        };
        let matches = match &wait.on {
            WaitOn::Handler { token: Some(wanted), .. } => wanted == token,
            WaitOn::Handler { token: None, .. }
            | WaitOn::Timer { .. }
            | WaitOn::Signal { .. }
            | WaitOn::Event { .. }
            | WaitOn::Approval { .. } => false,
        };
        if !matches {
            return Err(Rejection::NotWaiting("that token".into()));
        }
        if self.execution.pause.is_some() {
            return Err(Rejection::Paused);
        }
        self.end_wait(wait, ResumedBy::Resume, data);
        Ok(())
    }

    /// A published event: for the wait of that name, when it matches.
    pub(super) fn event(&mut self, id: &str, name: &str, data: &Value) -> Result<(), Rejection> {
        let not_waiting = || Rejection::NotWaiting(format!("event {name}"));
        let Activity::Wait(wait) = self.execution.activity.clone() else { return Err(not_waiting()) };
        if wait.on.event() != Some(name) {
            return Err(not_waiting());
        }
        if self.execution.pause.is_some() {
            return Err(Rejection::Paused);
        }
        let consumed = format!("event:{id}");
        if self.execution.signal_ids.contains(&consumed) {
            return Err(Rejection::DuplicateSignal);
        }
        let Some(step) = self.step_of(&wait.run) else {
            self.step_is_gone(wait.run);
            return Ok(());
        };
        let condition = match (&step.kind, &wait.on) {
            (_, WaitOn::Handler { event: Some(AwaitedEvent { condition: Some(condition), .. }), .. }) => {
                // It was checked when the wait began.
                Some(Expression::parse(condition).map_err(|_| not_waiting())?)
            }
            (StepKind::WaitEvent(config), _) => config.matches.clone(),
            _ => None,
        };
        if let Some(expression) = condition {
            let event = json!({ "id": id, "name": name, "data": data });
            match self.with_event(&event, |scope| expression.holds(scope)) {
                Ok(true) => {}
                // An expression that cannot be evaluated on this event does not match it; other events may.
                Ok(false) | Err(_) => return Err(not_waiting()),
            }
        }
        self.accept_signal_id(Some(consumed));
        let by = ResumedBy::Event { id: id.to_owned(), name: name.to_owned() };
        self.end_wait(wait, by, Some(data.clone()));
        Ok(())
    }

    /// An approval's answer must fit its form.
    fn check_answer(&self, step: &Step, data: Option<&Value>) -> Result<(), Rejection> {
        if let StepKind::Approval(Approval { form: Some(form), .. }) = &step.kind {
            form.check(data.unwrap_or(&Value::Null)).map_err(|violations| {
                Rejection::InvalidAnswer(violations.iter().map(ToString::to_string).collect())
            })?;
        }
        Ok(())
    }

    /// A time of the wait has come.
    pub(super) fn wait_due(&mut self, wait: Wait) {
        let now = self.now();
        match &wait.on {
            WaitOn::Timer { until } | WaitOn::Handler { until: Some(until), .. } if *until <= now => {
                self.emit(Event::WaitEnded { step: wait.run.step.clone(), by: WaitEnd::Time });
                self.wait_over(wait, ResumedBy::Time, None);
            }
            WaitOn::Approval { escalate_at: Some(due), .. }
                if *due <= now && wait.deadline.is_none_or(|end| end > now) =>
            {
                let assignees = match self.step_of(&wait.run).as_deref() {
                    Some(Step {
                        kind: StepKind::Approval(Approval { escalation: Some(escalation), .. }),
                        ..
                    }) => escalation.assignees.clone(),
                    Some(_) | None => Vec::new(),
                };
                self.publish(
                    "approval.escalated",
                    json!({
                        "executionId": self.execution.id(),
                        "stepId": wait.run.step,
                        "assignees": assignees,
                    }),
                );
                self.emit(Event::Escalated { assignees });
            }
            WaitOn::Timer { .. }
            | WaitOn::Signal { .. }
            | WaitOn::Event { .. }
            | WaitOn::Approval { .. }
            | WaitOn::Handler { .. } => {
                let message = format!("step \"{}\" waited longer than its limit", wait.run.step);
                self.fail_wait(wait, codes::WAIT_TIMEOUT, message);
            }
        }
    }

    /// After a pause: what the wait is for may have come meanwhile.
    pub(super) fn wait_again(&mut self, wait: Wait) {
        self.take_early(&wait);
        self.subscribe();
    }

    /// Uses the first signal kept for this wait, if there is one. An answer that does not fit the approval's form is
    /// dropped (nobody can be told any more), and the next one is looked at.
    fn take_early(&mut self, wait: &Wait) {
        let resume = resume_name(&wait.run.step, wait.run.visit);
        let signal = match &wait.on {
            WaitOn::Signal { signal } | WaitOn::Approval { signal, .. } => Some(signal),
            WaitOn::Timer { .. } | WaitOn::Event { .. } | WaitOn::Handler { .. } => None,
        };
        let wanted = |early: &BufferedSignal| early.name == resume || signal == Some(&early.name);
        while let Some(index) = self.execution.signals.iter().position(wanted) {
            let data = self.execution.signals[index].data.clone();
            self.emit(Event::SignalTaken { index });
            if self.step_of(&wait.run).is_some_and(|step| self.check_answer(&step, data.as_ref()).is_ok()) {
                return self.end_wait(wait.clone(), ResumedBy::Resume, data);
            }
        }
    }

    /// What the wait was for has come.
    fn end_wait(&mut self, wait: Wait, by: ResumedBy, data: Option<Value>) {
        let is_approval = matches!(wait.on, WaitOn::Approval { .. });
        let rejected =
            is_approval && data.as_ref().and_then(|data| data.get("approved")) == Some(&Value::Bool(false));
        self.emit(Event::WaitEnded {
            step: wait.run.step.clone(),
            by: WaitEnd::Resume { data: data.clone() },
        });
        if rejected {
            let message = format!("step \"{}\" was answered with approved: false", wait.run.step);
            if let (Some(step), Some(data)) = (self.step_of(&wait.run), &data) {
                // The answer stays readable for whoever handles the rejection; a full context does not hide it.
                if let Err(error) = self.write_output(&step, data) {
                    return self.fail_wait(wait, &error.code, error.message);
                }
            }
            return self.fail_wait(wait, codes::APPROVAL_REJECTED, message);
        }
        self.wait_over(wait, by, data);
    }

    fn fail_wait(&mut self, wait: Wait, code: &str, message: String) {
        let Some(step) = self.step_of(&wait.run) else { return self.step_is_gone(wait.run) };
        let error = self.error(code, message, Some(&step));
        self.emit(Event::WaitEnded { step: step.id.clone(), by: WaitEnd::Failed });
        self.note_outcome(&step, &wait.run, AttemptOutcome::Failure, Some(error.clone()));
        // Nobody answered: asking again may help. A person's no is an answer.
        let retryable = code == codes::WAIT_TIMEOUT;
        self.step_failed(&step, wait.run, error, retryable, None, NextStep::Transition);
    }

    /// A wait ended well: its data is written, and the cursor goes on. No history entry: the wait had its own.
    /// What a resume brings is the output of the step.
    fn wait_over(&mut self, mut wait: Wait, by: ResumedBy, data: Option<Value>) {
        let Some(step) = self.step_of(&wait.run) else { return self.step_is_gone(wait.run) };
        if matches!(wait.on, WaitOn::Handler { again: true, .. }) {
            wait.run.resumed = Some(by);
            return self.reschedule(wait.run);
        }
        let resumed = by != ResumedBy::Time;
        if resumed && let Err(error) = self.accept_output(&step, data.as_ref()) {
            self.note_outcome(&step, &wait.run, AttemptOutcome::Failure, Some(error.clone()));
            self.run_pipes(&step, &wait.run, None, false);
            return self.step_failed(&step, wait.run, error, false, None, NextStep::Transition);
        }
        if wait.run.compensates {
            return self.compensation_done();
        }
        self.remember_compensation(&step, &wait.run, false);
        let keep = if self.runs_whole_flow() { None } else { data };
        self.emit(Event::StepSucceeded { step: step.id.clone(), output: keep });
        match step.transitions.on_resume.clone().or_else(|| step.transitions.on_success.clone()) {
            Some(next) => self.enter(next),
            // A handler that waits without naming a next step is called again (a batch at a time); a step that the
            // engine does itself ends the graph.
            None if matches!(step.kind, StepKind::Task(_)) => self.enter(step.id.clone()),
            None => self.complete(),
        }
    }
}

/// The name under which an early resume is kept.
fn resume_name(step: &str, visit: u32) -> String {
    format!("resume:{step}:{visit}")
}

/// RFC 3339 text, or epoch milliseconds as a number or as text.
fn instant(value: Option<&Value>) -> Option<Timestamp> {
    match value? {
        Value::String(text) => {
            Timestamp::parse_rfc3339(text).or_else(|| text.parse().ok().map(Timestamp::from_millis))
        }
        Value::Number(number) => number
            .as_i64()
            .or_else(|| {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "saturates, and instants are whole milliseconds"
                )]
                number.as_f64().map(|millis| millis as i64)
            })
            .map(Timestamp::from_millis),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
