//! Messages that are forged, doubled, damaged, or out of order: written straight into Redis.

use flowmonkey_plumbing::token::TaskToken;
use flowmonkey_plumbing::wire::{
    Outcome, ResultMessage, TaskMessage, decode_task, encode_result, encode_sealed_result,
};
use redis::aio::MultiplexedConnection;
use serde_json::json;

use super::load::{Load, noted};
use crate::system::{Options, System, wait_for};

const TASKS: &str = "flowmonkey:tasks:{work}";
const PAYLOAD: &str = "flowmonkey:payload:{work}";
const TERMS: &str = "flowmonkey:terms:{work}";
const RESULTS: &str = "flowmonkey:results:{work}";
const OUTCOMES: &str = "flowmonkey:outcomes:{work}";
const UNREADABLE: &str = "flowmonkey:unreadable:{work}";
/// The engines tell of results that they refuse.
const TALK: [(&str, &str); 1] = [("FLOWMONKEY_LOG", "warn,flowmonkey_engine=debug")];
/// Executions whose results are forged.
const VICTIMS: usize = 8;
/// Executions whose tasks wait in a queue that is tampered with.
const QUEUED: usize = 6;

async fn start() -> System {
    let mut system = System::start(Options { engines: 0, workers: 0, ..Options::default() }).await;
    system.add_engine(&TALK).await;
    system.add_engine(&TALK).await;
    system.add_worker(&[]).await;
    system.add_worker(&[]).await;
    system
}

async fn connection(system: &System) -> MultiplexedConnection {
    system.redis.connect().await.unwrap()
}

/// The message of the first attempt of the first task of an execution, as the queue has it.
async fn task_of(connection: &mut MultiplexedConnection, execution: &str) -> TaskMessage {
    let id = delivery(execution, 1);
    let body: Vec<u8> = redis::cmd("HGET").arg(PAYLOAD).arg(&id).query_async(connection).await.unwrap();
    decode_task(&body).unwrap()
}

fn delivery(execution: &str, attempt: u32) -> String {
    format!("tk_{}_1:{attempt}", execution.trim_start_matches("ex_"))
}

/// A result that nobody has worked for.
fn forged(task: &TaskMessage) -> ResultMessage {
    ResultMessage {
        execution_id: task.execution_id.clone(),
        step_id: task.step_id.clone(),
        output: Some(json!({ "forged": true })),
        ..ResultMessage::new(task.task_id.clone(), task.attempt, Outcome::Success)
    }
}

fn sealed(result: ResultMessage, token: Option<&TaskToken>) -> Vec<u8> {
    assert!(token.is_some());
    encode_sealed_result(&ResultMessage { token: token.cloned(), ..result }).unwrap()
}

/// A result that is said to be another one after it was sealed.
fn exchanged(sealed: &[u8], result: &ResultMessage) -> Vec<u8> {
    let end = sealed.iter().position(|byte| *byte == b'\n').unwrap();
    [&sealed[..=end], encode_result(result).unwrap().as_slice()].concat()
}

/// Puts a result among those that workers have handed in.
async fn inject(connection: &mut MultiplexedConnection, id: &str, bytes: &[u8]) {
    let mut write = redis::pipe();
    write
        .atomic()
        .cmd("HSET")
        .arg(OUTCOMES)
        .arg(id)
        .arg(bytes)
        .ignore()
        .cmd("LPUSH")
        .arg(RESULTS)
        .arg(id)
        .ignore();
    let () = write.query_async(connection).await.unwrap();
}

/// Waits until an engine has told of something.
async fn told(system: &System, words: &str) {
    wait_for(&format!("an engine tells that {words}"), async || {
        system.engines.iter().any(|engine| engine.log().contains(words)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_damaged_results_are_refused_with_evidence() {
    let system = start().await;
    let mut load = Load::new(&system).await;
    let mut connection = connection(&system).await;
    let mut victims = Vec::new();
    for _ in 0..VICTIMS {
        victims.push(load.start(&system, "forgiving", json!({}), 1).await);
    }
    let mut tasks = Vec::new();
    for id in &victims {
        noted(&system, id, "begin", 1).await;
        tasks.push(task_of(&mut connection, id).await);
    }
    let own = |number: usize| tasks[number].token.as_ref();
    let id = |number: usize| delivery(&victims[number], 1);
    let without_mac = encode_result(&forged(&tasks[0])).unwrap();
    inject(&mut connection, &id(0), &without_mac).await;
    let no_mac = [b"\x03v1.key.claims.tag\n", encode_result(&forged(&tasks[1])).unwrap().as_slice()].concat();
    inject(&mut connection, &id(1), &no_mac).await;
    let honest = sealed(ResultMessage { output: None, ..forged(&tasks[2]) }, own(2));
    inject(&mut connection, &id(2), &exchanged(&honest, &forged(&tasks[2]))).await;
    inject(&mut connection, &id(3), &sealed(forged(&tasks[3]), own(4))).await;
    let ahead_of_time = sealed(ResultMessage { attempt: 2, ..forged(&tasks[4]) }, own(4));
    inject(&mut connection, &delivery(&victims[4], 2), &ahead_of_time).await;
    let whole = sealed(forged(&tasks[5]), own(5));
    inject(&mut connection, &id(5), &whole[..whole.len() / 2]).await;
    inject(&mut connection, &id(6), b"\x01\xff\x00garbage").await;
    // Its own, under the name of another.
    inject(&mut connection, &id(7), &sealed(forged(&tasks[0]), own(0))).await;
    for garbage in [b"garbage".as_slice(), b"tk_1:0", b"\xff\xfe:1", &[b'x'; 5_000]] {
        let _: usize =
            redis::cmd("LPUSH").arg(RESULTS).arg(garbage).query_async(&mut connection).await.unwrap();
    }
    for words in [
        "the result has no MAC",
        "the result's MAC does not count",
        "the result's MAC is wrong",
        "the result's MAC is of another attempt",
        "a result is not understood",
    ] {
        told(&system, words).await;
    }
    wait_for("garbage is put aside", async || {
        let count: usize = redis::cmd("LLEN").arg(UNREADABLE).query_async(&mut connection).await.unwrap();
        (count >= 3).then_some(())
    })
    .await;
    load.round(&system).await;
    load.check(&system).await;
    for id in &victims {
        let record = system.get(&format!("/v1/executions/{id}")).await;
        assert!(record["context"]["a"]["key"].is_string(), "the handler's own result counts: {record}");
    }
}

/// A result that comes twice, or after the record has moved on, counts once.
#[tokio::test(flavor = "multi_thread")]
async fn doubled_results_count_once() {
    let system = start().await;
    let mut load = Load::new(&system).await;
    let mut connection = connection(&system).await;
    let id = load.start(&system, "forgiving", json!({}), 1).await;
    noted(&system, &id, "begin", 1).await;
    // Whoever has the token of a task may speak for it; the handler is then too late with the same.
    let task = task_of(&mut connection, &id).await;
    let result = ResultMessage { output: Some(json!({ "key": "early" })), ..forged(&task) };
    let bytes = sealed(result, task.token.as_ref());
    inject(&mut connection, &delivery(&id, 1), &bytes).await;
    let _: usize =
        redis::cmd("LPUSH").arg(RESULTS).arg(delivery(&id, 1)).query_async(&mut connection).await.unwrap();
    let record = system.ended(&id).await;
    assert_eq!(record["context"]["a"]["key"], "early", "{record}");
    inject(&mut connection, &delivery(&id, 1), &bytes).await;
    told(&system, "a result was refused").await;
    load.round(&system).await;
    load.check(&system).await;
}

/// Tasks in the queue are turned round, doubled, damaged and mixed with garbage.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_may_be_tampered_with() {
    let system = start().await;
    let mut load = Load::new(&system).await;
    let mut connection = connection(&system).await;
    for worker in &system.workers {
        worker.pause();
    }
    let mut queued = Vec::new();
    for _ in 0..QUEUED {
        queued.push(load.start(&system, "forgiving", json!({}), 1).await);
    }
    wait_for("the tasks are in the queue", async || {
        let count: usize = redis::cmd("HLEN").arg(PAYLOAD).query_async(&mut connection).await.unwrap();
        (count >= QUEUED).then_some(())
    })
    .await;
    let ids: Vec<Vec<u8>> =
        redis::cmd("LRANGE").arg(TASKS).arg(0).arg(-1).query_async(&mut connection).await.unwrap();
    let nobody = "tk_0190a0a0a0a07000800000000000beef_1:1";
    let mut write = redis::pipe();
    for (number, id) in queued.iter().enumerate() {
        let id = delivery(id, 1);
        match number {
            0 => drop(write.cmd("HSET").arg(PAYLOAD).arg(id).arg("garbage").ignore()),
            1 => drop(write.cmd("HSET").arg(TERMS).arg(id).arg("garbage").ignore()),
            2 => drop(write.cmd("HDEL").arg(PAYLOAD).arg(id).ignore()),
            _ => {}
        }
    }
    let swapped: Vec<u8> = redis::cmd("HGET")
        .arg(PAYLOAD)
        .arg(delivery(&queued[4], 1))
        .query_async(&mut connection)
        .await
        .unwrap();
    write.cmd("HSET").arg(PAYLOAD).arg(delivery(&queued[3], 1)).arg(swapped).ignore();
    write.cmd("HSET").arg(PAYLOAD).arg(nobody).arg("garbage").ignore();
    write.cmd("HSET").arg(TERMS).arg(nobody).arg("2 2000 60000 0 0").ignore();
    write.cmd("LPUSH").arg(TASKS).arg(nobody).arg("garbage").arg("tk_1:0").arg(&b"\xff:1"[..]).ignore();
    for id in ids {
        // Twice, and in the other order.
        write.cmd("RPUSH").arg(TASKS).arg(id).ignore();
    }
    let () = write.query_async(&mut connection).await.unwrap();
    for worker in &system.workers {
        worker.resume();
    }
    load.round(&system).await;
    load.check(&system).await;
}
