//! What happens, told as it happens: over WebSockets and as server-sent events.
//!
//! One task, the [`hub`], hears the updates of the engine while anybody wants them, writes each message once, and puts it into
//! the [`mailbox`] of every connection that asked for it. It never waits for a client: what a mailbox has no room for is
//! read from the record once its client is ready for more ([`connection`]), or is told as the state that it led to.
//!
//! Architecture invariant: the record is the truth. What is heard live only says when to read it, where anything is missing.

mod board;
mod connection;
mod filter;
mod hub;
mod index;
mod mailbox;
mod message;
pub(super) mod sse;
mod told;
pub(super) mod ws;

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::ids::ExecutionId;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::problem::{ErrorClass, Problem};
use crate::access::Visibility;
use crate::engine::Engine;
use connection::Connection;
use filter::Topic;
use index::Index;
use mailbox::Mailbox;

pub(super) use sse::{of_all, of_execution};
pub(super) use ws::{show_offered_key, upgrade};

/// Connections of one engine at the same time, unless the settings say otherwise.
pub const LIVE_CONNECTIONS_MAX: usize = 10_000;
/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Bytes of the id of a subscription.
const SUBSCRIPTION_ID_BYTES_MAX: usize = 64;
/// Types, or patterns of types, of one subscription.
const TYPES_MAX: usize = 64;
/// Bytes of a message of a client.
const CLIENT_MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Messages of a client that are refused before it is hung up on.
const REFUSALS_MAX: usize = 32;
/// Bytes of an event beyond which it is told without its content, which is in the history.
const EVENT_BYTES_MAX: usize = 32 * 1024;
/// Committed events that wait for one connection.
const QUEUE_MAX: usize = 256;
/// Bytes of all that waits for one connection.
const QUEUE_BYTES_MAX: usize = 512 * 1024;
/// Log lines that wait for one connection; the oldest go first.
const LINES_MAX: usize = 128;
/// Latest values (progress, queues, workers) that wait for one connection; the oldest go first.
const LATEST_MAX: usize = 512;
/// Executions whose state waits to be told to one connection, in place of events that it had no room for.
const SNAPSHOTS_MAX: usize = 1024;
/// Time between pings, unless the settings say otherwise.
pub const PING_EVERY: Duration = Duration::from_secs(20);
/// Pings without any sign of life in return, at which the connection is closed.
const PINGS_UNANSWERED_MAX: u32 = 2;
/// For how long a connection lasts: keys may have been revoked, and clients come back where engines were added.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// Events that are read from the record at a time.
const PAGE: usize = 100;
/// Reads of the record for all connections at the same time.
const READS_MAX: usize = 16;
/// How soon a connection reads the record again that did not answer.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How soon the record is looked at for the first time for what other engines did and nobody told; then less and less often.
const LOOK_FIRST: Duration = Duration::from_secs(1);
/// How often it is looked at in the end.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time between two answers to the news that something was missed.
const MISSED_EVERY: Duration = Duration::from_secs(1);
/// Executions of which the hub knows whose they are.
const KNOWN_MAX: usize = 16_384;
/// Executions of which it does not know that yet.
const UNKNOWN_MAX: usize = 1024;
/// Executions that are read from the record for that at a time: they come with their contexts.
const UNKNOWN_READ_MAX: usize = 16;
/// Updates of one of these that wait meanwhile.
const UNKNOWN_UPDATES_MAX: usize = 16;
/// Time between looks at queues and workers, while anybody wants to know.
const BOARD_EVERY: Duration = Duration::from_secs(2);

/// Settings of live connections.
#[derive(Clone, Debug)]
pub struct LiveOptions {
    /// Connections at the same time. Default [`LIVE_CONNECTIONS_MAX`].
    pub connections_max: usize,
    /// Time between pings, and between comments of server-sent events. Default [`PING_EVERY`].
    pub ping_every: Duration,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { connections_max: LIVE_CONNECTIONS_MAX, ping_every: PING_EVERY }
    }
}

/// What live connections share.
pub(super) struct Live {
    engine: Arc<Engine>,
    connections: Arc<Semaphore>,
    reads: Semaphore,
    index: Index,
    /// Rung when the last subscription has gone, for the hub.
    idle: Notify,
    /// Rung when somebody new wants to know of queues and workers.
    board: Notify,
    ping_every: Duration,
    shutdown: CancellationToken,
    work: TaskTracker,
}

impl Live {
    pub(super) fn new(
        engine: Arc<Engine>,
        options: &LiveOptions,
        shutdown: CancellationToken,
        work: TaskTracker,
    ) -> Self {
        Self {
            engine,
            connections: Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS))),
            reads: Semaphore::new(READS_MAX),
            index: Index::default(),
            idle: Notify::new(),
            board: Notify::new(),
            ping_every: options.ping_every,
            shutdown,
            work,
        }
    }

    /// A new connection, of somebody who sees `visibility`.
    ///
    /// # Errors
    /// When there are too many.
    fn connect(self: &Arc<Self>, visibility: Visibility) -> Result<Connection, Problem> {
        let Ok(permit) = self.connections.clone().try_acquire_owned() else {
            let detail = "too many live connections to this engine; try again, or another one";
            return Err(Problem::new(ErrorClass::Overloaded, "TOO_MANY_CONNECTIONS", detail));
        };
        Ok(Connection::new(self.clone(), visibility, permit))
    }

    /// Lets `mailbox` hear of `topics`. The ears are open when this returns.
    fn listen(self: &Arc<Self>, number: u64, mailbox: &Arc<Mailbox>, topics: &[Topic]) {
        self.index.add(number, mailbox, topics, |begun| {
            if begun.hub {
                let updates = self.engine.watchers.follow();
                self.work.spawn(hub::run(self.clone(), updates));
            }
            if begun.board {
                self.work.spawn(board::run(self.clone()));
            }
        });
        if topics.contains(&Topic::Board) {
            self.board.notify_one();
        }
    }

    /// Lets it hear of them no more.
    fn leave(&self, number: u64, topics: &[Topic]) {
        if self.index.remove(number, topics) {
            self.idle.notify_one();
        }
    }

    /// Whether other engines may do things that this one is not told of.
    fn is_shared(&self) -> bool {
        self.engine.config().shares_record
    }
}

/// Whose an execution is: what decides who is told of it.
#[derive(Debug, PartialEq, Eq)]
struct About {
    id: ExecutionId,
    root: ExecutionId,
    parent: Option<ExecutionId>,
    flow: Arc<str>,
    tenant: Option<String>,
}

impl About {
    fn of(execution: &flowmonkey_core::execution::Execution) -> Arc<Self> {
        let identity = &execution.identity;
        Arc::new(Self {
            id: identity.id,
            root: identity.root,
            parent: identity.parent.map(|parent| parent.execution),
            flow: identity.flow.id.as_str().into(),
            tenant: identity.tenant_id.clone(),
        })
    }
}
