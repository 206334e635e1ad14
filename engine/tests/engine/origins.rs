//! Whose result it is: what comes through a queue has to prove its pool.

use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_engine::EngineConfig;
use flowmonkey_engine::chores::{collector, reconciler};
use flowmonkey_engine::evidence::RefusedFor;
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_plumbing::queue::{DispatchQueue as _, Dispatched, LocalQueueLimits, Taken};
use flowmonkey_plumbing::token::{Claims, TOKEN_KEY_BYTES, TaskToken, TokenKey};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage, TaskError, encode_sealed_result, open_result};
use serde_json::json;

use crate::{Bench, WORK, echo, flow, result};

async fn bench(require_result_mac: bool) -> Bench {
    let config = EngineConfig { require_result_mac, ..EngineConfig::default() };
    let bench = Bench::with(Arc::new(MemoryStore::default()), config, LocalQueueLimits::default()).await;
    bench.publish(flow("work", json!({ "do": { "type": WORK, "input": { "type": "full" } } }))).await;
    bench
}

/// A result as it travels through a queue that others can write to, as the engine takes it out.
fn travelled(pool: &str, result: ResultMessage, token: Option<TaskToken>) -> Taken {
    as_taken(pool, &result, encode_sealed_result(&ResultMessage { token, ..result.clone() }).unwrap())
}

/// Bytes that come under the name of the task of `result`.
fn as_taken(pool: &str, result: &ResultMessage, bytes: Vec<u8>) -> Taken {
    let (read, seal) = open_result(bytes);
    let dispatched = Dispatched { pool: pool.into(), delivery: result.delivery() };
    Taken { dispatched, result: read, seal }
}

async fn collect(bench: &Bench, taken: Taken) -> (usize, usize) {
    // So that the queue forgets the delivery, as it does when a result was handed in.
    if let Ok(result) = &taken.result {
        bench.finish(vec![result.clone()]).await;
        bench.queue.take("engine", 1).await.unwrap();
    }
    let collected = collector::apply(&bench.engine, "engine", &mut vec![taken]).await.unwrap();
    (collected.applied, collected.refused)
}

async fn republish(bench: &Bench) -> usize {
    reconciler::reconcile(&bench.engine, reconciler::Patience::NONE).await.unwrap().republished
}

#[tokio::test]
async fn a_result_without_proof_counts_only_where_none_is_asked_for() {
    for (required, expected) in [(false, Status::Completed), (true, Status::WaitingForWorker)] {
        let bench = bench(required).await;
        let id = bench.start("work", json!({})).await;
        let tasks = bench.claim().await;
        bench.finish(vec![echo(&tasks[0])]).await;
        let collected = collector::tick(&bench.engine).await.unwrap();
        assert_eq!(collected.refused, usize::from(required));
        bench.expect(id, expected).await;
    }
}

#[tokio::test]
async fn forged_results_are_refused_and_the_true_one_counts() {
    let bench = bench(true).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    let token = task.token.clone();
    let claims = bench.engine.task_tokens().verify(token.as_ref().unwrap().as_str()).unwrap();
    let sealed_as =
        |key: &TokenKey, claims: &Claims| travelled(WORK, echo(&task), Some(key.sign(claims).unwrap()));
    let own = bench.engine.task_tokens();
    let honest = encode_sealed_result(&ResultMessage { token: token.clone(), ..echo(&task) }).unwrap();
    let changed = {
        // One more zero byte would be no message; another letter is one.
        let mut changed = honest.clone();
        let place = changed.windows(7).rposition(|bytes| bytes == b"success").unwrap();
        changed[place..place + 7].copy_from_slice(b"failure");
        changed
    };
    let of_nobody = [b"\x03v1.x.y.z\n".as_slice(), honest.splitn(2, |byte| *byte == b'\n').nth(1).unwrap()];
    let forged = [
        travelled(WORK, echo(&task), None),
        as_taken(WORK, &echo(&task), changed),
        as_taken(WORK, &echo(&task), of_nobody.concat()),
        sealed_as(&TokenKey::new(&[1; TOKEN_KEY_BYTES]), &claims),
        sealed_as(own, &Claims { attempt: 2, ..claims.clone() }),
        // Of another pool than the one whose queue it came through.
        sealed_as(own, &Claims { pool: "other".into(), ..claims }),
    ];
    let mut attempts = 0;
    for taken in forged {
        assert!(taken.result.is_ok(), "it is a result: {taken:?}");
        assert_eq!(collect(&bench, taken).await, (0, 1));
        attempts += 1;
        bench.expect(id, Status::WaitingForWorker).await;
    }
    assert_eq!(bench.engine.evidence.counts(), [(RefusedFor::Forged, attempts)].into());
    let latest = bench.engine.evidence.latest();
    assert_eq!((latest[0].reason.as_str(), latest[0].detail.as_str()), ("forged", "the result has no MAC"));

    // The delivery went with the forgeries; the reconciler delivers the task anew, and the worker's own proof counts.
    assert_eq!(republish(&bench).await, 1);
    let again = bench.claim().await.remove(0);
    assert_ne!(again.token, task.token);
    let of_before = travelled(WORK, echo(&again), token);
    assert_eq!(collect(&bench, of_before).await, (0, 1), "the proof is of one attempt");
    assert_eq!(republish(&bench).await, 1);
    let again = bench.claim().await.remove(0);
    let token = again.token.clone();
    assert_eq!(collect(&bench, travelled(WORK, echo(&again), token)).await, (1, 0));
    bench.expect(id, Status::Completed).await;
}

#[tokio::test]
async fn a_wrong_proof_is_refused_also_where_none_is_asked_for() {
    let bench = bench(false).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    let token = TokenKey::new(&[1; TOKEN_KEY_BYTES]);
    let claims = bench.engine.task_tokens().verify(task.token.as_ref().unwrap().as_str()).unwrap();
    let token = token.sign(&claims).unwrap();
    assert_eq!(collect(&bench, travelled(WORK, echo(&task), Some(token))).await, (0, 1));
    bench.expect(id, Status::WaitingForWorker).await;
}

/// A worker that cannot read a task has not read the token either. What it says counts as a lost delivery, for the pool that
/// the record has the task in and for no other.
#[tokio::test]
async fn a_task_that_cannot_be_read_is_delivered_anew_though_nothing_proves_it() {
    for (pool, counts) in [(WORK, true), ("other", false)] {
        let bench = bench(true).await;
        let id = bench.start("work", json!({})).await;
        let task = bench.claim().await.remove(0);
        let mut unreadable = result(&task, Outcome::Failure);
        unreadable.error = Some(TaskError {
            code: "TASK_UNREADABLE".into(),
            message: String::new(),
            retryable: None,
            details: None,
        });
        let dispatched = Dispatched { pool: pool.into(), delivery: task.delivery() };
        let mut taken = vec![Taken { dispatched, result: Ok(unreadable), seal: None }];
        let collected = collector::apply(&bench.engine, "engine", &mut taken).await.unwrap();
        assert_eq!(collected.applied, usize::from(counts));
        let state = bench.engine.execution(id).await.unwrap();
        let run = &state.task().unwrap().run;
        assert_eq!((run.attempt, run.lost, run.retry), if counts { (2, 1, 0) } else { (1, 0, 0) });
    }
}
