//! The flusher: stores what running tasks say, in batches, away from those who say it.

use super::{Backoff, Chore};
use crate::config::FLUSH_EVERY;
use crate::engine::{Engine, EngineError};
use crate::talk::Flushed;

/// Flushes at the end, at most: more does not wait.
const LAST_FLUSHES_MAX: usize = 32;

/// Tells and stores what is due.
///
/// # Errors
/// When the record fails; what waits goes on waiting.
pub async fn tick(engine: &Engine) -> Result<Flushed, EngineError> {
    engine.flush_talk(false).await
}

pub(super) async fn run(chore: Chore) {
    let engine = &chore.engine;
    let mut backoff = Backoff::default();
    let mut more = false;
    while !chore.shutdown.is_cancelled() {
        if !more {
            tokio::select! {
                () = engine.talk.bell.notified() => {}
                () = chore.shutdown.cancelled() => break,
            }
        }
        let rest = match tick(engine).await {
            Ok(flushed) => {
                backoff = Backoff::default();
                more = flushed.more;
                FLUSH_EVERY
            }
            Err(error) => {
                more = true;
                backoff.failed(chore.name(), &error)
            }
        };
        chore.rest(rest).await;
    }
    for _ in 0..LAST_FLUSHES_MAX {
        match engine.flush_talk(true).await {
            Ok(flushed) if flushed.more => {}
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%error, "the last progress and log lines were not stored");
                return;
            }
        }
    }
}
