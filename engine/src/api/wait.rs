//! Waiting for the end of an execution.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::ExecutionId;
use tokio::sync::{SemaphorePermit, oneshot};
use tokio::time::Instant;

use super::access::Access;
use super::problem::{ErrorClass, Problem};
use super::{Api, WAIT_MAX};
use crate::watch::Story;

/// How often the record is asked, should another engine process end the execution.
const LOOK_EVERY: Duration = Duration::from_secs(2);

impl Api {
    /// The execution, once it has ended or the time is over.
    pub(super) async fn wait_for_end<S>(
        &self,
        access: &Access<S>,
        id: ExecutionId,
        wait: Duration,
    ) -> Result<Execution, Problem> {
        if wait.is_zero() {
            return self.execution(access, id).await;
        }
        let _permit = self.permit_to_wait()?;
        self.look_for_end(access, id, Instant::now() + wait.min(WAIT_MAX)).await
    }

    /// What has become of an execution that has just started, once it has ended or the time is over. What this process
    /// commits is heard, and nothing is read then.
    pub(super) async fn wait_for_story<S>(
        &self,
        access: &Access<S>,
        id: ExecutionId,
        story: Option<oneshot::Receiver<Story>>,
        wait: Duration,
    ) -> Result<Story, Problem> {
        let looked = |execution| Story { execution: Arc::new(execution), history: None };
        if wait.is_zero() {
            return self.execution(access, id).await.map(looked);
        }
        let _permit = self.permit_to_wait()?;
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        if let Some(story) = story {
            let look = deadline.min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                Ok(story) = story => return Ok(story),
                () = tokio::time::sleep_until(look) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
        self.look_for_end(access, id, deadline).await.map(looked)
    }

    fn permit_to_wait(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.waits.try_acquire().map_err(|_| {
            let detail = "too many requests wait for executions to end; try again";
            Problem::new(ErrorClass::Overloaded, "TOO_MANY_WAITS", detail)
        })
    }

    async fn look_for_end<S>(
        &self,
        access: &Access<S>,
        id: ExecutionId,
        deadline: Instant,
    ) -> Result<Execution, Problem> {
        loop {
            // First the ear, then the look: an end between the two is heard.
            let end = self.engine.watchers.end_of(id);
            let execution = self.execution(access, id).await?;
            if execution.is_terminal() || Instant::now() >= deadline || self.shutdown.is_cancelled() {
                return Ok(execution);
            }
            let look = deadline.min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                // Heard or not: the record says how it ended.
                _ = end => {}
                () = tokio::time::sleep_until(look) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }
}

/// `Prefer: wait=N` (RFC 7240), in seconds; more than [`WAIT_MAX`] counts as that. What cannot be read is ignored, as
/// preferences are.
pub(super) fn preferred(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX))
}
