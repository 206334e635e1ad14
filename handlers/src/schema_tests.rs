//! The tables of fields against the handlers themselves: what is read is in the schema, what is in the schema is read, and
//! both refuse the same.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use flowmonkey_plumbing::api::{
    Checkpoint, CheckpointApi, ContextApi, Heartbeat, HeartbeatAnswer, JobApi, PlumbingError, Progress,
    ProgressApi, TaskAccess,
};
use flowmonkey_plumbing::wire::{
    ContextOperation, HandlerReference, LogLine, PROTOCOL_VERSION, Priority, TaskMessage, TaskMetadata,
};
use flowmonkey_worker::{Handler, Task};
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::config::BAD_CONFIG;
use crate::schema::COMMON_FIELDS;
use crate::{StockPolicy, stock};

thread_local! {
    static READ: RefCell<BTreeSet<String>> = RefCell::default();
}

/// Notes that a handler has looked at a field.
pub(crate) fn note_read(field: String) {
    READ.with_borrow_mut(|read| read.insert(field));
}

/// What only the handler can tell: fields that need or exclude each other, mail addresses, URLs, content by its encoding.
const HANDLER_ONLY: [(&str, &str); 27] = [
    ("batch-process", "accumulator"),
    ("batch-process", "condition"),
    ("batch-process", "jq"),
    ("batch-process", "keys"),
    ("batch-process", "mapping"),
    ("batch-process", "operation"),
    ("batch-process", "program"),
    ("batch-process", "transform"),
    ("command", "parse"),
    ("command", "stdin"),
    ("command", "successCodes"),
    ("email", "bcc"),
    ("email", "cc"),
    ("email", "from"),
    ("email", "replyTo"),
    ("email", "smtp"),
    ("email", "smtp.password"),
    ("email", "smtp.username"),
    ("email", "to"),
    ("file", "content"),
    ("http-request", "url"),
    ("transform", "accumulator"),
    ("transform", "condition"),
    ("transform", "jq"),
    ("transform", "keys"),
    ("transform", "mapping"),
    ("transform", "program"),
];

struct Nothing;

#[async_trait]
impl CheckpointApi for Nothing {
    async fn save_checkpoint(&self, _: &TaskAccess, data: Value) -> Result<Checkpoint, PlumbingError> {
        Ok(Checkpoint { id: "c".into(), saved_at: String::new(), data })
    }

    async fn load_checkpoint(&self, _: &TaskAccess) -> Result<Option<Checkpoint>, PlumbingError> {
        Ok(None)
    }

    async fn clear_checkpoint(&self, _: &TaskAccess) -> Result<(), PlumbingError> {
        Ok(())
    }
}

#[async_trait]
impl JobApi for Nothing {
    async fn heartbeat(
        &self,
        _access: &TaskAccess,
        _heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, PlumbingError> {
        Ok(HeartbeatAnswer::default())
    }
}

#[async_trait]
impl ContextApi for Nothing {
    async fn read_context(&self, _: &TaskAccess, _: Option<&str>) -> Result<Option<Value>, PlumbingError> {
        Ok(None)
    }

    async fn stage_context(
        &self,
        _: &TaskAccess,
        _: u32,
        _: &[ContextOperation],
    ) -> Result<(), PlumbingError> {
        Ok(())
    }
}

impl ProgressApi for Nothing {
    fn started(&self, _: &TaskAccess, _: &str) {}

    fn progress(&self, _: &TaskAccess, _: Progress) {}

    fn log(&self, _: &TaskAccess, _: &LogLine) {}
}

/// Configurations that together make each handler read all of its fields. The strictest policy lets none of them act.
fn bases(handler: &str) -> Vec<Value> {
    let changes = |extra: &Value| {
        let parts = [
            json!({ "operation": "pick", "keys": ["a"] }),
            json!({ "operation": "map", "mapping": { "a": "b.c" } }),
            json!({ "operation": "filter", "condition": { "path": "a", "op": "eq", "value": 1 } }),
            json!({ "operation": "reduce", "accumulator": "sum", "path": "a" }),
            json!({ "operation": "merge", "sources": ["a"] }),
            json!({ "transform": "upper" }),
            json!({ "jq": ".", "outputs": "all", "timeoutMs": 10 }),
            json!({ "program": "." }),
        ];
        let with_extra = |mut part: Value| {
            let fields = extra.as_object().into_iter().flatten();
            fields.for_each(|(name, value)| part[name] = value.clone());
            part
        };
        parts.map(with_extra).to_vec()
    };
    match handler {
        "http-request" => {
            vec![json!({ "url": "http://127.0.0.1:9/", "headers": { "a": 1 }, "query": { "a": [1] } })]
        }
        "transform" => changes(&json!({})),
        "batch-process" => changes(&json!({ "batchSize": 2 })),
        "command" => vec![
            json!({ "command": ["true"], "env": { "A": 1 } }),
            json!({ "command": ["true"], "protocol": "ndjson" }),
        ],
        "file" => vec![
            json!({ "operation": "list", "path": "." }),
            json!({ "operation": "write", "path": "x", "content": "x" }),
        ],
        "table-insert" => {
            let mappings =
                json!([{ "sourcePath": "a", "column": "b" }, { "sourcePath": "a", "columnId": "b" }]);
            vec![json!({ "tableId": "t", "mappings": mappings, "staticValues": { "c": 1 } })]
        }
        "email" => {
            let smtp = json!({ "host": "127.0.0.1", "port": 25, "username": "u", "password": "p" });
            vec![
                json!({ "from": "a@example.com", "to": "b@example.com", "text": "x", "html": "x", "smtp": smtp }),
            ]
        }
        other => panic!("no configuration for {other}"),
    }
}

/// A task whose input is a list, or an empty object where fields of it would be read.
fn task(handler: &str, config: &Value) -> Task {
    let input = if handler == "batch-process" { json!([]) } else { json!({}) };
    let message = TaskMessage {
        v: PROTOCOL_VERSION,
        task_id: "task-1".into(),
        attempt: 1,
        token: None,
        execution_id: "execution-1".into(),
        flow_id: "flow".into(),
        flow_version: "1.0.0".into(),
        step_id: "step".into(),
        handler: HandlerReference { handler_type: handler.into(), version: None },
        pool: handler.into(),
        input: Some(input),
        context: json!({}),
        context_url: None,
        context_bytes: None,
        config: config.clone(),
        idempotency_key: "key-1".into(),
        deadline: String::new(),
        remaining_ms: 60_000,
        heartbeat_interval_ms: 15_000,
        lease_ms: 60_000,
        priority: Priority::Normal,
        isolate: false,
        checkpoint: None,
        traceparent: None,
        metadata: TaskMetadata::default(),
    };
    Task::for_test(message, Arc::new(Nothing))
}

/// Whether the handler refuses the configuration, and the fields that it looked at.
async fn refused(handler: &Arc<dyn Handler>, config: &Value) -> (Option<String>, BTreeSet<String>) {
    READ.take();
    let handler_type = &handler.manifest().handler_type;
    let ended = handler.run(&task(handler_type, config)).await;
    let complaint = ended.err().filter(|failure| {
        let code = failure.error.code.as_str();
        [BAD_CONFIG, "INVALID_EXPRESSION", "BAD_TRANSFORM", "TABLE_INSERT_FAILED"].contains(&code)
            && failure.error.details.as_ref().is_some_and(|details| details["field"].is_string())
    });
    let read = READ.take().into_iter().filter(|field| !field.starts_with("input.")).collect();
    (complaint.map(|failure| failure.error.message), read)
}

fn schema(handler: &Arc<dyn Handler>) -> &Value {
    handler.manifest().config_schema.as_ref().unwrap()
}

/// The names of the fields that a schema has, those of inner objects with a dot.
fn names(schema: &Value, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(format!("{prefix}{name}"));
        found.extend(names(inner, &format!("{prefix}{name}.")));
    }
    found
}

fn with(base: &Value, field: &str, value: &Value) -> Value {
    let mut config = base.clone();
    match field.split_once('.') {
        Some((outer, inner)) => config[outer][inner] = value.clone(),
        None => config[field] = value.clone(),
    }
    config
}

fn probes() -> Vec<Value> {
    let numbers = [json!(0), json!(1), json!(-1), json!(1.5), json!(1_000_000_000_000_u64)];
    let texts = [json!(""), json!("10.0.0.1"), json!("JSON"), json!("tls")];
    let lists = [json!([]), json!(["a"]), json!([1]), json!([{}]), json!([{ "sourcePath": "a" }])];
    let objects =
        [json!({}), json!({ "a": 1 }), json!({ "a": "b" }), json!({ "a": {} }), json!({ "a": null })];
    [json!(null), json!(true)].into_iter().chain(numbers).chain(texts).chain(lists).chain(objects).collect()
}

#[tokio::test]
async fn every_field_that_is_read_is_in_the_schema_and_the_other_way_round() {
    for handler in stock(StockPolicy::default()) {
        let handler_type = &handler.manifest().handler_type;
        let mut read = BTreeSet::new();
        for base in bases(handler_type) {
            let (complaint, fields) = refused(&handler, &base).await;
            assert_eq!(complaint, None, "{handler_type} {base}");
            read.extend(fields);
        }
        let mut known = names(schema(&handler), "");
        // The engine fills these in for everybody.
        known.retain(|name| read.contains(name) || COMMON_FIELDS.iter().all(|common| common.name != name));
        assert_eq!(read, known, "{handler_type}");
    }
}

#[tokio::test]
async fn the_schema_refuses_what_the_handler_refuses() {
    let mut handler_only = BTreeSet::new();
    for handler in stock(StockPolicy::default()) {
        let handler_type = &handler.manifest().handler_type;
        let schema: Validator = jsonschema::validator_for(schema(&handler)).unwrap();
        for base in bases(handler_type) {
            assert!(schema.is_valid(&base), "{handler_type} {base}");
            let (_, read) = refused(&handler, &base).await;
            for (field, probe) in
                read.iter().flat_map(|field| probes().into_iter().map(move |probe| (field, probe)))
            {
                let config = with(&base, field, &probe);
                let (complaint, _) = refused(&handler, &config).await;
                match (schema.is_valid(&config), complaint) {
                    (true, None) | (false, Some(_)) => {}
                    (false, None) => panic!("{handler_type} takes {config}, its schema does not"),
                    (true, Some(_)) => drop(handler_only.insert((handler_type.clone(), field.clone()))),
                }
            }
        }
    }
    let expected = HANDLER_ONLY.map(|(handler, field)| (handler.to_owned(), field.to_owned()));
    assert_eq!(handler_only, BTreeSet::from(expected));
}

#[tokio::test]
async fn the_input_schema_of_batches_is_what_they_accept() {
    let handlers = stock(StockPolicy::default());
    let handler = handlers.iter().find(|handler| handler.manifest().handler_type == "batch-process").unwrap();
    let schema = jsonschema::validator_for(handler.manifest().input_schema.as_ref().unwrap()).unwrap();
    let inputs = probes().into_iter().chain([
        json!({ "items": [1] }),
        json!({ "items": {} }),
        json!({ "items": null }),
    ]);
    for input in inputs {
        let mut task = task("batch-process", &json!({ "transform": "upper" }));
        task.message.input = Some(input.clone());
        let refused = handler.run(&task).await.is_err_and(|failure| failure.error.code == "INVALID_INPUT");
        assert_eq!(schema.is_valid(&input), !refused, "{input}");
    }
}

#[test]
fn every_field_is_described_where_handlers_are_documented() {
    let text = include_str!("../../docs/handlers.md");
    let section = |handler: &str| {
        let (_, rest) =
            text.split_once(&format!("\n## {handler}\n")).unwrap_or_else(|| panic!("no section {handler}"));
        rest.split("\n## ").next().unwrap_or_default()
    };
    for handler in stock(StockPolicy::default()) {
        let handler_type = handler.manifest().handler_type.as_str();
        let mut described = section(handler_type).to_owned();
        if handler_type == "batch-process" {
            described.push_str(section("transform"));
        }
        for name in schema(&handler)["properties"].as_object().unwrap().keys() {
            let is_common = COMMON_FIELDS.iter().any(|common| common.name == name);
            assert!(is_common || described.contains(&format!("`{name}`")), "{handler_type}: {name}");
        }
    }
}
