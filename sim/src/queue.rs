//! The queue as engines see it: pushes and answers get lost, results come twice and in another order.

use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_core::ids::TaskId;
use flowmonkey_engine::store::Store;
use flowmonkey_plumbing::queue::{
    Depth, DispatchQueue, Dispatched, ExpiredLease, QueueError, Taken, WorkerPresence,
};
use flowmonkey_plumbing::wire::TaskMessage;

use crate::boundary::Boundary;
use crate::plants::Plant;

/// Of a thousand pushes, so many are answered and lost.
const LOST_PUSHES: u64 = 15;
/// Of a thousand results taken, so many come twice.
const DOUBLED_RESULTS: u64 = 30;

/// The queue as engines see it.
pub struct SimQueue(pub Arc<Boundary>);

fn unavailable() -> QueueError {
    QueueError::Unavailable("the simulated connection broke".into())
}

impl SimQueue {
    async fn before(&self) -> Result<(), QueueError> {
        if self.0.before().await { Err(unavailable()) } else { Ok(()) }
    }

    async fn after(&self) -> Result<(), QueueError> {
        if self.0.after().await { Err(unavailable()) } else { Ok(()) }
    }

    /// Whether the plant keeps the queue from being given a generation.
    fn keeps_from_writing(&self, generation: u64) -> bool {
        generation != 0 && self.0.plant == Some(Plant::GenerationNeverWritten)
    }

    /// Notes that a pool was given a generation.
    fn written(&self, pool: &str, generation: u64) {
        if generation != 0 {
            self.0.books().leases.rebuilt(pool);
            self.0.sometimes.hit("queue rebuilt");
        }
    }

    /// Takes the fence away: each result is given the attempt that the record has.
    async fn unfence(&self, taken: &mut Taken) {
        let Ok(result) = &mut taken.result else { return };
        let Ok(task) = result.task_id.parse::<TaskId>() else { return };
        let stored = self.0.store.load(&[task.execution]).await;
        let current = stored.ok().and_then(|mut found| found.pop());
        if let Some(out) = current.as_ref().and_then(|execution| execution.task())
            && out.run.task == task.number
        {
            result.attempt = out.run.attempt;
        }
    }
}

#[async_trait]
impl DispatchQueue for SimQueue {
    async fn push(&self, tasks: Vec<TaskMessage>) -> Result<(), QueueError> {
        if self.before().await.is_err() {
            self.0.sometimes.hit("push failed");
            return Err(unavailable());
        }
        if self.0.goes_wrong(LOST_PUSHES) {
            self.0.sometimes.hit("push was lost silently");
        } else {
            self.0.tasks_pushed(tasks.iter().map(|task| task.pool.as_str()));
            self.0.queue().push(tasks).await?;
        }
        self.0.note_progress(|progress| progress.published = true);
        self.after().await
    }

    async fn take(&self, engine: &str, max: usize) -> Result<Vec<Taken>, QueueError> {
        self.before().await?;
        let mut results = self.0.queue().take(engine, max).await?;
        if results.len() > 1 && self.0.goes_wrong(300) {
            results.reverse();
        }
        for place in (0..results.len()).rev() {
            if self.0.goes_wrong(DOUBLED_RESULTS) {
                self.0.sometimes.hit("result delivered twice");
                results.push(results[place].clone());
            }
        }
        if self.0.plant == Some(Plant::FenceRemoved) {
            for result in &mut results {
                self.unfence(result).await;
            }
        }
        if self.0.after().await {
            if !results.is_empty() {
                self.0.sometimes.hit("answer of a take lost");
            }
            return Err(unavailable());
        }
        Ok(results)
    }

    async fn wait_for_results(&self) {}

    async fn acknowledge(&self, engine: &str, deliveries: &[Dispatched]) -> Result<(), QueueError> {
        self.before().await?;
        self.0.books().acknowledged(deliveries);
        if self.0.plant != Some(Plant::NeverAcknowledged) {
            self.0.queue().acknowledge(engine, deliveries).await?;
        }
        self.0.note_progress(|progress| progress.acknowledged = true);
        self.after().await
    }

    async fn adopt_results(&self, engine: &str) -> Result<usize, QueueError> {
        self.before().await?;
        let adopted = self.0.queue().adopt_results(engine).await?;
        self.after().await?;
        Ok(adopted)
    }

    async fn keep_alive(&self, engine: &str) -> Result<usize, QueueError> {
        self.before().await?;
        // The queue in memory knows one process only; this one behaves as those do that several share.
        let mut adopted = 0;
        for dead in self.0.engine_lives(engine) {
            if self.0.plant != Some(Plant::DeadEnginesForgotten) {
                adopted += self.0.queue().adopt_results(&dead).await?;
            }
        }
        self.after().await?;
        Ok(adopted)
    }

    async fn expired(&self, max: usize) -> Result<Vec<ExpiredLease>, QueueError> {
        self.before().await?;
        let mut expired = self.0.queue().expired(max).await?;
        if self.0.plant == Some(Plant::LeasesEndEarly) {
            // By a clock that is ahead: what ends within the next hour has ended.
            self.0.clock.advance(3_600_000);
            expired = self.0.queue().expired(max).await?;
            self.0.clock.advance(-3_600_000);
            for lease in &mut expired {
                lease.hard_end = false;
            }
        }
        self.after().await?;
        Ok(expired)
    }

    async fn drop_deliveries(&self, deliveries: &[Dispatched]) -> Result<(), QueueError> {
        self.before().await?;
        self.0.queue().drop_deliveries(deliveries).await?;
        self.after().await
    }

    async fn request_cancel(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError> {
        self.before().await?;
        let removed = self.0.queue().request_cancel(deliveries).await?;
        self.after().await?;
        Ok(removed)
    }

    async fn take_back(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError> {
        self.before().await?;
        let removed = self.0.queue().take_back(deliveries).await?;
        self.after().await?;
        Ok(removed)
    }

    async fn present(&self, deliveries: &[Dispatched]) -> Result<Vec<bool>, QueueError> {
        self.before().await?;
        let present = self.0.queue().present(deliveries).await?;
        for (absent, _) in deliveries.iter().zip(&present).filter(|(_, present)| !**present) {
            let now = self.0.now_ms();
            self.0.books().leases.told_absent(&absent.delivery, now);
        }
        self.after().await?;
        Ok(present)
    }

    async fn depths(&self) -> Result<Vec<(String, Depth)>, QueueError> {
        self.0.queue().depths().await
    }

    async fn workers(&self) -> Result<Vec<WorkerPresence>, QueueError> {
        self.0.queue().workers().await
    }

    async fn ask_to_drain(&self, worker: &WorkerPresence) -> Result<(), QueueError> {
        self.0.queue().ask_to_drain(worker).await
    }

    async fn generations(&self, pools: &[String]) -> Result<Vec<Option<u64>>, QueueError> {
        self.before().await?;
        let mut generations = self.0.queue().generations(pools).await?;
        if self.0.plant == Some(Plant::GenerationFeigned) {
            for (pool, generation) in pools.iter().zip(&mut generations) {
                let server = self.0.server_id();
                *generation = self.0.store.pool_generation(pool, &server).await.ok();
            }
        }
        self.after().await?;
        Ok(generations)
    }

    async fn set_generation(&self, pool: &str, generation: u64) -> Result<(), QueueError> {
        self.before().await?;
        let pools = [pool.to_owned()];
        let found = self.0.queue().generations(&pools).await?;
        if found == [None] {
            self.0.books().leases.unnoticed(pool);
        }
        if !self.keeps_from_writing(generation) {
            self.0.queue().set_generation(pool, generation).await?;
        }
        if generation == 0 || found.iter().flatten().all(|found| *found <= generation) {
            self.written(pool, generation);
        }
        self.after().await
    }

    async fn change_generation(&self, pool: &str, from: Option<u64>, to: u64) -> Result<bool, QueueError> {
        self.before().await?;
        // The queue compares and writes in one step: it was not emptied between the two, unless it was empty before.
        let is_found = self.0.queue().generations(&[pool.to_owned()]).await? == [from];
        if is_found && from.is_none() {
            self.0.books().leases.unnoticed(pool);
        }
        if is_found && !self.keeps_from_writing(to) {
            self.0.queue().change_generation(pool, from, to).await?;
        }
        if is_found {
            self.written(pool, to);
        }
        self.after().await?;
        Ok(is_found)
    }

    async fn server_id(&self) -> Result<String, QueueError> {
        self.before().await?;
        let server = self.0.server_id();
        self.after().await?;
        Ok(server)
    }

    async fn is_idle(&self) -> Result<bool, QueueError> {
        self.0.queue().is_idle().await
    }
}
