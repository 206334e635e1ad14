//! The flows of the scenarios.

use serde_json::{Map, Value, json};

/// The handler type at a place; all of them do nothing.
pub(crate) fn handler_type(number: usize) -> String {
    format!("noop-{number}")
}

/// A chain of steps that hand on a value, on handler types in turn.
pub(crate) fn chain(id: &str, version: usize, steps: usize, handler_types: usize) -> Value {
    let steps: Map<String, Value> = (0..steps)
        .map(|number| {
            let key = if number == 0 { "n".to_owned() } else { format!("s{}", number - 1) };
            let mut step = json!({
                "type": handler_type(number % handler_types),
                "input": { "type": "key", "key": key },
                "outputKey": format!("s{number}"),
            });
            if number + 1 < steps {
                step["transitions"] = json!({ "onSuccess": format!("s{}", number + 1) });
            }
            (format!("s{number}"), step)
        })
        .collect();
    json!({ "id": id, "version": format!("1.0.{version}"), "initialStepId": "s0", "steps": steps })
}

/// A map over `items`, each a child with one task, and its join.
pub(crate) fn fan_out() -> Value {
    json!({
        "id": "fan-out", "version": "1.0.0", "initialStepId": "all",
        "steps": { "all": {
            "type": "map",
            "config": {
                "items": { "type": "key", "key": "items" },
                "body": { "type": handler_type(0), "input": { "type": "key", "key": "item" }, "context": "none" },
            },
            "outputKey": "results",
        } },
    })
}

/// Waits for a signal that does not come.
pub(crate) fn waiting() -> Value {
    json!({
        "id": "waiting", "version": "1.0.0", "initialStepId": "ship",
        "steps": { "ship": { "type": "wait-signal", "config": { "signal": "shipped", "timeoutMs": 8_640_000_000_u64 } } },
    })
}
