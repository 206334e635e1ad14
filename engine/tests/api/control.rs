//! Parked tasks, pauses, versions, tasks and deletion.

use axum::body::Body;
use flowmonkey_core::execution::command::{Command, ReportedOutcome, TaskReport};
use flowmonkey_core::execution::state::Cost;
use flowmonkey_engine::chores::reconciler::{Patience, reconcile};
use serde_json::{Value, json};

use crate::{Server, flow, request};

/// A step that parks its execution when it fails.
pub(crate) fn fragile() -> Value {
    json!({ "do": { "type": "toil", "onExhausted": "incident" } })
}

/// Fails the first attempt of an execution's task; its id.
pub(crate) async fn fail(server: &Server, execution: &str, attempt: u32, code: &str) -> String {
    let report = TaskReport {
        task: 1,
        attempt,
        outcome: ReportedOutcome::Failure {
            code: Some(code.into()),
            message: "it broke".into(),
            retryable: true,
            details: None,
            retry_after_ms: None,
            next: flowmonkey_core::execution::command::NextStep::Transition,
        },
        context_changes: Vec::new(),
        emitted: Vec::new(),
        rows: Vec::new(),
        cost: Cost::default(),
        started_at: None,
        duration_ms: 1,
        worker: Some("w1".into()),
    };
    let id = execution.parse().unwrap();
    let after = server.engine.command(id, Command::Report(Box::new(report))).await.unwrap();
    assert_eq!(serde_json::to_value(after.status()).unwrap(), "incident");
    after.task_id(1).to_string()
}

async fn delete(server: &Server, path: &str) -> crate::Answer {
    server.send(request("DELETE", path, &[], Body::empty())).await
}

fn names<'a>(page: &'a Value, key: &str) -> Vec<&'a str> {
    page["items"].as_array().unwrap().iter().map(|item| item[key].as_str().unwrap()).collect()
}

#[tokio::test]
async fn parked_tasks_are_found_replayed_and_discarded() {
    let server = Server::new().await;
    server.post("/v1/flows", &flow("frail", fragile())).await.expect(201);
    let mut tasks = Vec::new();
    for code in ["A", "B", "A"] {
        let id = server.start("frail", json!({})).await;
        tasks.push(fail(&server, &id, 1, code).await);
    }
    let list = async |query: &str| server.get(&format!("/v1/failed-tasks{query}")).await.expect(200);
    assert_eq!(names(&list("").await, "taskId"), [&*tasks[2], &*tasks[1], &*tasks[0]]);
    assert_eq!(names(&list("?code=A&handler=toil&flow=frail").await, "taskId"), [&*tasks[2], &*tasks[0]]);
    assert!(names(&list("?flow=other").await, "taskId").is_empty());
    let first = list("?limit=2").await;
    let cursor = first["nextCursor"].as_str().unwrap();
    assert_eq!(names(&list(&format!("?limit=2&cursor={cursor}")).await, "taskId"), [&*tasks[0]]);
    server.get("/v1/failed-tasks?state=some&since=x").await.problem(422, "INVALID_PARAMETER");

    let path = |task: &str, verb: &str| format!("/v1/failed-tasks/{task}:{verb}");
    let replayed = server.post(&path(&tasks[0], "replay"), &json!({})).await.expect(200);
    assert_eq!(
        (&replayed["state"], &replayed["executionStatus"]),
        (&json!("replayed"), &json!("waiting_for_worker"))
    );
    server.post(&path(&tasks[0], "replay"), &json!({})).await.problem(409, "TASK_NOT_PARKED");
    let discarded = server.post(&path(&tasks[1], "discard"), &json!({ "reason": "old" })).await.expect(200);
    assert_eq!(
        (&discarded["settled"]["reason"], &discarded["executionStatus"]),
        (&json!("old"), &json!("cancelled"))
    );
    assert_eq!(names(&list("").await, "taskId"), [&*tasks[2]]);
    assert_eq!(names(&list("?state=all").await, "state"), ["open", "discarded", "replayed"]);

    // A task that fails again is open again.
    let execution = replayed["executionId"].as_str().unwrap();
    fail(&server, execution, 2, "C").await;
    let again = server.get(&format!("/v1/failed-tasks/{}", tasks[0])).await.expect(200);
    assert_eq!((&again["state"], &again["error"]["code"]), (&json!("open"), &json!("C")));
    server.post(&path(&tasks[0], "burn"), &json!({})).await.problem(404, "VERB_NOT_FOUND");
    server.get("/v1/failed-tasks/nothing").await.problem(404, "TASK_NOT_FOUND");
    server.post(&path(&tasks[0], "replay"), &json!({ "x": 1 })).await.problem(422, "INVALID_REQUEST");
}

#[tokio::test]
async fn tasks_of_a_paused_pool_wait_and_none_is_lost() {
    let server = Server::with_flows().await;
    let ready = async || {
        let queues = server.get("/v1/queues").await.expect(200);
        let toil = queues["items"].as_array().unwrap().iter().find(|item| item["pool"] == "toil").cloned();
        toil.map_or((json!(0), json!(null)), |toil| (toil["ready"]["normal"].clone(), toil["paused"].clone()))
    };
    let before = server.start("work", json!({})).await;
    assert_eq!(ready().await.0, 1);
    // From here on the queue is known to be whole.
    reconcile(&server.engine, Patience::NONE).await.unwrap();
    let paused = server.post("/v1/queues/toil:pause", &json!({ "reason": "repairs" })).await.expect(200);
    assert_eq!((&paused["changed"], &paused["pause"]["reason"]), (&json!(true), &json!("repairs")));
    let during = server.start("work", json!({})).await;
    let (count, shown) = ready().await;
    assert_eq!((count, &shown["reason"]), (json!(0), &json!("repairs")), "what was ready was taken back");
    for id in [&before, &during] {
        let shown = server.get(&format!("/v1/executions/{id}")).await.expect(200);
        assert_eq!(shown["waitingReason"], "queue paused: repairs");
        let explained = server.get(&format!("/v1/executions/{id}:explain")).await.expect(200);
        assert_eq!(explained["heldBackBy"]["of"], "pool");
    }
    let gone = server.start("work", json!({})).await;
    let cancelled = server.post(&format!("/v1/executions/{gone}:terminate"), &json!({})).await.expect(200);
    assert_eq!(cancelled["status"], "cancelled");
    reconcile(&server.engine, Patience::NONE).await.unwrap();
    assert_eq!(ready().await.0, 0, "what is held back is not missing");
    let again = server.post("/v1/queues/toil:pause", &json!({})).await.expect(200);
    assert_eq!(again["changed"], false);

    server.post("/v1/queues/toil:resume", &json!({})).await.expect(200);
    assert_eq!(ready().await, (json!(2), json!(null)));
    server.post("/v1/queues/toil:stop", &json!({})).await.problem(404, "VERB_NOT_FOUND");

    server.post("/v1/flows/work:pause", &json!({})).await.expect(200);
    assert_eq!(ready().await.0, 0);
    assert!(server.get("/v1/flows/work").await.expect(200)["paused"].is_object());
    server.post("/v1/flows/work:resume", &json!({})).await.expect(200);
    assert_eq!(ready().await.0, 2);
    server.post("/v1/flows/nothing:pause", &json!({})).await.problem(404, "FLOW_NOT_FOUND");
}

#[tokio::test]
async fn archived_versions_do_not_start() {
    let server = Server::new().await;
    let mut document = flow("greet", crate::greet());
    server.post("/v1/flows", &document).await.expect(201);
    document["version"] = json!("2.0.0");
    document["steps"]["hello"]["outputKey"] = json!("word");
    server.post("/v1/flows", &document).await.expect(201);
    let diff = server.get("/v1/flows/greet:diff?from=1.0.0&to=2.0.0").await.expect(200);
    assert_eq!(diff["steps"]["changed"][0]["changes"][0]["pointer"], "/steps/hello/outputKey");
    server.get("/v1/flows/greet:diff?from=1.0.0").await.problem(422, "INVALID_PARAMETER");

    server.post("/v1/flows/greet:archive", &json!({ "version": "2.0.0" })).await.expect(200);
    assert_eq!(server.get("/v1/flows/greet").await.expect(200)["version"], "1.0.0");
    let start = async |version: Option<&str>| {
        server.post("/v1/executions", &json!({ "flowId": "greet", "version": version, "input": {} })).await
    };
    start(None).await.expect(202);
    start(Some("2.0.0")).await.problem(409, "FLOW_NOT_PUBLISHED");
    let all = server.post("/v1/flows/greet:archive", &json!({})).await.expect(200);
    assert_eq!(all["changed"], 1);
    start(None).await.problem(409, "FLOW_NOT_PUBLISHED");
    assert_eq!(server.get("/v1/flows/greet").await.expect(200)["status"], "archived");
    server.post("/v1/flows/greet:restore", &json!({})).await.expect(200);
    start(Some("2.0.0")).await.expect(202);
    let versions = server.get("/v1/flows/greet/versions").await.expect(200);
    assert_eq!(names(&versions, "status"), ["published", "published"]);
    server
        .post("/v1/flows/greet:archive", &json!({ "version": "9.0.0" }))
        .await
        .problem(404, "FLOW_NOT_FOUND");
}

#[tokio::test]
async fn a_task_is_shown_as_its_worker_sees_it() {
    let server = Server::with_flows().await;
    let id = server.start("work", json!({ "a": 1 })).await;
    let tasks = server.get(&format!("/v1/executions/{id}/tasks")).await.expect(200);
    assert_eq!((names(&tasks, "stepId"), &tasks["items"][0]["out"]["attempt"]), (vec!["do"], &json!(1)));
    let task = names(&tasks, "taskId")[0];
    let shown = server.get(&format!("/v1/tasks/{task}")).await.expect(200);
    assert_eq!(shown["payload"]["input"], json!({ "a": 1 }));
    assert_eq!(shown["payload"]["pool"], "toil");
    assert!(!shown.to_string().contains("token"), "{shown}");
    server.get("/v1/tasks/tk_00000000000000000000000000000001_1").await.problem(404, "TASK_NOT_FOUND");
}

#[tokio::test]
async fn executions_are_deleted_when_they_have_ended() {
    let server = Server::with_flows().await;
    let ended = server.start("greet", json!({ "name": "Ada" })).await;
    let path = format!("/v1/executions/{ended}");
    assert_eq!(delete(&server, &path).await.expect(200)["deleted"], 1);
    server.get(&path).await.problem(404, "EXECUTION_NOT_FOUND");
    delete(&server, &path).await.problem(404, "EXECUTION_NOT_FOUND");
    let live = server.start("work", json!({})).await;
    let path = format!("/v1/executions/{live}");
    delete(&server, &path).await.problem(409, "EXECUTION_NOT_ENDED");
    assert_eq!(delete(&server, &format!("{path}?terminate=true")).await.expect(200)["deleted"], 1);
    server.get(&format!("{path}/history")).await.problem(404, "EXECUTION_NOT_FOUND");
}
