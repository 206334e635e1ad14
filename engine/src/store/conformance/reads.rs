//! What the chores and lists read.

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::{StartRequest, Status};
use serde_json::json;

use super::fixture::{
    at, creates, failure, flow, id, listen, nap, opened, root, spawning, start, started, store_all, success,
    task, update, updates, work,
};
use crate::store::Store;
use crate::store::control::FailedTaskFilter;
use crate::store::model::{ExecutionFilter, FailedTaskRow, TaskOut};

pub(super) async fn due_timers_come_earliest_first(store: &dyn Store) {
    assert_eq!(store.next_due().await.unwrap(), None);
    let flow = nap();
    let late = start(store, &flow, 1, at(200)).await;
    start(store, &flow, 2, at(100)).await;
    start(store, &flow, 3, at(0)).await;
    start(store, &flow, 4, at(100)).await;
    start(store, &work(), 5, at(0)).await;
    assert_eq!(store.next_due().await.unwrap(), Some(at(60_000)));
    assert!(store.due(at(59_999), 9).await.unwrap().is_empty());
    assert_eq!(store.due(at(60_000), 9).await.unwrap(), [id(3)]);
    assert_eq!(store.due(at(99_999), 9).await.unwrap(), [id(3), id(2), id(4), id(1)]);
    assert_eq!(store.due(at(99_999), 2).await.unwrap(), [id(3), id(2)]);
    let paused = update(&flow, &late, Command::Pause { reason: None }, at(300));
    store_all(store, updates(at(300), vec![paused.clone()])).await;
    assert_eq!(store.due(at(99_999), 9).await.unwrap(), [id(3), id(2), id(4)]);
    let resumed = update(&flow, &paused.execution, Command::Unpause, at(400));
    store_all(store, updates(at(400), vec![resumed.clone()])).await;
    assert_eq!(store.due(at(99_999), 9).await.unwrap(), [id(3), id(2), id(4), id(1)]);
    let ended = update(&flow, &resumed.execution, Command::Wake, at(90_000));
    store_all(store, updates(at(90_000), vec![ended])).await;
    assert_eq!(store.due(at(99_999), 9).await.unwrap(), [id(3), id(2), id(4)]);
}

pub(super) async fn tasks_out_come_in_order_and_by_page(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    start(store, &flow, 2, at(50)).await;
    let three = start(store, &flow, 3, at(0)).await;
    start(store, &nap(), 4, at(0)).await;
    let out = |execution: &flowmonkey_core::execution::Execution, when| TaskOut {
        task: task(execution),
        attempt: 1,
        scheduled_at: at(when),
        pool: execution.task().unwrap().pool.clone(),
        flow_id: flow.id.clone(),
        tenant: None,
    };
    let all = store.tasks_out(None, at(100), 9).await.unwrap();
    assert_eq!(all.iter().map(|out| out.task.execution).collect::<Vec<_>>(), [id(1), id(2), id(3)]);
    assert_eq!(all[0], out(&one, 0));
    assert_eq!(store.tasks_out(None, at(49), 9).await.unwrap(), [out(&one, 0), out(&three, 0)]);
    assert_eq!(store.tasks_out(Some(id(1)), at(100), 1).await.unwrap(), all[1..2]);
    let next = update(&flow, &one, success(&one, json!(1)), at(60));
    let paused = update(&flow, &three, Command::Pause { reason: None }, at(60));
    store_all(store, updates(at(60), vec![next.clone(), paused])).await;
    assert_eq!(store.tasks_out(Some(id(2)), at(100), 9).await.unwrap(), []);
    assert_eq!(store.tasks_out(None, at(49), 9).await.unwrap(), []);
    let second = out(&next.execution, 60);
    assert_eq!(second.task.number, 2);
    assert_eq!(store.tasks_out(None, at(100), 1).await.unwrap(), [second]);
}

fn ids(page: &crate::store::model::ListPage) -> Vec<flowmonkey_core::ids::ExecutionId> {
    page.items.iter().map(|item| item.id).collect()
}

pub(super) async fn lists_are_newest_first_and_paged(store: &dyn Store) {
    let flow = work();
    for number in 1..=5 {
        start(store, &flow, number, at(0)).await;
    }
    let mut filter = ExecutionFilter { max: 2, ..ExecutionFilter::default() };
    let mut seen = Vec::new();
    loop {
        let page = store.list(&filter).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(ids(&page));
        filter.before = page.next;
        if filter.before.is_none() {
            break;
        }
    }
    assert_eq!(seen, [id(5), id(4), id(3), id(2), id(1)]);
    let whole = store.list(&ExecutionFilter { max: 5, ..ExecutionFilter::default() }).await.unwrap();
    assert_eq!((whole.items.len(), whole.next), (5, None));
    assert_eq!(store.list(&ExecutionFilter::default()).await.unwrap().items.len(), 0);
    let item = &whole.items[0];
    assert_eq!((item.flow_id.as_str(), item.flow_version.as_str()), ("work", "1.0.0"));
    assert_eq!((item.status, item.current_step_id.as_str()), (Status::WaitingForWorker, "first"));
    assert_eq!(item.waiting_reason.as_deref(), Some("a worker of pool do (attempt 1)"));
    assert_eq!((item.created_at, item.updated_at), (at(0), at(0)));
}

pub(super) async fn lists_are_filtered(store: &dyn Store) {
    let work = work();
    let mut request = StartRequest::new(id(1), json!({}));
    request.labels = [("city".to_owned(), "Bern".to_owned()), ("vip".to_owned(), "yes".to_owned())].into();
    let labelled = started(&work, request, at(0));
    let mut request = StartRequest::new(id(2), json!({}));
    request.labels = [("city".to_owned(), "Basel".to_owned())].into();
    store_all(store, creates(at(0), vec![labelled, started(&work, request, at(0))])).await;
    let three = start(store, &work, 3, at(0)).await;
    start(store, &listen(), 4, at(0)).await;
    let failed = update(&work, &three, failure(&three), at(1));
    store_all(store, updates(at(1), vec![failed])).await;
    let each = super::fixture::each();
    let parent = started(&each, StartRequest::new(id(5), json!({ "items": [1, 2] })), at(0));
    let spec = opened(&parent.records);
    store_all(store, creates(at(0), vec![parent])).await;
    let spawned = spawning(&each, &spec, 0, 2, at(1));
    let mut children: Vec<_> = spawned.creates.iter().map(|create| create.execution.id()).collect();
    children.sort_unstable_by(|left, right| right.cmp(left));
    store_all(store, spawned).await;

    let list = |filter: ExecutionFilter| async move { ids(&store.list(&filter).await.unwrap()) };
    let all = || ExecutionFilter { max: 100, ..ExecutionFilter::default() };
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    assert_eq!(list(all()).await, [id(5), id(4), id(3), id(2), id(1)]);
    assert_eq!(list(ExecutionFilter { include_children: true, ..all() }).await.len(), 7);
    assert_eq!(list(ExecutionFilter { parent: Some(id(5)), ..all() }).await, children);
    assert_eq!(list(ExecutionFilter { parent: Some(id(4)), ..all() }).await, []);
    assert_eq!(list(ExecutionFilter { flow_id: Some("work".into()), ..all() }).await, [id(3), id(2), id(1)]);
    assert_eq!(list(ExecutionFilter { flow_id: Some("none".into()), ..all() }).await, []);
    let each_flow = ExecutionFilter { flow_id: Some("each".into()), include_children: true, ..all() };
    assert_eq!(list(each_flow).await.len(), 3);
    assert_eq!(list(ExecutionFilter { statuses: vec![Status::Failed], ..all() }).await, [id(3)]);
    assert_eq!(list(ExecutionFilter { statuses: vec![Status::Waiting], ..all() }).await, [id(5), id(4)]);
    let some = vec![Status::Failed, Status::WaitingForWorker];
    assert_eq!(list(ExecutionFilter { statuses: some.clone(), ..all() }).await, [id(3), id(2), id(1)]);
    let narrow =
        ExecutionFilter { statuses: some, flow_id: Some("work".into()), before: Some(id(3)), ..all() };
    assert_eq!(list(narrow).await, [id(2), id(1)]);
    let out = vec![Status::WaitingForWorker];
    assert_eq!(list(ExecutionFilter { statuses: out.clone(), ..all() }).await, [id(2), id(1)]);
    assert_eq!(list(ExecutionFilter { statuses: out.clone(), parent: Some(id(5)), ..all() }).await, children);
    assert_eq!(list(ExecutionFilter { statuses: out, include_children: true, ..all() }).await.len(), 4);
    assert_eq!(list(ExecutionFilter { labels: labels(&[("city", "Bern")]), ..all() }).await, [id(1)]);
    assert_eq!(
        list(ExecutionFilter { labels: labels(&[("city", "Bern"), ("vip", "yes")]), ..all() }).await,
        [id(1)]
    );
    assert_eq!(
        list(ExecutionFilter { labels: labels(&[("city", "Bern"), ("vip", "no")]), ..all() }).await,
        []
    );
    assert_eq!(list(ExecutionFilter { labels: labels(&[("other", "Bern")]), ..all() }).await, []);
    let failed = store.list(&ExecutionFilter { statuses: vec![Status::Failed], ..all() }).await.unwrap();
    assert_eq!(failed.items[0].error_code.as_deref(), Some("BROKEN"));
    let child = store.list(&ExecutionFilter { parent: Some(id(5)), ..all() }).await.unwrap();
    assert_eq!(child.items[0].parent_execution_id, Some(id(5)));
}

pub(super) async fn history_comes_in_whole_decisions(store: &dyn Store) {
    let flow = work();
    let created = root(&flow, 1, at(0));
    let one = created.execution.clone();
    let first = created.events.clone();
    store_all(store, creates(at(0), vec![created])).await;
    let change = update(&flow, &one, success(&one, json!(1)), at(1));
    let second = change.events.clone();
    store_all(store, updates(at(1), vec![change])).await;
    start(store, &flow, 2, at(0)).await;
    let all: Vec<_> = first.iter().chain(&*second).cloned().collect();
    assert!(first.len() > 1 && second.len() > 1);
    assert!(all.iter().zip(1..).all(|(recorded, sequence)| recorded.sequence == sequence));
    let history = |after, max| async move { store.history(id(1), after, max).await.unwrap() };
    assert_eq!(history(0, usize::MAX).await, all);
    assert_eq!(history(0, 1).await, *first);
    assert_eq!(history(0, first.len() + 1).await, all);
    assert_eq!(history(1, usize::MAX).await, all[1..]);
    assert_eq!(history(1, 1).await, first[1..]);
    assert_eq!(history(first.len() as u64, 1).await, *second);
    assert_eq!(history(all.len() as u64, 9).await, []);
    assert_eq!(history(0, 0).await, []);
    assert_eq!(store.history(id(9), 0, 9).await.unwrap(), []);
}

pub(super) async fn counts_are_by_status(store: &dyn Store) {
    assert!(store.counts().await.unwrap().is_empty());
    let flow = work();
    for number in 1..=3 {
        start(store, &flow, number, at(0)).await;
    }
    let four = start(store, &flow, 4, at(0)).await;
    start(store, &nap(), 5, at(0)).await;
    store_all(store, updates(at(1), vec![update(&flow, &four, failure(&four), at(1))])).await;
    let mut counts = store.counts().await.unwrap();
    counts.sort_unstable();
    assert_eq!(counts, [(Status::WaitingForWorker, 3), (Status::Waiting, 1), (Status::Failed, 1)]);
}

pub(super) async fn failed_tasks_come_newest_first(store: &dyn Store) {
    let flow = flow(
        "parked",
        "1.0.0",
        &json!({
        "first": { "type": "do", "retry": { "maxAttempts": 0, "onExhausted": "incident" } } }),
    );
    for number in 1..=2 {
        let one = start(store, &flow, number, at(0)).await;
        let attempt = flowmonkey_core::execution::command::TaskAttempt { task: 1, attempt: 1 };
        let mut change = update(&flow, &one, Command::LeaseLost { attempt, saved_at: None }, at(1));
        let run = one.task().unwrap().run.clone();
        let error = flowmonkey_core::execution::ExecutionError {
            code: "BROKEN".into(),
            message: "it broke".into(),
            step_id: Some("first".into()),
            details: Some(json!([1.5])),
            timestamp: at(1),
        };
        let parked = flowmonkey_core::execution::decision::FailedTask {
            run,
            handler_type: "do".into(),
            error,
            input: Some(json!({ "a": 1 })),
        };
        change.records.push(flowmonkey_core::execution::Record::FailedTask(Box::new(parked.clone())));
        store_all(store, updates(at(1), vec![change])).await;
        let newest =
            store.failed_tasks(&FailedTaskFilter { max: 1, ..FailedTaskFilter::default() }).await.unwrap();
        let newest: Vec<FailedTaskRow> = newest.into_iter().map(|entry| entry.row).collect();
        assert_eq!(newest, [FailedTaskRow { execution: id(number), at: at(1), task: parked }]);
    }
    assert_eq!(
        store.failed_tasks(&FailedTaskFilter { max: 9, ..FailedTaskFilter::default() }).await.unwrap().len(),
        2
    );
}
