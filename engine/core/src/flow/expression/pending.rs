//! References to datasets within an evaluation.
//!
//! A reference stands in the variables as a value of its own, which only notes that something looked at it. What was
//! looked at is read, and the expression evaluated again with the rows in its place; what is only passed on stays a
//! reference. So an expression reads exactly what it passes through, whatever its shape.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use cel::common::traits::{Comparer, Container, Indexer, Iterable, Sizer};
use cel::common::types::{CelList, CelMap, Kind, Type};
use cel::common::value::{StaticVal, Val};
use serde_json::Value;

use super::super::dataset::{DatasetReads, DatasetReference, DatasetTooLarge};

/// What one evaluation knows of datasets.
#[derive(Default)]
pub(super) struct Known {
    /// What was looked at before, with its rows; none: it is data like any other.
    rows: BTreeMap<DatasetReference, Option<(Arc<Value>, usize)>>,
    looked_at: LookedAt,
}

#[derive(Clone, Debug, Default)]
struct LookedAt(Arc<Mutex<BTreeSet<DatasetReference>>>);

/// How a value stands in the variables.
pub(super) enum Standing {
    /// As it is.
    Data,
    /// As this array, of so many bytes.
    Rows(Arc<Value>, usize),
    /// As a reference that nothing has looked at yet.
    Pending(Pending),
}

impl Known {
    pub(super) fn standing(&self, value: &Value) -> Standing {
        let Some(reference) = DatasetReference::of(value) else { return Standing::Data };
        match self.rows.get(&reference) {
            Some(Some((rows, bytes))) => Standing::Rows(rows.clone(), *bytes),
            Some(None) => Standing::Data,
            None => Standing::Pending(Pending {
                reference,
                value: Arc::new(value.clone()),
                looked_at: self.looked_at.clone(),
            }),
        }
    }

    /// Reads what was looked at; false when that was nothing, and the evaluation stands.
    pub(super) fn read(&mut self, datasets: &DatasetReads<'_>) -> Result<bool, DatasetTooLarge> {
        let looked_at = std::mem::take(&mut *self.looked_at.0.lock().unwrap_or_else(PoisonError::into_inner));
        let any = !looked_at.is_empty();
        for reference in looked_at {
            let rows = datasets.rows(&reference)?;
            self.rows.insert(reference, rows);
        }
        Ok(any)
    }
}

/// A reference that nothing has looked at yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    reference: DatasetReference,
    value: Arc<Value>,
    looked_at: LookedAt,
}

const PENDING_TYPE: Type = Type::simple_type(Kind::Opaque, "dataset");

impl Pending {
    /// The reference as it stands in the context.
    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    fn look(&self) {
        self.looked_at.0.lock().unwrap_or_else(PoisonError::into_inner).insert(self.reference);
    }
}

impl Val for Pending {
    fn get_type(&self) -> &Type {
        self.look();
        const { &PENDING_TYPE }
    }

    fn cel_type() -> &'static Type {
        const { &PENDING_TYPE }
    }

    fn as_comparer(&self) -> Option<&dyn Comparer> {
        self.look();
        None
    }

    fn as_container(&self) -> Option<&dyn Container> {
        self.look();
        None
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        self.look();
        None
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        self.look();
        None
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        self.look();
        None
    }

    fn equals(&self, _other: &dyn Val) -> bool {
        self.look();
        false
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Pending {}

/// Looks at all of `value`. CEL's own values compare themselves with others without asking these anything.
pub(super) fn look_at(value: &dyn Val) {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        if let Some(pending) = value.downcast_ref::<Pending>() {
            pending.look();
        } else if let Some(list) = value.downcast_ref::<CelList<'_>>() {
            open.extend(list.inner().iter().map(|item| &**item));
        } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
            open.extend(map.inner().values().map(|item| &**item));
        }
    }
}
