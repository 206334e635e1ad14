//! Definitions and published versions.

use std::sync::Arc;

use flowmonkey_core::ids::FlowHash;
use serde_json::json;

use super::fixture::{at, commit, creates, id, root, row, start, store_all, success, update, work};
use crate::access::Visibility;
use crate::store::Store;
use crate::store::model::{Batch, Create, CreateOutcome, FlowRow, PublishOutcome};

fn version(id: &str, version: &str, status: &str) -> FlowRow {
    let definition = json!({ "id": id, "version": version, "status": status, "float": 0.1 });
    FlowRow {
        id: id.into(),
        version: version.into(),
        hash: FlowHash::of(definition.to_string().as_bytes()),
        status: status.into(),
        definition: Arc::new(definition),
    }
}

pub(super) async fn versions_are_immutable(store: &dyn Store) {
    let first = version("a", "1.0.0", "published");
    assert_eq!(store.publish(None, &first, at(0)).await.unwrap(), PublishOutcome::Created);
    assert_eq!(store.publish(None, &first, at(1)).await.unwrap(), PublishOutcome::Unchanged);
    let other = version("a", "1.0.0", "archived");
    let conflict = PublishOutcome::Conflict { existing: first.hash.clone() };
    assert_eq!(store.publish(None, &other, at(2)).await.unwrap(), conflict);
    assert_eq!(store.find_flow(None, "a", Some("1.0.0")).await.unwrap().flow.unwrap().hash, first.hash);
    assert_eq!(store.definition(&first.hash).await.unwrap(), Some(first));
}

pub(super) async fn the_latest_version_is_by_semver(store: &dyn Store) {
    for (name, number, status) in [
        ("a", "1.9.0", "published"),
        ("a", "1.10.0", "published"),
        ("a", "2.0.0-rc.1", "draft"),
        ("a", "3.0.0", "archived"),
        ("b", "0.1.0", "draft"),
        ("c", "1.0.0", "published"),
    ] {
        store.publish(None, &version(name, number, status), at(0)).await.unwrap();
    }
    let latest = |name: &'static str| async move {
        store.find_flow(None, name, None).await.unwrap().flow.map(|found| found.version)
    };
    assert_eq!(latest("a").await.as_deref(), Some("1.10.0"));
    assert_eq!(latest("b").await, None, "a draft is not found without its version");
    assert_eq!(latest("d").await, None);
    assert_eq!(store.find_flow(None, "b", Some("0.1.0")).await.unwrap().flow.unwrap().version, "0.1.0");
    assert_eq!(store.find_flow(None, "a", Some("9.9.9")).await.unwrap().flow, None);
    let list = |name| async move {
        let found = store.list_flows(&Visibility::All, name).await.unwrap();
        found.into_iter().map(|found| format!("{} {}", found.flow.id, found.flow.version)).collect::<Vec<_>>()
    };
    assert_eq!(list(Some("a")).await, ["a 3.0.0", "a 2.0.0-rc.1", "a 1.10.0", "a 1.9.0"]);
    assert_eq!(list(None).await.len(), 6);
    assert_eq!(list(Some("d")).await, Vec::<String>::new());
}

pub(super) async fn definitions_are_kept_without_publication(store: &dyn Store) {
    let flow = row(&work());
    assert_eq!(store.definition(&flow.hash).await.unwrap(), None);
    store.put_definition(&flow).await.unwrap();
    store.put_definition(&flow).await.unwrap();
    assert_eq!(store.definition(&flow.hash).await.unwrap(), Some(flow.clone()));
    assert_eq!(store.find_flow(None, &flow.id, Some(&flow.version)).await.unwrap().flow, None);
    assert_eq!(store.publish(None, &flow, at(0)).await.unwrap(), PublishOutcome::Created);
}

/// Publishes a flow and says in which generation it was found; none: the store tells of none.
async fn published(store: &dyn Store, name: &str) -> Option<u64> {
    store.publish(None, &version(name, "1.0.0", "published"), at(0)).await.unwrap();
    generation(store, name).await
}

async fn generation(store: &dyn Store, name: &str) -> Option<u64> {
    store.find_flow(None, name, None).await.unwrap().generation
}

pub(super) async fn whatever_changes_flows_begins_a_generation(store: &dyn Store) {
    let Some(first) = published(store, "a").await else { return };
    let mut seen = vec![first];
    let mut next = async |changes: bool, what: &str| {
        let now = generation(store, "a").await.unwrap();
        assert_eq!(!seen.contains(&now), changes, "{what}: {now} after {seen:?}");
        assert!(changes || seen.last() == Some(&now), "{what}: {now} after {seen:?}");
        seen.push(now);
    };
    next(false, "nothing").await;
    store.publish(None, &version("a", "1.0.0", "published"), at(1)).await.unwrap();
    next(false, "the same again").await;
    store.publish(None, &version("a", "1.0.0", "draft"), at(1)).await.unwrap();
    next(false, "a conflict").await;
    store.put_definition(&version("a", "1.5.0", "published")).await.unwrap();
    next(false, "a definition").await;
    store.publish(None, &version("a", "2.0.0", "published"), at(1)).await.unwrap();
    next(true, "a version").await;
    store.publish(Some("acme"), &version("b", "1.0.0", "published"), at(1)).await.unwrap();
    next(true, "a flow of a tenant").await;
    store.archive_flow(None, "a", Some("2.0.0"), true).await.unwrap();
    next(true, "archived").await;
    store.archive_flow(None, "a", Some("2.0.0"), true).await.unwrap();
    next(false, "archived again").await;
    store.archive_flow(None, "a", None, false).await.unwrap();
    next(true, "restored").await;
    assert_eq!(store.find_flow(None, "a", Some("1.0.0")).await.unwrap().generation, None, "it never changes");
}

fn guarded(number: u64, flows: u64) -> Create {
    Create { flows: Some(flows), ..root(&work(), number, at(1)) }
}

/// Batches that are written as a whole, and such as need a transaction.
pub(super) async fn a_create_for_another_generation_of_flows_is_not_stored(store: &dyn Store) {
    let Some(first) = published(store, "a").await else { return };
    store_all(store, creates(at(1), vec![guarded(1, first), root(&work(), 2, at(1)), guarded(3, first)]))
        .await;
    let Some(second) = published(store, "b").await else { panic!("the store told of generations") };
    let outcomes = commit(store, creates(at(1), vec![guarded(4, first)])).await.creates;
    assert_eq!(outcomes, [CreateOutcome::FlowsChanged]);
    let flow = work();
    for (round, key) in [None, Some("key")].into_iter().enumerate() {
        let number = |place: u64| 100 * (1 + round as u64) + place;
        let keyed = |create: Create| Create { idempotency: key.map(|key| (key.into(), at(1000))), ..create };
        let one = start(store, &flow, number(10), at(0)).await;
        let two = start(store, &flow, number(11), at(0)).await;
        let held = update(&flow, &one, success(&one, json!(1)), at(1));
        let mut stale = update(&flow, &two, success(&two, json!(1)), at(1));
        stale.expected_version += 1;
        let batch = Batch {
            creates: vec![
                // Its key stays free for the next.
                keyed(guarded(number(0), first)),
                keyed(guarded(number(1), second)),
                root(&flow, number(2), at(1)),
                guarded(number(3), first),
                guarded(number(4), first),
            ],
            updates: vec![held, stale],
            ..creates(at(1), Vec::new())
        };
        let committed = commit(store, batch).await;
        let (created, changed) = (CreateOutcome::Created, CreateOutcome::FlowsChanged);
        assert_eq!(committed.creates, [changed.clone(), created.clone(), created, changed.clone(), changed]);
        assert_eq!(committed.updates, [true, false]);
        let asked: Vec<_> = (0..5).map(|place| id(number(place))).collect();
        let stored: Vec<_> = store.load(&asked).await.unwrap().iter().map(|one| one.id()).collect();
        assert_eq!(stored, [id(number(1)), id(number(2))]);
        assert!(store.history(id(number(0)), 0, 9).await.unwrap().is_empty());
        assert!(!store.history(id(number(1)), 0, 9).await.unwrap().is_empty());
    }
    assert!(store.load(&[id(4)]).await.unwrap().is_empty());
}

/// Who repeats a start whose answer was lost learns that it is stored.
pub(super) async fn a_key_or_an_id_that_is_taken_is_so_in_any_generation_of_flows(store: &dyn Store) {
    let Some(first) = published(store, "a").await else { return };
    let keyed = |number| Create { idempotency: Some(("key".into(), at(1000))), ..guarded(number, first) };
    store_all(store, creates(at(1), vec![guarded(1, first), keyed(2)])).await;
    published(store, "b").await;
    assert_eq!(
        commit(store, creates(at(1), vec![guarded(1, first)])).await.creates,
        [CreateOutcome::IdTaken]
    );
    let existing = CreateOutcome::Existing { id: id(2), input_differs: false };
    let outcomes = commit(store, creates(at(1), vec![keyed(2), keyed(3), guarded(4, first)])).await.creates;
    assert_eq!(outcomes, [existing.clone(), existing, CreateOutcome::FlowsChanged]);
}
