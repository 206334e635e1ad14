//! Definitions and published versions.

use std::sync::Arc;

use flowmonkey_core::ids::FlowHash;
use serde_json::json;

use super::fixture::{at, row, work};
use crate::access::Visibility;
use crate::store::Store;
use crate::store::model::{FlowRow, PublishOutcome};

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
    assert_eq!(store.find_flow(None, "a", Some("1.0.0")).await.unwrap().unwrap().hash, first.hash);
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
        store.find_flow(None, name, None).await.unwrap().map(|found| found.version)
    };
    assert_eq!(latest("a").await.as_deref(), Some("1.10.0"));
    assert_eq!(latest("b").await, None, "a draft is not found without its version");
    assert_eq!(latest("d").await, None);
    assert_eq!(store.find_flow(None, "b", Some("0.1.0")).await.unwrap().unwrap().version, "0.1.0");
    assert_eq!(store.find_flow(None, "a", Some("9.9.9")).await.unwrap(), None);
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
    assert_eq!(store.find_flow(None, &flow.id, Some(&flow.version)).await.unwrap(), None);
    assert_eq!(store.publish(None, &flow, at(0)).await.unwrap(), PublishOutcome::Created);
}
