//! Results that are too large for a context: read by page, and only when a decision needs them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use flowmonkey_core::context::json_size;
use flowmonkey_core::execution::{Dataset, DatasetReference};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::limits::DATASET_BYTES_MAX;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::store::{ChildRow, StoreError};

/// Children that are read at a time.
const CHILDREN_PAGE: usize = 1000;

/// The datasets that decisions on one execution may see, and the first that they asked for in vain.
#[derive(Default)]
pub(crate) struct Datasets {
    known: BTreeMap<DatasetReference, Dataset>,
    missed: Mutex<Option<DatasetReference>>,
}

impl Datasets {
    /// What is known of a dataset; asked for in vain, it is noted, and the decision has to be made again.
    pub(crate) fn get(&self, reference: &DatasetReference) -> Dataset {
        self.known.get(reference).cloned().unwrap_or_else(|| {
            self.missed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(*reference);
            Dataset::Unknown
        })
    }

    /// Reads what was asked for in vain; false when that was nothing. Only the first: what a decision asks for after
    /// that, it may ask for by mistake.
    pub(crate) async fn fetch(&mut self, engine: &Engine, root: ExecutionId) -> Result<bool, StoreError> {
        let missed = self.missed.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(reference) = missed else { return Ok(false) };
        let dataset = engine.dataset(root, &reference).await?;
        self.known.insert(reference, dataset);
        Ok(true)
    }
}

impl Engine {
    /// The results of a fan-out that is over, of an execution of the tree of `root`. References are data and may be
    /// forged: what belongs to another tree is nothing.
    async fn dataset(&self, root: ExecutionId, reference: &DatasetReference) -> Result<Dataset, StoreError> {
        let DatasetReference { execution, join, settled } = *reference;
        let parent = self.store.load(&[execution]).await?.pop();
        let is_own =
            parent.is_some_and(|parent| parent.identity.root == root && (1..=parent.joins).contains(&join));
        // It is complete before the parent takes its result, and gone afterwards; until then the results change.
        let is_over = match self.store.join_state(execution, join).await? {
            Some(state) => state.is_complete(),
            None => true,
        };
        if !is_own || !is_over {
            return Ok(Dataset::Unknown);
        }
        let cached = self.datasets.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
        if let Some(cached) = cached {
            return Ok(cached);
        }
        let mut rows = Vec::new();
        let mut bytes: usize = 2;
        let mut from = 0;
        loop {
            let page = self.store.children(execution, join, from, CHILDREN_PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.index + 1;
            let is_last = page.len() < CHILDREN_PAGE;
            for child in page {
                let row = shown(child, settled);
                bytes = bytes.saturating_add(json_size(&row)).saturating_add(1);
                if bytes > DATASET_BYTES_MAX {
                    return Ok(Dataset::TooLarge);
                }
                rows.push(row);
            }
            if is_last {
                break;
            }
        }
        let dataset = Dataset::Rows { rows: Arc::new(Value::Array(rows)), bytes };
        self.datasets.lock().unwrap_or_else(PoisonError::into_inner).put(*reference, dataset.clone());
        Ok(dataset)
    }
}

/// A child's result in the form that it would have in the context.
fn shown(child: ChildRow, settled: bool) -> Value {
    match (settled, child.error) {
        (true, Some(error)) => json!({ "status": child.status, "error": error.to_value() }),
        (true, None) => json!({ "status": child.status, "output": child.output }),
        (false, _) => child.output.unwrap_or(Value::Null),
    }
}
