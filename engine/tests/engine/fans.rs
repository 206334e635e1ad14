//! Fan-outs of all sizes, and what is done to them while they run.

use std::cell::RefCell;
use std::collections::BTreeSet;

use flowmonkey_core::execution::Status;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_engine::chores::{collector, sweeper};
use flowmonkey_plumbing::wire::{Cost, ResultMessage};
use serde_json::{Value, json};

use crate::{Bench, echo, failure, fan, flow, numbers, sqlite, work_step};

fn cancel() -> Command {
    Command::Cancel { source: CancelSource::User, reason: None }
}

async fn maps(bench: &Bench, items: usize, max_concurrency: u32) {
    bench.publish(fan("fan", max_concurrency, json!({}), work_step())).await;
    let id = bench.start("fan", numbers(items)).await;
    let most = RefCell::new(0);
    for _ in 0..items {
        let tasks = bench.queue_depth().await;
        most.replace_with(|most| tasks.max(*most));
        if tasks == 0 {
            break;
        }
        let results: Vec<_> = bench.claim().await.iter().map(echo).collect();
        bench.finish(results).await;
        while collector::tick(&bench.engine).await.unwrap() != collector::Collected::default() {}
    }
    let execution = bench.expect(id, Status::Completed).await;
    assert_eq!(execution.context["results"], numbers(items)["items"], "in the order of the items");
    assert!(*most.borrow() <= max_concurrency as usize, "{most:?} at a time");
    let rows = bench.rows().await;
    assert_eq!(rows.len(), items);
    assert!(rows.values().all(|count| *count == 1));
    assert_eq!(bench.engine.counters.late_joins.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_map_of_three_thousand_items_runs_fifty_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    maps(&Bench::on(sqlite(&directory).await).await, 3000, 50).await;
}

#[tokio::test]
async fn a_map_may_have_more_children_alive_than_one_commit_makes() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = flowmonkey_engine::EngineConfig::default();
    config.limits.max_concurrency = 5000;
    let bench = Bench::with(sqlite(&directory).await, config, Default::default()).await;
    bench.publish(fan("fan", 5000, json!({}), work_step())).await;
    bench.start("fan", numbers(3000)).await;
    assert_eq!(bench.queue_depth().await, 3000, "all are made at once");
    bench.work(echo).await;
    assert_eq!(bench.statuses().await["completed"], 3001);
}

#[tokio::test]
async fn children_that_end_within_the_commit_that_makes_them_are_counted() {
    let bench = Bench::new().await;
    let body = json!({ "id": "keep", "type": "echo", "input": { "type": "key", "key": "item" } });
    bench.publish(fan("fan", 100, json!({}), body)).await;
    let id = bench.start("fan", numbers(2500)).await;
    let execution = bench.expect(id, Status::Completed).await;
    assert_eq!(execution.context["results"], numbers(2500)["items"]);
}

#[tokio::test]
async fn maps_within_maps_give_lists_of_lists() {
    let bench = Bench::new().await;
    let inner = json!({
        "initialStepId": "each",
        "steps": { "each": { "type": "map", "outputKey": "inner", "config": {
            "items": { "type": "path", "path": "item" }, "as": "leaf", "maxConcurrency": 2,
            "body": { "id": "do", "type": "work", "input": { "type": "key", "key": "leaf" } },
        } } },
        "output": { "type": "key", "key": "inner" },
    });
    bench.publish(fan("fan", 3, json!({}), inner)).await;
    let items: Vec<Value> =
        (0..20).map(|outer| json!((0..5).map(|leaf| outer * 10 + leaf).collect::<Vec<_>>())).collect();
    let id = bench.start("fan", json!({ "items": items })).await;
    bench.work(echo).await;
    let execution = bench.expect(id, Status::Completed).await;
    assert_eq!(execution.context["results"], json!(items));
    assert_eq!(bench.statuses().await["completed"], 1 + 20 + 100);
}

#[tokio::test]
async fn a_cancelled_map_takes_all_its_children_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::on(sqlite(&directory).await).await;
    bench.publish(fan("fan", 1000, json!({}), work_step())).await;
    let id = bench.start("fan", numbers(3000)).await;
    let held = bench.claim().await;
    bench.engine.command(id, cancel()).await.unwrap();
    assert_eq!(bench.get(id).await.status(), Status::Cancelling, "500 workers are still at it");
    bench.finish(held.iter().map(echo).collect()).await;
    bench.work(|task| panic!("{} was started after the cancel", task.task_id)).await;
    bench.expect(id, Status::Cancelled).await;
    assert_eq!(bench.statuses().await, [("cancelled", 1001)].into());
}

#[tokio::test]
async fn the_first_failure_ends_a_map_and_the_rest_is_not_begun() {
    let bench = Bench::new().await;
    bench.publish(fan("fan", 10, json!({}), work_step())).await;
    let id = bench.start("fan", numbers(1000)).await;
    bench.work(|task| if task.input == Some(json!(3)) { failure(task) } else { echo(task) }).await;
    let execution = bench.expect(id, Status::Failed).await;
    assert_eq!(execution.error().unwrap().code, "CHILD_FAILED");
    assert_eq!(execution.error().unwrap().details.as_ref().unwrap()["index"], 3);
    assert!(bench.all().await.len() <= 11, "{}", bench.all().await.len());
    assert!(bench.all().await.iter().all(|one| one.status.is_terminal()));
}

#[tokio::test]
async fn a_paused_parent_takes_the_result_when_it_goes_on() {
    let bench = Bench::new().await;
    bench.publish(fan("fan", 10, json!({}), work_step())).await;
    let id = bench.start("fan", numbers(25)).await;
    bench.engine.command(id, Command::Pause { reason: None }).await.unwrap();
    bench.work(echo).await;
    bench.expect(id, Status::Paused).await;
    for _ in 0..3 {
        assert_eq!(sweeper::tick(&bench.engine).await.unwrap(), sweeper::Swept::default(), "nothing is lost");
    }
    bench.engine.command(id, Command::Unpause).await.unwrap();
    bench.work(echo).await;
    let execution = bench.expect(id, Status::Completed).await;
    assert_eq!(execution.context["results"], numbers(25)["items"]);
}

#[tokio::test]
async fn the_budget_counts_all_children() {
    let bench = Bench::new().await;
    let mut costly = fan("fan", 5, json!({}), work_step());
    costly["budget"] = json!({ "maxCostUsd": 1.0 });
    bench.publish(costly).await;
    let id = bench.start("fan", numbers(100)).await;
    let cost = Some(Cost { usd: 0.25, tokens: 1 });
    bench.work(|task| ResultMessage { cost, ..echo(task) }).await;
    let execution = bench.expect(id, Status::Failed).await;
    assert_eq!(execution.error().unwrap().code, "BUDGET_EXCEEDED");
    let done = bench.rows().await.len();
    assert!((5..=15).contains(&done), "{done} tasks were done");
    assert!(bench.all().await.iter().all(|one| one.status.is_terminal()));
}

#[tokio::test]
async fn a_detached_child_runs_on_its_own() {
    let bench = Bench::new().await;
    bench.publish(flow("leaf", json!({ "do": { "type": "work" } }))).await;
    let side = |close: &str| json!({ "type": "sub-flow", "config": { "flowId": "leaf", "waitForCompletion": false, "onParentClose": close } });
    bench.publish(flow("leaves", json!({ "side": side("abandon") }))).await;
    bench.publish(flow("takes", json!({ "side": side("cancel") }))).await;
    for (parent, expected) in [("leaves", "completed"), ("takes", "cancelled")] {
        let id = bench.start(parent, json!({})).await;
        bench.expect(id, Status::Completed).await;
        bench.work(echo).await;
        let children: BTreeSet<_> = bench
            .all()
            .await
            .into_iter()
            .filter(|one| one.parent_execution_id == Some(id))
            .map(|one| one.status.as_str())
            .collect();
        assert_eq!(children, [expected].into(), "{parent}");
    }
}

/// `item` in expressions is the map's item, whatever the map calls it, in whatever is nested in its body.
#[tokio::test]
async fn expressions_know_the_item_by_its_own_name() {
    let bench = Bench::new().await;
    let sum = json!({ "type": "echo", "input": { "type": "expr", "expr": "item + index + context.row" } });
    let nested = json!({
        "type": "parallel", "config": { "branches": {
            "inner": { "type": "echo", "input": { "type": "expr", "expr": "item * 100" } },
            "leaves": {
                "type": "map", "config": {
                    "items": { "type": "static", "value": [1, 2] }, "as": "leaf",
                    "body": { "type": "echo", "input": { "type": "expr", "expr": "item * 10 + context.row" } },
                },
            },
        } },
    });
    let steps = json!({
        "flat": { "type": "map", "outputKey": "flat", "transitions": { "onSuccess": "deep" },
            "config": { "items": { "type": "path", "path": "items" }, "as": "row", "body": sum } },
        "deep": { "type": "map", "outputKey": "deep",
            "config": { "items": { "type": "path", "path": "items" }, "as": "row", "body": nested } },
    });
    bench.publish(flow("named", steps)).await;
    // A key of that name in the parent's context is not the item.
    let id = bench.start("named", json!({ "items": [3, 4], "item": "another" })).await;
    bench.work(echo).await;
    let context = bench.expect(id, Status::Completed).await.context.clone();
    assert_eq!(context["flat"], json!([6, 9]));
    assert_eq!(
        context["deep"],
        json!([{ "inner": 300, "leaves": [13, 23] }, { "inner": 400, "leaves": [14, 24] }])
    );
}
