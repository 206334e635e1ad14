//! The engine's side: the trait. What it asks of Redis is in `engine.rs`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::RedisQueue;
use super::engine::{Push, some_at_a_time};
use super::failure::RedisFailure;
use super::functions::Function;
use super::hands::Holder;
use super::keys::PoolKeys;
use super::shared::{Shared, holder};
use super::tasks::CALL_DELIVERIES_MAX;
use super::values::read_id;
use crate::queue::{
    Depth, DispatchQueue, Dispatched, ExpiredLease, QueueError, Taken, TaskMessage, WorkerPresence,
};

/// Leases of one call.
const EXPIRED_MAX: usize = 1_000;

#[async_trait]
impl DispatchQueue for RedisQueue {
    async fn push(&self, tasks: Vec<TaskMessage>) -> Result<(), QueueError> {
        if tasks.is_empty() {
            return Ok(());
        }
        // All are checked before the first is sent.
        let mut by_pool: BTreeMap<String, (PoolKeys, Vec<Push>)> = BTreeMap::new();
        for task in &tasks {
            let push = Push::new(task)?;
            let keys = self.shared.pool(&task.pool)?;
            by_pool.entry(task.pool.clone()).or_insert_with(|| (keys, Vec::new())).1.push(push);
        }
        self.shared.check_memory().await?;
        if self.shared.pools.note(by_pool.keys().map(String::as_str)) {
            self.shared.all_pools().await?;
        }
        let mut pushes: Vec<BoxFuture<'_, _>> = Vec::with_capacity(by_pool.len());
        for (pool, tasks) in by_pool.values() {
            pushes.push(Box::pin(self.shared.push(pool, tasks)));
        }
        some_at_a_time(pushes).await.into_iter().collect()
    }

    async fn take(&self, engine: &str, max: usize) -> Result<Vec<Taken>, QueueError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let (sender, receiver) = oneshot::channel();
        let (shared, engine) = (Arc::clone(&self.shared), engine.to_owned());
        self.shared.tracker.spawn(async move {
            let answer = shared.take(&engine, max).await.map(|taken| Handover { taken, shared, engine });
            // What the caller does not take is dropped, and so can be taken again.
            drop(sender.send(answer));
        });
        let answer = receiver.await.map_err(|_| QueueError::Unavailable(Box::new(RedisFailure::Shutdown)))?;
        Ok(answer?.accept())
    }

    async fn wait_for_results(&self) {
        self.shared.wait_for_results().await;
    }

    async fn acknowledge(&self, engine: &str, deliveries: &[Dispatched]) -> Result<(), QueueError> {
        for (pool, ids) in self.shared.by_pool(deliveries)? {
            let holder = holder(&pool, engine)?;
            let own = [pool.taken(engine)];
            for chunk in ids.chunks(CALL_DELIVERIES_MAX) {
                self.shared.on_pool(Function::Acknowledge, "acknowledge", &pool, &own, chunk).await?;
                self.shared.engines_hands.remove(&holder, chunk.iter().cloned());
            }
        }
        Ok(())
    }

    async fn adopt_results(&self, engine: &str) -> Result<usize, QueueError> {
        let mut adopted = 0;
        for pool in self.shared.all_pools().await? {
            adopted += self.shared.adopt(&pool, &holder(&pool, engine)?).await?;
        }
        Ok(adopted)
    }

    async fn keep_alive(&self, engine: &str) -> Result<usize, QueueError> {
        let mut adopted = 0;
        for stale in self.shared.stale_engines(engine).await? {
            adopted += self.adopt_results(&stale).await?;
            self.shared.listen(&stale, true).await?;
            self.shared.forget_engine(&stale).await?;
        }
        self.shared.adopt_tasks().await?;
        Ok(adopted + self.shared.restore_results().await?)
    }

    async fn expired(&self, max: usize) -> Result<Vec<ExpiredLease>, QueueError> {
        let max = max.min(EXPIRED_MAX);
        if max == 0 {
            return Ok(Vec::new());
        }
        let answers = self.shared.on_all_pools(|pool| self.shared.expired(pool, max)).await?;
        Ok(answers.into_iter().flat_map(|(_, leases)| leases).take(max).collect())
    }

    async fn drop_deliveries(&self, deliveries: &[Dispatched]) -> Result<(), QueueError> {
        for (pool, ids) in self.shared.by_pool(deliveries)? {
            for chunk in ids.chunks(CALL_DELIVERIES_MAX) {
                self.shared.drop_all(&pool, chunk).await?;
            }
        }
        Ok(())
    }

    async fn request_cancel(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError> {
        self.shared.withdraw(deliveries, true).await
    }

    async fn take_back(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError> {
        self.shared.withdraw(deliveries, false).await
    }

    async fn present(&self, deliveries: &[Dispatched]) -> Result<Vec<bool>, QueueError> {
        let mut found: HashSet<Dispatched> = HashSet::new();
        let engines = self.shared.engines().await?;
        for (pool, ids) in self.shared.by_pool(deliveries)? {
            let own = self.shared.lists_of_engines(&pool, &engines);
            for chunk in ids.chunks(CALL_DELIVERIES_MAX) {
                let answer = self.shared.on_pool(Function::Present, "present", &pool, &own, chunk).await?;
                let failed = |error: RedisFailure| error.into_queue_error(pool.pool());
                for (id, is) in chunk.iter().zip(answer.list().map_err(failed)?) {
                    if is.count().map_err(failed)? == 1
                        && let Some(delivery) = read_id(id.as_bytes())
                    {
                        found.insert(Dispatched { pool: pool.pool().to_owned(), delivery });
                    }
                }
            }
        }
        Ok(deliveries.iter().map(|delivery| found.contains(delivery)).collect())
    }

    async fn depths(&self) -> Result<Vec<(String, Depth)>, QueueError> {
        let mut depths = self.shared.on_all_pools(|pool| self.shared.depth(pool)).await?;
        depths.retain(|(_, depth)| *depth != Depth::default());
        depths.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(depths)
    }

    async fn workers(&self) -> Result<Vec<WorkerPresence>, QueueError> {
        let answers = self.shared.on_all_pools(|pool| self.shared.workers(pool)).await?;
        let mut workers: BTreeMap<String, WorkerPresence> = BTreeMap::new();
        for presence in answers.into_iter().flat_map(|(_, workers)| workers) {
            let silent_ms = presence.silent_ms;
            let known = workers.entry(presence.worker.clone()).or_insert(presence.clone());
            if silent_ms < known.silent_ms {
                *known = presence;
            }
        }
        Ok(workers.into_values().collect())
    }

    async fn ask_to_drain(&self, worker: &WorkerPresence) -> Result<(), QueueError> {
        for pool in &worker.pools {
            let pool = self.shared.pool(pool)?;
            let words = [worker.worker.clone(), worker.started_at.clone()];
            self.shared.on_pool(Function::AskToDrain, "ask to drain", &pool, &[], &words).await?;
        }
        Ok(())
    }

    async fn generations(&self, pools: &[String]) -> Result<Vec<Option<u64>>, QueueError> {
        let mut reads: Vec<BoxFuture<'_, _>> = Vec::with_capacity(pools.len());
        self.shared.pools.note(pools.iter().map(String::as_str));
        for pool in pools {
            let pool = self.shared.pool(pool)?;
            reads.push(Box::pin(async move {
                let read = self.shared.generation(&pool).await;
                read.map_err(|error| error.into_queue_error(pool.pool()))
            }));
        }
        some_at_a_time(reads).await.into_iter().collect()
    }

    async fn set_generation(&self, pool: &str, generation: u64) -> Result<(), QueueError> {
        self.shared.write_generation(pool, &[generation.to_string()]).await.map(drop)
    }

    async fn change_generation(&self, pool: &str, from: Option<u64>, to: u64) -> Result<bool, QueueError> {
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        self.shared.write_generation(pool, &[to.to_string(), from]).await
    }

    async fn server_id(&self) -> Result<String, QueueError> {
        let infos =
            self.shared.info("server").await.map_err(|error| error.into_queue_error("INFO of Redis"))?;
        let mut ids: Vec<&str> = infos.iter().filter_map(|info| info.get("run_id")).collect();
        ids.sort_unstable();
        Ok(ids.join(","))
    }

    async fn is_idle(&self) -> Result<bool, QueueError> {
        Ok(self.depths().await?.is_empty())
    }
}

/// Results on their way to the caller. Those that do not arrive can be taken again.
struct Handover {
    taken: Vec<Taken>,
    shared: Arc<Shared>,
    engine: String,
}

impl Handover {
    fn accept(mut self) -> Vec<Taken> {
        std::mem::take(&mut self.taken)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        for Dispatched { pool, delivery } in self.taken.drain(..).map(|taken| taken.dispatched) {
            let holder = Holder { pool, name: self.engine.clone() };
            self.shared.engines_hands.remove(&holder, [delivery.to_string()]);
            self.shared.engines_hands.doubt(&holder);
        }
    }
}
