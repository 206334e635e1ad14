//! What is told: one JSON object per figure, or tables.

use std::sync::OnceLock;

use clap::ValueEnum;
use serde_json::{Value, json};

/// How figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One JSON object per scenario and line.
    Json,
    /// Lines of names and figures.
    Table,
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

/// Chooses how figures are written. The first choice counts; without one, it is JSON.
pub(crate) fn choose(output: Output) {
    OUTPUT.get_or_init(|| output);
}

/// How figures are written.
pub(crate) fn output() -> Output {
    OUTPUT.get().copied().unwrap_or(Output::Json)
}

/// Writes the figures of a scenario.
pub(crate) fn report(scenario: &str, settings: &Value, figures: &Value) {
    match output() {
        Output::Json => {
            println!("{}", json!({ "scenario": scenario, "settings": settings, "figures": figures }));
        }
        Output::Table => {
            println!("{scenario}");
            let mut lines = Vec::new();
            flatten("", settings, &mut lines);
            flatten("", figures, &mut lines);
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
            for (name, figure) in lines {
                println!("  {name:width$}  {figure}");
            }
        }
    }
}

/// Names with points, as paths.
fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(&name, value, lines);
            }
        }
        Value::String(text) => lines.push((name.to_owned(), text.clone())),
        Value::Number(number) if number.is_f64() => {
            lines.push((name.to_owned(), format!("{:.3}", number.as_f64().unwrap_or_default())));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            lines.push((name.to_owned(), value.to_string()));
        }
    }
}
