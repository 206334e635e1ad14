//! The worker's side.

use std::pin::pin;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::RedisQueue;
use super::failure::RedisFailure;
use super::functions::{Call, Function};
use super::hands::Holder;
use super::keys::PoolKeys;
use super::shared::{Shared, holder};
use super::values::{Answer, read_generation, read_id, write_id};
use crate::queue::{Claim, ClaimedTask, Delivery, Extended, Lease, QueueError, TaskQueue, WorkerPresence};
use crate::wire::{
    Outcome, ResultMessage, TaskError, TaskMessage, decode_task, encode_result, encode_sealed_result,
};

/// Tasks of one call; more are claimed by the next.
const CLAIM_MAX: usize = 1_000;
/// About as many bytes as a result takes in a call beside its body.
const FINISH_OTHERS_BYTES: usize = 64;
/// Bytes of messages in one call, unless one message alone is larger.
pub(super) const CALL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Deliveries in one call.
pub(super) const CALL_DELIVERIES_MAX: usize = 500;
/// Milliseconds that a lease or an attempt may last: a thousand years, which Lua and Redis count exactly.
pub(super) const DURATION_MS_MAX: u64 = 1_000 * 366 * 24 * 3_600 * 1_000;
/// The failure of a task whose message cannot be read.
pub const TASK_UNREADABLE: &str = "TASK_UNREADABLE";
/// The failure of a task whose result cannot be sent, as when it is too large.
pub const RESULT_UNWRITABLE: &str = "RESULT_UNWRITABLE";

/// Claimed tasks on their way to the caller. Those that do not arrive, because the caller has given up, go back.
struct Handover {
    claimed: Vec<ClaimedTask>,
    shared: Arc<Shared>,
    pool: PoolKeys,
    holder: Holder,
    runtime: Handle,
}

impl Handover {
    fn accept(mut self) -> Vec<ClaimedTask> {
        std::mem::take(&mut self.claimed)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if self.claimed.is_empty() {
            return;
        }
        let deliveries: Vec<Delivery> = self.claimed.iter().map(|claimed| claimed.task.delivery()).collect();
        let (shared, pool, holder) = (Arc::clone(&self.shared), self.pool.clone(), self.holder.clone());
        let tracker = shared.tracker.clone();
        tracker.spawn_on(
            async move {
                if let Err(error) = shared.release(&pool, &holder, &deliveries).await {
                    // Their leases end by themselves.
                    tracing::warn!(%error, "tasks of a claim that nobody waited for were not given back");
                }
            },
            &self.runtime,
        );
    }
}

#[async_trait]
impl TaskQueue for RedisQueue {
    async fn claim(&self, claim: Claim) -> Result<Vec<ClaimedTask>, QueueError> {
        self.claim_within(claim, None).await
    }

    async fn wait_for_tasks(&self, pools: &[String], longest: Duration) -> Option<String> {
        let pools: Vec<PoolKeys> = pools.iter().filter_map(|pool| self.shared.keys.pool(pool)).collect();
        self.shared.wait_for_tasks(&pools, longest).await
    }

    async fn claim_when_ready(
        &self,
        claim: Claim,
        longest: Duration,
    ) -> Result<Vec<ClaimedTask>, QueueError> {
        if self.shared.client.is_cluster() {
            self.wait_for_tasks(slice::from_ref(&claim.pool), longest).await;
            return self.claim(claim).await;
        }
        self.claim_within(claim, Some(longest)).await
    }

    async fn extend(
        &self,
        pool: &str,
        worker: &str,
        deliveries: &[Delivery],
    ) -> Result<Extended, QueueError> {
        let pool = self.shared.pool(pool)?;
        let holder = holder(&pool, worker)?;
        let mut extended = Extended::default();
        let mut chunks = deliveries.chunks(CALL_DELIVERIES_MAX);
        // Without deliveries too: the generation is told.
        let mut next = Some(chunks.next().unwrap_or_default());
        while let Some(chunk) = next {
            let mut call = Call::on_pool(Function::Extend, &pool, &[]).arg(worker);
            for delivery in chunk {
                call = call.arg(delivery.to_string());
            }
            self.shared.heartbeat(call, &pool, &mut extended).await?;
            next = chunks.next();
        }
        self.shared.workers_hands.remove(&holder, extended.lost.iter().map(Delivery::to_string));
        Ok(extended)
    }

    async fn reassert(&self, pool: &str, worker: &str, leases: &[Lease]) -> Result<Extended, QueueError> {
        let pool = self.shared.pool(pool)?;
        let holder = holder(&pool, worker)?;
        let mut extended = Extended::default();
        let mut chunks = leases.chunks(CALL_DELIVERIES_MAX);
        let mut next = Some(chunks.next().unwrap_or_default());
        while let Some(chunk) = next {
            let own = [pool.processing(worker)];
            let mut call = Call::on_pool(Function::Reassert, &pool, &own).arg(worker);
            for lease in chunk {
                call = call
                    .arg(write_id(&lease.delivery)?)
                    .arg(lease.lease_ms.min(DURATION_MS_MAX))
                    .arg(lease.remaining_ms.min(DURATION_MS_MAX));
            }
            self.shared.heartbeat(call, &pool, &mut extended).await?;
            next = chunks.next();
        }
        let ids = leases.iter().map(|lease| lease.delivery.to_string());
        self.shared.workers_hands.add(&holder, ids);
        self.shared.workers_hands.remove(&holder, extended.lost.iter().map(Delivery::to_string));
        Ok(extended)
    }

    async fn finish(
        &self,
        pool: &str,
        worker: &str,
        results: Vec<ResultMessage>,
    ) -> Result<Vec<Delivery>, QueueError> {
        let pool = self.shared.pool(pool)?;
        let holder = holder(&pool, worker)?;
        let results =
            results.iter().map(|result| self.shared.encode(result)).collect::<Result<Vec<_>, _>>()?;
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.tracker.spawn(async move {
            // Nobody may be waiting any more; the results are in all the same.
            drop(sender.send(shared.finish(&pool, &holder, &results).await));
        });
        receiver.await.map_err(|_| shutdown())?
    }

    async fn release(&self, pool: &str, worker: &str, deliveries: &[Delivery]) -> Result<(), QueueError> {
        let pool = self.shared.pool(pool)?;
        let holder = holder(&pool, worker)?;
        self.shared.release(&pool, &holder, deliveries).await
    }

    async fn announce(&self, presence: &WorkerPresence) -> Result<bool, QueueError> {
        let mut drain = false;
        let json = serde_json::to_vec(&WorkerPresence { silent_ms: 0, ..presence.clone() })
            .map_err(|error| QueueError::Unavailable(Box::new(error)))?;
        for pool in &presence.pools {
            let pool = self.shared.pool(pool)?;
            let name = holder(&pool, &presence.worker)?.name;
            self.shared.pools.note([pool.pool()]);
            let arguments = [name.into_bytes(), json.clone(), pool.results_bell().into_bytes()];
            let answer = self.shared.call(Function::Announce, "announce", &pool, &[], &arguments).await;
            let answer = answer.map_err(|error| error.into_queue_error(pool.pool()))?;
            // Else a number.
            drain |= answer.bytes().is_ok_and(|started| started == presence.started_at.as_bytes());
        }
        Ok(drain)
    }

    async fn retire(&self, worker: &str, pools: &[String]) -> Result<(), QueueError> {
        for pool in pools {
            let pool = self.shared.pool(pool)?;
            let mut command = redis::cmd("HDEL");
            command.arg(pool.workers()).arg(worker);
            let answer = self.shared.calls.query("retire", &command).await;
            answer.map_err(|error| error.into_queue_error(pool.pool()))?;
        }
        Ok(())
    }
}

fn shutdown() -> QueueError {
    QueueError::Unavailable(Box::new(RedisFailure::Shutdown))
}

impl RedisQueue {
    /// Claims at once, or when the pool has rung or `longest` is over. Goes on when it is dropped, and then gives back what was
    /// claimed.
    async fn claim_within(
        &self,
        claim: Claim,
        longest: Option<Duration>,
    ) -> Result<Vec<ClaimedTask>, QueueError> {
        let pool = self.shared.pool(&claim.pool)?;
        let holder = holder(&pool, &claim.worker)?;
        if claim.max == 0 {
            return Ok(Vec::new());
        }
        let (mut sender, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.shared.tracker.spawn(async move {
            let answer = {
                let mut claimed = pin!(shared.claim(&pool, &holder, &claim, longest));
                tokio::select! {
                    answer = &mut claimed => answer,
                    () = sender.closed(), if longest.is_some() => {
                        // Redis has the claim already, and makes it when the pool rings.
                        drop(shared.ring(&pool).await);
                        claimed.await
                    }
                }
            };
            let answer = answer.map(|claimed| {
                let (shared, runtime) = (Arc::clone(&shared), Handle::current());
                Handover { claimed, shared, pool, holder, runtime }
            });
            // What the caller does not take is dropped, and so goes back.
            drop(sender.send(answer));
        });
        let answer = receiver.await.map_err(|_| shutdown())?;
        Ok(answer?.accept())
    }
}

impl Shared {
    async fn claim(
        self: &Arc<Self>,
        pool: &PoolKeys,
        holder: &Holder,
        claim: &Claim,
        longest: Option<Duration>,
    ) -> Result<Vec<ClaimedTask>, QueueError> {
        let failed = |error: RedisFailure| error.into_queue_error(pool.pool());
        self.settle_claims(pool, holder).await.map_err(failed)?;
        let under_way = self.workers_hands.exchange.read().await;
        let arguments = [
            claim.worker.clone().into_bytes(),
            claim.max.min(CLAIM_MAX).to_string().into_bytes(),
            if claim.low_first { b"1".to_vec() } else { b"0".to_vec() },
            CALL_BYTES_MAX.to_string().into_bytes(),
        ];
        let own = [pool.processing(&holder.name)];
        let read = async {
            let call = || Call::on_pool(Function::Claim, pool, &own).arg(&arguments[..]);
            let (answer, has_waited) = match longest {
                None => (call().on(&self.calls).await?, true),
                Some(longest) => match self.call_when_rung(pool, &call(), longest).await {
                    // This loads it.
                    Err(error) if error.is_function_missing() => (call().on(&self.calls).await?, true),
                    answer => answer?,
                },
            };
            let [generation, aside, claimed] = Answer::new("claim", answer).fixed()?;
            let mut bodies = Vec::new();
            for [id, body] in claimed.groups()? {
                bodies.push((id.bytes()?, body.bytes()?));
            }
            Ok((generation.bytes()?, aside.count()?, bodies, has_waited))
        };
        let (generation, aside, bodies, has_waited) = match read.await {
            Ok(answer) => answer,
            Err(error) => {
                if RedisFailure::may_have_happened(&error) {
                    self.workers_hands.doubt(holder);
                }
                return Err(failed(error));
            }
        };
        self.counters.elements_put_aside.add(aside);
        let generation = read_generation(&generation).unwrap_or(0);
        let mut claimed = Vec::new();
        let mut unreadable = Vec::new();
        for (id, body) in bodies {
            // The function has checked it.
            let Some(delivery) = read_id(&id) else { continue };
            self.workers_hands.add(holder, [delivery.to_string()]);
            match decode_task(&body) {
                Ok(task) if task.delivery() == delivery && task.pool == pool.pool() => {
                    claimed.push(ClaimedTask { task, generation });
                }
                Ok(_) => unreadable.push((delivery, "the message is of another delivery".to_owned())),
                Err(error) => unreadable.push((delivery, error.to_string())),
            }
        }
        if !unreadable.is_empty() {
            self.counters.tasks_unreadable.add(unreadable.len());
            self.refuse_unreadable(pool, holder, unreadable).await;
        }
        drop(under_way);
        if longest.is_some() && claimed.is_empty() {
            self.pause_unless(has_waited).await;
        }
        Ok(claimed)
    }

    /// Gives back what a claim took whose answer was lost.
    async fn settle_claims(&self, pool: &PoolKeys, holder: &Holder) -> Result<(), RedisFailure> {
        if self.workers_hands.in_doubt(holder).is_none() {
            return Ok(());
        }
        // No claim is under way now, so whatever is in this worker's list and not in the book is nobody's.
        let _alone = self.workers_hands.exchange.write().await;
        let Some(known) = self.workers_hands.in_doubt(holder) else { return Ok(()) };
        let mut arguments = vec![holder.name.clone().into_bytes()];
        arguments.extend(known.into_iter().map(String::into_bytes));
        let own = [pool.processing(&holder.name)];
        self.call(Function::ReleaseOthers, "give back unknown tasks", pool, &own, &arguments).await?;
        self.workers_hands.settle(holder);
        Ok(())
    }

    /// Hands in failures of tasks whose messages nobody can read, so that the record knows.
    async fn refuse_unreadable(&self, pool: &PoolKeys, holder: &Holder, unreadable: Vec<(Delivery, String)>) {
        let mut results = Vec::new();
        for (delivery, reason) in unreadable {
            tracing::warn!(%delivery, pool = pool.pool(), reason, "a task's message cannot be read");
            let failure = failure_of(&delivery, TASK_UNREADABLE, reason, Some(true));
            results.extend(encode_result(&failure).ok().map(|bytes| (delivery, bytes)));
        }
        if let Err(error) = self.finish(pool, holder, &results).await {
            // Their leases end by themselves.
            tracing::warn!(%error, pool = pool.pool(), "failures of unreadable tasks were not handed in");
        }
    }

    /// A result as it travels. One that cannot is replaced by a failure that says so: the task must end.
    fn encode(&self, result: &ResultMessage) -> Result<(Delivery, Vec<u8>), QueueError> {
        let delivery = result.delivery();
        write_id(&delivery)?;
        if let Ok(bytes) = encode_sealed_result(result).inspect_err(|error| {
            tracing::warn!(%delivery, %error, "a result cannot be sent");
        }) {
            return Ok((delivery, bytes));
        }
        self.counters.results_unwritable.add(1);
        let reason = "the result is too large or nested too deeply to be sent".to_owned();
        let mut failure = failure_of(&delivery, RESULT_UNWRITABLE, reason, Some(false));
        failure.execution_id.clone_from(&result.execution_id);
        failure.step_id.clone_from(&result.step_id);
        failure.token.clone_from(&result.token);
        let bytes = encode_sealed_result(&failure).map_err(|error| QueueError::Corrupt {
            entry: delivery.to_string(),
            reason: error.to_string(),
        })?;
        Ok((delivery, bytes))
    }

    async fn finish(
        &self,
        pool: &PoolKeys,
        holder: &Holder,
        results: &[(Delivery, Vec<u8>)],
    ) -> Result<Vec<Delivery>, QueueError> {
        let mut refused = Vec::new();
        for batch in batches(results, |(_, bytes)| bytes.len()) {
            let own = [pool.processing(&holder.name)];
            let bytes: usize = batch.iter().map(|(_, body)| body.len() + FINISH_OTHERS_BYTES).sum();
            let call = Call::on_pool_with_room(Function::Finish, pool, &own, 2 + 2 * batch.len(), bytes);
            let mut call = call.arg(&holder.name).arg(pool.results_bell());
            for (delivery, bytes) in batch {
                call = call.arg(delivery.to_string()).arg(bytes.as_slice());
            }
            let read = async { Answer::new("finish", call.on(&self.calls).await?).deliveries() };
            refused.extend(read.await.map_err(|error| error.into_queue_error(pool.pool()))?);
            let ended = batch.iter().map(|(delivery, _)| delivery.to_string());
            self.workers_hands.remove(holder, ended);
        }
        Ok(refused)
    }

    async fn release(
        &self,
        pool: &PoolKeys,
        holder: &Holder,
        deliveries: &[Delivery],
    ) -> Result<(), QueueError> {
        // The last ones first: each call puts its own before all that are there.
        for chunk in deliveries.rchunks(CALL_DELIVERIES_MAX) {
            let mut arguments = vec![holder.name.clone().into_bytes()];
            arguments.extend(chunk.iter().map(|delivery| delivery.to_string().into_bytes()));
            let own = [pool.processing(&holder.name)];
            let answer = self.call(Function::Release, "release", pool, &own, &arguments).await;
            answer.map_err(|error| error.into_queue_error(pool.pool()))?;
            self.workers_hands.remove(holder, chunk.iter().map(Delivery::to_string));
        }
        Ok(())
    }

    /// A call over the connection for heartbeats, whose answer is added to `extended`.
    async fn heartbeat(
        &self,
        call: Call,
        pool: &PoolKeys,
        extended: &mut Extended,
    ) -> Result<(), QueueError> {
        let read = async {
            let answer = Answer::new("extend", call.on(&self.heartbeats()).await?);
            let [generation, lost, cancelled] = answer.fixed()?;
            Ok((generation.bytes()?, lost.deliveries()?, cancelled.deliveries()?))
        };
        let (generation, lost, cancelled) =
            read.await.map_err(|error: RedisFailure| error.into_queue_error(pool.pool()))?;
        extended.generation = read_generation(&generation).unwrap_or(0);
        extended.lost.extend(lost);
        extended.cancelled.extend(cancelled);
        Ok(())
    }
}

fn failure_of(delivery: &Delivery, code: &str, message: String, retryable: Option<bool>) -> ResultMessage {
    // Without a token: it is in the message that could not be read.
    ResultMessage {
        error: Some(TaskError { code: code.to_owned(), message, retryable, details: None }),
        ..ResultMessage::new(delivery.task_id.clone(), delivery.attempt, Outcome::Failure)
    }
}

/// Splits messages so that no call is too large.
pub(super) fn batches<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut batches = Vec::new();
    let (mut start, mut size) = (0, 0_usize);
    for (number, item) in items.iter().enumerate() {
        let more = bytes(item);
        let is_full = size.saturating_add(more) > CALL_BYTES_MAX || number - start >= CALL_DELIVERIES_MAX;
        if is_full && number > start {
            batches.push(&items[start..number]);
            (start, size) = (number, 0);
        }
        size = size.saturating_add(more);
    }
    if start < items.len() {
        batches.push(&items[start..]);
    }
    batches
}

/// A task as it travels, and the terms of its lease.
pub(super) fn lease_terms(task: &TaskMessage) -> (u64, u64) {
    (task.lease_ms.min(DURATION_MS_MAX), task.remaining_ms.min(DURATION_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_count_and_bytes_and_lose_nothing() {
        let items: Vec<usize> = (0..1_201).collect();
        let sizes: Vec<_> = batches(&items, |_| 1).iter().map(|batch| batch.len()).collect();
        assert_eq!(sizes, [500, 500, 201]);
        let large = [CALL_BYTES_MAX * 2, 1, CALL_BYTES_MAX, 1];
        assert_eq!(batches(&large, |size| *size), [&large[..1], &large[1..2], &large[2..3], &large[3..]]);
        assert!(batches(&[0_u8; 0], |_| 1).is_empty());
    }
}
