//! What clients ask: starts under keys, signals, cancellations, pauses, retries, events, reruns.

use std::sync::Arc;

use flowmonkey_core::execution::command::{Command, Signal};
use flowmonkey_core::execution::state::{Activity, CancelSource, WaitOn};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::Engine;
use flowmonkey_engine::start::{Start, StartFlow, Started};
use flowmonkey_engine::store::PublishedEvent;
use serde_json::{Value, json};

use crate::books::NONCE;
use crate::boundary::Boundary;
use crate::random::Random;
use crate::workload::ROOTS;

/// The reason that clients give when they end executions without undoing.
pub const TERMINATED: &str = "ended by the simulation";
/// Starts share so many keys per flow.
const KEYS: u64 = 12;

/// What a client asks.
#[derive(Clone, Debug)]
pub enum Request {
    /// A start; the key that it has, and the version that was published last when it was asked for.
    Start(Box<Start>, String, Option<String>, u64),
    /// A command.
    Command(ExecutionId, Command),
    /// An event from outside.
    Publish(PublishedEvent),
    /// A rerun from a step.
    Rerun(ExecutionId, String),
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// A start.
    Started(String, Option<String>, u64, Started),
    /// A command was accepted.
    Accepted(ExecutionId, bool),
    /// A rerun was started.
    Rerun(Started),
    /// It failed or was refused, or there is nothing to say.
    Nothing(String),
}

/// A client that remembers what it sent, to send it again.
#[derive(Debug, Default)]
pub struct Client {
    nonces: u64,
    last: Option<Request>,
}

impl Client {
    /// The next request.
    pub fn request(&mut self, boundary: &Boundary, random: &mut Random) -> Request {
        if random.happens(120)
            && let Some(last) = self.last.clone()
        {
            return last;
        }
        let known: Vec<ExecutionId> = boundary.books().executions.keys().copied().collect();
        let request = match random.pick(&known) {
            Some(id) if random.happens(650) => self.about(*id, boundary, random),
            Some(_) | None => start(boundary, random),
        };
        self.last = Some(request.clone());
        request
    }

    /// A nonce that names a signal or event.
    pub fn nonce(&mut self) -> String {
        self.nonces += 1;
        format!("n{}", self.nonces)
    }

    /// A signal with data that fits every wait of the workload.
    pub fn signal(&mut self, id: ExecutionId, name: &str, approved: bool, path: &str) -> Request {
        let nonce = self.nonce();
        let data = json!({ NONCE: nonce, "approved": approved, "path": path });
        let signal = Signal { name: name.into(), data: Some(data), id: Some(nonce) };
        Request::Command(id, Command::Signal(signal))
    }

    /// An event.
    pub fn event(&mut self, name: &str, score: u64, now_ms: i64) -> Request {
        let nonce = self.nonce();
        let data = json!({ NONCE: nonce, "score": score });
        Request::Publish(PublishedEvent {
            tenant: None,
            id: format!("event-{nonce}"),
            name: name.into(),
            data,
            source: None,
            attributes: None,
            at: Timestamp::from_millis(now_ms),
        })
    }

    fn about(&mut self, id: ExecutionId, boundary: &Boundary, random: &mut Random) -> Request {
        let state = boundary.books().executions.get(&id).map(|book| book.state.clone());
        let command = |command| Request::Command(id, command);
        match random.below(100) {
            0..25 => {
                let path = random.pick(&["again", "fail", "on", "on"]).copied().unwrap_or("on");
                let name = random.pick(&["go", "review"]).copied().unwrap_or("go");
                self.signal(id, name, random.happens(800), path)
            }
            25..40 => {
                let name = random.pick(&["paid", "scored"]).copied().unwrap_or("paid");
                self.event(name, random.below(8), boundary.now_ms())
            }
            40..46 => command(Command::Cancel { source: CancelSource::User, reason: None }),
            46..48 => command(Command::Terminate { reason: Some(TERMINATED.into()) }),
            48..56 => command(Command::Pause { reason: None }),
            56..72 => command(Command::Unpause),
            72..84 => command(Command::Retry { by: Some("client".into()) }),
            84..88 => Request::Rerun(id, state.map_or_else(String::new, |state| state.cursor.to_string())),
            _ => match state.map(|state| state.activity) {
                Some(Activity::Wait(wait)) => {
                    let data = Some(json!({ NONCE: self.nonce(), "approved": true, "path": "on" }));
                    match wait.on {
                        WaitOn::Handler { token: Some(token), .. } => {
                            command(Command::ResumeByToken { token, data })
                        }
                        WaitOn::Timer { .. }
                        | WaitOn::Signal { .. }
                        | WaitOn::Event { .. }
                        | WaitOn::Approval { .. }
                        | WaitOn::Handler { token: None, .. } => {
                            let (step, visit) = (wait.run.step.to_string(), wait.run.visit);
                            command(Command::Resume { step, visit, data })
                        }
                    }
                }
                _ => command(Command::Unpause),
            },
        }
    }
}

fn start(boundary: &Boundary, random: &mut Random) -> Request {
    let flow = random.pick(ROOTS).copied().unwrap_or("chain");
    let count = 1 + random.below(7);
    let items: Vec<Value> = (0..count).map(Value::from).collect();
    let id = StartFlow::Published { id: flow.into(), version: None };
    let mut start = Start::new(id, json!({ "items": items }));
    let key = random.happens(400).then(|| format!("key-{}", random.below(KEYS)));
    start.idempotency_key.clone_from(&key);
    let latest = boundary.books().latest(flow);
    Request::Start(Box::new(start), flow.into(), key, latest)
}

/// Sends a request.
pub async fn send(engine: Arc<Engine>, request: Request) -> Answer {
    match request {
        Request::Start(start, flow, key, latest) => match engine.start(*start).await {
            Ok(started) => Answer::Started(flow, key, latest, started),
            Err(error) => Answer::Nothing(error.to_string()),
        },
        Request::Command(id, command) => {
            let cancels = matches!(command, Command::Cancel { .. } | Command::Terminate { .. });
            match engine.command(id, command).await {
                Ok(_) => Answer::Accepted(id, cancels),
                Err(error) => Answer::Nothing(error.to_string()),
            }
        }
        Request::Publish(event) => match engine.store().publish_event(&event).await {
            Ok(new) => Answer::Nothing(format!("published: {new}")),
            Err(error) => Answer::Nothing(error.to_string()),
        },
        Request::Rerun(of, step) => match engine.rerun(of, &step, None).await {
            Ok(started) => Answer::Rerun(started),
            Err(error) => Answer::Nothing(error.to_string()),
        },
    }
}
