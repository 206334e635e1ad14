//! Reading what Redis answers. Nothing of it is trusted to have the right form.

use redis::Value;

use super::failure::RedisFailure;
use crate::queue::{Delivery, QueueError};

/// Bytes of a task's id in keys.
const TASK_ID_BYTES_MAX: usize = 580;

/// An answer, and what was asked for, to name it when its form is wrong.
pub(super) struct Answer {
    doing: &'static str,
    value: Value,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "not our enum, and more may be added to it")]
impl Answer {
    pub(super) fn new(doing: &'static str, value: Value) -> Self {
        Self { doing, value }
    }

    fn wrong(doing: &str) -> RedisFailure {
        RedisFailure::Answer { doing: doing.to_owned() }
    }

    pub(super) fn list(self) -> Result<Vec<Self>, RedisFailure> {
        let doing = self.doing;
        let values = match self.value {
            Value::Array(values) | Value::Set(values) => values,
            Value::Map(pairs) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
            Value::Nil => Vec::new(),
            _ => return Err(Self::wrong(doing)),
        };
        Ok(values.into_iter().map(|value| Self { doing, value }).collect())
    }

    pub(super) fn fixed<const N: usize>(self) -> Result<[Self; N], RedisFailure> {
        let doing = self.doing;
        self.list()?.try_into().map_err(|_| Self::wrong(doing))
    }

    /// Pairs of a flat list.
    pub(super) fn groups<const N: usize>(self) -> Result<Vec<[Self; N]>, RedisFailure> {
        let doing = self.doing;
        let mut rest = self.list()?.into_iter();
        let mut groups = Vec::with_capacity(rest.len() / N);
        while rest.len() > 0 {
            let group: Vec<Self> = rest.by_ref().take(N).collect();
            groups.push(group.try_into().map_err(|_| Self::wrong(doing))?);
        }
        Ok(groups)
    }

    pub(super) fn bytes(self) -> Result<Vec<u8>, RedisFailure> {
        match self.value {
            Value::BulkString(bytes) => Ok(bytes),
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(text.into_bytes()),
            Value::Int(number) => Ok(number.to_string().into_bytes()),
            Value::Nil => Ok(Vec::new()),
            _ => Err(Self::wrong(self.doing)),
        }
    }

    pub(super) fn text(self) -> Result<String, RedisFailure> {
        Ok(String::from_utf8_lossy(&self.bytes()?).into_owned())
    }

    pub(super) fn count(self) -> Result<usize, RedisFailure> {
        let doing = self.doing;
        match self.value {
            Value::Int(number) => usize::try_from(number).map_err(|_| Self::wrong(doing)),
            Value::Nil => Ok(0),
            _ => Err(Self::wrong(doing)),
        }
    }

    /// Ids; what is none is left out.
    pub(super) fn deliveries(self) -> Result<Vec<Delivery>, RedisFailure> {
        let mut deliveries = Vec::new();
        for id in self.list()? {
            deliveries.extend(read_id(&id.bytes()?));
        }
        Ok(deliveries)
    }
}

/// A pool's generation; missing, or no number: 0.
pub(super) fn read_generation(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The delivery of an id `<task>:<attempt>`.
pub(super) fn read_id(bytes: &[u8]) -> Option<Delivery> {
    let (task_id, attempt) = std::str::from_utf8(bytes).ok()?.rsplit_once(':')?;
    let delivery = Delivery { task_id: task_id.to_owned(), attempt: attempt.parse().ok()? };
    // One spelling only: no sign, no leading zeros.
    (is_id(&delivery) && delivery.to_string().as_bytes() == bytes).then_some(delivery)
}

/// The id of a delivery.
pub(super) fn write_id(delivery: &Delivery) -> Result<String, QueueError> {
    let id = delivery.to_string();
    if is_id(delivery) {
        return Ok(id);
    }
    let entry = id.chars().take(TASK_ID_BYTES_MAX).collect();
    Err(QueueError::Corrupt {
        entry,
        reason: "a task's id is 1 to 580 bytes without control characters".into(),
    })
}

fn is_id(delivery: &Delivery) -> bool {
    let task = &delivery.task_id;
    delivery.attempt > 0
        && !task.is_empty()
        && task.len() <= TASK_ID_BYTES_MAX
        && !task.bytes().any(|byte| byte.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let delivery = Delivery { task_id: "a:b".into(), attempt: 4_294_967_295 };
        assert_eq!(read_id(write_id(&delivery).unwrap().as_bytes()), Some(delivery));
        for id in ["", "a", "a:", "a:0", "a:01", "a:+1", "a:-1", ":1", "a\n:1", "a:4294967296", "a:1 "] {
            assert_eq!(read_id(id.as_bytes()), None, "{id:?}");
        }
        assert_eq!(read_id(b"\xff:1"), None);
        for (task_id, attempt) in [("a", 0), ("", 1), ("a\u{7}", 1), (&"x".repeat(581), 1)] {
            assert!(write_id(&Delivery { task_id: task_id.into(), attempt }).is_err());
        }
    }

    #[test]
    fn answers_of_the_wrong_form_are_errors() {
        let answer = |value| Answer::new("it", value);
        assert!(answer(Value::Int(1)).list().is_err());
        assert!(answer(Value::Array(vec![Value::Int(1)])).fixed::<2>().is_err());
        assert!(answer(Value::Array(vec![Value::Int(1)])).groups::<2>().is_err());
        assert!(answer(Value::Int(-1)).count().is_err());
        assert!(answer(Value::Array(Vec::new())).bytes().is_err());
        assert_eq!(read_generation(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(read_generation(b"x"), None);
    }
}
