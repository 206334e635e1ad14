//! Publishing and reading flows.

use axum::body::Body;
use flowmonkey_engine::chores::pruner;
use flowmonkey_engine::store::{ControlStore as _, FlowRetention};
use serde_json::{Value, json};

use crate::{Server, flow, greet, pointers, request, work};

#[tokio::test]
async fn a_version_is_published_once_and_never_replaced() {
    let server = Server::new().await;
    let answer = server.post("/v1/flows", &flow("greet", greet())).await;
    assert_eq!(answer.header("location"), "/v1/flows/greet?version=1.0.0");
    let created = answer.expect(201);
    assert_eq!((&created["id"], &created["version"]), (&json!("greet"), &json!("1.0.0")));
    assert_eq!(created["hash"].as_str().unwrap().len(), 64);
    assert_eq!(server.post("/v1/flows", &flow("greet", greet())).await.expect(200)["hash"], created["hash"]);
    server.post("/v1/flows", &flow("greet", work())).await.problem(409, "FLOW_VERSION_EXISTS");

    let listed = server.get("/v1/flows").await.expect(200);
    assert_eq!(
        listed,
        json!({ "items": [{ "id": "greet", "version": "1.0.0", "hash": created["hash"] }], "nextCursor": null })
    );
    let shown = server.get("/v1/flows/greet").await.expect(200);
    assert_eq!(shown["definition"]["steps"], greet());
    assert_eq!((&shown["status"], &shown["versions"]), (&json!("published"), &json!(["1.0.0"])));
    assert_eq!(server.get("/v1/flows/greet?version=1.0.0").await.expect(200), shown);
    server.get("/v1/flows/greet?version=2.0.0").await.problem(404, "FLOW_NOT_FOUND");
    server.get("/v1/flows/nobody").await.problem(404, "FLOW_NOT_FOUND");
}

#[tokio::test]
async fn flows_are_read_as_json_or_yaml_by_type_or_by_look() {
    let server = Server::new().await;
    let yaml =
        |id: &str| format!("id: {id}\nversion: 1.0.0\ninitialStepId: a\nsteps:\n  a: {{ type: echo }}\n");
    for (id, content_type) in
        [("a", "application/yaml"), ("b", "text/yaml; charset=utf-8"), ("c", "text/plain")]
    {
        server.text("/v1/flows", content_type, &yaml(id)).await.expect(201);
    }
    let json = flow("d", greet()).to_string();
    let bare = request("POST", "/v1/flows", &[], Body::from(json));
    server.send(bare).await.expect(201);
    server.text("/v1/flows", "image/png", &yaml("e")).await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    let bytes = request("POST", "/v1/flows", &[], Body::from(vec![0xff, 0xfe]));
    server.send(bytes).await.problem(400, "INVALID_TEXT");
}

#[tokio::test]
async fn all_issues_of_a_flow_are_told_with_their_places() {
    let server = Server::new().await;
    let text = "id: bad\nversion: 1.0.0\ninitialStepId: nowhere\nsteps:\n  a:\n    type: echo\n    transitions: { onSuccess: gone }\n";
    let problem = server.text("/v1/flows", "application/yaml", text).await.problem(422, "INVALID_FLOW");
    let errors = problem["errors"].as_array().unwrap();
    assert!(errors.len() >= 2, "{problem}");
    let first = errors.iter().find(|error| error["pointer"] == "/initialStepId").unwrap();
    assert_eq!((&first["line"], &first["severity"]), (&json!(3), &json!("error")));
    assert!(
        first["column"].as_u64().unwrap() > 1 && first["message"].is_string() && first["rule"].is_string()
    );
    assert!(pointers(&problem).contains(&"/steps/a/transitions/onSuccess"), "{problem}");

    let two = "id: a\nversion: 1.0.0\ninitialStepId: s\nsteps: { s: { type: echo } }\n---\nid: b\nversion: 1.0.0\ninitialStepId: s\nsteps: { s: { type: echo } }\n";
    server.text("/v1/flows", "application/yaml", two).await.problem(422, "INVALID_FLOW");
    assert_eq!(server.get("/v1/flows").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn validating_stores_nothing() {
    let server = Server::new().await;
    let good = server.post("/v1/flows:validate", &flow("greet", greet())).await.expect(200);
    assert_eq!((&good["valid"], &good["flows"][0]["id"]), (&json!(true), &json!("greet")));
    let bad = server.post("/v1/flows:validate", &json!({ "id": "x" })).await.expect(200);
    assert_eq!((&bad["valid"], &bad["flows"]), (&json!(false), &json!([])));
    assert!(bad["issues"].as_array().unwrap().len() >= 3, "{bad}");
    assert_eq!(server.get("/v1/flows").await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_flow_larger_than_the_limit_is_refused_before_it_is_read() {
    let server = Server::new().await;
    let large = "#".repeat(flowmonkey_engine::api::FLOW_BODY_BYTES_MAX + 1);
    server.text("/v1/flows", "application/yaml", &large).await.problem(413, "BODY_TOO_LARGE");
}

#[tokio::test]
async fn a_flow_is_shown_as_a_graph() {
    let server = Server::with_flows().await;
    let drawn = server.get("/v1/flows/ask/graph").await.expect(200);
    let ids: Vec<&str> =
        drawn["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["/approve", "/paid"]);
    assert_eq!(
        drawn["nodes"][0],
        json!({ "id": "/approve", "stepId": "approve", "type": "approval", "kind": "wait", "initial": true,
            "conditional": false })
    );
    assert_eq!(
        drawn["edges"],
        json!([
            { "from": "/approve", "to": "/paid", "kind": "success" },
            { "from": "/paid", "to": null, "kind": "success" },
        ])
    );
    assert_eq!((&drawn["id"], &drawn["version"]), (&json!("ask"), &json!("1.0.0")));
    let text = server.raw("/v1/flows/ask/graph?version=1.0.0&format=mermaid").await;
    assert!(text.starts_with("flowchart TD\n"), "{text}");
    server.get("/v1/flows/ask/graph?format=svg").await.problem(422, "INVALID_PARAMETER");
    server.get("/v1/flows/ask/graph?version=9.0.0").await.problem(404, "FLOW_NOT_FOUND");
    server.get("/v1/flows/none/graph").await.problem(404, "FLOW_NOT_FOUND");
}

#[tokio::test]
async fn a_flow_says_how_long_its_executions_are_kept() {
    let server = Server::with_flows().await;
    let send = async |method: &str, body: Value| {
        let headers = [("content-type", "application/json")];
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        server.send(request(method, "/v1/flows/greet/retention", &headers, body)).await
    };
    let none = send("GET", json!(null)).await.expect(200);
    let expected = json!({ "flowId": "greet", "tenantId": null, "completedDays": null, "failedDays": null,
        "defaultDays": 30.0, "setAt": null, "setBy": null });
    assert_eq!(none, expected);
    let set = send("PUT", json!({ "completedDays": 1, "failedDays": 400 })).await.expect(200);
    assert_eq!(
        (&set["completedDays"], &set["failedDays"], &set["setBy"]),
        (&json!(1), &json!(400), &json!("anonymous"))
    );
    assert_eq!(send("GET", json!(null)).await.expect(200), set);
    let replaced = send("PUT", json!({ "completedDays": 2 })).await.expect(200);
    assert_eq!((&replaced["completedDays"], &replaced["failedDays"]), (&json!(2), &json!(null)));
    for (body, pointer) in [
        (json!({}), "/completedDays"),
        (json!({ "completedDays": 0 }), "/completedDays"),
        (json!({ "failedDays": 36_501 }), "/failedDays"),
        (json!({ "failedDays": 1.5 }), "/failedDays"),
        (json!({ "failedDays": 1, "keys": 1 }), "/keys"),
    ] {
        let problem = send("PUT", body.clone()).await.problem(422, "INVALID_REQUEST");
        assert_eq!(pointers(&problem), [pointer], "{body}");
    }
    assert_eq!(send("DELETE", json!(null)).await.expect(200), expected);
    server.get("/v1/flows/none/retention").await.problem(404, "FLOW_NOT_FOUND");

    // The pruner keeps to it: what ended a day ago is not there any more.
    let id = server.start("greet", json!({})).await;
    let other = server.start("greet", json!({})).await;
    pruner::tick(&server.engine).await.unwrap();
    server.get(&format!("/v1/executions/{other}")).await.expect(200);
    let now = server.engine.now();
    let at_once = FlowRetention {
        tenant: None,
        flow_id: "greet".into(),
        completed_ms: Some(0),
        failed_ms: None,
        at: now,
        by: "me".into(),
    };
    server.record.set_flow_retention(&at_once).await.unwrap();
    // Clocks have milliseconds.
    while server.engine.now() == now {
        tokio::task::yield_now().await;
    }
    assert_eq!(pruner::tick(&server.engine).await.unwrap().rows, 2);
    server.get(&format!("/v1/executions/{id}")).await.problem(404, "EXECUTION_NOT_FOUND");
}
