//! The chores of the engine, one file each. A chore is a `tick` that does its work once and says what it did, and a loop
//! round it. Any number of engines may run them at once: each is idempotent, and none needs a leader for correctness.

pub mod audit;
pub mod collector;
pub mod controls;
pub mod events;
pub mod fall_back;
pub mod jobs;
pub mod leftovers;
pub mod objects;
pub mod operations;
pub(crate) mod patches;
pub mod presence;
pub mod progress;
pub mod pruner;
pub mod reaper;
pub mod reconciler;
pub mod sweeper;
pub mod timer;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, EngineError};

/// First pause after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause after failures.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Time between looks at what could not be done: connections to the record are made anew within that time.
const LEFTOVERS_EVERY: Duration = Duration::from_millis(250);

/// Time between looks at what people have paused and archived.
const CONTROLS_EVERY: Duration = Duration::from_secs(1);

/// Time between looks for operations on many executions.
const OPERATIONS_EVERY: Duration = Duration::from_secs(1);
/// How long the operations are one engine's: longer than a batch of each takes.
const OPERATIONS_TURN: Duration = Duration::from_secs(15);

/// A turn outlives so many pauses of its holder.
const TURN_PAUSES: u32 = 2;

/// Runs all chores until `shutdown`.
pub fn spawn_all(engine: &Arc<Engine>, tracker: &TaskTracker, shutdown: &CancellationToken) {
    let chore =
        |name: &'static str| Chore { name, engine: engine.clone(), shutdown: shutdown.clone(), turn: None };
    let config = engine.config();
    let turns = Arc::default();
    for number in 0..config.collectors.max(1) {
        tracker.spawn(collector::run(chore("collector"), number, Arc::clone(&turns)));
    }
    tracker.spawn(timer::run(chore("timer")));
    tracker.spawn(events::run(chore("events")));
    tracker.spawn(webhooks::run(chore("webhooks")));
    tracker.spawn(progress::run(chore("progress")));
    tracker.spawn(chore("reaper").every(config.reap_every, reaper::tick));
    tracker.spawn(reconciler::run(chore("reconciler")));
    tracker.spawn(chore("presence").every(config.presence_every, presence::tick));
    tracker.spawn(chore("leftovers").every(LEFTOVERS_EVERY, leftovers::tick));
    tracker.spawn(chore("controls").every(CONTROLS_EVERY, controls::tick));
    tracker.spawn(chore("fall-back").every(config.presence_every, fall_back::tick));
    tracker.spawn(chore("sweeper").in_turn().every(config.sweep_every, sweeper::tick));
    tracker.spawn(chore("jobs").in_turn().every(config.jobs_every, jobs::tick));
    tracker.spawn(chore("pruner").in_turn().every(config.prune_every, pruner::tick));
    let operations = chore("operations").in_turn_of(OPERATIONS_TURN);
    tracker.spawn(operations.every(OPERATIONS_EVERY, operations::tick));
    tracker.spawn(chore("audit").in_turn().every(config.seal_audit_every, audit::tick));
    if config.objects.is_some() {
        tracker.spawn(chore("objects").in_turn().every(config.collect_objects_every, objects::tick));
    }
}

/// What a chore's loop has at hand.
pub(crate) struct Chore {
    name: &'static str,
    pub(crate) engine: Arc<Engine>,
    pub(crate) shutdown: CancellationToken,
    /// Whether only one of several engines does it at a time, and for how long at least.
    turn: Option<Duration>,
}

impl Chore {
    /// Runs `tick` at once, and then again and again: at once while it has work left, else after `pause`.
    async fn every<P: std::fmt::Debug + HasMore>(
        self,
        pause: Duration,
        tick: impl AsyncFn(&Engine) -> Result<P, EngineError>,
    ) {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            let is_ours = match self.turn {
                None => true,
                Some(least) => {
                    let turn = self.engine.has_turn(self.name, least.max(pause * TURN_PAUSES)).await;
                    // Whether it is our turn shows when the record is back.
                    turn.unwrap_or(false)
                }
            };
            if !is_ours {
                self.rest(pause).await;
                continue;
            }
            let rest = match tick(&self.engine).await {
                Ok(progress) => {
                    backoff = Backoff::default();
                    tracing::trace!(chore = self.name, ?progress, "tick finished");
                    if progress.has_more() { Duration::ZERO } else { pause }
                }
                Err(error) => backoff.failed(self.name, &error),
            };
            self.rest(rest).await;
        }
    }

    /// Only one of several engines does it at a time, for all.
    const fn in_turn(self) -> Self {
        self.in_turn_of(Duration::ZERO)
    }

    /// As [`Self::in_turn`], for at least so long.
    const fn in_turn_of(mut self, least: Duration) -> Self {
        self.turn = Some(least);
        self
    }

    /// Rests, unless it is time to stop.
    pub(crate) async fn rest(&self, rest: Duration) {
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }
}

/// Whether a chore has work left that it can do at once.
pub(crate) trait HasMore {
    fn has_more(&self) -> bool;
}

/// Pauses that grow while a chore fails.
#[derive(Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a failure; how long to rest.
    pub(crate) fn failed(&mut self, chore: &'static str, error: &EngineError) -> Duration {
        let rest = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(self.failures.min(16))).min(BACKOFF_MAX);
        self.failures += 1;
        tracing::warn!(chore, %error, rest_ms = rest.as_millis(), "a chore failed and will try again");
        rest
    }
}
