//! The queue of a single process, in memory: for embedded use, tests and the simulation.
//!
//! One lock guards all; nothing waits while it is held, and no operation looks through a list. What is lost with the
//! process is rebuilt from the record, as with every queue.

mod state;

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{
    Claim, ClaimedTask, Delivery, Depth, DispatchQueue, Dispatched, ExpiredLease, Extended, Lease,
    QueueError, Taken, TaskQueue, WorkerPresence,
};
use crate::clock::Clock;
use crate::wire::{ResultMessage, TaskMessage};
use state::State;

/// Limits of a [`LocalQueue`]. The record holds whatever does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalQueueLimits {
    /// Deliveries at a time, wherever they are: ready, in workers' hands, among the results. Default 1,000,000.
    pub deliveries_max: usize,
    /// Deliveries at a time that are ready in one pool. Default 250,000.
    pub ready_per_pool_max: usize,
    /// Results of deliveries that the queue did not hold (they came late), not yet acknowledged. Default 100,000.
    pub late_results_max: usize,
}

impl Default for LocalQueueLimits {
    fn default() -> Self {
        Self { deliveries_max: 1_000_000, ready_per_pool_max: 250_000, late_results_max: 100_000 }
    }
}

/// The queue of a single process, in memory.
pub struct LocalQueue {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// Rung when a task becomes ready. All waiting workers wake up and look: there are few of them in one process, and a
    /// bell for one of them could be heard by a worker that then does not claim.
    tasks_bell: Notify,
    /// Rung when a result may be taken.
    results_bell: Notify,
}

impl LocalQueue {
    /// An empty queue. Leases run on `clock`, which must be the wall clock even where executions skip time.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, limits: LocalQueueLimits) -> Self {
        Self {
            state: Mutex::new(State::new(limits)),
            clock,
            tasks_bell: Notify::new(),
            results_bell: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock calls foreign code; were there a panic nevertheless, then each operation checks what
        // it finds, and the record judges what comes out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is what `find` looks for, woken by `bell`.
    async fn wait_until<T>(&self, bell: &Notify, find: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let mut rung = pin!(bell.notified());
            // Listen first, look second: a ring between the two is heard.
            rung.as_mut().enable();
            let found = find(&self.state());
            if let Some(found) = found {
                return found;
            }
            rung.await;
        }
    }
}

#[async_trait]
impl TaskQueue for LocalQueue {
    async fn claim(&self, claim: Claim) -> Result<Vec<ClaimedTask>, QueueError> {
        Ok(self.state().claim(&claim, self.clock.now_ms()))
    }

    async fn wait_for_tasks(&self, pools: &[String], longest: Duration) -> Option<String> {
        let ready = |state: &State| pools.iter().find(|pool| state.has_ready(pool)).cloned();
        timeout(longest, self.wait_until(&self.tasks_bell, ready)).await.ok()
    }

    async fn extend(
        &self,
        pool: &str,
        worker: &str,
        deliveries: &[Delivery],
    ) -> Result<Extended, QueueError> {
        Ok(self.state().extend(pool, worker, deliveries, self.clock.now_ms()))
    }

    async fn reassert(&self, pool: &str, worker: &str, leases: &[Lease]) -> Result<Extended, QueueError> {
        Ok(self.state().reassert(pool, worker, leases, self.clock.now_ms()))
    }

    async fn finish(
        &self,
        pool: &str,
        worker: &str,
        results: Vec<ResultMessage>,
    ) -> Result<Vec<Delivery>, QueueError> {
        let refused = self.state().finish(pool, worker, results)?;
        self.results_bell.notify_waiters();
        Ok(refused)
    }

    async fn release(&self, pool: &str, worker: &str, deliveries: &[Delivery]) -> Result<(), QueueError> {
        self.state().release(pool, worker, deliveries);
        self.tasks_bell.notify_waiters();
        Ok(())
    }

    async fn announce(&self, presence: &WorkerPresence) -> Result<bool, QueueError> {
        Ok(self.state().announce(presence, self.clock.now_ms()))
    }

    async fn retire(&self, worker: &str, _pools: &[String]) -> Result<(), QueueError> {
        self.state().retire(worker);
        Ok(())
    }
}

#[async_trait]
impl DispatchQueue for LocalQueue {
    async fn push(&self, tasks: Vec<TaskMessage>) -> Result<(), QueueError> {
        self.state().push(tasks, self.clock.now_ms())?;
        self.tasks_bell.notify_waiters();
        Ok(())
    }

    async fn take(&self, engine: &str, max: usize) -> Result<Vec<Taken>, QueueError> {
        Ok(self.state().take(engine, max))
    }

    async fn wait_for_results(&self) {
        self.wait_until(&self.results_bell, |state| state.has_results().then_some(())).await;
    }

    async fn acknowledge(&self, engine: &str, deliveries: &[Dispatched]) -> Result<(), QueueError> {
        self.state().acknowledge(engine, deliveries);
        Ok(())
    }

    async fn adopt_results(&self, engine: &str) -> Result<usize, QueueError> {
        let adopted = self.state().adopt_results(engine);
        self.results_bell.notify_waiters();
        Ok(adopted)
    }

    async fn keep_alive(&self, _engine: &str) -> Result<usize, QueueError> {
        // The engine and its queue are one process: there are no others that could have died.
        Ok(0)
    }

    async fn expired(&self, max: usize) -> Result<Vec<ExpiredLease>, QueueError> {
        Ok(self.state().expired(max, self.clock.now_ms()))
    }

    async fn drop_deliveries(&self, deliveries: &[Dispatched]) -> Result<(), QueueError> {
        self.state().drop_deliveries(deliveries);
        Ok(())
    }

    async fn request_cancel(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError> {
        Ok(self.state().request_cancel(deliveries))
    }

    async fn take_back(&self, deliveries: &[Dispatched]) -> Result<Vec<Dispatched>, QueueError> {
        Ok(self.state().take_back(deliveries))
    }

    async fn present(&self, deliveries: &[Dispatched]) -> Result<Vec<bool>, QueueError> {
        Ok(self.state().present(deliveries))
    }

    async fn depths(&self) -> Result<Vec<(String, Depth)>, QueueError> {
        Ok(self.state().depths(self.clock.now_ms()))
    }

    async fn workers(&self) -> Result<Vec<WorkerPresence>, QueueError> {
        Ok(self.state().workers(self.clock.now_ms()))
    }

    async fn ask_to_drain(&self, worker: &WorkerPresence) -> Result<(), QueueError> {
        self.state().ask_to_drain(worker);
        Ok(())
    }

    async fn generations(&self, pools: &[String]) -> Result<Vec<Option<u64>>, QueueError> {
        Ok(self.state().generations(pools))
    }

    async fn set_generation(&self, pool: &str, generation: u64) -> Result<(), QueueError> {
        self.state().set_generation(pool, generation);
        Ok(())
    }

    async fn change_generation(&self, pool: &str, from: Option<u64>, to: u64) -> Result<bool, QueueError> {
        Ok(self.state().change_generation(pool, from, to))
    }

    async fn server_id(&self) -> Result<String, QueueError> {
        // It lives and dies with its process: no one ever sees it started anew.
        Ok("local".into())
    }

    async fn is_idle(&self) -> Result<bool, QueueError> {
        Ok(self.state().is_idle())
    }
}
