//! What selects values from a scope: the inputs of steps, items of fan-outs, outputs of bodies.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::dataset::DatasetTooLarge;
use super::expression::{Expression, ExpressionError};
use super::scope::Scope;

pub use super::path::{InvalidPath, Path};
pub use super::template::{FillError, InvalidTemplate, InvalidTemplateReason, Template, TemplateTooLarge};

/// Selects one value from a scope.
#[derive(Debug)]
pub enum Selector {
    /// One root key; dots are part of it. Missing: absent.
    Key(String),
    /// An object of those root keys that exist.
    Keys(Vec<String>),
    /// The value at a path. Missing: absent.
    Path(Path),
    /// A filled template.
    Template(Template),
    /// All keys that can be seen, see [`Scope::visible`].
    Full,
    /// Always this value.
    Static(Value),
    /// CEL.
    Expr(Expression),
}

/// A selector cannot give its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// Stable code: [`SelectorError::CODE`] or [`DatasetTooLarge::CODE`].
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl SelectorError {
    /// The code of what the selector itself cannot do.
    pub const CODE: &'static str = "INPUT_ERROR";
}

impl From<DatasetTooLarge> for SelectorError {
    fn from(error: DatasetTooLarge) -> Self {
        Self { code: DatasetTooLarge::CODE, message: error.to_string() }
    }
}

impl From<FillError> for SelectorError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Dataset(error) => error.into(),
            FillError::TooLarge(error) => Self { code: Self::CODE, message: error.to_string() },
        }
    }
}

impl From<ExpressionError> for SelectorError {
    fn from(error: ExpressionError) -> Self {
        let code = if error.dataset.is_some() { DatasetTooLarge::CODE } else { Self::CODE };
        Self { code, message: error.to_string() }
    }
}

impl Selector {
    /// The selected value; `None` when it is absent (which is not null).
    ///
    /// # Errors
    /// A CEL expression fails, a filled template is too large, or more of datasets is read than may be held in memory.
    pub fn resolve(&self, scope: &Scope<'_>) -> Result<Option<Value>, SelectorError> {
        match self {
            Self::Key(key) => Ok(scope.key(key).map(Cow::into_owned)),
            Self::Keys(keys) => {
                let found = |key: &String| Some((key.clone(), scope.key(key)?.into_owned()));
                Ok(Some(Value::Object(keys.iter().filter_map(found).collect::<Map<_, _>>())))
            }
            Self::Path(path) => Ok(scope.get(path)?.map(Cow::into_owned)),
            Self::Template(template) => Ok(template.resolve(scope)?),
            Self::Full => Ok(Some(Value::Object(scope.visible()))),
            Self::Static(value) => Ok(Some(value.clone())),
            Self::Expr(expression) => Ok(Some(expression.eval(scope)?)),
        }
    }

    /// Which root keys the selector may read.
    #[must_use]
    pub fn needs(&self) -> Needs {
        match self {
            Self::Key(key) => Needs::roots([key.as_str()]),
            Self::Keys(keys) => Needs::roots(keys.iter().map(String::as_str)),
            Self::Path(path) => Needs::roots([path.root()]),
            Self::Template(template) => Needs::roots(template.paths().into_iter().map(Path::root)),
            Self::Full => Needs::All,
            Self::Static(_) => Needs::default(),
            Self::Expr(expression) => expression.needs(),
        }
    }
}

/// Which root keys of a scope something may read: names of context keys, and `_error`, `_resume`, `_resumeUrl`,
/// `parent` where it names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// All of them.
    All,
    /// Only these.
    Roots(BTreeSet<String>),
}

impl Default for Needs {
    /// Nothing.
    fn default() -> Self {
        Self::Roots(BTreeSet::new())
    }
}

impl Needs {
    /// Only these roots.
    pub fn roots<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        Self::Roots(keys.into_iter().map(str::to_owned).collect())
    }

    /// What either reads.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        match (self, other) {
            (Self::Roots(mut left), Self::Roots(right)) => {
                left.extend(right);
                Self::Roots(left)
            }
            (Self::All, Self::All | Self::Roots(_)) | (Self::Roots(_), Self::All) => Self::All,
        }
    }

    /// Whether the root key may be read.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::Roots(roots) => roots.contains(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::{ExecutionFacts, Snapshot};
    use super::*;
    use crate::time::Timestamp;

    fn path(text: &str) -> Selector {
        Selector::Path(Path::parse(text).unwrap())
    }

    fn keys(names: &[&str]) -> Selector {
        Selector::Keys(names.iter().map(|&name| name.to_owned()).collect())
    }

    fn resolve(selector: &Selector, outer: Option<&Snapshot>) -> Result<Option<Value>, SelectorError> {
        let facts =
            ExecutionFacts { id: "ex_1".into(), flow_id: "f", started_at: Timestamp::from_millis(0), run: 1 };
        let context = json!({"z": 1, "a": {"b": {"c": {"d": "deep"}}}, "none": null, "dotted.key": 2});
        let error = json!({"code": "X"});
        let scope = Scope {
            context: context.as_object().unwrap(),
            outer,
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
        selector.resolve(&scope)
    }

    #[test]
    fn selectors_follow_section_6_4() {
        for (rule, selector, wanted) in [
            ("(1) key: present", Selector::Key("z".into()), Some(json!(1))),
            ("(2) key: missing", Selector::Key("y".into()), None),
            ("key: dots are not split", Selector::Key("dotted.key".into()), Some(json!(2))),
            ("key: the error", Selector::Key("_error".into()), Some(json!({"code": "X"}))),
            ("(3) keys: both", keys(&["none", "z"]), Some(json!({"none": null, "z": 1}))),
            ("(4) keys: missing left out", keys(&["z", "y"]), Some(json!({"z": 1}))),
            ("(5) keys: none present", keys(&["x", "y"]), Some(json!({}))),
            ("(6) path: two levels", path("a.b"), Some(json!({"c": {"d": "deep"}}))),
            ("(7) path: four levels", path("a.b.c.d"), Some(json!("deep"))),
            ("(8) path: missing branch", path("a.x.c"), None),
            ("(9) path: through null", path("none.a"), None),
            (
                "(17) full",
                Selector::Full,
                Some(json!({"z": 1, "a": {"b": {"c": {"d": "deep"}}}, "none": null, "dotted.key": 2})),
            ),
            ("(18) static: object", Selector::Static(json!({"a": "${z}"})), Some(json!({"a": "${z}"}))),
            ("(19) static: null", Selector::Static(json!(null)), Some(json!(null))),
            ("(20) static: number", Selector::Static(json!(3)), Some(json!(3))),
            ("expr", Selector::Expr(Expression::parse("context.z + 1").unwrap()), Some(json!(2))),
        ] {
            assert_eq!(resolve(&selector, None), Ok(wanted), "{rule}");
        }
    }

    #[test]
    fn full_overlays_what_is_outside() {
        let outer =
            Snapshot { context: json!({"outer": 5, "z": 0}).as_object().cloned().unwrap(), outer: None };
        let full = resolve(&Selector::Full, Some(&outer)).unwrap().unwrap();
        assert_eq!(
            full.to_string(),
            r#"{"outer":5,"z":1,"a":{"b":{"c":{"d":"deep"}}},"none":null,"dotted.key":2}"#
        );
    }

    #[test]
    fn a_failing_expression_is_an_input_error() {
        let error = resolve(&Selector::Expr(Expression::parse("context.y").unwrap()), None).unwrap_err();
        assert_eq!(
            (error.code, error.to_string().as_str()),
            ("INPUT_ERROR", "`context.y`: there is no key `y`")
        );
    }

    #[test]
    fn needs_are_root_keys() {
        let template = Template::parse(&json!(["${a.b}", "${_error.code}"])).unwrap();
        for (selector, wanted) in [
            (Selector::Key("a.b".into()), Needs::roots(["a.b"])),
            (keys(&["b", "a"]), Needs::roots(["a", "b"])),
            (path("a.b"), Needs::roots(["a"])),
            (Selector::Template(template), Needs::roots(["_error", "a"])),
            (Selector::Full, Needs::All),
            (Selector::Static(json!(1)), Needs::roots([])),
            (Selector::Expr(Expression::parse("context.a.b + item").unwrap()), Needs::roots(["a", "item"])),
        ] {
            assert_eq!(selector.needs(), wanted, "{selector:?}");
        }
        let union = Needs::roots(["a"]).union(Needs::roots(["b"]));
        assert_eq!(union, Needs::roots(["a", "b"]));
        assert!(union.contains("b") && !union.contains("c"));
        assert_eq!(union.union(Needs::All), Needs::All);
        assert!(Needs::All.contains("anything"));
    }
}
