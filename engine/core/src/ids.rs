//! Identifiers. Each is its own type and prints its kind; none is drawn here (chance comes from the shell).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::time::Timestamp;

/// The text is not an identifier of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct InvalidId {
    text: String,
    wanted: &'static str,
}

/// One run of a flow. Prints as `ex_` and 32 hexadecimal digits; reads that, or any spelling of a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId(Uuid);

impl ExecutionId {
    /// Wraps a UUID drawn by the shell (version 7, so that ids sort by creation).
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID behind the id.
    #[must_use]
    pub const fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// The id of the child with number `index` of the fan-out `join` of `self`, made at `now`.
    ///
    /// It has the layout of a version-7 UUID, so that children sort by creation too; its random part is a hash, so that
    /// the same fan-out decided twice names the same children.
    #[must_use]
    pub fn child(self, join: u32, index: u32, now: Timestamp) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        hash.update(join.to_be_bytes());
        hash.update(index.to_be_bytes());
        let digest = hash.finalize();
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&now.as_millis().to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&digest[..10]);
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ex_{}", self.0.simple())
    }
}

impl fmt::Debug for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecutionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("ex_").unwrap_or(text);
        Uuid::try_parse(digits).map(Self).map_err(|_| InvalidId {
            text: text.into(),
            wanted: "an execution id (`ex_` and 32 hexadecimal digits)",
        })
    }
}

/// One step of one execution to be carried out. It names its execution, so that no index is needed to find it. Prints as
/// `tk_`, the execution's 32 digits, `_` and the number of the task in its execution.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The execution the task belongs to.
    pub execution: ExecutionId,
    /// The number of the task within its execution, from 1.
    pub number: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tk_{}_{}", self.execution.0.simple(), self.number)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (execution, number) = text.strip_prefix("tk_")?.split_once('_')?;
            let execution = ExecutionId(Uuid::try_parse(execution).ok()?);
            Some(Self { execution, number: number.parse().ok()? })
        };
        parse()
            .ok_or_else(|| InvalidId { text: text.into(), wanted: "a task id (`tk_<execution>_<number>`)" })
    }
}

macro_rules! serde_as_text {
    ($($id:ty),+) => {$(
        impl Serialize for $id {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $id {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

serde_as_text!(ExecutionId, TaskId);

/// SHA-256 over the canonical JSON of a flow definition, as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlowHash(String);

impl FlowHash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in Sha256::digest(bytes) {
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        Self(text)
    }

    /// Wraps a hash read from a store.
    #[must_use]
    pub fn from_hex(text: String) -> Self {
        Self(text)
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FlowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FlowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    #[test]
    fn ids_print_their_kind_and_read_back() {
        let execution = ExecutionId::from_uuid(UUID);
        assert_eq!(execution.to_string(), "ex_01920000000070008000000000000001");
        assert_eq!(execution.to_string().parse(), Ok(execution));
        assert_eq!("01920000-0000-7000-8000-000000000001".parse(), Ok(execution));
        let task = TaskId { execution, number: 7 };
        assert_eq!(task.to_string(), "tk_01920000000070008000000000000001_7");
        assert_eq!(task.to_string().parse(), Ok(task));
        assert!("tk_7".parse::<TaskId>().is_err());
        assert!("ex_zz".parse::<ExecutionId>().is_err());
    }

    #[test]
    fn a_child_id_is_a_version_7_uuid_that_depends_on_all_its_parts() {
        let parent = ExecutionId::from_uuid(UUID);
        let now = Timestamp::from_millis(1_700_000_000_000);
        let child = parent.child(1, 2, now);
        assert_eq!(child, parent.child(1, 2, now));
        assert_eq!(child.as_uuid().get_version_num(), 7);
        for other in [parent.child(1, 3, now), parent.child(2, 2, now), child.child(1, 2, now)] {
            assert_ne!(child, other);
        }
        assert!(parent.child(1, 2, now.plus(1)) > child);
    }
}
