//! Controls: parked tasks that are settled, pauses, archived flows, deletion, operations.

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::decision::FailedTask;
use flowmonkey_core::execution::{ExecutionError, Record, Status};
use flowmonkey_core::ids::TaskId;
use serde_json::json;

use super::fixture::{at, id, start, store_all, task, update, updates, work};
use crate::store::Store;
use crate::store::control::{
    ArchivedFlow, FailedTaskFilter, Operation, OperationItem, Pause, PauseKind, SettledAs, Settlement,
};

fn all() -> FailedTaskFilter {
    FailedTaskFilter { max: 10, ..FailedTaskFilter::default() }
}

/// Parks the task of a new execution.
async fn park(store: &dyn Store, number: u64, handler: &str, code: &str) -> TaskId {
    let flow = work();
    let one = start(store, &flow, number, at(0)).await;
    let parked = FailedTask {
        run: one.task().unwrap().run.clone(),
        handler_type: handler.into(),
        error: ExecutionError {
            code: code.into(),
            message: "a \u{0} in it".into(),
            step_id: None,
            details: None,
            timestamp: at(1),
        },
        input: None,
    };
    let mut change = update(&flow, &one, Command::Pause { reason: None }, at(i64::try_from(number).unwrap()));
    change.records.push(Record::FailedTask(Box::new(parked)));
    store_all(store, updates(at(i64::try_from(number).unwrap()), vec![change])).await;
    task(&one)
}

pub(super) async fn parked_tasks_are_found_and_settled_once(store: &dyn Store) {
    let first = park(store, 1, "mail", "BROKEN").await;
    let second = park(store, 2, "mail", "LATE").await;
    let third = park(store, 3, "pay", "BROKEN").await;
    let flow_id = work().id.clone();
    for (filter, expected) in [
        (all(), vec![third, second, first]),
        (FailedTaskFilter { max: 2, ..all() }, vec![third, second]),
        (FailedTaskFilter { handler_type: Some("mail".into()), ..all() }, vec![second, first]),
        (FailedTaskFilter { error_code: Some("BROKEN".into()), ..all() }, vec![third, first]),
        (FailedTaskFilter { execution: Some(id(2)), ..all() }, vec![second]),
        (FailedTaskFilter { since: Some(at(2)), until: Some(at(3)), ..all() }, vec![second]),
        (FailedTaskFilter { flow_id: Some(flow_id), ..all() }, vec![third, second, first]),
        (FailedTaskFilter { flow_id: Some("another".into()), ..all() }, vec![]),
        (FailedTaskFilter { tenant: Some("acme".into()), ..all() }, vec![]),
        (FailedTaskFilter { open: true, ..all() }, vec![third, second, first]),
    ] {
        let found = store.failed_tasks(&filter).await.unwrap();
        let found: Vec<TaskId> = found
            .iter()
            .map(|entry| TaskId { execution: entry.row.execution, number: entry.row.task.run.task })
            .collect();
        assert_eq!(found, expected, "{filter:?}");
    }
    let entry = store.failed_task(second).await.unwrap().unwrap();
    assert_eq!((entry.status, entry.is_last, &entry.settled), (Status::Paused, true, &None));
    let page = store.failed_tasks(&FailedTaskFilter { before: Some(entry.sequence), ..all() }).await.unwrap();
    assert_eq!(page.len(), 1);
    let settlement = |outcome| Settlement { outcome, at: at(9), by: "me".into(), reason: Some("old".into()) };
    let discarded = settlement(SettledAs::Discarded);
    assert!(store.settle_failed_task(entry.sequence, &discarded).await.unwrap());
    assert!(!store.settle_failed_task(entry.sequence, &settlement(SettledAs::Replayed)).await.unwrap());
    assert_eq!(store.failed_task(second).await.unwrap().unwrap().settled, Some(discarded));
    let open = store.failed_tasks(&FailedTaskFilter { open: true, ..all() }).await.unwrap();
    assert_eq!(open.len(), 2);
    assert_eq!(store.failed_task(TaskId { number: 7, ..second }).await.unwrap(), None);
}

pub(super) async fn a_pause_stands_until_it_is_lifted(store: &dyn Store) {
    let pause = |kind, tenant: Option<&str>| Pause {
        kind,
        tenant: tenant.map(Into::into),
        name: "eu/mail".into(),
        at: at(1),
        by: "me".into(),
        reason: None,
    };
    let (pool, flow) = (pause(PauseKind::Pool, None), pause(PauseKind::Flow, None));
    let foreign = pause(PauseKind::Flow, Some("acme"));
    for one in [&pool, &flow, &foreign] {
        assert!(store.set_pause(one).await.unwrap());
    }
    let again = Pause { at: at(5), reason: Some("again".into()), ..pool.clone() };
    assert!(!store.set_pause(&again).await.unwrap(), "the first one stays");
    assert_eq!(store.pauses().await.unwrap(), [flow.clone(), foreign.clone(), pool]);
    assert!(store.lift_pause(PauseKind::Pool, None, "eu/mail").await.unwrap());
    assert!(!store.lift_pause(PauseKind::Pool, None, "eu/mail").await.unwrap());
    assert_eq!(store.pauses().await.unwrap(), [flow.clone(), foreign]);
    assert!(store.lift_pause(PauseKind::Flow, Some("acme"), "eu/mail").await.unwrap());
    assert_eq!(store.pauses().await.unwrap(), [flow]);
}

pub(super) async fn archived_versions_are_not_the_latest(store: &dyn Store) {
    for version in ["1.0.0", "2.0.0"] {
        let flow = super::fixture::flow("old", version, &json!({ "first": { "type": "do" } }));
        for tenant in [None, Some("acme")] {
            store.publish(tenant, &super::fixture::row(&flow), at(1)).await.unwrap();
        }
    }
    let latest = async || store.find_flow(None, "old", None).await.unwrap().flow.map(|flow| flow.version);
    assert_eq!(latest().await.as_deref(), Some("2.0.0"));
    assert_eq!(store.archive_flow(None, "old", Some("2.0.0"), true).await.unwrap(), 1);
    assert_eq!(store.archive_flow(None, "old", Some("2.0.0"), true).await.unwrap(), 0);
    assert_eq!(latest().await.as_deref(), Some("1.0.0"));
    assert_eq!(store.archive_flow(None, "old", None, true).await.unwrap(), 1);
    assert_eq!(latest().await, None);
    assert!(store.find_flow(None, "old", Some("1.0.0")).await.unwrap().flow.is_some(), "executions go on");
    let archived = store.archived_flows().await.unwrap();
    let named = |version: &str| ArchivedFlow { tenant: None, id: "old".into(), version: version.into() };
    assert_eq!(archived, [named("1.0.0"), named("2.0.0")]);
    let foreign = store.find_flow(Some("acme"), "old", None).await.unwrap().flow;
    assert_eq!(foreign.map(|flow| flow.version).as_deref(), Some("2.0.0"));
    assert_eq!(store.archive_flow(None, "old", None, false).await.unwrap(), 2);
    let versions = store.flow_versions(None, "old").await.unwrap();
    let shown: Vec<_> = versions.iter().map(|(flow, status)| (&*flow.version, &**status)).collect();
    assert_eq!(shown, [("2.0.0", "published"), ("1.0.0", "published")]);
}

pub(super) async fn trees_are_deleted_when_all_has_ended(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let other = start(store, &flow, 2, at(0)).await;
    assert_eq!(store.delete_tree(&one, 10).await.unwrap(), 0, "it has not ended");
    let end = update(&flow, &one, Command::Terminate { reason: None }, at(1));
    store_all(store, updates(at(1), vec![end])).await;
    assert!(store.live_in_tree(id(1), 10).await.unwrap().is_empty());
    assert_eq!(store.delete_tree(&one, 0).await.unwrap(), 0);
    assert_eq!(store.delete_tree(&one, 10).await.unwrap(), 1);
    assert_eq!(store.delete_tree(&one, 10).await.unwrap(), 0, "it is gone");
    assert!(store.load(&[id(1)]).await.unwrap().is_empty());
    assert!(store.history(id(1), 0, 10).await.unwrap().is_empty());
    assert_eq!(store.load(&[id(2)]).await.unwrap(), [(*other).clone()]);
}

pub(super) async fn operations_go_on_where_they_were(store: &dyn Store) {
    let mut operation = Operation {
        id: "op_1".into(),
        verb: "cancel".into(),
        reason: None,
        filter: json!({ "flowId": "a" }),
        by: "me".into(),
        tenant: None,
        max: 5,
        created_at: at(1),
        ended_at: None,
        cursor: None,
        done: 0,
        refused: 0,
        stopped_at: None,
        failure: None,
    };
    store.save_operation(&operation).await.unwrap();
    let items = [
        OperationItem { execution: id(2), code: None },
        OperationItem { execution: id(1), code: Some("EXECUTION_FINISHED".into()) },
    ];
    store.note_operation("op_1", &items).await.unwrap();
    let again = OperationItem { execution: id(2), code: Some("LATER".into()) };
    store.note_operation("op_1", &[again]).await.unwrap();
    assert_eq!(store.operation_items("op_1", None, 10).await.unwrap(), items);
    assert_eq!(store.operation_items("op_1", Some(id(2)), 10).await.unwrap(), items[1..]);
    let before = operation.clone();
    operation = Operation { cursor: Some(id(1)), done: 1, refused: 1, ..operation };
    store.save_operation(&operation).await.unwrap();
    // An engine that was slow.
    store.save_operation(&before).await.unwrap();
    assert_eq!(store.open_operations(10).await.unwrap(), std::slice::from_ref(&operation));
    assert_eq!(store.forget_operations(at(99), 10).await.unwrap(), 0, "it is not done");
    assert!(store.stop_operation("op_1", at(4)).await.unwrap());
    assert!(!store.stop_operation("op_1", at(9)).await.unwrap(), "it was stopped before");
    assert!(!store.stop_operation("op_9", at(9)).await.unwrap());
    operation.ended_at = Some(at(5));
    store.save_operation(&operation).await.unwrap();
    operation.stopped_at = Some(at(4));
    let late = Operation { ended_at: None, done: 7, ..operation.clone() };
    store.save_operation(&late).await.unwrap();
    assert!(!store.stop_operation("op_1", at(9)).await.unwrap(), "it has ended");
    assert!(store.open_operations(10).await.unwrap().is_empty());
    assert_eq!(store.operation("op_1").await.unwrap(), Some(operation));
    assert_eq!(store.forget_operations(at(5), 10).await.unwrap(), 0);
    assert_eq!(store.forget_operations(at(6), 10).await.unwrap(), 1);
    assert_eq!(store.operation("op_1").await.unwrap(), None);
    assert!(store.operation_items("op_1", None, 10).await.unwrap().is_empty());
}

pub(super) async fn operations_are_listed_by_tenant(store: &dyn Store) {
    let operation = |number: u8, tenant: Option<&str>| Operation {
        id: format!("op_{number}"),
        verb: "cancel".into(),
        reason: Some("why".into()),
        filter: json!({}),
        by: "me".into(),
        tenant: tenant.map(ToOwned::to_owned),
        max: 5,
        created_at: at(i64::from(number)),
        ended_at: None,
        cursor: None,
        done: 0,
        refused: 0,
        stopped_at: None,
        failure: None,
    };
    for (number, tenant) in [(1, None), (2, Some("acme")), (3, Some("other")), (4, Some("acme"))] {
        store.save_operation(&operation(number, tenant)).await.unwrap();
    }
    let listed = async |tenant: Option<&str>, before: Option<&str>, max: usize| {
        let found = store.operations(tenant, before, max).await.unwrap();
        found.into_iter().map(|one| one.id).collect::<Vec<_>>()
    };
    assert_eq!(listed(None, None, 3).await, ["op_4", "op_3", "op_2"]);
    assert_eq!(listed(None, Some("op_2"), 3).await, ["op_1"]);
    assert_eq!(listed(Some("acme"), None, 9).await, ["op_4", "op_2"]);
    assert_eq!(listed(Some("acme"), Some("op_4"), 9).await, ["op_2"]);
    assert!(listed(Some("nobody"), None, 9).await.is_empty());
    assert!(store.stop_operation("op_2", at(9)).await.unwrap());
    assert_eq!(store.operations(Some("acme"), None, 9).await.unwrap()[1].stopped_at, Some(at(9)));
}
