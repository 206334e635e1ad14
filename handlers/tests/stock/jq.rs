//! jq programs in `transform` and `batch-process`, well-behaved and not.

use std::time::{Duration, Instant};

use flowmonkey_worker::Completion;
use serde_json::{Value, json};

use crate::support::Bench;

/// Far less than a program that is not stopped would take, far more than a busy machine needs.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_program_changes_the_input() {
    let bench = Bench::with_jq();
    let config = json!({ "jq": ".items | map(.n * $context.rate * $config.factor) | add", "factor": 10 });
    let output = bench.run("transform", config, json!({ "items": [{ "n": 1 }, { "n": 2 }] })).await;
    assert_eq!(output, Ok(json!(60)));
}

#[tokio::test]
async fn a_program_sees_a_context_that_did_not_travel_with_its_task() {
    let bench = Bench::with_jq();
    let mut task = bench.task("transform", json!({ "jq": "$context.rate" }), Value::Null);
    task.message.context = json!({});
    task.message.context_url = Some("/v1/plumbing/tasks/task-1/context".into());
    assert_eq!(bench.run_task(&task).await, Ok(Completion::output(json!(3))));
}

#[tokio::test]
async fn programs_that_never_end_are_stopped_and_the_next_one_runs() {
    let bench = Bench::with_jq();
    let started = Instant::now();
    let bombs = [
        "def f: f; f",
        "[range(1e12)]",
        "last(range(1e15))",
        "def f: [f]; f",
        "\"x\" * 100000000000",
        "def f: . + .; reduce range(60) as $i (\"xxxxxxxxxxxxxxxx\"; f)",
        "reduce range(60) as $i (\"x\"; [., .])",
        "reduce range(60) as $i (\"x\"; [., .]) | tojson",
        "[limit(1000000; repeat(\"x\" * 1000))] | add",
    ];
    for program in bombs {
        let failure = bench
            .run("transform", json!({ "jq": program, "timeoutMs": 700 }), Value::Null)
            .await
            .unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            ("TRANSFORM_ERROR", Some(false)),
            "{program}"
        );
    }
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(bench.run("transform", json!({ "jq": "1 + 1" }), Value::Null).await, Ok(json!(2)));
}

#[tokio::test]
async fn a_program_sees_nothing_of_the_worker() {
    let bench = Bench::with_jq();
    for program in [
        "env",
        "$ENV",
        "input",
        "halt",
        "input_filename",
        "include \"/etc/passwd\"; .",
        "import \"/etc/passwd\" as $x; $x",
    ] {
        let failure = bench.run("transform", json!({ "jq": program }), Value::Null).await.unwrap_err();
        assert_eq!(failure.error.code, "TRANSFORM_ERROR", "{program}");
    }
    assert_eq!(bench.run("transform", json!({ "jq": "debug | stderr" }), json!(7)).await, Ok(json!(7)));
}

#[tokio::test]
async fn a_faulty_program_is_reported_with_its_position() {
    let bench = Bench::with_jq();
    let failure = bench.run("transform", json!({ "jq": ".a |\n nope" }), Value::Null).await.unwrap_err();
    assert_eq!(failure.error.message, "jq: line 2, column 2: undefined filter `nope`");
    assert_eq!(failure.error.details.unwrap()["line"], 2);
}

#[tokio::test]
async fn without_an_evaluator_programs_fail_and_operations_work() {
    let bench = Bench::new(flowmonkey_handlers::StockPolicy::default());
    assert_eq!(bench.code("transform", json!({ "jq": "." }), json!(1)).await, "TRANSFORM_ERROR");
    assert_eq!(bench.run("transform", Value::Null, json!({ "a": 1 })).await, Ok(json!({ "a": 1 })));
    assert_eq!(
        bench.run("transform", json!({ "transform": "reverse" }), json!("abc")).await,
        Ok(json!("cba"))
    );
    assert_eq!(
        bench.code("transform", json!({ "transform": "sideways" }), json!("abc")).await,
        "BAD_TRANSFORM"
    );
}

#[tokio::test]
async fn a_batch_keeps_going_past_items_that_fail_or_kill_the_evaluator() {
    let bench = Bench::with_jq();
    let program =
        "if . == 2 then error(\"no twos\") elif . == 3 then [range(1e12)] else {v: (. * 10), i: $index} end";
    let config = json!({ "program": program, "batchSize": 3, "timeoutMs": 1500 });
    let output = bench.run("batch-process", config, json!([1, 2, 3, 4])).await.unwrap();
    assert_eq!(
        (&output["processedCount"], &output["failedCount"], &output["totalCount"]),
        (&json!(4), &json!(2), &json!(4))
    );
    assert_eq!(output["results"][0], json!({ "index": 0, "output": { "v": 10, "i": 0 } }));
    assert_eq!(output["results"][1]["error"]["message"], "jq: no twos");
    assert_eq!(output["results"][2]["index"], 2);
    assert!(output["results"][2]["error"].is_object());
    assert_eq!(output["results"][3], json!({ "index": 3, "output": { "v": 40, "i": 3 } }));
    assert_eq!(*bench.memory.progress.lock().unwrap(), ["3/4", "4/4"]);
}

#[tokio::test]
async fn a_batch_waits_between_batches_and_goes_on_from_its_checkpoint() {
    let bench = Bench::with_jq();
    let config = json!({ "program": ". + 1", "batchSize": 2, "delayBetweenBatchesMs": 60000 });
    let mut waits = Vec::new();
    let output = loop {
        match bench
            .run_task(&bench.task("batch-process", config.clone(), json!({ "items": [1, 2, 3, 4, 5] })))
            .await
            .unwrap()
        {
            Completion::Wait(wait) => {
                assert_eq!(wait.metadata["continueAfterWait"], true);
                assert!(wait.until.is_some());
                waits.push(wait.metadata["progress"].clone());
            }
            Completion::Success(output) => break output.unwrap(),
            Completion::Override { .. } | Completion::Pause(_) => panic!("no such outcome was asked for"),
        }
    };
    assert_eq!(waits, [json!("2/5"), json!("4/5")]);
    let outputs: Vec<&Value> =
        output["results"].as_array().unwrap().iter().map(|result| &result["output"]).collect();
    assert_eq!(outputs, [2, 3, 4, 5, 6]);
    assert_eq!(bench.memory.saved.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_batch_that_must_not_go_on_stops_at_the_first_bad_item_and_keeps_the_finished_batches() {
    let bench = Bench::with_jq();
    let config = json!({ "program": "if . == 3 then error(\"three\") else . end", "batchSize": 2, "continueOnError": false });
    let failure = bench.run("batch-process", config, json!([1, 2, 3, 4])).await.unwrap_err();
    assert_eq!(failure.error.code, "ITEM_ERROR");
    assert_eq!(failure.error.details.unwrap()["index"], 2);
    assert_eq!(bench.memory.saved.lock().unwrap().last().unwrap()["processed"], 2);
}

#[tokio::test]
async fn a_checkpoint_of_other_items_is_not_used() {
    let bench = Bench::with_jq();
    let config = json!({ "program": ".", "batchSize": 2 });
    bench.run("batch-process", config.clone(), json!([1, 2, 3])).await.unwrap();
    let output = bench.run("batch-process", config, json!([7, 8])).await.unwrap();
    assert_eq!(output["results"], json!([{ "index": 0, "output": 7 }, { "index": 1, "output": 8 }]));
}

#[tokio::test]
async fn a_batch_with_a_faulty_program_or_input_fails_at_once() {
    let bench = Bench::with_jq();
    for config in [json!({}), json!({ "program": "nope" }), json!({ "expression": "item * 2" })] {
        assert_eq!(
            bench.code("batch-process", config.clone(), json!([1])).await,
            "INVALID_EXPRESSION",
            "{config}"
        );
    }
    assert_eq!(bench.code("batch-process", json!({ "program": "." }), json!("text")).await, "INVALID_INPUT");
}
