//! The tree of an execution elsewhere, drawn from what its server says live.

use std::collections::HashMap;

use flowmonkey_core::execution::event::Event;
use flowmonkey_core::execution::{Execution, Status};
use flowmonkey_core::ids::ExecutionId;
use serde::Deserialize;
use serde_json::Value;

use super::drawing::{DEPTH_SHOWN_MAX, Drawing};

/// Draws one execution and what it started.
pub(crate) struct RemoteTree {
    root: ExecutionId,
    drawing: Drawing,
    /// Executions whose steps are shown.
    shown: HashMap<ExecutionId, Place>,
}

/// Where an execution is in the tree.
#[derive(Clone, Copy)]
struct Place {
    depth: u16,
    /// The fan-out that it belongs to.
    join: Option<u32>,
}

impl RemoteTree {
    /// An empty tree of the execution `root`.
    pub(crate) fn new(root: ExecutionId, title: String) -> Self {
        let shown = HashMap::from([(root, Place { depth: 0, join: None })]);
        Self { root, drawing: Drawing::new(title), shown }
    }

    /// Gives the terminal back.
    pub(crate) fn end(self) {
        self.drawing.clear();
    }

    /// Draws what a message says.
    pub(crate) fn draw(&mut self, message: &Value) {
        let Some(id) = id_of(&message["executionId"]) else { return };
        match message["type"].as_str().unwrap_or_default() {
            "execution.progress" => {
                let (step, progress) = (message["stepId"].as_str(), &message["progress"]);
                if let (Some(step), Some(percent)) = (step, progress["percent"].as_f64()) {
                    self.drawing.progress(id, step, percent, progress["message"].as_str());
                }
            }
            "step.started" => {
                let number = |key: &str| message[key].as_u64().and_then(|number| u32::try_from(number).ok());
                if let (Some(task), Some(attempt)) = (number("task"), number("attempt")) {
                    self.drawing.started(id, task, attempt);
                }
            }
            "snapshot" if id != self.root => {
                let status = message["status"].as_str().and_then(Status::parse);
                if status.is_some_and(Status::is_terminal) {
                    self.drawing.is_over(id);
                    self.child_ended(id, message, status == Some(Status::Failed));
                }
            }
            kind => {
                // Of an event that is too long, or that this release does not know, nothing can be drawn.
                let event = Event::deserialize(&message["event"]).ok();
                if let Some(place) = self.place(id, message, event.as_ref())
                    && let Some(event) = &event
                {
                    self.drawing.event(id, place.depth, event);
                }
                if id != self.root
                    && ["execution.completed", "execution.failed", "execution.cancelled"].contains(&kind)
                {
                    self.child_ended(id, message, kind == "execution.failed");
                }
            }
        }
    }

    fn child_ended(&mut self, id: ExecutionId, message: &Value, has_failed: bool) {
        let join = self.shown.remove(&id).and_then(|place| place.join);
        if let Some(parent) = id_of(&message["parentExecutionId"]) {
            self.drawing.child_ended(parent, join, has_failed);
        }
    }

    /// Where the steps of an execution are shown; none: they are not, as it is too deep, or one of many.
    fn place(&mut self, id: ExecutionId, message: &Value, event: Option<&Event>) -> Option<Place> {
        if let Some(place) = self.shown.get(&id) {
            return Some(*place);
        }
        let parent = id_of(&message["parentExecutionId"])?;
        let depth = self.shown.get(&parent)?.depth + 1;
        let join = match event {
            Some(Event::Created { execution }) => join_of(execution),
            Some(_) | None => None,
        };
        if depth > DEPTH_SHOWN_MAX || !self.drawing.shows_child(parent, join) {
            return None;
        }
        let place = Place { depth, join };
        self.shown.insert(id, place);
        Some(place)
    }
}

fn id_of(value: &Value) -> Option<ExecutionId> {
    value.as_str()?.parse().ok()
}

fn join_of(execution: &Execution) -> Option<u32> {
    execution.identity.parent.map(|parent| parent.join)
}
