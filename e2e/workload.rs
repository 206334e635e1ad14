//! The flows that the tests run.

use serde_json::{Value, json};

use crate::books::{Books, Expected};
use crate::system::System;

/// Items of the map.
pub(crate) const ITEMS: usize = 6;

/// All flows, as YAML documents.
pub(crate) const FLOWS: &str = r#"
id: chain
version: 1.0.0
initialStepId: a
steps:
  a: { type: work, outputKey: a, transitions: { onSuccess: pause } }
  pause: { type: delay, config: { ms: 30 }, transitions: { onSuccess: b } }
  b: { type: transform, input: { type: static, value: { x: 1 } }, config: { operations: [] }, outputKey: b, transitions: { onSuccess: c } }
  c: { type: work, outputKey: c }
---
id: retried
version: 1.0.0
initialStepId: a
steps:
  a:
    type: work
    config: { failTimes: 1 }
    retry: { maxAttempts: 20, initialDelayMs: 10 }
    transitions: { onSuccess: b }
  b: { type: work }
---
id: fanned
version: 1.0.0
initialStepId: all
steps:
  all:
    type: map
    config:
      items: { type: key, key: items }
      maxConcurrency: 4
      body:
        initialStepId: a
        steps:
          a: { type: work, outputKey: a }
    outputKey: all
    transitions: { onSuccess: last }
  last: { type: work }
---
id: nested
version: 1.0.0
initialStepId: child
steps:
  child: { type: sub-flow, config: { flowId: chain, wait: true }, outputKey: child, transitions: { onSuccess: last } }
  last: { type: work }
---
id: signalled
version: 1.0.0
initialStepId: wait
steps:
  wait: { type: wait-signal, config: { signal: go }, transitions: { onSuccess: last } }
  last: { type: work }
---
id: long
version: 1.0.0
initialStepId: long
steps:
  long: { type: work, config: { sleepMs: 4000 }, transitions: { onSuccess: last } }
  last: { type: work }
"#;

/// Starts one of each kind that ends by itself; `round` makes their keys differ.
pub(crate) async fn start_mix(system: &System, books: &mut Books, round: usize) {
    let completed = |tasks| Expected { status: "completed", tasks: Some(tasks) };
    let items: Vec<usize> = (0..ITEMS).collect();
    let mix: [(&str, Value, usize); 4] = [
        ("chain", json!({}), 2),
        ("retried", json!({}), 2),
        ("fanned", json!({ "items": items }), ITEMS + 1),
        ("nested", json!({}), 3),
    ];
    for (flow, input, tasks) in mix {
        let id = system.begin(flow, input, &format!("{flow}-{round}")).await;
        books.started(id, completed(tasks));
    }
    let id = system.begin("signalled", json!({}), &format!("signalled-{round}")).await;
    let signal = json!({ "name": "go", "id": format!("go-{round}") });
    let path = format!("/v1/executions/{id}:signal");
    let (status, answer) = system.call(reqwest::Method::POST, &path, Some(&signal)).await;
    assert!(status == 200 || status == 409, "{status} {answer}");
    books.started(id, completed(1));
}
