//! The OpenAPI document is complete, and the one in `docs/` is current.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::path::Path;

use flowmonkey_engine::api::openapi;
use serde_json::Value;

/// All routes of tasks.
const ROUTES: [(&str, &str); 12] = [
    ("get", "context"),
    ("patch", "context"),
    ("post", "events"),
    ("post", "heartbeat"),
    ("get", "checkpoint"),
    ("get", "checkpoint/data"),
    ("put", "checkpoint"),
    ("delete", "checkpoint"),
    ("post", "started"),
    ("post", "progress"),
    ("post", "logs"),
    ("post", "result"),
];

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

#[test]
fn every_route_of_tasks_is_described() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(described, ROUTES.len());
    for (method, route) in ROUTES {
        let operation = &paths[&format!("/v1/plumbing/tasks/{{task}}/{route}")][method];
        assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {route}");
        assert!(operation["responses"]["default"]["content"]["application/problem+json"].is_object());
        assert_eq!(operation["security"][0]["taskToken"], Value::Array(Vec::new()));
        let takes_body = ["patch", "put", "post"].contains(&method);
        assert_eq!(operation["requestBody"].is_object(), takes_body, "{method} {route}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(document: &Value, part: &Value) {
        match part {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let place = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(place).is_some(), "{reference}");
                }
                fields.values().for_each(|part| check(document, part));
            }
            Value::Array(items) => items.iter().for_each(|part| check(document, part)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document = document();
    check(&document, &document);
}

#[test]
fn the_document_of_the_docs_is_current() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json"));
    let current = format!("{}\n", serde_json::to_string_pretty(&document()).unwrap());
    if std::env::var_os("FLOWMONKEY_BLESS").is_some() {
        std::fs::write(path, &current).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == current,
        "docs/openapi.json is old: FLOWMONKEY_BLESS=1 cargo test -p flowmonkey-engine --test openapi"
    );
}
