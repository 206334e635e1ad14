//! What a commit writes into the books.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a checker looks at the events that it is about, and no others"
)]

use flowmonkey_core::execution::error::codes;
use flowmonkey_core::execution::state::{CancelSource, ChildStacks, Phase};
use flowmonkey_core::execution::{Event, Execution, Record, RecordedEvent};
use flowmonkey_engine::store::{Batch, Committed, Create, CreateOutcome};

use super::Books;
use super::execution::ExecutionBook;

impl Books {
    /// A commit took effect; whether its caller learned of it does not matter.
    pub fn committed(&mut self, batch: &Batch, committed: &Committed) {
        for (update, applied) in batch.updates.iter().zip(&committed.updates) {
            if *applied {
                let version = self.executions.get(&update.execution.id()).map(|book| book.state.version);
                if version != Some(update.expected_version) {
                    let what = format!(
                        "{} was changed from version {} and had {version:?}",
                        update.execution.id(),
                        update.expected_version
                    );
                    self.violate("history", what);
                }
                self.moved(&update.execution, &update.events, &update.records);
            }
        }
        for (create, outcome) in batch.creates.iter().zip(&committed.creates) {
            if *outcome == CreateOutcome::Created {
                self.created(create, batch);
            }
        }
        self.joins_answered(&committed.joins);
    }

    fn created(&mut self, create: &Create, batch: &Batch) {
        let identity = &create.execution.identity;
        if self.executions.contains_key(&identity.id) {
            return self.violate("starts", format!("{} was created twice", identity.id));
        }
        if let Some((key, until)) = &create.idempotency {
            let name = (identity.flow.id.clone(), key.clone());
            if let Some((other, expires)) = self.keys.insert(name, (identity.id, *until))
                && expires > batch.now
            {
                self.violate("starts", format!("{other} and {} have the key {key}", identity.id));
            }
        }
        if let Some(link) = identity.parent {
            if link.is_joined() {
                self.child_made(link, identity.id);
            } else {
                self.sometimes.hit("detached child started");
            }
        }
        self.executions.insert(identity.id, ExecutionBook::new(&create.execution));
        self.moved(&create.execution, &create.events, &create.records);
    }

    fn moved(&mut self, stored: &Execution, events: &[RecordedEvent], records: &[Record]) {
        let id = stored.id();
        for record in records {
            match record {
                Record::OpenJoin(spec) => self.join_opened(spec),
                Record::CloseJoin { join } => self.join_closed(id, *join),
                Record::InsertRow(row) => {
                    if !self.rows.insert(format!("{}/{}", row.table, row.id)) {
                        self.violate("rows", format!("row {} of {} was inserted twice", row.id, row.table));
                    }
                }
                Record::EndJoin { .. }
                | Record::ChildEnded { .. }
                | Record::StartChild(_)
                | Record::Publish(_)
                | Record::Spend { .. }
                | Record::FailedTask(_) => {}
            }
        }
        for recorded in events {
            self.count(&recorded.event);
            if let Event::FanEnded { join, succeeded, failed, .. } = recorded.event {
                self.join_taken(id, join, succeeded, failed);
                self.inherit(id, join, events);
            }
            let Some(book) = self.executions.get_mut(&id) else { continue };
            if let Event::Cancelled { cancellation } = &recorded.event {
                book.terminated |= matches!(book.state.phase, Phase::Running)
                    || cancellation.reason.as_deref() == Some(crate::client::TERMINATED);
            }
            if let Err((checker, what)) = book.note(recorded, &self.steps, &self.leases) {
                self.violate(checker, what);
            }
        }
        if let Some(book) = self.executions.get_mut(&id)
            && let Err((checker, what)) = book.close(stored, events, &self.steps)
        {
            self.violate(checker, what);
        }
        for record in records {
            if let Record::ChildEnded { parent, succeeded, .. } = record {
                self.child_ended(*parent, id, *succeeded);
            }
        }
    }

    /// A completed child's stack joins its parent's: all of it, in the order of the children. The parent has a reference;
    /// the book has all of it, so that what is undone later is compared with what there was.
    fn inherit(&mut self, parent: flowmonkey_core::ids::ExecutionId, join: u32, events: &[RecordedEvent]) {
        let left = self.left_to_undo(parent, join);
        let is_own = |stacks: &ChildStacks| stacks.parent == parent && stacks.join == join;
        let referred = events
            .iter()
            .any(|recorded| matches!(&recorded.event, Event::ChildStacksAdded(stacks) if is_own(stacks)));
        if referred == left.is_empty() {
            self.violate(
                "undoing",
                format!("{parent} refers to its children: {referred}; they left {left:?}"),
            );
        }
        let Some(book) = self.executions.get_mut(&parent) else { return };
        if let Err((checker, what)) = book.inherit(left) {
            self.violate(checker, what);
        }
    }

    fn count(&self, event: &Event) {
        let path =
            match event {
                Event::LeaseLost { .. } => "lease lost",
                Event::IncidentRaised(_) => "incident",
                Event::IncidentResolved { .. } => "incident resolved",
                Event::Reopened { .. } => "reopened",
                Event::TaskFenced { .. } => "fenced",
                Event::ReportHeld(_) => "report held by a pause",
                Event::CompensationEnded => "undone",
                Event::ChildStacksRead { left: Some(_), .. } => "children undone by page",
                Event::RetryScheduled { .. } => "retry scheduled",
                Event::SignalBuffered(_) => "early signal kept",
                Event::Escalated { .. } => "approval escalated",
                Event::BudgetWarned { .. } => "budget warning",
                Event::Cancelled { cancellation } if cancellation.source == CancelSource::Parent => {
                    "child of a fan-out cancelled"
                }
                Event::Cancelled { cancellation }
                    if cancellation.reason.as_deref() == Some(crate::client::TERMINATED) =>
                {
                    "terminated"
                }
                Event::AttemptEnded(ended) => match ended.error.as_ref().map(|error| error.code.as_str()) {
                    Some(codes::TIMEOUT) => "attempt timed out",
                    Some(codes::WAIT_TIMEOUT) => "wait timed out",
                    Some(_) | None => return,
                },
                Event::EndingBegan {
                    why: flowmonkey_core::execution::state::Why::Failure(error), ..
                } if error.code == codes::BUDGET_EXCEEDED => "budget exceeded",
                _ => return,
            };
        self.sometimes.hit(path);
    }
}
