//! The OpenAPI document and the router say the same: paths, methods, verbs and scopes.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{self, Next};
use flowmonkey_engine::access::{Principal, Scope, Visibility};
use flowmonkey_engine::api::openapi;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{Server, request};

/// Where the routes are.
const ROUTERS: [&str; 7] = [
    include_str!("../../src/api/mod.rs"),
    include_str!("../../src/api/plumbing/checkpoint.rs"),
    include_str!("../../src/api/plumbing/context.rs"),
    include_str!("../../src/api/plumbing/events.rs"),
    include_str!("../../src/api/plumbing/job.rs"),
    include_str!("../../src/api/plumbing/progress.rs"),
    include_str!("../../src/api/plumbing/result.rs"),
];
const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// A method and a path, its variables without names.
type Route = (String, String);

/// An operation of the document.
pub(crate) struct Operation {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The scope that it says it needs.
    scope: Option<Scope>,
    /// Whether it asks for the token of a task.
    pub(crate) of_task: bool,
}

impl Operation {
    /// As the router has it, which does not know of verbs behind variables.
    pub(crate) fn route(&self) -> Route {
        let verb = self.path.find("}:").map_or(self.path.len(), |place| place + 1);
        (self.method.clone(), nameless(&self.path[..verb]))
    }

    /// An address of it, with ids that nobody has.
    fn address(&self) -> String {
        let parts = self.path.split('/').map(|part| match part.split_once('}') {
            Some((variable, verb)) => match variable {
                "{id" if self.path.starts_with("/v1/executions/") => {
                    format!("ex_0192000000007000800000000000ffff{verb}")
                }
                // The only thing that anybody has.
                "{file" => format!("swagger-ui.css{verb}"),
                "{taskId" | "{task" => format!("tk_0192000000007000800000000000ffff_1{verb}"),
                _ => format!("nobody{verb}"),
            },
            None => part.to_owned(),
        });
        parts.collect::<Vec<_>>().join("/")
    }
}

/// All operations of the document.
pub(crate) fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation["security"][0]["apiKey"][0].as_str().map(|scope| scope.parse().unwrap());
            let of_task = operation["security"][0]["taskToken"].is_array();
            found.push(Operation { method: method.clone(), path: path.clone(), scope, of_task });
        }
    }
    found
}

fn nameless(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

/// The routes as the sources have them: `.route("path", get(…).post(…))`.
fn routes() -> BTreeSet<Route> {
    let mut found = BTreeSet::new();
    for source in ROUTERS {
        let mut rest = source;
        while let Some(place) = rest.find(".route(") {
            rest = &rest[place + ".route(".len()..];
            let (_, behind) = rest.split_once('"').unwrap();
            let (path, behind) = behind.split_once('"').unwrap();
            // Up to the parenthesis that closes the call.
            let mut depth = 1;
            let end = behind.find(|character| {
                depth += i32::from(character == '(') - i32::from(character == ')');
                depth == 0
            });
            let handlers = &behind[..end.unwrap()];
            let has = |method: &&str| {
                handlers.match_indices(&format!("{method}(")).any(|(at, _)| {
                    !handlers[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                })
            };
            let methods: Vec<&str> = METHODS.into_iter().filter(has).collect();
            assert!(!methods.is_empty(), "{path}: {handlers}");
            found.extend(methods.into_iter().map(|method| (method.to_owned(), nameless(path))));
        }
    }
    found
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let described: BTreeSet<Route> = operations().iter().map(Operation::route).collect();
    assert_eq!(routes(), described);
}

/// What somebody with these scopes is answered: the status, and the code of the problem.
async fn ask(server: &Server, operation: &Operation, scopes: &[Scope]) -> (u16, String) {
    let principal = Principal { name: "key:test".into(), visibility: Visibility::All, scopes: scopes.into() };
    let identified = move |mut request: Request, next: Next| {
        let principal = principal.clone();
        async move {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
    };
    let router: Router = server.router.clone().layer(middleware::from_fn(identified));
    let headers = [("content-type", "application/json")];
    let request = request(&operation.method.to_uppercase(), &operation.address(), &headers, Body::from("{}"));
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    if parts.status.is_success() || parts.status.is_redirection() {
        // It may be a stream.
        return (parts.status.as_u16(), String::new());
    }
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let problem: Value = serde_json::from_slice(&bytes).unwrap();
    (parts.status.as_u16(), problem["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn operations_are_served_and_ask_for_the_scope_that_they_say() {
    let server = Server::new().await;
    let flow = json!({ "id": "nobody", "version": "1.0.0", "initialStepId": "a", "steps": { "a": { "type": "echo" } } });
    server.post("/v1/flows", &flow).await.expect(201);
    for operation in operations() {
        let at = format!("{} {}", operation.method, operation.path);
        let (status, code) = ask(&server, &operation, &Scope::ALL).await;
        let unserved = ["ROUTE_NOT_FOUND", "VERB_NOT_FOUND", "METHOD_NOT_ALLOWED"];
        assert!(!unserved.contains(&code.as_str()), "{at}: {status} {code}");
        assert_eq!(operation.of_task, code == "TOKEN_MISSING", "{at}: {status} {code}");
        for scope in Scope::ALL {
            let (status, code) = ask(&server, &operation, &[scope]).await;
            let may = operation.scope.is_none_or(|wanted| scope.includes(wanted));
            assert_eq!(may, code != "SCOPE_MISSING", "{at} with {scope}: {status} {code}");
        }
        let (status, code) = ask(&server, &operation, &[]).await;
        assert_eq!(operation.scope.is_some(), code == "SCOPE_MISSING", "{at} without any: {status} {code}");
    }
}

#[tokio::test]
async fn every_verb_is_described() {
    let server = Server::new().await;
    let operations = operations();
    let described = |path: &str| -> BTreeSet<String> {
        let verbs = operations.iter().filter(|operation| operation.method == "post");
        let verbs = verbs.filter_map(|operation| operation.path.strip_prefix(path)?.strip_prefix(':'));
        verbs.map(str::to_owned).collect()
    };
    for (path, address) in [
        ("/v1/executions/{id}", "/v1/executions/ex_0192000000007000800000000000ffff"),
        ("/v1/flows/{id}", "/v1/flows/nobody"),
        ("/v1/queues/{pool}", "/v1/queues/nobody"),
        ("/v1/failed-tasks/{taskId}", "/v1/failed-tasks/nobody"),
        ("/v1/webhooks/{id}", "/v1/webhooks/nobody"),
        ("/v1/webhooks/{id}/deliveries/{event}", "/v1/webhooks/nobody/deliveries/none"),
        ("/v1/keys/{id}", "/v1/keys/nobody"),
        ("/v1/operations/{id}", "/v1/operations/nobody"),
        ("/v1/workers/{id}", "/v1/workers/nobody"),
    ] {
        let refused =
            server.post(&format!("{address}:dance"), &json!({})).await.problem(404, "VERB_NOT_FOUND");
        // "… understand a, b, not `dance`"
        let detail = refused["detail"].as_str().unwrap();
        let (_, verbs) = detail.split_once("understand ").unwrap();
        let (verbs, _) = verbs.rsplit_once(", not ").unwrap();
        let known: BTreeSet<String> = verbs.split(", ").map(str::to_owned).collect();
        assert_eq!(known, described(path), "{path}");
    }
}
