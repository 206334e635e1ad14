//! Engines over one record and one queue, and what they have under way.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use flowmonkey_core::execution::Handlers;
use flowmonkey_core::execution::state::StackPageLimits;
use flowmonkey_engine::chores::collector::Collector;
use flowmonkey_engine::chores::{events, leftovers, presence, pruner, reaper, reconciler, sweeper, timer};
use flowmonkey_engine::engine::{EngineDeps, EngineError};
use flowmonkey_engine::{Engine, EngineConfig};

use crate::boundary::Boundary;
use crate::client::{self, Answer, Request};
use crate::executor;
use crate::queue::SimQueue;
use crate::random::{Random, SeededEntropy};
use crate::store::SimStore;
use crate::workload::POOLS;

/// How long workers have to re-assert what they run when the queue was emptied.
pub const REBUILD_GRACE: Duration = Duration::from_secs(3);

/// What a parent takes over of its children's stacks at a time: little, so that the ends of pages are met.
const STACK_PAGE: StackPageLimits = StackPageLimits { entries: 2, bytes: 4096 };

/// A chore of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Results.
    Collector,
    /// What is due.
    Timer,
    /// Published events.
    Events,
    /// Ended leases.
    Reaper,
    /// Queue versus record.
    Reconciler,
    /// Fan-outs.
    Sweeper,
    /// What follows from commits and could not be done.
    Leftovers,
    /// What has passed its retention.
    Pruner,
    /// Signs of life, and results of engines that have died.
    Presence,
}

impl Chore {
    /// All of them; results and timers have most to do.
    pub const ALL: &[Self] = &[
        Self::Collector,
        Self::Timer,
        Self::Events,
        Self::Reaper,
        Self::Reconciler,
        Self::Sweeper,
        Self::Leftovers,
        Self::Pruner,
        Self::Presence,
    ];
}

type Future = Pin<Box<dyn std::future::Future<Output = Answer> + Send>>;

/// Something that an engine has under way.
struct Operation {
    number: u64,
    chore: Option<Chore>,
    what: String,
    future: Future,
}

/// One engine.
pub struct Node {
    /// The engine itself.
    pub engine: Arc<Engine>,
    name: String,
    number: usize,
    /// Names that it has had.
    lives: u32,
    collector: Arc<Mutex<Option<Collector>>>,
    operations: Vec<Operation>,
}

struct Known;

impl Handlers for Known {
    fn is_stateful(&self, handler_type: &str) -> bool {
        handler_type == "batcher"
    }

    fn any_stateful(&self) -> bool {
        true
    }

    fn accepts(&self, handler_type: &str) -> bool {
        POOLS.contains(&handler_type)
    }

    fn timeout_ms(&self, _handler_type: &str) -> Option<u64> {
        None
    }
}

impl Node {
    /// Opens the engine with this number for the first time.
    ///
    /// # Panics
    /// When the record cannot be read, though nothing fails while engines open.
    #[must_use]
    pub fn open(number: usize, boundary: &Arc<Boundary>, random: &mut Random) -> Self {
        Self::reopen(number, 1, boundary, random)
    }

    fn reopen(number: usize, lives: u32, boundary: &Arc<Boundary>, random: &mut Random) -> Self {
        let name = format!("engine-{number}-{lives}");
        let deps = EngineDeps {
            store: Arc::new(SimStore(boundary.clone())),
            queue: Arc::new(SimQueue(boundary.clone())),
            clock: boundary.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(random.fork())),
            handlers: Arc::new(Known),
            announced: None,
        };
        let config = EngineConfig {
            engine_id: name.clone(),
            shares_record: true,
            rebuild_grace: REBUILD_GRACE,
            stack_page: STACK_PAGE,
            // Chance says when.
            reconcile_every: Duration::ZERO,
            ..EngineConfig::default()
        };
        // Opening is tried again until it works; here it works at once.
        boundary.set_faulty(false);
        let engine = executor::block_on(Engine::open(deps, config, None));
        let engine = engine.unwrap_or_else(|error| panic!("{name} does not open: {error}"));
        Self { engine, name, number, lives, collector: Arc::default(), operations: Vec::new() }
    }

    /// How much is under way.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.operations.len()
    }

    /// Begins a chore's tick, unless one is under way.
    pub fn begin_chore(&mut self, chore: Chore, number: u64, boundary: &Arc<Boundary>) {
        if self.operations.iter().any(|operation| operation.chore == Some(chore)) {
            return;
        }
        let engine = self.engine.clone();
        let collector = self.collector.clone();
        let boundary = boundary.clone();
        let future = Box::pin(async move {
            match tick(chore, &engine, &collector, &boundary).await {
                Ok(did) => Answer::Nothing(did),
                Err(error) => Answer::Nothing(error.to_string()),
            }
        });
        self.operations.push(Operation { number, chore: Some(chore), what: format!("{chore:?}"), future });
    }

    /// Begins a client's request.
    pub fn begin_request(&mut self, request: Request, number: u64) {
        let what = match &request {
            Request::Start(_, flow, key, _) => format!("start {flow} {key:?}"),
            Request::Command(..) | Request::Publish(_) | Request::Rerun(..) => format!("{request:?}"),
        };
        let future = Box::pin(client::send(self.engine.clone(), request));
        self.operations.push(Operation { number, chore: None, what, future });
    }

    /// Moves what is under way at `place` by one step. What it was, and what came of it when it has ended.
    pub fn step(&mut self, place: usize, boundary: &Boundary) -> Option<(String, Answer)> {
        let operation = self.operations.get_mut(place)?;
        boundary.set_current(operation.number);
        let Poll::Ready(answer) = executor::step(operation.future.as_mut()) else { return None };
        let operation = self.operations.swap_remove(place);
        boundary.take_progress(operation.number);
        Some((format!("{} {}", self.name, operation.what), answer))
    }

    /// Dies with everything that it has in memory or under way, and comes back, sometimes under another name.
    pub fn crash(&mut self, boundary: &Arc<Boundary>, random: &mut Random) {
        for operation in self.operations.drain(..) {
            let progress = boundary.take_progress(operation.number);
            let collects = operation.chore == Some(Chore::Collector);
            if progress.published && collects && !progress.acknowledged {
                boundary.sometimes.hit("crash after a publication and before the acknowledgement");
            } else if progress.committed {
                boundary.sometimes.hit("crash after a commit and before its publication");
            } else if progress.committing {
                boundary.sometimes.hit("crash before a commit");
            }
        }
        self.note_counters(boundary);
        let lives = self.lives + u32::from(random.happens(500));
        *self = Self::reopen(self.number, lives, boundary, random);
    }

    /// Adds what the engine counted to the counts of the simulation.
    pub fn note_counters(&self, boundary: &Boundary) {
        let counters = &self.engine.counters;
        for (path, counter) in [
            ("result refused as stale", &counters.results_refused),
            ("task republished", &counters.republished),
            ("fan-out repaired by the sweeper", &counters.late_joins),
            ("results of a dead engine adopted", &counters.results_adopted),
        ] {
            match counter.swap(0, Ordering::SeqCst) {
                0 => {}
                count => boundary.sometimes.hits(path, count),
            }
        }
    }
}

async fn tick(
    chore: Chore,
    engine: &Engine,
    collector: &Mutex<Option<Collector>>,
    boundary: &Boundary,
) -> Result<String, EngineError> {
    Ok(match chore {
        Chore::Collector => {
            let held = collector.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut held = held.unwrap_or_default();
            let collected = held.tick(engine).await;
            *collector.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
            format!("{:?}", collected?)
        }
        Chore::Timer => format!("{:?}", timer::tick(engine).await?),
        Chore::Events => format!("{:?}", events::tick(engine).await?),
        Chore::Reaper => format!("{:?}", reaper::tick(engine).await?),
        Chore::Reconciler => {
            let looked = reconciler::look(engine, &mut None).await?;
            if looked.is_none() {
                boundary.sometimes.hit("comparison left to the engine whose turn it is");
            }
            format!("{looked:?}")
        }
        Chore::Sweeper => format!("{:?}", sweeper::tick(engine).await?),
        Chore::Leftovers => {
            let finished = leftovers::tick(engine).await?;
            if finished.done > 0 {
                boundary.sometimes.hit("what could not be done after a commit was done later");
            }
            format!("{finished:?}")
        }
        Chore::Pruner => format!("{:?}", pruner::tick(engine).await?),
        Chore::Presence => format!("{:?}", presence::tick(engine).await?),
    })
}
