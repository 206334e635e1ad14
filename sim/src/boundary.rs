//! What all parts of a simulation share: chance, time, books, and where faults strike.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowmonkey_engine::store::MemoryStore;
use flowmonkey_plumbing::clock::Clock;
use flowmonkey_plumbing::queue::{LocalQueue, LocalQueueLimits};

use crate::books::Books;
use crate::clock::VirtualClock;
use crate::executor::GiveWay;
use crate::plants::Plant;
use crate::random::Random;
use crate::sometimes::Sometimes;

/// Of a thousand calls, so many give way before they take effect, and as many afterwards.
const GIVES_WAY: u64 = 250;
/// Of a thousand calls, so many fail before they take effect, and as many afterwards.
const FAILS: u64 = 8;
/// Milliseconds without a sign of life after which an engine is taken for dead.
const ENGINE_SILENT_MS: i64 = 20_000;

/// How far an operation of an engine has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// It has stored something.
    pub committed: bool,
    /// It has published something since.
    pub published: bool,
    /// It has let the queue forget what it took.
    pub acknowledged: bool,
    /// It is about to store something.
    pub committing: bool,
}

/// What all parts of a simulation share.
pub struct Boundary {
    /// The time.
    pub clock: Arc<VirtualClock>,
    /// The planted fault.
    pub plant: Option<Plant>,
    /// The record behind the faults.
    pub store: MemoryStore,
    /// Counts of rare paths.
    pub sometimes: Arc<Sometimes>,
    books: Mutex<Books>,
    random: Mutex<Random>,
    queue: Mutex<Arc<LocalQueue>>,
    /// Servers of the queue so far.
    servers: AtomicU64,
    /// When the queue heard of which engine.
    heard: Mutex<BTreeMap<String, i64>>,
    /// Pools that got tasks since faults ended.
    healed_pools: Mutex<BTreeSet<String>>,
    faulty: AtomicBool,
    current: AtomicU64,
    progress: Mutex<BTreeMap<u64, Progress>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Boundary {
    /// A simulation's beginning: an empty record and an empty queue.
    #[must_use]
    pub fn new(random: Random, books: Books, sometimes: Arc<Sometimes>, plant: Option<Plant>) -> Self {
        let clock = Arc::new(VirtualClock::default());
        Self {
            queue: Mutex::new(Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()))),
            clock,
            plant,
            store: MemoryStore::default(),
            sometimes,
            books: Mutex::new(books),
            random: Mutex::new(random),
            servers: AtomicU64::new(1),
            heard: Mutex::default(),
            healed_pools: Mutex::default(),
            faulty: AtomicBool::new(false),
            current: AtomicU64::new(0),
            progress: Mutex::default(),
        }
    }

    /// The books.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        locked(&self.books)
    }

    /// The queue as it is now.
    #[must_use]
    pub fn queue(&self) -> Arc<LocalQueue> {
        locked(&self.queue).clone()
    }

    /// Empties the whole queue, leases, results and generations included.
    pub fn flush_queue(&self) {
        *locked(&self.queue) = Arc::new(LocalQueue::new(self.clock.clone(), LocalQueueLimits::default()));
        locked(&self.heard).clear();
        self.books().leases.forgotten(self.now_ms());
        self.sometimes.hit("queue flushed");
    }

    /// The server of the queue is started anew; what it holds stays.
    pub fn restart_server(&self) {
        self.servers.fetch_add(1, Ordering::SeqCst);
        self.sometimes.hit("server of the queue changed");
    }

    /// Names the server of the queue as it runs.
    #[must_use]
    pub fn server_id(&self) -> String {
        format!("server-{}", self.servers.load(Ordering::SeqCst))
    }

    /// Notes that an engine lives; forgets those that have been silent for too long, and names them.
    pub fn engine_lives(&self, engine: &str) -> Vec<String> {
        let now = self.now_ms();
        let mut heard = locked(&self.heard);
        heard.insert(engine.to_owned(), now);
        heard.extract_if(.., |_, at| *at + ENGINE_SILENT_MS <= now).map(|(engine, _)| engine).collect()
    }

    /// Notes that pools got tasks.
    pub fn tasks_pushed<'a>(&self, pools: impl IntoIterator<Item = &'a str>) {
        if !self.faulty.load(Ordering::SeqCst) {
            locked(&self.healed_pools).extend(pools.into_iter().map(ToOwned::to_owned));
        }
    }

    /// Pools that got tasks since faults ended.
    #[must_use]
    pub fn healed_pools(&self) -> Vec<String> {
        locked(&self.healed_pools).iter().cloned().collect()
    }

    /// Turns faults on or off.
    pub fn set_faulty(&self, faulty: bool) {
        self.faulty.store(faulty, Ordering::SeqCst);
    }

    /// Whether something with this probability, in a thousand, goes wrong now.
    pub fn goes_wrong(&self, per_mille: u64) -> bool {
        self.faulty.load(Ordering::SeqCst) && locked(&self.random).happens(per_mille)
    }

    /// A draw of `0..end`.
    pub fn draw(&self, end: usize) -> usize {
        locked(&self.random).index(end)
    }

    /// Virtual milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Before a call takes effect: others may move, the call may fail. True: it fails.
    pub async fn before(&self) -> bool {
        if self.goes_wrong(GIVES_WAY) {
            GiveWay::default().await;
        }
        self.goes_wrong(FAILS)
    }

    /// After a call has taken effect: others may move, its answer may get lost. True: it is lost.
    pub async fn after(&self) -> bool {
        if self.goes_wrong(GIVES_WAY) {
            GiveWay::default().await;
        }
        self.goes_wrong(FAILS)
    }

    /// The operation that moves from here on.
    pub fn set_current(&self, operation: u64) {
        self.current.store(operation, Ordering::SeqCst);
    }

    /// Notes how far the operation that moves has come.
    pub fn note_progress(&self, note: impl FnOnce(&mut Progress)) {
        let current = self.current.load(Ordering::SeqCst);
        note(locked(&self.progress).entry(current).or_default());
    }

    /// How far an operation has come; forgets it.
    pub fn take_progress(&self, operation: u64) -> Progress {
        locked(&self.progress).remove(&operation).unwrap_or_default()
    }
}
