//! What children did is undone by their parent, however much it is, and the parent stays small.

use std::cell::RefCell;

use flowmonkey_core::execution::state::{STACK_PAGE_BYTES, StackPageLimits};
use flowmonkey_core::execution::{Event, Status};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::EngineConfig;
use flowmonkey_engine::watch::Update;
use flowmonkey_plumbing::queue::LocalQueueLimits;
use flowmonkey_plumbing::wire::{ResultMessage, TaskMessage};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::TryRecvError;

use crate::{Bench, echo, failure, flow, numbers, sqlite};

/// Children of the large fan-out.
const CHILDREN: usize = 2000;
/// Bytes of context that each child leaves for its undoing.
const CONTEXT_BYTES: usize = 4096;
/// Most bytes of the parent's state as JSON: its items, one page of its children's stacks, and little else.
const PARENT_BYTES_MAX: usize = 2 * STACK_PAGE_BYTES;

/// A step that is undone by a task which reads the item and what the step made.
fn undoable(next: Value) -> Value {
    json!({
        "initialStepId": "do",
        "steps": {
            "do": { "type": "work", "input": { "type": "key", "key": "item" }, "outputKey": "made",
                "compensateWith": "undo", "transitions": { "onSuccess": next } },
            "undo": { "type": "work", "input": { "type": "keys", "keys": ["item", "made"] } },
        },
        "output": { "type": "key", "key": "made" },
    })
}

fn map_of(body: Value, next: &str) -> Value {
    json!({
        "type": "map", "outputKey": "results", "transitions": { "onSuccess": next },
        "config": { "items": { "type": "path", "path": "items" }, "body": body },
    })
}

/// Does what the flows of these tests want: notes what is undone, and fails at `end`.
fn handle(task: &TaskMessage, undone: &RefCell<Vec<Value>>, made: impl Fn(&Value) -> Value) -> ResultMessage {
    let input = task.input.clone().unwrap_or_default();
    match task.step_id.as_str() {
        "end" => failure(task),
        "undo" => {
            undone.borrow_mut().push(input);
            echo(task)
        }
        _ => ResultMessage { output: Some(made(&input)), ..echo(task) },
    }
}

#[tokio::test]
async fn two_thousand_children_are_undone_backwards_and_their_parent_stays_small() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::on(sqlite(&directory).await).await;
    let steps = json!({ "fan": map_of(undoable(Value::Null), "end"), "end": { "type": "work" } });
    bench.publish(flow("large", steps)).await;
    let updates = RefCell::new(bench.engine.watchers.follow());
    let id = bench.start("large", numbers(CHILDREN)).await;
    let (undone, sizes) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let made = |item: &Value| json!({ "item": item, "text": "x".repeat(CONTEXT_BYTES) });
    let look = || loop {
        match updates.borrow_mut().try_recv() {
            Ok(Update::Committed(update)) if update.execution.id() == id => {
                sizes.borrow_mut().push(serde_json::to_vec(&*update.execution).unwrap().len());
            }
            Ok(_) => {}
            Err(TryRecvError::Empty) => return,
            Err(error) => panic!("{error}: not every commit was seen"),
        }
    };
    bench
        .work(|task| {
            look();
            handle(task, &undone, made)
        })
        .await;
    look();
    let execution = bench.expect(id, Status::Failed).await;
    assert_eq!(execution.compensations, []);
    let undone = undone.into_inner();
    let expected = (0..CHILDREN).rev().map(|item| json!({ "item": item, "made": made(&json!(item)) }));
    assert!(undone.into_iter().eq(expected), "each once, the last first");
    let sizes = sizes.into_inner();
    assert!(sizes.len() > CHILDREN, "{} commits were seen", sizes.len());
    let largest = sizes.iter().max().copied().unwrap_or_default();
    assert!(largest <= PARENT_BYTES_MAX, "the parent had {largest} bytes");
    assert_eq!(bench.rows().await.len(), 2 * CHILDREN, "every task has its own key");
}

/// Events of reading children's stacks.
async fn reads(bench: &Bench, id: ExecutionId) -> usize {
    let events = bench.store.history(id, 0, 100_000).await.unwrap();
    events.iter().filter(|recorded| matches!(recorded.event, Event::ChildStacksRead { .. })).count()
}

#[tokio::test]
async fn what_is_nested_in_other_flows_is_undone_by_page() {
    let stack_page = StackPageLimits { entries: 2, bytes: 1000 };
    let config = EngineConfig { stack_page, ..EngineConfig::default() };
    let bench =
        Bench::with(std::sync::Arc::new(crate::MemoryStore::default()), config, LocalQueueLimits::default())
            .await;
    let mut leaf = flow("leaf", undoable(json!("fan"))["steps"].clone());
    leaf["steps"]["fan"] = map_of(undoable(Value::Null), "do");
    leaf["steps"]["fan"]["transitions"] = json!({});
    bench.publish(leaf).await;
    let call = json!({
        "type": "sub-flow", "config": { "flowId": "leaf" },
        "input": { "type": "template", "template": { "item": "${item}", "items": ["a", "b", "c"] } },
    });
    let steps = json!({ "fan": map_of(call, "end"), "end": { "type": "work" } });
    bench.publish(flow("tree", steps)).await;
    let id = bench.start("tree", json!({ "items": [0, 1, 2, 3] })).await;
    let undone = RefCell::new(Vec::new());
    bench.work(|task| handle(task, &undone, |item| json!([item]))).await;
    bench.expect(id, Status::Failed).await;
    let expected: Vec<Value> = (0..4)
        .flat_map(|item| [json!(item), json!("a"), json!("b"), json!("c")])
        .rev()
        .map(|item| json!({ "item": item, "made": [item] }))
        .collect();
    assert_eq!(undone.into_inner(), expected);
    assert!(reads(&bench, id).await > 4);
}

/// Children that left something are far apart: many pages in between are empty.
#[tokio::test]
async fn a_few_among_many_children_are_found() {
    let bench = Bench::new().await;
    let mut body = undoable(Value::Null);
    body["steps"]["do"]["when"] = json!("item == 1 || item == 5999");
    bench.publish(flow("sparse", json!({ "fan": map_of(body, "end"), "end": { "type": "work" } }))).await;
    let id = bench.start("sparse", numbers(6000)).await;
    let undone = RefCell::new(Vec::new());
    bench.work(|task| handle(task, &undone, |_| json!("made"))).await;
    bench.expect(id, Status::Failed).await;
    let seen = |item: u32| json!({ "item": item, "made": "made" });
    assert_eq!(undone.into_inner(), [seen(5999), seen(1)]);
}
