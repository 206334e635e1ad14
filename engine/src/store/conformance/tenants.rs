//! What belongs to one tenant, or to none, and is not seen by the others.

use std::sync::Arc;

use flowmonkey_core::execution::command::{EmittedEvent, TableRow};
use flowmonkey_core::execution::decision::FailedTask;
use flowmonkey_core::execution::{Execution, ExecutionError, Record, StartRequest};
use flowmonkey_core::flow::definition::Flow;
use flowmonkey_core::ids::FlowHash;
use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::api::JobStatus;
use serde_json::{Map, json};

use super::fixture::{at, creates, id, listen, started, store_all, success, task, update, updates, work};
use crate::access::Visibility;
use crate::store::Store;
use crate::store::control::FailedTaskFilter;
use crate::store::events::{EventFilter, Webhook};
use crate::store::jobs::{JobChange, JobFilter};
use crate::store::model::{FlowRow, PublishOutcome, PublishedEvent, TableDefinition};

/// Whose rows there are: those of none, and those of two tenants.
const ALL: [Option<&str>; 3] = [None, Some("acme"), Some("other")];

fn only(tenant: &str) -> Visibility {
    Visibility::Tenant(tenant.into())
}

fn version(content: &str) -> FlowRow {
    let definition = json!({ "id": "a", "version": "1.0.0", "content": content });
    FlowRow {
        id: "a".into(),
        version: "1.0.0".into(),
        hash: FlowHash::of(definition.to_string().as_bytes()),
        status: "published".into(),
        definition: Arc::new(definition),
    }
}

/// A root of `tenant`, stored.
async fn start(store: &dyn Store, flow: &Flow, number: u64, tenant: Option<&str>) -> Arc<Execution> {
    let mut request = StartRequest::new(id(number), json!({}));
    request.tenant_id = tenant.map(Into::into);
    let create = started(flow, request, at(0));
    let execution = create.execution.clone();
    store_all(store, creates(at(0), vec![create])).await;
    execution
}

pub(super) async fn flows_of_tenants_have_names_of_their_own(store: &dyn Store) {
    for tenant in ALL {
        let own = version(tenant.unwrap_or_default());
        assert_eq!(store.find_flow(tenant, "a", None).await.unwrap().flow, None, "{tenant:?}");
        assert_eq!(store.publish(tenant, &own, at(0)).await.unwrap(), PublishOutcome::Created);
        assert_eq!(store.publish(tenant, &own, at(0)).await.unwrap(), PublishOutcome::Unchanged);
        for exact in [None, Some("1.0.0")] {
            let found = store.find_flow(tenant, "a", exact).await.unwrap().flow.unwrap();
            assert_eq!(found.hash, own.hash, "{tenant:?} {exact:?}");
        }
        let other = version("changed");
        let conflict = PublishOutcome::Conflict { existing: own.hash };
        assert_eq!(store.publish(tenant, &other, at(0)).await.unwrap(), conflict);
    }
    let shared = version("");
    assert_eq!(store.publish(Some("third"), &shared, at(0)).await.unwrap(), PublishOutcome::Created);
    assert_eq!(store.definition(&shared.hash).await.unwrap(), Some(shared), "definitions are shared");
    let whose = |seen: Visibility| async move {
        let found = store.list_flows(&seen, Some("a")).await.unwrap();
        found.into_iter().map(|found| found.tenant_id.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(whose(Visibility::All).await, ["", "acme", "other", "third"]);
    assert_eq!(whose(only("acme")).await, ["acme"]);
    assert_eq!(whose(only("nobody")).await, Vec::<String>::new());
}

fn event(tenant: Option<&str>, when: i64) -> PublishedEvent {
    PublishedEvent {
        id: "event".into(),
        name: "parcel".into(),
        data: json!(tenant),
        tenant: tenant.map(Into::into),
        source: None,
        at: at(when),
        attributes: None,
    }
}

pub(super) async fn events_of_tenants_have_ids_and_listeners_of_their_own(store: &dyn Store) {
    let flow = listen();
    let mut events = Vec::new();
    for (number, tenant) in (1..).zip(ALL) {
        start(store, &flow, number, tenant).await;
        assert_eq!(store.subscribers(tenant, "parcel", None, 9).await.unwrap(), [id(number)]);
        events.push(event(tenant, i64::try_from(number).unwrap()));
    }
    assert_eq!(store.publish_events(&events).await.unwrap(), [true; 3], "one id, three tenants");
    assert_eq!(store.publish_events(&events).await.unwrap(), [false; 3]);
    assert_eq!(store.undelivered_events(9).await.unwrap(), events);
    let named = ["event".to_owned()];
    let list = |filter: EventFilter| async move {
        let found = store.list_events(&EventFilter { max: 9, ..filter }).await.unwrap();
        found.into_iter().map(|(_, event)| event).collect::<Vec<_>>()
    };
    for (tenant, event) in ALL.into_iter().zip(&events) {
        let own = std::slice::from_ref(event);
        assert_eq!(store.events_since(tenant, "parcel", at(0), 9).await.unwrap(), own);
        assert_eq!(store.events_by_id(tenant, &named).await.unwrap(), own);
        let Some(tenant) = tenant else { continue };
        let filter = EventFilter { tenant: Some(tenant.into()), ..EventFilter::default() };
        assert_eq!(list(filter.clone()).await, own);
        assert_eq!(list(EventFilter { name: Some("parcel".into()), ..filter.clone() }).await, own);
        assert_eq!(list(EventFilter { name: Some("other".into()), ..filter.clone() }).await, []);
        assert_eq!(list(EventFilter { since: at(9), ..filter }).await, []);
    }
    assert_eq!(list(EventFilter::default()).await.len(), 3);
    store.mark_delivered(Some("acme"), &named).await.unwrap();
    let left = store.undelivered_events(9).await.unwrap();
    assert_eq!(left, [events[0].clone(), events[2].clone()]);
}

pub(super) async fn webhooks_keep_their_tenant(store: &dyn Store) {
    let webhook = Webhook {
        id: "wh_1".into(),
        tenant: Some("acme".into()),
        url: "https://receiver.example/".into(),
        secret: "whsec_1".into(),
        patterns: vec!["*".into()],
        description: String::new(),
        active: true,
        deactivated: None,
        failing_since: None,
        created_at: at(0),
    };
    store.save_webhook(&webhook).await.unwrap();
    store.save_webhook(&Webhook { tenant: Some("other".into()), ..webhook.clone() }).await.unwrap();
    assert_eq!(store.webhooks().await.unwrap(), [webhook]);
}

/// Ends the task of an execution that is out, with a row for the table `t` and an event.
async fn tell(store: &dyn Store, execution: &Execution, now: Timestamp) {
    let mut change = update(&work(), execution, success(execution, json!(1)), now);
    let row: Map<String, _> = [("of".to_owned(), json!(execution.id()))].into_iter().collect();
    change.records.push(Record::InsertRow(TableRow { table: "t".into(), id: "r".into(), row, pipe: None }));
    change.records.push(Record::Publish(EmittedEvent { id: None, name: "told".into(), data: json!(null) }));
    change.records.push(Record::FailedTask(Box::new(FailedTask {
        run: execution.task().unwrap().run.clone(),
        handler_type: "do".into(),
        error: ExecutionError {
            code: "BROKEN".into(),
            message: "it broke".into(),
            step_id: None,
            details: None,
            timestamp: now,
        },
        input: None,
    })));
    store_all(store, updates(now, vec![change])).await;
}

pub(super) async fn tables_of_tenants_have_rows_of_their_own(store: &dyn Store) {
    for (number, tenant) in (1..).zip(ALL) {
        let table = TableDefinition { id: "t".into(), tenant: tenant.map(Into::into), columns: Vec::new() };
        store.define_table(&table, at(0)).await.unwrap();
        store.define_table(&table, at(1)).await.unwrap();
        assert_eq!(store.table_rows(tenant, "t", None, 9).await.unwrap(), []);
        let one = start(store, &work(), number, tenant).await;
        tell(store, &one, at(1)).await;
        let rows = store.table_rows(tenant, "t", None, 9).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.execution).collect::<Vec<_>>(), [one.id()]);
    }
    let whose = |seen: Visibility| async move {
        let found = store.tables(&seen).await.unwrap();
        found.into_iter().map(|table| table.tenant.unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(whose(Visibility::All).await, ["", "acme", "other"]);
    assert_eq!(whose(only("other")).await, ["other"]);
}

pub(super) async fn lists_of_what_belongs_to_executions_show_a_tenant_its_own(store: &dyn Store) {
    for (number, tenant) in (1..).zip(ALL) {
        let one = start(store, &work(), number, tenant).await;
        let pending = JobChange {
            task: task(&one),
            attempt: 1,
            status: JobStatus::Pending,
            step_id: "s".into(),
            handler_type: "do".into(),
            timeout_ms: None,
            max_retries: None,
            retry_count: 0,
            error: None,
            at: at(1),
        };
        store.note_jobs(&[pending]).await.unwrap();
        tell(store, &one, at(1)).await;
        let said = store.events_since(tenant, "told", at(0), 9).await.unwrap();
        assert_eq!(said.iter().map(|event| event.source).collect::<Vec<_>>(), [Some(one.id())]);
    }
    let of = |tenant: Option<&str>| FailedTaskFilter {
        tenant: tenant.map(Into::into),
        max: 9,
        ..FailedTaskFilter::default()
    };
    for (number, tenant) in (1..).zip(ALL) {
        let Some(tenant) = tenant else { continue };
        let failed = store.failed_tasks(&of(Some(tenant))).await.unwrap();
        assert_eq!(failed.iter().map(|row| row.row.execution).collect::<Vec<_>>(), [id(number)]);
        let filter = JobFilter { tenant: Some(tenant.into()), max: 9, ..JobFilter::default() };
        let jobs = store.jobs(&filter).await.unwrap();
        assert_eq!(jobs.iter().map(|row| row.task.execution).collect::<Vec<_>>(), [id(number)]);
    }
    assert_eq!(store.failed_tasks(&of(None)).await.unwrap().len(), 3);
    assert_eq!(store.failed_tasks(&of(Some("nobody"))).await.unwrap(), []);
}
