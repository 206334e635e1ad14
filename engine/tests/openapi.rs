//! The OpenAPI document is complete and sound, and the one in `docs/` is current. That the router serves what it says, and
//! asks for the scopes that it says, is tested in `api/described.rs`.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::collections::BTreeSet;
use std::path::Path;

use flowmonkey_engine::api::openapi;
use serde_json::Value;

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

/// Method, path and operation.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, item)| {
        let operations = item.as_object().unwrap().iter();
        operations.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    });
    each.collect()
}

#[test]
fn every_operation_is_described_as_a_whole() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let tags: BTreeSet<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let at = format!("{method} {path}");
        let id = operation["operationId"].as_str().unwrap_or_default();
        assert!(!id.is_empty() && ids.insert(id), "{at}: its id is missing, or taken: {id}");
        let summary = operation["summary"].as_str().unwrap_or_default();
        assert!(!summary.is_empty() && !summary.contains('\n'), "{at}: {summary:?}");
        assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{at}: {}", operation["tags"]);
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with(['2', '3']) || status == "101"), "{at}");
        assert!(!responses.contains_key("default"), "{at}: what may be answered is named");
        for (status, response) in responses {
            let response = match response["$ref"].as_str() {
                Some(place) => document.pointer(place.strip_prefix('#').unwrap()).unwrap(),
                None => response,
            };
            assert!(!response["description"].as_str().unwrap().is_empty(), "{at} {status}");
            if status.starts_with(['4', '5']) {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/ProblemDocument", "{at} {status}");
            }
        }
        let variables: BTreeSet<&str> =
            path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let described = parameters.iter().filter(|parameter| parameter["in"] == "path");
        let described: BTreeSet<&str> =
            described.map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(variables, described, "{at}");
        for parameter in parameters {
            let name = &parameter["name"];
            assert!(parameter["description"].as_str().is_some_and(|text| !text.is_empty()), "{at} {name}");
            assert!(!parameter["schema"].to_string().contains("null"), "{at} {name}: an address has no null");
        }
    }
}

#[test]
fn bodies_refuse_what_routes_refuse() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    for (method, path, operation) in operations(&document) {
        let Some(place) = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()
        else {
            continue;
        };
        // Routes of workers ignore what newer workers add; flows have a schema of their own.
        let is_open = path.starts_with("/v1/plumbing/") || place.ends_with("/FlowDefinition");
        let schema = document.pointer(place.strip_prefix('#').unwrap()).unwrap();
        assert_eq!(schema["additionalProperties"] == false, !is_open, "{method} {path}: {place}");
    }
    assert_eq!(schemas["TimeoutConfig"]["additionalProperties"], false);
    assert_eq!(schemas["ColumnBody"]["additionalProperties"], false);
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
