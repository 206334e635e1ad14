//! The encoding of messages on the wire: one byte that names the format, then MessagePack with named fields, in a zstd frame
//! when the message is large. A result that goes through a queue has a seal before that.
//!
//! Whatever comes in is bounded in size and depth before it is trusted; nothing here panics on input.

use std::io::Read;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ContextOperation, ContextUpdates, PROTOCOL_VERSION, ResultMessage, TaskMessage};
use crate::mac::{Seal, seal_message, sealed_bytes_more};

/// Bytes of an encoded message, its format byte and its seal included; of a compressed one, before and after.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Levels of maps and lists in a message as a whole.
pub const MESSAGE_DEPTH_MAX: usize = 128;
/// Levels of maps and lists in one free value of a message (input, output, context). Lower than the limit of the message,
/// so that whatever could be sent can be received, and its JSON twin can be read by parsers that stop at 128.
pub const VALUE_DEPTH_MAX: usize = 120;
const _: () = assert!(VALUE_DEPTH_MAX + 6 <= MESSAGE_DEPTH_MAX, "a value sits at most six levels deep");

/// First byte: MessagePack as it is.
const FORMAT_PLAIN: u8 = 1;
/// First byte: MessagePack in a zstd frame.
const FORMAT_ZSTD: u8 = 2;
/// Messages up to this many bytes are not compressed: it would cost more than it saves.
pub const COMPRESSED_FROM_BYTES: usize = 16 * 1024;
/// Of zstd: the quickest of the usual ones, as each message is read once.
const COMPRESSION_LEVEL: i32 = 1;
/// Of zstd: frames that need more memory to be read are refused. Twice the largest message.
const WINDOW_LOG_MAX: u32 = 27;
/// A guess of a small message's size, to start the buffer with.
const SMALL_MESSAGE_BYTES: usize = 1024;

/// Why a message could not be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// There is not even a format byte.
    #[error("the message is empty")]
    Empty,
    /// The message was written by something newer, or is no message.
    #[error("the message has the unknown format {tag}")]
    UnknownFormat {
        /// The first byte.
        tag: u8,
    },
    /// The message is too large.
    #[error("the message is {actual} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its size.
        actual: usize,
        /// [`MESSAGE_BYTES_MAX`].
        limit: usize,
    },
    /// The message is nested too deeply.
    #[error("the message is nested deeper than {limit} levels")]
    TooDeep {
        /// The limit that was passed.
        limit: usize,
    },
    /// The message needs a newer program.
    #[error("the message has the protocol version {version}, this program understands up to {supported}")]
    NewerVersion {
        /// Of the message.
        version: u16,
        /// [`PROTOCOL_VERSION`].
        supported: u16,
    },
    /// The bytes are not such a message.
    #[error("the message is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

/// Encodes a task.
///
/// # Errors
/// [`WireError::TooLarge`] and [`WireError::TooDeep`].
pub fn encode_task(task: &TaskMessage) -> Result<Vec<u8>, WireError> {
    let values = task.input.iter().chain([&task.context, &task.config]).chain(task.metadata.other.values());
    check_depths(values)?;
    encode(task, 0)
}

/// Encodes a result, without a seal: for where the token itself comes along.
///
/// # Errors
/// [`WireError::TooLarge`] and [`WireError::TooDeep`].
pub fn encode_result(result: &ResultMessage) -> Result<Vec<u8>, WireError> {
    check_result_depths(result)?;
    encode(result, 0)
}

/// Encodes a result as the queues carry it: sealed with its token, where it has one.
///
/// # Errors
/// [`WireError::TooLarge`] and [`WireError::TooDeep`].
pub fn encode_sealed_result(result: &ResultMessage) -> Result<Vec<u8>, WireError> {
    check_result_depths(result)?;
    let message = encode(result, seal_bytes(result))?;
    Ok(result.token.as_ref().and_then(|token| seal_message(&message, token)).unwrap_or(message))
}

fn seal_bytes(result: &ResultMessage) -> usize {
    result.token.as_ref().map_or(0, sealed_bytes_more)
}

/// Whether a result can be encoded and sealed, without doing so.
///
/// # Errors
/// As [`encode_sealed_result`].
pub fn check_result(result: &ResultMessage) -> Result<(), WireError> {
    check_result_depths(result)?;
    let mut size = Size(seal_bytes(result).saturating_add(1));
    let mut serializer = rmp_serde::Serializer::new(&mut size).with_struct_map();
    result.serialize(&mut serializer).map_err(|error| WireError::Malformed { reason: error.to_string() })?;
    check_size(size.0)
}

/// Counts what is written to it.
struct Size(usize);

impl std::io::Write for Size {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn check_result_depths(result: &ResultMessage) -> Result<(), WireError> {
    let details = result.error.iter().filter_map(|error| error.details.as_ref());
    check_depths(result.output.iter().chain(details).chain(result.metadata.values()))?;
    check_depths(result.events.iter().map(|event| &event.data))?;
    check_depths(result.rows.iter().flat_map(|row| row.row.values()))?;
    match &result.context_updates {
        None => {}
        Some(ContextUpdates::Paths(paths)) => check_depths(paths.values())?,
        Some(ContextUpdates::Operations(operations)) => {
            for operation in operations {
                match operation {
                    ContextOperation::Set { value, .. } => check_depths([value])?,
                    ContextOperation::Merge { value } => check_depths(value.values())?,
                    ContextOperation::Delete { .. } => {}
                }
            }
        }
    }
    Ok(())
}

/// Decodes a task.
///
/// # Errors
/// When the bytes are no task message that this version understands.
pub fn decode_task(bytes: &[u8]) -> Result<TaskMessage, WireError> {
    decode(bytes)
}

/// Decodes a result that has no seal.
///
/// # Errors
/// When the bytes are no result message that this version understands.
pub fn decode_result(bytes: &[u8]) -> Result<ResultMessage, WireError> {
    decode(bytes)
}

/// Decodes a result as the queues carry it, and gives its seal, which is not checked: that takes the engine's key.
pub fn open_result(bytes: Vec<u8>) -> (Result<ResultMessage, WireError>, Option<Seal>) {
    if let Err(error) = check_size(bytes.len()) {
        return (Err(error), None);
    }
    match Seal::split(bytes) {
        Ok(seal) => (decode(seal.message()), Some(seal)),
        Err(bytes) => (decode(&bytes), None),
    }
}

/// `more`: bytes that the message is to have room for within the limit.
fn encode<T: Serialize>(message: &T, more: usize) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::with_capacity(SMALL_MESSAGE_BYTES);
    bytes.push(FORMAT_PLAIN);
    let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
    message.serialize(&mut serializer).map_err(|error| WireError::Malformed { reason: error.to_string() })?;
    check_size(bytes.len().saturating_add(more))?;
    Ok(compress(&bytes).unwrap_or(bytes))
}

/// The same message in a zstd frame, where that is smaller.
fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    let (_, body) = plain.split_first()?;
    if plain.len() <= COMPRESSED_FROM_BYTES {
        return None;
    }
    // Cannot fail but for want of memory, and then the plain message will do.
    let frame = zstd::bulk::compress(body, COMPRESSION_LEVEL).ok()?;
    if frame.len() >= body.len() {
        return None;
    }
    let mut bytes = Vec::with_capacity(frame.len() + 1);
    bytes.push(FORMAT_ZSTD);
    bytes.extend_from_slice(&frame);
    Some(bytes)
}

/// What is in a zstd frame. Grows with what comes out, never with what the frame claims, and not over the limit.
fn decompress(frame: &[u8]) -> Result<Vec<u8>, WireError> {
    let malformed = |error: std::io::Error| WireError::Malformed { reason: error.to_string() };
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(malformed)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(malformed)?;
    let mut body = Vec::with_capacity(frame.len().saturating_mul(2).min(MESSAGE_BYTES_MAX));
    // One byte more than fits, beside the format byte.
    let limit = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    decoder.by_ref().take(limit).read_to_end(&mut body).map_err(malformed)?;
    check_size(body.len().saturating_add(1))?;
    let rest = decoder.finish();
    if !rest.is_empty() {
        return Err(WireError::Malformed { reason: format!("{} bytes follow the message", rest.len()) });
    }
    Ok(body)
}

fn decode<T: DeserializeOwned + Versioned>(bytes: &[u8]) -> Result<T, WireError> {
    check_size(bytes.len())?;
    let (tag, body) = bytes.split_first().ok_or(WireError::Empty)?;
    let decompressed;
    let body = match *tag {
        FORMAT_PLAIN => body,
        FORMAT_ZSTD => {
            decompressed = decompress(body)?;
            decompressed.as_slice()
        }
        tag => return Err(WireError::UnknownFormat { tag }),
    };
    match read::<T>(body) {
        Ok(message) => {
            check_version(message.version())?;
            Ok(message)
        }
        // A newer message may have a shape that cannot be read here: its version says more than the shape.
        Err(error) => {
            if let Ok(Version { v }) = read::<Version>(body) {
                check_version(v)?;
            }
            Err(error)
        }
    }
}

/// A message that names its version.
trait Versioned {
    fn version(&self) -> u16;
}

impl Versioned for TaskMessage {
    fn version(&self) -> u16 {
        self.v
    }
}

impl Versioned for ResultMessage {
    fn version(&self) -> u16 {
        self.v
    }
}

/// The one field that is read of messages of every version.
#[derive(Deserialize)]
struct Version {
    v: u16,
}

fn check_version(version: u16) -> Result<(), WireError> {
    if version > PROTOCOL_VERSION {
        return Err(WireError::NewerVersion { version, supported: PROTOCOL_VERSION });
    }
    Ok(())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    let mut rest = body;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    deserializer.set_max_depth(MESSAGE_DEPTH_MAX);
    let message = T::deserialize(&mut deserializer).map_err(|error| {
        if matches!(error, rmp_serde::decode::Error::DepthLimitExceeded) {
            WireError::TooDeep { limit: MESSAGE_DEPTH_MAX }
        } else {
            WireError::Malformed { reason: error.to_string() }
        }
    })?;
    if !rest.is_empty() {
        return Err(WireError::Malformed { reason: format!("{} bytes follow the message", rest.len()) });
    }
    Ok(message)
}

fn check_size(actual: usize) -> Result<(), WireError> {
    if actual > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { actual, limit: MESSAGE_BYTES_MAX });
    }
    Ok(())
}

fn check_depths<'a>(values: impl IntoIterator<Item = &'a Value>) -> Result<(), WireError> {
    for value in values {
        if !fits_depth(value, VALUE_DEPTH_MAX) {
            return Err(WireError::TooDeep { limit: VALUE_DEPTH_MAX });
        }
    }
    Ok(())
}

/// Whether `value` has at most `levels` levels of maps and lists. Recurses at most that deep.
fn fits_depth(value: &Value, levels: usize) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        Value::Array(items) => levels > 0 && items.iter().all(|item| fits_depth(item, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|field| fits_depth(field, levels - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]))
    }

    fn task(input: Value) -> TaskMessage {
        serde_json::from_value(serde_json::json!({
            "v": 1, "taskId": "t", "attempt": 1, "executionId": "e", "flowId": "f", "flowVersion": "1", "stepId": "s",
            "handler": { "type": "h" }, "pool": "h", "input": input, "idempotencyKey": "k", "deadline": "",
            "remainingMs": 1, "heartbeatIntervalMs": 1, "leaseMs": 1,
        }))
        .unwrap()
    }

    #[test]
    fn deepest_value_survives_and_one_level_more_is_refused() {
        let deepest = task(nested(VALUE_DEPTH_MAX));
        assert_eq!(decode_task(&encode_task(&deepest).unwrap()).unwrap(), deepest);
        let too_deep = task(nested(VALUE_DEPTH_MAX + 1));
        assert_eq!(encode_task(&too_deep), Err(WireError::TooDeep { limit: VALUE_DEPTH_MAX }));
    }

    #[test]
    fn depth_bomb_is_refused_without_deep_recursion() {
        let mut bomb = vec![FORMAT_PLAIN, 0x81, 0xa1, b'x'];
        bomb.extend(std::iter::repeat_n(0x91_u8, 1_000_000));
        assert_eq!(decode_task(&bomb), Err(WireError::TooDeep { limit: MESSAGE_DEPTH_MAX }));
    }

    #[test]
    fn size_is_checked_before_anything_is_read() {
        let huge = vec![0_u8; MESSAGE_BYTES_MAX + 1];
        let refused = WireError::TooLarge { actual: MESSAGE_BYTES_MAX + 1, limit: MESSAGE_BYTES_MAX };
        assert_eq!(decode_task(&huge), Err(refused.clone()));
        assert_eq!(decode_result(&huge), Err(refused));
    }

    #[test]
    fn formats_are_told_apart_by_the_first_byte() {
        assert_eq!(decode_task(&[]), Err(WireError::Empty));
        assert!(matches!(decode_task(&[FORMAT_ZSTD, 0x28, 0xb5]), Err(WireError::Malformed { .. })));
        assert_eq!(decode_task(b"{}"), Err(WireError::UnknownFormat { tag: b'{' }));
    }

    #[test]
    fn newer_version_is_refused_even_when_its_shape_is_unreadable() {
        let mut newer = task(Value::Null);
        newer.v = PROTOCOL_VERSION + 1;
        let refused =
            Err(WireError::NewerVersion { version: PROTOCOL_VERSION + 1, supported: PROTOCOL_VERSION });
        assert_eq!(decode_task(&encode_task(&newer).unwrap()), refused);
        let strange = encode(&serde_json::json!({ "v": PROTOCOL_VERSION + 1, "tasks": [] }), 0).unwrap();
        assert_eq!(decode_task(&strange), refused);
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        let mut bytes = encode_task(&task(Value::Null)).unwrap();
        bytes.push(0xc0);
        assert!(matches!(decode_task(&bytes), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn large_messages_are_compressed_where_it_helps() {
        let small = encode_task(&task(Value::from("x".repeat(COMPRESSED_FROM_BYTES / 2)))).unwrap();
        assert_eq!(small[0], FORMAT_PLAIN);
        let large = task(Value::from("x".repeat(COMPRESSED_FROM_BYTES + 1)));
        let bytes = encode_task(&large).unwrap();
        assert_eq!(bytes[0], FORMAT_ZSTD);
        assert!(bytes.len() < 1_000, "{}", bytes.len());
        assert_eq!(decode_task(&bytes).unwrap(), large);
        // Digits of a sequence without a pattern: base64 of it cannot be made smaller than what it says, but plain text can;
        // either way the message comes back.
        let mut state = 1_u64;
        let noise: String = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from_u32(0x4e00 + u32::try_from(state >> 51).unwrap()).unwrap()
        })
        .take(COMPRESSED_FROM_BYTES)
        .collect();
        let noisy = task(Value::from(noise));
        assert_eq!(decode_task(&encode_task(&noisy).unwrap()).unwrap(), noisy);
    }

    #[test]
    fn bombs_and_broken_frames_are_refused() {
        let bomb = |bytes: usize| {
            let mut bomb = vec![FORMAT_ZSTD];
            bomb.extend(zstd::bulk::compress(&vec![0_u8; bytes], 1).unwrap());
            bomb
        };
        let refused = WireError::TooLarge { actual: MESSAGE_BYTES_MAX + 1, limit: MESSAGE_BYTES_MAX };
        assert_eq!(decode_task(&bomb(MESSAGE_BYTES_MAX * 2)), Err(refused));
        assert!(matches!(decode_task(&bomb(100)), Err(WireError::Malformed { .. })));
        let large = task(Value::from("x".repeat(2 * COMPRESSED_FROM_BYTES)));
        let mut bytes = encode_task(&large).unwrap();
        for cut in [1, 2, 5, bytes.len() - 1] {
            assert!(matches!(decode_task(&bytes[..cut]), Err(WireError::Malformed { .. })), "{cut}");
        }
        bytes.push(0);
        assert!(matches!(decode_task(&bytes), Err(WireError::Malformed { .. })));
    }
}
