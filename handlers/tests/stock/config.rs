//! Every handler names the field that it cannot work with.

use flowmonkey_handlers::{CommandPolicy, FilePolicy, Programs, StockPolicy};
use serde_json::{Value, json};

use crate::support::Bench;

#[tokio::test]
async fn bad_configuration_is_refused_for_good_and_the_field_is_named() {
    let bench = Bench::new(StockPolicy {
        command: CommandPolicy { programs: Programs::Any },
        file: FilePolicy { roots: vec!["/nonexistent".into()] },
        ..StockPolicy::default()
    });
    let mail = |field: &str, value: Value| {
        let mut config = json!({ "from": "a@example.com", "to": "b@example.com", "text": "x" });
        config[field] = value;
        config
    };
    let cases = [
        ("http-request", json!({}), "BAD_CONFIG", "config.url"),
        ("http-request", json!("text"), "BAD_CONFIG", "config must be an object"),
        (
            "http-request",
            json!({ "url": "https://a.example", "responseType": "xml" }),
            "BAD_CONFIG",
            "config.responseType",
        ),
        (
            "http-request",
            json!({ "url": "https://a.example", "maxResponseBytes": -1 }),
            "BAD_CONFIG",
            "config.maxResponseBytes",
        ),
        ("transform", json!({ "operation": "shuffle" }), "BAD_CONFIG", "config.operation"),
        ("transform", json!({ "operation": "pick" }), "BAD_CONFIG", "config.keys"),
        (
            "transform",
            json!({ "operation": "filter", "condition": { "path": "a", "op": "~" } }),
            "BAD_CONFIG",
            "config.condition.op",
        ),
        ("transform", json!({ "operation": "map", "mapping": { "a": 1 } }), "BAD_CONFIG", "config.mapping.a"),
        ("transform", json!({ "expression": "input.x" }), "BAD_CONFIG", "config.expression"),
        ("transform", json!({ "jq": 1 }), "BAD_CONFIG", "config.jq"),
        ("transform", json!({ "jq": ".", "operation": "pick" }), "BAD_CONFIG", "config.operation"),
        ("batch-process", json!({ "batchSize": 1001, "program": "." }), "BAD_CONFIG", "config.batchSize"),
        ("batch-process", json!({}), "INVALID_EXPRESSION", "config.program"),
        ("command", json!({}), "BAD_CONFIG", "config.command"),
        ("command", json!({ "command": "ls" }), "BAD_CONFIG", "config.command"),
        ("command", json!({ "command": [] }), "BAD_CONFIG", "config.command"),
        ("command", json!({ "command": ["ls"], "successCodes": [256] }), "BAD_CONFIG", "config.successCodes"),
        ("command", json!({ "command": ["ls"], "protocol": "soap" }), "BAD_CONFIG", "config.protocol"),
        (
            "command",
            json!({ "command": ["ls"], "protocol": "ndjson", "parse": "json" }),
            "BAD_CONFIG",
            "config.parse",
        ),
        ("command", json!({ "command": ["ls"], "env": { "A=B": "x" } }), "BAD_CONFIG", "config.env.A=B"),
        ("file", json!({ "path": "x" }), "BAD_CONFIG", "config.operation"),
        ("file", json!({ "operation": "read" }), "BAD_CONFIG", "config.path"),
        ("file", json!({ "operation": "list", "path": ".", "glob": "[" }), "BAD_CONFIG", "config.glob"),
        ("file", json!({ "operation": "write", "path": "x", "content": 1 }), "BAD_CONFIG", "config.content"),
        ("video-processing", json!({ "output": "b.mp4" }), "BAD_CONFIG", "config.input"),
        ("video-processing", json!({ "input": "a" }), "BAD_CONFIG", "config.output"),
        (
            "video-processing",
            json!({ "input": "a", "output": "b.mp4", "crf": -1 }),
            "BAD_CONFIG",
            "config.crf",
        ),
        ("table-insert", json!({}), "TABLE_INSERT_FAILED", "config.mappings"),
        ("table-insert", json!({ "mappings": [] }), "TABLE_INSERT_FAILED", "config.tableId"),
        (
            "table-insert",
            json!({ "tableId": "t", "mappings": [{ "column": "c" }] }),
            "TABLE_INSERT_FAILED",
            "config.mappings[0].sourcePath",
        ),
        ("email", mail("from", Value::Null), "BAD_CONFIG", "config.from"),
        ("email", mail("to", json!("nobody")), "BAD_CONFIG", "config.to"),
        ("email", mail("to", json!([])), "BAD_CONFIG", "config.to"),
        ("email", mail("text", Value::Null), "BAD_CONFIG", "config.text"),
        ("email", mail("subject", json!("a\r\nBcc: c@example.com")), "BAD_CONFIG", "config.subject"),
        ("email", mail("to", json!("b@example.com\r\nBcc: c@example.com")), "BAD_CONFIG", "config.to"),
        ("email", mail("from", json!("\"A\r\nX: y\" <a@example.com>")), "BAD_CONFIG", "config.from"),
        (
            "email",
            mail("headers", json!({ "X-A": "1\r\nBcc: c@example.com" })),
            "BAD_CONFIG",
            "config.headers.X-A",
        ),
        (
            "email",
            mail("headers", json!({ "X-A: 1\r\nBcc": "c@example.com" })),
            "BAD_CONFIG",
            "config.headers.X-A",
        ),
        ("email", mail("headers", json!({ "bcc": "c@example.com" })), "BAD_CONFIG", "config.headers.bcc"),
        ("email", mail("smtp", Value::Null), "BAD_CONFIG", "config.smtp"),
        (
            "email",
            mail("smtp", json!({ "host": "mail.example", "tls": "maybe" })),
            "BAD_CONFIG",
            "config.smtp.tls",
        ),
    ];
    for (handler, config, code, message) in cases {
        let failure = bench.run(handler, config.clone(), json!([1])).await.unwrap_err();
        assert_eq!(failure.error.code, code, "{handler} {config}: {}", failure.error.message);
        assert!(failure.error.message.starts_with(message), "{handler} {config}: {}", failure.error.message);
        assert_eq!(failure.error.retryable, Some(false), "{handler} {config}");
    }
}

#[tokio::test]
async fn unknown_fields_are_warned_of() {
    let bench = Bench::new(StockPolicy::default());
    let task = bench.task("transform", json!({ "operatoin": "pick", "timeout": 5 }), json!(1));
    bench.run_task(&task).await.unwrap();
    let (_, logs) = task.take_rows_and_logs();
    let messages: Vec<&str> = logs.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(messages, ["config.operatoin is not known to this handler and does nothing"]);
}
