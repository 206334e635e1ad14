//! Waiting for the end of an execution.

use std::time::Duration;

use axum::http::HeaderMap;
use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::ExecutionId;
use tokio::time::Instant;

use super::access::Access;
use super::problem::{ErrorClass, Problem};
use super::{Api, WAIT_MAX};

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
        let Ok(_permit) = self.waits.try_acquire() else {
            let detail = "too many requests wait for executions to end; try again";
            return Err(Problem::new(ErrorClass::Overloaded, "TOO_MANY_WAITS", detail));
        };
        let deadline = Instant::now() + wait.min(WAIT_MAX);
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
