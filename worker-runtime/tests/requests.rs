//! Children that call the plumbing APIs: each request is answered, in bounded memory, and what was promised is kept.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]
#![cfg(unix)]

#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::path::Path;
use std::sync::Arc;

use flowmonkey_plumbing::api::EmittedEvent;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_plumbing::wire::{ContextOperation, ContextUpdates, Outcome, ResultMessage, TaskMessage};
use flowmonkey_worker::{ChildHandler, WorkerHandle};
use serde_json::{Value, json};
use support::{Memory, Probe, config, start, task};

fn order() -> Value {
    json!({ "order": { "items": [{ "price": 21 }] } })
}

/// A task whose context did not travel with it.
fn large() -> TaskMessage {
    let url = Some("/v1/plumbing/tasks/t/context".into());
    TaskMessage { context_url: url, context_bytes: Some(1 << 20), context: json!({}), ..task("t", "child") }
}

struct Bench {
    queue: Arc<Probe>,
    memory: Arc<Memory>,
    _worker: WorkerHandle,
}

impl Bench {
    fn new(command: &[&str], context: Value) -> Self {
        Self::with(command, context, &json!({}))
    }

    fn with(command: &[&str], context: Value, fields: &Value) -> Self {
        let mut manifest = json!({ "type": "child", "version": "1.0.0", "command": command });
        manifest.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let children = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children"));
        let handler = Arc::new(ChildHandler::new(manifest, children).unwrap());
        let (queue, memory) = (Probe::new(), Arc::new(Memory::default()));
        *memory.context.lock().unwrap() = context;
        let worker = start(config(), &queue, Arc::clone(&memory), [handler as Arc<_>]);
        Self { queue, memory, _worker: worker }
    }

    async fn run(&self, task: TaskMessage) -> ResultMessage {
        self.queue.queue.push(vec![task]).await.unwrap();
        self.queue.result().await
    }
}

#[tokio::test]
async fn the_examples_read_and_save_and_tell() {
    for command in [["python3", "ask.py"], ["bash", "ask.sh"]] {
        for (message, reads) in [(large(), 1), (TaskMessage { context: order(), ..task("t", "child") }, 0)] {
            let bench = Bench::new(&command, order());
            let result = bench.run(message).await;
            let wanted = json!({ "price": 21, "before": null, "after": { "seen": 21 } });
            assert_eq!(
                (result.outcome, result.output),
                (Outcome::Success, Some(wanted)),
                "{:?}",
                result.error
            );
            let total = ContextOperation::Set { path: "order.total".into(), value: json!(42) };
            assert_eq!(result.context_updates, Some(ContextUpdates::Operations(vec![total])));
            assert_eq!(result.context_patches, 0, "a small change travels with the result");
            let seen = EmittedEvent { id: None, event: "price.seen".into(), data: json!(21) };
            assert_eq!(*bench.memory.emitted.lock().unwrap(), [seen]);
            assert_eq!(result.events, [], "it does not wait for the result");
            assert_eq!(bench.memory.progress.lock().unwrap()[0].percent, 50.0);
            assert_eq!(*bench.memory.checkpoint.lock().unwrap(), Some(json!({ "seen": 21 })));
            assert_eq!(bench.memory.reads.lock().unwrap().len(), reads);
        }
    }
}

#[tokio::test]
async fn many_requests_at_once_are_all_answered() {
    let parts: Vec<String> = (0..100).map(|n| format!("{n} ").repeat(10_000)).collect();
    let context = json!({ "parts": parts });
    let fields = json!({ "limits": { "lineBytes": 2_000_000, "outputBytes": 20_000_000 } });
    let bench = Bench::with(&["python3", "flood.py"], context, &fields);
    let result = bench.run(large()).await;
    let output = result.output.unwrap_or_else(|| panic!("{:?}", result.error));
    let seen: Vec<_> = parts.iter().map(|part| json!([part[..3], part.len()])).collect();
    assert_eq!(output["parts"], json!(seen));
    let codes = json!(["INVALID_REQUEST", "INVALID_REQUEST", "INVALID_REQUEST", "ANSWER_TOO_LARGE"]);
    assert_eq!(output["codes"], codes, "the whole context is more than a line may have");
    assert_eq!(output["nothing"], json!({ "ok": true, "found": false, "value": null }));
    assert_eq!(*bench.memory.checkpoint.lock().unwrap(), Some(json!("last")), "changes keep their order");
}

#[tokio::test]
async fn what_is_asked_for_just_before_the_result_is_done() {
    let script = r#"read -r task
        echo '{"type":"request","request":1,"call":"checkpoint.save","data":1}'
        echo '{"type":"checkpoint","data":2}'
        echo '{"type":"request","request":2,"call":"context.delete","path":"a"}'
        echo '{"type":"result","outcome":"success"}'"#;
    for reuse in [false, true] {
        let bench = Bench::with(&["sh", "-c", script], order(), &json!({ "reuse": reuse }));
        let result = bench.run(task("t", "child")).await;
        assert_eq!(result.outcome, Outcome::Success, "{:?}", result.error);
        let delete = ContextOperation::Delete { path: "a".into() };
        assert_eq!(result.context_updates, Some(ContextUpdates::Operations(vec![delete])));
        assert_eq!(*bench.memory.checkpoint.lock().unwrap(), Some(json!(2)));
    }
}

#[tokio::test]
async fn events_are_published_at_once_or_with_the_result_under_ids_of_their_own() {
    let script = r#"read -r task
        echo '{"type":"request","request":1,"call":"event","event":"one","data":1,"eventId":"mine"}'
        read -r answer
        case "$answer" in *'"ok":true'*'"value":{"id":"mine"}'*) ;; *) echo "$answer" >&2; exit 1 ;; esac
        echo '{"type":"event","event":"two","data":2,"eventId":"other"}'
        echo '{"type":"event","event":"three"}'
        echo '{"type":"result","outcome":"failure","error":{"code":"NO","message":"no"}}'"#;
    let bench = Bench::new(&["sh", "-c", script], order());
    let result = bench.run(task("t", "child")).await;
    assert_eq!(result.error.as_ref().map(|error| error.code.as_str()), Some("NO"), "{:?}", result.error);
    let at_once = EmittedEvent { id: Some("mine".into()), event: "one".into(), data: json!(1) };
    assert_eq!(*bench.memory.emitted.lock().unwrap(), [at_once]);
    let later: Vec<_> = result.events.iter().map(|event| (event.id.as_deref(), &*event.event)).collect();
    assert_eq!(later, [(Some("other"), "two"), (None, "three")]);
}

#[tokio::test]
async fn large_changes_are_staged_in_the_order_of_the_calls() {
    let script = r#"import json, sys
task = json.loads(sys.stdin.readline())
def ask(number, value):
    print(json.dumps({"type": "request", "request": number, "call": "context.set", "path": f"k{number}", "value": value}), flush=True)
    assert json.loads(sys.stdin.readline())["ok"]
for number, size in enumerate([1, 600_000, 1, 300_000, 300_000, 2]):
    ask(number, "x" * size)
print(json.dumps({"type": "result", "outcome": "success", "contextUpdates": {"last": 1}}), flush=True)"#;
    let bench = Bench::new(&["python3", "-c", script], json!({}));
    let result = bench.run(task("t", "child")).await;
    assert_eq!(result.outcome, Outcome::Success, "{:?}", result.error);
    let paths = |operations: &[ContextOperation]| -> Vec<String> {
        let path = |operation: &ContextOperation| match operation {
            ContextOperation::Set { path, .. } | ContextOperation::Delete { path } => path.clone(),
            ContextOperation::Merge { .. } => String::new(),
        };
        operations.iter().map(path).collect()
    };
    let patches = bench.memory.patches.lock().unwrap();
    let staged: Vec<_> = patches.iter().map(|(sequence, patch)| (*sequence, paths(patch))).collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(staged, [(1, names(&["k0", "k1"])), (2, names(&["k2", "k3", "k4"]))]);
    assert_eq!(result.context_patches, 2);
    let Some(ContextUpdates::Operations(own)) = result.context_updates else { panic!("no updates") };
    assert_eq!(paths(&own), ["k5", "last"]);
}
