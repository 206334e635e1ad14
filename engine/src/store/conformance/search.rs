//! What lists and counts find.

use std::sync::Arc;

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::{Execution, StartRequest, Status};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::fixture::{
    START, at, creates, each, failure, id, listen, opened, root, spawning, start, started, store_all,
    success, update, updates, work,
};
use crate::store::model::Retention;
use crate::store::{Count, ExecutionFilter, Span, Store};

fn all() -> ExecutionFilter {
    ExecutionFilter { max: 100, include_children: true, ..ExecutionFilter::default() }
}

/// What a filter finds; the count has to say the same.
async fn found(store: &dyn Store, filter: ExecutionFilter) -> Vec<ExecutionId> {
    let found: Vec<_> = store.list(&filter).await.unwrap().items.iter().map(|item| item.id).collect();
    let count = store.count(&filter).await.unwrap();
    assert_eq!(count, Count { count: found.len() as u64, exact: true }, "{filter:?}");
    // By pages of one, too.
    let mut paged = Vec::new();
    let mut page = ExecutionFilter { max: 1, ..filter };
    loop {
        let answer = store.list(&page).await.unwrap();
        paged.extend(answer.items.iter().map(|item| item.id));
        page.before = answer.next;
        if page.before.is_none() {
            break;
        }
    }
    assert_eq!(paged, found, "{page:?}");
    found
}

/// An id that tells it was drawn at this instant of the rules.
fn drawn(millis: i64, number: u128) -> ExecutionId {
    let instant = u128::try_from(START + millis).unwrap();
    ExecutionId::from_uuid(Uuid::from_u128((instant << 80) | (7 << 76) | number))
}

async fn begun(store: &dyn Store, id: ExecutionId, now: Timestamp) -> Arc<Execution> {
    let create = started(&work(), StartRequest::new(id, json!({})), now);
    let execution = create.execution.clone();
    store_all(store, creates(now, vec![create])).await;
    execution
}

pub(super) async fn executions_are_found_by_time(store: &dyn Store) {
    let (hour, second) = (3_600_000, 1000);
    let flow = work();
    // Ids that tell the time, one drawn by a clock that is behind, and two that were chosen.
    let early = begun(store, drawn(0, 1), at(0)).await;
    let behind = begun(store, drawn(hour - 9 * second, 2), at(hour)).await;
    let late = begun(store, drawn(2 * hour, 3), at(2 * hour)).await;
    let old = begun(store, id(1), at(hour)).await;
    let new = begun(store, ExecutionId::from_uuid(Uuid::max()), at(hour)).await;
    let (early, behind, late, old, new) = (&early, &behind, &late, &old, &new);
    let span = |from: Option<i64>, until: Option<i64>| Span { from: from.map(at), until: until.map(at) };
    let created = |from, until| found(store, ExecutionFilter { created: span(from, until), ..all() });
    let ids = |executions: &[&Execution]| executions.iter().map(|one| one.id()).collect::<Vec<_>>();
    assert_eq!(created(None, None).await, ids(&[new, late, behind, early, old]));
    assert_eq!(created(Some(hour), None).await, ids(&[new, late, behind, old]));
    assert_eq!(created(Some(hour), Some(hour + 1)).await, ids(&[new, behind, old]));
    assert_eq!(created(Some(hour + 1), None).await, ids(&[late]));
    assert_eq!(created(None, Some(hour)).await, ids(&[early]));
    assert_eq!(created(None, Some(0)).await, []);
    assert_eq!(created(Some(hour), Some(hour)).await, []);

    let end = |execution: &Execution, now: i64| update(&flow, execution, failure(execution), at(now));
    let step = update(&flow, late, success(late, json!(1)), at(6 * hour));
    let batch = vec![end(early, 3 * hour), end(new, 4 * hour), end(behind, hour - 20 * second), step];
    store_all(store, updates(at(6 * hour), batch)).await;
    let updated = |from, until| found(store, ExecutionFilter { updated: span(from, until), ..all() });
    assert_eq!(updated(Some(3 * hour), None).await, ids(&[new, late, early]));
    assert_eq!(updated(Some(3 * hour), Some(6 * hour)).await, ids(&[new, early]));
    // One ended before it began, by the clock of another engine.
    assert_eq!(updated(None, Some(hour)).await, ids(&[behind]));
    assert_eq!(updated(None, Some(hour + 1)).await, ids(&[behind, old]));
    let ended = |from, until| found(store, ExecutionFilter { ended: span(from, until), ..all() });
    assert_eq!(ended(None, None).await.len(), 5);
    assert_eq!(ended(None, Some(7 * hour)).await, ids(&[new, behind, early]));
    assert_eq!(ended(Some(3 * hour), Some(4 * hour)).await, ids(&[early]));
    let both = ExecutionFilter {
        updated: span(Some(hour), None),
        ended: span(None, Some(4 * hour)),
        created: span(None, Some(hour)),
        ..all()
    };
    assert_eq!(found(store, both).await, ids(&[early]));
    let live =
        ExecutionFilter { statuses: vec![Status::WaitingForWorker], ended: span(Some(0), None), ..all() };
    assert_eq!(found(store, live).await, []);
}

pub(super) async fn executions_are_found_by_what_they_are_at(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let two = start(store, &flow, 2, at(0)).await;
    let three = start(store, &flow, 3, at(0)).await;
    start(store, &listen(), 4, at(0)).await;
    let mut changes = vec![update(&flow, &one, success(&one, json!(1)), at(1))];
    let moved = update(&flow, &two, success(&two, json!(1)), at(1));
    changes.push(moved.clone());
    changes.push(update(&flow, &three, failure(&three), at(1)));
    store_all(store, updates(at(1), changes)).await;
    let two = moved.execution;
    store_all(store, updates(at(2), vec![update(&flow, &two, failure(&two), at(2))])).await;
    let step = |step: &str| found(store, ExecutionFilter { current_step: Some(step.into()), ..all() });
    assert_eq!(step("first").await, [id(4), id(3)]);
    assert_eq!(step("second").await, [id(2), id(1)]);
    assert_eq!(step("third").await, []);
    let at_step = |statuses: &[Status]| {
        let current_step = Some("second".to_owned());
        found(store, ExecutionFilter { current_step, statuses: statuses.to_vec(), ..all() })
    };
    assert_eq!(at_step(&[Status::Failed]).await, [id(2)]);
    assert_eq!(at_step(&[Status::WaitingForWorker]).await, [id(1)]);
    assert_eq!(at_step(&[Status::WaitingForWorker, Status::Failed]).await, [id(2), id(1)]);
    let error = |code: &str| found(store, ExecutionFilter { error_code: Some(code.into()), ..all() });
    assert_eq!(error("BROKEN").await, [id(3), id(2)]);
    assert_eq!(error("OTHER").await, []);
    let reason =
        |reason: &str| found(store, ExecutionFilter { waiting_reason: Some(reason.into()), ..all() });
    assert_eq!(reason("a worker of pool do").await, [id(1)]);
    assert_eq!(reason("event parcel").await, [id(4)]);
    assert_eq!(reason("EVENT").await, []);
    assert_eq!(reason("%").await, []);
    assert_eq!(reason("").await, [id(4), id(1)], "whatever waits");
    let version = |version: &str| ExecutionFilter {
        flow_id: Some("work".into()),
        flow_version: Some(version.into()),
        ..all()
    };
    assert_eq!(found(store, version("1.0.0")).await.len(), 3);
    assert_eq!(found(store, version("1.0.1")).await, []);
    let begins =
        |text: &str| found(store, ExecutionFilter { id_prefix: Some(text.parse().unwrap()), ..all() });
    assert_eq!(begins(&id(3).to_string()).await, [id(3)]);
    assert_eq!(begins("ex_0199").await.len(), 4);
    assert_eq!(begins("ex_02").await, []);
    // A failed one that is tried again is under way, and no longer failed.
    let failed = store.load(&[id(3)]).await.unwrap().remove(0);
    store_all(store, updates(at(3), vec![update(&flow, &failed, Command::Retry { by: None }, at(3))])).await;
    assert_eq!(error("BROKEN").await, [id(2)]);
    assert_eq!(step("first").await, [id(4), id(3)]);
    assert_eq!(at_step(&[Status::Failed]).await, [id(2)]);
}

pub(super) async fn a_tenant_is_searched_alone(store: &dyn Store) {
    let flow = each();
    for (number, tenant) in [(1, Some("acme")), (2, Some("other")), (3, None), (4, Some("acme"))] {
        let mut request = StartRequest::new(id(number), json!({ "items": [1, 2] }));
        request.tenant_id = tenant.map(str::to_owned);
        let parent = started(&flow, request, at(0));
        let spec = opened(&parent.records);
        store_all(store, creates(at(0), vec![parent])).await;
        store_all(store, spawning(&flow, &spec, 0, 2, at(1))).await;
    }
    let of = |tenant: &str| ExecutionFilter { tenant: Some(tenant.into()), include_children: false, ..all() };
    assert_eq!(found(store, of("acme")).await, [id(4), id(1)]);
    assert_eq!(found(store, of("other")).await, [id(2)]);
    assert_eq!(found(store, of("")).await, []);
    assert_eq!(found(store, ExecutionFilter { include_children: true, ..of("acme") }).await.len(), 6);
    assert_eq!(found(store, ExecutionFilter { parent: Some(id(1)), ..of("acme") }).await.len(), 2);
    assert_eq!(found(store, ExecutionFilter { parent: Some(id(2)), ..of("acme") }).await, []);
    assert_eq!(found(store, ExecutionFilter { flow_id: Some("each".into()), ..of("other") }).await, [id(2)]);
}

pub(super) async fn a_cursor_holds_while_executions_come_and_go(store: &dyn Store) {
    let flow = work();
    let mut first = Vec::new();
    for number in 1..=6 {
        first.push(start(store, &flow, number, at(0)).await);
    }
    let mut filter = ExecutionFilter { max: 2, ..all() };
    let page = store.list(&filter).await.unwrap();
    assert_eq!(page.next, Some(id(5)));
    // New ones come before the page, and those that end and go leave no hole.
    start(store, &flow, 7, at(1)).await;
    let gone = [&first[4], &first[3]];
    let ends = gone.iter().map(|one| update(&flow, one, failure(one), at(2))).collect();
    store_all(store, updates(at(2), ends)).await;
    let retention = Retention {
        executions_before: at(3),
        events_before: at(0),
        checkpoints_before: at(0),
        keys_before: at(0),
        progress_before: at(0),
        logs_before: at(0),
    };
    store.prune(&retention, 100).await.unwrap();
    assert_eq!(store.load(&[id(5), id(4)]).await.unwrap(), []);
    filter.before = page.next;
    let page = store.list(&filter).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), [id(3), id(2)]);
    assert_eq!(page.next, Some(id(2)));
}

pub(super) async fn a_count_knows_no_pages(store: &dyn Store) {
    let flow = work();
    assert_eq!(store.count(&all()).await.unwrap(), Count { count: 0, exact: true });
    store_all(store, creates(at(0), (1..=20).map(|number| root(&flow, number, at(0))).collect())).await;
    let filter = ExecutionFilter { before: Some(id(5)), max: 0, ..all() };
    assert_eq!(store.count(&filter).await.unwrap(), Count { count: 20, exact: true });
    let one = ExecutionFilter { id_prefix: Some(id(7).to_string().parse().unwrap()), ..filter };
    assert_eq!(store.count(&one).await.unwrap(), Count { count: 1, exact: true });
}
