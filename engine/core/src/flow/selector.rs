//! What selects values from a scope: the inputs of steps, items of fan-outs, outputs of bodies.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::expression::Expression;
use super::scope::Scope;

pub use super::path::{InvalidPath, Path};
pub use super::template::{InvalidTemplate, InvalidTemplateReason, Template, TemplateTooLarge};

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
    /// Stable code, see [`SelectorError::CODE`].
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl SelectorError {
    /// The code of every selector error.
    pub const CODE: &'static str = "INPUT_ERROR";

    fn new(source: &impl ToString) -> Self {
        Self { code: Self::CODE, message: source.to_string() }
    }
}

impl Selector {
    /// The selected value; `None` when it is absent (which is not null).
    ///
    /// # Errors
    /// A CEL expression fails, or a filled template is too large.
    pub fn resolve(&self, scope: &Scope<'_>) -> Result<Option<Value>, SelectorError> {
        match self {
            Self::Key(key) => Ok(scope.key(key).map(Cow::into_owned)),
            Self::Keys(keys) => {
                let found = |key: &String| Some((key.clone(), scope.key(key)?.into_owned()));
                Ok(Some(Value::Object(keys.iter().filter_map(found).collect::<Map<_, _>>())))
            }
            Self::Path(path) => Ok(scope.get(path).map(Cow::into_owned)),
            Self::Template(template) => template.resolve(scope).map_err(|error| SelectorError::new(&error)),
            Self::Full => Ok(Some(Value::Object(scope.visible()))),
            Self::Static(value) => Ok(Some(value.clone())),
            Self::Expr(expression) => {
                expression.eval(scope).map(Some).map_err(|error| SelectorError::new(&error))
            }
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
