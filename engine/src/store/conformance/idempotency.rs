//! Keys of starts.

use flowmonkey_core::execution::StartRequest;
use futures_util::future::join_all;
use serde_json::json;

use super::fixture::{at, commit, creates, flow, id, root, start, started, store_all, work};
use crate::store::Store;
use crate::store::model::{Create, CreateOutcome};

/// A start under a key that is remembered for a second.
fn keyed(number: u64, key: &str, tenant: Option<&str>, now: i64) -> Create {
    let mut request = StartRequest::new(id(number), json!({}));
    request.idempotency_key = Some(key.into());
    request.idempotency_window_ms = Some(1000);
    request.tenant_id = tenant.map(Into::into);
    started(&work(), request, at(now))
}

fn existing(number: u64, input_differs: bool) -> CreateOutcome {
    CreateOutcome::Existing { id: id(number), input_differs }
}

pub(super) async fn the_same_key_gives_the_same_execution(store: &dyn Store) {
    store_all(store, creates(at(0), vec![keyed(1, "key", None, 0)])).await;
    let other = Create { input_hash: "another input".into(), ..keyed(3, "key", None, 10) };
    let outcomes = commit(store, creates(at(10), vec![keyed(2, "key", None, 10), other])).await.creates;
    assert_eq!(outcomes, [existing(1, false), existing(1, true)]);
    assert!(store.load(&[id(2), id(3)]).await.unwrap().is_empty());
    assert!(store.history(id(2), 0, 9).await.unwrap().is_empty());
}

pub(super) async fn an_expired_key_is_taken_over(store: &dyn Store) {
    store_all(store, creates(at(0), vec![keyed(1, "key", None, 0)])).await;
    let outcomes = commit(store, creates(at(999), vec![keyed(2, "key", None, 999)])).await.creates;
    assert_eq!(outcomes, [existing(1, false)]);
    store_all(store, creates(at(1000), vec![keyed(3, "key", None, 1000)])).await;
    let outcomes = commit(store, creates(at(1001), vec![keyed(4, "key", None, 1001)])).await.creates;
    assert_eq!(outcomes, [existing(3, false)]);
}

pub(super) async fn one_of_many_concurrent_starts_under_a_key_wins(store: &dyn Store) {
    let race = (1..=8).map(|number| async move {
        commit(store, creates(at(0), vec![keyed(number, "key", None, 0)])).await.creates[0].clone()
    });
    let outcomes = join_all(race).await;
    let winners: Vec<u64> = (1..=8)
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome == CreateOutcome::Created)
        .map(|(n, _)| n)
        .collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    let others = outcomes.into_iter().filter(|outcome| *outcome != CreateOutcome::Created);
    assert!(others.into_iter().all(|outcome| outcome == existing(winners[0], false)));
}

pub(super) async fn a_key_twice_in_a_batch_starts_once(store: &dyn Store) {
    let batch = creates(at(0), vec![keyed(1, "key", None, 0), keyed(2, "key", None, 0)]);
    assert_eq!(commit(store, batch).await.creates, [CreateOutcome::Created, existing(1, false)]);
}

pub(super) async fn tenants_and_flows_have_keys_of_their_own(store: &dyn Store) {
    let other_flow = flow("other", "1.0.0", &json!({ "first": { "type": "do" } }));
    let mut request = StartRequest::new(id(4), json!({}));
    request.idempotency_key = Some("key".into());
    let batch = vec![
        keyed(1, "key", None, 0),
        keyed(2, "key", Some("a"), 0),
        keyed(3, "key", Some("b"), 0),
        started(&other_flow, request, at(0)),
        keyed(5, "another key", None, 0),
        root(&work(), 6, at(0)),
        root(&work(), 7, at(0)),
    ];
    store_all(store, creates(at(0), batch)).await;
}

pub(super) async fn a_key_of_a_create_that_is_not_stored_stays_free(store: &dyn Store) {
    start(store, &work(), 1, at(0)).await;
    let batch = creates(at(0), vec![keyed(1, "key", None, 0), keyed(2, "key", None, 0)]);
    assert_eq!(commit(store, batch).await.creates, [CreateOutcome::IdTaken, CreateOutcome::Created]);
}
