//! Staged changes of contexts: merged in the result's commit, in order, or dropped with their attempt.

use flowmonkey_core::execution::Status;
use flowmonkey_engine::chores::collector;
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_plumbing::api::{ContextApi, PlumbingError, TaskAccess};
use flowmonkey_plumbing::wire::{
    ContextOperation, ContextUpdates, Outcome, ResultMessage, TaskError, TaskMessage,
};
use serde_json::{Value, json};

use crate::{Bench, WORK, flow, result};

fn set(path: &str, value: Value) -> ContextOperation {
    ContextOperation::Set { path: path.into(), value }
}

impl Bench {
    async fn stage(&self, task: &TaskMessage, sequence: u32, operations: &[ContextOperation]) {
        let plumbing = EnginePlumbing::new(self.engine.clone());
        plumbing.stage_context(&TaskAccess::from(task), sequence, operations).await.unwrap();
    }

    async fn collect(&self, results: Vec<ResultMessage>) -> collector::Collected {
        self.finish(results).await;
        collector::tick(&self.engine).await.unwrap()
    }

    async fn staged(&self, task: &TaskMessage) -> usize {
        let attempt = (task.task_id.parse().unwrap(), task.attempt);
        self.store.staged_patches(&[attempt]).await.unwrap().len()
    }
}

async fn bench(retries: u32) -> Bench {
    let bench = Bench::new().await;
    let retry = json!({ "maxAttempts": retries + 1, "backoffMs": 0 });
    bench.publish(flow("work", json!({ "do": { "type": WORK, "retry": retry, "outputKey": "out" } }))).await;
    bench
}

#[tokio::test]
async fn patches_come_before_the_results_own_changes_and_the_later_one_wins() {
    let bench = bench(0).await;
    let id = bench.start("work", json!({ "old": 1, "kept": 1 })).await;
    let plain = bench.start("work", json!({})).await;
    let tasks = bench.claim().await;
    let (task, other): (Vec<_>, Vec<_>) =
        tasks.into_iter().partition(|task| task.execution_id == id.to_string());
    let (task, other) = (&task[0], &other[0]);
    // They arrive in any order; the sequence counts.
    bench.stage(task, 2, &[set("a", json!("second")), set("b", json!("second")), set("d.e", json!(1))]).await;
    bench.stage(task, 1, &[set("a", json!("first")), set("out", json!("first"))]).await;
    bench.stage(task, 3, &[ContextOperation::Delete { path: "old".into() }]).await;
    // Staged, but not counted by the result: its answer was lost, and the worker did not rely on it.
    bench.stage(task, 4, &[set("kept", json!(2))]).await;
    let own = vec![set("b", json!("own")), set("d.f", json!(2))];
    let done = ResultMessage {
        output: Some(json!("output")),
        context_patches: 3,
        context_updates: Some(ContextUpdates::Operations(own)),
        ..result(task, Outcome::Success)
    };
    let collected = bench.collect(vec![done.clone(), result(other, Outcome::Success)]).await;
    assert_eq!((collected.applied, collected.refused), (2, 0));
    let execution = bench.expect(id, Status::Completed).await;
    let wanted = json!({ "kept": 1, "a": "second", "out": "output", "b": "own", "d": { "e": 1, "f": 2 } });
    assert_eq!(Value::Object(execution.context), wanted);
    bench.expect(plain, Status::Completed).await;
    assert_eq!(bench.staged(task).await, 0, "they are of no more use");
}

#[tokio::test]
async fn a_failed_attempt_drops_what_it_staged() {
    let bench = bench(1).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    bench.stage(&task, 1, &[set("a", json!(1))]).await;
    let error = TaskError { code: "BROKEN".into(), message: String::new(), retryable: None, details: None };
    let failed = ResultMessage { error: Some(error), context_patches: 1, ..result(&task, Outcome::Failure) };
    assert_eq!(bench.collect(vec![failed]).await.applied, 1);
    flowmonkey_engine::chores::timer::tick(&bench.engine).await.unwrap();
    let next = bench.claim().await.remove(0);
    assert_eq!(next.attempt, 2);
    bench.stage(&next, 1, &[set("b", json!(1))]).await;
    assert_eq!(bench.staged(&task).await, 0, "the next attempt's patch takes away what is left");
    let done = ResultMessage { context_patches: 1, ..result(&next, Outcome::Success) };
    bench.collect(vec![done]).await;
    assert_eq!(Value::Object(bench.expect(id, Status::Completed).await.context), json!({ "b": 1 }));
}

#[tokio::test]
async fn a_missing_patch_fails_the_attempt_and_its_retry_may_succeed() {
    let bench = bench(1).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    bench.stage(&task, 1, &[set("a", json!(1))]).await;
    let done = |task: &TaskMessage, context_patches| ResultMessage {
        context_patches,
        ..result(task, Outcome::Success)
    };
    bench.collect(vec![done(&task, 2)]).await;
    flowmonkey_engine::chores::timer::tick(&bench.engine).await.unwrap();
    let next = bench.claim().await.remove(0);
    // A duplicate of the old result changes nothing.
    bench.collect(vec![done(&task, 1)]).await;
    bench.stage(&next, 1, &[set("b", json!(1))]).await;
    bench.collect(vec![done(&next, 1)]).await;
    assert_eq!(Value::Object(bench.expect(id, Status::Completed).await.context), json!({ "b": 1 }));
}

#[tokio::test]
async fn patches_that_make_the_context_too_large_fail_the_step() {
    let bench = bench(0).await;
    let id = bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    for number in 0..501_u32 {
        bench.stage(&task, number + 1, &[set(&format!("k{number}"), json!(1))]).await;
    }
    bench.collect(vec![ResultMessage { context_patches: 501, ..result(&task, Outcome::Success) }]).await;
    let execution = bench.expect(id, Status::Failed).await;
    assert_eq!(execution.error().unwrap().code, "CONTEXT_KEY_LIMIT");
    assert!(execution.context.is_empty(), "all of it, or nothing");
}

#[tokio::test]
async fn many_results_with_patches_are_all_applied() {
    let bench = bench(0).await;
    for number in 0..20 {
        bench.start("work", json!({ "number": number })).await;
    }
    let tasks = bench.claim().await;
    let mut results = Vec::new();
    for task in &tasks {
        bench.stage(task, 1, &[set("seen", task.context["number"].clone())]).await;
        results.push(ResultMessage { context_patches: 1, ..result(task, Outcome::Success) });
    }
    assert_eq!(bench.collect(results).await.applied, 20);
    for task in &tasks {
        let execution = bench.expect(task.execution_id.parse().unwrap(), Status::Completed).await;
        assert_eq!(execution.context["seen"], execution.context["number"]);
    }
}

#[tokio::test]
async fn staging_is_refused_in_process_as_over_http() {
    let bench = bench(0).await;
    bench.start("work", json!({})).await;
    let task = bench.claim().await.remove(0);
    let plumbing = EnginePlumbing::new(bench.engine.clone());
    let access = TaskAccess::from(&task);
    let refused = plumbing.stage_context(&access, 1, &[set("a..b", json!(1))]).await.unwrap_err();
    assert!(
        matches!(&refused, PlumbingError::Refused { code, .. } if code == "INVALID_REQUEST"),
        "{refused}"
    );
    let refused = plumbing.read_context(&access, Some("")).await.unwrap_err();
    assert!(
        matches!(&refused, PlumbingError::Refused { code, .. } if code == "INVALID_REQUEST"),
        "{refused}"
    );
    let mut stale = access;
    stale.delivery.attempt = 2;
    for refused in [
        plumbing.read_context(&stale, None).await.map(drop),
        plumbing.stage_context(&stale, 1, &[set("a", json!(1))]).await,
    ] {
        assert!(matches!(refused, Err(PlumbingError::Stale { attempt: 2, .. })), "{refused:?}");
    }
}
