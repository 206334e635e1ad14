//! What selectors, templates and expressions can see. A scope borrows; nothing is copied until it is selected.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::dataset::{DatasetReads, DatasetTooLarge};
use super::path::{self, Path, Strings};
use crate::time::Timestamp;

/// Root key of the error that led to an `onFailure` step.
pub const ERROR_KEY: &str = "_error";
/// Root key of the data of the last resume.
pub const RESUME_KEY: &str = "_resume";
/// Root key below which each step's resume URL can be read.
pub const RESUME_URL_KEY: &str = "_resumeUrl";
/// Root key of the item of a `map`, unless the map names another.
pub const ITEM_KEY: &str = "item";
/// Root key of the parent's context.
pub const PARENT_KEY: &str = "parent";

/// The context of a parent at the moment of its fan-out: immutable, shared by all children, with the parent's own outer
/// snapshot behind it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The parent's own context.
    pub context: Map<String, Value>,
    /// What the parent itself saw outside its own context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Arc<Snapshot>>,
}

/// Facts about the execution that expressions see as `execution`.
#[derive(Clone, Debug)]
pub struct ExecutionFacts<'a> {
    /// `execution.id`.
    pub id: String,
    /// `execution.flowId`.
    pub flow_id: &'a str,
    /// `execution.startedAt` (RFC 3339).
    pub started_at: Timestamp,
    /// `execution.run`.
    pub run: u32,
}

/// What can be seen at one moment of one execution.
///
/// A root key is looked up in this order: the execution's own context; `_error`, `_resume`, `_resumeUrl`; `parent` (the
/// snapshot itself); the snapshot's keys, then its outer snapshot's, and so on. So a branch of a `parallel` sees the
/// parent's keys as if they were its own, and can still name them by `parent`.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The execution's own context.
    pub context: &'a Map<String, Value>,
    /// The parent's context at the fan-out.
    pub outer: Option<&'a Snapshot>,
    /// `_error`: the error of the step whose failure led here, `{code, message, stepId, details?}`.
    pub error: Option<&'a Value>,
    /// `_resume`: the data of the last resume.
    pub resume: Option<&'a Value>,
    /// `_resumeUrl.STEP`: gives the URL that resumes the named step. None: the path stays as text, `${_resumeUrl.STEP}`,
    /// so that what is recorded holds no token.
    pub resume_url: Option<&'a dyn Fn(&str) -> String>,
    /// `input` in expressions: the step's resolved input.
    pub input: Option<&'a Value>,
    /// `iteration` in expressions: iterations of the loop done so far.
    pub iteration: Option<u32>,
    /// `event` in expressions of `wait-event`: `{name, data}`.
    pub event: Option<&'a Value>,
    /// The datasets that can be read through references. None: references are data like any other.
    pub datasets: Option<&'a DatasetReads<'a>>,
    /// The key of `item` in expressions, within a `map` that names it differently.
    pub item_key: Option<&'a str>,
    /// `execution` in expressions.
    pub execution: &'a ExecutionFacts<'a>,
}

impl Snapshot {
    /// What the parent itself saw under a root key: its own context, its own `parent`, then what was outside it.
    fn key(&self, key: &str) -> Option<Cow<'_, Value>> {
        if let Some(own) = self.context.get(key) {
            return Some(Cow::Borrowed(own));
        }
        let outer = self.outer.as_deref()?;
        if key == PARENT_KEY {
            Some(Cow::Owned(Value::Object(outer.visible())))
        } else {
            outer.inherited(key)
        }
    }

    /// The value that a child inherits under a root key: the innermost snapshot that has it wins.
    fn inherited(&self, key: &str) -> Option<Cow<'_, Value>> {
        self.layers().find_map(|layer| layer.get(key)).map(Cow::Borrowed)
    }

    /// As [`Path::read`] from this snapshot; `segments` are those behind `parent`.
    fn get(
        &self,
        segments: &[Box<str>],
        datasets: Option<&DatasetReads<'_>>,
    ) -> Result<Option<Cow<'_, Value>>, DatasetTooLarge> {
        let Some((root, rest)) = segments.split_first() else {
            return Ok(Some(Cow::Owned(Value::Object(self.visible()))));
        };
        if root.as_ref() == PARENT_KEY && !self.context.contains_key(PARENT_KEY) {
            return self.outer.as_deref().map_or(Ok(None), |outer| outer.get(rest, datasets));
        }
        match self.layers().find_map(|layer| layer.get(root.as_ref())) {
            Some(value) => path::read(value, rest, Strings::Entered, datasets),
            None => Ok(None),
        }
    }

    /// This context, then the outer ones.
    fn layers(&self) -> impl Iterator<Item = &Map<String, Value>> {
        std::iter::successors(Some(self), |layer| layer.outer.as_deref()).map(|layer| &layer.context)
    }

    /// All keys of this snapshot and of those behind it.
    #[must_use]
    pub fn visible(&self) -> Map<String, Value> {
        overlay(&self.layers().collect::<Vec<_>>())
    }
}

impl<'a> Scope<'a> {
    /// The value of a root key, in the order of the type's documentation. The key is flat: dots are part of it.
    #[must_use]
    pub fn key(&self, key: &str) -> Option<Cow<'a, Value>> {
        if let Some(own) = self.context.get(key) {
            return Some(Cow::Borrowed(own));
        }
        match key {
            ERROR_KEY => {
                if let Some(error) = self.error {
                    return Some(Cow::Borrowed(error));
                }
            }
            RESUME_KEY => {
                if let Some(resume) = self.resume {
                    return Some(Cow::Borrowed(resume));
                }
            }
            PARENT_KEY => {
                if let Some(outer) = self.outer {
                    return Some(Cow::Owned(Value::Object(outer.visible())));
                }
            }
            _ => {}
        }
        self.outer?.inherited(key)
    }

    /// The value at a path, through references to datasets too. `_resumeUrl.STEP` gives a text even where URLs are not
    /// known (see [`Scope::resume_url`]).
    ///
    /// # Errors
    /// More is read than may be held in memory.
    pub fn get(&self, path: &Path) -> Result<Option<Cow<'a, Value>>, DatasetTooLarge> {
        let Some((root, rest)) = path.segments().split_first() else { return Ok(None) };
        if !self.context.contains_key(root.as_ref()) {
            if root.as_ref() == RESUME_URL_KEY {
                return Ok(self.resume_url_text(path));
            }
            // Without building the whole parent first.
            if let (PARENT_KEY, Some(outer)) = (root.as_ref(), self.outer) {
                return outer.get(rest, self.datasets);
            }
        }
        match self.key(root) {
            Some(Cow::Borrowed(value)) => path::read(value, rest, Strings::Entered, self.datasets),
            Some(Cow::Owned(value)) => Ok(path::read(&value, rest, Strings::Entered, self.datasets)?
                .map(|found| Cow::Owned(found.into_owned()))),
            None => Ok(None),
        }
    }

    /// `value`, or the array that it is a reference to: for what looks at all of a value.
    ///
    /// # Errors
    /// More is read than may be held in memory.
    pub fn whole<'v>(&self, value: Cow<'v, Value>) -> Result<Cow<'v, Value>, DatasetTooLarge> {
        match self.datasets {
            Some(datasets) => datasets.whole(value),
            None => Ok(value),
        }
    }

    /// All keys that can be seen, outer ones first, each with its innermost value; without `_error`, `_resume`,
    /// `_resumeUrl` and `parent`.
    #[must_use]
    pub fn visible(&self) -> Map<String, Value> {
        let outer = self.outer.into_iter().flat_map(Snapshot::layers);
        overlay(&std::iter::once(self.context).chain(outer).collect::<Vec<_>>())
    }

    /// The item of the innermost `map` around: `item` in expressions.
    #[must_use]
    pub fn item(&self) -> Option<Cow<'a, Value>> {
        self.key(self.item_key.unwrap_or(ITEM_KEY))
    }

    /// What the parent saw under a root key: `parent.KEY`. `None` without a parent.
    #[must_use]
    pub fn parent_key(&self, key: &str) -> Option<Cow<'a, Value>> {
        self.outer?.key(key)
    }

    fn resume_url_text(&self, path: &Path) -> Option<Cow<'a, Value>> {
        let step = path.as_str().strip_prefix(RESUME_URL_KEY)?.strip_prefix('.')?;
        let text = self.resume_url.map_or_else(|| format!("${{{path}}}"), |url| url(step));
        Some(Cow::Owned(Value::String(text)))
    }
}

/// Merges layers, given from the innermost outwards; a key keeps its outermost place and its innermost value, and each
/// value is copied once.
fn overlay(layers: &[&Map<String, Value>]) -> Map<String, Value> {
    let mut all = Map::new();
    for layer in layers.iter().rev() {
        for key in layer.keys() {
            if !all.contains_key(key)
                && let Some(value) = layers.iter().find_map(|layer| layer.get(key))
            {
                all.insert(key.clone(), value.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn facts() -> ExecutionFacts<'static> {
        ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 }
    }

    fn snapshots() -> Snapshot {
        let outermost = Snapshot { context: object(json!({"a": 1, "b": 1, "c": 1})), outer: None };
        Snapshot { context: object(json!({"b": 2, "_error": "stale"})), outer: Some(Arc::new(outermost)) }
    }

    #[test]
    fn roots_are_looked_up_from_the_inside_outwards() {
        let (facts, outer, error) = (facts(), snapshots(), json!({"code": "X"}));
        let context = object(json!({"item": 3, "c": 3}));
        let scope = Scope {
            context: &context,
            outer: Some(&outer),
            error: Some(&error),
            resume: None,
            resume_url: None,
            input: None,
            iteration: None,
            event: None,
            datasets: None,
            item_key: None,
            execution: &facts,
        };
        let get = |path: &str| scope.get(&Path::parse(path).unwrap()).unwrap().map(Cow::into_owned);
        for (path, wanted) in [
            ("item", Some(json!(3))),
            ("c", Some(json!(3))),
            ("b", Some(json!(2))),
            ("a", Some(json!(1))),
            ("_error.code", Some(json!("X"))),
            ("_resume", None),
            ("parent.b", Some(json!(2))),
            ("parent.a", Some(json!(1))),
            ("parent.item", None),
            ("parent.parent.b", Some(json!(1))),
            ("parent.parent.parent", None),
            ("parent.parent", Some(json!({"a": 1, "b": 1, "c": 1}))),
            ("_resumeUrl.ship", Some(json!("${_resumeUrl.ship}"))),
            ("_resumeUrl", None),
        ] {
            assert_eq!(get(path), wanted, "{path}");
        }
        assert_eq!(
            Value::Object(scope.visible()).to_string(),
            r#"{"a":1,"b":2,"c":3,"_error":"stale","item":3}"#
        );
        assert_eq!(scope.key("parent").map(Cow::into_owned), get("parent"));
        assert_eq!(scope.parent_key("c").map(Cow::into_owned), Some(json!(1)));

        let own = object(json!({"_error": "own", "_resumeUrl": {"ship": "own"}, "parent": {"a": "own"}}));
        let scope = Scope { context: &own, ..scope };
        let get = |path: &str| scope.get(&Path::parse(path).unwrap()).unwrap().map(Cow::into_owned);
        for path in ["_error", "_resumeUrl.ship", "parent.a"] {
            assert_eq!(get(path), Some(json!("own")), "{path}");
        }
    }
}
