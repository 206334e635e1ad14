//! The engine's side: what it asks of Redis.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt, stream};

use super::bells::Look;
use super::failure::RedisFailure;
use super::functions::{Call, Function};
use super::hands::Holder;
use super::keys::PoolKeys;
use super::shared::{Shared, holder};
use super::tasks::{CALL_BYTES_MAX, CALL_DELIVERIES_MAX, batches, lease_terms};
use super::values::{Answer, read_generation, read_id, write_id};
use crate::queue::{
    Delivery, Depth, Dispatched, ExpiredLease, QueueError, Taken, TaskMessage, WORKER_SILENT_AFTER,
    WorkerPresence,
};
use crate::wire::{Priority, WireError, encode_task, open_result};

/// Pools that are asked at a time.
const POOLS_AT_A_TIME: usize = 64;
/// Results of one call, and elements that one call of an adoption looks at.
const RESULTS_MAX: usize = 1_000;
/// Rounds until the owners of deliveries that are dropped have been met: they change while we look.
const DROP_ROUNDS_MAX: usize = 8;
/// Workers whose lists are looked through in one call.
const DROP_WORKERS_MAX: usize = 200;

/// Arguments of one task in a push, and about as many bytes as they take beside its body.
const PUSH_ARGUMENTS: usize = 5;
const PUSH_OTHERS_BYTES: usize = 96;

/// One task as it is pushed.
pub(super) struct Push {
    id: String,
    list: u8,
    lease_ms: u64,
    remaining_ms: u64,
    body: Vec<u8>,
}

impl Push {
    pub(super) fn new(task: &TaskMessage) -> Result<Self, QueueError> {
        let id = write_id(&task.delivery())?;
        let body = encode_task(task)
            .map_err(|error| QueueError::Corrupt { entry: id.clone(), reason: error.to_string() })?;
        let list = match task.priority {
            Priority::High => 1,
            Priority::Normal => 2,
            Priority::Low => 3,
        };
        let (lease_ms, remaining_ms) = lease_terms(task);
        Ok(Self { id, list, lease_ms, remaining_ms, body })
    }
}

impl Shared {
    /// Deliveries by pool, as ids.
    pub(super) fn by_pool(
        &self,
        deliveries: &[Dispatched],
    ) -> Result<Vec<(PoolKeys, Vec<String>)>, QueueError> {
        let mut by_pool: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Dispatched { pool, delivery } in deliveries {
            by_pool.entry(pool).or_default().push(delivery.to_string());
        }
        by_pool.into_iter().map(|(pool, ids)| Ok((self.pool(pool)?, ids))).collect()
    }

    /// Asks all pools, some at a time. A pool whose keys are not in order is mended and left out: it must not stop the
    /// others.
    pub(super) async fn on_all_pools<'a, T, F>(
        &'a self,
        ask: impl Fn(PoolKeys) -> F,
    ) -> Result<Vec<(String, T)>, QueueError>
    where
        F: Future<Output = Result<T, RedisFailure>> + Send + 'a,
        T: Send,
    {
        let pools = self.all_pools().await?;
        let mut asked: Vec<BoxFuture<'_, _>> = Vec::with_capacity(pools.len());
        for pool in pools {
            let answer = ask(pool.clone());
            asked.push(Box::pin(async move { (pool, answer.await) }));
        }
        let answers = some_at_a_time(asked).await;
        let mut found = Vec::with_capacity(answers.len());
        for (pool, answer) in answers {
            match answer {
                Ok(value) => found.push((pool.pool().to_owned(), value)),
                Err(error) if error.is_wrong_type() => self.mend(&pool).await?,
                Err(error) => return Err(error.into_queue_error(pool.pool())),
            }
        }
        Ok(found)
    }

    /// Calls a function with ids or other words; where a key has the wrong type, mends the pool and calls again.
    pub(super) async fn on_pool(
        &self,
        function: Function,
        doing: &'static str,
        pool: &PoolKeys,
        own: &[String],
        words: &[String],
    ) -> Result<Answer, QueueError> {
        let arguments: Vec<Vec<u8>> = words.iter().map(|word| word.clone().into_bytes()).collect();
        let mut answer = self.call(function, doing, pool, own, &arguments).await;
        if answer.as_ref().is_err_and(RedisFailure::is_wrong_type) {
            self.mend(pool).await?;
            answer = self.call(function, doing, pool, own, &arguments).await;
        }
        answer.map_err(|error| error.into_queue_error(pool.pool()))
    }

    /// Puts keys of the wrong type aside. The pool has no generation then, and is rebuilt from the record.
    async fn mend(&self, pool: &PoolKeys) -> Result<(), QueueError> {
        let own = [pool.wrong_type()];
        let read = async { self.call(Function::Mend, "mend", pool, &own, &[]).await?.count() };
        let wrong = read.await.map_err(|error| error.into_queue_error(pool.pool()))?;
        if wrong > 0 {
            tracing::warn!(pool = pool.pool(), keys = wrong, "keys of the wrong type were put aside");
            self.counters.keys_put_aside.add(wrong);
        }
        Ok(())
    }

    pub(super) async fn push(&self, pool: &PoolKeys, tasks: &[Push]) -> Result<(), QueueError> {
        for batch in batches(tasks, |task| task.body.len()) {
            let call = || {
                let sender = self.options.engine.as_deref().unwrap_or_default();
                let bytes: usize = batch.iter().map(|task| task.body.len() + PUSH_OTHERS_BYTES).sum();
                let words = 1 + PUSH_ARGUMENTS * batch.len();
                let call = Call::on_pool_with_room(Function::Push, pool, &[], words, bytes).arg(sender);
                batch.iter().fold(call, |call, task| {
                    let call = call.arg(&task.id).arg(task.list).arg(task.lease_ms);
                    call.arg(task.remaining_ms).arg(task.body.as_slice())
                })
            };
            let mut answer = call().on(&self.calls).await;
            if answer.as_ref().is_err_and(RedisFailure::is_wrong_type) {
                self.mend(pool).await?;
                answer = call().on(&self.calls).await;
            }
            answer.map_err(|error| error.into_queue_error(pool.pool()))?;
        }
        Ok(())
    }

    pub(super) async fn generation(&self, pool: &PoolKeys) -> Result<Option<u64>, RedisFailure> {
        let mut command = redis::cmd("GET");
        command.arg(pool.generation());
        match self.calls.query("reading a generation", &command).await {
            Ok(answer) => Ok(read_generation(&Answer::new("generation", answer).bytes()?)),
            // Not a generation: the pool has to be built anew, which writes it.
            Err(error) if error.is_wrong_type() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it was written; `words` are those of the function.
    pub(super) async fn write_generation(&self, pool: &str, words: &[String]) -> Result<bool, QueueError> {
        let pool = self.pool(pool)?;
        self.pools.note([pool.pool()]);
        let answer = self.on_pool(Function::SetGeneration, "writing a generation", &pool, &[], words).await?;
        let written = answer.count().map_err(|error| error.into_queue_error(pool.pool()))?;
        Ok(written > 0)
    }

    /// How many results each pool has that nobody took, for all or for this engine.
    async fn waiting_results(&self) -> Result<Vec<(String, usize)>, QueueError> {
        self.on_all_pools(|pool| async move {
            let counts = join_all(self.lists_of_results(&pool).into_iter().map(|list| async move {
                let mut command = redis::cmd("LLEN");
                command.arg(list);
                let answer = self.calls.query("looking for results", &command).await?;
                Answer::new("LLEN", answer).count()
            }));
            counts.await.into_iter().sum()
        })
        .await
    }

    pub(super) async fn any_results(&self) -> Result<bool, QueueError> {
        Ok(self.waiting_results().await?.iter().any(|(_, count)| *count > 0))
    }

    pub(super) async fn take(&self, engine: &str, max: usize) -> Result<Vec<Taken>, QueueError> {
        for pool in self.all_pools().await? {
            self.settle_takes(&pool, &holder(&pool, engine)?).await?;
        }
        self.keep_listening().await?;
        let _under_way = self.engines_hands.exchange.read().await;
        // Begins with another pool each time, so that none waits for ever.
        let pools: Vec<String> = match self.where_to_look() {
            Look::AtAll => {
                let waiting = self.waiting_results().await?.into_iter();
                waiting.filter(|(_, count)| *count > 0).map(|(pool, _)| pool).collect()
            }
            Look::At(pools) => pools,
        };
        let (mut taken, mut failed) = (Vec::new(), None);
        for pool in pools {
            let left = max.saturating_sub(taken.len()).min(RESULTS_MAX);
            if left == 0 || failed.is_some() {
                self.look_again_at(&pool);
                continue;
            }
            match self.take_from(&self.pool(&pool)?, engine, left).await {
                Ok((more, is_all)) => {
                    taken.extend(more);
                    if !is_all {
                        self.look_again_at(&pool);
                    }
                }
                Err(error) => {
                    self.look_again_at(&pool);
                    failed = Some((pool, error));
                }
            }
        }
        match failed {
            Some((_, error)) if taken.is_empty() => Err(error),
            // Those that were taken must not be lost for the trouble of another pool.
            Some((pool, error)) => {
                tracing::warn!(%error, pool, "results cannot be taken");
                Ok(taken)
            }
            None => Ok(taken),
        }
    }

    /// At most `max` results of a pool, and whether these are all that there were.
    async fn take_from(
        &self,
        pool: &PoolKeys,
        engine: &str,
        max: usize,
    ) -> Result<(Vec<Taken>, bool), QueueError> {
        let holder = holder(pool, engine)?;
        let mut own = vec![pool.taken(engine)];
        own.extend(self.lists_to_take(pool));
        let arguments = [max.to_string().into_bytes(), CALL_BYTES_MAX.to_string().into_bytes()];
        let read = async {
            let answer = self.call(Function::Take, "take", pool, &own, &arguments).await?;
            let [aside, results] = answer.fixed()?;
            let mut bodies = Vec::new();
            for [id, body] in results.groups()? {
                bodies.push((id.bytes()?, body.bytes()?));
            }
            Ok((aside.count()?, bodies))
        };
        let (aside, bodies) = match read.await {
            Ok(answer) => answer,
            Err(error) => {
                if RedisFailure::may_have_happened(&error) {
                    self.engines_hands.doubt(&holder);
                }
                if error.is_wrong_type() {
                    self.mend(pool).await?;
                    return Ok((Vec::new(), true));
                }
                return Err(error.into_queue_error(pool.pool()));
            }
        };
        self.counters.elements_put_aside.add(aside);
        // The bytes of a call are limited too: what did not fit may be as large as half of them.
        let bytes: usize = bodies.iter().map(|(_, body)| body.len()).sum();
        let is_all = bodies.len() < max && bytes < CALL_BYTES_MAX / 2 && aside == 0;
        let mut taken = Vec::new();
        for (id, body) in bodies {
            // The function has checked it.
            let Some(delivery) = read_id(&id) else { continue };
            self.engines_hands.add(&holder, [delivery.to_string()]);
            let (result, seal) = open_result(body);
            let result = result.and_then(|result| {
                if result.delivery() == delivery {
                    return Ok(result);
                }
                let reason = format!("the result is of {}, not of {delivery}", result.delivery());
                Err(WireError::Malformed { reason })
            });
            if result.is_err() {
                self.counters.results_unreadable.add(1);
            }
            let dispatched = Dispatched { pool: pool.pool().to_owned(), delivery };
            taken.push(Taken { dispatched, result, seal });
        }
        Ok((taken, is_all))
    }

    /// Gives back what a take took whose answer was lost.
    pub(super) async fn settle_takes(&self, pool: &PoolKeys, holder: &Holder) -> Result<(), QueueError> {
        if self.engines_hands.in_doubt(holder).is_none() {
            return Ok(());
        }
        // No take is under way now, so whatever is in this engine's list and not in the book is nobody's.
        let _alone = self.engines_hands.exchange.write().await;
        let Some(known) = self.engines_hands.in_doubt(holder) else { return Ok(()) };
        let mut words = vec![pool.results_bell()];
        words.extend(known);
        let own = [pool.taken(&holder.name)];
        self.on_pool(Function::UntakeOthers, "give back unknown results", pool, &own, &words).await?;
        self.engines_hands.settle(holder);
        Ok(())
    }

    pub(super) async fn adopt(&self, pool: &PoolKeys, holder: &Holder) -> Result<usize, QueueError> {
        let own = [pool.taken(&holder.name)];
        let words = [RESULTS_MAX.to_string(), pool.results_bell()];
        let mut total = 0;
        self.engines_hands.clear(holder);
        loop {
            let answer = self.on_pool(Function::AdoptResults, "adopt results", pool, &own, &words).await?;
            let read = || {
                let [looked, adopted] = answer.fixed()?;
                Ok((looked.count()?, adopted.count()?))
            };
            let (looked, adopted) =
                read().map_err(|error: RedisFailure| error.into_queue_error(pool.pool()))?;
            total += adopted;
            if looked < RESULTS_MAX {
                return Ok(total);
            }
        }
    }

    /// Notes that `engine` lives; returns the engines that were not heard of for a while.
    pub(super) async fn stale_engines(&self, engine: &str) -> Result<Vec<String>, QueueError> {
        let key = self.keys.engines();
        let call = || {
            Call::on_key(Function::KeepAlive, &key).arg(engine).arg(duration_ms(self.options.engine_stale))
        };
        let mut answer = call().on(&self.calls).await;
        if answer.as_ref().is_err_and(RedisFailure::is_wrong_type) {
            let mut command = redis::cmd("DEL");
            command.arg(&key);
            let removed = self.calls.query("removing a key of the wrong type", &command).await;
            removed.map_err(|error| error.into_queue_error(&key))?;
            self.counters.keys_put_aside.add(1);
            answer = call().on(&self.calls).await;
        }
        let read = |value| -> Result<Vec<String>, RedisFailure> {
            Answer::new("keep alive", value).list()?.into_iter().map(Answer::text).collect()
        };
        let stale = answer.and_then(read).map_err(|error| error.into_queue_error(&key))?;
        Ok(stale.into_iter().filter(|name| name != engine).collect())
    }

    pub(super) async fn forget_engine(&self, engine: &str) -> Result<(), QueueError> {
        let mut command = redis::cmd("ZREM");
        command.arg(self.keys.engines()).arg(engine);
        let answer = self.calls.query("forgetting an engine", &command).await;
        answer.map(drop).map_err(|error| error.into_queue_error("engines"))
    }

    /// The engines that are known.
    pub(super) async fn engines(&self) -> Result<Vec<String>, QueueError> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys.engines()).arg(0).arg(-1);
        let answer = match self.calls.query("reading the engines", &command).await {
            Err(error) if error.is_wrong_type() => redis::Value::Nil,
            answer => answer.map_err(|error| error.into_queue_error("engines"))?,
        };
        let read = || -> Result<Vec<String>, RedisFailure> {
            Answer::new("engines", answer).list()?.into_iter().map(Answer::text).collect()
        };
        read().map_err(|error| error.into_queue_error("engines"))
    }

    pub(super) async fn expired(
        &self,
        pool: PoolKeys,
        max: usize,
    ) -> Result<Vec<ExpiredLease>, RedisFailure> {
        let arguments = [max.to_string().into_bytes()];
        let answer = self.call(Function::Expired, "expired", &pool, &[], &arguments).await?;
        let mut leases = Vec::new();
        let mut garbage = Vec::new();
        for [id, worker, hard_end] in answer.groups()? {
            let id = id.bytes()?;
            let Some(delivery) = read_id(&id) else {
                garbage.push(id);
                continue;
            };
            let dispatched = Dispatched { pool: pool.pool().to_owned(), delivery };
            let hard_end = hard_end.count()? == 1;
            leases.push(ExpiredLease { dispatched, worker: worker.text()?, hard_end });
        }
        if !garbage.is_empty() {
            self.call(Function::PutLeasesAside, "put leases aside", &pool, &[], &garbage).await?;
            self.counters.elements_put_aside.add(garbage.len());
        }
        Ok(leases)
    }

    pub(super) async fn drop_all(&self, pool: &PoolKeys, ids: &[String]) -> Result<(), QueueError> {
        let failed = |error: RedisFailure| error.into_queue_error(pool.pool());
        let (mut left, mut workers) = (ids.to_vec(), Vec::<String>::new());
        for _ in 0..DROP_ROUNDS_MAX {
            let own: Vec<String> = workers.iter().map(|worker| pool.processing(worker)).collect();
            let mut words = vec![workers.len().to_string()];
            words.append(&mut workers);
            words.append(&mut left);
            let answer = self.on_pool(Function::Drop, "drop", pool, &own, &words).await?;
            for [id, owner] in answer.groups().map_err(failed)? {
                left.push(id.text().map_err(failed)?);
                let owner = owner.text().map_err(failed)?;
                if !workers.contains(&owner) && workers.len() < DROP_WORKERS_MAX {
                    workers.push(owner);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
        }
        let reason = "their owners change faster than they can be dropped".to_owned();
        Err(QueueError::Corrupt { entry: left.join(" "), reason })
    }

    pub(super) async fn withdraw(
        &self,
        deliveries: &[Dispatched],
        tell_owners: bool,
    ) -> Result<Vec<Dispatched>, QueueError> {
        let mut withdrawn = Vec::new();
        for (pool, ids) in self.by_pool(deliveries)? {
            for chunk in ids.chunks(CALL_DELIVERIES_MAX) {
                let mut words = vec![if tell_owners { "1".to_owned() } else { "0".to_owned() }];
                words.extend_from_slice(chunk);
                let answer = self.on_pool(Function::Withdraw, "withdraw", &pool, &[], &words).await?;
                let answer = answer.deliveries().map_err(|error| error.into_queue_error(pool.pool()))?;
                let name = |delivery: Delivery| Dispatched { pool: pool.pool().to_owned(), delivery };
                withdrawn.extend(answer.into_iter().map(name));
            }
        }
        Ok(withdrawn)
    }

    pub(super) async fn depth(&self, pool: PoolKeys) -> Result<Depth, RedisFailure> {
        let answer = self.call(Function::Depth, "depth", &pool, &[], &[]).await?;
        let [high, normal, low, in_flight, results, oldest] = answer.fixed()?;
        Ok(Depth {
            high: high.count()?,
            normal: normal.count()?,
            low: low.count()?,
            in_flight: in_flight.count()?,
            results: results.count()?,
            oldest_age_ms: u64::try_from(oldest.count()?).unwrap_or(u64::MAX),
        })
    }

    pub(super) async fn workers(&self, pool: PoolKeys) -> Result<Vec<WorkerPresence>, RedisFailure> {
        let arguments = [duration_ms(WORKER_SILENT_AFTER).to_string().into_bytes()];
        let answer = self.call(Function::Workers, "workers", &pool, &[], &arguments).await?;
        let mut workers = Vec::new();
        for [worker, silent, json] in answer.groups()? {
            let worker = worker.text()?;
            let silent_ms = u64::try_from(silent.count()?).unwrap_or(u64::MAX);
            match serde_json::from_slice::<WorkerPresence>(&json.bytes()?) {
                Ok(presence) if presence.worker == worker => {
                    workers.push(WorkerPresence { silent_ms, ..presence });
                }
                // It is forgotten when it has been silent for long enough.
                Ok(_) | Err(_) => self.counters.elements_put_aside.add(1),
            }
        }
        Ok(workers)
    }

    /// Puts results that are in no list into line again: a list may have been deleted or evicted alone. Whose task has gone on
    /// meanwhile is refused then, and forgotten.
    pub(super) async fn restore_results(&self) -> Result<usize, QueueError> {
        let engines = self.engines().await?;
        let restored = self
            .on_all_pools(|pool| {
                let (own, words) =
                    (self.lists_of_engines(&pool, &engines), [pool.results_bell().into_bytes()]);
                async move {
                    self.call(Function::RestoreResults, "restore results", &pool, &own, &words).await?.count()
                }
            })
            .await?;
        Ok(restored.into_iter().map(|(_, count)| count).sum())
    }

    /// Gives a lease to what is in the list of a known worker without one, so that the reaper sees it: the leases may have
    /// been deleted or evicted alone.
    pub(super) async fn adopt_tasks(&self) -> Result<(), QueueError> {
        for (pool, workers) in self.on_all_pools(|pool| self.workers(pool)).await? {
            let pool = self.pool(&pool)?;
            for presence in workers {
                let own = [pool.processing(&presence.worker)];
                let words = [presence.worker, duration_ms(WORKER_SILENT_AFTER).to_string()];
                self.on_pool(Function::AdoptTasks, "adopt tasks", &pool, &own, &words).await?;
            }
        }
        Ok(())
    }
}

/// All answers, in order; so many questions at a time.
pub(super) async fn some_at_a_time<T>(questions: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(questions).buffered(POOLS_AT_A_TIME).collect().await
}

fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
