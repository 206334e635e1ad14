//! Searching executions: lists and counts by each parameter.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{Server, flow};

async fn found(server: &Server, query: &str) -> BTreeSet<String> {
    let page = server.get(&format!("/v1/executions?{query}")).await.expect(200);
    let items = page["items"].as_array().unwrap();
    let count = server.get(&format!("/v1/executions:count?{query}")).await.expect(200);
    assert_eq!(count, json!({ "count": items.len(), "exact": true }), "{query}");
    items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn started(server: &Server, body: Value) -> String {
    server.post("/v1/executions", &body).await.expect(202)["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn executions_are_found_by_each_parameter() {
    let server = Server::with_flows().await;
    server.post("/v1/flows?tenantId=acme", &flow("ask", crate::ask())).await.expect(201);
    let ask =
        started(&server, json!({ "flowId": "ask", "tenantId": "acme", "labels": { "team": "red" } })).await;
    let other =
        started(&server, json!({ "flowId": "ask", "labels": { "team": "red", "shop": "north" } })).await;
    let ended = server.start("greet", json!({})).await;
    let waiting = server.get(&format!("/v1/executions/{ask}")).await.expect(200);
    let text = |name: &str| waiting[name].as_str().unwrap().to_owned();
    let (created, step, reason) = (text("createdAt"), text("currentStepId"), text("waitingReason"));
    let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<BTreeSet<_>>();
    let all = set(&[&ask, &other, &ended]);
    let version = text("flowVersion");
    assert_eq!(found(&server, &format!("flowId=ask&version={version}")).await, set(&[&ask, &other]));
    assert_eq!(found(&server, "flowId=ask&version=9.9.9").await, set(&[]));
    assert_eq!(found(&server, "tenantId=acme").await, set(&[&ask]));
    assert_eq!(found(&server, "label.team=red&label.shop=north").await, set(&[&other]));
    assert_eq!(found(&server, &format!("currentStepId={step}&status=waiting")).await, set(&[&ask, &other]));
    assert_eq!(found(&server, "errorCode=STEP_FAILED").await, set(&[]));
    let beginning = reason.split(' ').next().unwrap();
    assert_eq!(found(&server, &format!("waitingReason={beginning}")).await, set(&[&ask, &other]));
    assert_eq!(found(&server, &format!("createdAfter={created}")).await, all);
    assert_eq!(found(&server, &format!("createdBefore={created}")).await, set(&[]));
    assert_eq!(found(&server, "updatedBefore=2000-01-01T00:00:00Z").await, set(&[]));
    assert_eq!(found(&server, "endedAfter=2000-01-01T00:00:00Z").await, set(&[&ended]));
    assert_eq!(
        found(&server, "createdAfter=2000-01-01T00:00:00Z&createdBefore=2100-01-01T00:00:00Z").await,
        all
    );
    assert_eq!(found(&server, &format!("id={ended}")).await, set(&[&ended]));
    assert_eq!(found(&server, &format!("id={}", &ended[..5])).await, all);
    for query in [
        "createdAfter=yesterday",
        "endedBefore=5",
        "id=7x",
        "label.a=1&label.a=2",
        "version=1&version=2",
        "by=flow",
        "colour=red",
    ] {
        server.get(&format!("/v1/executions?{query}")).await.problem(422, "INVALID_PARAMETER");
        server.get(&format!("/v1/executions:count?{query}")).await.problem(422, "INVALID_PARAMETER");
    }
    for query in ["limit=5", &format!("cursor={ended}")] {
        server.get(&format!("/v1/executions:count?{query}")).await.problem(422, "INVALID_PARAMETER");
    }
}

#[tokio::test]
async fn counts_are_told_by_status() {
    let server = Server::with_flows().await;
    for flow in ["ask", "ask", "greet"] {
        server.start(flow, json!({})).await;
    }
    let counts =
        async |query: &str| server.get(&format!("/v1/executions:count?by=status{query}")).await.expect(200);
    let exactly = |count: u64| json!({ "count": count, "exact": true });
    assert_eq!(counts("").await, json!({ "counts": { "waiting": exactly(2), "completed": exactly(1) } }));
    assert_eq!(counts("&flowId=ask").await, json!({ "counts": { "waiting": exactly(2) } }));
    assert_eq!(counts("&status=completed,failed").await, json!({ "counts": { "completed": exactly(1) } }));
    assert_eq!(counts("&flowId=none").await, json!({ "counts": {} }));
}

#[tokio::test]
async fn labels_past_their_limits_are_refused() {
    let server = Server::with_flows().await;
    let many: serde_json::Map<String, Value> = (0..21).map(|n| (format!("l{n}"), "".into())).collect();
    for labels in [Value::Object(many), json!({ "": "x" }), json!({ "x": "y".repeat(513) })] {
        let answer = server.post("/v1/executions", &json!({ "flowId": "ask", "labels": labels })).await;
        answer.problem(422, "INVALID_LABEL");
    }
    assert!(found(&server, "").await.is_empty());
}
