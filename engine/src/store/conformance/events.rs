//! Events and those who wait for them.

use flowmonkey_core::execution::command::Command;
use serde_json::json;

use super::fixture::{at, creates, id, listen, root, shout, start, store_all, update, updates};
use crate::store::Store;
use crate::store::model::PublishedEvent;

fn event(name: &str, number: i64, when: i64) -> PublishedEvent {
    PublishedEvent {
        id: format!("event-{number}"),
        name: name.into(),
        data: json!({ "n": number }),
        source: None,
        attributes: None,
        at: at(when),
    }
}

pub(super) async fn events_from_outside_count_once(store: &dyn Store) {
    let (late, early) = (event("a", 1, 20), event("b", 2, 10));
    assert!(store.publish_event(&late).await.unwrap());
    assert!(store.publish_event(&early).await.unwrap());
    let changed = PublishedEvent { data: json!("other"), ..late.clone() };
    assert!(!store.publish_event(&changed).await.unwrap());
    assert_eq!(store.undelivered_events(9).await.unwrap(), [early.clone(), late.clone()]);
    assert_eq!(store.undelivered_events(1).await.unwrap(), std::slice::from_ref(&early));
    store.mark_delivered(&[early.id.clone(), "unknown".into()]).await.unwrap();
    store.mark_delivered(std::slice::from_ref(&early.id)).await.unwrap();
    store.mark_delivered(&[]).await.unwrap();
    assert_eq!(store.undelivered_events(9).await.unwrap(), [late]);
    assert!(!store.publish_event(&early).await.unwrap(), "a delivered event is not new again");
}

pub(super) async fn published_events_have_stable_ids(store: &dyn Store) {
    let create = root(&shout(), 1, at(5));
    let last = create.events.last().unwrap().sequence;
    store_all(store, creates(at(5), vec![create])).await;
    let events = store.undelivered_events(9).await.unwrap();
    let ids: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
    assert_eq!(ids, [format!("{}:{last}:0", id(1)), format!("{}:{last}:1", id(1))]);
    assert_eq!(events.iter().map(|event| event.data.clone()).collect::<Vec<_>>(), [json!(1), json!(2)]);
    assert!(
        events.iter().all(|event| event.source == Some(id(1)) && event.at == at(5) && event.name == "said")
    );
}

pub(super) async fn events_since_come_oldest_first(store: &dyn Store) {
    for (number, name, when) in [(1, "a", 30), (2, "a", 10), (3, "b", 20), (4, "a", 20)] {
        store.publish_event(&event(name, number, when)).await.unwrap();
    }
    store.mark_delivered(&["event-4".into()]).await.unwrap();
    let since = |when, max| async move { store.events_since("a", at(when), max).await.unwrap() };
    assert_eq!(since(0, 9).await, [event("a", 2, 10), event("a", 4, 20), event("a", 1, 30)]);
    assert_eq!(since(20, 9).await, [event("a", 4, 20), event("a", 1, 30)]);
    assert_eq!(since(0, 1).await, [event("a", 2, 10)]);
    assert_eq!(store.events_since("c", at(0), 9).await.unwrap(), []);
}

pub(super) async fn subscribers_follow_the_wait(store: &dyn Store) {
    let flow = listen();
    let one = start(store, &flow, 1, at(0)).await;
    start(store, &flow, 2, at(0)).await;
    start(store, &flow, 3, at(0)).await;
    let waiting = |after, max| async move { store.subscribers("parcel", after, max).await.unwrap() };
    assert_eq!(waiting(None, 9).await, [id(1), id(2), id(3)]);
    assert_eq!(waiting(Some(id(1)), 1).await, [id(2)]);
    assert_eq!(store.subscribers("other", None, 9).await.unwrap(), []);
    let paused = update(&flow, &one, Command::Pause { reason: None }, at(1));
    store_all(store, updates(at(1), vec![paused.clone()])).await;
    assert_eq!(waiting(None, 9).await, [id(1), id(2), id(3)], "a pause does not unsubscribe");
    let resumed = update(&flow, &paused.execution, Command::Unpause, at(2));
    let arrived = Command::Event { id: "event".into(), name: "parcel".into(), data: json!({}) };
    let ended = update(&flow, &resumed.execution, arrived, at(3));
    store_all(store, updates(at(2), vec![resumed])).await;
    store_all(store, updates(at(3), vec![ended])).await;
    assert_eq!(waiting(None, 9).await, [id(2), id(3)]);
}
