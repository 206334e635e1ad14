//! Messages between engine and worker: tolerant of unknown fields, versioned, the same structs in MessagePack (named
//! fields) and in the documented JSON (camelCase).

mod codec;
mod result;
mod task;

pub use codec::{
    COMPRESSED_FROM_BYTES, MESSAGE_BYTES_MAX, MESSAGE_DEPTH_MAX, VALUE_DEPTH_MAX, WireError, check_result,
    decode_result, decode_task, encode_result, encode_sealed_result, encode_task, open_result,
};
pub use result::{
    ContextOperation, ContextUpdates, Cost, EventWait, LogLevel, LogLine, Metrics, Outcome, ResultMessage,
    TableRow, TaskError, TaskEvent,
};
pub use task::{CheckpointReference, HandlerReference, Priority, TaskMessage, TaskMetadata};

/// Key of a wait result's `metadata`. When it is true, the same task is delivered again when the wait ends: it keeps its
/// checkpoint and its idempotency key. Without it, the cursor goes on to `onResume` or `onSuccess`.
pub const CONTINUE_AFTER_WAIT: &str = "continueAfterWait";
/// In a task's metadata after a pause: what ended it, `{by: time | resume | event, id, name, data}`. It stays until the next
/// pause of the same visit.
pub const RESUMED: &str = "resumed";

/// Whether a flag is left out of a message.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// The version of the message formats. Raised only when an older peer could misread a message.
pub const PROTOCOL_VERSION: u16 = 1;
