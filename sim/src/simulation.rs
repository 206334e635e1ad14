//! The simulation: one seed draws what happens next, first with faults, then without them until all has ended.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::{Activity, WaitOn};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::store::{FlowRow, PublishOutcome, Store};
use flowmonkey_plumbing::queue::DispatchQueue;

use crate::books::{Books, Violation};
use crate::boundary::Boundary;
use crate::client::{Answer, Client, Request};
use crate::engines::{Chore, Node};
use crate::executor::block_on;
use crate::plants::Plant;
use crate::random::Random;
use crate::sometimes::Sometimes;
use crate::worker::Worker;
use crate::workload;

/// Rounds of healing after which everything must have ended.
const HEALING_ROUNDS_MAX: u32 = 400;
/// Rounds in which nobody answers waits: what can end by itself does.
const QUIET_ROUNDS: u32 = 12;
/// Virtual milliseconds between rounds of healing.
const HEALING_STEP_MS: i64 = 15_000;
/// Requests of clients between publications.
const REQUESTS_PER_PUBLICATION: u64 = 15;
/// Operations that an engine has under way at a time.
const UNDER_WAY_MAX: usize = 12;

/// How a simulation runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Draws with faults. Default 2,500.
    pub steps: u32,
    /// Engines. Default 3.
    pub engines: usize,
    /// Workers. Default 4.
    pub workers: usize,
    /// The planted fault. Default none.
    pub plant: Option<Plant>,
    /// Prints what happens. Default no.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 2_500, engines: 3, workers: 4, plant: None, trace: false }
    }
}

/// What came of a simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// Starts that were answered.
    pub started: u64,
    /// Executions, children included.
    pub executions: usize,
    /// Executions that have ended.
    pub ended: usize,
    /// Counts of rare paths.
    pub counts: BTreeMap<&'static str, u64>,
    /// Virtual milliseconds that passed.
    pub virtual_ms: i64,
}

/// One simulation.
pub struct Simulation {
    options: Options,
    random: Random,
    boundary: Arc<Boundary>,
    nodes: Vec<Node>,
    workers: Vec<Worker>,
    client: Client,
    operations: u64,
    flows: Vec<Arc<Flow>>,
    requests: u64,
}

impl Simulation {
    /// Runs the simulation of a seed to its end.
    #[must_use]
    pub fn run(seed: u64, options: Options) -> Report {
        let (flows, steps) = workload::flows();
        let sometimes = Arc::new(Sometimes::default());
        let books = Books::new(Arc::new(steps), sometimes.clone());
        let mut random = Random::new(seed);
        let boundary = Arc::new(Boundary::new(random.fork(), books, sometimes, options.plant));
        let began_ms = boundary.now_ms();
        let nodes: Vec<Node> = (0..options.engines).map(|n| Node::open(n, &boundary, &mut random)).collect();
        let workers = (0..options.workers).map(|n| Worker::new(n, &mut random, boundary.clone())).collect();
        let mut simulation = Self {
            options,
            random,
            boundary: boundary.clone(),
            nodes,
            workers,
            client: Client::default(),
            operations: 0,
            flows,
            requests: 0,
        };
        simulation.publish();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            simulation.safety();
            simulation.heal();
        }));
        if let Err(panic) = ran {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            boundary.books().violate("panic", text.unwrap_or_default());
        }
        for node in &simulation.nodes {
            node.note_counters(&boundary);
        }
        let books = boundary.books();
        Report {
            seed,
            violation: books.violation().cloned(),
            started: books.started,
            executions: books.executions.len(),
            ended: books.ended(),
            counts: boundary.sometimes.counts(),
            virtual_ms: boundary.now_ms() - began_ms,
        }
    }

    fn publish(&mut self) {
        for flow in &mut self.flows {
            if self.options.plant == Some(Plant::OneRetryTooMany)
                && let Some(more) = workload::with_more_retries(flow)
            {
                *flow = more;
            }
            let published = block_on(self.nodes[0].engine.publish(flow));
            assert!(published.is_ok(), "nothing fails yet");
        }
    }

    /// Another version of one of the flows, with the same steps, comes from somebody outside.
    fn publish_again(&self, number: u64) {
        let Some(flow) = self.flows.get(number as usize % self.flows.len()) else { return };
        let flow = workload::as_version(flow, number);
        let row = FlowRow {
            id: flow.id.clone(),
            version: flow.version.to_string(),
            hash: flow.hash.clone(),
            status: "published".into(),
            definition: flow.source.clone(),
        };
        let now = Timestamp::from_millis(self.boundary.now_ms());
        let published = block_on(self.boundary.store.publish(None, &row, now));
        assert_eq!(published.ok(), Some(PublishOutcome::Created));
        self.boundary.books().published(&flow.id, number);
    }

    fn is_over(&self) -> bool {
        self.boundary.books().violation().is_some()
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>12} {}", self.boundary.now_ms() % 1_000_000_000_000, line());
        }
    }

    /// First: whatever happens, no promise is broken.
    fn safety(&mut self) {
        self.boundary.set_faulty(true);
        for _ in 0..self.options.steps {
            if self.is_over() {
                return;
            }
            match self.random.below(1000) {
                0..420 => self.move_something(),
                420..620 => self.begin_chore(),
                620..800 => self.act(false),
                800..890 => self.ask(),
                890..985 => self.pass_time(),
                985..989 => {
                    let (flush, restart) = match self.random.below(100) {
                        0..50 => (true, false),
                        50..80 => (true, true),
                        _ => (false, true),
                    };
                    if flush {
                        self.boundary.flush_queue();
                    }
                    if restart {
                        self.boundary.restart_server();
                    }
                    self.trace(|| {
                        format!("the queue is flushed: {flush}, its server starts anew: {restart}")
                    });
                }
                989..994 => {
                    let number = self.random.index(self.nodes.len());
                    self.crash(number);
                }
                994..997 => {
                    let number = self.random.index(self.workers.len());
                    self.workers[number].die();
                    self.trace(|| format!("worker {number} dies"));
                }
                _ => {
                    let number = self.random.index(self.workers.len());
                    let millis = 20_000 + i64::try_from(self.random.below(200_000)).unwrap_or(0);
                    self.workers[number].freeze(millis);
                    self.trace(|| format!("worker {number} freezes for {millis} ms"));
                }
            }
        }
    }

    fn crash(&mut self, number: usize) {
        self.trace(|| format!("engine {number} crashes"));
        let boundary = self.boundary.clone();
        self.nodes[number].crash(&boundary, &mut self.random);
        boundary.set_faulty(true);
    }

    fn pass_time(&mut self) {
        let millis = match self.random.below(100) {
            0..80 => self.random.below(1_500),
            80..98 => self.random.below(12_000),
            _ => {
                self.boundary.sometimes.hit("clock jumped");
                60_000 + self.random.below(600_000)
            }
        };
        self.boundary.clock.advance(i64::try_from(millis).unwrap_or(0));
    }

    fn begin_chore(&mut self) {
        let number = self.random.index(self.nodes.len());
        let chore = match self.random.below(100) {
            0..42 => Chore::Collector,
            42..61 => Chore::Timer,
            61..70 => Chore::Events,
            70..79 => Chore::Reaper,
            79..89 => Chore::Reconciler,
            89..94 => Chore::Sweeper,
            94..99 => Chore::Presence,
            _ => Chore::Pruner,
        };
        self.operations += 1;
        self.nodes[number].begin_chore(chore, self.operations, &self.boundary);
        let last = self.nodes[number].busy();
        self.step(number, last.saturating_sub(1));
    }

    fn ask(&mut self) {
        let number = self.random.index(self.nodes.len());
        if self.nodes[number].busy() >= UNDER_WAY_MAX {
            return;
        }
        self.requests += 1;
        if self.requests.is_multiple_of(REQUESTS_PER_PUBLICATION) {
            self.publish_again(self.requests / REQUESTS_PER_PUBLICATION);
        }
        let request = self.client.request(&self.boundary, &mut self.random);
        self.begin_request(number, request);
    }

    fn begin_request(&mut self, number: usize, request: Request) {
        self.operations += 1;
        self.nodes[number].begin_request(request, self.operations);
        let last = self.nodes[number].busy();
        self.step(number, last.saturating_sub(1));
    }

    fn move_something(&mut self) {
        let number = self.random.index(self.nodes.len());
        for _ in 0..4 {
            let busy = self.nodes[number].busy();
            if busy > 0 {
                let place = self.random.index(busy);
                self.step(number, place);
            }
        }
    }

    fn step(&mut self, number: usize, place: usize) {
        let Some((what, answer)) = self.nodes[number].step(place, &self.boundary) else { return };
        self.trace(|| format!("{what}: {answer:?}"));
        match answer {
            Answer::Started(flow, key, latest, started) => {
                self.boundary.books().started(&flow, key.as_deref(), &started);
                self.boundary.books().started_latest(latest, &started);
            }
            Answer::Accepted(id, cancels) => {
                self.boundary.books().accepted += 1;
                if cancels {
                    self.boundary.books().cancel_accepted(id);
                }
            }
            Answer::Rerun(started) => {
                self.boundary.sometimes.hit("rerun");
                self.boundary.books().started("", None, &started);
            }
            Answer::Nothing(_) => {}
        }
    }

    fn act(&mut self, healed: bool) {
        let number = self.random.index(self.workers.len());
        let did = self.workers[number].act(&mut self.random, healed);
        if !did.is_empty() {
            self.trace(|| format!("worker {number} {did}"));
        }
    }

    /// Then: without faults, everything ends within a bound of virtual time.
    fn heal(&mut self) {
        self.boundary.set_faulty(false);
        self.finish_operations();
        self.workers.iter_mut().for_each(Worker::thaw);
        let store = self.boundary.store.dump();
        self.boundary.books().audit(&store);
        for round in 0..HEALING_ROUNDS_MAX {
            if self.is_over() {
                return;
            }
            for number in 0..self.nodes.len() {
                for chore in Chore::ALL {
                    self.operations += 1;
                    self.nodes[number].begin_chore(*chore, self.operations, &self.boundary);
                    self.finish_operations();
                }
            }
            for worker in &mut self.workers {
                let did = worker.act(&mut self.random, true);
                if self.options.trace && !did.is_empty() {
                    println!("{:>12} a worker {did}", self.boundary.now_ms() % 1_000_000_000_000);
                }
            }
            let open: Vec<ExecutionId> = {
                let books = self.boundary.books();
                let open = books.executions.iter().filter(|(_, book)| !book.state.is_terminal());
                open.map(|(id, _)| *id).collect()
            };
            let idle = block_on(self.boundary.queue().is_idle()).unwrap_or(false);
            if open.is_empty() && idle && self.unsettled_pools().is_empty() {
                break;
            }
            if round >= QUIET_ROUNDS {
                open.into_iter().for_each(|id| self.help(id));
            }
            self.boundary.clock.advance(HEALING_STEP_MS);
        }
        let store = self.boundary.store.dump();
        let idle = block_on(self.boundary.queue().is_idle()).unwrap_or(false);
        let unsettled = self.unsettled_pools();
        let mut books = self.boundary.books();
        books.audit(&store);
        books.audit_ends();
        if !unsettled.is_empty() {
            books.violate("generations", format!("these pools are not settled: {unsettled:?}"));
        }
        if !idle {
            books.violate("progress", "the queue is not empty".into());
        }
    }

    /// Pools that got tasks since faults ended, and whose queues do not have the record's generation.
    fn unsettled_pools(&self) -> Vec<String> {
        let mut pools = self.boundary.healed_pools();
        let found = block_on(self.boundary.queue().generations(&pools)).unwrap_or_default();
        let rows = self.boundary.store.dump();
        let mut wanted = pools.iter().map(|pool| rows.pools.get(pool).map(|(generation, _)| *generation));
        let settled: Vec<bool> =
            found.into_iter().map(|found| found.is_some() && Some(found) == wanted.next()).collect();
        let mut place = 0..;
        pools.retain(|_| place.next().and_then(|place| settled.get(place)) != Some(&true));
        pools
    }

    fn finish_operations(&mut self) {
        for number in 0..self.nodes.len() {
            // Each in turn: one may wait for what another is doing.
            while self.nodes[number].busy() > 0 {
                for place in (0..self.nodes[number].busy()).rev() {
                    self.step(number, place);
                }
            }
        }
    }

    /// Answers whatever an execution waits for.
    fn help(&mut self, id: ExecutionId) {
        let Some(state) = self.boundary.books().executions.get(&id).map(|book| book.state.clone()) else {
            return;
        };
        let request = match (state.status(), &state.activity) {
            (Status::Paused, _) => Request::Command(id, Command::Unpause),
            (_, Activity::Incident(_)) => Request::Command(id, Command::Retry { by: None }),
            (_, Activity::Wait(wait)) => match &wait.on {
                WaitOn::Signal { signal } | WaitOn::Approval { signal, .. } => {
                    self.client.signal(id, signal, true, "on")
                }
                WaitOn::Event { event } => self.client.event(event, 7, self.boundary.now_ms()),
                WaitOn::Handler { event: Some(event), .. } => {
                    self.client.event(&event.name, 7, self.boundary.now_ms())
                }
                WaitOn::Handler { token: Some(token), .. } => {
                    Request::Command(id, Command::ResumeByToken { token: token.clone(), data: None })
                }
                WaitOn::Timer { .. } | WaitOn::Handler { token: None, .. } => return,
            },
            _ => return,
        };
        self.begin_request(0, request);
        self.finish_operations();
    }
}
