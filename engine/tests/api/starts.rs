//! Starting executions.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use flowmonkey_engine::api::BODY_BYTES_MAX;
use serde_json::{Value, json};

use crate::{Server, ask, flow, greet, pointers, request};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_start_answers_where_the_execution_is_and_what_came_of_it() {
    let server = Server::with_flows().await;
    server.post("/v1/flows?tenantId=acme", &flow("greet", greet())).await.expect(201);
    let body = json!({
        "flowId": "greet", "version": "1.0.0", "input": { "name": "Ada" }, "labels": { "team": "x" },
        "metadata": { "by": "me" }, "tenantId": "acme", "timeoutConfig": { "executionTimeoutMs": 60_000 },
        "executionId": "ex_01920000000070008000000000000001",
    });
    let answer = server.post("/v1/executions", &body).await;
    assert_eq!(answer.header("location"), "/v1/executions/ex_01920000000070008000000000000001");
    let started = answer.expect(202);
    let id = "ex_01920000000070008000000000000001";
    assert_eq!(started, json!({ "id": id, "status": "completed", "created": true }));
    let record = server.get(&format!("/v1/executions/{id}")).await.expect(200);
    assert_eq!(record["context"], json!({ "name": "Ada", "greeting": "Ada" }));
    assert_eq!(record["history"].as_array().unwrap().len(), 1);
    for (key, value) in
        [("labels", json!({ "team": "x" })), ("tenantId", json!("acme")), ("flowVersion", json!("1.0.0"))]
    {
        assert_eq!(record[key], value, "{key}");
    }
    server.post("/v1/executions", &body).await.problem(409, "EXECUTION_EXISTS");
}

/// What follows from a commit does not wait for the chores because nobody waits for the answer.
#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_what_it_began() {
    let server = Arc::new(Server::with_flows().await);
    server.record.hold();
    let request = tokio_util::task::TaskTracker::new().spawn({
        let server = server.clone();
        async move { server.start("work", json!({})).await }
    });
    server.record.holds.notified().await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    server.record.release();
    let published = async {
        while server.engine.queue().depths().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, published).await.unwrap();
}

#[tokio::test]
async fn a_start_under_the_path_of_a_flow_takes_the_flow_from_there() {
    let server = Server::with_flows().await;
    let started = server.post("/v1/flows/greet/executions", &json!({ "input": {} })).await.expect(202);
    assert_eq!(started["created"], true);
    let empty = request("POST", "/v1/flows/greet/executions", &[], Body::empty());
    server.send(empty).await.expect(202);
    let problem = server.post("/v1/flows/greet/executions", &json!({ "flowId": "ask" })).await;
    assert_eq!(pointers(&problem.problem(422, "INVALID_REQUEST")), ["/flowId"]);
    server.post("/v1/flows/nobody/executions", &json!({})).await.problem(404, "FLOW_NOT_FOUND");
}

#[tokio::test]
async fn all_that_is_wrong_with_a_start_is_told_at_once() {
    let server = Server::with_flows().await;
    let body = json!({
        "flowId": 7, "input": {}, "labels": { "a": 1 }, "executionId": "seven", "force": "yes",
        "timeoutConfig": { "executionTimeoutMs": -1, "waitTimeoutMs": 0, "more": 1 }, "a/b": 1,
    });
    let problem = server.post("/v1/executions", &body).await.problem(422, "INVALID_REQUEST");
    let mut found = pointers(&problem);
    found.sort_unstable();
    found.dedup();
    assert_eq!(
        found,
        [
            "/a~1b",
            "/executionId",
            "/flowId",
            "/force",
            "/labels/a",
            "/timeoutConfig/executionTimeoutMs",
            "/timeoutConfig/more",
            "/timeoutConfig/waitTimeoutMs",
        ]
    );
    for (body, pointer) in [(json!([]), ""), (json!({}), "/flowId"), (json!({ "flowId": "" }), "/flowId")] {
        let problem = server.post("/v1/executions", &body).await.problem(422, "INVALID_REQUEST");
        assert_eq!(pointers(&problem), [pointer]);
    }
    let list = server.post("/v1/executions", &json!({ "flowId": "greet", "input": [] })).await;
    assert_eq!(pointers(&list.problem(422, "INPUT_INVALID")), ["/input"]);
    server.post("/v1/executions", &json!({ "flowId": "nobody" })).await.problem(404, "FLOW_NOT_FOUND");
    assert_eq!(server.get("/v1/executions").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let server = Server::with_flows().await;
    let at = "/v1/executions";
    let problem =
        server.text(at, "application/json", "{\n  \"flowId\": }").await.problem(400, "INVALID_JSON");
    assert_eq!(problem["errors"][0]["line"], 2);
    let deep = "[".repeat(1_000_000);
    server.text(at, "application/json", &deep).await.problem(400, "INVALID_JSON");
    server.text(at, "text/plain", "{}").await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    server.text(at, "application/json", &large).await.problem(413, "BODY_TOO_LARGE");
}

#[tokio::test]
async fn the_same_key_gives_the_same_execution() {
    let server = Server::with_flows().await;
    let body = |input: Value| json!({ "flowId": "ask", "input": input, "idempotencyKey": "k" });
    let first = server.post("/v1/executions", &body(json!({ "a": 1 }))).await.expect(202);
    let again = server.post("/v1/executions", &body(json!({ "a": 1 }))).await.expect(200);
    let expected = json!({ "id": first["id"], "status": "waiting", "created": false, "inputDiffers": false });
    assert_eq!(again, expected);
    let by_header = json!({ "flowId": "ask", "input": { "a": 2 } });
    let key = [("idempotency-key", "k")];
    let other = server.post_with("/v1/executions", &by_header, &key).await.expect(200);
    assert_eq!((&other["id"], &other["inputDiffers"]), (&first["id"], &json!(true)));
    let both = server.post_with("/v1/executions", &body(json!({})), &[("idempotency-key", "l")]).await;
    assert_eq!(pointers(&both.problem(422, "INVALID_REQUEST")), ["/idempotencyKey"]);
    let long = json!({ "flowId": "ask", "idempotencyKey": "k".repeat(513) });
    server.post("/v1/executions", &long).await.problem(422, "INVALID_IDEMPOTENCY_KEY");
    assert_eq!(server.get("/v1/executions").await.expect(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_flow_can_be_given_with_the_start() {
    let server = Server::new().await;
    let one = json!({ "definition": flow("inline", greet()), "input": { "name": "Ada" } });
    let started = server.post("/v1/executions", &one).await.expect(202);
    assert_eq!(started["status"], "completed");
    let several =
        json!({ "flowId": "second", "definition": [flow("first", greet()), flow("second", ask())] });
    assert_eq!(server.post("/v1/executions", &several).await.expect(202)["status"], "waiting");
    let absent = json!({ "flowId": "third", "definition": [flow("first", greet())] });
    let problem = server.post("/v1/executions", &absent).await.problem(422, "INVALID_REQUEST");
    assert_eq!(pointers(&problem), ["/definition"]);
    let mut bad = flow("bad", greet());
    bad["initialStepId"] = "nowhere".into();
    let bad = json!({ "definition": [flow("first", greet()), bad] });
    let problem = server.post("/v1/executions", &bad).await.problem(422, "INVALID_REQUEST");
    assert_eq!(pointers(&problem), ["/definition/1/initialStepId"]);
    assert_eq!(server.get("/v1/flows").await.expect(200)["items"], json!([]), "nothing was published");
}

#[tokio::test]
async fn drafts_start_only_when_forced() {
    let server = Server::new().await;
    let mut draft = flow("draft", greet());
    draft["status"] = "draft".into();
    server.post("/v1/flows", &draft).await.expect(201);
    let mut start = json!({ "flowId": "draft", "version": "1.0.0" });
    server.post("/v1/executions", &start).await.problem(409, "FLOW_NOT_PUBLISHED");
    start["force"] = true.into();
    server.post("/v1/executions", &start).await.expect(202);
}

#[tokio::test(start_paused = true)]
async fn who_prefers_to_wait_gets_the_record_if_it_ends_in_time() {
    let server = Server::with_flows().await;
    let ended = json!({ "flowId": "greet", "input": { "name": "Ada" } });
    let answer = server.post_with("/v1/executions", &ended, &[("prefer", "respond-async, wait=10")]).await;
    assert_eq!(answer.header("preference-applied"), "wait=10");
    let record = answer.expect(200);
    assert_eq!((&record["status"], &record["context"]["greeting"]), (&json!("completed"), &json!("Ada")));
    let waiting = json!({ "flowId": "ask" });
    let began = tokio::time::Instant::now();
    server.post_with("/v1/executions", &waiting, &[("prefer", "wait=10")]).await.expect(202);
    assert_eq!(began.elapsed().as_secs(), 10);
    let began = tokio::time::Instant::now();
    server.post_with("/v1/executions", &waiting, &[("prefer", "wait=100000")]).await.expect(202);
    assert_eq!(began.elapsed().as_secs(), 60);
}
