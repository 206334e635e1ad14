//! How full Redis is. Engines stop pushing before Redis itself refuses, so that workers and results always have room.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::failure::RedisFailure;
use super::shared::Shared;
use super::values::Answer;
use crate::queue::QueueError;

/// How old the view may be.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Memory {
    last: tokio::sync::Mutex<Option<(Instant, f64)>>,
}

impl Shared {
    /// Refuses when more than the allowed share of Redis' memory is in use.
    pub(super) async fn check_memory(&self) -> Result<(), QueueError> {
        let mut last = self.memory.last.lock().await;
        let ratio = match *last {
            Some((at, ratio)) if at.elapsed() < LOOK_EVERY => ratio,
            _ => {
                let ratio =
                    self.memory_ratio().await.map_err(|error| error.into_queue_error("memory of Redis"))?;
                *last = Some((Instant::now(), ratio));
                ratio
            }
        };
        let limit = self.options.memory_ratio_max;
        if ratio > limit {
            let limit =
                format!("Redis uses {:.0} % of its memory, over {:.0} %", ratio * 100.0, limit * 100.0);
            return Err(QueueError::Full { limit });
        }
        Ok(())
    }

    /// `used_memory` of `maxmemory`, of the fullest primary; 0 without a limit.
    pub(super) async fn memory_ratio(&self) -> Result<f64, RedisFailure> {
        let infos = self.info("memory").await?;
        Ok(infos.iter().map(|info| info.memory_ratio()).fold(0.0, f64::max))
    }

    /// A section of INFO, of each primary.
    pub(super) async fn info(&self, section: &'static str) -> Result<Vec<Info>, RedisFailure> {
        let mut command = redis::cmd("INFO");
        command.arg(section);
        let answers = self.calls.query_primaries("reading INFO", &command).await?;
        answers.into_iter().map(Info::read).collect()
    }
}

/// A section of INFO.
pub(super) struct Info(String);

impl Info {
    fn read(value: Value) -> Result<Self, RedisFailure> {
        Ok(Self(Answer::new("INFO", value).text()?))
    }

    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn get(&self, field: &str) -> Option<&str> {
        self.0
            .lines()
            .find_map(|line| line.split_once(':').filter(|(name, _)| *name == field))
            .map(|(_, value)| value.trim())
    }

    pub(super) fn number(&self, field: &str) -> Option<f64> {
        self.get(field)?.parse().ok()
    }

    pub(super) fn memory_ratio(&self) -> f64 {
        match (self.number("used_memory"), self.number("maxmemory")) {
            (Some(used), Some(max)) if max > 0.0 => used / max,
            _ => 0.0,
        }
    }
}
