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

/// Every way to read into results that are not in the context, in one flow; each step leads on only when it saw them.
#[tokio::test]
async fn steps_of_the_engine_read_into_them() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::with(sqlite(&directory).await, small(), LocalQueueLimits::default()).await;
    let next = |target: &str| json!({ "onSuccess": target });
    bench
        .publish(flow(
            "inner",
            json!({ "sum": {
            "type": "set", "outputKey": "third",
            "input": { "type": "path", "path": "results.2" },
        } }),
        ))
        .await;
    let mut document = flow(
        "reader",
        json!({
            "first": map("all", "cases"),
            "cases": {
                "type": "conditional",
                "config": { "cases": [
                    { "when": "context.results[3] == 3 && size(context.results) == 60", "target": "choice" },
                ] },
            },
            "choice": {
                "type": "conditional", "input": { "type": "full" },
                "config": { "conditions": [{ "path": "results.4", "op": "eq", "value": 4, "target": "way" }] },
            },
            "way": {
                "type": "switch", "input": { "type": "full" },
                "config": { "path": "results.length", "cases": { "60": "fork" } },
            },
            "fork": {
                "type": "branch",
                "config": { "conditions": [{ "path": "results.5", "eq": 5, "goto": "set" }] },
            },
            "set": {
                "type": "set", "outputKey": "set", "transitions": next("again"),
                "when": "context.results.exists(r, r == 59)",
                "input": { "type": "template", "template": {
                    "sixth": "${results.6}", "text": "${results.7} of ${results.length}", "all": "${results}",
                } },
            },
            "again": {
                "type": "loop", "outputKey": "last", "transitions": next("sub"),
                "config": {
                    "while": "iteration < context.results[2]",
                    "body": { "type": "echo", "input": { "type": "expr", "expr": "context.results[iteration]" } },
                },
            },
            "sub": {
                "type": "sub-flow", "outputKey": "sub", "transitions": next("end"),
                "config": { "flowId": "inner" }, "input": { "type": "keys", "keys": ["results"] },
            },
            "end": { "type": "succeed" },
        }),
    );
    document["output"] = json!({ "type": "template", "template": {
        "eighth": "${results.8}", "nested": "${set.all.9}", "third": "${sub.context.third}", "last": "${last}",
    } });
    document["pipes"] = json!([
        { "id": "p", "stepId": "first", "tableId": "rows", "mappings": [{ "sourcePath": "10", "columnId": "tenth" }] },
    ]);
    bench.publish(document).await;
    let id = bench.start("reader", numbers(60)).await;
    bench.work(echo).await;
    let execution = bench.expect(id, Status::Completed).await;
    let set = &execution.context["set"];
    assert_eq!((&set["sixth"], &set["text"]), (&json!(6), &json!("7 of 60")));
    assert_eq!(set["all"], execution.context["results"], "passed on, it stays a reference");
    assert_eq!(execution.output, Some(json!({ "eighth": 8, "nested": 9, "third": 2, "last": 1 })));
    let rows = bench.store.table_rows(None, "rows", None, 9).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| Value::Object(row.row.clone())).collect::<Vec<_>>(),
        [json!({ "tenth": 10 })]
    );
}

#[tokio::test]
async fn an_expression_past_the_limit_takes_the_failure_transition() {
    let mut config = small();
    config.limits.context.max_value_size = usize::MAX;
    let bench =
        Bench::with(std::sync::Arc::new(crate::MemoryStore::default()), config, LocalQueueLimits::default())
            .await;
    let steps = json!({
        "first": map("all", "beside"),
        "beside": {
            "type": "set", "transitions": { "onSuccess": "into" }, "outputKey": "beside",
            "input": { "type": "expr", "expr": "size(context) > 0 && has(context.results)" },
        },
        "into": {
            "type": "set", "retry": { "maxAttempts": 5 }, "transitions": { "onFailure": "caught" },
            "input": { "type": "expr", "expr": "size(context.results)" },
        },
        "caught": { "type": "set", "input": { "type": "key", "key": "_error" }, "outputKey": "caught" },
    });
    bench.publish(flow("big", steps)).await;
    let id = bench.start("big", numbers(18)).await;
    let mebibyte = "x".repeat(1024 * 1024);
    bench.work(|task| crate::ResultMessage { output: Some(json!(mebibyte)), ..echo(task) }).await;
    let execution = bench.expect(id, Status::Completed).await;
    assert_eq!(execution.context["beside"], json!(true), "what is not looked at is not read");
    let caught = &execution.context["caught"];
    assert_eq!(caught["code"], "DATASET_TOO_LARGE");
    assert!(caught["message"].as_str().unwrap().contains("16777216 bytes"), "{caught}");
}
