//! Redis: starts, is reached, dies and comes back.

use flowmonkey_test_support::{Persistence, Redis, RedisOptions, patient};
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

#[tokio::test]
async fn a_paused_server_keeps_its_connections_and_answers_later() {
    let redis = Redis::start(RedisOptions::default()).await;
    let mut connection = redis.client().get_multiplexed_async_connection().await.unwrap();
    redis.pause();
    let silent = redis::cmd("INCR").arg("n").query_async::<i64>(&mut connection).await.unwrap_err();
    assert!(silent.is_timeout(), "{silent}");
    redis.resume();
    let count: i64 = redis::cmd("INCR").arg("n").query_async(&mut connection).await.unwrap();
    assert_eq!(count, 2, "what was sent to the paused server was done later");
}

#[tokio::test]
async fn settings_passwords_and_users_are_taken() {
    let options = RedisOptions {
        config: vec!["maxmemory 5mb".to_owned()],
        password: Some("secret".to_owned()),
        ..RedisOptions::default()
    };
    let redis = Redis::start(options).await;
    let memory = redis.command(&["CONFIG", "GET", "maxmemory"]).await;
    assert_eq!(memory, Value::Array(vec![text("maxmemory"), text("5242880")]));
    let stranger = redis::Client::open(format!("redis://127.0.0.1:{}", redis.port())).unwrap();
    let mut connection = stranger.get_multiplexed_async_connection_with_config(&patient()).await.unwrap();
    let refused = redis::cmd("PING").exec_async(&mut connection).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOAUTH"));

    let acl = vec!["user default on nopass ~* &* +@all -flushall".to_owned()];
    let redis = Redis::start(RedisOptions { acl, ..RedisOptions::default() }).await;
    let refused = redis.try_command(&["FLUSHALL"]).await.unwrap_err();
    assert_eq!(refused.code(), Some("NOPERM"));
}
