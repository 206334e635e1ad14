//! The committed messages of `tests/golden` can be read, in both encodings, and are written as they were: an older or newer
//! peer may have written them. `FLOWMONKEY_BLESS=1` writes them anew; read the difference before it is committed.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

use flowmonkey_plumbing::queue::redis::{LIBRARY, library_source};
use flowmonkey_plumbing::token::{Claims, Scopes, TOKEN_KEY_BYTES, TokenKey};
use flowmonkey_plumbing::wire::{
    ResultMessage, TaskMessage, WireError, decode_result, decode_task, encode_result, encode_sealed_result,
    encode_task, open_result,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.chunks(32).map(|line| line.concat() + "\n").collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn check<M: Serialize + DeserializeOwned + PartialEq + Debug>(
    name: &str,
    encode: impl Fn(&M) -> Result<Vec<u8>, WireError>,
    decode: impl Fn(&[u8]) -> Result<M, WireError>,
) {
    let json = golden(&format!("{name}.json"));
    let binary = golden(&format!("{name}.msgpack.hex"));
    let twin: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let message: M = serde_json::from_value(twin.clone()).unwrap();
    assert_eq!(serde_json::to_value(&message).unwrap(), twin, "{name}: JSON is written as it was");
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        fs::write(&binary, hex(&encode(&message).unwrap())).unwrap();
    }
    let bytes = unhex(&fs::read_to_string(&binary).unwrap());
    assert_eq!(decode(&bytes).unwrap(), message, "{name}: MessagePack is read as its JSON twin");
    assert_eq!(hex(&encode(&message).unwrap()), hex(&bytes), "{name}: MessagePack is written as it was");

    // What a newer peer adds is ignored.
    let mut newer = twin;
    newer["somethingNew"] = Value::from(1);
    assert_eq!(serde_json::from_value::<M>(newer).unwrap(), message, "{name}: unknown fields are ignored");
}

#[test]
fn tasks_are_written_and_read_as_ever() {
    check::<TaskMessage>("task", encode_task, decode_task);
}

#[test]
fn successes_are_written_and_read_as_ever() {
    check::<ResultMessage>("success", encode_result, decode_result);
}

#[test]
fn failures_are_written_and_read_as_ever() {
    check::<ResultMessage>("failure", encode_result, decode_result);
}

// The same with what came later. Peers that do not know it send and read the files above.
#[test]
fn tasks_with_tokens_are_written_and_read_as_ever() {
    check::<TaskMessage>("task_with_token", encode_task, decode_task);
}

#[test]
fn suspected_tasks_are_written_and_read_as_ever() {
    check::<TaskMessage>("task_to_isolate", encode_task, decode_task);
}

/// A result as the queues carry it: its seal, and the message of `success.json`.
#[test]
fn sealed_results_are_written_and_read_as_ever() {
    let twin = fs::read_to_string(golden("success.json")).unwrap();
    let message: ResultMessage = serde_json::from_str(&twin).unwrap();
    let key = TokenKey::new(&[7; TOKEN_KEY_BYTES]);
    let claims = Claims {
        task: message.task_id.clone(),
        attempt: message.attempt,
        execution: message.execution_id.clone(),
        tenant: None,
        pool: "charge".into(),
        scopes: Scopes::WORKER,
        expires_at_ms: i64::MAX,
    };
    let token = Some(key.sign(&claims).unwrap());
    let written = encode_sealed_result(&ResultMessage { token, ..message.clone() }).unwrap();
    let binary = golden("success.sealed.hex");
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        fs::write(&binary, hex(&written)).unwrap();
    }
    let bytes = unhex(&fs::read_to_string(&binary).unwrap());
    assert_eq!(hex(&written), hex(&bytes), "a sealed result is written as it was");
    let (read, seal) = open_result(bytes);
    let read = read.unwrap();
    assert_eq!(read, message);
    assert_eq!(key.check_result(&read, seal.as_ref()), Ok(claims));
}

/// Compressed messages are read as ever. How they are written is for zstd to choose.
#[test]
fn compressed_tasks_are_read_as_ever() {
    let twin = fs::read_to_string(golden("task.json")).unwrap();
    let message: TaskMessage = serde_json::from_str(&twin).unwrap();
    let binary = golden("task.zstd.hex");
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        let plain = encode_task(&message).unwrap();
        let mut bytes = vec![2];
        bytes.extend(zstd::bulk::compress(&plain[1..], 1).unwrap());
        fs::write(&binary, hex(&bytes)).unwrap();
    }
    let bytes = unhex(&fs::read_to_string(&binary).unwrap());
    assert_eq!(bytes[0], 2);
    assert_eq!(decode_task(&bytes).unwrap(), message);
}

/// Engines load the functions beside those of other versions, and leave what has the same name: what was released under a
/// name never changes. Other code needs another number in the name, and then a new file here.
#[test]
fn functions_are_the_same_under_the_same_name() {
    let file = golden(&format!("{LIBRARY}.sha256"));
    let source = library_source();
    assert!(source.starts_with(&format!("#!lua name={LIBRARY}\n")));
    let digest = hex(ring::digest::digest(&ring::digest::SHA256, source.as_bytes()).as_ref());
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        fs::write(&file, &digest).unwrap();
    }
    assert_eq!(digest, fs::read_to_string(&file).unwrap(), "{LIBRARY} has changed");
}
