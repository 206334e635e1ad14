//! What breaks.

use std::ops::Range;
use std::time::Duration;

use super::load::Load;
use crate::system::{LEASE_MS, Process, System};

/// How long something stands still, in milliseconds: shorter and longer than a lease.
const PAUSE_MS: Range<u64> = LEASE_MS / 4..LEASE_MS * 2;
/// How long Redis is away, in milliseconds.
const AWAY_MS: Range<u64> = 0..1_000;

/// Choices that a seed repeats (SplitMix64).
pub(super) struct Choices(u64);

impl Choices {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number of the range.
    pub(super) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.within(0..length as u64)).unwrap()
    }

    pub(super) fn shuffled<T: Copy>(&mut self, all: &[T]) -> Vec<T> {
        let mut shuffled = all.to_vec();
        for end in (1..shuffled.len()).rev() {
            let other = self.place(end + 1);
            shuffled.swap(end, other);
        }
        shuffled
    }
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    KillWorker,
    KillEngine,
    PauseWorker,
    PauseEngine,
    FlushAll,
    FlushFunctions,
    RestartRedis,
    TerminateBackends,
    DeleteKey,
    RollWorker,
    RollEngine,
}

impl Fault {
    pub(super) const ALL: [Self; 11] = [
        Self::KillWorker,
        Self::KillEngine,
        Self::PauseWorker,
        Self::PauseEngine,
        Self::FlushAll,
        Self::FlushFunctions,
        Self::RestartRedis,
        Self::TerminateBackends,
        Self::DeleteKey,
        Self::RollWorker,
        Self::RollEngine,
    ];

    /// Lets it happen, and heals it.
    pub(super) async fn strike(self, system: &mut System, choices: &mut Choices, load: &Load) {
        let (worker, engine) = (choices.place(system.workers.len()), choices.place(system.engines.len()));
        let pause = Duration::from_millis(choices.within(PAUSE_MS));
        let away = Duration::from_millis(choices.within(AWAY_MS));
        match self {
            Self::KillWorker => {
                system.workers.remove(worker).kill();
                system.add_worker(&[]).await;
            }
            Self::KillEngine => {
                let mut dead = system.engines.remove(engine);
                load.know(system);
                dead.kill();
                system.add_engine(&[("FLOWMONKEY_LISTEN", address(&dead))]).await;
            }
            Self::PauseWorker => {
                system.workers[worker].pause();
                tokio::time::sleep(pause).await;
                system.workers[worker].resume();
            }
            Self::PauseEngine => {
                system.engines[engine].pause();
                tokio::time::sleep(pause).await;
                system.engines[engine].resume();
            }
            Self::FlushAll => drop(system.redis.command(&["FLUSHALL"]).await),
            Self::FlushFunctions => drop(system.redis.command(&["FUNCTION", "FLUSH"]).await),
            Self::RestartRedis => {
                system.redis.kill();
                tokio::time::sleep(away).await;
                system.redis.restart().await;
            }
            Self::TerminateBackends => system.terminate_backends().await,
            Self::DeleteKey => {
                let key = system.redis.command(&["EVAL", DELETE_RANDOM_KEY, "0"]).await;
                println!("          {key:?}");
            }
            Self::RollWorker => {
                system.add_worker(&[]).await;
                system.workers.remove(worker).stop().await;
            }
            Self::RollEngine => {
                let mut old = system.engines.remove(engine);
                load.know(system);
                old.stop().await;
                system.add_engine(&[("FLOWMONKEY_LISTEN", address(&old))]).await;
            }
        }
        load.know(system);
    }
}

/// Workers know engines by their addresses, and so the next one gets that of the one before.
fn address(engine: &Process) -> &str {
    engine.url.as_deref().unwrap().trim_start_matches("http://")
}

/// Deletes some key and tells which.
const DELETE_RANDOM_KEY: &str =
    "local key = redis.call('RANDOMKEY') if key then redis.call('DEL', key) end return key";
