//! Two tenants, and nobody else: what one has, the other does not see, whichever way it asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use flowmonkey_core::ids::TaskId;
use flowmonkey_engine::access::{Principal, Scope, Visibility};
use flowmonkey_engine::chores::events;
use flowmonkey_engine::store::{JobChange, Store, TableDefinition};
use flowmonkey_plumbing::api::JobStatus;
use flowmonkey_plumbing::queue::{TaskQueue as _, WorkerPresence};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::described::{self, Operation};
use crate::{Answer, Server, ask, control, flow, greet, listen, request, work};

/// Operations that show no rows, or whose callers are known by the token in the path.
const WITHOUT_ROWS: [&str; 12] = [
    "post /v1/flows:validate",
    "post /v1/resume/{token}",
    "get /v1/openapi.json",
    "get /v1/asyncapi.yaml",
    "get /docs",
    "get /docs/",
    "get /docs/{file}",
    "get /v1/version",
    "get /livez",
    "get /readyz",
    // Asked for below, by itself: it is of the whole process.
    "get /metrics",
    // It is not known what it will be asked for; see `live`.
    "get /v1/ws",
];
/// Operations that show or make what is the caller's own, and name nothing that another has.
const OF_ITS_OWN: [&str; 23] = [
    "get /v1/flows",
    "post /v1/flows",
    "get /v1/executions",
    "get /v1/executions:count",
    "post /v1/executions",
    "get /v1/stream",
    "get /v1/jobs",
    "get /v1/events",
    "post /v1/events",
    "get /v1/webhooks",
    "post /v1/webhooks",
    "get /v1/keys",
    "post /v1/keys",
    "get /v1/audit",
    "get /v1/queues",
    "get /v1/workers",
    "get /v1/failed-tasks",
    "get /v1/handlers",
    "get /v1/operations",
    "post /v1/operations",
    "get /v1/tables",
    // Names of tables are each tenant's own.
    "put /v1/tables/{id}",
    "get /v1/tables/{id}/rows",
];
/// How the operations begin that name a flow, which has a test of its own.
const FLOW: &str = "/v1/flows/{id}";

fn sees(visibility: Visibility) -> Principal {
    Principal { name: "key:test".into(), visibility, scopes: Scope::ALL.into() }
}

/// Two tenants and the operators of the installation, before the same engine.
struct Callers {
    server: Server,
}

impl Callers {
    /// With the same flow names for both tenants and for none.
    async fn new() -> Self {
        let callers = Self { server: Server::new().await };
        for tenant in ["acme", "other"] {
            for flow in [
                flow("greet", greet()),
                flow("ask", ask()),
                flow("work", work()),
                flow("listen", listen()),
                flow("frail", control::fragile()),
            ] {
                callers.ask(Some(tenant), "POST", "/v1/flows", flow).await.expect(201);
            }
        }
        callers
    }

    /// What somebody is answered; without a tenant it is who sees all.
    async fn ask(&self, tenant: Option<&str>, method: &str, path: &str, body: Value) -> Answer {
        let visibility = tenant.map_or(Visibility::All, |tenant| Visibility::Tenant(tenant.into()));
        let principal = sees(visibility);
        let identified = move |mut request: Request, next: Next| {
            let principal = principal.clone();
            async move {
                request.extensions_mut().insert(principal);
                next.run(request).await
            }
        };
        let router: Router = self.server.router.clone().layer(middleware::from_fn(identified));
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = request(method, path, &[("content-type", "application/json")], body);
        let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, tenant: &str, path: &str) -> Answer {
        self.ask(Some(tenant), "GET", path, Value::Null).await
    }

    async fn start(&self, tenant: &str, flow: &str) -> String {
        let started = self.ask(Some(tenant), "POST", "/v1/executions", json!({ "flowId": flow })).await;
        started.expect(202)["id"].as_str().unwrap().to_owned()
    }

    /// The id of a task that is parked.
    async fn park(&self, tenant: &str) -> String {
        let id = self.start(tenant, "frail").await;
        control::fail(&self.server, &id, 1, "BROKEN").await
    }

    async fn items(&self, tenant: &str, path: &str) -> usize {
        let listed = self.get(tenant, path).await.expect(200);
        listed["items"].as_array().unwrap().len()
    }
}

/// The operations of the document, outside of the plumbing, whose callers are known by the tokens of their tasks.
fn operations() -> Vec<Operation> {
    let mut operations = described::operations();
    operations.retain(|operation| !operation.of_task);
    operations
}

#[tokio::test]
async fn what_belongs_to_a_tenant_is_not_found_by_another() {
    let callers = Callers::new().await;
    let id = callers.start("acme", "work").await;
    let webhook = json!({ "url": "https://receiver.example/" });
    let webhook = callers.ask(Some("acme"), "POST", "/v1/webhooks", webhook).await.expect(201);
    let hook = webhook["id"].as_str().unwrap();
    let key = json!({ "name": "own", "scopes": ["viewer"] });
    let key = callers.ask(Some("acme"), "POST", "/v1/keys", key).await.expect(201);
    let key = key["id"].as_str().unwrap();
    let parked = callers.park("acme").await;
    let operation = json!({ "verb": "pause", "filter": { "flowId": "none" } });
    let operation = callers.ask(Some("acme"), "POST", "/v1/operations", operation).await.expect(202);
    let operation = operation["id"].as_str().unwrap();
    let worker = WorkerPresence {
        worker: "w-own".into(),
        pools: vec!["acme@toil".into()],
        ..WorkerPresence::default()
    };
    callers.server.queue.announce(&worker).await.unwrap();
    let shared = vec!["acme@toil".into(), "toil".into()];
    let shared = WorkerPresence { worker: "w-shared".into(), pools: shared, ..WorkerPresence::default() };
    callers.server.queue.announce(&shared).await.unwrap();
    let refused = callers.ask(Some("acme"), "POST", "/v1/workers/w-shared:drain", json!(null)).await;
    refused.problem(404, "WORKER_NOT_FOUND");
    // Where the ids stand: of the owner, and of nobody.
    let nobody = "ex_0192000000007000800000000000ffff";
    let task = |execution: &str| format!("{}_1", execution.replace("ex_", "tk_"));
    let (own_task, no_task) = (task(&id), task(nobody));
    let places = [
        ("/v1/executions/{id}", [id.as_str(), nobody]),
        ("/v1/tasks/{id}", [&own_task, &no_task]),
        ("/v1/failed-tasks/{taskId}", [&parked, &no_task]),
        ("/v1/webhooks/{id}", [hook, "wh_0"]),
        ("/v1/keys/{id}", [key, "0000000000000000"]),
        ("/v1/queues/{pool}", ["acme@toil", "nobody@toil"]),
        ("/v1/operations/{id}", [operation, "op_0"]),
        ("/v1/workers/{id}", ["w-own", "w-none"]),
    ];
    let address = |path: &str, which: usize| {
        let (place, ids) = places.iter().find(|(place, _)| path.starts_with(place)).unwrap();
        let (start, _) = place.split_once('{').unwrap();
        path.replacen(place, &format!("{start}{}", ids[which]), 1).replace("{event}", "e")
    };
    // The operation, its body, and what the owner is answered; 0: that has no end, or leaves this machine. Those that change something come last.
    let asked = [
        ("get /v1/executions/{id}", json!(null), 200),
        ("get /v1/executions/{id}:explain", json!(null), 200),
        ("get /v1/executions/{id}/history", json!(null), 200),
        ("get /v1/executions/{id}/children", json!(null), 200),
        ("get /v1/executions/{id}/context", json!(null), 200),
        ("get /v1/executions/{id}/progress", json!(null), 200),
        ("get /v1/executions/{id}/logs", json!(null), 200),
        ("get /v1/executions/{id}/events", json!(null), 200),
        ("get /v1/executions/{id}/tasks", json!(null), 200),
        ("get /v1/executions/{id}/stream", json!(null), 0),
        ("get /v1/tasks/{id}", json!(null), 200),
        ("get /v1/failed-tasks/{taskId}", json!(null), 200),
        ("post /v1/failed-tasks/{taskId}:replay", json!(null), 200),
        // It is out again.
        ("post /v1/failed-tasks/{taskId}:discard", json!(null), 409),
        ("get /v1/webhooks/{id}", json!(null), 200),
        ("patch /v1/webhooks/{id}", json!({ "active": false }), 200),
        ("get /v1/webhooks/{id}/deliveries", json!(null), 200),
        ("post /v1/webhooks/{id}/deliveries/{event}:redeliver", json!(null), 404),
        ("post /v1/webhooks/{id}:test", json!(null), 0),
        ("post /v1/queues/{pool}:pause", json!(null), 200),
        ("post /v1/queues/{pool}:resume", json!(null), 200),
        ("post /v1/executions/{id}:pause", json!(null), 200),
        ("post /v1/executions/{id}:resume", json!(null), 200),
        ("post /v1/executions/{id}:retry", json!(null), 409),
        ("post /v1/executions/{id}:signal", json!({ "name": "s" }), 200),
        ("post /v1/executions/{id}:cancel", json!(null), 200),
        ("post /v1/executions/{id}:terminate", json!(null), 409),
        ("post /v1/executions/{id}:rerun", json!({ "fromStep": "do", "input": {} }), 200),
        ("delete /v1/executions/{id}", json!(null), 200),
        ("post /v1/keys/{id}:revoke", json!(null), 200),
        ("post /v1/workers/{id}:drain", json!(null), 202),
        ("get /v1/operations/{id}", json!(null), 200),
        ("get /v1/operations/{id}/items", json!(null), 200),
        ("post /v1/operations/{id}:cancel", json!(null), 200),
        ("delete /v1/webhooks/{id}", json!(null), 204),
    ];
    for (operation, body, expected) in &asked {
        let (method, path) = operation.split_once(' ').unwrap();
        let method = method.to_uppercase();
        let foreign = callers.ask(Some("other"), &method, &address(path, 0), body.clone()).await;
        let code = foreign.body["code"].as_str().unwrap_or_default().to_owned();
        assert_eq!(foreign.status, 404, "{operation}: {}", foreign.body);
        // As if it had never been: the same words as for an id that nobody has.
        let unknown = callers.ask(Some("other"), &method, &address(path, 1), body.clone()).await;
        assert_eq!(unknown.status, 404, "{operation}");
        assert_eq!(unknown.body["code"], code, "{operation}");
        if *expected == 0 {
            continue;
        }
        let own = callers.ask(Some("acme"), &method, &address(path, 0), body.clone()).await;
        assert_eq!(own.status.as_u16(), *expected, "{operation}: {}", own.body);
        if operation.ends_with(":redeliver") {
            assert_eq!(own.body["code"], "DELIVERY_NOT_FOUND");
            assert_eq!(code, "WEBHOOK_NOT_FOUND");
        }
    }
    let tried = asked.iter().map(|(operation, ..)| *operation).chain(OF_ITS_OWN).chain(WITHOUT_ROWS);
    let tried: BTreeSet<String> = tried.map(str::to_owned).collect();
    let described = operations().into_iter().filter(|operation| !operation.path.starts_with(FLOW));
    let described: BTreeSet<String> =
        described.map(|operation| format!("{} {}", operation.method, operation.path)).collect();
    assert_eq!(described, tried, "an operation is not tried with a foreign tenant");
}

#[tokio::test]
async fn lists_show_a_tenant_its_own() {
    let callers = Callers::new().await;
    let id = callers.start("acme", "work").await;
    let execution = id.parse().unwrap();
    let store: Arc<dyn Store> = callers.server.record.clone();
    let pending = JobChange {
        task: TaskId { execution, number: 1 },
        attempt: 1,
        status: JobStatus::Pending,
        step_id: "do".into(),
        handler_type: "toil".into(),
        timeout_ms: None,
        max_retries: None,
        retry_count: 0,
        error: None,
        at: callers.server.engine.now(),
    };
    store.note_jobs(&[pending]).await.unwrap();
    let event = json!({ "name": "rain", "id": "one" });
    callers.ask(Some("acme"), "POST", "/v1/events", event.clone()).await.expect(202);
    let webhook = json!({ "url": "https://receiver.example/" });
    let shown = callers.ask(Some("acme"), "POST", "/v1/webhooks", webhook).await.expect(201);
    assert_eq!(shown["tenantId"], "acme");
    let columns = json!({ "columns": [] });
    let table = callers.ask(Some("acme"), "PUT", "/v1/tables/people", columns.clone()).await.expect(200);
    assert_eq!(table["tenantId"], "acme");
    for path in ["/v1/executions", "/v1/jobs", "/v1/events", "/v1/webhooks", "/v1/tables"] {
        assert_eq!(callers.items("acme", path).await, 1, "{path}");
        assert_eq!(callers.items("other", path).await, 0, "{path}");
        let all = callers.ask(None, "GET", path, Value::Null).await.expect(200);
        assert_eq!(all["items"].as_array().unwrap().len(), 1, "{path}");
    }
    for path in ["/v1/failed-tasks", "/v1/queues", "/v1/workers", "/v1/tables/people/rows"] {
        assert_eq!(callers.items("other", path).await, 0, "{path}");
    }
    assert_eq!(callers.items("acme", "/v1/queues").await, 0, "the pool serves all");
    let all = callers.ask(None, "GET", "/v1/queues", Value::Null).await.expect(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    let explained = callers.get("acme", &format!("/v1/executions/{id}:explain")).await.expect(200);
    assert_eq!(explained["queue"], json!({ "pool": "toil", "reachable": true, "present": true }));
    callers.get("acme", "/metrics").await.problem(404, "ROUTE_NOT_FOUND");
    // The same id is another event and another table for another tenant.
    let answer = callers.ask(Some("other"), "POST", "/v1/events", event.clone()).await.expect(202);
    assert_eq!(answer["created"], true);
    let answer = callers.ask(Some("other"), "POST", "/v1/events", event).await.expect(202);
    assert_eq!(answer["created"], false);
    callers.ask(Some("other"), "PUT", "/v1/tables/people", columns).await.expect(200);
    let tables = store.tables(&Visibility::All).await.unwrap();
    let whose: Vec<_> = tables.into_iter().map(|TableDefinition { tenant, .. }| tenant.unwrap()).collect();
    assert_eq!(whose, ["acme", "other"]);
}

#[tokio::test]
async fn flows_are_found_by_the_tenant_of_the_caller_only() {
    let callers = Callers::new().await;
    let private = flow("private", greet());
    callers.ask(Some("acme"), "POST", "/v1/flows", private).await.expect(201);
    let shared = flow("shared", greet());
    callers.ask(None, "POST", "/v1/flows", shared).await.expect(201);
    assert_eq!(callers.items("acme", "/v1/flows").await, 6);
    assert_eq!(callers.items("other", "/v1/flows").await, 5);
    callers.get("acme", "/v1/flows/private").await.expect(200);
    for path in ["/v1/flows/private", "/v1/flows/shared", "/v1/flows/nobody"] {
        callers.get("other", path).await.problem(404, "FLOW_NOT_FOUND");
    }
    for flow in ["private", "shared"] {
        let start = json!({ "flowId": flow });
        let refused = callers.ask(Some("other"), "POST", "/v1/executions", start).await;
        refused.problem(404, "FLOW_NOT_FOUND");
        let named: Vec<Operation> =
            operations().into_iter().filter(|operation| operation.path.starts_with(FLOW)).collect();
        assert_eq!(named.len(), 12);
        for Operation { method, path, .. } in named {
            let mut path = path.replace("{id}", flow);
            if path.ends_with(":diff") {
                path.push_str("?from=1.0.0&to=1.0.0");
            }
            let keeps = path.ends_with("/retention");
            let body = if keeps { json!({ "completedDays": 1 }) } else { json!({}) };
            let refused = callers.ask(Some("other"), &method.to_uppercase(), &path, body).await;
            refused.problem(404, "FLOW_NOT_FOUND");
        }
    }
    // Who sees all says whose flow is meant.
    callers.ask(None, "GET", "/v1/flows/private", Value::Null).await.problem(404, "FLOW_NOT_FOUND");
    callers.ask(None, "GET", "/v1/flows/private?tenantId=acme", Value::Null).await.expect(200);
    let start = json!({ "flowId": "private", "tenantId": "acme" });
    let started = callers.ask(None, "POST", "/v1/executions", start).await.expect(202);
    let path = format!("/v1/executions/{}", started["id"].as_str().unwrap());
    assert_eq!(callers.get("acme", &path).await.expect(200)["tenantId"], "acme");
    callers.get("other", &path).await.problem(404, "EXECUTION_NOT_FOUND");
    for tenant in ["acme", ""] {
        let named = json!({ "flowId": "greet", "tenantId": tenant });
        let refused = callers.ask(Some("other"), "POST", "/v1/executions", named).await;
        let problem = refused.problem(422, "INVALID_REQUEST");
        assert_eq!(problem["errors"][0]["pointer"], "/tenantId");
    }
    callers.get("other", "/v1/flows/greet?tenantId=acme").await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn events_reach_executions_of_their_tenant_only() {
    let callers = Callers::new().await;
    let (own, foreign) = (callers.start("acme", "listen").await, callers.start("other", "listen").await);
    let status = async |tenant: &str, id: &str| {
        let shown = callers.get(tenant, &format!("/v1/executions/{id}")).await.expect(200);
        shown["status"].as_str().unwrap().to_owned()
    };
    for tenant in [None, Some("acme")] {
        let event = json!({ "name": "rain", "data": tenant });
        callers.ask(tenant, "POST", "/v1/events", event).await.expect(202);
        events::tick(&callers.server.engine).await.unwrap();
        assert_eq!(status("other", &foreign).await, "waiting");
        let expected = if tenant.is_some() { "completed" } else { "waiting" };
        assert_eq!(status("acme", &own).await, expected);
    }
    // Nor do those that came before a wait began.
    let late = callers.start("other", "listen").await;
    assert_eq!(status("other", &late).await, "waiting");
}

#[tokio::test]
async fn sub_flows_are_of_the_parents_tenant() {
    let callers = Callers::new().await;
    let child =
        |config: Value| json!({ "call": { "type": "sub-flow", "config": config, "outputKey": "child" } });
    let foreign = json!({ "flowId": "greet", "tenantId": "other" });
    for (name, config) in [
        ("own", json!({ "flowId": "greet" })),
        ("foreign", foreign),
        ("unknown", json!({ "flowId": "shared" })),
    ] {
        callers.ask(Some("acme"), "POST", "/v1/flows", flow(name, child(config))).await.expect(201);
    }
    callers.ask(None, "POST", "/v1/flows", flow("shared", greet())).await.expect(201);
    for (name, code) in
        [("own", Value::Null), ("foreign", json!("FOREIGN_TENANT")), ("unknown", json!("FLOW_NOT_FOUND"))]
    {
        let id = callers.start("acme", name).await;
        let shown = callers.get("acme", &format!("/v1/executions/{id}")).await.expect(200);
        assert_eq!(shown["error"]["code"], code, "{name}: {shown}");
        assert_eq!(shown["tenantId"], "acme");
    }
    let listed = callers.get("acme", "/v1/executions?children=true&flowId=greet").await.expect(200);
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(callers.items("other", "/v1/executions?children=true").await, 0);
}

#[tokio::test]
async fn operations_reach_executions_of_their_tenant_only() {
    let callers = Callers::new().await;
    let (own, foreign) = (callers.start("acme", "work").await, callers.start("other", "work").await);
    callers.ask(None, "POST", "/v1/flows", flow("work", work())).await.expect(201);
    let start = json!({ "flowId": "work" });
    let unowned = callers.ask(None, "POST", "/v1/executions", start).await.expect(202);
    let unowned = unowned["id"].as_str().unwrap().to_owned();
    let pause = json!({ "verb": "pause", "filter": { "flowId": "work" } });
    let mut tried = pause.clone();
    tried["dryRun"] = json!(true);
    let tried = callers.ask(Some("acme"), "POST", "/v1/operations", tried).await.expect(200);
    assert_eq!(tried["ids"], json!([own]));
    let named = json!({ "verb": "pause", "filter": { "tenantId": "other" } });
    let refused = callers.ask(Some("acme"), "POST", "/v1/operations", named).await;
    assert_eq!(refused.problem(422, "INVALID_REQUEST")["errors"][0]["pointer"], "/filter/tenantId");
    let asked = callers.ask(Some("acme"), "POST", "/v1/operations", pause.clone()).await.expect(202);
    assert_eq!(asked["tenantId"], "acme");
    let carry_out = async || {
        while flowmonkey_engine::chores::operations::tick(&callers.server.engine).await.unwrap().operations
            > 0
        {}
    };
    carry_out().await;
    let status = async |id: &str| {
        let shown = callers.ask(None, "GET", &format!("/v1/executions/{id}"), Value::Null).await.expect(200);
        shown["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status(&own).await, "paused");
    for id in [&foreign, &unowned] {
        assert_eq!(status(id).await, "waiting_for_worker");
    }
    // Who sees all may mean all, or those of one.
    let of_other = json!({ "verb": "pause", "filter": { "tenantId": "other" } });
    callers.ask(None, "POST", "/v1/operations", of_other).await.expect(202);
    carry_out().await;
    assert_eq!((&*status(&foreign).await, &*status(&unowned).await), ("paused", "waiting_for_worker"));
    assert_eq!(callers.items("acme", "/v1/operations").await, 1);
    assert_eq!(callers.items("other", "/v1/operations").await, 0, "it was asked for by somebody else");
}
