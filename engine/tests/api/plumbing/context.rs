//! The Context API: what may be read, what may be staged, and what comes of it.

use std::io::Read;

use axum::body::Body;
use flowmonkey_engine::EngineConfig;
use flowmonkey_plumbing::api::{CONTEXT_PATCH_BYTES_MAX, CONTEXT_PATCHES_MAX, CONTEXT_PATH_BYTES_MAX};
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Bench, claim};
use crate::request;

fn small() -> EngineConfig {
    let mut config = EngineConfig::default();
    config.limits.inline_context_bytes = 100;
    config
}

/// A step that declares `needs` of its context.
async fn declaring(needs: Value, input: Value) -> Bench {
    let steps =
        json!({ "do": { "type": "toil", "context": needs, "input": { "type": "static", "value": 1 } } });
    Bench::with(steps, input, small()).await
}

impl Bench {
    async fn read(&self, path: &str) -> Value {
        self.call("GET", &format!("context?path={path}"), "").await.expect(200)
    }

    async fn stage(&self, sequence: u32, body: Value) -> crate::Answer {
        self.call("PATCH", &format!("context?sequence={sequence}"), body.to_string()).await
    }

    async fn context(&self) -> Value {
        self.server.get(&format!("/v1/executions/{}/context", self.task.execution_id)).await.expect(200)
    }
}

fn large() -> Value {
    json!({ "secret": "s".repeat(200), "order": { "id": 7, "items": [{ "price": 1.5 }, null] }, "n": null })
}

#[tokio::test]
async fn what_is_small_travels_and_what_is_large_is_read() {
    let bench = declaring(json!("full"), json!({ "a": 1 })).await;
    assert_eq!((&bench.task.context, &bench.task.context_url), (&json!({ "a": 1 }), &None));
    assert_eq!(bench.call("GET", "context", "").await.expect(200), json!({ "a": 1 }), "it can be read, too");

    let bench = declaring(json!("full"), large()).await;
    assert_eq!(bench.task.context, json!({}));
    let url = format!("/v1/plumbing/tasks/{}/context", bench.task.task_id);
    assert_eq!(bench.task.context_url.as_deref(), Some(url.as_str()));
    assert_eq!(bench.task.context_bytes, Some(large().to_string().len() as u64));
    assert_eq!(bench.call("GET", "context", "").await.expect(200), large());
    assert_eq!(bench.read("order.items.0.price").await, json!(1.5));
    assert_eq!(bench.read("order.items.length").await, json!(2));
    assert_eq!(bench.read("n").await, Value::Null);
    for path in [
        "nothing",
        "n.x",
        "order.items.2",
        "parent",
        "_error",
        "__proto__",
        "constructor.name",
        "order.items.-1",
    ] {
        bench.call("GET", &format!("context?path={path}"), "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
    }
    for path in ["", ".", "a.", ".a", "a..b", &"a".repeat(CONTEXT_PATH_BYTES_MAX + 1), "a&path=b"] {
        bench.call("GET", &format!("context?path={path}"), "").await.problem(422, "INVALID_PARAMETER");
    }
    let deep = ["x"; CONTEXT_PATH_BYTES_MAX / 2].join(".");
    bench.call("GET", &format!("context?path={deep}"), "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
}

#[tokio::test]
async fn only_what_the_step_declared_is_read() {
    let bench = declaring(json!(["order.items", "order.id", "long", "gone"]), {
        let mut input = large();
        input["long"] = json!("l".repeat(200));
        input
    })
    .await;
    assert_eq!(bench.task.context, json!({}));
    let whole = bench.call("GET", "context", "").await.expect(200);
    assert_eq!(whole["order"], large()["order"]);
    assert_eq!(whole.as_object().unwrap().keys().collect::<Vec<_>>(), ["order", "long"]);
    assert_eq!(bench.read("order.items.0").await, json!({ "price": 1.5 }));
    // Above what is declared: of that only.
    assert_eq!(bench.read("order").await, large()["order"]);
    for path in ["secret", "n", "secret.length", "orde", "order.i", "gone", "order.other"] {
        bench.call("GET", &format!("context?path={path}"), "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
    }
    let bench = declaring(json!("none"), large()).await;
    assert_eq!((&bench.task.context, &bench.task.context_url), (&json!({}), &None));
    assert_eq!(bench.call("GET", "context", "").await.expect(200), json!({}));
    bench.call("GET", "context?path=order", "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
}

#[tokio::test]
async fn a_child_reads_its_own_and_what_it_declared_of_its_parents() {
    let body = |needs: Value| {
        json!({ "each": {
            "type": "map",
            "config": {
                "items": { "type": "path", "path": "list" },
                "body": { "initialStepId": "do", "steps": { "do": { "type": "toil", "context": needs } } },
            },
        } })
    };
    let input = json!({ "list": [{ "big": "b".repeat(200) }], "outside": { "far": "f".repeat(200) } });
    let bench =
        Bench::with(body(json!(["item.big", "parent.outside", "outside.far"])), input.clone(), small()).await;
    assert!(bench.task.context_url.is_some());
    assert_eq!(bench.read("item.big").await, input["list"][0]["big"]);
    assert_eq!(bench.read("outside.far").await, input["outside"]["far"]);
    assert_eq!(bench.read("parent.outside").await, input["outside"]);
    bench.call("GET", "context?path=parent.list", "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
    bench.call("GET", "context?path=list", "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
    let bench = Bench::with(body(json!("full")), input.clone(), small()).await;
    assert_eq!(bench.read("item").await, input["list"][0]);
    bench.call("GET", "context?path=outside", "").await.problem(404, "CONTEXT_PATH_NOT_FOUND");
}

#[tokio::test]
async fn answers_are_compressed_and_streamed() {
    let mut config = small();
    config.limits.context.max_total_size = 64 << 20;
    config.limits.context.max_value_size = 64 << 20;
    let rows: Vec<Value> =
        (0..120_000).map(|n| json!({ "id": n, "name": format!("name of {n}"), "é": 1.25 })).collect();
    let input = json!({ "rows": rows, "some": "s".repeat(200_000), "few": "f".repeat(20) });
    let size = input.to_string().len();
    assert!(size > 5 << 20, "it is streamed: {size}");
    let steps = json!({ "do": { "type": "toil", "input": { "type": "static", "value": 1 } } });
    let bench = Bench::with(steps, input.clone(), config).await;
    let read = async |query: &str, coding: &'static str| {
        let path = format!("/v1/plumbing/tasks/{}/context{query}", bench.task.task_id);
        let authorization = format!("Bearer {}", bench.token());
        let headers = [("authorization", authorization.as_str()), ("accept-encoding", coding)];
        let request = request("GET", &path, &headers, Body::empty());
        let response = bench.server.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let mut plain = Vec::new();
        match header("content-encoding").as_deref() {
            None => plain = bytes.to_vec(),
            Some("gzip") => drop(flate2::read::GzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap()),
            Some("zstd") => plain = zstd::stream::decode_all(&*bytes).unwrap(),
            Some(other) => panic!("{other}"),
        }
        assert_eq!(header("x-uncompressed-bytes").unwrap(), plain.len().to_string());
        (serde_json::from_slice::<Value>(&plain).unwrap(), bytes.len(), header("content-encoding"))
    };
    for (coding, named) in [("", None), ("gzip", Some("gzip")), ("gzip, zstd", Some("zstd"))] {
        let (value, sent, used) = read("", coding).await;
        assert_eq!(value, input);
        assert_eq!(
            (used.as_deref(), sent < size / 3),
            (named, named.is_some()),
            "{coding}: {sent} of {size}"
        );
        let (value, _, used) = read("?path=some", coding).await;
        assert_eq!((value, used.as_deref()), (input["some"].clone(), named));
        let (value, _, used) = read("?path=few", coding).await;
        assert_eq!((value, used), (input["few"].clone(), None), "too small to compress");
    }
    let counters = &bench.server.engine.counters;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert!(load(&counters.context_bytes_sent) < load(&counters.context_bytes_read));
}

#[tokio::test]
async fn patches_are_checked_and_repeatable() {
    let bench = declaring(json!("full"), large()).await;
    bench.stage(1, json!({ "a.b": 1, "__proto__": 2 })).await.expect(204);
    bench.stage(1, json!({ "a.b": 1, "__proto__": 2 })).await.expect(204);
    bench.stage(1, json!({ "a.b": 2 })).await.problem(422, "CONTEXT_SEQUENCE_TAKEN");
    let list = json!([{ "op": "set", "path": "n", "value": null }, { "op": "delete", "path": "secret" },
        { "op": "merge", "value": { "m": [] } }]);
    bench.stage(2, list).await.expect(204);
    for (body, status, code) in [
        (json!({ "a..b": 1 }), 422, "INVALID_REQUEST"),
        (json!({ "": 1 }), 422, "INVALID_REQUEST"),
        (json!({ "a".repeat(CONTEXT_PATH_BYTES_MAX + 1): 1 }), 422, "INVALID_REQUEST"),
        (json!({}), 422, "INVALID_REQUEST"),
        (json!([]), 422, "INVALID_REQUEST"),
        (json!(null), 422, "INVALID_REQUEST"),
        (json!([{ "op": "grow" }]), 422, "INVALID_REQUEST"),
        (json!([{ "op": "delete", "path": "" }]), 422, "INVALID_REQUEST"),
        (json!(vec![json!({ "op": "delete", "path": "a" }); 10_001]), 422, "INVALID_REQUEST"),
        (json!({ "a": "x".repeat(1 << 20) }), 413, "CONTEXT_VALUE_TOO_LARGE"),
        (json!({ ["a"; 17].join("."): 1 }), 422, "CONTEXT_NESTING_LIMIT"),
    ] {
        bench.stage(3, body).await.problem(status, code);
    }
    for query in [
        "",
        "?sequence=0",
        "?sequence=-1",
        "?sequence=x",
        "?sequence=1&sequence=2",
        &format!("?sequence={}", CONTEXT_PATCHES_MAX + 1),
    ] {
        bench.call("PATCH", &format!("context{query}"), "{}").await.problem(422, "INVALID_PARAMETER");
    }
    let huge = " ".repeat(CONTEXT_PATCH_BYTES_MAX + 1);
    bench.call("PATCH", "context?sequence=3", huge).await.problem(413, "BODY_TOO_LARGE");
    bench.call("PATCH", "context?sequence=3", "{").await.problem(400, "INVALID_JSON");
    bench.call("PUT", "context", "{}").await.problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(bench.context().await, large(), "nothing is merged yet");
    bench.spill(json!({ "contextPatches": 2, "contextUpdates": { "a.c": 3 } })).await.expect(200);
    let context = bench.context().await;
    assert_eq!(
        (&context["a"], &context["__proto__"], &context["m"]),
        (&json!({ "b": 1, "c": 3 }), &json!(2), &json!([]))
    );
    assert_eq!(context.get("secret"), None);
    bench.stage(3, json!({ "late": 1 })).await.problem(409, "STALE_ATTEMPT");
}

#[tokio::test]
async fn an_attempt_stages_no_more_than_a_context_may_have() {
    let mut config = small();
    config.limits.context.max_total_size = 1000;
    let bench = Bench::with(crate::work(), json!({}), config).await;
    for sequence in 1..=2 {
        bench.stage(sequence, json!({ "a": "x".repeat(400) })).await.expect(204);
    }
    bench.stage(3, json!({ "a": "x".repeat(400) })).await.problem(413, "CONTEXT_PATCH_TOO_LARGE");
    bench.stage(3, json!({ "b": 1 })).await.expect(204);
    bench.spill(json!({ "contextPatches": 3 })).await.expect(200);
    assert_eq!(bench.context().await["b"], json!(1));
}

#[tokio::test]
async fn a_lost_attempt_takes_its_patches_with_it_and_the_next_one_reads_the_same() {
    let bench = declaring(json!("full"), large()).await;
    bench.stage(1, json!({ "a": 1 })).await.expect(204);
    assert_eq!(bench.read("order.id").await, json!(7));
    bench.lose_lease().await;
    bench.call("GET", "context", "").await.problem(409, "STALE_ATTEMPT");
    bench.stage(2, json!({ "a": 2 })).await.problem(409, "STALE_ATTEMPT");
    let task = claim(&bench.queue).await;
    let bench = Bench { task, ..bench };
    assert_eq!(bench.task.attempt, 2);
    assert!(bench.task.context_url.is_some());
    assert_eq!(bench.call("GET", "context", "").await.expect(200), large());
    bench.stage(1, json!({ "b": 1 })).await.expect(204);
    bench.spill(json!({ "contextPatches": 1 })).await.expect(200);
    let context = bench.context().await;
    assert_eq!((context.get("a"), &context["b"]), (None, &json!(1)));
}

#[tokio::test]
async fn a_result_without_all_of_its_patches_fails() {
    let bench = declaring(json!("full"), large()).await;
    bench.stage(1, json!({ "a": 1 })).await.expect(204);
    bench.stage(3, json!({ "a": 3 })).await.expect(204);
    bench.spill(json!({ "contextPatches": 3 })).await.expect(200);
    let shown = bench.server.get(&format!("/v1/executions/{}", bench.task.execution_id)).await.expect(200);
    assert_eq!(
        (&shown["status"], &shown["error"]["code"]),
        (&json!("failed"), &json!("CONTEXT_PATCH_MISSING")),
        "{shown}"
    );
    assert_eq!(bench.context().await, large());
}
