//! Messages from each engine to all engines: what those who watch are told. Nothing that counts goes this way: messages may be
//! lost, and whoever loses some is told so and reads the record.

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// Bytes of one message.
pub const BROADCAST_BYTES_MAX: usize = 64 * 1024;
/// Messages that a slow subscriber may lag behind before it misses some.
pub const BROADCAST_BUFFER: usize = 1024;

/// Carries messages to all subscribers, the publisher's own among them.
pub trait Broadcast: Send + Sync + 'static {
    /// Sends a message to whoever subscribes now. Never waits and never fails: a message that there is no room for, or that
    /// is longer than [`BROADCAST_BYTES_MAX`], is dropped and counted.
    fn publish(&self, message: Bytes);

    /// Hears all messages from now on.
    fn subscribe(&self) -> Subscription;

    /// Messages that were dropped before they were sent.
    fn dropped(&self) -> u64;
}

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A message.
    Message(Bytes),
    /// There may have been messages that were not heard: the subscriber was too slow, or the connection broke.
    Missed,
}

/// A subscriber's end.
#[derive(Debug)]
pub struct Subscription(pub(crate) broadcast::Receiver<Heard>);

impl Subscription {
    /// The next message; none: nobody can publish any more. Safe to drop.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(heard) => Some(heard),
            Err(RecvError::Lagged(_)) => Some(Heard::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Within one process.
#[derive(Debug)]
pub struct LocalBroadcast(broadcast::Sender<Heard>);

impl Default for LocalBroadcast {
    fn default() -> Self {
        Self(broadcast::channel(BROADCAST_BUFFER).0)
    }
}

impl Broadcast for LocalBroadcast {
    fn publish(&self, message: Bytes) {
        // No subscriber is no error.
        drop(self.0.send(Heard::Message(message)));
    }

    fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }

    fn dropped(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_subscribers_hear_all_and_slow_ones_are_told_what_they_are() {
        let broadcast = LocalBroadcast::default();
        broadcast.publish(Bytes::from_static(b"nobody"));
        let (mut quick, mut slow) = (broadcast.subscribe(), broadcast.subscribe());
        for number in 0..=BROADCAST_BUFFER {
            let message = Bytes::from(number.to_string());
            broadcast.publish(message.clone());
            assert_eq!(quick.next().await, Some(Heard::Message(message)));
        }
        assert_eq!(slow.next().await, Some(Heard::Missed));
        assert_eq!(slow.next().await, Some(Heard::Message(Bytes::from_static(b"1"))));
        drop(broadcast);
        assert_eq!(quick.next().await, None);
    }
}
