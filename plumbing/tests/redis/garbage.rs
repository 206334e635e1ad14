//! Whatever somebody writes into our keys stops nothing but itself.

use flowmonkey_plumbing::queue::conformance::{result, task};
use flowmonkey_plumbing::queue::redis::TASK_UNREADABLE;
use flowmonkey_plumbing::queue::{DispatchQueue, TaskQueue, WorkerPresence};
use flowmonkey_plumbing::wire::{encode_result, encode_task};

use super::support::{claimed, on, options, queue_with, shared_server};

const KINDS: [&str; 16] = [
    "tasks:{a}:high",
    "tasks:{a}",
    "tasks:{a}:low",
    "payload:{a}",
    "terms:{a}",
    "latest:{a}",
    "leases:{a}",
    "owners:{a}",
    "results:{a}",
    "outcomes:{a}",
    "cancel:{a}",
    "generation:{a}",
    "bell:{a}",
    "workers:{a}",
    "unreadable:{a}",
    "gone:{a}",
];

/// Each key of a pool gets the wrong type in turn. Other pools go on, and the pool itself does after the engine has looked.
#[tokio::test]
async fn a_key_of_the_wrong_type_is_put_aside() {
    let server = shared_server().await;
    for kind in KINDS {
        let options = options(server.url());
        let key = format!("{}:{kind}", options.prefix);
        let queue = queue_with(options).await.0;
        queue.push(vec![task("other", 1, "b")]).await.unwrap();
        queue.set_generation("a", 1).await.unwrap();
        queue.push(vec![task("t", 1, "a")]).await.unwrap();
        server.command(&["DEL", &key]).await;
        if kind.starts_with("generation") {
            server.command(&["RPUSH", &key, "x"]).await;
        } else {
            server.command(&["SET", &key, "x"]).await;
        }
        // Others are seen, whatever the state of this pool.
        let depths = queue.depths().await.unwrap();
        assert!(depths.iter().any(|(pool, depth)| pool == "b" && depth.normal == 1), "{kind}: {depths:?}");
        assert_eq!(queue.stats().await.keys_put_aside, 1, "{kind}");
        assert_eq!(queue.generations(&["a".into()]).await.unwrap(), [None], "{kind}: to be rebuilt");
        let again = task("t", 2, "a");
        queue.push(vec![again.clone()]).await.unwrap();
        assert_eq!(claimed(&queue, "w", 9).await.last().map(String::as_str), Some("t"), "{kind}");
        assert_eq!(queue.finish("a", "w", vec![result(&again)]).await.unwrap(), [], "{kind}");
        assert_eq!(queue.take("e", 9).await.unwrap().len(), 1, "{kind}");
        assert_eq!(queue.expired(9).await.unwrap(), [], "{kind}");
    }
}

/// The keys that all pools share.
#[tokio::test]
async fn shared_keys_of_the_wrong_type_are_written_anew() {
    let server = shared_server().await;
    let options = options(server.url());
    let prefix = options.prefix.clone();
    server.command(&["SET", &format!("{prefix}:pools"), "x"]).await;
    server.command(&["SET", &format!("{prefix}:engines"), "x"]).await;
    let queue = queue_with(options).await.0;
    queue.push(vec![task("t", 1, "a")]).await.unwrap();
    assert_eq!(queue.present(&[on("t", 1)]).await.unwrap(), [true]);
    queue.keep_alive("e").await.unwrap();
    assert_eq!(queue.depths().await.unwrap().len(), 1);
    server.command(&["SADD", &format!("{prefix}:pools"), "{x}", "A B", "../.."]).await;
    queue.keep_alive("e").await.unwrap();
    assert_eq!(queue.depths().await.unwrap().len(), 1);
}

#[tokio::test]
async fn elements_that_are_no_ids_are_put_aside_and_stop_nothing() {
    let server = shared_server().await;
    let options = options(server.url());
    let key = |kind: &str| format!("{}:{kind}", options.prefix);
    let queue = queue_with(options.clone()).await.0;
    let huge = "x".repeat(100_000);
    for list in ["tasks:{a}", "tasks:{a}:high", "tasks:{a}:low", "results:{a}"] {
        server.command(&["RPUSH", &key(list), "", "no-attempt", "t:0", "t:01", "a\nb:1", &huge]).await;
    }
    for hash in
        ["payload:{a}", "terms:{a}", "latest:{a}", "owners:{a}", "outcomes:{a}", "gone:{a}", "workers:{a}"]
    {
        server.command(&["HSET", &key(hash), "t", "garbage", "2", "garbage", "no-attempt", "9"]).await;
    }
    server.command(&["ZADD", &key("leases:{a}"), "1", "no-attempt", "2", "t:0", "3", "stray:1"]).await;
    server.command(&["SADD", &key("cancel:{a}"), "x"]).await;
    server.command(&["RPUSH", &key("bell:{a}"), "x"]).await;
    server.command(&["SET", &key("generation:{a}"), "x"]).await;

    let task = task("good", 1, "a");
    queue.push(vec![task.clone()]).await.unwrap();
    assert_eq!(claimed(&queue, "w", 9).await, ["good"]);
    assert_eq!(queue.extend("a", "w", &[task.delivery()]).await.unwrap().generation, 0);
    assert_eq!(queue.generations(&["a".into()]).await.unwrap(), [None]);
    assert_eq!(queue.finish("a", "w", vec![result(&task)]).await.unwrap(), []);
    let taken = queue.take("e", 9).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].result.as_ref().unwrap(), &result(&task));
    // A lease that nobody knows of is an ended lease of nobody; garbage among them hides it for one call at most.
    queue.expired(1).await.unwrap();
    queue.expired(1).await.unwrap();
    let expired = queue.expired(9).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!((&expired[0].dispatched, expired[0].worker.as_str()), (&on("stray", 1), ""));
    let presence =
        WorkerPresence { worker: "w".into(), pools: vec!["a".into()], ..WorkerPresence::default() };
    queue.announce(&presence).await.unwrap();
    assert_eq!(queue.workers().await.unwrap().len(), 1);
    assert_eq!(queue.stats().await.elements_put_aside, 26);
    let aside: usize =
        redis::from_redis_value(server.command(&["LLEN", &key("unreadable:{a}")]).await).unwrap();
    assert!((26..=1_000).contains(&aside), "{aside}");
}

/// A body that cannot be read, and one of another delivery, end as failures that the record can retry.
#[tokio::test]
async fn tasks_with_unreadable_bodies_fail_and_the_others_are_claimed() {
    let server = shared_server().await;
    let options = options(server.url());
    let payload = format!("{}:payload:{{a}}", options.prefix);
    let queue = queue_with(options).await.0;
    queue.push(["broken", "swapped", "good"].map(|id| task(id, 1, "a")).to_vec()).await.unwrap();
    server.command(&["HSET", &payload, "broken:1", "\u{1}garbage"]).await;
    let mut connection = server.connect().await.unwrap();
    let other = encode_task(&task("good", 1, "a")).unwrap();
    redis::cmd("HSET").arg(&payload).arg("swapped:1").arg(other).exec_async(&mut connection).await.unwrap();
    assert_eq!(claimed(&queue, "w", 9).await, ["good"]);
    let taken = queue.take("e", 9).await.unwrap();
    assert_eq!(taken.len(), 2);
    for taken in taken {
        let error = taken.result.unwrap().error.unwrap();
        assert_eq!((error.code.as_str(), error.retryable), (TASK_UNREADABLE, Some(true)));
    }
    assert_eq!(queue.stats().await.tasks_unreadable, 2);
}

/// A result that cannot be read, or is of another delivery, is taken as such.
#[tokio::test]
async fn unreadable_results_are_taken_as_errors() {
    let server = shared_server().await;
    let options = options(server.url());
    let outcomes = format!("{}:outcomes:{{a}}", options.prefix);
    let queue = queue_with(options).await.0;
    let tasks = ["broken", "swapped", "good"].map(|id| task(id, 1, "a"));
    queue.finish("a", "w", tasks.iter().map(result).collect()).await.unwrap();
    queue.push(vec![task("known", 1, "a")]).await.unwrap();
    server.command(&["HSET", &outcomes, "broken:1", "garbage"]).await;
    let mut connection = server.connect().await.unwrap();
    let other = encode_result(&result(&tasks[2])).unwrap();
    redis::cmd("HSET").arg(&outcomes).arg("swapped:1").arg(other).exec_async(&mut connection).await.unwrap();
    let taken = queue.take("e", 9).await.unwrap();
    let readable: Vec<_> =
        taken.iter().map(|taken| (taken.dispatched.clone(), taken.result.is_ok())).collect();
    assert_eq!(readable, [(on("broken", 1), false), (on("swapped", 1), false), (on("good", 1), true)]);
    assert_eq!(queue.stats().await.results_unreadable, 2);
    let all: Vec<_> = taken.into_iter().map(|taken| taken.dispatched).collect();
    queue.acknowledge("e", &all).await.unwrap();
    assert_eq!(queue.present(&all).await.unwrap(), [false; 3]);
}
