//! Queues and workers: looked at while anybody wants to know, told when they change.

use std::collections::HashMap;
use std::sync::Arc;

use flowmonkey_plumbing::queue::{Depth, QueueError, WorkerPresence};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::filter::Topic;
use super::told::{Slot, Told};
use super::{BOARD_EVERY, Live};
use crate::api::operations::{parts, ready};

/// What was told last.
#[derive(Default)]
struct Board {
    depths: HashMap<String, Depth>,
    workers: HashMap<String, Value>,
}

/// Looks and tells until nobody wants to know.
pub(super) async fn run(live: Arc<Live>) {
    let mut board = Board::default();
    while !live.index.ends_board() {
        if let Err(error) = board.tell(&live).await {
            tracing::debug!(%error, "queues and workers cannot be told of");
        }
        tokio::select! {
            rung = timeout(BOARD_EVERY, live.board.notified()) => {
                if rung.is_ok() {
                    // Whoever is new is told everything.
                    board = Board::default();
                }
            }
            () = live.shutdown.cancelled() => return,
        }
    }
}

impl Board {
    async fn tell(&mut self, live: &Live) -> Result<(), QueueError> {
        let now = live.engine.now();
        let say = |kind, slot: Slot, tenant: Option<&str>, shown: &Value| {
            let told = Arc::new(Told::board(kind, shown));
            for mailbox in live.index.of(&Topic::Board) {
                if mailbox.visibility().sees(tenant) {
                    mailbox.volatile(None, Some(&slot), &told);
                }
            }
        };
        for (pool, depth) in live.engine.queue().depths().await? {
            if self.depths.get(&pool) == Some(&depth) {
                continue;
            }
            let (region, handler) = parts(&pool);
            let shown = json!({
                "type": "queue.depth", "handler": handler, "region": region, "ready": ready(&depth),
                "inFlight": depth.in_flight, "results": depth.results, "oldestAgeMs": depth.oldest_age_ms,
                "at": now.to_rfc3339(),
            });
            let tenant = pool.split_once('@').map(|(tenant, _)| tenant);
            say("queue.depth", Slot::Depth(pool.clone()), tenant, &shown);
            self.depths.insert(pool, depth);
        }
        let mut gone = std::mem::take(&mut self.workers);
        for presence in live.engine.queue().workers().await? {
            let name = presence.worker.clone();
            let shown = shown_worker(presence);
            let kind = match gone.remove(&name) {
                None => "worker.joined",
                Some(before) if before != shown => "worker.changed",
                Some(_) => {
                    self.workers.insert(name, shown);
                    continue;
                }
            };
            let message = json!({ "type": kind, "worker": shown, "at": now.to_rfc3339() });
            say(kind, Slot::Worker(name.clone()), None, &message);
            self.workers.insert(name, shown);
        }
        for name in gone.into_keys() {
            let message =
                json!({ "type": "worker.left", "worker": { "worker": name }, "at": now.to_rfc3339() });
            say("worker.left", Slot::Worker(name), None, &message);
        }
        Ok(())
    }
}

/// A worker as it is shown, without what changes all the time.
fn shown_worker(presence: WorkerPresence) -> Value {
    let mut shown = json!(presence);
    if let Value::Object(fields) = &mut shown {
        fields.shift_remove("silentMs");
        // They are long, and `GET /v1/workers` has them.
        fields.shift_remove("manifests");
    }
    shown
}
