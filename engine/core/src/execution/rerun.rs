//! What a rerun starts with: the context as it was when the original entered the step.

use serde_json::{Map, Value};

use super::apply::apply;
use super::event::{Event, RecordedEvent};

/// The context as it was when the execution with this history entered `step` for the last time; none when it never did.
#[must_use]
pub fn context_at(history: &[RecordedEvent], step: &str) -> Option<Map<String, Value>> {
    let last = history.iter().rposition(
        |recorded| matches!(&recorded.event, Event::Entered { step: entered } if &**entered == step),
    )?;
    let (first, rest) = history[..last].split_first()?;
    let Event::Created { execution } = &first.event else { return None };
    let mut execution = (**execution).clone();
    for recorded in rest {
        apply(&mut execution, &recorded.event, recorded.at);
    }
    Some(execution.context)
}
