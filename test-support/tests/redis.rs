//! Redis: starts, is reached, dies and comes back.
#![expect(clippy::unwrap_used, reason = "test code")]

use flowmonkey_test_support::{Persistence, Redis, RedisOptions};
use redis::Value;

fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

#[tokio::test]
async fn two_at_once_do_not_know_of_each_other() {
    let (one, two) =
        tokio::join!(Redis::start(RedisOptions::default()), Redis::start(RedisOptions::default()));
    assert_ne!(one.port(), two.port());
    one.command(&["SET", "key", "one"]).await;
    assert_eq!(two.command(&["GET", "key"]).await, Value::Nil);
    assert_eq!(one.command(&["GET", "key"]).await, text("one"));
}

#[tokio::test]
async fn what_survives_a_kill_is_what_the_options_say() {
    for (persistence, survives) in [(Persistence::None, false), (Persistence::AppendOnly, true)] {
        let redis = Redis::start(RedisOptions { persistence, ..RedisOptions::default() }).await;
        let (port, pid) = (redis.port(), redis.pid());
        redis.command(&["SET", "key", "kept"]).await;
        redis.kill();
        redis.try_command(&["PING"]).await.unwrap_err();
        redis.restart().await;
        assert_eq!(redis.port(), port);
        assert_ne!(redis.pid(), pid);
        let expected = if survives { text("kept") } else { Value::Nil };
        assert_eq!(redis.command(&["GET", "key"]).await, expected, "{persistence:?}");
        redis.command(&["SET", "key", "again"]).await;
        redis.stop().await;
        redis.restart_empty().await;
        assert_eq!(redis.command(&["GET", "key"]).await, Value::Nil);
    }
}
