//! Tokens and MACs against random texts and random changes; and the MAC that other languages must be able to make.

#![expect(clippy::unwrap_used, reason = "test code")]

use flowmonkey_plumbing::mac::{MacError, seal};
use flowmonkey_plumbing::token::{Claims, Scopes, TOKEN_KEY_BYTES, TaskToken, TokenError, TokenKey};
use flowmonkey_plumbing::wire::{ResultMessage, decode_result, encode_result};
use proptest::prelude::*;
use serde_json::{Value, json};

fn key() -> TokenKey {
    TokenKey::new(&[7; TOKEN_KEY_BYTES])
}

fn claims(task: &str, attempt: u32) -> Claims {
    Claims {
        task: task.into(),
        attempt,
        execution: "ex_1".into(),
        tenant: None,
        pool: "toil".into(),
        scopes: Scopes::WORKER,
        expires_at_ms: i64::MAX,
    }
}

fn result(fields: Value) -> ResultMessage {
    let mut whole = json!({ "v": 1, "taskId": "tk_1_1", "attempt": 2, "executionId": "ex_1", "stepId": "s",
        "outcome": "success" });
    whole.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn sealed(fields: Value) -> ResultMessage {
    let result = result(fields);
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    ResultMessage { mac: seal(&result, &token), ..result }
}

/// Made by the worker of `docs/protocol.md`, in Python.
#[test]
fn a_mac_of_another_language_counts() {
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    let vector = json!({
        "output": { "b": [1, 2.5, -0.0, 3.0, 1e300, true, null], "a": "ünï", "é": {}, "z": 18_446_744_073_709_551_615_u64 },
        "contextUpdates": [{ "op": "set", "path": "a.b", "value": 1 }, { "op": "delete", "path": "c" }],
        "nextStepOverride": null,
        "cost": { "usd": 0.25, "tokens": 12 },
        "error": { "code": "X", "message": "", "retryable": false },
    });
    let result = result(vector);
    assert_eq!(token.as_str(), TOKEN_OF_PYTHON);
    assert_eq!(seal(&result, &token).unwrap(), MAC_OF_PYTHON);
    let result = ResultMessage { mac: Some(MAC_OF_PYTHON.into()), ..result };
    assert_eq!(key().check_result(&result), Ok(claims("tk_1_1", 2)));
}

const TOKEN_OF_PYTHON: &str =
    "v1.blSBi2gD.l6Z0a18xXzECpGV4XzHApHRvaWw_z3__________.lvCNt8SAs7Y9COTvhEgQQT10b9oeuRIN76dFPLekTto";
const MAC_OF_PYTHON: &str =
    "v1.blSBi2gD.l6Z0a18xXzECpGV4XzHApHRvaWw_z3__________.P5DRSfLeG6Uwn2SsbQt662Kq0QbKQRZi2Efg-_xvpYo";

#[test]
fn every_field_that_moves_an_execution_is_covered() {
    let changes = [
        json!({ "output": 1 }),
        json!({ "output": null }),
        json!({ "outcome": "failure" }),
        json!({ "error": { "code": "X" } }),
        json!({ "contextUpdates": { "a": 1 } }),
        json!({ "contextPatches": 1 }),
        json!({ "nextStepOverride": null }),
        json!({ "nextStepOverride": "s" }),
        json!({ "resumeToken": "t" }),
        json!({ "waitUntil": "2030-01-01T00:00:00Z" }),
        json!({ "runAgain": true }),
        json!({ "waitForEvent": { "event": "freed" } }),
        json!({ "waitReason": "r" }),
        json!({ "retryAfterMs": 1 }),
        json!({ "cost": { "usd": 1.0 } }),
        json!({ "events": [{ "event": "e" }] }),
        json!({ "rows": [{ "tableId": "t", "rowId": "r", "row": {} }] }),
        json!({ "metadata": { "continueAfterWait": true } }),
    ];
    let mac = sealed(json!({})).mac;
    for change in changes {
        let changed = ResultMessage { mac: mac.clone(), ..result(change.clone()) };
        assert_eq!(key().check_result(&changed), Err(MacError::Forged), "{change}");
        let honest = sealed(change.clone());
        key().check_result(&honest).unwrap();
        // And it survives the wire in both encodings.
        key().check_result(&decode_result(&encode_result(&honest).unwrap()).unwrap()).unwrap();
        let twin = serde_json::to_string(&honest).unwrap();
        key().check_result(&serde_json::from_str(&twin).unwrap()).unwrap();
    }
    let other = json!({ "logs": [{ "message": "m" }], "metrics": { "workerId": "w" } });
    key().check_result(&ResultMessage { mac, ..result(other) }).unwrap();
}

#[test]
fn a_mac_counts_for_its_task_and_attempt_and_key_only() {
    let honest = sealed(json!({ "output": 1 }));
    assert_eq!(TokenKey::new(&[8; 32]).check_result(&honest), Err(TokenError::UnknownKey.into()));
    assert_eq!(key().check_result(&result(json!({}))), Err(MacError::Missing));
    for (task, attempt) in [("tk_1_1", 3), ("tk_1_2", 2)] {
        // A worker of the pool that has another token can seal anything with it, but it is known whose token it was.
        let result = result(json!({}));
        let token = key().sign(&claims(task, attempt)).unwrap();
        let forged = ResultMessage { mac: seal(&result, &token), ..result };
        assert_eq!(key().check_result(&forged), Err(MacError::Foreign));
    }
    // A MAC is no token, and a token is no MAC.
    let mac = honest.mac.clone().unwrap();
    assert_eq!(key().verify(&mac), Err(TokenError::Forged));
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    let with_token = ResultMessage { mac: Some(token.as_str().into()), ..honest };
    assert_eq!(key().check_result(&with_token), Err(MacError::Forged));
}

proptest! {
    #[test]
    fn arbitrary_texts_are_no_tokens_and_no_macs(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let key = key();
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            prop_assert!(key.verify(&text).is_err());
            let versioned = format!("v1.{text}");
            prop_assert!(key.verify(&versioned).is_err());
            let head = key.sign(&claims("t", 1)).unwrap();
            let (head, _) = head.as_str().rsplit_once('.').unwrap();
            let signed = format!("{head}.{text}");
            prop_assert!(key.verify(&signed).is_err());
            let forged = ResultMessage { mac: Some(text.clone()), ..result(json!({})) };
            prop_assert!(key.check_result(&forged).is_err());
            let forged = ResultMessage { mac: Some(signed), ..forged };
            prop_assert!(key.check_result(&forged).is_err());
            // What a worker gets as a token may be anything: sealing with it is harmless.
            prop_assert!(seal(&forged, &TaskToken::new(text)).is_none_or(|mac| mac.contains('.')));
        }
    }

    #[test]
    fn changed_tokens_never_verify(place in any::<prop::sample::Index>(), byte in 0x20_u8..0x7f) {
        let token = key().sign(&claims("tk_1_1", 2)).unwrap();
        let mut changed = token.as_str().as_bytes().to_vec();
        let place = place.index(changed.len());
        prop_assume!(changed[place] != byte);
        changed[place] = byte;
        prop_assert!(key().verify(std::str::from_utf8(&changed).unwrap()).is_err());
    }
}
