//! The operators of `conditional`, as FlowMonkey's: strict equality, JavaScript's order.

use std::cmp::Ordering;

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::dataset::{DatasetReads, DatasetTooLarge};
use super::js;
use super::path::Path;

/// Steps back that one regular expression may take before the condition fails.
pub const REGEX_BACKTRACK_MAX: usize = 100_000;
/// Bytes of one regular expression as text.
pub const REGEX_BYTES_MAX: usize = 4 * 1024;
/// Bytes of one compiled regular expression.
pub const REGEX_COMPILED_BYTES_MAX: usize = 1024 * 1024;

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// `eq`: strictly equal. Objects and arrays never are.
    Eq,
    /// `neq`: not strictly equal.
    Neq,
    /// `gt`
    Gt,
    /// `gte`
    Gte,
    /// `lt`
    Lt,
    /// `lte`
    Lte,
    /// `in`: strictly equal to an element of an array.
    In,
    /// `nin`: strictly equal to no element of an array.
    Nin,
    /// `contains`: a text within a text.
    Contains,
    /// `startsWith`, of texts.
    StartsWith,
    /// `endsWith`, of texts.
    EndsWith,
    /// `exists`: present and not null.
    Exists,
    /// `notExists`: absent or null.
    NotExists,
    /// `matches`: a regular expression is found somewhere in a text.
    Matches,
}

impl Operator {
    /// Every operator, in the order of [`Operator::NAMES`].
    pub const ALL: [Self; 14] = [
        Self::Eq,
        Self::Neq,
        Self::Gt,
        Self::Gte,
        Self::Lt,
        Self::Lte,
        Self::In,
        Self::Nin,
        Self::Contains,
        Self::StartsWith,
        Self::EndsWith,
        Self::Exists,
        Self::NotExists,
        Self::Matches,
    ];

    /// The names of all operators.
    pub const NAMES: [&'static str; 14] = {
        let mut names = [""; 14];
        let mut index = 0;
        while index < names.len() {
            names[index] = Self::ALL[index].name();
            index += 1;
        }
        names
    };

    /// The name in flow definitions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Neq => "neq",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::In => "in",
            Self::Nin => "nin",
            Self::Contains => "contains",
            Self::StartsWith => "startsWith",
            Self::EndsWith => "endsWith",
            Self::Exists => "exists",
            Self::NotExists => "notExists",
            Self::Matches => "matches",
        }
    }

    /// The operator of that name. `None` when there is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operator| operator.name() == name)
    }
}

/// A condition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCondition {
    /// The pattern of `matches` cannot be read.
    #[error("`{pattern}` is not a regular expression: {reason}")]
    Regex {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The pattern of `matches` is too long.
    #[error("a regular expression has at most {REGEX_BYTES_MAX} bytes, this one has {bytes}")]
    RegexTooLong {
        /// Its length.
        bytes: usize,
    },
}

/// A condition cannot be decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// A regular expression takes too long.
    #[error("the regular expression at `{path}` gave up: {reason}")]
    Regex {
        /// The path whose value was matched.
        path: String,
        /// What the regular expression ran into.
        reason: String,
    },
    /// More of datasets is read than may be held in memory.
    #[error(transparent)]
    Dataset(#[from] DatasetTooLarge),
}

/// An operator over the value at a path.
#[derive(Clone, Debug)]
pub struct Condition {
    /// Where the value is; scalars are never entered.
    pub path: Path,
    /// How it is compared.
    pub operator: Operator,
    /// With what; none: `undefined`.
    pub value: Option<Value>,
    regex: Option<Regex>,
}

impl Condition {
    /// Makes a condition; compiles the pattern of `matches`. A value that the operator cannot use (a number for
    /// `startsWith`, a text for `in`) makes a condition that never holds.
    ///
    /// # Errors
    /// The pattern of `matches` is no regular expression or too large.
    pub fn new(path: Path, operator: Operator, value: Option<Value>) -> Result<Self, InvalidCondition> {
        let regex = match (operator, &value) {
            (Operator::Matches, Some(Value::String(pattern))) => Some(compile(pattern)?),
            _ => None,
        };
        Ok(Self { path, operator, value, regex })
    }

    /// Whether the condition holds for `input`, `None` being an absent one. Without `datasets`, references are data like
    /// any other.
    ///
    /// # Errors
    /// A regular expression takes more than [`REGEX_BACKTRACK_MAX`] steps back, or too much of datasets is read.
    pub fn holds(
        &self,
        input: Option<&Value>,
        datasets: Option<&DatasetReads<'_>>,
    ) -> Result<bool, ConditionError> {
        let mut found = match input {
            Some(input) => self.path.read_in_objects(input, datasets)?,
            None => None,
        };
        // To the others, an array is what an object is: there, but equal to nothing and no text.
        let orders = matches!(self.operator, Operator::Gt | Operator::Gte | Operator::Lt | Operator::Lte);
        if let Some(datasets) = datasets.filter(|_| orders) {
            found = found.map(|found| datasets.whole(found)).transpose()?;
        }
        let actual = found.as_deref();
        let wanted = self.value.as_ref();
        Ok(match self.operator {
            Operator::Eq => equals(actual, wanted),
            Operator::Neq => !equals(actual, wanted),
            Operator::Gt => js::compare(actual, wanted) == Some(Ordering::Greater),
            Operator::Gte => js::compare(actual, wanted).is_some_and(Ordering::is_ge),
            Operator::Lt => js::compare(actual, wanted) == Some(Ordering::Less),
            Operator::Lte => js::compare(actual, wanted).is_some_and(Ordering::is_le),
            Operator::In => elements(wanted).is_some_and(|items| contains(items, actual)),
            Operator::Nin => elements(wanted).is_some_and(|items| !contains(items, actual)),
            Operator::Contains => texts(actual, wanted).is_some_and(|(text, part)| text.contains(part)),
            Operator::StartsWith => texts(actual, wanted).is_some_and(|(text, part)| text.starts_with(part)),
            Operator::EndsWith => texts(actual, wanted).is_some_and(|(text, part)| text.ends_with(part)),
            Operator::Exists => actual.is_some_and(|value| !value.is_null()),
            Operator::NotExists => actual.is_none_or(Value::is_null),
            Operator::Matches => match (&self.regex, actual) {
                (Some(regex), Some(Value::String(text))) => regex.is_match(text).map_err(|error| {
                    ConditionError::Regex { path: self.path.to_string(), reason: error.to_string() }
                })?,
                (Some(_) | None, _) => false,
            },
        })
    }
}

fn compile(pattern: &str) -> Result<Regex, InvalidCondition> {
    if pattern.len() > REGEX_BYTES_MAX {
        return Err(InvalidCondition::RegexTooLong { bytes: pattern.len() });
    }
    RegexBuilder::new(pattern)
        .backtrack_limit(REGEX_BACKTRACK_MAX)
        .delegate_size_limit(REGEX_COMPILED_BYTES_MAX)
        .build()
        .map_err(|error| InvalidCondition::Regex { pattern: pattern.into(), reason: error.to_string() })
}

fn equals(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(left), Some(right)) => js::strict_equals(left, right),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn elements(value: Option<&Value>) -> Option<&Vec<Value>> {
    value.and_then(Value::as_array)
}

fn contains(items: &[Value], actual: Option<&Value>) -> bool {
    actual.is_some_and(|actual| items.iter().any(|item| js::strict_equals(item, actual)))
}

fn texts<'v>(left: Option<&'v Value>, right: Option<&'v Value>) -> Option<(&'v str, &'v str)> {
    Some((left?.as_str()?, right?.as_str()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(path: &str, operator: Operator, value: Option<Value>) -> bool {
        let input = json!({
            "n": 5, "s": "hello", "none": null, "truth": true, "list": [1, 2], "o": {"a": 1}, "numeric": "12",
        });
        let condition = Condition::new(Path::parse(path).unwrap(), operator, value).unwrap();
        condition.holds(Some(&input), None).unwrap()
    }

    #[test]
    fn operators_follow_javascript() {
        use Operator::{
            Contains, EndsWith, Eq, Exists, Gt, Gte, In, Lt, Lte, Matches, Neq, Nin, NotExists, StartsWith,
        };
        for (path, operator, value, wanted) in [
            ("n", Eq, json!(5.0), true),
            ("n", Eq, json!("5"), false),
            ("o", Eq, json!({"a": 1}), false),
            ("none", Eq, json!(null), true),
            ("missing", Eq, json!(null), false),
            ("n", Neq, json!("5"), true),
            ("n", Neq, json!(5), false),
            ("o", Neq, json!({"a": 1}), true),
            ("missing", Neq, json!(1), true),
            ("n", Gt, json!(4), true),
            ("n", Gt, json!(5), false),
            ("numeric", Gt, json!(2), true),
            ("numeric", Gt, json!("2"), false),
            ("n", Gte, json!(5), true),
            ("none", Gte, json!(0), true),
            ("missing", Gte, json!(0), false),
            ("missing", Lte, json!(0), false),
            ("n", Lt, json!("6"), true),
            ("s", Lt, json!(6), false),
            ("n", Lte, json!(5), true),
            ("n", Lte, json!(4.5), false),
            ("n", In, json!([1, 5]), true),
            ("n", In, json!(["5"]), false),
            ("n", In, json!("5"), false),
            ("o", In, json!([{"a": 1}]), false),
            ("missing", In, json!([null]), false),
            ("n", Nin, json!([1]), true),
            ("n", Nin, json!([5]), false),
            ("missing", Nin, json!([1]), true),
            ("n", Nin, json!("x"), false),
            ("s", Contains, json!("ell"), true),
            ("s", Contains, json!("x"), false),
            ("list", Contains, json!(1), false),
            ("s", StartsWith, json!("he"), true),
            ("s", StartsWith, json!("lo"), false),
            ("n", StartsWith, json!("5"), false),
            ("s", EndsWith, json!("lo"), true),
            ("s", EndsWith, json!("he"), false),
            ("s", Matches, json!("l{2}"), true),
            ("s", Matches, json!("^l"), false),
            ("s", Matches, json!("(?=o)o$"), true),
            ("s", Matches, json!("(l)\\1"), true),
            ("n", Matches, json!("5"), false),
            ("s", Matches, json!(5), false),
            ("n", Exists, json!(null), true),
            ("none", Exists, json!(null), false),
            ("missing", Exists, json!(null), false),
            ("none", NotExists, json!(null), true),
            ("missing", NotExists, json!(null), true),
            ("n", NotExists, json!(null), false),
            ("s.length", Exists, json!(null), false),
            ("list.1", Eq, json!(2), true),
        ] {
            assert_eq!(
                holds(path, operator, Some(value.clone())),
                wanted,
                "{path} {} {value}",
                operator.name()
            );
        }
    }

    #[test]
    fn an_absent_value_is_undefined() {
        assert!(holds("missing", Operator::Eq, None));
        assert!(!holds("none", Operator::Eq, None));
        assert!(!holds("missing", Operator::Neq, None));
        for operator in [Operator::Gt, Operator::Lte, Operator::In, Operator::Nin, Operator::Matches] {
            assert!(!holds("n", operator, None), "{operator:?}");
        }
        let exists = Condition::new(Path::parse("a").unwrap(), Operator::NotExists, None).unwrap();
        assert_eq!(exists.holds(None, None), Ok(true));
    }

    #[test]
    fn names_are_read_back() {
        for (name, operator) in Operator::NAMES.into_iter().zip(Operator::ALL) {
            assert_eq!(Operator::parse(name), Some(operator));
        }
        assert_eq!(Operator::parse("EQ"), None);
        assert_eq!(Operator::parse("regex"), None);
    }

    #[test]
    fn regular_expressions_have_limits() {
        let matches = |pattern: &str| {
            Condition::new(Path::parse("s").unwrap(), Operator::Matches, Some(json!(pattern)))
        };
        assert!(matches!(matches("("), Err(InvalidCondition::Regex { .. })));
        assert!(matches!(matches("((a{1000}){1000}){1000}"), Err(InvalidCondition::Regex { .. })));
        let long = "a".repeat(REGEX_BYTES_MAX + 1);
        assert_eq!(matches(&long).unwrap_err(), InvalidCondition::RegexTooLong { bytes: long.len() });
        let slow = matches("^(a|aa)+(?!c)\\1b$").unwrap();
        assert_eq!(
            slow.holds(Some(&json!({"s": "a".repeat(200)})), None).map_err(|error| match error {
                ConditionError::Regex { path, .. } => path,
                ConditionError::Dataset(error) => error.to_string(),
            }),
            Err("s".into())
        );
    }
}
