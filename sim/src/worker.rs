//! A simulated worker: claims, works for a drawn time, reports; freezes, dies, comes back as a zombie, lies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::queue::{Claim, Delivery, DispatchQueue, Dispatched, Lease, LocalQueue, TaskQueue};
use flowmonkey_plumbing::wire::{ResultMessage, TaskMessage};

use crate::boundary::Boundary;
use crate::executor::block_on;
use crate::plants::Plant;
use crate::random::Random;
use crate::result::{self, Manner};
use crate::workload::POOLS;

/// Tasks that a worker holds at a time.
const JOBS_MAX: usize = 4;
/// Attempts after that of a worker among which newer ones are looked for.
const NEWER_ATTEMPTS_MAX: u32 = 16;

struct Job {
    task: TaskMessage,
    started_ms: i64,
    done_ms: i64,
    beat_ms: i64,
    hard_end_ms: i64,
    cancelled: bool,
}

/// Later attempts of the task that the queue has.
fn newer_in(queue: &LocalQueue, task: &TaskMessage) -> Vec<Dispatched> {
    let attempts = task.attempt + 1..=task.attempt + NEWER_ATTEMPTS_MAX;
    let delivery = |attempt| Delivery { task_id: task.task_id.clone(), attempt };
    let newer: Vec<Dispatched> =
        attempts.map(|attempt| Dispatched { pool: task.pool.clone(), delivery: delivery(attempt) }).collect();
    let present = block_on(queue.present(&newer)).unwrap_or_default();
    newer.into_iter().zip(present).filter(|(_, present)| *present).map(|(newer, _)| newer).collect()
}

/// A simulated worker.
pub struct Worker {
    number: usize,
    life: u32,
    jobs: Vec<Job>,
    /// Results that it reports later than it could.
    late: Vec<(i64, String, ResultMessage)>,
    /// The generation of each pool, as last seen.
    generations: BTreeMap<String, u64>,
    frozen_until_ms: i64,
    skew_ms: i64,
    boundary: Arc<Boundary>,
}

impl Worker {
    /// The worker with this number.
    #[must_use]
    pub fn new(number: usize, random: &mut Random, boundary: Arc<Boundary>) -> Self {
        let skew_ms = i64::try_from(random.below(120_000)).unwrap_or(0) - 60_000;
        Self {
            number,
            life: 1,
            jobs: Vec::new(),
            late: Vec::new(),
            generations: BTreeMap::new(),
            frozen_until_ms: 0,
            skew_ms,
            boundary,
        }
    }

    fn name(&self) -> String {
        format!("worker-{}.{}", self.number, self.life)
    }

    /// Loses everything, and comes back under another name.
    pub fn die(&mut self) {
        self.boundary.sometimes.hit("worker died");
        self.jobs.clear();
        self.late.clear();
        self.generations.clear();
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

    fn claim(&mut self, pool: &str, max: usize, random: &mut Random) -> Vec<TaskMessage> {
        let claim = Claim { pool: pool.into(), worker: self.name(), max, low_first: random.happens(100) };
        let claimed = block_on(self.boundary.queue().claim(claim)).unwrap_or_default();
        let now = self.boundary.now_ms();
        for claimed in &claimed {
            let checked = self.boundary.books().leases.granted(&claimed.task, &self.name(), now);
            if let Err(what) = checked {
                self.boundary.books().violate("keys", what);
            }
        }
        if let Some(generation) = claimed.first().map(|claimed| claimed.generation)
            && self.sees(pool, generation)
        {
            self.reassert(pool, random);
        }
        claimed.into_iter().map(|claimed| claimed.task).collect()
    }

    /// Notes the generation of a pool. True: it is another than before, and the queue may have forgotten leases.
    fn sees(&mut self, pool: &str, generation: u64) -> bool {
        self.generations.insert(pool.to_owned(), generation).is_some_and(|before| before != generation)
    }

    /// Tells the queue what it runs of a pool.
    fn reassert(&mut self, pool: &str, random: &mut Random) {
        let (name, now, queue) = (self.name(), self.boundary.now_ms(), self.boundary.queue());
        let mut gone = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| job.task.pool == pool) {
            let delivery = job.task.delivery();
            let remaining_ms = u64::try_from(job.hard_end_ms - now).unwrap_or(0);
            let lease = Lease { delivery: delivery.clone(), lease_ms: job.task.lease_ms, remaining_ms };
            let newer = newer_in(&queue, &job.task);
            // A lease that the queue still has is extended: the reaper is about to end it.
            let is_there =
                block_on(queue.present(&[job.task.dispatched()])).is_ok_and(|found| found == [true]);
            if self.boundary.plant == Some(Plant::ReassertedOverNewer) {
                let dropped = block_on(queue.drop_deliveries(&newer));
                drop(dropped);
            }
            let Ok(answer) = block_on(queue.reassert(pool, &name, &[lease])) else { continue };
            if !answer.lost.is_empty() {
                if !newer.is_empty() {
                    self.boundary.sometimes.hit("lease not re-asserted over a newer attempt");
                }
                if random.happens(500) {
                    gone.push(delivery);
                }
                continue;
            }
            self.boundary.sometimes.hit("lease re-asserted");
            if !newer.is_empty() && !is_there {
                let what = format!("{delivery} is {name}'s again, though there is {newer:?}");
                self.boundary.books().violate("fence", what);
            }
            self.boundary.books().leases.extended(&delivery, &name, job.task.lease_ms, now);
            job.cancelled |= !answer.cancelled.is_empty();
        }
        self.jobs.retain(|job| !gone.contains(&job.task.delivery()));
    }

    fn take_up(&mut self, task: TaskMessage, random: &mut Random, healed: bool) {
        if !healed && random.happens(15) {
            self.boundary.sometimes.hit("task released before it started");
            let queue = self.boundary.queue();
            let delivery = [task.delivery()];
            self.boundary.books().leases.given_up(&delivery[0], &self.name());
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
        let hard_end_ms = now.saturating_add_unsigned(task.remaining_ms);
        self.jobs.push(Job { task, started_ms: now, done_ms, beat_ms, hard_end_ms, cancelled: false });
    }

    fn beat(&mut self, random: &mut Random, now: i64) {
        let name = self.name();
        let queue = self.boundary.queue();
        let mut gone = Vec::new();
        let mut changed = BTreeSet::new();
        for job in self.jobs.iter_mut().filter(|job| job.beat_ms <= now) {
            job.beat_ms = now.saturating_add_unsigned(job.task.heartbeat_interval_ms);
            let delivery = job.task.delivery();
            let extended = block_on(queue.extend(&job.task.pool, &name, std::slice::from_ref(&delivery)));
            let Ok(extended) = extended else { continue };
            let before = self.generations.insert(job.task.pool.clone(), extended.generation);
            if before.is_some_and(|before| before != extended.generation) {
                changed.insert(job.task.pool.clone());
            }
            if !extended.lost.is_empty() && changed.contains(&job.task.pool) {
                // The queue has forgotten it, which says nothing.
                continue;
            }
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
        for pool in changed {
            self.reassert(&pool, random);
        }
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
        if result.run_again {
            self.boundary.sometimes.hit("handler paused");
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
