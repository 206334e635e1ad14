//! `transform`: changes the shape of the input, by a fixed operation or a jq program.

mod operations;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::api::PlumbingError;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use serde_json::{Value, json};

pub(crate) use operations::Operation;

use crate::config::{BAD_CONFIG, ConfigError, Fields};
use crate::jq::{Evaluation, Jq, JqError, Outputs, Problem};
use crate::schema::{Field, Table, object_to, optional, refused, text, texts, whole, words};

/// Milliseconds that a jq program may run on one input.
const PROGRAM_TIMEOUT_MS: u64 = 5_000;
/// The most that `timeoutMs` may ask for.
const PROGRAM_TIMEOUT_MS_MAX: u64 = 300_000;

/// The fields that say what to do with a value.
pub(crate) const CHANGE_FIELDS: [Field; 13] = [
    optional("operation", || words(&operations::OPERATIONS), "pick, omit, map, filter, reduce or merge."),
    optional("keys", texts, "For pick and omit: the keys."),
    optional("mapping", || object_to(text()), "For map: new key to dotted path."),
    optional("condition", operations::condition_schema, "For filter: `{ path, op, value }`."),
    optional(
        "accumulator",
        || words(&operations::ACCUMULATORS),
        "For reduce: sum, avg, count, min, max, concat, first or last.",
    ),
    optional("path", text, "For reduce: the dotted path of the values."),
    optional("sources", texts, "For merge: paths of the objects. Default: the items of an array."),
    optional("transform", || json!({ "enum": TEXT_CHANGES }), "upper, lower or reverse the input as text."),
    optional("jq", text, "A jq program."),
    optional("program", text, "Another name of `jq`: give one of them."),
    optional(
        "expression",
        refused,
        "JavaScript is not evaluated; write the expression as a jq program in `jq`.",
    ),
    optional("outputs", || words(&OUTPUTS), "Of a jq program: single (default) or all, as an array."),
    optional(
        "timeoutMs",
        || whole(&TIMEOUTS_MS),
        "Milliseconds for a jq program. Default 5000, at most 300000.",
    ),
];
const FIELDS: Table = &[&CHANGE_FIELDS];
const TIMEOUTS_MS: RangeInclusive<u64> = 1..=PROGRAM_TIMEOUT_MS_MAX;
const TEXT_CHANGES: [&str; 3] = ["upper", "lower", "reverse"];
const OUTPUTS: [(&str, Outputs); 2] = [("single", Outputs::Single), ("all", Outputs::All)];

/// The handler `transform`. Without any configuration the output is the input.
#[derive(Debug)]
pub struct Transform {
    manifest: Manifest,
    jq: Arc<Jq>,
}

impl Transform {
    pub(crate) fn new(jq: Arc<Jq>) -> Self {
        Self { manifest: crate::manifest("transform", "Changes the shape of a value", FIELDS), jq }
    }
}

/// What to do with a value.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Identity,
    Operation(Operation),
    Text(TextChange),
    Program { program: &'a str, outputs: Outputs, timeout: Duration },
}

/// The changes of FlowMonkey's test harness.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TextChange {
    Upper,
    Lower,
    Reverse,
}

impl<'a> Change<'a> {
    pub(crate) fn parse(fields: &Fields<'a>) -> Result<Self, Failure> {
        if fields.value("expression").is_some() {
            let problem = "JavaScript is not evaluated; write the expression as a jq program in `jq`";
            return Err(fields.error("expression", problem).into());
        }
        let program = match (fields.text("jq")?, fields.text("program")?) {
            (Some(_), Some(_)) => {
                return Err(fields.error("program", "is another name of `jq`: give one of them").into());
            }
            (Some(program), None) | (None, Some(program)) => Some(program),
            (None, None) => None,
        };
        let changes = ["operation", "transform"].into_iter().filter(|field| fields.value(field).is_some());
        if changes.count() + usize::from(program.is_some()) > 1 {
            return Err(ConfigError::new("operation", "give one of operation, jq and transform").into());
        }
        if let Some(program) = program {
            let timeout = fields.number("timeoutMs", &TIMEOUTS_MS)?.unwrap_or(PROGRAM_TIMEOUT_MS);
            return Ok(Self::Program {
                program,
                outputs: fields.choice("outputs", &OUTPUTS)?.unwrap_or_default(),
                timeout: Duration::from_millis(timeout),
            });
        }
        if let Some(change) = fields.value("transform") {
            return match change.as_str() {
                Some("upper") => Ok(Self::Text(TextChange::Upper)),
                Some("lower") => Ok(Self::Text(TextChange::Lower)),
                Some("reverse") => Ok(Self::Text(TextChange::Reverse)),
                Some(_) | None => {
                    let problem = format!("{change} is not one of upper, lower, reverse");
                    Err(fields.error("transform", problem).into_failure("BAD_TRANSFORM"))
                }
            };
        }
        Ok(Operation::parse(fields)?.map_or(Self::Identity, Self::Operation))
    }
}

impl TextChange {
    fn apply(self, input: &Value) -> Value {
        let text = match input {
            Value::String(text) => text.clone(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                input.to_string()
            }
        };
        Value::String(match self {
            Self::Upper => text.to_uppercase(),
            Self::Lower => text.to_lowercase(),
            Self::Reverse => text.chars().rev().collect(),
        })
    }
}

/// Changes each item; an item that cannot be changed does not stop the others.
pub(crate) async fn change_all(
    jq: &Jq,
    change: &Change<'_>,
    task: &Task,
    first_index: Option<usize>,
    items: Vec<Value>,
) -> Result<Vec<Result<Value, Failure>>, Failure> {
    match change {
        Change::Identity => Ok(items.into_iter().map(Ok).collect()),
        Change::Operation(operation) => Ok(items.iter().map(|item| operation.apply(item)).collect()),
        Change::Text(change) => Ok(items.iter().map(|item| Ok(change.apply(item))).collect()),
        Change::Program { program, outputs, timeout } => {
            let context = task.load_context().await.map_err(|error| context_failure(&error))?;
            let evaluation = Evaluation {
                program,
                context,
                config: task.config(),
                outputs: *outputs,
                first_index,
                items,
                timeout: *timeout,
            };
            let outputs = jq.run(evaluation).await.map_err(|error| match error {
                JqError::Program(problem) => problem_failure(&problem),
                // Another worker may have an evaluator.
                JqError::Unconfigured | JqError::Evaluator(_) => {
                    Failure::new(TRANSFORM_ERROR, error.to_string())
                }
            })?;
            Ok(outputs
                .into_iter()
                .map(|output| output.map_err(|problem| problem_failure(&problem)))
                .collect())
        }
    }
}

const TRANSFORM_ERROR: &str = "TRANSFORM_ERROR";

/// Another attempt may reach the engine.
fn context_failure(error: &PlumbingError) -> Failure {
    Failure::new(TRANSFORM_ERROR, format!("the context cannot be read: {error}"))
}

/// A failure of the data or the program: the same again on every attempt.
fn error(message: impl Into<String>) -> Failure {
    Failure::terminal(TRANSFORM_ERROR, message)
}

fn problem_failure(problem: &Problem) -> Failure {
    error(format!("jq: {problem}"))
        .details(json!({ "message": problem.message, "line": problem.line, "column": problem.column }))
}

#[async_trait]
impl Handler for Transform {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let change = Change::parse(&fields)?;
        fields.warn_unknown(task, FIELDS);
        let mut outputs = change_all(&self.jq, &change, task, None, vec![task.input().clone()]).await?;
        let output = outputs.pop().unwrap_or_else(|| Err(Failure::new(BAD_CONFIG, "there is no output")));
        output.map(Completion::output)
    }
}
