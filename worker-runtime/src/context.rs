//! What a handler sees of the context, and the changes that it stages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flowmonkey_plumbing::api::{CONTEXT_PATH_BYTES_MAX, PlumbingError};
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::wire::ContextOperation;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::backoff::Backoff;
use crate::handler::Task;

/// Parts of a context that are kept for the next read.
const PARTS_MAX: usize = 64;
/// Bytes of such a part, about; larger ones are read anew.
const PART_BYTES_MAX: usize = 64 * 1024;
/// Bytes of changes, about, that travel with the result; more are staged.
const CARRIED_BYTES_MAX: usize = 512 * 1024;
/// A patch may have been stored or not: what follows it cannot be numbered.
pub(crate) const PATCH_UNCERTAIN: &str = "CONTEXT_PATCH_UNCERTAIN";

/// What one attempt has read and staged of its context.
#[derive(Default)]
pub(crate) struct ContextState {
    /// All of it, once it was asked for.
    whole: OnceCell<Value>,
    /// Parts that were read, by path; none: nothing is there.
    parts: Mutex<BTreeMap<String, Option<Value>>>,
    /// Bytes of the changes that travel with the result.
    carried: Mutex<usize>,
    /// Who stages holds it, so that patches are numbered in the order of the calls.
    staging: tokio::sync::Mutex<Staging>,
}

#[derive(Default)]
struct Staging {
    /// Patches that are staged for certain.
    staged: u32,
    /// Nobody knows whether the next one is staged, too.
    uncertain: bool,
}

impl ContextState {
    fn parts(&self) -> MutexGuard<'_, BTreeMap<String, Option<Value>>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// The value at a dotted `path` of the context, as the attempt found it: `items.0.price`. Of what the step declared only;
    /// none: nothing is there. A context that did not travel with the task is read in parts from the engine; the same part
    /// is asked for once. Changes by this attempt are not seen.
    ///
    /// Waits while no engine can be reached; the attempt's own limit ends the wait.
    ///
    /// # Errors
    /// When the attempt is stale or is to be cancelled, or what is read is too large.
    pub async fn read_context(&self, path: &str) -> Result<Option<Value>, PlumbingError> {
        if path.len() > CONTEXT_PATH_BYTES_MAX || path.split('.').any(str::is_empty) {
            return Err(PlumbingError::Refused {
                code: "INVALID_REQUEST".into(),
                detail: "a path is dotted, has no empty part, and is not too long".into(),
            });
        }
        if self.message.context_url.is_none() {
            return Ok(at_path(&self.message.context, path).map(Cow::into_owned));
        }
        if let Some(whole) = self.context.whole.get() {
            return Ok(at_path(whole, path).map(Cow::into_owned));
        }
        if let Some(known) = self.context.parts().get(path) {
            return Ok(known.clone());
        }
        let read = || self.plumbing.read_context(&self.access, Some(path));
        let value = self.patiently("a part of the context cannot be read yet", read).await?;
        if value.as_ref().is_none_or(|value| is_small(value, &mut PART_BYTES_MAX.clone())) {
            let mut parts = self.context.parts();
            if parts.len() < PARTS_MAX {
                parts.insert(path.to_owned(), value.clone());
            }
        }
        Ok(value)
    }

    /// All that the step declared of the context, also when it did not travel with the task: then it is read from the
    /// engine once, and stays in memory until the attempt ends. Handlers that need little of it use [`Self::read_context`].
    ///
    /// Waits while no engine can be reached; the attempt's own limit ends the wait.
    ///
    /// # Errors
    /// As [`Self::read_context`].
    pub async fn load_context(&self) -> Result<&Value, PlumbingError> {
        if self.message.context_url.is_none() {
            return Ok(&self.message.context);
        }
        let read = || self.plumbing.read_context(&self.access, None);
        let load = async || {
            let whole = self.patiently("the context cannot be read yet", read).await?;
            Ok(whole.unwrap_or_default())
        };
        self.context.whole.get_or_try_init(load).await
    }

    /// Stores changes of the context with the engine now, so that the result does not have to carry them: they are merged in
    /// the result's commit, and dropped when the attempt fails or is lost. Changes by [`Self::update_context`] before this
    /// call are stored with them, so that the order of the calls is kept; a later change wins.
    ///
    /// Waits while no engine can be reached; the attempt's own limit ends the wait.
    ///
    /// # Errors
    /// When the attempt is stale or is to be cancelled, or the engine refuses the changes: then none of them is stored.
    pub async fn stage_context(&self, operations: Vec<ContextOperation>) -> Result<(), PlumbingError> {
        let mut staging = self.context.staging.lock().await;
        if staging.uncertain {
            return Err(PlumbingError::Refused {
                code: PATCH_UNCERTAIN.into(),
                detail: "whether the patch before this one is stored is not known".into(),
            });
        }
        let mut patch = self.journal.take_context();
        let own = patch.len();
        patch.extend(operations);
        if patch.is_empty() {
            self.journal.put_context_back(patch);
            return Ok(());
        }
        let next = staging.staged + 1;
        // Dropped half-way, it may have reached the engine.
        staging.uncertain = true;
        let stage = || self.plumbing.stage_context(&self.access, next, &patch);
        let staged = self.patiently("changes of the context cannot be staged yet", stage).await;
        match staged {
            Ok(()) => {
                (staging.staged, staging.uncertain) = (next, false);
                self.journal.staged(next);
                Ok(())
            }
            Err(error) => {
                staging.uncertain = matches!(error, PlumbingError::Unavailable(_));
                patch.truncate(own);
                self.journal.put_context_back(patch);
                Err(error)
            }
        }
    }

    /// Changes the context, by the result when the changes are small, else by staging them. The order of the calls is kept.
    pub(crate) async fn change_context(
        &self,
        operations: Vec<ContextOperation>,
    ) -> Result<(), PlumbingError> {
        if self.may_carry(&operations) {
            for operation in operations {
                self.update_context(operation);
            }
            return Ok(());
        }
        self.stage_context(operations).await?;
        *self.context.carried.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        Ok(())
    }

    fn may_carry(&self, operations: &[ContextOperation]) -> bool {
        let mut carried = self.context.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = CARRIED_BYTES_MAX.saturating_sub(*carried);
        let fits = operations.iter().all(|operation| match operation {
            ContextOperation::Set { path, value } => {
                spend(path.len(), &mut left) && is_small(value, &mut left)
            }
            ContextOperation::Merge { value } => {
                value.iter().all(|(key, value)| spend(key.len(), &mut left) && is_small(value, &mut left))
            }
            ContextOperation::Delete { path } => spend(path.len(), &mut left),
        });
        if fits {
            *carried = CARRIED_BYTES_MAX - left;
        }
        fits
    }

    /// Repeats a call while no engine can be reached: to fail would use up the step's budget for nothing. The attempt's own
    /// limit ends the wait.
    async fn patiently<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<T, PlumbingError>
    where
        F: Future<Output = Result<T, PlumbingError>>,
    {
        let entropy = SystemEntropy::new();
        let mut backoff = Backoff::default();
        loop {
            match call().await {
                Err(PlumbingError::Unavailable(error)) if !self.cancelled.is_cancelled() => {
                    tracing::warn!(delivery = %self.access.delivery, %error, "{what}");
                }
                done => return done,
            }
            tokio::select! {
                () = self.cancelled.cancelled() => {}
                () = tokio::time::sleep(backoff.next(&entropy)) => {}
            }
        }
    }
}

/// The value at a dotted path, by the rules of the engine: lists and strings are entered by index and have a `length`;
/// nothing is below a null.
fn at_path<'v>(value: &'v Value, path: &str) -> Option<Cow<'v, Value>> {
    path.split('.').try_fold(Cow::Borrowed(value), |here, segment| match here {
        Cow::Borrowed(here) => property(here, segment),
        // Only lengths and characters are made on the way.
        Cow::Owned(here) => property(&here, segment).map(|found| Cow::Owned(found.into_owned())),
    })
}

fn property<'v>(value: &'v Value, name: &str) -> Option<Cow<'v, Value>> {
    match value {
        Value::Object(map) => map.get(name).map(Cow::Borrowed),
        Value::Array(items) if name == "length" => Some(Cow::Owned(items.len().into())),
        Value::Array(items) => items.get(index(name)?).map(Cow::Borrowed),
        Value::String(text) if name == "length" => Some(Cow::Owned(text.encode_utf16().count().into())),
        Value::String(text) => {
            let unit = text.encode_utf16().nth(index(name)?)?;
            let character = char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
            Some(Cow::Owned(character.to_string().into()))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// An index as JavaScript writes it: no sign, no leading zero.
fn index(segment: &str) -> Option<usize> {
    let is_index = segment.bytes().all(|byte| byte.is_ascii_digit())
        && !segment.is_empty()
        && (segment.len() == 1 || !segment.starts_with('0'));
    if is_index { segment.parse().ok() } else { None }
}

/// Whether a value has at most so many bytes, about; looks no further than that.
fn is_small(value: &Value, left: &mut usize) -> bool {
    let own = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => {
            if !items.iter().all(|item| is_small(item, left)) {
                return false;
            }
            2
        }
        Value::Object(map) => {
            if !map.iter().all(|(key, value)| spend(key.len() + 4, left) && is_small(value, left)) {
                return false;
            }
            2
        }
    };
    spend(own, left)
}

fn spend(bytes: usize, left: &mut usize) -> bool {
    match left.checked_sub(bytes) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_the_engine_says() {
        let context = json!({ "a": [{ "b": null }, "é😀"], "__proto__": 1, "": 2, "01": 3 });
        for (path, wanted) in [
            ("a.0", Some(json!({ "b": null }))),
            ("a.0.b", Some(Value::Null)),
            ("a.0.b.c", None),
            ("a.length", Some(json!(2))),
            ("a.1.length", Some(json!(3))),
            ("a.1.0.length", Some(json!(1))),
            ("a.1.3", None),
            ("a.1.length.length", None),
            ("a.00", None),
            ("a.-1", None),
            ("a.2", None),
            ("a..0", None),
            ("__proto__", Some(json!(1))),
            ("__proto__.x", None),
            ("constructor", None),
            ("01", Some(json!(3))),
        ] {
            assert_eq!(at_path(&context, path).map(Cow::into_owned), wanted, "{path}");
        }
    }

    #[test]
    fn small_is_measured_no_further_than_needed() {
        assert!(is_small(&json!({ "a": ["b", 1] }), &mut 100));
        assert!(!is_small(&json!({ "a": ["b".repeat(100), 1] }), &mut 100));
        assert!(!is_small(&json!(vec![0; 100]), &mut 100));
    }
}
