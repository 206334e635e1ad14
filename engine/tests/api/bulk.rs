//! Operations on many executions.

use flowmonkey_engine::chores::operations::tick;
use serde_json::{Value, json};

use crate::{Server, pointers};

/// Carries out all that was asked for.
async fn carry_out(server: &Server) {
    while tick(&server.engine).await.unwrap().operations > 0 {}
}

async fn ask(server: &Server, body: Value) -> Value {
    let answer = server.post("/v1/operations", &body).await;
    let location = answer.header("location").to_owned();
    let operation = answer.expect(202);
    assert_eq!(location, format!("/v1/operations/{}", operation["id"].as_str().unwrap()));
    assert_eq!(operation["state"], "running");
    carry_out(server).await;
    server.get(&location).await.expect(200)
}

async fn status(server: &Server, id: &str) -> Value {
    server.get(&format!("/v1/executions/{id}")).await.expect(200)["status"].clone()
}

#[tokio::test]
async fn an_operation_is_tried_out_and_carried_out() {
    let server = Server::with_flows().await;
    let mut asks = Vec::new();
    for _ in 0..3 {
        asks.push(server.start("ask", json!({})).await);
    }
    let other = server.start("work", json!({})).await;
    let body = json!({ "verb": "cancel", "filter": { "flowId": "ask" }, "reason": "moved" });
    let mut dry = body.clone();
    dry["dryRun"] = json!(true);
    let tried = server.post("/v1/operations", &dry).await.expect(200);
    // By id: within a millisecond any may be the newer one.
    asks.sort_unstable_by(|left, right| right.cmp(left));
    assert_eq!(tried["matching"], json!({ "count": 3, "exact": true }));
    assert_eq!(tried["ids"], json!(asks));
    assert_eq!(server.get("/v1/operations").await.expect(200)["items"], json!([]));

    // One refuses, as it has ended.
    server.post(&format!("/v1/executions/{}:terminate", asks[1]), &json!({})).await.expect(200);
    let ended = ask(&server, body.clone()).await;
    assert_eq!(
        (&ended["state"], &ended["done"], &ended["refused"], &ended["by"], &ended["filter"]),
        (&json!("completed"), &json!(2), &json!(1), &json!("anonymous"), &body["filter"])
    );
    assert_eq!(status(&server, &asks[0]).await, "cancelled");
    assert_eq!(status(&server, &other).await, "waiting_for_worker");
    let path = format!("/v1/operations/{}", ended["id"].as_str().unwrap());
    let first = server.get(&format!("{path}/items?limit=2")).await.expect(200);
    assert_eq!(
        first["items"],
        json!([
            { "executionId": asks[0], "done": true, "code": null },
            { "executionId": asks[1], "done": false, "code": "EXECUTION_FINISHED" },
        ])
    );
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = server.get(&format!("{path}/items?limit=2&cursor={cursor}")).await.expect(200);
    assert_eq!((&rest["items"][0]["executionId"], &rest["nextCursor"]), (&json!(asks[2]), &Value::Null));
    server.post(&format!("{path}:cancel"), &json!({})).await.problem(409, "OPERATION_ENDED");
    server.post(&format!("{path}:praise"), &json!({})).await.problem(404, "VERB_NOT_FOUND");
    for path in ["/v1/operations/op_1", "/v1/operations/op_1/items"] {
        server.get(path).await.problem(404, "OPERATION_NOT_FOUND");
    }
    server.post("/v1/operations/op_1:cancel", &json!({})).await.problem(404, "OPERATION_NOT_FOUND");
}

#[tokio::test]
async fn each_verb_does_what_it_does_to_one() {
    let server = Server::with_flows().await;
    let id = server.start("ask", json!({})).await;
    let filter = json!({ "id": id });
    for (verb, after) in [("pause", "paused"), ("resume", "waiting"), ("terminate", "cancelled")] {
        let ended = ask(&server, json!({ "verb": verb, "filter": filter })).await;
        assert_eq!((&ended["done"], &ended["refused"]), (&json!(1), &json!(0)), "{verb}");
        assert_eq!(status(&server, &id).await, after);
    }
    for (verb, code) in [("retry", "NOT_RETRYABLE"), ("replay", "TASK_NOT_PARKED")] {
        let ended = ask(&server, json!({ "verb": verb, "filter": filter })).await;
        let path = format!("/v1/operations/{}/items", ended["id"].as_str().unwrap());
        let items = server.get(&path).await.expect(200);
        assert_eq!(items["items"], json!([{ "executionId": id, "done": false, "code": code }]));
    }
    let live = server.start("work", json!({})).await;
    let ended =
        ask(&server, json!({ "verb": "delete", "filter": { "createdAfter": "2000-01-01T00:00:00Z" } })).await;
    assert_eq!((&ended["done"], &ended["refused"]), (&json!(1), &json!(1)));
    server.get(&format!("/v1/executions/{id}")).await.problem(404, "EXECUTION_NOT_FOUND");
    assert_eq!(status(&server, &live).await, "waiting_for_worker");
}

#[tokio::test]
async fn parked_tasks_are_replayed_together() {
    let server = Server::new().await;
    server.post("/v1/flows", &crate::flow("frail", crate::control::fragile())).await.expect(201);
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let id = server.start("frail", json!({})).await;
        tasks.push(crate::control::fail(&server, &id, 1, "A").await);
    }
    let ended =
        ask(&server, json!({ "verb": "replay", "filter": { "status": "incident" }, "reason": "mended" }))
            .await;
    assert_eq!(ended["done"], 2);
    for task in tasks {
        let shown = server.get(&format!("/v1/failed-tasks/{task}")).await.expect(200);
        assert_eq!((&shown["state"], &shown["settled"]["reason"]), (&json!("replayed"), &json!("mended")));
        assert_eq!(shown["executionStatus"], "waiting_for_worker");
    }
}

#[tokio::test]
async fn a_filter_finds_what_a_list_finds() {
    let server = Server::with_flows().await;
    server.post("/v1/flows?tenantId=acme", &crate::flow("ask", crate::ask())).await.expect(201);
    let started = json!({ "flowId": "ask", "tenantId": "acme", "labels": { "team": "red" } });
    let ask = server.post("/v1/executions", &started).await.expect(202)["id"].clone();
    let ended = server.start("greet", json!({})).await;
    server.start("work", json!({})).await;
    let shown = server.get(&format!("/v1/executions/{}", ask.as_str().unwrap())).await.expect(200);
    let (step, created) = (&shown["currentStepId"], &shown["createdAt"]);
    let reason = &shown["waitingReason"];
    for (name, value) in [
        ("status", json!("waiting,completed")),
        ("flowId", json!("ask")),
        ("version", json!("1.0.0")),
        ("tenantId", json!("acme")),
        ("createdAfter", created.clone()),
        ("createdBefore", json!("2100-01-01T00:00:00Z")),
        ("updatedAfter", created.clone()),
        ("updatedBefore", json!("2000-01-01T00:00:00Z")),
        ("endedAfter", json!("2000-01-01T00:00:00Z")),
        ("endedBefore", json!("2000-01-01T00:00:00Z")),
        ("errorCode", json!("STEP_FAILED")),
        ("currentStepId", step.clone()),
        ("waitingReason", reason.clone()),
        ("id", json!(ended)),
        ("parent", json!(ended)),
    ] {
        let text = value.as_str().unwrap();
        let query: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let listed = server.get(&format!("/v1/executions?{name}={query}")).await.expect(200);
        let body = json!({ "verb": "cancel", "dryRun": true, "filter": { name: value } });
        let tried = server.post("/v1/operations", &body).await.expect(200);
        let ids: Vec<&Value> = listed["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
        assert_eq!(tried["ids"], json!(ids), "{name}");
        assert_eq!(tried["matching"]["count"], ids.len(), "{name}");
    }
    let labels = json!({ "verb": "cancel", "dryRun": true, "filter": { "labels": { "team": "red" }, "children": true } });
    assert_eq!(server.post("/v1/operations", &labels).await.expect(200)["ids"], json!([ask]));
}

#[tokio::test]
async fn an_operation_that_makes_no_sense_is_refused_as_a_whole() {
    let server = Server::new().await;
    let wrong = json!({
        "verb": "praise", "filter": { "status": "gone", "colour": "red" }, "max": 0, "reason": 5, "dryRun": "yes",
    });
    let problem = server.post("/v1/operations", &wrong).await.problem(422, "INVALID_REQUEST");
    assert_eq!(
        pointers(&problem),
        ["/verb", "/reason", "/max", "/dryRun", "/filter/status", "/filter/colour"]
    );
    for filter in [json!({}), json!({ "flowId": null })] {
        let body = json!({ "verb": "cancel", "filter": filter });
        let problem = server.post("/v1/operations", &body).await.problem(422, "INVALID_REQUEST");
        assert_eq!(pointers(&problem), ["/filter"]);
    }
    let problem = server.post("/v1/operations", &json!({})).await.problem(422, "INVALID_REQUEST");
    assert_eq!(pointers(&problem), ["/verb", "/filter"]);
    let body = json!({ "verb": "pause", "filter": { "flowId": "a" } });
    for _ in 0..flowmonkey_engine::bulk::OPERATIONS_OPEN_MAX {
        server.post("/v1/operations", &body).await.expect(202);
    }
    server.post("/v1/operations", &body).await.problem(429, "TOO_MANY_OPERATIONS");
    let page = server.get("/v1/operations?limit=60").await.expect(200);
    let cursor = page["nextCursor"].as_str().unwrap();
    let rest = server.get(&format!("/v1/operations?limit=60&cursor={cursor}")).await.expect(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["nextCursor"]), (40, &Value::Null));
    let newest = page["items"][0]["id"].as_str().unwrap();
    let stopped = server.post(&format!("/v1/operations/{newest}:cancel"), &json!({})).await.expect(200);
    assert_eq!(stopped["state"], "cancelling");
    let again = server.post(&format!("/v1/operations/{newest}:cancel"), &json!({})).await.expect(200);
    assert_eq!(again["state"], "cancelling");
    carry_out(&server).await;
    let ended = server.get(&format!("/v1/operations/{newest}")).await.expect(200);
    assert_eq!(ended["state"], "cancelled");
}
