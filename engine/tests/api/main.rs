//! The HTTP API, request by request, over an engine with a record in memory.
#![expect(clippy::unwrap_used, reason = "test code")]

mod away;
mod bulk;
mod control;
mod described;
mod executions;
mod flows;
mod live;
mod operations;
mod plumbing;
mod progress;
mod search;
mod security;
mod starts;
mod tenants;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use flowmonkey_core::execution::Handlers;
use flowmonkey_engine::api::{ApiOptions, router};
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{LocalQueue, LocalQueueLimits};
use serde_json::{Value, json};
use tower::ServiceExt;

use away::Away;

/// Any handler type may wait for a worker.
pub(crate) struct AllHandlers;

impl Handlers for AllHandlers {
    fn accepts(&self, _: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        None
    }
}

pub(crate) struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) record: Arc<Away>,
    pub(crate) router: Router,
    pub(crate) queue: Arc<LocalQueue>,
}

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    /// The body, when the status is as expected.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// Checks that it is a whole problem of this status and code; returns it.
    pub(crate) fn problem(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = &self.body;
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["type"], format!("urn:flowmonkey:error:{code}"));
        assert_eq!(body["requestId"], self.header("x-request-id"));
        for key in ["title", "detail"] {
            assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {body}");
        }
        self.body
    }
}

/// The pointers of a problem, in order.
pub(crate) fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

impl Server {
    pub(crate) async fn new() -> Self {
        Self::with(ApiOptions::default()).await
    }

    pub(crate) async fn with(options: ApiOptions) -> Self {
        let record = Arc::new(Away::default());
        let clock = Arc::new(SystemClock);
        let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
        let deps = EngineDeps {
            store: record.clone(),
            queue: queue.clone(),
            clock,
            entropy: Arc::new(SystemEntropy::new()),
            handlers: Arc::new(AllHandlers),
            announced: None,
        };
        let engine = Engine::open(deps, EngineConfig::default(), None).await.unwrap();
        Self { router: router(engine.clone(), options), engine, record, queue }
    }

    /// With the flows that most tests use.
    pub(crate) async fn with_flows() -> Self {
        let server = Self::new().await;
        for flow in
            [flow("greet", greet()), flow("ask", ask()), flow("work", work()), flow("listen", listen())]
        {
            server.post("/v1/flows", &flow).await.expect(201);
        }
        server
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, &[], Body::empty())).await
    }

    /// The text of an answer that is no JSON.
    pub(crate) async fn raw(&self, path: &str) -> String {
        let response = self.router.clone().oneshot(request("GET", path, &[], Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub(crate) async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        self.send(request("POST", path, &all, Body::from(body.to_string()))).await
    }

    pub(crate) async fn text(&self, path: &str, content_type: &str, body: &str) -> Answer {
        let headers = [("content-type", content_type)];
        self.send(request("POST", path, &headers, Body::from(body.to_owned()))).await
    }

    /// Starts a flow; its id.
    pub(crate) async fn start(&self, flow: &str, input: Value) -> String {
        let body = json!({ "flowId": flow, "input": input });
        self.post("/v1/executions", &body).await.expect(202)["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "127.0.0.1:7420");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

pub(crate) fn flow(id: &str, steps: Value) -> Value {
    let first = steps.as_object().unwrap().keys().next().unwrap().clone();
    json!({ "id": id, "version": "1.0.0", "initialStepId": first, "steps": steps })
}

/// Ends at once.
pub(crate) fn greet() -> Value {
    json!({ "hello": { "type": "echo", "input": { "type": "path", "path": "name" }, "outputKey": "greeting" } })
}

/// Waits for an answer, then for a signal.
pub(crate) fn ask() -> Value {
    json!({
        "approve": {
            "type": "approval",
            "config": {
                "signal": "answer",
                "form": { "type": "object", "required": ["approved"],
                    "properties": { "approved": { "type": "boolean" } } },
            },
            "outputKey": "answer",
            "transitions": { "onSuccess": "paid" },
        },
        "paid": { "type": "wait-signal", "outputKey": "payment" },
    })
}

/// Waits for a worker.
pub(crate) fn work() -> Value {
    json!({ "do": { "type": "toil", "input": { "type": "full" } } })
}

/// Waits for an event.
pub(crate) fn listen() -> Value {
    json!({ "hear": { "type": "wait-event", "config": { "event": "rain" }, "outputKey": "weather" } })
}
