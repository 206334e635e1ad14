//! Executions that nothing will move: there are none, unless the record was changed by hand or restored in part.

use flowmonkey_core::execution::Execution;
use flowmonkey_core::execution::state::Activity;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::super::array;
use super::Inspection;
use crate::store::encode::{integer, text};
use crate::store::{StoreError, rows};

/// Executions that are read at a time.
const PAGE: usize = 1000;
/// Executions without a cause that are named.
const NAMED_MAX: usize = 20;
/// Milliseconds after which an execution whose turn it is has been forgotten: engines look for such every few seconds.
const TURN_MAX_MS: u64 = 60_000;

/// What was found about executions that have not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// Executions that were looked at.
    pub looked_at: usize,
    /// Whether there are more than were looked at.
    pub more: bool,
    /// Executions without a cause.
    pub without: usize,
    /// The first of them, and what is missing.
    pub named: Vec<(ExecutionId, String)>,
}

impl Inspection {
    /// Looks at most at `max` executions that have not ended for what can move each.
    ///
    /// # Errors
    /// As for every statement.
    pub async fn causes(&mut self, now: Timestamp, max: usize) -> Result<Causes, StoreError> {
        let mut causes = Causes::default();
        let mut last = Uuid::nil();
        while causes.looked_at < max {
            let wanted = PAGE.min(max - causes.looked_at);
            let statement = sqlx::query(include_str!("live.sql")).bind(last).bind(integer(wanted as u64));
            let page = self.read(statement).await?;
            for row in &page {
                let id = rows::id(row, 0, &"fm_executions")?;
                last = id.as_uuid();
                causes.looked_at += 1;
                // One that cannot be understood moves no more, either.
                let missing = missing(row, id, now).unwrap_or_else(|error| Some(error.to_string()));
                if let Some(missing) = missing {
                    causes.without += 1;
                    if causes.named.len() < NAMED_MAX {
                        causes.named.push((id, missing));
                    }
                }
            }
            if page.len() < wanted {
                return Ok(causes);
            }
        }
        causes.more = true;
        Ok(causes)
    }
}

/// What an execution lacks to be moved.
fn missing(row: &PgRow, id: ExecutionId, now: Timestamp) -> Result<Option<String>, StoreError> {
    let what = format!("fm_executions {id}");
    let execution: Execution = rows::parsed(row, 1, &what)?;
    let timer: Option<i64> = rows::column(row, 2, &what)?;
    let subscription: Option<String> = rows::column(row, 3, &what)?;
    let joins: Vec<i64> = array(row, 4, &what)?;
    if let Some(wake) = execution.next_wake()
        && timer.is_none()
    {
        return Ok(Some(format!("it waits until {wake}, and has no timer")));
    }
    // Only a person can, and may.
    if execution.pause.is_some() {
        return Ok(None);
    }
    Ok(match &execution.activity {
        Activity::Ready => {
            let waited = now.since(execution.updated_at);
            (waited > TURN_MAX_MS).then(|| format!("no engine has taken its turn for {} s", waited / 1000))
        }
        Activity::Children(fan) => (!joins.contains(&i64::from(fan.join)))
            .then(|| format!("it waits for the children of fan-out {}, which is not there", fan.join)),
        Activity::Nothing => Some("nothing goes on in it, and it has not ended".into()),
        // The queue is compared with the record by itself.
        Activity::Task(_) | Activity::Backoff { .. } | Activity::Incident(_) => None,
        Activity::Wait(wait) => wait.on.event().and_then(|event| {
            subscription
                .is_none_or(|name| name != text(event))
                .then(|| format!("it waits for the event {event}, and has no subscription"))
        }),
    })
}
