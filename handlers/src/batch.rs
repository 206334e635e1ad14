//! `batch-process`: changes the items of an array batch by batch, with a checkpoint after each batch.

use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use flowmonkey_plumbing::api::PlumbingError;
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use flowmonkey_plumbing::manifest::{Manifest, Mode};
use flowmonkey_plumbing::wire::CONTINUE_AFTER_WAIT;
use flowmonkey_plumbing::wire::LogLevel;
use flowmonkey_worker::{Completion, Failure, Handler, Task, Wait};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::Fields;
use crate::jq::Jq;
use crate::schema::{Table, flag, optional, whole};
use crate::transform::{CHANGE_FIELDS, Change, change_all};

/// Items in a batch.
const BATCH_SIZE: u64 = 10;
/// The most that `batchSize` may ask for.
const BATCH_SIZE_MAX: u64 = 1_000;
/// Items of one step.
const ITEMS_MAX: usize = 100_000;
/// The most that `delayBetweenBatchesMs` may ask for: a day.
const DELAY_MS_MAX: u64 = 24 * 3_600_000;

const INVALID_EXPRESSION: &str = "INVALID_EXPRESSION";
const FIELDS: Table = &[
    &[
        optional("batchSize", || whole(&BATCH_SIZES), "Items in a batch. Default 10, at most 1000."),
        optional("continueOnError", flag, "`false`: the first item that fails fails the step. Default true."),
        optional(
            "delayBetweenBatchesMs",
            || whole(&DELAYS_MS),
            "Milliseconds between batches. Default 0, at most a day.",
        ),
        optional("delayBetweenBatches", || whole(&DELAYS_MS), "Another name of `delayBetweenBatchesMs`."),
    ],
    &CHANGE_FIELDS,
];
const BATCH_SIZES: RangeInclusive<u64> = 1..=BATCH_SIZE_MAX;
const DELAYS_MS: RangeInclusive<u64> = 0..=DELAY_MS_MAX;

/// What [`items`] accepts.
fn input_schema() -> Value {
    let list = json!({ "type": "array", "maxItems": ITEMS_MAX });
    json!({ "anyOf": [list, { "type": "object", "properties": { "items": list }, "required": ["items"] }] })
}

/// The handler `batch-process`.
#[derive(Debug)]
pub struct BatchProcess {
    manifest: Manifest,
    jq: Arc<Jq>,
}

impl BatchProcess {
    pub(crate) fn new(jq: Arc<Jq>) -> Self {
        let manifest =
            crate::manifest("batch-process", "Changes the items of an array, batch by batch", FIELDS);
        let input_schema = Some(input_schema());
        Self { manifest: Manifest { mode: Mode::Stateful, input_schema, ..manifest }, jq }
    }
}

/// How far the work is: what a checkpoint holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Work {
    /// Items done, from the first; as many as there are results.
    processed: usize,
    failed: usize,
    total: usize,
    started_at_ms: i64,
    results: Vec<ItemResult>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ItemResult {
    index: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
}

struct Settings<'a> {
    change: Change<'a>,
    batch_size: usize,
    continue_on_error: bool,
    delay_ms: u64,
}

impl<'a> Settings<'a> {
    fn parse(fields: &Fields<'a>) -> Result<Self, Failure> {
        let change = Change::parse(fields).map_err(|mut failure| {
            failure.error.code = INVALID_EXPRESSION.into();
            failure
        })?;
        if matches!(change, Change::Identity) {
            let error = fields.error("program", "is required: a jq program; or give an operation");
            return Err(error.into_failure(INVALID_EXPRESSION));
        }
        let delay_ms = match fields.number("delayBetweenBatchesMs", &DELAYS_MS)? {
            Some(delay) => delay,
            None => fields.number("delayBetweenBatches", &DELAYS_MS)?.unwrap_or(0),
        };
        let batch_size = fields.number("batchSize", &BATCH_SIZES)?.unwrap_or(BATCH_SIZE);
        Ok(Self {
            change,
            batch_size: usize::try_from(batch_size).unwrap_or(usize::MAX),
            continue_on_error: fields.flag("continueOnError", true)?,
            delay_ms,
        })
    }
}

fn items(input: &Value) -> Result<&[Value], Failure> {
    let list = input.as_array().or_else(|| input.get("items").and_then(Value::as_array));
    let list = list.ok_or_else(|| {
        Failure::terminal("INVALID_INPUT", "the input must be an array or have one at `items`")
    })?;
    if list.len() > ITEMS_MAX {
        let message = format!("{} items are over the limit of {ITEMS_MAX}; use a map step", list.len());
        return Err(Failure::terminal("INVALID_INPUT", message));
    }
    Ok(list)
}

impl Work {
    const fn new(total: usize, started_at_ms: i64) -> Self {
        Self { processed: 0, failed: 0, total, started_at_ms, results: Vec::new() }
    }

    /// The work as an earlier attempt left it.
    async fn load(task: &Task, total: usize) -> Result<Self, Failure> {
        let Some(checkpoint) = task.load_checkpoint().await.map_err(checkpoint_failure)? else {
            return Ok(Self::new(total, SystemClock.now_ms()));
        };
        match checkpoint.data.read::<Self>() {
            Ok(work)
                if work.total == total && work.processed <= total && work.results.len() == work.processed =>
            {
                Ok(work)
            }
            Ok(_) | Err(_) => {
                task.log(
                    LogLevel::Warn,
                    format!("checkpoint {} does not fit these items; starting anew", checkpoint.id),
                );
                Ok(Self::new(total, SystemClock.now_ms()))
            }
        }
    }

    fn add(&mut self, outputs: Vec<Result<Value, Failure>>, continue_on_error: bool) -> Result<(), Failure> {
        for output in outputs {
            let index = self.processed;
            self.processed += 1;
            self.results.push(match output {
                Ok(output) => ItemResult { index, output: Some(output), error: None },
                Err(failure) if continue_on_error => {
                    self.failed += 1;
                    let error = json!({ "code": failure.error.code, "message": failure.error.message });
                    ItemResult { index, output: None, error: Some(error) }
                }
                Err(failure) => {
                    let message = format!("item {index}: {}", failure.error.message);
                    let error = Failure { error: failure.error, retry_after_ms: failure.retry_after_ms };
                    let details = json!({ "index": index, "error": { "code": error.error.code, "message": error.error.message } });
                    let mut failure = Failure::new("ITEM_ERROR", message).details(details);
                    failure.error.retryable = error.error.retryable;
                    return Err(failure);
                }
            });
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "ITEMS_MAX is far below 2^53")]
    fn report(&self, task: &Task) {
        let percent = 100.0 * self.processed as f64 / self.total.max(1) as f64;
        task.progress(percent, format!("{}/{}", self.processed, self.total));
    }

    fn output(&self, now_ms: i64) -> Value {
        json!({
            "processedCount": self.processed,
            "failedCount": self.failed,
            "totalCount": self.total,
            "results": self.results,
            "startedAt": rfc3339(self.started_at_ms),
            "completedAt": rfc3339(now_ms),
            "durationMs": now_ms.saturating_sub(self.started_at_ms).max(0),
        })
    }

    /// The wait before the next batch. The step's output is not touched.
    fn wait(&self, delay_ms: u64) -> Completion {
        let until = SystemClock.now_ms().saturating_add(i64::try_from(delay_ms).unwrap_or(i64::MAX));
        let mut metadata = Map::new();
        metadata.insert(CONTINUE_AFTER_WAIT.into(), true.into());
        metadata.insert("processedCount".into(), self.processed.into());
        metadata.insert("failedCount".into(), self.failed.into());
        metadata.insert("totalCount".into(), self.total.into());
        metadata.insert("progress".into(), format!("{}/{}", self.processed, self.total).into());
        Completion::Wait(Wait {
            until: Some(rfc3339(until)),
            reason: Some(format!("next batch: {} of {} items are done", self.processed, self.total)),
            metadata,
            ..Wait::default()
        })
    }
}

fn rfc3339(millis: i64) -> String {
    DateTime::from_timestamp_millis(millis).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn checkpoint_failure(error: PlumbingError) -> Failure {
    match error {
        PlumbingError::TooLarge { .. } => Failure::terminal(
            "CHECKPOINT_TOO_LARGE",
            format!("{error}; use a map step for results of this size"),
        ),
        PlumbingError::Stale { .. } | PlumbingError::Refused { .. } | PlumbingError::Unavailable(_) => {
            Failure::new("CHECKPOINT_FAILED", error.to_string())
        }
    }
}

#[async_trait]
impl Handler for BatchProcess {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let settings = Settings::parse(&fields)?;
        fields.warn_unknown(task, FIELDS);
        let items = items(task.input())?;
        let mut work = Work::load(task, items.len()).await?;
        while work.processed < items.len() {
            if task.cancelled.is_cancelled() {
                return Err(Failure::new(
                    "ABORTED",
                    format!("stopped after {} of {} items", work.processed, work.total),
                ));
            }
            let end = items.len().min(work.processed + settings.batch_size);
            let batch = items[work.processed..end].to_vec();
            let outputs = change_all(&self.jq, &settings.change, task, Some(work.processed), batch).await;
            let outputs = outputs.map_err(|mut failure| {
                // A failure before the first item, for good: the program itself is wrong.
                if failure.error.retryable == Some(false) {
                    failure.error.code = INVALID_EXPRESSION.into();
                }
                failure
            })?;
            work.add(outputs, settings.continue_on_error)?;
            let data = serde_json::to_value(&work)
                .map_err(|error| Failure::terminal("CHECKPOINT_FAILED", error.to_string()))?;
            task.save_checkpoint(data).await.map_err(checkpoint_failure)?;
            work.report(task);
            if settings.delay_ms > 0 && work.processed < items.len() {
                return Ok(work.wait(settings.delay_ms));
            }
        }
        Ok(Completion::output(work.output(SystemClock.now_ms())))
    }
}
