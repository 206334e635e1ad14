//! Reading executions, and telling them things.

use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::chores;
use serde_json::{Value, json};

use crate::{Server, pointers};

const UNKNOWN: &str = "ex_0192000000007000800000000000ffff";

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let server = Server::with_flows().await;
    let mut ids = Vec::new();
    for team in ["red", "blue", "red"] {
        let body = json!({ "flowId": "ask", "labels": { "team": team } });
        ids.push(server.post("/v1/executions", &body).await.expect(202)["id"].clone());
    }
    let ended = server.start("greet", json!({})).await;
    let list = async |query: &str| {
        let page = server.get(&format!("/v1/executions{query}")).await.expect(200);
        let items = page["items"].as_array().unwrap().iter().map(|item| item["id"].clone());
        (
            items
                .collect::<Vec<Value>>()
                .into_iter()
                .map(|id| id.as_str().unwrap().to_owned())
                .collect::<std::collections::BTreeSet<_>>(),
            page["nextCursor"].clone(),
        )
    };
    let all: std::collections::BTreeSet<String> =
        ids.iter().map(|id| id.as_str().unwrap().to_owned()).chain([ended.clone()]).collect();
    assert_eq!(list("").await.0, all);
    assert_eq!(list("?status=completed").await.0, [ended.clone()].into());
    assert_eq!(list("?status=completed,failed&status=waiting").await.0, all);
    assert_eq!(list("?label.team=blue").await.0, [ids[1].as_str().unwrap().to_owned()].into());
    assert_eq!(list("?flowId=ask").await.0.len(), 3);
    let (first, cursor) = list("?limit=3").await;
    let (rest, none) = list(&format!("?limit=3&cursor={}", cursor.as_str().unwrap())).await;
    assert_eq!((rest.len(), none), (1, Value::Null));
    assert_eq!(first.union(&rest).cloned().collect::<std::collections::BTreeSet<_>>(), all);
    for query in [
        "?status=done",
        "?limit=0",
        "?limit=501",
        "?limit=x",
        "?cursor=7",
        "?parent=x",
        "?colour=red",
        "?flowId=a&flowId=b",
    ] {
        server.get(&format!("/v1/executions{query}")).await.problem(422, "INVALID_PARAMETER");
    }
}

#[tokio::test]
async fn what_does_not_exist_is_not_found_wherever_it_is_asked_for() {
    let server = Server::with_flows().await;
    for id in [UNKNOWN, "seven", "ex_"] {
        for rest in ["", ":explain", "/history", "/children", "/context"] {
            server.get(&format!("/v1/executions/{id}{rest}")).await.problem(404, "EXECUTION_NOT_FOUND");
        }
        for (verb, body) in [
            ("cancel", json!({})),
            ("terminate", json!({})),
            ("pause", json!({})),
            ("resume", json!({})),
            ("retry", json!({})),
            ("signal", json!({ "name": "x" })),
            ("rerun", json!({ "fromStep": "x" })),
        ] {
            let answer = server.post(&format!("/v1/executions/{id}:{verb}"), &body).await;
            answer.problem(404, "EXECUTION_NOT_FOUND");
        }
    }
    let id = server.start("ask", json!({})).await;
    server.post(&format!("/v1/executions/{id}:explode"), &json!({})).await.problem(404, "VERB_NOT_FOUND");
    server.get(&format!("/v1/executions/{id}:cancel")).await.problem(404, "VERB_NOT_FOUND");
    let answer = server.post(&format!("/v1/executions/{id}"), &json!({})).await;
    assert_eq!(answer.header("allow"), "GET, HEAD, DELETE");
    answer.problem(405, "METHOD_NOT_ALLOWED");
    server.get("/v2/executions").await.problem(404, "ROUTE_NOT_FOUND");
    let answer =
        server.send(crate::request("DELETE", "/v1/executions", &[], axum::body::Body::empty())).await;
    assert!(answer.header("allow").contains("POST"));
    answer.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn verbs_refuse_what_they_do_not_know() {
    let server = Server::with_flows().await;
    let id = server.start("ask", json!({})).await;
    for (verb, body, pointer) in [
        ("cancel", json!({ "why": "x" }), "/why"),
        ("cancel", json!({ "reason": 1 }), "/reason"),
        ("terminate", json!("x"), ""),
        ("pause", json!({ "reason": [] }), "/reason"),
        ("resume", json!({ "data": 1 }), "/data"),
        ("retry", json!({ "x": 1 }), "/x"),
        ("signal", json!({ "data": 1 }), "/name"),
        ("signal", json!({ "name": "" }), "/name"),
        ("signal", json!({ "name": "x".repeat(513) }), "/name"),
        ("signal", json!({ "name": "x", "id": 5 }), "/id"),
        ("rerun", json!({}), "/fromStep"),
    ] {
        let answer = server.post(&format!("/v1/executions/{id}:{verb}"), &body).await;
        assert_eq!(pointers(&answer.problem(422, "INVALID_REQUEST")), [pointer], "{verb} {body}");
    }
    let record = server.get(&format!("/v1/executions/{id}")).await.expect(200);
    assert_eq!(record["status"], "waiting", "nothing has changed");
}

#[tokio::test]
async fn verbs_move_an_execution_and_say_no_when_they_cannot() {
    let server = Server::with_flows().await;
    let id = server.start("ask", json!({ "a": 1 })).await;
    let tell =
        async |verb: &str, body: Value| server.post(&format!("/v1/executions/{id}:{verb}"), &body).await;
    tell("resume", json!({})).await.problem(409, "NOT_PAUSED");
    let paused = tell("pause", json!({ "reason": "lunch" })).await.expect(200);
    assert_eq!(
        (&paused["id"], &paused["status"], &paused["waitingReason"]),
        (&json!(id), &json!("paused"), &json!("lunch"))
    );
    tell("pause", json!({})).await.problem(409, "ALREADY_PAUSED");
    assert_eq!(tell("resume", json!({})).await.expect(200)["status"], "waiting");
    tell("retry", json!({})).await.problem(409, "NOT_RETRYABLE");
    let problem = tell("signal", json!({ "name": "answer", "data": { "approved": 1 } })).await;
    assert_eq!(pointers(&problem.problem(422, "INVALID_ANSWER")), ["/data"]);
    let answer = json!({ "name": "answer", "data": { "approved": true }, "id": "s1" });
    assert_eq!(tell("signal", answer.clone()).await.expect(200)["status"], "waiting");
    tell("signal", answer).await.problem(409, "DUPLICATE_SIGNAL");
    let ended = tell("signal", json!({ "name": "paid", "data": 5 })).await.expect(200);
    assert_eq!(ended["status"], "completed");
    for verb in ["cancel", "terminate", "pause"] {
        tell(verb, json!({})).await.problem(409, "EXECUTION_FINISHED");
    }
    let context = server.get(&format!("/v1/executions/{id}/context")).await.expect(200);
    assert_eq!(context, json!({ "a": 1, "answer": { "approved": true }, "payment": 5 }));

    let rerun = tell("rerun", json!({ "fromStep": "paid" })).await;
    let location = rerun.header("location").to_owned();
    let rerun = rerun.expect(200);
    assert_eq!((&rerun["rerunOf"], &rerun["created"]), (&json!(id), &json!(true)));
    let record = server.get(&location).await.expect(200);
    assert_eq!(record["lineage"], json!({ "rerunOf": id, "fromStep": "paid" }));
    assert_eq!((&record["currentStepId"], &record["status"]), (&json!("paid"), &json!("waiting")));
    let problem = tell("rerun", json!({ "fromStep": "nowhere" })).await.problem(422, "STEP_NOT_FOUND");
    assert_eq!(pointers(&problem), ["/fromStep"]);
}

#[tokio::test]
async fn cancel_and_terminate_end_an_execution() {
    let server = Server::with_flows().await;
    for verb in ["cancel", "terminate"] {
        let id = server.start("ask", json!({})).await;
        let body = json!({ "reason": "no longer wanted" });
        let ended = server.post(&format!("/v1/executions/{id}:{verb}"), &body).await.expect(200);
        assert_eq!(ended["status"], "cancelled");
        let record = server.get(&format!("/v1/executions/{id}")).await.expect(200);
        assert_eq!(record["cancellation"]["reason"], "no longer wanted");
    }
}

#[tokio::test]
async fn a_resume_token_works_once() {
    let server = Server::with_flows().await;
    let id = server.start("ask", json!({})).await;
    let execution: ExecutionId = id.parse().unwrap();
    let token = server.engine.tokens().token(execution, "approve", 1);
    let path = format!("/v1/resume/{token}");
    server.text(&path, "application/json", "{").await.problem(400, "INVALID_JSON");
    server.post(&path, &json!({ "approved": "maybe" })).await.problem(422, "INVALID_ANSWER");
    let resumed = server.post(&path, &json!({ "approved": true })).await.expect(200);
    assert_eq!((&resumed["id"], &resumed["status"]), (&json!(id), &json!("waiting")));
    server.post(&path, &json!({ "approved": true })).await.problem(409, "RESUME_TOKEN_USED");

    let last = format!("/v1/resume/{}", server.engine.tokens().token(execution, "paid", 1));
    let empty = crate::request("POST", &last, &[], axum::body::Body::empty());
    assert_eq!(server.send(empty).await.expect(200)["status"], "completed");
    server.post(&last, &json!(1)).await.problem(409, "EXECUTION_FINISHED");

    for bad in [format!("{token}0"), token.replace(".1.", ".2."), "x".into()] {
        server.post(&format!("/v1/resume/{bad}"), &json!({})).await.problem(404, "RESUME_TOKEN_NOT_FOUND");
    }
    server.get(&path).await.problem(405, "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn a_resume_before_the_wait_is_kept_for_it() {
    let server = Server::with_flows().await;
    let id = server.start("ask", json!({})).await;
    let early = server.engine.tokens().token(id.parse().unwrap(), "paid", 1);
    let kept = server.post(&format!("/v1/resume/{early}"), &json!(7)).await.expect(200);
    assert_eq!(kept["status"], "waiting");
    let answer = json!({ "name": "answer", "data": { "approved": true } });
    let ended = server.post(&format!("/v1/executions/{id}:signal"), &answer).await.expect(200);
    assert_eq!(ended["status"], "completed");
    let context = server.get(&format!("/v1/executions/{id}/context")).await.expect(200);
    assert_eq!(context["payment"], 7);
}

#[tokio::test]
async fn history_and_children_are_paged() {
    let server = Server::with_flows().await;
    let id = server.start("greet", json!({ "name": "Ada" })).await;
    let all = server.get(&format!("/v1/executions/{id}/history")).await.expect(200);
    let events = all["items"].as_array().unwrap();
    assert_eq!((&events[0]["event"]["type"], &all["nextAfter"]), (&json!("created"), &Value::Null));
    assert_eq!(events.last().unwrap()["event"]["type"], "completed");
    let mut paged = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let path = format!("/v1/executions/{id}/history?limit=2&after={after}");
        let page = server.get(&path).await.expect(200);
        paged.extend(page["items"].as_array().unwrap().clone());
        after = page["nextAfter"].clone();
    }
    assert_eq!(&paged, events);
    let none = server.get(&format!("/v1/executions/{id}/children")).await.expect(200);
    assert_eq!(none, json!({ "items": [], "nextCursor": null }));
    server.get(&format!("/v1/executions/{id}/history?after=-1")).await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn explain_names_what_an_execution_waits_for() {
    let server = Server::with_flows().await;
    let explain = async |id: &str| server.get(&format!("/v1/executions/{id}:explain")).await.expect(200);
    let id = server.start("ask", json!({})).await;
    let approval = explain(&id).await;
    assert_eq!(
        (&approval["status"], &approval["liveCause"]["kind"]),
        (&json!("waiting"), &json!("approval"))
    );
    assert_eq!((&approval["liveCause"]["signal"], &approval["queue"]), (&json!("answer"), &Value::Null));
    server.post(&format!("/v1/executions/{id}:pause"), &json!({})).await.expect(200);
    assert_eq!(explain(&id).await["liveCause"]["kind"], "paused");

    let id = server.start("work", json!({})).await;
    let task = explain(&id).await;
    assert_eq!((&task["status"], &task["liveCause"]["kind"]), (&json!("waiting_for_worker"), &json!("task")));
    assert_eq!((&task["liveCause"]["pool"], &task["liveCause"]["attempt"]), (&json!("toil"), &json!(1)));
    assert_eq!((&task["queue"]["present"], &task["queue"]["workers"]), (&json!(true), &json!(0)));
    assert_eq!(task["queue"]["ready"], json!({ "high": 0, "normal": 1, "low": 0 }));

    let id = server.start("greet", json!({})).await;
    assert_eq!(explain(&id).await["liveCause"], json!({ "kind": "ended", "error": null }));
    server.get(&format!("/v1/executions/{id}:explain?x=1")).await.problem(422, "INVALID_PARAMETER");
}

#[tokio::test]
async fn a_published_event_reaches_who_waits_for_it_once() {
    let server = Server::with_flows().await;
    let id = server.start("listen", json!({})).await;
    let event = json!({ "name": "rain", "data": { "mm": 3 }, "id": "e1" });
    let published = server.post("/v1/events", &event).await.expect(202);
    assert_eq!(published, json!({ "id": "e1", "created": true }));
    assert_eq!(server.post("/v1/events", &event).await.expect(202)["created"], false);
    chores::events::tick(&server.engine).await.unwrap();
    let context = server.get(&format!("/v1/executions/{id}/context")).await.expect(200);
    assert_eq!(context["weather"], json!({ "mm": 3 }));
    let problem = server.post("/v1/events", &json!({ "data": 1, "at": 2, "id": "" })).await;
    assert_eq!(pointers(&problem.problem(422, "INVALID_REQUEST")), ["/name", "/id", "/at"]);
    assert!(server.post("/v1/events", &json!({ "name": "x" })).await.expect(202)["id"].is_string());
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_ends_with_the_execution_or_with_its_time() {
    let server = Server::with_flows().await;
    let id = server.start("ask", json!({})).await;
    let began = tokio::time::Instant::now();
    let record = server.get(&format!("/v1/executions/{id}?wait=30")).await.expect(200);
    assert_eq!((&record["status"], began.elapsed().as_secs()), (&json!("waiting"), 30));
    let path = format!("/v1/executions/{id}?wait=30");
    let (record, ()) = tokio::join!(server.get(&path), async {
        server.post(&format!("/v1/executions/{id}:cancel"), &json!({})).await.expect(200);
    });
    assert_eq!(record.expect(200)["status"], "cancelled");
    assert_eq!(began.elapsed().as_secs(), 30, "the second poll did not wait");
    server.get(&format!("/v1/executions/{id}?wait=soon")).await.problem(422, "INVALID_PARAMETER");
}
