//! Whose result it is: what comes through a queue has to prove its pool.

use std::sync::Arc;

use flowmonkey_core::execution::Status;
use flowmonkey_engine::EngineConfig;
use flowmonkey_engine::chores::{collector, reconciler};
use flowmonkey_engine::evidence::RefusedFor;
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_plumbing::mac;
use flowmonkey_plumbing::queue::{Dispatched, LocalQueueLimits, Taken};
use flowmonkey_plumbing::token::{Claims, TOKEN_KEY_BYTES, TokenKey};
use flowmonkey_plumbing::wire::{Outcome, ResultMessage, TaskError, TaskMessage};
use serde_json::json;

use crate::{Bench, WORK, echo, flow, result};

async fn bench(require_result_mac: bool) -> Bench {
    let config = EngineConfig { require_result_mac, ..EngineConfig::default() };
    let bench = Bench::with(Arc::new(MemoryStore::default()), config, LocalQueueLimits::default()).await;
    bench.publish(flow("work", json!({ "do": { "type": WORK, "input": { "type": "full" } } }))).await;
    bench
}

fn sealed(task: &TaskMessage) -> ResultMessage {
    let result = echo(task);
    ResultMessage { mac: mac::seal(&result, task.token.as_ref().unwrap()), ..result }
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
    let honest = sealed(&task);
    let claims = bench.engine.task_tokens().verify(task.token.as_ref().unwrap().as_str()).unwrap();
    let seal_as = |key: &TokenKey, claims: &Claims| {
        let result = echo(&task);
        let token = key.sign(claims).unwrap();
        ResultMessage { mac: mac::seal(&result, &token), ..result }
    };
    let forged = [
        echo(&task),
        ResultMessage { output: Some(json!("other")), ..honest.clone() },
        ResultMessage { mac: Some("v1.x.y.z".into()), ..honest.clone() },
        seal_as(&TokenKey::new(&[1; TOKEN_KEY_BYTES]), &claims),
        seal_as(bench.engine.task_tokens(), &Claims { attempt: 2, ..claims.clone() }),
        // Of another pool than the one whose queue it came through.
        seal_as(bench.engine.task_tokens(), &Claims { pool: "other".into(), ..claims }),
    ];
    let mut attempts = 0;
    let mut honest = honest;
    for result in forged {
        bench.finish(vec![result]).await;
        let collected = collector::tick(&bench.engine).await.unwrap();
        assert_eq!((collected.applied, collected.refused), (0, 1));
        attempts += 1;
        bench.expect(id, Status::WaitingForWorker).await;
    }
    assert_eq!(bench.engine.evidence.counts(), [(RefusedFor::Forged, attempts)].into());
    let latest = bench.engine.evidence.latest();
    assert_eq!((latest[0].reason.as_str(), latest[0].detail.as_str()), ("forged", "the result has no `mac`"));

    // The delivery went with the forgeries; the reconciler delivers the task anew, and the worker's own proof counts.
    assert_eq!(republish(&bench).await, 1);
    let again = bench.claim().await.remove(0);
    assert_ne!(again.token, task.token);
    honest.attempt = again.attempt;
    bench.finish(vec![honest]).await;
    assert_eq!(collector::tick(&bench.engine).await.unwrap().refused, 1, "the proof is of one attempt");
    assert_eq!(republish(&bench).await, 1);
    bench.work(sealed).await;
    bench.expect(id, Status::Completed).await;
}

#[tokio::test]
async fn a_wrong_proof_is_refused_also_where_none_is_asked_for() {
    let bench = bench(false).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    bench.finish(vec![ResultMessage { output: Some(json!("other")), ..sealed(&task) }]).await;
    assert_eq!(collector::tick(&bench.engine).await.unwrap().refused, 1);
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
        let mut taken = vec![Taken { dispatched, result: Ok(unreadable) }];
        let collected = collector::apply(&bench.engine, "engine", &mut taken).await.unwrap();
        assert_eq!(collected.applied, usize::from(counts));
        let state = bench.engine.execution(id).await.unwrap();
        let run = &state.task().unwrap().run;
        assert_eq!((run.attempt, run.lost, run.retry), if counts { (2, 1, 0) } else { (1, 0, 0) });
    }
}
