//! A Redis that forgets, wholly or in part, or is full.

use flowmonkey_test_support::RedisOptions;
use serde_json::json;

use super::load::{Load, noted, notes_of, progress};
use crate::system::{Options, System, wait_for};

/// Tasks that run while Redis forgets them.
const LONG: usize = 4;
/// Tasks that are begun before something goes wrong.
const BEFORE: usize = 20;
/// Every kind of key, and whether there is one under any load.
const KINDS: [(&str, bool); 20] = [
    ("flowmonkey:tasks:{work}", true),
    ("flowmonkey:payload:{work}", true),
    ("flowmonkey:terms:{work}", true),
    ("flowmonkey:latest:{work}", true),
    ("flowmonkey:leases:{work}", true),
    ("flowmonkey:owners:{work}", true),
    ("flowmonkey:outcomes:{work}", true),
    ("flowmonkey:generation:{work}", true),
    ("flowmonkey:workers:{work}", true),
    ("flowmonkey:senders:{work}", true),
    ("flowmonkey:listeners:{work}", true),
    ("flowmonkey:pools", true),
    ("flowmonkey:engines", true),
    // Results are for the engine that sent the task, mostly.
    ("flowmonkey:results:{work}", false),
    ("flowmonkey:bell:{work}", false),
    ("flowmonkey:tasks:{work}:high", false),
    ("flowmonkey:tasks:{work}:low", false),
    ("flowmonkey:cancel:{work}", false),
    ("flowmonkey:gone:{work}", false),
    ("flowmonkey:unreadable:{work}", false),
];

/// Tasks that run keep their leases by re-assertion: they do not run twice.
async fn what_runs_is_not_forgotten(forget: impl AsyncFnOnce(&System)) {
    let system = System::start(Options::default()).await;
    let mut load = Load::new(&system).await;
    let mut long = Vec::new();
    for _ in 0..LONG {
        long.push(load.start(&system, "long", json!({}), 2).await);
    }
    for id in &long {
        noted(&system, id, "begin", 1).await;
    }
    load.during(&system, async {
        progress(&system, BEFORE).await;
        forget(&system).await;
        for id in &long {
            noted(&system, id, "end", 1).await;
        }
    })
    .await;
    load.check(&system).await;
    for id in &long {
        assert_eq!(notes_of(&system, id, "begin").len(), 2, "no long task ran twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_be_emptied() {
    what_runs_is_not_forgotten(async |system| {
        system.redis.command(&["FLUSHALL"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_may_be_restarted_without_its_data() {
    what_runs_is_not_forgotten(async |system| system.redis.restart_empty().await).await;
}

/// The functions are loaded again by whoever misses them.
#[tokio::test(flavor = "multi_thread")]
async fn the_functions_may_be_flushed() {
    what_runs_is_not_forgotten(async |system| {
        system.redis.command(&["FUNCTION", "FLUSH"]).await;
    })
    .await;
}

/// Each key alone, at a moment when it holds something.
#[tokio::test(flavor = "multi_thread")]
async fn any_key_may_be_deleted() {
    // Few slots, so that tasks queue up.
    let system = System::start(Options { concurrency: 2, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    let mut connection = system.redis.connect().await.unwrap();
    for (key, always) in KINDS {
        load.during(&system, async {
            loop {
                let deleted: usize = redis::cmd("DEL").arg(key).query_async(&mut connection).await.unwrap();
                if deleted > 0 || !always {
                    return;
                }
            }
        })
        .await;
        progress_after(&mut load, &system, 5).await;
    }
    for pattern in [
        "flowmonkey:processing:{work}:*",
        "flowmonkey:results:{work}:for:*",
        "flowmonkey:results:{work}:processing:*",
    ] {
        load.during(&system, async {
            loop {
                let keys: Vec<String> =
                    redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
                let Some(key) = keys.first() else { continue };
                let deleted: usize = redis::cmd("DEL").arg(key).query_async(&mut connection).await.unwrap();
                if deleted > 0 {
                    return;
                }
            }
        })
        .await;
    }
    load.check(&system).await;
}

async fn progress_after(load: &mut Load, system: &System, more: usize) {
    load.during(system, progress(system, more)).await;
}

/// Bytes of the inputs that fill Redis.
const INPUT_BYTES: usize = 60_000;
/// Executions with such inputs.
const LARGE: usize = 40;
/// What Redis may use beyond what it uses when it is empty: room for some of them.
const ROOM_BYTES: usize = 1_200_000;

/// The record holds what Redis has no room for; workers and results go on.
#[tokio::test(flavor = "multi_thread")]
async fn redis_may_be_full() {
    let config = vec!["maxmemory-policy noeviction".to_owned()];
    let redis = RedisOptions { config, ..RedisOptions::default() };
    let system = System::start(Options { redis, concurrency: 2, ..Options::default() }).await;
    let mut load = Load::new(&system).await;
    let used = used_memory(&system).await;
    let limit = (used + ROOM_BYTES).to_string();
    system.redis.command(&["CONFIG", "SET", "maxmemory", &limit]).await;
    for worker in &system.workers {
        worker.pause();
    }
    for number in 0..LARGE {
        // Nothing that could be compressed.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 + number as u64;
        let text: String = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            format!("{state:016x}")
        })
        .take(INPUT_BYTES / 16)
        .collect();
        load.start(&system, "chain", json!({ "text": text }), 2).await;
    }
    let full = "the queue is full";
    wait_for("a push was refused", async || {
        system.engines.iter().any(|engine| engine.log().contains(full)).then_some(())
    })
    .await;
    for worker in &system.workers {
        worker.resume();
    }
    load.check(&system).await;
    // It was the limit that held, to the end.
    assert!(used_memory(&system).await < used + ROOM_BYTES);
}

async fn used_memory(system: &System) -> usize {
    let info = system.redis.command(&["INFO", "memory"]).await;
    let text: String = redis::from_redis_value(info).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}
