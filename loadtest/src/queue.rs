//! What each call of a queue costs, alone: in this process, and over a private Redis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, LocalQueue, LocalQueueLimits, TaskQueue};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage, TaskMessage};
use flowmonkey_test_support::{Redis, RedisOptions as ServerOptions};
use serde_json::{Value, json};

use crate::micro::TASK;
use crate::report::report;

/// Tasks of one call.
const BATCHES: [usize; 3] = [1, 10, 100];
/// Rounds of which the median counts.
const ROUNDS: usize = 401;
/// Rounds before.
const WARM_UP: usize = 50;
/// Exchanges that are under way at the end have so long.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);
const ENGINE: &str = "engine";
const WORKER: &str = "worker";

/// Nanoseconds by call.
#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<u128>>);

impl Times {
    async fn of<T>(&mut self, name: &'static str, call: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let answer = call.await;
        self.0.entry(name).or_default().push(began.elapsed().as_nanos());
        answer
    }

    /// Medians, for each task of `batch`.
    fn for_each_of(self, batch: usize) -> Result<Value> {
        let mut medians = serde_json::Map::new();
        for (name, mut times) in self.0 {
            times.drain(..WARM_UP);
            times.sort_unstable();
            medians
                .insert(name.into(), json!(u64::try_from(times[times.len() / 2])? / u64::try_from(batch)?));
        }
        Ok(Value::Object(medians))
    }
}

/// The way of tasks through a queue, again and again.
async fn through(queue: &(impl TaskQueue + DispatchQueue), batch: usize) -> Result<Value> {
    let task: TaskMessage = serde_json::from_str(TASK)?;
    let pool = task.pool.clone();
    let mut times = Times::default();
    for round in 0..WARM_UP + ROUNDS {
        let named = |number| TaskMessage { task_id: format!("tk_{round}_{number}"), ..task.clone() };
        let tasks: Vec<TaskMessage> = (0..batch).map(named).collect();
        times.of("push", queue.push(tasks)).await?;
        let claim = Claim { pool: pool.clone(), worker: WORKER.into(), max: batch, low_first: false };
        let claimed = times.of("claim", queue.claim(claim)).await?;
        ensure!(claimed.len() == batch, "{} of {batch} tasks were claimed", claimed.len());
        let deliveries: Vec<_> = claimed.iter().map(|claimed| claimed.task.delivery()).collect();
        let extended = times.of("extend", queue.extend(&pool, WORKER, &deliveries)).await?;
        ensure!(extended.lost.is_empty(), "leases were lost: {:?}", extended.lost);
        let result = |of: TaskMessage| ResultMessage::new(of.task_id, of.attempt, Outcome::Success);
        let results = claimed.into_iter().map(|claimed| result(claimed.task)).collect();
        let refused = times.of("finish", queue.finish(&pool, WORKER, results)).await?;
        ensure!(refused.is_empty(), "results were refused: {refused:?}");
        let taken = times.of("take", queue.take(ENGINE, batch)).await?;
        ensure!(taken.len() == batch, "{} of {batch} results were taken", taken.len());
        let taken: Vec<_> = taken.into_iter().map(|taken| taken.dispatched).collect();
        times.of("acknowledge", queue.acknowledge(ENGINE, &taken)).await?;
    }
    times.for_each_of(batch)
}

async fn all_batches(queue: &(impl TaskQueue + DispatchQueue)) -> Result<Value> {
    let mut figures = serde_json::Map::new();
    for batch in BATCHES {
        figures.insert(batch.to_string(), through(queue, batch).await?);
    }
    Ok(Value::Object(figures))
}

/// Measures.
///
/// # Errors
/// When a queue fails, or loses something.
pub(crate) async fn queue() -> Result<()> {
    let local = LocalQueue::new(Arc::new(SystemClock), LocalQueueLimits::default());
    let server = Redis::start(ServerOptions::default()).await;
    let redis = RedisQueue::connect(RedisOptions::new(server.url())).await?;
    let figures = json!({ "inProcess": all_batches(&local).await?, "redis": all_batches(&redis).await? });
    redis.close(CLOSES_WITHIN).await;
    report("queue", &json!({ "unit": "nanoseconds per task, by tasks of one call" }), &figures);
    Ok(())
}
