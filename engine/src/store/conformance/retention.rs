//! How long a flow's executions are kept.

use std::sync::Arc;

use flowmonkey_core::execution::StartRequest;
use flowmonkey_core::execution::command::Command;
use flowmonkey_core::flow::Flow;
use serde_json::json;

use super::fixture::{
    at, creates, each, failure, flow, id, opened, spawning, started, store_all, success, update,
    update_within, updates,
};
use crate::store::Store;
use crate::store::control::FlowRetention;
use crate::store::model::Retention;

fn own(tenant: Option<&str>, flow: &str, completed_ms: Option<u64>, failed_ms: Option<u64>) -> FlowRetention {
    FlowRetention {
        tenant: tenant.map(Into::into),
        flow_id: flow.into(),
        completed_ms,
        failed_ms,
        at: at(1),
        by: "me".into(),
    }
}

fn executions_before(millis: i64) -> Retention {
    let never = at(-1);
    Retention {
        executions_before: at(millis),
        events_before: never,
        checkpoints_before: never,
        keys_before: never,
        progress_before: never,
        logs_before: never,
    }
}

fn one_step(name: &str) -> Arc<Flow> {
    flow(name, "1.0.0", &json!({ "first": { "type": "do" } }))
}

/// An execution that ends at the instant.
async fn ended(
    store: &dyn Store,
    flow: &Flow,
    number: u64,
    tenant: Option<&str>,
    completes: bool,
    millis: i64,
) {
    let request =
        StartRequest { tenant_id: tenant.map(Into::into), ..StartRequest::new(id(number), json!({})) };
    let create = started(flow, request, at(0));
    let execution = create.execution.clone();
    store_all(store, creates(at(0), vec![create])).await;
    let end = if completes { success(&execution, json!(1)) } else { failure(&execution) };
    let end = update(flow, &execution, end, at(millis));
    assert!(end.execution.is_terminal());
    store_all(store, updates(at(millis), vec![end])).await;
}

async fn left(store: &dyn Store) -> Vec<u64> {
    let mut left = Vec::new();
    for number in 1..=9 {
        if !store.load(&[id(number)]).await.unwrap().is_empty() {
            left.push(number);
        }
    }
    left
}

pub(super) async fn flows_say_how_long_their_executions_are_kept(store: &dyn Store) {
    let (a, b) = (one_step("a"), one_step("b"));
    for (number, flow, tenant, completes) in [
        (1, &a, None, true),
        (2, &a, None, false),
        (3, &a, Some("acme"), true),
        (4, &b, None, true),
        (5, &b, None, false),
    ] {
        ended(store, flow, number, tenant, completes, 10).await;
    }
    let rules = [
        own(None, "a", Some(1000), None),
        own(None, "b", None, Some(5)),
        own(Some("t"), "b", Some(1), Some(2)),
    ];
    for rule in &rules {
        store
            .set_flow_retention(&own(rule.tenant.as_deref(), &rule.flow_id, Some(7), Some(7)))
            .await
            .unwrap();
        store.set_flow_retention(rule).await.unwrap();
    }
    assert_eq!(store.flow_retentions().await.unwrap(), rules);

    // Shorter than the default.
    assert_eq!(store.prune_flow(&rules[1], at(15), 9).await.unwrap(), 0);
    assert_eq!(store.prune_flow(&rules[1], at(16), 9).await.unwrap(), 1);
    assert!(store.history(id(5), 0, 9).await.unwrap().is_empty());
    assert_eq!(left(store).await, [1, 2, 3, 4]);
    // The default holds where nothing is said: for other endings, other flows, other tenants.
    assert_eq!(store.prune(&executions_before(20), 9).await.unwrap(), 3);
    assert_eq!(left(store).await, [1]);
    assert!(!store.history(id(1), 0, 9).await.unwrap().is_empty(), "it is kept for longer");
    assert_eq!(store.prune_flow(&rules[0], at(1010), 9).await.unwrap(), 0);
    assert_eq!(store.prune_flow(&rules[2], at(1_000_000), 9).await.unwrap(), 0);
    assert_eq!(store.prune_flow(&rules[0], at(1011), 9).await.unwrap(), 1);
    assert_eq!(left(store).await, [0_u64; 0]);

    ended(store, &a, 6, None, true, 10).await;
    assert_eq!(store.prune(&executions_before(20), 9).await.unwrap(), 0);
    assert!(store.lift_flow_retention(None, "a").await.unwrap());
    assert!(!store.lift_flow_retention(None, "a").await.unwrap());
    assert_eq!(store.flow_retentions().await.unwrap(), rules[1..]);
    assert_eq!(store.prune(&executions_before(20), 9).await.unwrap(), 1);
}

pub(super) async fn trees_go_by_the_flow_of_their_root(store: &dyn Store) {
    let flow = each();
    let parent = started(&flow, StartRequest::new(id(1), json!({ "items": [1, 2] })), at(0));
    let (execution, spec) = (parent.execution.clone(), opened(&parent.records));
    store_all(store, creates(at(0), vec![parent])).await;
    let spawned = spawning(&flow, &spec, 0, 2, at(1));
    let children: Vec<_> = spawned.creates.iter().map(|create| create.execution.clone()).collect();
    store_all(store, spawned).await;
    let rule = own(None, &flow.id, Some(0), Some(0));
    store.set_flow_retention(&rule).await.unwrap();
    let terminated = update(&flow, &execution, Command::Terminate { reason: None }, at(3));
    store_all(store, updates(at(3), vec![terminated])).await;
    assert_eq!(store.prune_flow(&rule, at(99), 9).await.unwrap(), 0, "the children are alive");
    for child in &children {
        let end = update_within(&flow, child, Some(&spec.snapshot), failure(child), at(4));
        store_all(store, updates(at(4), vec![end])).await;
    }
    assert_eq!(store.prune(&executions_before(99), 9).await.unwrap(), 0);
    let mut gone = 0;
    while gone < 3 {
        let step = store.prune_flow(&rule, at(99), 2).await.unwrap();
        assert!((1..=2).contains(&step), "{step}");
        gone += step;
    }
    for execution in children.iter().chain([&execution]) {
        assert!(store.load(&[execution.id()]).await.unwrap().is_empty());
        assert!(store.history(execution.id(), 0, 9).await.unwrap().is_empty());
    }
}
