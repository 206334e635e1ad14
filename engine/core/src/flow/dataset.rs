//! References to results that are too large for a context, and how they become what they stand for: only when something
//! reads through them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

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
    /// Nothing that this execution may read, or not known yet: it is data like any other.
    Unknown,
}

/// One step reads more of datasets than may be held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the datasets that are read have more than {DATASET_BYTES_MAX} bytes; let the body's `output` select less, or read \
     the children by page"
)]
pub struct DatasetTooLarge;

impl DatasetTooLarge {
    /// The stable code.
    pub const CODE: &'static str = "DATASET_TOO_LARGE";
}

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

/// The datasets that one step can read, and how much of them it has read: at most [`DATASET_BYTES_MAX`] bytes.
pub struct DatasetReads<'w> {
    find: &'w dyn Fn(&DatasetReference) -> Dataset,
    read: RefCell<BTreeMap<DatasetReference, usize>>,
}

impl<'w> DatasetReads<'w> {
    /// What `find` knows can be read.
    #[must_use]
    pub fn new(find: &'w dyn Fn(&DatasetReference) -> Dataset) -> Self {
        Self { find, read: RefCell::default() }
    }

    /// Bytes of what has been read, each dataset counted once.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.read.borrow().values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// The array that a reference stands for, and its bytes; none for a reference to nothing that can be read.
    ///
    /// # Errors
    /// With it, more than [`DATASET_BYTES_MAX`] would be read.
    pub fn rows(&self, reference: &DatasetReference) -> Result<Option<(Arc<Value>, usize)>, DatasetTooLarge> {
        match (self.find)(reference) {
            // Whoever reads through a reference counts on getting on by it.
            Dataset::Rows { rows, bytes } if rows.is_array() => {
                self.read.borrow_mut().insert(*reference, bytes);
                if self.bytes() > DATASET_BYTES_MAX {
                    return Err(DatasetTooLarge);
                }
                Ok(Some((rows, bytes)))
            }
            Dataset::TooLarge => Err(DatasetTooLarge),
            Dataset::Rows { .. } | Dataset::Unknown => Ok(None),
        }
    }

    /// The array that `value` stands for; none when it is no reference, or one to nothing that can be read.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub fn rows_of(&self, value: &Value) -> Result<Option<Arc<Value>>, DatasetTooLarge> {
        match DatasetReference::of(value) {
            Some(reference) => Ok(self.rows(&reference)?.map(|(rows, _)| rows)),
            None => Ok(None),
        }
    }

    /// `value`, or the array that it stands for: for what looks at all of a value.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub fn whole<'v>(&self, value: Cow<'v, Value>) -> Result<Cow<'v, Value>, DatasetTooLarge> {
        Ok(match self.rows_of(&value)? {
            Some(rows) => Cow::Owned(Arc::unwrap_or_clone(rows)),
            None => value,
        })
    }

    /// Puts arrays in the place of all references in `value`. What is in the arrays stays as it is. `copied` counts the
    /// bytes of all copies.
    ///
    /// # Errors
    /// The copies have more than [`DATASET_BYTES_MAX`] bytes.
    pub fn materialise(&self, value: &mut Value, copied: &mut usize) -> Result<(), DatasetTooLarge> {
        if let Some(reference) = DatasetReference::of(value) {
            if let Some((rows, bytes)) = self.rows(&reference)? {
                *copied = copied.saturating_add(bytes);
                if *copied > DATASET_BYTES_MAX {
                    return Err(DatasetTooLarge);
                }
                *value = Arc::unwrap_or_clone(rows);
            }
            return Ok(());
        }
        match value {
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.materialise(item, copied)),
            Value::Object(map) => map.values_mut().try_for_each(|item| self.materialise(item, copied)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
