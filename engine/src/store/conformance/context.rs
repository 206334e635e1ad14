//! Staged changes of contexts.

use flowmonkey_core::execution::command::ContextChange;
use flowmonkey_core::ids::TaskId;
use serde_json::{Value, json};

use super::fixture::{at, id, start, store_all, success, task, update, updates, work};
use crate::store::Store;
use crate::store::context::{ContextPatch, Staged};
use crate::store::model::Retention;

const PLENTY: u64 = 1 << 20;

fn patch(task: TaskId, attempt: u32, sequence: u32, value: Value) -> ContextPatch {
    let set = ContextChange::Set { path: "a.b".into(), value };
    let delete = ContextChange::Delete { path: "\u{0}'".into() };
    ContextPatch { task, attempt, sequence, changes: vec![set, delete] }
}

pub(super) async fn patches_are_fenced_and_repeatable(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let out = task(&one);
    let (first, second) = (patch(out, 1, 1, json!(1)), patch(out, 1, 2, json!({ "\u{0}": [1.5, "é"] })));
    assert_eq!(store.stage_patch(&second, PLENTY).await.unwrap(), Staged::Stored, "in any order");
    assert_eq!(store.stage_patch(&first, PLENTY).await.unwrap(), Staged::Stored);
    assert_eq!(store.stage_patch(&first, PLENTY).await.unwrap(), Staged::Stored, "again");
    assert_eq!(store.stage_patch(&first, 0).await.unwrap(), Staged::Stored, "what is there has its room");
    assert_eq!(store.stage_patch(&patch(out, 1, 1, json!(2)), PLENTY).await.unwrap(), Staged::Taken);
    for (stale, attempt) in
        [(out, 2), (TaskId { number: 2, ..out }, 1), (TaskId { execution: id(9), ..out }, 1)]
    {
        let stale = patch(stale, attempt, 1, json!(1));
        assert_eq!(store.stage_patch(&stale, PLENTY).await.unwrap(), Staged::Stale);
        assert_eq!(store.task_version(stale.task, attempt).await.unwrap(), None);
    }
    assert_eq!(store.task_version(out, 1).await.unwrap(), Some(one.version));
    let two = start(store, &flow, 2, at(0)).await;
    let other = patch(task(&two), 1, 1, json!(7));
    assert_eq!(store.stage_patch(&other, PLENTY).await.unwrap(), Staged::Stored);
    let asked = [(task(&two), 1), (out, 2), (TaskId { execution: id(9), ..out }, 1), (out, 1)];
    assert_eq!(store.staged_patches(&asked).await.unwrap(), [first.clone(), second.clone(), other.clone()]);
    assert_eq!(store.staged_patches(&[]).await.unwrap(), []);
    store.forget_patches(&[(out, 2), (task(&two), 1)]).await.unwrap();
    store.forget_patches(&[]).await.unwrap();
    assert_eq!(store.staged_patches(&asked).await.unwrap(), [first, second]);
}

pub(super) async fn patches_of_an_attempt_have_a_limit(store: &dyn Store) {
    let flow = work();
    let out = task(&*start(store, &flow, 1, at(0)).await);
    let (first, second) = (patch(out, 1, 1, json!("x")), patch(out, 1, 2, json!("y")));
    let bytes = serde_json::to_string(&first.changes).unwrap().len() as u64;
    assert_eq!(store.stage_patch(&first, bytes - 1).await.unwrap(), Staged::Full);
    assert_eq!(store.stage_patch(&first, bytes).await.unwrap(), Staged::Stored);
    assert_eq!(store.stage_patch(&second, 2 * bytes - 1).await.unwrap(), Staged::Full);
    assert_eq!(store.staged_patches(&[(out, 1)]).await.unwrap(), std::slice::from_ref(&first));
    assert_eq!(store.stage_patch(&second, 2 * bytes).await.unwrap(), Staged::Stored);
    assert_eq!(store.staged_patches(&[(out, 1)]).await.unwrap(), [first, second]);
}

pub(super) async fn patches_end_with_their_attempt(store: &dyn Store) {
    let retention = Retention {
        executions_before: at(0),
        events_before: at(0),
        keys_before: at(0),
        progress_before: at(0),
        logs_before: at(0),
        checkpoints_before: at(0),
    };
    let flow = work();
    let one = start(store, &flow, 1, at(5)).await;
    let two = start(store, &flow, 2, at(5)).await;
    let kept = patch(task(&two), 1, 1, json!(1));
    store.stage_patch(&kept, PLENTY).await.unwrap();
    for sequence in 1..=3 {
        store.stage_patch(&patch(task(&one), 1, sequence, json!(sequence)), PLENTY).await.unwrap();
    }
    let next = update(&flow, &one, success(&one, json!(1)), at(6));
    let after = next.execution.clone();
    store_all(store, updates(at(6), vec![next])).await;
    let staged = store.staged_patches(&[(task(&one), 1)]).await.unwrap();
    assert_eq!(staged.len(), 3, "until somebody takes them away");
    assert_eq!(store.prune(&retention, 2).await.unwrap(), 2);
    if after.task().is_some() {
        // The next attempt of the execution takes away what is left of others.
        let own = patch(task(&after), 1, 1, json!(1));
        assert_eq!(store.stage_patch(&own, PLENTY).await.unwrap(), Staged::Stored);
        assert_eq!(store.staged_patches(&[(task(&one), 1), (task(&after), 1)]).await.unwrap(), [own]);
    }
    store.prune(&retention, 9).await.unwrap();
    assert_eq!(store.prune(&retention, 9).await.unwrap(), 0);
    assert_eq!(store.staged_patches(&[(task(&one), 1), (task(&two), 1)]).await.unwrap(), [kept]);
}
