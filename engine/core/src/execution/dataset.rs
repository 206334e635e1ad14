//! References to results that are too large for a context, and how they become what they stand for.

use std::sync::Arc;

use serde_json::{Value, json};

use super::decision::World;
use crate::ids::ExecutionId;
use crate::limits::DATASET_BYTES_MAX;

/// Key of a dataset reference: an object with this key stands for an array that is too large for a context.
pub const DATASET_KEY: &str = "$dataset";

/// Names the results of a fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DatasetReference {
    /// The parent.
    pub execution: ExecutionId,
    /// Its fan-out.
    pub join: u32,
    /// Whether each result says how its child ended (`join: settled`).
    pub settled: bool,
}

/// What a reference stands for.
#[derive(Clone, Debug)]
pub enum Dataset {
    /// This array.
    Rows {
        /// The results, in the order of the children.
        rows: Arc<Value>,
        /// Bytes as JSON.
        bytes: usize,
    },
    /// More than [`DATASET_BYTES_MAX`].
    TooLarge,
    /// Nothing that this execution may read: it is data like any other.
    Unknown,
}

/// Results were selected that do not fit a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the datasets that are read have more than {DATASET_BYTES_MAX} bytes; read their children by page instead"
)]
pub struct DatasetTooLarge;

impl DatasetReference {
    /// The reference that `value` is, if it is one.
    #[must_use]
    pub fn of(value: &Value) -> Option<Self> {
        let named = value.as_object()?.get(DATASET_KEY)?.as_object()?;
        Some(Self {
            execution: named.get("executionId")?.as_str()?.parse().ok()?,
            join: u32::try_from(named.get("join")?.as_u64()?).ok()?,
            settled: named.get("settled").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// The reference as it stands in a context.
    #[must_use]
    pub fn to_value(self, count: u32, bytes: usize) -> Value {
        let mut named = json!({ "executionId": self.execution, "join": self.join });
        if self.settled {
            named["settled"] = Value::Bool(true);
        }
        json!({ DATASET_KEY: named, "count": count, "bytes": bytes })
    }
}

/// Puts arrays in the place of all references in `value`. What is in the arrays stays as it is.
pub(super) fn materialise(
    value: &mut Value,
    world: &World<'_>,
    read: &mut usize,
) -> Result<(), DatasetTooLarge> {
    if let Some(reference) = DatasetReference::of(value) {
        match (world.datasets)(&reference) {
            Dataset::Rows { rows, bytes } => {
                *read = read.saturating_add(bytes);
                if *read > DATASET_BYTES_MAX {
                    return Err(DatasetTooLarge);
                }
                *value = Value::clone(&rows);
            }
            Dataset::TooLarge => return Err(DatasetTooLarge),
            Dataset::Unknown => {}
        }
        return Ok(());
    }
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(|item| materialise(item, world, read)),
        Value::Object(map) => map.values_mut().try_for_each(|item| materialise(item, world, read)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}
