//! A simulated worker: claims, works for a drawn time, reports; freezes, dies, comes back as a zombie, lies.

use std::sync::Arc;

use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, Dispatched, TaskQueue};
use flowmonkey_plumbing::wire::{ResultMessage, TaskMessage};

use crate::boundary::Boundary;
use crate::executor::block_on;
use crate::random::Random;
use crate::result::{self, Manner};
use crate::workload::POOLS;

/// Tasks that a worker holds at a time.
const JOBS_MAX: usize = 4;

struct Job {
    task: TaskMessage,
    started_ms: i64,
    done_ms: i64,
    beat_ms: i64,
    cancelled: bool,
}

/// A simulated worker.
pub struct Worker {
    number: usize,
    life: u32,
    jobs: Vec<Job>,
    /// Results that it reports later than it could.
    late: Vec<(i64, String, ResultMessage)>,
    frozen_until_ms: i64,
    skew_ms: i64,
    boundary: Arc<Boundary>,
}

impl Worker {
    /// The worker with this number.
    #[must_use]
    pub fn new(number: usize, random: &mut Random, boundary: Arc<Boundary>) -> Self {
        let skew_ms = i64::try_from(random.below(120_000)).unwrap_or(0) - 60_000;
        Self { number, life: 1, jobs: Vec::new(), late: Vec::new(), frozen_until_ms: 0, skew_ms, boundary }
    }

    fn name(&self) -> String {
        format!("worker-{}.{}", self.number, self.life)
    }

    /// Loses everything, and comes back under another name.
    pub fn die(&mut self) {
        self.boundary.sometimes.hit("worker died");
        self.jobs.clear();
        self.late.clear();
        self.life += 1;
    }

    /// Does nothing for a while, and then goes on as if nothing had been.
    pub fn freeze(&mut self, millis: i64) {
        self.boundary.sometimes.hit("worker froze");
        self.frozen_until_ms = self.boundary.now_ms() + millis;
    }

    /// Comes back at once.
    pub fn thaw(&mut self) {
        self.frozen_until_ms = 0;
    }

    /// Does what is due: heartbeats, results, claims. What it did, for the trace.
    pub fn act(&mut self, random: &mut Random, healed: bool) -> String {
        let now = self.boundary.now_ms();
        if now < self.frozen_until_ms {
            return "frozen".into();
        }
        self.beat(random, now);
        let mut did = Vec::new();
        for (_, pool, result) in self.late.extract_if(.., |(due, ..)| *due <= now).collect::<Vec<_>>() {
            did.push(format!("late {}", result.delivery()));
            self.hand_in(&pool, result);
        }
        for job in self.jobs.extract_if(.., |job| job.done_ms <= now || job.cancelled).collect::<Vec<_>>() {
            did.push(format!("finishes {}", job.task.delivery()));
            self.finish(&job, random, healed);
        }
        for pool in POOLS {
            let max = JOBS_MAX.saturating_sub(self.jobs.len());
            if max == 0 || (!healed && random.happens(300)) {
                continue;
            }
            for task in self.claim(pool, max.min(2), random) {
                did.push(format!("claims {} {}", task.delivery(), task.step_id));
                self.take_up(task, random, healed);
            }
        }
        did.join(", ")
    }

    fn claim(&self, pool: &str, max: usize, random: &mut Random) -> Vec<TaskMessage> {
        let claim = Claim { pool: pool.into(), worker: self.name(), max, low_first: random.happens(100) };
        let claimed = block_on(self.boundary.queue().claim(claim)).unwrap_or_default();
        let now = self.boundary.now_ms();
        for claimed in &claimed {
            let checked = self.boundary.books().leases.granted(&claimed.task, &self.name(), now);
            if let Err(what) = checked {
                self.boundary.books().violate("keys", what);
            }
        }
        claimed.into_iter().map(|claimed| claimed.task).collect()
    }

    fn take_up(&mut self, task: TaskMessage, random: &mut Random, healed: bool) {
        if !healed && random.happens(15) {
            self.boundary.sometimes.hit("task released before it started");
            let queue = self.boundary.queue();
            let delivery = [task.delivery()];
            let answer = block_on(queue.release(&task.pool, &self.name(), &delivery));
            // The queue of the simulation does not fail under workers; were it to, the lease would end by itself.
            drop(answer);
            if random.happens(400) {
                // It has begun all the same, and says so when another may have the task.
                let manner = Manner { healed, cancelled: false };
                let now = self.boundary.now_ms();
                let started_at = Timestamp::from_millis(now + self.skew_ms).to_rfc3339();
                let result = result::of(&task, &self.name(), started_at, now, manner, random);
                self.late.push((now + 1_000, task.pool, result));
            }
            return;
        }
        let now = self.boundary.now_ms();
        let longest = match task.handler.handler_type.as_str() {
            "sluggish" if !healed => 120_000,
            _ => 4_000,
        };
        let beat_ms = now.saturating_add_unsigned(task.heartbeat_interval_ms);
        let done_ms = now.saturating_add_unsigned(50 + random.below(longest));
        self.jobs.push(Job { task, started_ms: now, done_ms, beat_ms, cancelled: false });
    }

    fn beat(&mut self, random: &mut Random, now: i64) {
        let name = self.name();
        let queue = self.boundary.queue();
        let mut gone = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| job.beat_ms <= now) {
            job.beat_ms = now.saturating_add_unsigned(job.task.heartbeat_interval_ms);
            let delivery = job.task.delivery();
            let extended = block_on(queue.extend(&job.task.pool, &name, std::slice::from_ref(&delivery)));
            let Ok(extended) = extended else { continue };
            if !extended.lost.is_empty() {
                // A good worker stops; a bad one goes on, and its result must be refused or count once.
                if random.happens(500) {
                    gone.push(delivery);
                }
                continue;
            }
            self.boundary.books().leases.extended(&delivery, &name, job.task.lease_ms, now);
            if !extended.cancelled.is_empty() && random.happens(700) {
                self.boundary.sometimes.hit("worker told to cancel");
                job.cancelled = true;
            }
        }
        self.jobs.retain(|job| !gone.contains(&job.task.delivery()));
    }

    fn finish(&mut self, job: &Job, random: &mut Random, healed: bool) {
        let name = self.name();
        let now = self.boundary.now_ms();
        let manner = Manner { healed, cancelled: job.cancelled };
        let started_at = Timestamp::from_millis(job.started_ms + self.skew_ms).to_rfc3339();
        let result = result::of(&job.task, &name, started_at, now, manner, random);
        if result.outcome == flowmonkey_plumbing::wire::Outcome::Released {
            self.boundary.sometimes.hit("task released after it started");
        }
        if healed {
            return self.hand_in(&job.task.pool, result);
        }
        match random.below(100) {
            0..4 => {
                self.boundary.sometimes.hit("result late");
                let due = now.saturating_add_unsigned(random.below(200_000));
                self.late.push((due, job.task.pool.clone(), result));
            }
            4..6 => {
                self.boundary.sometimes.hit("result forged");
                let mut forged = result.clone();
                forged.attempt = if forged.attempt > 1 { forged.attempt - 1 } else { forged.attempt + 1_000 };
                self.report(&job.task.pool, forged);
                self.hand_in(&job.task.pool, result);
            }
            6..8 => {
                self.boundary.sometimes.hit("result lost");
                let dispatched = Dispatched { pool: job.task.pool.clone(), delivery: result.delivery() };
                self.hand_in(&job.task.pool, result);
                self.lose(&dispatched);
            }
            8..11 => {
                self.hand_in(&job.task.pool, result.clone());
                self.late.push((now + 1_500, job.task.pool.clone(), result));
            }
            _ => self.hand_in(&job.task.pool, result),
        }
    }

    fn lose(&self, delivery: &Dispatched) {
        let lost = block_on(self.boundary.queue().drop_deliveries(std::slice::from_ref(delivery)));
        drop(lost);
    }

    fn hand_in(&self, pool: &str, result: ResultMessage) {
        self.boundary.books().leases.handed_in(&result.delivery(), &self.name());
        self.report(pool, result);
    }

    fn report(&self, pool: &str, result: ResultMessage) {
        let refused = block_on(self.boundary.queue().finish(pool, &self.name(), vec![result]));
        if refused.is_ok_and(|refused| !refused.is_empty()) {
            self.boundary.sometimes.hit("worker refused by the queue");
        }
    }
}
