//! Labels: what executions are searched by. Some are given with the start, others a flow reads from the input.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::StartError;
use crate::flow::definition::Flow;
use crate::flow::js;
use crate::limits::{LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX};

/// Adds the labels that `flow` reads from `context` to those of the start, which come first. What is missing or null in the
/// context gives no label.
///
/// # Errors
/// [`StartError::InvalidLabel`] when a label is past a limit.
pub(super) fn read(
    labels: &mut BTreeMap<String, String>,
    flow: &Flow,
    context: &Map<String, Value>,
) -> Result<(), StartError> {
    for (name, path) in &flow.labels {
        if labels.contains_key(name) {
            continue;
        }
        if let Some(value) = path.get_in_map(context).filter(|value| !value.is_null()) {
            labels.insert(name.clone(), js::to_text(Some(&value)));
        }
    }
    check(labels)
}

fn check(labels: &BTreeMap<String, String>) -> Result<(), StartError> {
    if labels.len() > LABELS_MAX {
        return Err(StartError::TooManyLabels(labels.len()));
    }
    for (name, value) in labels {
        let refuse = |reason| Err(StartError::InvalidLabel { name: shortened(name), reason });
        if name.is_empty() || name.len() > LABEL_NAME_BYTES_MAX {
            return refuse(format!(
                "its name must have 1 to {LABEL_NAME_BYTES_MAX} bytes, not {}",
                name.len()
            ));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return refuse(format!(
                "its value has {} bytes, and may have {LABEL_VALUE_BYTES_MAX}",
                value.len()
            ));
        }
    }
    Ok(())
}

/// As much of a name as a message shows.
fn shortened(name: &str) -> String {
    name[..name.floor_char_boundary(LABEL_NAME_BYTES_MAX)].to_owned()
}
