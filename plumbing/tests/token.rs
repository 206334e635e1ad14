//! Tokens and MACs against random texts and random changes; and the MAC that other languages must be able to make.

#![expect(clippy::unwrap_used, reason = "test code")]

use flowmonkey_plumbing::mac::{MacError, Seal, seal_message};
use flowmonkey_plumbing::token::{Claims, Scopes, TOKEN_KEY_BYTES, TaskToken, TokenError, TokenKey};
use flowmonkey_plumbing::wire::{
    COMPRESSED_FROM_BYTES, MESSAGE_BYTES_MAX, ResultMessage, WireError, check_result, encode_result,
    encode_sealed_result, open_result,
};
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

fn sealed(fields: Value) -> Vec<u8> {
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    encode_sealed_result(&ResultMessage { token: Some(token), ..result(fields) }).unwrap()
}

/// What an engine says of bytes that came as a result.
fn check(bytes: &[u8]) -> Result<Claims, MacError> {
    let (result, seal) = open_result(bytes.to_vec());
    key().check_result(&result.unwrap(), seal.as_ref())
}

/// The example of `docs/protocol.md`, made in Python.
#[test]
fn a_mac_of_another_language_counts() {
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    assert_eq!(token.as_str(), TOKEN_OF_PYTHON);
    let message = encode_result(&result(json!({ "output": "ünï" }))).unwrap();
    let bytes = [b"\x03", MAC_OF_PYTHON.as_bytes(), b"\n", message.as_slice()].concat();
    assert_eq!(sealed(json!({ "output": "ünï" })), bytes);
    assert_eq!(check(&bytes), Ok(claims("tk_1_1", 2)));
}

const TOKEN_OF_PYTHON: &str =
    "v1.blSBi2gD.l6Z0a18xXzECpGV4XzHApHRvaWw_z3__________.lvCNt8SAs7Y9COTvhEgQQT10b9oeuRIN76dFPLekTto";
const MAC_OF_PYTHON: &str =
    "v1.blSBi2gD.l6Z0a18xXzECpGV4XzHApHRvaWw_z3__________.PTjH_cL7JTms_9RZFxOI9ESz4LGAYZWQUEBxJbTnGdc";

#[test]
fn every_byte_of_a_sealed_result_is_covered() {
    let large = json!({ "output": "x".repeat(COMPRESSED_FROM_BYTES), "logs": [{ "message": "m" }] });
    for fields in [json!({ "output": 1, "metrics": { "workerId": "w" } }), large] {
        let honest = sealed(fields.clone());
        assert_eq!(check(&honest), Ok(claims("tk_1_1", 2)));
        let (read, seal) = open_result(honest.clone());
        assert_eq!(read.unwrap(), result(fields), "the seal is no part of the message");
        assert!(seal.is_some());
        for place in 0..honest.len() {
            let mut changed = honest.clone();
            changed[place] ^= 1;
            if let (Ok(result), seal) = open_result(changed) {
                key().check_result(&result, seal.as_ref()).unwrap_err();
            }
        }
        for end in 0..honest.len() {
            if let (Ok(result), seal) = open_result(honest[..end].to_vec()) {
                key().check_result(&result, seal.as_ref()).unwrap_err();
            }
        }
    }
}

#[test]
fn a_mac_counts_for_its_task_and_attempt_and_key_only() {
    let honest = sealed(json!({ "output": 1 }));
    let (result_read, seal) = open_result(honest.clone());
    let result_read = result_read.unwrap();
    let other_key = TokenKey::new(&[8; TOKEN_KEY_BYTES]);
    assert_eq!(other_key.check_result(&result_read, seal.as_ref()), Err(TokenError::UnknownKey.into()));
    let plain = encode_result(&result(json!({}))).unwrap();
    assert_eq!(check(&plain), Err(MacError::Missing));
    for (task, attempt) in [("tk_1_1", 3), ("tk_1_2", 2)] {
        // A worker of the pool that has another token can seal anything with it, but it is known whose token it was.
        let forged = seal_message(&plain, &key().sign(&claims(task, attempt)).unwrap()).unwrap();
        assert_eq!(check(&forged), Err(MacError::Foreign));
    }
    // A MAC is no token, and a token is no MAC.
    let end = honest.iter().position(|byte| *byte == b'\n').unwrap();
    let mac = std::str::from_utf8(&honest[1..end]).unwrap();
    assert_eq!(key().verify(mac), Err(TokenError::Forged));
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    let with_token = [b"\x03", token.as_str().as_bytes(), b"\n", &honest[end + 1..]].concat();
    assert_eq!(check(&with_token), Err(MacError::Forged));
    // Sealing twice is no message.
    let twice = seal_message(&honest, &token).unwrap();
    assert!(matches!(open_result(twice), (Err(WireError::UnknownFormat { tag: 3 }), Some(_))));
}

/// What fits without its seal may be too large with it: then it is known before it is sent.
#[test]
fn a_seal_counts_against_the_size_of_a_message() {
    let token = key().sign(&claims("tk_1_1", 2)).unwrap();
    let more = token.as_str().len() + 2;
    let with_output = |bytes: usize| result(json!({ "output": "x".repeat(bytes) }));
    // What is around a long text.
    let Err(WireError::TooLarge { actual, .. }) = check_result(&with_output(MESSAGE_BYTES_MAX)) else {
        panic!("it is too large")
    };
    let around = actual - MESSAGE_BYTES_MAX;
    let largest = with_output(MESSAGE_BYTES_MAX - around - more);
    let sealed = |result: &ResultMessage| ResultMessage { token: Some(token.clone()), ..result.clone() };
    check_result(&sealed(&largest)).unwrap();
    let sent = encode_sealed_result(&sealed(&largest)).unwrap();
    assert!(check(&sent).is_ok());
    let larger = with_output(MESSAGE_BYTES_MAX - around - more + 1);
    check_result(&larger).unwrap();
    for refused in [check_result(&sealed(&larger)), encode_sealed_result(&sealed(&larger)).map(drop)] {
        assert_eq!(
            refused,
            Err(WireError::TooLarge { actual: MESSAGE_BYTES_MAX + 1, limit: MESSAGE_BYTES_MAX })
        );
    }
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
            let message = encode_result(&result(json!({}))).unwrap();
            for mac in [text.clone(), signed] {
                let bytes = [b"\x03", mac.as_bytes(), b"\n", message.as_slice()].concat();
                let seal = Seal::split(bytes).ok();
                let checked = key.check_result(&result(json!({})), seal.as_ref());
                prop_assert!(checked.is_err());
            }
            // What a worker gets as a token may be anything: sealing with it is harmless.
            let sealed = seal_message(&message, &TaskToken::new(text.clone()));
            prop_assert!(sealed.is_none_or(|bytes| bytes.ends_with(&message)));
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
