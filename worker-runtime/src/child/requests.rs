//! The requests of a child that are being carried out.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use flowmonkey_plumbing::api::{Checkpoint, PlumbingError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use super::protocol;
use super::request::{self, Answer, Call, Request};
use crate::handler::Task;

/// Requests that are carried out at the same time; further lines of the child wait.
const REQUESTS_IN_FLIGHT_MAX: usize = 8;
/// No engine can be reached.
const UNAVAILABLE: &str = "PLUMBING_UNAVAILABLE";
/// The answer does not fit a line.
const ANSWER_TOO_LARGE: &str = "ANSWER_TOO_LARGE";

/// An answer for the child.
pub(super) struct Answered {
    /// The line.
    pub(super) line: String,
    /// The record has another attempt: the child has to stop.
    pub(super) is_stale: bool,
}

type Pending<'a> = Pin<Box<dyn Future<Output = Answered> + Send + 'a>>;

/// Requests on their way. What changes something is done in the order of the lines; reads overtake it and each other.
pub(super) struct Requests<'a> {
    task: &'a Task,
    answer_bytes_max: usize,
    reads: FuturesUnordered<Pending<'a>>,
    writes: VecDeque<Pending<'a>>,
}

impl<'a> Requests<'a> {
    pub(super) fn new(task: &'a Task, answer_bytes_max: usize) -> Self {
        Self { task, answer_bytes_max, reads: FuturesUnordered::new(), writes: VecDeque::new() }
    }

    /// Whether the next line may be read.
    pub(super) fn have_room(&self) -> bool {
        self.reads.len() + self.writes.len() < REQUESTS_IN_FLIGHT_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reads.is_empty() && self.writes.is_empty()
    }

    /// Whether something is being changed.
    pub(super) fn are_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Takes a request in. The answer, where it is known at once.
    pub(super) fn begin(&mut self, request: Request) -> Option<Answered> {
        let (task, limit) = (self.task, self.answer_bytes_max);
        let Request { number, call } = request;
        let done = |answer| Some(answered(task, number, answer, limit));
        match call {
            Err(problem) => done(Err(("INVALID_REQUEST".into(), problem))),
            Ok(Call::Progress(progress)) => {
                task.plumbing.progress(&task.access, progress);
                done(Ok(Value::Null))
            }
            Ok(Call::Event(event)) => {
                let publish = async move {
                    let published = task.emit_all_now(vec![event]).await;
                    let value = published.map(|mut ids| json!({ "value": { "id": ids.pop() } }));
                    answered_call(task, number, value, limit)
                };
                self.writes.push_back(Box::pin(publish));
                None
            }
            Ok(Call::Log(level, message)) => {
                task.log(level, message);
                done(Ok(Value::Null))
            }
            Ok(Call::ContextGet(path)) => {
                let read = async move {
                    let read = match &path {
                        Some(path) => task.read_context(path).await,
                        None => task.load_context().await.cloned().map(Some),
                    };
                    let found = |value: Option<Value>| json!({ "found": value.is_some(), "value": value });
                    answered_call(task, number, read.map(found), limit)
                };
                self.reads.push(Box::pin(read));
                None
            }
            Ok(Call::CheckpointLoad) => {
                // Behind what was saved before.
                let load = async move {
                    let loaded = task.load_checkpoint().await;
                    let value = |checkpoint: Option<Checkpoint>| json!({ "value": checkpoint.as_ref().map(protocol::shown) });
                    answered_call(task, number, loaded.map(value), limit)
                };
                self.writes.push_back(Box::pin(load));
                None
            }
            Ok(Call::ContextChange(operation)) => {
                let change = async move {
                    let changed = task.change_context(vec![operation]).await;
                    answered_call(task, number, changed.map(|()| Value::Null), limit)
                };
                self.writes.push_back(Box::pin(change));
                None
            }
            Ok(Call::CheckpointSave(data)) => {
                let save = async move {
                    let saved = task.save_checkpoint(data).await;
                    let value = saved.map(|saved| json!({ "value": saved }));
                    answered_call(task, number, value, limit)
                };
                self.writes.push_back(Box::pin(save));
                None
            }
            Ok(Call::CheckpointClear) => {
                let clear = async move {
                    let cleared = task.clear_checkpoint().await;
                    answered_call(task, number, cleared.map(|()| Value::Null), limit)
                };
                self.writes.push_back(Box::pin(clear));
                None
            }
        }
    }

    /// The next answer; never, while there are no requests. Safe to drop and to repeat.
    pub(super) async fn next(&mut self) -> Answered {
        poll_fn(|context| {
            if let Some(first) = self.writes.front_mut()
                && let Poll::Ready(answered) = first.as_mut().poll(context)
            {
                self.writes.pop_front();
                return Poll::Ready(answered);
            }
            match self.reads.poll_next_unpin(context) {
                Poll::Ready(Some(answered)) => Poll::Ready(answered),
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

fn answered_call(task: &Task, number: u64, result: Result<Value, PlumbingError>, limit: usize) -> Answered {
    let is_stale = matches!(result, Err(PlumbingError::Stale { .. }));
    let answer = result.map_err(|error| {
        let message = error.to_string();
        let code = match error {
            PlumbingError::Stale { .. } => "STALE_ATTEMPT".into(),
            PlumbingError::TooLarge { .. } => "LIMIT_EXCEEDED".into(),
            PlumbingError::Refused { code, .. } => code,
            PlumbingError::Unavailable(_) => UNAVAILABLE.into(),
        };
        (code, message)
    });
    Answered { is_stale, ..answered(task, number, answer, limit) }
}

fn answered(task: &Task, number: u64, answer: Answer, limit: usize) -> Answered {
    let id = &task.message.task_id;
    let line = request::answer(id, number, answer);
    if line.len() <= limit {
        return Answered { line, is_stale: false };
    }
    let message =
        format!("the answer has {} bytes, more than {limit} (limits.lineBytes): ask for less", line.len());
    let line = request::answer(id, number, Err((ANSWER_TOO_LARGE.into(), message)));
    Answered { line, is_stale: false }
}
