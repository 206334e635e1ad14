//! The flows of the scenarios.

use serde_json::{Map, Value, json};

/// In the settings of a step: its first attempt fails.
pub(crate) const FAILS_ONCE: &str = "failsOnce";

/// The handler type at a place; all of them do nothing.
pub(crate) fn handler_type(number: usize) -> String {
    format!("noop-{number}")
}

/// Text of so many bytes, of words that come again as those of a text do: what stores it may compress it, but not to nothing.
pub(crate) fn padding(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 8);
    let mut state = 1_u32;
    while text.len() < bytes {
        // Numerical Recipes' generator; its high bits choose one of 512 words.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = (state >> 23).wrapping_mul(2_654_435_761);
        text.push_str(&format!("{:06x} ", word >> 8));
    }
    text.truncate(bytes);
    text
}

/// A chain of steps that hand on a value, on handler types in turn.
pub(crate) fn chain(id: &str, version: usize, steps: usize, handler_types: usize) -> Value {
    chain_from(id, version, steps, (0, handler_types))
}

/// As [`chain`], its first step on another handler type than the first of so many.
pub(crate) fn chain_from(
    id: &str,
    version: usize,
    steps: usize,
    (first, handler_types): (usize, usize),
) -> Value {
    let steps: Map<String, Value> = (0..steps)
        .map(|number| {
            let key = if number == 0 { "n".to_owned() } else { format!("s{}", number - 1) };
            let mut step = json!({
                "type": handler_type((first + number) % handler_types),
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
