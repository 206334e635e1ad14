//! Messages to all engines over pub/sub, on the channel `{prefix}:events`. Workers may neither read nor write it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};

use super::RedisQueue;
use super::bells::{PING_DEADLINE, SILENCE_MAX};
use super::failure::RedisFailure;
use super::link::{Client, Line, back_off, chain, within};
use crate::broadcast::{BROADCAST_BUFFER, BROADCAST_BYTES_MAX, Broadcast, Heard, Subscription};

/// Messages that wait to be sent.
const WAITING_MAX: usize = 256;

/// Messages to all engines that share a Redis.
///
/// One connection subscribes and one publishes, both opened again after they broke; subscribers are then told that they
/// missed something. The tasks for that end with the queue.
pub struct RedisBroadcast {
    heard: broadcast::Sender<Heard>,
    waiting: mpsc::Sender<Bytes>,
    dropped: Arc<AtomicU64>,
}

impl RedisQueue {
    /// Begins to carry messages to all engines. To be called once, within the runtime that carries the connections.
    #[must_use]
    pub fn broadcast(&self) -> RedisBroadcast {
        let shared = &self.shared;
        let (heard, _) = broadcast::channel(BROADCAST_BUFFER);
        let (waiting, messages) = mpsc::channel(WAITING_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let (client, channel) = (Arc::clone(&shared.client), shared.keys.events());
        let (stop, sender) = (shared.stop.clone(), heard.clone());
        shared.tracker.spawn(async move {
            stop.run_until_cancelled(hear(&client, &channel, &sender)).await;
        });
        let (line, channel) = (Line::new(Arc::clone(&shared.client)), shared.keys.events());
        let (stop, count) = (shared.stop.clone(), Arc::clone(&dropped));
        shared.tracker.spawn(async move {
            stop.run_until_cancelled(send(&line, &channel, messages, &count)).await;
        });
        RedisBroadcast { heard, waiting, dropped }
    }
}

impl Broadcast for RedisBroadcast {
    fn publish(&self, message: Bytes) {
        if message.len() > BROADCAST_BYTES_MAX || self.waiting.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn subscribe(&self) -> Subscription {
        Subscription(self.heard.subscribe())
    }

    fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for RedisBroadcast {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RedisBroadcast").finish_non_exhaustive()
    }
}

/// Sends what waits; what cannot be sent now is worth nothing later.
async fn send(line: &Line, channel: &str, mut messages: mpsc::Receiver<Bytes>, dropped: &AtomicU64) {
    while let Some(message) = messages.recv().await {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(&message[..]);
        if let Err(error) = line.query("publishing to engines", &publish).await {
            tracing::debug!(error = chain(&error), "a message to all engines was not sent");
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn hear(client: &Client, channel: &str, heard: &broadcast::Sender<Heard>) {
    let mut attempt = 0_u32;
    loop {
        if let Err(error) = subscription(client, channel, &mut attempt, heard).await {
            tracing::debug!(error = chain(&error), "the subscription to the messages of engines broke");
        }
        sleep(back_off(attempt)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// Hears messages until the connection breaks.
async fn subscription(
    client: &Client,
    channel: &str,
    attempt: &mut u32,
    heard: &broadcast::Sender<Heard>,
) -> Result<(), RedisFailure> {
    let node = usize::try_from(*attempt).unwrap_or(0);
    let mut subscriber = client.subscriber(node).await?;
    within("subscribing", PING_DEADLINE, subscriber.subscribe(channel)).await?;
    *attempt = 0;
    // No subscriber is no error, here and below.
    drop(heard.send(Heard::Missed));
    let (mut sink, mut messages) = subscriber.split();
    loop {
        match timeout(SILENCE_MAX, messages.next()).await {
            Ok(Some(message)) => {
                let bytes = message.get_payload_bytes();
                // Whatever has written that: it is none of ours.
                if bytes.len() <= BROADCAST_BYTES_MAX {
                    drop(heard.send(Heard::Message(Bytes::copy_from_slice(bytes))));
                }
            }
            Ok(None) => return Ok(()),
            // A connection whose other end vanished is silent too.
            Err(_) => drop(within("pinging", PING_DEADLINE, sink.ping::<redis::Value>()).await?),
        }
    }
}
