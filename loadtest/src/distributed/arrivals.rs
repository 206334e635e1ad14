//! Arrivals: executions are started whatever becomes of those before, and nobody waits for their ends over HTTP. When they ended
//! is read from the record afterwards. Each start names its execution, so that one whose answer got lost can be repeated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use flowmonkey_plumbing::ids::{SystemEntropy, new_uuid};
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::load::due_after;
use crate::system::System;

/// A start that has no answer by then is repeated, elsewhere if there is an elsewhere.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Before a start is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

/// What arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The flow.
    pub(super) flow: &'static str,
    /// Executions a second; none: each as soon as there is room.
    pub(super) rate: Option<f64>,
    /// Executions that there is room for at first.
    pub(super) room: Option<usize>,
    /// Connections.
    pub(super) clients: usize,
}

/// Arrivals that go on.
pub(super) struct Arrivals {
    shared: Arc<Shared>,
    clients: JoinSet<Result<Vec<(ExecutionId, i64)>>>,
}

struct Shared {
    plan: Plan,
    addresses: Vec<SocketAddr>,
    tracker: TaskTracker,
    begins: Instant,
    begins_ms: i64,
    /// Closed: nothing more is started.
    room: Semaphore,
    stop: AtomicBool,
    started: AtomicU64,
    repeated: AtomicU64,
}

/// What was started.
pub(super) struct Book {
    /// When each was due.
    pub(super) due_ms: BTreeMap<ExecutionId, i64>,
    /// Starts that had to be asked for again.
    pub(super) repeated: u64,
}

impl Book {
    /// The ids.
    pub(super) fn ids(&self) -> BTreeSet<ExecutionId> {
        self.due_ms.keys().copied().collect()
    }
}

impl Arrivals {
    /// Begins.
    pub(super) fn begin(system: &System, plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            plan,
            addresses: system.addresses(),
            tracker: system.tracker.clone(),
            begins: Instant::now(),
            begins_ms: SystemClock.now_ms(),
            room: Semaphore::new(plan.room.unwrap_or(Semaphore::MAX_PERMITS)),
            stop: AtomicBool::new(false),
            started: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        });
        let mut clients = JoinSet::new();
        for number in 0..plan.clients {
            clients.spawn(shared.clone().keep_starting(number));
        }
        Self { shared, clients }
    }

    /// Starts that were answered.
    pub(super) fn started(&self) -> u64 {
        self.shared.started.load(Ordering::SeqCst)
    }

    /// There is room for more.
    pub(super) fn make_room(&self, executions: usize) {
        self.shared.room.add_permits(executions);
    }

    /// Starts no more; what was started.
    ///
    /// # Errors
    /// When a start was refused.
    pub(super) async fn end(mut self) -> Result<Book> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.room.close();
        let mut due_ms = BTreeMap::new();
        while let Some(client) = self.clients.join_next().await {
            due_ms.extend(client??);
        }
        Ok(Book { due_ms, repeated: self.shared.repeated.load(Ordering::SeqCst) })
    }
}

impl Shared {
    async fn keep_starting(self: Arc<Self>, number: usize) -> Result<Vec<(ExecutionId, i64)>> {
        let entropy = SystemEntropy::new();
        let (mut client, mut engine) = (None, number);
        let mut started = Vec::new();
        let mut next = number as u64;
        loop {
            let mut due_ms = None;
            if let Some(rate) = self.plan.rate {
                let after = due_after(next, rate);
                sleep_until(self.begins + after).await;
                due_ms = Some(self.begins_ms + i64::try_from(after.as_millis())?);
            }
            let Ok(room) = self.room.acquire().await else { return Ok(started) };
            room.forget();
            if self.stop.load(Ordering::SeqCst) {
                return Ok(started);
            }
            let id = ExecutionId::from_uuid(new_uuid(&SystemClock, &entropy));
            let due_ms = due_ms.unwrap_or_else(|| SystemClock.now_ms());
            self.start(&mut client, &mut engine, id, next).await?;
            started.push((id, due_ms));
            self.started.fetch_add(1, Ordering::SeqCst);
            next += self.plan.clients as u64;
        }
    }

    /// Asks until some engine says that the execution is there.
    async fn start(
        &self,
        client: &mut Option<Client>,
        engine: &mut usize,
        id: ExecutionId,
        number: u64,
    ) -> Result<()> {
        let flow = self.plan.flow;
        let body = format!(r#"{{"flowId":"{flow}","executionId":"{id}","input":{{"n":{number}}}}}"#);
        let body = Bytes::from(body);
        loop {
            match timeout(ANSWER_WITHIN, self.ask(client, *engine, body.clone())).await {
                Ok(Ok((StatusCode::ACCEPTED, _))) => return Ok(()),
                // It is there, and it is ours: the answer to an earlier request got lost.
                Ok(Ok((StatusCode::CONFLICT, answer)))
                    if memchr::memmem::find(&answer, b"EXECUTION_EXISTS").is_some() =>
                {
                    return Ok(());
                }
                Ok(Ok((StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _))) => {}
                Ok(Ok((status, answer))) => bail!("{status}: {}", String::from_utf8_lossy(&answer)),
                Ok(Err(_)) | Err(_) => {
                    *client = None;
                    *engine += 1;
                }
            }
            self.repeated.fetch_add(1, Ordering::Relaxed);
            sleep(REPEAT_AFTER).await;
        }
    }

    async fn ask(
        &self,
        client: &mut Option<Client>,
        engine: usize,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let client = match client {
            Some(client) => client,
            None => {
                let address = self.addresses[engine % self.addresses.len()];
                client.insert(Client::connect(address, &self.tracker).await?)
            }
        };
        let request = client.request(Method::POST, "/v1/executions", body)?;
        client.send(request).await
    }
}
