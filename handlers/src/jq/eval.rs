//! Compiles and runs jq programs with jaq. Runs only inside the evaluator process: a program can use up time, memory and
//! stack within a single step of jaq, where nothing in the same process could stop it.

use jaq_core::load::{Arena, File, Loader, span};
use jaq_core::{Ctx, Filter, Vars, data::JustLut, load};
use jaq_json::{Num, Val};
use serde_json::{Map, Number, Value};

use super::protocol::{Answer, Outputs, Problem};

/// Filters of jaq that reach beyond the program, by name. They are undefined here.
const REFUSED_FILTERS: [&str; 2] = ["env", "halt"];

/// The variables a program may use; in the order in which [`Program::run`] hands them over.
const VARIABLES: [&str; 4] = ["$input", "$context", "$config", "$index"];

/// A compiled program.
pub(super) struct Program {
    filter: Filter<JustLut<Val>>,
}

/// What a program sees of one item.
pub(super) struct Scope {
    pub(super) input: Val,
    pub(super) context: Val,
    pub(super) config: Val,
    pub(super) index: Val,
}

impl Program {
    /// Compiles a program.
    pub(super) fn compile(code: &str) -> Result<Self, Problem> {
        let known = |name: &str| !REFUSED_FILTERS.contains(&name);
        // `halt` is used by definitions that go with it.
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let defs = defs.filter(|def| !def.name.starts_with("halt"));
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let funs = funs.filter(|(name, ..)| known(name));

        let arena = Arena::default();
        let modules = Loader::new(defs)
            .load(&arena, File { code, path: () })
            .map_err(|errors| load_problem(code, errors))?;
        load::import(&modules, |_| Err(String::new())).map_err(|errors| load_problem(code, errors))?;
        let filter = jaq_core::Compiler::default()
            .with_funs(funs)
            .with_global_vars(VARIABLES)
            .compile(modules)
            .map_err(|errors| compile_problem(code, errors))?;
        Ok(Self { filter })
    }

    /// Runs the program on one item.
    pub(super) fn run(&self, scope: Scope, outputs: Outputs, max_nodes: usize) -> Answer {
        let Scope { input, context, config, index } = scope;
        let vars = Vars::new([input.clone(), context, config, index]);
        let context = Ctx::<JustLut<Val>>::new(&self.filter.lut, vars);
        let mut budget = max_nodes;
        let mut values = Vec::new();
        for output in self.filter.id.run((context, input)) {
            let value = match output {
                Ok(value) => value,
                Err(exception) => {
                    let message = match exception.get_err() {
                        Ok(error) => error_text(error.into_val()),
                        Err(_) => "the program broke off".into(),
                    };
                    return Answer::Failed(Problem::new(message));
                }
            };
            match to_json(&value, &mut budget) {
                Ok(value) => values.push(value),
                Err(message) => return Answer::Failed(Problem::new(message)),
            }
            if outputs == Outputs::Single && values.len() > 1 {
                let message =
                    "the program gave more than one output; collect them with [ ] or set outputs to `all`";
                return Answer::Failed(Problem::new(message));
            }
        }
        match outputs {
            Outputs::All => Answer::Output(Value::Array(values)),
            Outputs::Single => Answer::Output(values.pop().unwrap_or(Value::Null)),
        }
    }
}

/// What `error(…)` was given, texts without quotes.
fn error_text(error: Val) -> String {
    match error {
        Val::TStr(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Val::Null | Val::Bool(_) | Val::Num(_) | Val::BStr(_) | Val::Arr(_) | Val::Obj(_) => {
            error.to_string()
        }
    }
}

/// Strict JSON of a value of jaq, which knows more than JSON: byte strings, any keys, endless numbers.
fn to_json(value: &Val, budget: &mut usize) -> Result<Value, String> {
    *budget = budget.checked_sub(1).ok_or("the output has too many values")?;
    Ok(match value {
        Val::Null => Value::Null,
        Val::Bool(flag) => Value::Bool(*flag),
        Val::Num(number) => number_to_json(number),
        Val::TStr(bytes) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        Val::BStr(_) => return Err("the output has a byte string, which JSON cannot hold".into()),
        Val::Arr(items) => {
            Value::Array(items.iter().map(|item| to_json(item, budget)).collect::<Result<_, _>>()?)
        }
        Val::Obj(fields) => {
            let mut object = Map::with_capacity(fields.len());
            for (key, field) in fields.iter() {
                let Val::TStr(key) = key else {
                    return Err("the output has an object whose keys are not all strings".into());
                };
                object.insert(String::from_utf8_lossy(key).into_owned(), to_json(field, budget)?);
            }
            Value::Object(object)
        }
    })
}

/// As jq: not-a-number becomes null, the infinite become the largest finite numbers.
fn number_to_json(number: &Num) -> Value {
    let float = match number {
        Num::Int(integer) => return Value::from(*integer as i64),
        Num::Float(float) => *float,
        Num::BigInt(_) | Num::Dec(_) => {
            let text = number.to_string();
            match text.parse::<u64>() {
                Ok(integer) => return Value::from(integer),
                Err(_) => text.parse().unwrap_or(f64::NAN),
            }
        }
    };
    Number::from_f64(if float.is_nan() { float } else { float.clamp(f64::MIN, f64::MAX) })
        .map_or(Value::Null, Value::Number)
}

fn load_problem(code: &str, errors: load::Errors<&str, ()>) -> Problem {
    let error = errors.into_iter().next().map(|(_, error)| error);
    match error {
        Some(load::Error::Io(errors)) => {
            let found = errors.first().map(|(part, _)| *part);
            at("modules and data files cannot be loaded here".into(), code, found)
        }
        Some(load::Error::Lex(errors)) => {
            let found = errors.first().map(|(_, found)| *found);
            let expected = errors.first().map_or("a token", |(expected, _)| expected.as_str());
            at(format!("expected {expected}, found {}", quoted(found)), code, found)
        }
        Some(load::Error::Parse(errors)) => {
            let found = errors.first().map(|(_, found)| *found);
            let expected = errors.first().map_or("a filter", |(expected, _)| expected.as_str());
            at(format!("expected {expected}, found {}", quoted(found)), code, found)
        }
        None => Problem::new("the program cannot be read"),
    }
}

fn compile_problem(code: &str, errors: jaq_core::compile::Errors<&str, ()>) -> Problem {
    let error = errors.into_iter().next().and_then(|(_, errors)| errors.into_iter().next());
    let Some((found, undefined)) = error else { return Problem::new("the program cannot be compiled") };
    at(format!("undefined {} `{found}`", undefined.as_str()), code, Some(found))
}

fn quoted(found: Option<&str>) -> String {
    match found {
        None | Some("") => "the end of the program".into(),
        Some(found) => format!("`{}`", crate::config::excerpt(found.lines().next().unwrap_or_default(), 40)),
    }
}

/// A problem with the line and column, from 1, of `part` in `code`.
fn at(message: String, code: &str, part: Option<&str>) -> Problem {
    let mut problem = Problem::new(message);
    let within = |part: &&str| {
        let (start, part) = (code.as_ptr() as usize, part.as_ptr() as usize);
        (start..=start + code.len()).contains(&part)
    };
    if let Some(part) = part.filter(within) {
        let before = &code[..span(code, part).start];
        problem.line = Some(before.matches('\n').count() + 1);
        problem.column = Some(before.chars().rev().take_while(|character| *character != '\n').count() + 1);
    }
    problem
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::jq::protocol::OUTPUT_NODES_MAX;

    fn run(code: &str, input: Value, outputs: Outputs) -> Result<Value, Problem> {
        let value = |value: Value| -> Val { serde_json::from_value(value).unwrap() };
        let scope = Scope {
            input: value(input),
            context: value(json!({ "rate": 2 })),
            config: value(json!({ "unit": "EUR" })),
            index: Val::Null,
        };
        match Program::compile(code)?.run(scope, outputs, OUTPUT_NODES_MAX) {
            Answer::Output(value) => Ok(value),
            Answer::Failed(problem) => Err(problem),
        }
    }

    #[test]
    fn programs_see_input_context_and_config() {
        let output = run(
            "{ total: (.n * $context.rate), unit: $config.unit, same: ($input == .) }",
            json!({ "n": 3 }),
            Outputs::Single,
        );
        assert_eq!(output, Ok(json!({ "total": 6, "unit": "EUR", "same": true })));
    }

    #[test]
    fn outputs_are_one_or_all() {
        assert_eq!(run("empty", json!(1), Outputs::Single), Ok(Value::Null));
        assert_eq!(run("1, 2", json!(1), Outputs::All), Ok(json!([1, 2])));
        assert!(run("1, 2", json!(1), Outputs::Single).unwrap_err().message.contains("more than one output"));
    }

    #[test]
    fn problems_have_a_position() {
        let position = |code| {
            let problem = run(code, Value::Null, Outputs::Single).unwrap_err();
            (problem.message, problem.line, problem.column)
        };
        assert_eq!(position("1 |\n  nope"), ("undefined filter `nope`".into(), Some(2), Some(3)));
        assert_eq!(position("$nope").1, Some(1));
        assert_eq!(position(". | [1, ").1, Some(1));
        assert_eq!(position("{a: }\n").1, Some(1));
        assert_eq!(position("error(\"bad\")"), ("bad".into(), None, None));
    }

    #[test]
    fn programs_reach_nothing_outside() {
        for code in [
            "env",
            "$ENV",
            "input",
            "inputs",
            "input_filename",
            "halt",
            "halt(1)",
            "halt_error",
            "include \"x\"; .",
            "import \"x\" as $x; .",
            "get_search_list",
        ] {
            assert!(run(code, Value::Null, Outputs::Single).is_err(), "{code}");
        }
    }

    #[test]
    fn numbers_and_texts_become_strict_json() {
        assert_eq!(
            run("[nan, infinite, 18446744073709551615, 1.5, -3]", Value::Null, Outputs::Single),
            Ok(json!([null, f64::MAX, u64::MAX, 1.5, -3]))
        );
        assert!(run("{(1): 2}", Value::Null, Outputs::Single).is_err());
    }
}
