//! The wire format against random messages and random bytes.

#![expect(clippy::unwrap_used, reason = "test code")]

use flowmonkey_plumbing::wire::{
    ResultMessage, TaskMessage, decode_result, decode_task, encode_result, encode_task, open_result,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has finite numbers only", |number| number.is_finite())
            .prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn task(id: &str, attempt: u32, input: Option<&Value>, context: &Value) -> TaskMessage {
    let message = json!({
        "v": 1, "taskId": id, "attempt": attempt, "executionId": "e", "flowId": "f", "flowVersion": "1.0.0",
        "stepId": "s", "handler": { "type": "h" }, "pool": "h", "context": context, "idempotencyKey": id,
        "deadline": "2100-01-01T00:00:00Z", "remainingMs": 1, "heartbeatIntervalMs": 1, "leaseMs": 1,
    });
    TaskMessage { input: input.cloned(), ..serde_json::from_value(message).unwrap() }
}

fn result(id: &str, output: Option<&Value>, next: Option<&Option<String>>, details: &Value) -> ResultMessage {
    let message = json!({ "v": 1, "taskId": id, "attempt": 1, "executionId": "e", "stepId": "s", "outcome": "failure",
        "error": { "code": "X" }, "contextUpdates": [{ "op": "set", "path": "a", "value": details }] });
    let message: ResultMessage = serde_json::from_value(message).unwrap();
    ResultMessage { output: output.cloned(), next_step_override: next.cloned(), ..message }
}

proptest! {
    #[test]
    fn tasks_survive_the_wire(
        id in ".{1,20}", attempt in 1_u32.., input in prop::option::of(value()), context in value(),
    ) {
        // An input of null is told from no input by the result only: a step without input reads as null.
        let input = input.filter(|input| !input.is_null());
        let task = task(&id, attempt, input.as_ref(), &context);
        prop_assert_eq!(decode_task(&encode_task(&task).unwrap()).unwrap(), task);
    }

    #[test]
    fn results_survive_the_wire(
        id in ".{1,20}", output in prop::option::of(value()), details in value(),
        next in prop::option::of(prop::option::of("[a-z]{1,5}")),
    ) {
        let result = result(&id, output.as_ref(), next.as_ref(), &details);
        prop_assert_eq!(decode_result(&encode_result(&result).unwrap()).unwrap(), result);
    }

    #[test]
    fn arbitrary_and_damaged_bytes_are_errors_not_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        // Whatever they say, they say it; a random body is never a whole message.
        prop_assert!(decode_task(&bytes).is_err());
        prop_assert!(decode_result(&bytes).is_err());
        prop_assert!(open_result([b"\x03v1.k.c.t\n", bytes.as_slice()].concat()).0.is_err());
        prop_assert!(open_result(bytes).0.is_err());
        let mut damaged = encode_task(&task("t", 1, None, &json!({ "a": [1, "b"] }))).unwrap();
        let at = at.index(damaged.len());
        drop(decode_task(&damaged[..at]).unwrap_err());
        damaged[at] = byte;
        if let Ok(read) = decode_task(&damaged) {
            // What is still a message can be sent on as one.
            prop_assert_eq!(decode_task(&encode_task(&read).unwrap()).unwrap(), read);
        }
    }
}
