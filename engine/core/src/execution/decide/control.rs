//! What people and the engine itself ask: pause, resume, retry, budgets.

use serde_json::json;

use super::super::codes;
use super::super::decision::Effect;
use super::super::encode;
use super::super::error::{ExecutionError, Rejection};
use super::super::event::Event;
use super::super::state::{Activity, Cost, Phase, Stage, StepRun};
use super::turn::Turn;
use crate::flow::definition::StepKind;

impl Turn<'_> {
    pub(super) fn pause(&mut self, reason: Option<String>) -> Result<(), Rejection> {
        if self.execution.pause.is_some() {
            return Err(Rejection::AlreadyPaused);
        }
        if matches!(
            self.execution.phase,
            Phase::Ending { stage: Stage::Draining { .. } | Stage::CleaningUp, .. }
        ) {
            return Err(Rejection::AlreadyCancelling);
        }
        self.emit(Event::Paused { reason });
        Ok(())
    }

    /// Lets it move again: a held report first; what else came meanwhile is looked for.
    pub(super) fn unpause(&mut self) -> Result<(), Rejection> {
        let Some(pause) = self.execution.pause.clone() else { return Err(Rejection::NotPaused) };
        self.emit(Event::Unpaused);
        match self.execution.activity.clone() {
            Activity::Task(task) => match pause.held {
                Some(report) => self.apply_report(task, *report),
                // Pushing is repeatable: a task that is out stays as it is, one that was lost meanwhile is ready again.
                None => self.publish_again(&task.run),
            },
            Activity::Children(fan) => self.wish(Effect::CheckJoin { join: fan.join }),
            Activity::Wait(wait) => self.wait_again(wait),
            Activity::Ready => self.go_on(),
            Activity::Backoff { .. } | Activity::Incident(_) | Activity::Nothing => {}
        }
        Ok(())
    }

    fn publish_again(&mut self, run: &StepRun) {
        if let Ok(draft) = encode::encode_task(&self.execution, self.world)
            && draft.attempt == run.attempt
        {
            self.wish(Effect::PublishTask(Box::new(draft)));
        }
    }

    /// Tries a parked step again, or reopens a failed execution.
    pub(super) fn retry(&mut self, by: Option<String>) -> Result<(), Rejection> {
        if let (Activity::Incident(incident), false) =
            (&self.execution.activity, self.execution.is_terminal())
        {
            if self.execution.pause.is_some() {
                return Err(Rejection::Paused);
            }
            let run = incident.run.clone();
            self.emit(Event::IncidentResolved { by });
            if let Phase::Ending { stage: Stage::Compensating { .. }, .. } = self.execution.phase {
                // Undoing gets its full time again.
                let until = self.now().plus(self.limits().compensation_ms);
                self.emit(Event::StageReached { stage: Stage::Compensating { until } });
                if self.execution.undoing.is_none() {
                    // Time ran out between two undoings: no step was at fault.
                    self.go_on();
                    return Ok(());
                }
            }
            self.try_again(run);
            return Ok(());
        }
        let run = self.reopenable()?;
        // The clean-up may have moved the cursor.
        let failed_at = self.execution.error().and_then(|error| error.step_id.clone());
        self.emit(Event::Reopened { by });
        match run {
            Some(run) => self.try_again(run),
            None => match failed_at.and_then(|step| self.known_step(&step)) {
                Some(step) => self.enter(step),
                None => self.go_on(),
            },
        }
        Ok(())
    }

    /// The same visit, with fresh budgets: the idempotency key that handlers are given stays.
    fn try_again(&mut self, mut run: StepRun) {
        run.attempt += 1;
        run.retry = 0;
        run.lost = 0;
        run.last_loss = None;
        run.began_at = self.now();
        match self.step_of(&run) {
            Some(step) => {
                if !matches!(step.kind, StepKind::Task(_)) && !run.compensates {
                    return self.enter(step.id.clone());
                }
                self.attempt(&step, run);
            }
            None => self.step_is_gone(run),
        }
    }

    pub(super) fn budget_exceeded(&mut self, spent: Cost) -> Result<(), Rejection> {
        if self.is_ending() {
            return Err(Rejection::AlreadyCancelling);
        }
        let budget = self.world.flow.budget;
        let message = match (budget.max_cost_usd, budget.max_attempts) {
            (Some(limit), _) if spent.usd > limit => {
                format!("{} USD were spent, more than {limit}", spent.usd)
            }
            (_, Some(limit)) => format!("{} attempts were made, more than {limit}", spent.attempts),
            (_, None) => "the budget is spent".to_owned(),
        };
        let error = self.error(codes::BUDGET_EXCEEDED, message, None);
        let step_id = Some(self.execution.cursor.clone());
        let held = self.take_held();
        self.fail_execution(ExecutionError { step_id, ..error }, None);
        self.apply_held(held);
        Ok(())
    }

    pub(super) fn budget_warning(&mut self, spent: Cost) -> Result<(), Rejection> {
        if self.execution.budget_warned {
            return Err(Rejection::NothingDue);
        }
        self.emit(Event::BudgetWarned { spent });
        let data =
            json!({ "executionId": self.execution.id(), "spentUsd": spent.usd, "attempts": spent.attempts });
        self.publish("budget.warning", data);
        Ok(())
    }
}
