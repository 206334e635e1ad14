//! Results that are too large for a context.

use flowmonkey_core::execution::Status;
use flowmonkey_engine::EngineConfig;
use flowmonkey_plumbing::queue::LocalQueueLimits;
use serde_json::{Value, json};

use crate::{Bench, echo, flow, numbers, sqlite};

fn small() -> EngineConfig {
    let mut config = EngineConfig::default();
    config.limits.inline_results_bytes = 100;
    config
}

fn map(join: &str, next: &str) -> Value {
    json!({
        "type": "map", "outputKey": "results", "transitions": { "onSuccess": next },
        "config": {
            "items": { "type": "path", "path": "items" }, "join": join,
            "body": { "id": "do", "type": "work", "input": { "type": "key", "key": "item" } },
        },
    })
}

#[tokio::test]
async fn a_task_and_another_map_read_them_as_if_they_were_there() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::with(sqlite(&directory).await, small(), LocalQueueLimits::default()).await;
    bench
        .publish(flow(
            "big",
            json!({
                "first": map("all", "second"),
                "second": {
                    "type": "map", "outputKey": "again", "transitions": { "onSuccess": "third" },
                    "config": {
                        "items": { "type": "path", "path": "results" },
                        "body": { "id": "do", "type": "work", "input": { "type": "keys", "keys": ["item", "results"] } },
                    },
                },
                "third": {
                    "type": "work",
                    "input": { "type": "template", "template": { "all": "${results}", "note": "n" } },
                },
            }),
        ))
        .await;
    let id = bench.start("big", numbers(1200)).await;
    let items = numbers(1200)["items"].clone();
    bench
        .work(|task| {
            let input = task.input.clone().unwrap();
            match task.step_id.as_str() {
                "third" => assert_eq!(input, json!({ "all": items, "note": "n" })),
                _ if input.is_object() => assert_eq!(input["results"], items, "children see it too"),
                _ => assert!(input.is_number()),
            }
            if input.is_number() {
                return echo(task);
            }
            crate::ResultMessage { output: Some(json!(1)), ..echo(task) }
        })
        .await;
    let execution = bench.expect(id, Status::Completed).await;
    let reference = &execution.context["results"];
    assert_eq!(reference["$dataset"]["executionId"], json!(id));
    assert_eq!(reference["count"], 1200);
    assert_eq!(bench.rows().await.len(), 1200 + 1200 + 1);
}

#[tokio::test]
async fn settled_results_say_how_each_child_ended() {
    let bench =
        Bench::with(std::sync::Arc::new(crate::MemoryStore::default()), small(), LocalQueueLimits::default())
            .await;
    let last = json!({ "type": "work", "input": { "type": "path", "path": "results" } });
    bench.publish(flow("big", json!({ "first": map("settled", "last"), "last": last }))).await;
    let id = bench.start("big", numbers(60)).await;
    let seen = std::cell::RefCell::new(false);
    bench
        .work(|task| match &task.input {
            Some(Value::Array(results)) => {
                seen.replace(true);
                assert_eq!(results.len(), 60);
                assert_eq!(results[4], json!({ "status": "completed", "output": 4 }));
                assert_eq!(
                    (&results[3]["status"], &results[3]["error"]["code"]),
                    (&json!("failed"), &json!("BROKEN"))
                );
                echo(task)
            }
            Some(input) if *input == json!(3) => crate::failure(task),
            Some(_) | None => echo(task),
        })
        .await;
    bench.expect(id, Status::Completed).await;
    assert!(*seen.borrow(), "the last step got the array");
    assert_eq!(bench.rows().await.len(), 60);
}

#[tokio::test]
async fn a_forged_reference_to_another_tree_is_data_like_any_other() {
    let bench =
        Bench::with(std::sync::Arc::new(crate::MemoryStore::default()), small(), LocalQueueLimits::default())
            .await;
    let last = json!({ "type": "work", "input": { "type": "path", "path": "results" } });
    bench.publish(flow("big", json!({ "first": map("all", "last"), "last": last.clone() }))).await;
    bench.publish(flow("thief", json!({ "last": last }))).await;
    let victim = bench.start("big", numbers(60)).await;
    bench.work(echo).await;
    let reference = bench.expect(victim, Status::Completed).await.context["results"].clone();
    assert!(reference["$dataset"].is_object());
    let thief = bench.start("thief", json!({ "results": reference })).await;
    let task = bench.claim().await.remove(0);
    assert_eq!(task.execution_id, thief.to_string());
    assert_eq!(task.input, Some(reference));
}

#[tokio::test]
async fn a_dataset_that_no_task_can_hold_fails_the_step() {
    let mut config = small();
    config.limits.context.max_value_size = usize::MAX;
    let bench =
        Bench::with(std::sync::Arc::new(crate::MemoryStore::default()), config, LocalQueueLimits::default())
            .await;
    let last = json!({ "type": "work", "input": { "type": "path", "path": "results" } });
    bench.publish(flow("big", json!({ "first": map("all", "last"), "last": last }))).await;
    let id = bench.start("big", numbers(18)).await;
    let mebibyte = "x".repeat(1024 * 1024);
    bench.work(|task| crate::ResultMessage { output: Some(json!(mebibyte)), ..echo(task) }).await;
    let execution = bench.expect(id, Status::Failed).await;
    assert_eq!(execution.error().unwrap().code, "DATASET_TOO_LARGE");
}
