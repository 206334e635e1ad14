//! CEL expressions over a scope.
//!
//! Deliberately absent: the clock, randomness, and anything that could make one decision come out twice differently.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, LazyLock};

use cel::parser::PrattParser;
use cel::{Context, Env};
use serde_json::Value;

use super::dataset::DatasetTooLarge;
use super::scope::Scope;
use super::selector::Needs;
use crate::limits::EXPRESSION_BYTES_MAX;

mod analysis;
mod guard;
mod pending;
mod prepare;
mod values;

use pending::Known;
use values::Unconvertible;

pub use analysis::COMPREHENSION_DEPTH_MAX;
pub use guard::NESTING_MAX;
pub use prepare::EVALUATION_COST_MAX;
pub use values::VALUE_DEPTH_MAX;

/// The text is not an expression that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{expression}`: {message}")]
pub struct InvalidExpression {
    /// The start of the text.
    pub expression: String,
    /// What is wrong.
    pub message: String,
}

/// An expression cannot be evaluated in this scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{expression}`: {message}")]
pub struct ExpressionError {
    /// The start of the expression.
    pub expression: String,
    /// What went wrong.
    pub message: String,
    /// Set when it reads more of datasets than may be held in memory.
    pub dataset: Option<DatasetTooLarge>,
}

/// The message when the CEL library panics. No input is known to cause it.
pub const BROKE_OFF: &str = "the CEL library broke off";

/// Characters of an expression or a cause that an error repeats.
const QUOTED_CHARS_MAX: usize = 200;

/// A CEL expression, parsed and checked once.
#[derive(Clone, Debug)]
pub struct Expression {
    source: Box<str>,
    program: Arc<cel::IdedExpr>,
    reads: Arc<analysis::Reads>,
}

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(prepare::environment()));

/// Runs a part of the CEL library; `None` when it panics: a flow must not be able to stop the engine, even by an input
/// that we do not know of.
fn contained<T>(run: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(run)).ok()
}

impl Expression {
    /// Parses an expression. It can use `context`, `input`, `item`, `index`, `iteration`, `parent`, `event`, `execution`
    /// and the pure standard functions and macros of CEL.
    ///
    /// # Errors
    /// Longer than [`EXPRESSION_BYTES_MAX`], nested deeper than [`NESTING_MAX`], comprehensions within comprehensions
    /// deeper than [`COMPREHENSION_DEPTH_MAX`], not CEL, or an unknown variable or function.
    pub fn parse(source: &str) -> Result<Self, InvalidExpression> {
        let invalid = |message: String| InvalidExpression { expression: quoted(source), message };
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(invalid(format!("longer than {EXPRESSION_BYTES_MAX} bytes")));
        }
        guard::check(source).map_err(|refused| invalid(refused.to_string()))?;
        let mut program = contained(|| PrattParser::new().max_recursion_depth(NESTING_MAX).parse(source))
            .ok_or_else(|| invalid(BROKE_OFF.into()))?
            .map_err(|errors| invalid(first_message(&errors)))?;
        let reads = analysis::analyse(&program).map_err(|refused| invalid(refused.to_string()))?;
        prepare::prepare(&mut program);
        Ok(Self { source: source.into(), program: Arc::new(program), reads: Arc::new(reads) })
    }

    /// The expression as written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The expression's value. Keys of objects are sorted.
    ///
    /// # Errors
    /// A missing key, operands that do not fit, comprehensions that cost more than [`EVALUATION_COST_MAX`], or more read
    /// of datasets than may be held in memory.
    pub fn eval(&self, scope: &Scope<'_>) -> Result<Value, ExpressionError> {
        let mut known = Known::default();
        loop {
            let value = self.eval_with(scope, &known);
            let Some(datasets) = scope.datasets else { return value };
            match known.read(datasets) {
                Ok(true) => {}
                Ok(false) => return value,
                Err(error) => return Err(self.too_large(error)),
            }
        }
    }

    fn eval_with(&self, scope: &Scope<'_>, known: &Known) -> Result<Value, ExpressionError> {
        let failed =
            |message: String| ExpressionError { expression: quoted(&self.source), message, dataset: None };
        let mut context = Context::with_env(Arc::clone(&ENV));
        let pending = values::declare_variables(&mut context, scope, &self.reads, known).map_err(
            |error| match error {
                Unconvertible::Dataset(error) => self.too_large(error),
                Unconvertible::TooDeep | Unconvertible::NotJson(_) => failed(error.to_string()),
            },
        )?;
        let given = prepare::declare_budget(&mut context, pending);
        contained(|| context.resolve(&self.program))
            .ok_or_else(|| failed(BROKE_OFF.into()))?
            .map_err(|error| failed(values::explain(&error)))?;
        let value = given.take().ok_or_else(|| failed(BROKE_OFF.into()))?;
        value.map_err(|error| failed(error.to_string()))
    }

    fn too_large(&self, error: DatasetTooLarge) -> ExpressionError {
        ExpressionError { expression: quoted(&self.source), message: error.to_string(), dataset: Some(error) }
    }

    /// Whether the expression is true.
    ///
    /// # Errors
    /// As [`Expression::eval`], and when the value is not a boolean.
    pub fn holds(&self, scope: &Scope<'_>) -> Result<bool, ExpressionError> {
        let value = self.eval(scope)?;
        value.as_bool().ok_or_else(|| ExpressionError {
            expression: quoted(&self.source),
            message: format!("a condition must be true or false, this is {}", values::kind_of(&value)),
            dataset: None,
        })
    }

    /// Which root keys of the context the expression may read.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.reads.needs()
    }
}

fn first_message(errors: &cel::ParseErrors) -> String {
    errors.errors.first().map_or_else(
        || "not a CEL expression".into(),
        |error| format!("line {}, column {}: {}", error.pos.0, error.pos.1, quoted(&error.msg)),
    )
}

fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests;
