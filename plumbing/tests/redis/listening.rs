//! Results go back to the engine that sent the task, as long as it takes them.

use std::sync::Arc;

use flowmonkey_plumbing::queue::conformance::result;
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{DispatchQueue, TaskQueue};
use flowmonkey_plumbing::wire::TaskMessage;

use super::support::{claimed, long_task, on, options, queue_with, shared_server};

/// Results that wait for one engine at most, as in `scripts/common.lua`, and how many are handed in at a time.
const ADDRESSED_MAX: usize = 1000;
const AT_A_TIME: usize = 250;

/// A queue of the engine of this name, which has asked for its results.
async fn engine(options: &RedisOptions, name: &str) -> Arc<RedisQueue> {
    let options = RedisOptions { engine: Some(name.into()), ..options.clone() };
    let queue = queue_with(options).await.0;
    queue.set_generation("a", 1).await.unwrap();
    assert_eq!(taken(&queue, name).await, [""; 0]);
    queue
}

async fn taken(queue: &RedisQueue, name: &str) -> Vec<String> {
    let taken = queue.take(name, 9).await.unwrap();
    taken.into_iter().map(|taken| taken.result.unwrap().task_id).collect()
}

async fn run(queue: &RedisQueue, tasks: &[TaskMessage]) {
    queue.push(tasks.to_vec()).await.unwrap();
    claimed(queue, "w", tasks.len()).await;
    let results = tasks.iter().map(result).collect();
    assert_eq!(queue.finish("a", "w", results).await.unwrap(), []);
}

#[tokio::test]
async fn results_come_back_to_the_engine_that_sent_the_task() {
    let server = shared_server().await;
    let options = options(server.url());
    let (one, other) = (engine(&options, "e1").await, engine(&options, "e2").await);
    run(&one, &[long_task("t1")]).await;
    run(&other, &[long_task("t2")]).await;
    assert_eq!(one.present(&[on("t1", 1), on("t2", 1)]).await.unwrap(), [true, true]);
    assert_eq!(taken(&one, "e1").await, ["t1"]);
    assert_eq!(taken(&one, "e1").await, [""; 0]);
    assert_eq!(taken(&other, "e2").await, ["t2"]);
    one.acknowledge("e1", &[on("t1", 1)]).await.unwrap();
    other.acknowledge("e2", &[on("t2", 1)]).await.unwrap();
    assert!(one.is_idle().await.unwrap());
    let senders = server.command(&["HLEN", &format!("{}:senders:{{a}}", options.prefix)]).await;
    assert_eq!(senders, redis::Value::Int(0), "nothing is kept of what is over");
}

#[tokio::test]
async fn what_is_for_an_engine_that_has_fallen_silent_is_for_all() {
    let server = shared_server().await;
    let options = options(server.url());
    let one = engine(&options, "e1").await;
    run(&one, &[long_task("before")]).await;
    // Long ago.
    server.command(&["HSET", &format!("{}:listeners:{{a}}", options.prefix), "e1", "1"]).await;
    run(&one, &[long_task("after")]).await;
    let other = queue_with(RedisOptions { engine: Some("e2".into()), ..options.clone() }).await.0;
    other.set_generation("a", 1).await.unwrap();
    assert_eq!(taken(&other, "e2").await, ["before", "after"]);
}

#[tokio::test]
async fn what_is_for_an_engine_that_leaves_is_for_all() {
    let server = shared_server().await;
    let options = options(server.url());
    let (one, other) = (engine(&options, "e1").await, engine(&options, "e2").await);
    one.push(vec![long_task("t1"), long_task("t2")]).await.unwrap();
    claimed(&other, "w", 2).await;
    other.finish("a", "w", vec![result(&long_task("t1"))]).await.unwrap();
    assert_eq!(taken(&other, "e2").await, [""; 0]);
    one.close(std::time::Duration::from_secs(60)).await;
    other.finish("a", "w", vec![result(&long_task("t2"))]).await.unwrap();
    assert_eq!(taken(&other, "e2").await, ["t1", "t2"]);
}

#[tokio::test]
async fn what_one_engine_cannot_keep_up_with_is_for_all() {
    let server = shared_server().await;
    let options = options(server.url());
    let (one, other) = (engine(&options, "e1").await, engine(&options, "e2").await);
    for round in 0..=ADDRESSED_MAX / AT_A_TIME {
        let tasks: Vec<TaskMessage> =
            (0..AT_A_TIME).map(|number| long_task(&format!("t{round}-{number}"))).collect();
        one.push(tasks.clone()).await.unwrap();
        let mut left = AT_A_TIME;
        while left > 0 {
            left -= claimed(&one, "w", left).await.len();
        }
        one.finish("a", "w", tasks.iter().map(result).collect()).await.unwrap();
    }
    let too_many = other.take("e2", 2 * AT_A_TIME).await.unwrap();
    assert_eq!(too_many.len(), AT_A_TIME, "the rest waits for the engine that sent them");
}

/// The list of one engine is deleted, and who listens is forgotten: nothing is lost.
#[tokio::test]
async fn results_for_an_engine_are_found_without_its_list() {
    let server = shared_server().await;
    let options = options(server.url());
    let one = engine(&options, "e1").await;
    run(&one, &[long_task("t")]).await;
    let key = |name: &str| format!("{}:{name}", options.prefix);
    server.command(&["DEL", &key("results:{a}:for:e1"), &key("listeners:{a}")]).await;
    assert_eq!(one.present(&[on("t", 1)]).await.unwrap(), [false]);
    assert_eq!(one.keep_alive("e1").await.unwrap(), 1);
    assert_eq!(taken(&one, "e1").await, ["t"]);
}
