//! Events and those who wait for them.

use std::collections::BTreeSet;

use flowmonkey_core::execution::Record;
use flowmonkey_core::execution::command::Command;
use serde_json::json;

use super::fixture::{at, creates, id, listen, root, shout, start, store_all, update, updates};
use crate::store::Store;
use crate::store::events::{
    DeliveryStatus, DeliveryTry, EventAttributes, EventFilter, EventPlace, NewDelivery, SettledDelivery,
    Webhook, WebhookNote,
};
use crate::store::model::{PublishedEvent, Retention};

fn event(name: &str, number: i64, when: i64) -> PublishedEvent {
    PublishedEvent {
        tenant: None,
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
    store.mark_delivered(None, &[early.id.clone(), "unknown".into()]).await.unwrap();
    store.mark_delivered(None, std::slice::from_ref(&early.id)).await.unwrap();
    store.mark_delivered(None, &[]).await.unwrap();
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

pub(super) async fn events_that_name_themselves_count_once(store: &dyn Store) {
    let named = |number| {
        let mut create = root(&shout(), number, at(5));
        let Some(Record::Publish(first)) = create.records.first_mut() else { panic!("it publishes first") };
        first.id = Some("mine".into());
        create
    };
    let second = |number| {
        let last = named(number).events.last().unwrap().sequence;
        format!("{}:{last}:1", id(number))
    };
    store_all(store, creates(at(5), vec![named(1), named(2)])).await;
    store_all(store, creates(at(6), vec![named(3)])).await;
    let found = store.undelivered_events(9).await.unwrap();
    let ids: BTreeSet<String> = found.iter().map(|event| event.id.clone()).collect();
    assert_eq!((found.len(), ids), (4, ["mine".to_owned(), second(1), second(2), second(3)].into()));
}

pub(super) async fn events_since_come_oldest_first(store: &dyn Store) {
    for (number, name, when) in [(1, "a", 30), (2, "a", 10), (3, "b", 20), (4, "a", 20)] {
        store.publish_event(&event(name, number, when)).await.unwrap();
    }
    store.mark_delivered(None, &["event-4".into()]).await.unwrap();
    let since = |when, max| async move { store.events_since(None, "a", at(when), max).await.unwrap() };
    assert_eq!(since(0, 9).await, [event("a", 2, 10), event("a", 4, 20), event("a", 1, 30)]);
    assert_eq!(since(20, 9).await, [event("a", 4, 20), event("a", 1, 30)]);
    assert_eq!(since(0, 1).await, [event("a", 2, 10)]);
    assert_eq!(store.events_since(None, "c", at(0), 9).await.unwrap(), []);
}

pub(super) async fn subscribers_follow_the_wait(store: &dyn Store) {
    let flow = listen();
    let one = start(store, &flow, 1, at(0)).await;
    start(store, &flow, 2, at(0)).await;
    start(store, &flow, 3, at(0)).await;
    let waiting = |after, max| async move { store.subscribers(None, "parcel", after, max).await.unwrap() };
    assert_eq!(waiting(None, 9).await, [id(1), id(2), id(3)]);
    assert_eq!(waiting(Some(id(1)), 1).await, [id(2)]);
    assert_eq!(store.subscribers(None, "other", None, 9).await.unwrap(), []);
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

fn webhook(number: u32) -> Webhook {
    Webhook {
        tenant: None,
        id: format!("wh_{number}"),
        url: "https://receiver.example/".into(),
        secret: format!("whsec_{number}"),
        patterns: vec!["a.*".into(), "b".into()],
        description: "d".into(),
        active: true,
        deactivated: None,
        failing_since: None,
        created_at: at(i64::from(number)),
    }
}

fn new(number: u32, event: &str) -> NewDelivery {
    NewDelivery { webhook: format!("wh_{number}"), event: event.into(), name: "a.x".into() }
}

pub(super) async fn events_are_published_in_batches_and_listed(store: &dyn Store) {
    let attributes = EventAttributes {
        id: Some("1".into()),
        source: Some("/s".into()),
        extensions: [("n".to_owned(), json!(1))].into_iter().collect(),
        is_binary: true,
        ..EventAttributes::default()
    };
    let rich = PublishedEvent { attributes: Some(Box::new(attributes)), ..event("a", 1, 10) };
    let own = PublishedEvent { source: Some(id(7)), ..event("a", 2, 20) };
    let batch = [rich.clone(), own.clone(), event("b", 3, 20), event("b", 3, 20)];
    assert_eq!(store.publish_events(&batch).await.unwrap(), [true, true, true, false]);
    assert_eq!(store.publish_events(&batch[1..]).await.unwrap(), [false, false, false]);
    assert_eq!(store.publish_events(&[]).await.unwrap(), [false; 0]);
    let ids = ["event-1".to_owned(), "unknown".to_owned()];
    assert_eq!(store.events_by_id(None, &ids).await.unwrap(), std::slice::from_ref(&rich));

    let list = |filter: EventFilter| async move {
        let found = store.list_events(&EventFilter { max: filter.max.max(1), ..filter }).await.unwrap();
        let ids: Vec<_> = found.iter().map(|(_, event)| event.id.clone()).collect();
        (ids, found.last().map(|(place, _)| *place))
    };
    let all = EventFilter { max: 9, ..EventFilter::default() };
    assert_eq!(list(all.clone()).await.0, ["event-3", "event-2", "event-1"]);
    let (first, place) = list(EventFilter { max: 1, ..all.clone() }).await;
    assert_eq!(first, ["event-3"]);
    let behind = EventFilter { before: place.unwrap(), ..all.clone() };
    assert_eq!(list(behind.clone()).await.0, ["event-2", "event-1"]);
    let named = |name: &str, filter: &EventFilter| EventFilter { name: Some(name.into()), ..filter.clone() };
    assert_eq!(list(named("a", &all)).await.0, ["event-2", "event-1"]);
    assert_eq!(list(named("b", &behind)).await.0, [""; 0]);
    let sourced = EventFilter { source: Some(id(7)), ..all.clone() };
    assert_eq!(list(sourced.clone()).await.0, ["event-2"]);
    assert_eq!(list(named("b", &sourced)).await.0, [""; 0]);
    assert_eq!(list(EventFilter { since: at(20), ..named("a", &all) }).await.0, ["event-2"]);
    let until = EventPlace { at: at(20), sequence: i64::MIN };
    assert_eq!(list(EventFilter { before: until, ..all }).await.0, ["event-1"]);
}

pub(super) async fn webhooks_are_kept_and_noted(store: &dyn Store) {
    assert_eq!(store.webhooks().await.unwrap(), []);
    for number in [2, 1] {
        store.save_webhook(&webhook(number)).await.unwrap();
    }
    assert_eq!(store.webhooks().await.unwrap(), [webhook(1), webhook(2)]);
    let changed = Webhook {
        url: "https://other.example/".into(),
        patterns: vec!["*".into()],
        active: false,
        ..webhook(1)
    };
    let forged = Webhook { secret: "other".into(), created_at: at(99), ..changed.clone() };
    store.save_webhook(&forged).await.unwrap();
    assert_eq!(store.webhooks().await.unwrap(), [changed, webhook(2)], "secret and creation stay");

    let failing = |webhooks: Vec<Webhook>| webhooks[1].failing_since;
    store.note_webhook("wh_2", WebhookNote::Failing(at(5))).await.unwrap();
    store.note_webhook("wh_2", WebhookNote::Failing(at(6))).await.unwrap();
    assert_eq!(failing(store.webhooks().await.unwrap()), Some(at(5)), "since the first");
    store.note_webhook("wh_2", WebhookNote::Healthy).await.unwrap();
    assert_eq!(failing(store.webhooks().await.unwrap()), None);
    store.note_webhook("wh_2", WebhookNote::Gone(at(7))).await.unwrap();
    let gone = store.webhooks().await.unwrap().remove(1);
    assert_eq!(
        (gone.active, gone.deactivated.as_deref(), gone.failing_since),
        (false, Some("gone"), Some(at(7)))
    );
    assert!(store.delete_webhook("wh_2").await.unwrap());
    assert!(!store.delete_webhook("wh_2").await.unwrap());
}

pub(super) async fn deliveries_are_claimed_once_and_settled(store: &dyn Store) {
    store.save_webhook(&webhook(1)).await.unwrap();
    store.save_webhook(&Webhook { active: false, ..webhook(2) }).await.unwrap();
    let some = [new(1, "e1"), new(1, "e2"), new(2, "e1"), new(3, "e1")];
    store.enqueue_deliveries(&some, at(10)).await.unwrap();
    store.enqueue_deliveries(&some[..1], at(90)).await.unwrap();
    store.enqueue_deliveries(&[], at(90)).await.unwrap();
    assert_eq!(store.due_webhooks(at(9)).await.unwrap(), [""; 0]);
    assert_eq!(store.due_webhooks(at(10)).await.unwrap(), ["wh_1"], "the other is not active");

    let one = store.claim_deliveries("wh_1", at(10), at(100), 1).await.unwrap().remove(0);
    assert_eq!(
        (one.status, one.attempts, one.next_at, one.created_at),
        (DeliveryStatus::Pending, 0, at(100), at(10))
    );
    assert_eq!((one.name.as_str(), &one.last), ("a.x", &None));
    let other = store.claim_deliveries("wh_1", at(10), at(100), 9).await.unwrap().remove(0);
    assert_ne!(one.event, other.event);
    assert_eq!(store.claim_deliveries("wh_1", at(99), at(200), 9).await.unwrap(), []);
    assert_eq!(store.due_webhooks(at(99)).await.unwrap(), [""; 0]);

    let last = DeliveryTry { at: at(20), status: Some(500), error: Some("no".into()), duration_ms: 7 };
    let settled = SettledDelivery {
        webhook: "wh_1".into(),
        event: one.event.clone(),
        claimed_until: at(100),
        status: DeliveryStatus::Pending,
        attempts: 1,
        next_at: at(50),
        last: last.clone(),
    };
    assert!(store.settle_delivery(&settled).await.unwrap());
    assert!(!store.settle_delivery(&settled).await.unwrap(), "the claim is over");
    let again = store.claim_deliveries("wh_1", at(50), at(150), 9).await.unwrap();
    assert_eq!((again.len(), again[0].attempts, again[0].last.clone()), (1, 1, Some(last)));
    let last = DeliveryTry { at: at(60), status: None, error: None, duration_ms: 0 };
    let arrived = SettledDelivery {
        claimed_until: at(150),
        status: DeliveryStatus::Delivered,
        attempts: 2,
        last,
        ..settled
    };
    assert!(store.settle_delivery(&arrived).await.unwrap());
    assert_eq!(store.due_webhooks(at(100)).await.unwrap(), ["wh_1"], "a claim that nobody settled ends");

    let log = |status, before, max| async move {
        let log = store.deliveries("wh_1", status, before, max).await.unwrap();
        log.into_iter().map(|delivery| delivery.event).collect::<Vec<_>>()
    };
    assert_eq!(log(None, None, 9).await, ["e2", "e1"]);
    assert_eq!(log(None, None, 1).await, ["e2"]);
    assert_eq!(log(None, Some((at(10), "e2".into())), 9).await, ["e1"]);
    assert_eq!(log(Some(DeliveryStatus::Delivered), None, 9).await, std::slice::from_ref(&one.event));
    assert_eq!(log(Some(DeliveryStatus::Failed), None, 9).await, [""; 0]);

    assert!(!store.redeliver("wh_1", "e9", at(70)).await.unwrap());
    assert!(store.redeliver("wh_1", &one.event, at(70)).await.unwrap());
    let fresh = store.claim_deliveries("wh_1", at(70), at(170), 9).await.unwrap().remove(0);
    assert_eq!((fresh.event, fresh.attempts), (one.event, 0));
    store.delete_webhook("wh_1").await.unwrap();
    assert_eq!(store.deliveries("wh_1", None, None, 9).await.unwrap(), [], "the log goes with it");

    let far = at(1_000_000);
    let before = at(0);
    let nothing = Retention {
        executions_before: before,
        events_before: far,
        checkpoints_before: before,
        keys_before: before,
        progress_before: before,
        logs_before: before,
    };
    assert_eq!(store.prune(&nothing, 9).await.unwrap(), 1, "the other webhook's delivery is old");
}
