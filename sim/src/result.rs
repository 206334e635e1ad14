//! What a simulated handler gives.

use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::wire::{
    Cost, EventWait, Metrics, Outcome, ResultMessage, TableRow, TaskError, TaskEvent, TaskMessage,
};
use serde_json::json;

use crate::random::Random;

/// How handlers behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// As well as they can.
    pub(crate) healed: bool,
    /// The attempt was told to stop.
    pub(crate) cancelled: bool,
}

/// How often, in a thousand, a handler succeeds; the rest fails.
fn successes(handler: &str, manner: Manner) -> u64 {
    match handler {
        "failing" => 0,
        _ if manner.healed => 1000,
        "steady" => 930,
        "undoer" => 800,
        "costly" => 600,
        "flaky" => 650,
        _ => 900,
    }
}

/// The result of an attempt.
pub(crate) fn of(
    task: &TaskMessage,
    worker: &str,
    started_at: String,
    now_ms: i64,
    manner: Manner,
    random: &mut Random,
) -> ResultMessage {
    let handler = task.handler.handler_type.as_str();
    let marker = format!("{}:{}:{worker}", task.task_id, task.attempt);
    let mut result = ResultMessage {
        execution_id: task.execution_id.clone(),
        step_id: task.step_id.clone(),
        metrics: Metrics { started_at, worker_id: worker.into(), ..Metrics::default() },
        ..ResultMessage::new(task.task_id.clone(), task.attempt, Outcome::Success)
    };
    if handler == "costly" {
        result.cost = Some(Cost { usd: 0.5, tokens: 10 });
    }
    if manner.cancelled {
        result.outcome = Outcome::Failure;
        result.error = Some(failure("CANCELLED", Some(false)));
        return result;
    }
    if !manner.healed && random.happens(20) {
        result.outcome = Outcome::Released;
        return result;
    }
    if handler == "batcher" && !manner.healed && random.happens(600) {
        if random.happens(400) {
            // The handler gives its worker back, and goes on with the same task later.
            result.outcome = Outcome::Wait;
            result.run_again = true;
            if random.happens(700) {
                let until = now_ms.saturating_add_unsigned(random.below(60_000));
                result.wait_until = Some(Timestamp::from_millis(until).to_rfc3339());
            }
            if result.wait_until.is_none() || random.happens(500) {
                let condition = random.happens(300).then(|| "event.data.score > 3".to_owned());
                result.wait_for_event = Some(EventWait { event: "scored".into(), condition });
            }
            return result;
        }
        if random.happens(500) {
            result.outcome = Outcome::Wait;
            let until = now_ms.saturating_add_unsigned(random.below(60_000));
            result.wait_until = Some(Timestamp::from_millis(until).to_rfc3339());
        } else {
            result.outcome = Outcome::Waiting;
            result.output = Some(json!({ "marker": marker }));
            result.resume_token = Some(format!("token-{}", task.task_id));
        }
        return result;
    }
    let row = [("marker".to_owned(), json!(marker))].into_iter().collect();
    result.rows.push(TableRow { table_id: "audit".into(), row_id: marker.clone(), row });
    if random.happens(successes(handler, manner)) {
        result.output = Some(json!({ "marker": marker }));
        if random.happens(100) {
            let data = json!({ "score": random.below(8) });
            result.events.push(TaskEvent { id: None, event: "scored".into(), data });
        }
    } else {
        result.outcome = Outcome::Failure;
        result.error = Some(failure("FLAKY", random.happens(200).then_some(false)));
        result.retry_after_ms = random.happens(100).then_some(3_000);
    }
    result
}

fn failure(code: &str, retryable: Option<bool>) -> TaskError {
    TaskError { code: code.into(), message: "as the seed wanted".into(), retryable, details: None }
}
