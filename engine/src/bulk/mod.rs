//! Operations on many executions: asked for once, carried out in batches in the background, newest execution first.
//!
//! Architecture invariant: what came of a batch is in the record before the operation's place moves on. An engine that dies
//! in between leaves the batch to be done again: a verb that was carried out already is refused then, and what was noted
//! first stays.

pub mod filter;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::ids::new_uuid;
use serde_json::Value;

use crate::apply::CommandOutcome;
use crate::deletion::DeleteError;
use crate::engine::{Engine, EngineError};
use crate::outcome::{Fault, rejection_code};
use crate::store::{
    Count, ExecutionFilter, FailedTaskEntry, FailedTaskFilter, Operation, OperationItem, SettledAs,
    Settlement, Span, StoreError,
};

/// Executions of one operation.
pub const OPERATION_EXECUTIONS_MAX: u64 = 1_000_000;
/// Operations that are open at the same time.
pub const OPERATIONS_OPEN_MAX: usize = 100;
/// Ids that a dry run shows.
pub const PREVIEW_IDS: usize = 10;
/// Executions that are told in one go.
const TOLD_MAX: usize = 100;
/// Executions that are deleted in one go: each is a tree.
const DELETED_MAX: usize = 20;

/// What an operation does to each execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Cancels it.
    Cancel,
    /// Ends it at once.
    Terminate,
    /// Pauses it.
    Pause,
    /// Lets a paused one go on.
    Resume,
    /// Tries one that failed, or waits for a person, again.
    Retry,
    /// Tries its parked task again, and notes that with the parked task.
    Replay,
    /// Deletes it with all that belongs to it, once it has ended.
    Delete,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Cancel, Self::Terminate, Self::Pause, Self::Resume, Self::Retry, Self::Replay, Self::Delete];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Terminate => "terminate",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Retry => "retry",
            Self::Replay => "replay",
            Self::Delete => "delete",
        }
    }

    /// The verb of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == word)
    }

    const fn batch(self) -> usize {
        match self {
            Self::Delete => DELETED_MAX,
            Self::Cancel | Self::Terminate | Self::Pause | Self::Resume | Self::Retry | Self::Replay => {
                TOLD_MAX
            }
        }
    }
}

/// An operation that is asked for.
#[derive(Clone, Debug)]
pub struct NewOperation {
    /// What is done.
    pub verb: Verb,
    /// Why.
    pub reason: Option<String>,
    /// To which executions, as it was sent. It has been read with [`filter::read`].
    pub filter: Value,
    /// Who asks.
    pub by: String,
    /// Whose executions; none: of all.
    pub tenant: Option<String>,
    /// At most so many executions.
    pub max: u64,
}

/// Too many operations are open.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Others have to end first.
    #[error("{OPERATIONS_OPEN_MAX} operations are open; one of them has to end first")]
    TooMany,
    /// The record failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<StoreError> for BeginError {
    fn from(error: StoreError) -> Self {
        Self::Engine(error.into())
    }
}

impl Engine {
    /// What an operation would find now: how many, and the first of them.
    ///
    /// # Errors
    /// When the record fails.
    pub async fn preview_operation(
        &self,
        filter: &ExecutionFilter,
    ) -> Result<(Count, Vec<ExecutionId>), EngineError> {
        let count = self.store.count(filter).await?;
        let first = self.store.list(&ExecutionFilter { max: PREVIEW_IDS, ..filter.clone() }).await?;
        Ok((count, first.items.into_iter().map(|item| item.id).collect()))
    }

    /// Stores an operation; a chore carries it out.
    ///
    /// # Errors
    /// When too many are open, or the record fails.
    pub async fn begin_operation(&self, new: NewOperation) -> Result<Operation, BeginError> {
        if self.store.open_operations(OPERATIONS_OPEN_MAX).await?.len() >= OPERATIONS_OPEN_MAX {
            return Err(BeginError::TooMany);
        }
        let operation = Operation {
            id: format!("op_{}", new_uuid(&*self.clock, &*self.entropy).simple()),
            verb: new.verb.as_str().to_owned(),
            reason: new.reason,
            filter: new.filter,
            by: new.by,
            tenant: new.tenant,
            max: new.max,
            created_at: self.now(),
            ended_at: None,
            cursor: None,
            done: 0,
            refused: 0,
            stopped_at: None,
            failure: None,
        };
        self.store.save_operation(&operation).await?;
        Ok(operation)
    }

    /// Carries out the next batch of an operation, and ends it when that was the last; how many executions it was.
    ///
    /// # Errors
    /// When the record fails; the batch is done again.
    pub(crate) async fn carry_on(&self, mut operation: Operation) -> Result<usize, EngineError> {
        let handled = match self.next_batch(&mut operation).await {
            Ok(handled) => handled,
            Err(EngineError::Store(error)) => {
                // What is wrong with one operation is not to hold up the others.
                let fault = Fault::from_store(error)?;
                tracing::error!(operation = operation.id, %fault, "an operation cannot be carried out");
                operation.failure = Some("the record cannot be read; the engine's log has the reason".into());
                operation.ended_at = Some(self.now());
                0
            }
            Err(error) => return Err(error),
        };
        self.store.save_operation(&operation).await?;
        Ok(handled)
    }

    async fn next_batch(&self, operation: &mut Operation) -> Result<usize, EngineError> {
        let room = operation.max.saturating_sub(operation.handled());
        if operation.stopped_at.is_some() || room == 0 {
            operation.ended_at = Some(self.now());
            return Ok(0);
        }
        let Some((verb, filter)) = understood(operation) else {
            operation.failure = Some("this engine does not understand the operation".into());
            operation.ended_at = Some(self.now());
            return Ok(0);
        };
        let max = verb.batch().min(usize::try_from(room).unwrap_or(usize::MAX));
        let mut filter = ExecutionFilter { max, ..filter };
        let mut page = self.store.list(&filter).await?;
        while page.items.is_empty() && page.next.is_some() {
            filter.before = page.next;
            page = self.store.list(&filter).await?;
        }
        let ids: Vec<ExecutionId> = page.items.iter().map(|item| item.id).collect();
        let items = self.told(verb, operation, &ids).await?;
        self.store.note_operation(&operation.id, &items).await?;
        let refused = items.iter().filter(|item| item.code.is_some()).count();
        operation.refused += refused as u64;
        operation.done += (items.len() - refused) as u64;
        operation.cursor = page.next.or(ids.last().copied()).or(operation.cursor);
        if page.next.is_none() || operation.handled() >= operation.max {
            operation.ended_at = Some(self.now());
        }
        Ok(items.len())
    }

    /// Tells executions; what came of it for each.
    async fn told(
        &self,
        verb: Verb,
        operation: &Operation,
        ids: &[ExecutionId],
    ) -> Result<Vec<OperationItem>, EngineError> {
        let reason = || operation.reason.clone();
        let command = match verb {
            Verb::Cancel => Command::Cancel { source: CancelSource::User, reason: reason() },
            Verb::Terminate => Command::Terminate { reason: reason() },
            Verb::Pause => Command::Pause { reason: reason() },
            Verb::Resume => Command::Unpause,
            Verb::Retry => Command::Retry { by: Some(operation.by.clone()) },
            Verb::Replay => return self.replayed(operation, ids).await,
            Verb::Delete => return self.deleted(operation, ids).await,
        };
        let outcomes = self.apply(ids.iter().map(|id| (*id, command.clone())).collect()).await?;
        Ok(ids.iter().zip(outcomes).map(|(id, outcome)| item(*id, code_of(*id, &outcome))).collect())
    }

    /// Tries parked tasks again.
    async fn replayed(
        &self,
        operation: &Operation,
        ids: &[ExecutionId],
    ) -> Result<Vec<OperationItem>, EngineError> {
        let mut items = Vec::with_capacity(ids.len());
        let mut parked: Vec<FailedTaskEntry> = Vec::new();
        for id in ids {
            let only =
                FailedTaskFilter { execution: Some(*id), open: true, max: 1, ..FailedTaskFilter::default() };
            match self.store.failed_tasks(&only).await?.pop() {
                Some(entry) => parked.push(entry),
                None => items.push(item(*id, Some("TASK_NOT_PARKED"))),
            }
        }
        let commands = parked
            .iter()
            .map(|entry| (entry.row.execution, Command::Retry { by: Some(operation.by.clone()) }));
        let outcomes = self.apply(commands.collect()).await?;
        for (entry, outcome) in parked.iter().zip(outcomes) {
            let code = code_of(entry.row.execution, &outcome);
            if code.is_none() {
                let settlement = Settlement {
                    outcome: SettledAs::Replayed,
                    at: self.now(),
                    by: operation.by.clone(),
                    reason: operation.reason.clone(),
                };
                self.store.settle_failed_task(entry.sequence, &settlement).await?;
            }
            items.push(item(entry.row.execution, code));
        }
        Ok(items)
    }

    /// Deletes executions. Each is noted at once: what is deleted is not found again.
    async fn deleted(
        &self,
        operation: &Operation,
        ids: &[ExecutionId],
    ) -> Result<Vec<OperationItem>, EngineError> {
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            let code = match self.delete(*id, false).await {
                Ok(_) => None,
                Err(DeleteError::Live(_)) => Some("EXECUTION_NOT_ENDED"),
                Err(DeleteError::Child(_)) => Some("EXECUTION_IS_CHILD"),
                Err(DeleteError::Engine(EngineError::ExecutionNotFound(_))) => Some("EXECUTION_NOT_FOUND"),
                Err(DeleteError::Engine(EngineError::Store(error))) => {
                    Some(fault_code(*id, &Fault::from_store(error)?))
                }
                Err(DeleteError::Engine(error)) => return Err(error),
            };
            let done = item(*id, code);
            self.store.note_operation(&operation.id, std::slice::from_ref(&done)).await?;
            items.push(done);
        }
        Ok(items)
    }
}

/// The verb of a stored operation and the executions it is about; none: this program does not know them.
fn understood(operation: &Operation) -> Option<(Verb, ExecutionFilter)> {
    let verb = Verb::parse(&operation.verb)?;
    let filter = filter::read(operation.filter.as_object()?).ok()?;
    // Not before the next millisecond is something made after the operation for certain.
    let until = operation.created_at.plus(1);
    let until = filter.created.until.map_or(until, |sooner| sooner.min(until));
    let tenant = operation.tenant.clone().or(filter.tenant);
    let created = Span { until: Some(until), ..filter.created };
    Some((verb, ExecutionFilter { tenant, created, before: operation.cursor, ..filter }))
}

fn item(execution: ExecutionId, code: Option<&str>) -> OperationItem {
    OperationItem { execution, code: code.map(ToOwned::to_owned) }
}

fn code_of(id: ExecutionId, outcome: &CommandOutcome) -> Option<&'static str> {
    match outcome {
        CommandOutcome::Applied(_) => None,
        CommandOutcome::Rejected(rejection) => Some(rejection_code(rejection)),
        CommandOutcome::NotFound => Some("EXECUTION_NOT_FOUND"),
        CommandOutcome::Failed(fault) => Some(fault_code(id, fault)),
    }
}

fn fault_code(id: ExecutionId, fault: &Fault) -> &'static str {
    match fault {
        Fault::Contended => "CONTENDED",
        Fault::Corrupt { .. } | Fault::Internal { .. } => {
            tracing::error!(execution = %id, %fault, "an operation cannot be carried out on an execution");
            "INTERNAL"
        }
    }
}
