//! `tracing` inside handlers: what a handler logs within its task becomes a log line of the task.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use flowmonkey_plumbing::api::{Plumbing, TaskAccess};
use flowmonkey_plumbing::wire::LogLevel;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Span, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::journal::Journal;

/// Names the span that a handler runs in.
const SPAN: &str = "task";
/// What engine, queues and runtime say of themselves while a handler calls them is not the task's.
const OURS: [&str; 3] = ["flowmonkey_engine", "flowmonkey_plumbing", "flowmonkey_worker"];

thread_local! {
    /// The log of the task whose span is being made.
    static BEGINNING: RefCell<Option<TaskLog>> = const { RefCell::new(None) };
}

/// Where the lines of one attempt go.
#[derive(Clone)]
pub(crate) struct TaskLog {
    pub(crate) access: TaskAccess,
    pub(crate) plumbing: Arc<dyn Plumbing>,
    pub(crate) journal: Arc<Journal>,
}

impl TaskLog {
    /// Keeps a line for the result, and shows it live. Past the limit of lines it is only counted.
    pub(crate) fn write(&self, level: LogLevel, message: String) {
        if let Some(line) = self.journal.log(level, message) {
            self.plumbing.log(&self.access, &line);
        }
    }

    /// The span that the handler runs in.
    pub(crate) fn span(&self) -> Span {
        BEGINNING.set(Some(self.clone()));
        let span = tracing::info_span!(SPAN, task = %self.access.delivery.task_id, attempt = self.access.delivery.attempt);
        BEGINNING.take();
        span
    }
}

/// A layer for `tracing` subscribers: events within the span of a task go to the task's log, too. Install it with a filter of
/// its own, beside what prints. Events of tasks that a handler spawns are the task's when they are spawned
/// `in_current_span()`.
#[derive(Clone, Copy, Debug)]
pub struct TaskLogLayer {
    level: Level,
}

impl Default for TaskLogLayer {
    /// Information and worse.
    fn default() -> Self {
        Self::new(Level::INFO)
    }
}

impl TaskLogLayer {
    /// Events of this level and worse.
    #[must_use]
    pub const fn new(level: Level) -> Self {
        Self { level }
    }

    fn takes(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let is_ours = OURS.iter().any(|ours| {
            target.strip_prefix(ours).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        *metadata.level() <= self.level && !is_ours
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TaskLogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() == SPAN
            && let Some(log) = BEGINNING.take()
            && let Some(span) = context.span(id)
        {
            span.extensions_mut().insert(log);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !self.takes(event.metadata()) {
            return;
        }
        let log = context
            .event_scope(event)
            .and_then(|mut scope| scope.find_map(|span| span.extensions().get::<TaskLog>().cloned()));
        if let Some(log) = log {
            let mut text = Text::default();
            event.record(&mut text);
            log.write(level(*event.metadata().level()), text.message + &text.fields);
        }
    }
}

fn level(level: Level) -> LogLevel {
    if level == Level::ERROR {
        LogLevel::Error
    } else if level == Level::WARN {
        LogLevel::Warn
    } else if level == Level::INFO {
        LogLevel::Info
    } else {
        LogLevel::Debug
    }
}

/// An event as one line: its message, then its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // A string takes everything.
        if field.name() == "message" {
            write!(self.message, "{value:?}").ok();
        } else {
            write!(self.fields, " {}={value:?}", field.name()).ok();
        }
    }
}
