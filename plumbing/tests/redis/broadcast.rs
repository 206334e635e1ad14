//! Messages to all engines over pub/sub.

use std::time::Duration;

use bytes::Bytes;
use flowmonkey_plumbing::broadcast::{BROADCAST_BYTES_MAX, Broadcast, Heard, Subscription};
use flowmonkey_plumbing::queue::redis::RedisOptions;
use flowmonkey_test_support::FaultProxy;
use tokio::time::timeout;

use super::support::{cluster_options, options, queue_with, shared_server};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next(subscription: &mut Subscription) -> Heard {
    timeout(PATIENCE, subscription.next()).await.unwrap().unwrap()
}

/// Publishes `text` until it is heard: connections are opened when they are needed. Says whether something was missed before.
async fn until_heard(from: &impl Broadcast, to: &mut Subscription, text: &'static str) -> bool {
    let (message, mut missed) = (Bytes::from_static(text.as_bytes()), false);
    let hearing = async {
        loop {
            from.publish(message.clone());
            match timeout(Duration::from_millis(50), to.next()).await {
                Ok(Some(Heard::Message(heard))) if heard == message => return missed,
                Ok(Some(Heard::Missed)) => missed = true,
                Ok(_) | Err(_) => {}
            }
        }
    };
    timeout(PATIENCE, hearing).await.unwrap()
}

async fn everybody_hears(options: RedisOptions) {
    let (one, other) = (queue_with(options.clone()).await.0, queue_with(options).await.0);
    let (one, other) = (one.broadcast(), other.broadcast());
    let (mut own, mut others) = (one.subscribe(), other.subscribe());
    until_heard(&one, &mut others, "there").await;
    until_heard(&one, &mut own, "here").await;
    let dropped = one.dropped();
    one.publish(Bytes::from(vec![b'x'; BROADCAST_BYTES_MAX + 1]));
    assert_eq!(one.dropped(), dropped + 1);
    one.publish(Bytes::from(vec![b'y'; BROADCAST_BYTES_MAX]));
    loop {
        match next(&mut others).await {
            Heard::Message(bytes) if bytes.len() == BROADCAST_BYTES_MAX => break,
            Heard::Message(bytes) => assert!(bytes.len() < BROADCAST_BYTES_MAX),
            Heard::Missed => {}
        }
    }
}

#[tokio::test]
async fn all_engines_hear_what_one_says() {
    everybody_hears(options(shared_server().await.url())).await;
}

#[tokio::test]
async fn all_engines_hear_what_one_says_in_a_cluster() {
    everybody_hears(cluster_options().await).await;
}

#[tokio::test]
async fn whoever_was_cut_off_is_told_so_and_hears_again() {
    let server = shared_server().await;
    let proxy = FaultProxy::start(server.port());
    let direct = options(server.url());
    let behind = RedisOptions { url: proxy.url_of(&server.url(), server.port()), ..direct.clone() };
    let (direct, behind) = (queue_with(direct).await.0, queue_with(behind).await.0);
    let (direct, behind) = (direct.broadcast(), behind.broadcast());
    let mut heard = behind.subscribe();
    until_heard(&direct, &mut heard, "first").await;
    proxy.cut();
    assert!(until_heard(&direct, &mut heard, "second").await, "something may have been missed");
}
