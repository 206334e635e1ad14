//! The corpus of flow documents: what is valid is read, what is not gives exactly the recorded issues.
//!
//! `FLOWMONKEY_BLESS=1` writes what is recorded anew: the expected issues, and `docs/flow.schema.json`.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowmonkey_core::flow::definition::{
    Delay, Flow, FlowStatus, JoinRule, OnItemError, PipeOn, Step, StepKind, Switch,
};
use flowmonkey_core::flow::graph::mermaid;
use flowmonkey_core::flow::json_schema::json_schema;
use flowmonkey_core::flow::parse::{
    Document, Format, Issue, Severity, latest, parse_document, parse_flow_value,
};
use flowmonkey_core::flow::schema::Schema;
use semver::Version;
use serde_json::{Value, json};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/flows");
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

fn blessing() -> bool {
    std::env::var_os("FLOWMONKEY_BLESS").is_some()
}

fn documents(folder: &str) -> Vec<(PathBuf, Format)> {
    let mut paths: Vec<(PathBuf, Format)> = fs::read_dir(Path::new(CORPUS).join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| Some((path.clone(), Format::of_path(path.to_str()?)?)))
        .collect();
    paths.sort_by(|left, right| left.0.cmp(&right.0));
    assert!(paths.len() > 5, "the corpus is missing");
    paths
}

fn valid(name: &str) -> Document {
    let path = Path::new(CORPUS).join("valid").join(name);
    parse_document(&fs::read_to_string(path).unwrap(), Format::of_path(name).unwrap()).unwrap()
}

fn step<'f>(flow: &'f Flow, id: &str) -> &'f Arc<Step> {
    &flow.graph.steps[id]
}

fn show(issues: &[Issue]) -> String {
    issues.iter().map(|issue| format!("{issue}\n    {}\n", issue.pointer)).collect()
}

/// Compares with what is recorded at `path`, or records it.
fn assert_recorded(path: &Path, text: &str) {
    if blessing() {
        fs::write(path, text).unwrap();
    }
    let recorded = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        recorded,
        text,
        "{} is not current: run with FLOWMONKEY_BLESS=1 and read the difference",
        path.display()
    );
}

#[test]
fn every_valid_document_is_read_alone_and_as_values() {
    for (path, format) in documents("valid") {
        let text = fs::read_to_string(&path).unwrap();
        let document = parse_document(&text, format)
            .unwrap_or_else(|issues| panic!("{}:\n{}", path.display(), show(&issues)));
        assert!(!document.flows.is_empty(), "{}", path.display());
        for flow in document.flows {
            let (again, _) = parse_flow_value(&flow.source).unwrap();
            assert_eq!((&again.hash, &again.id), (&flow.hash, &flow.id));
        }
    }
}

#[test]
fn every_invalid_document_gives_the_recorded_issues() {
    for (path, format) in documents("invalid") {
        let text = fs::read_to_string(&path).unwrap();
        let issues = parse_document(&text, format).unwrap_err();
        assert!(issues.iter().any(|issue| issue.severity == Severity::Error), "{}", path.display());
        assert_recorded(
            &path.with_extension(format!("{}.txt", path.extension().unwrap().to_str().unwrap())),
            &show(&issues),
        );
    }
}

#[test]
fn the_published_schema_is_current_and_accepts_every_valid_flow() {
    let schema = json_schema();
    assert_recorded(
        &Path::new(DOCS).join("flow.schema.json"),
        &format!("{}\n", serde_json::to_string_pretty(&schema).unwrap()),
    );
    let schema = Schema::compile(&schema).unwrap();
    for (path, _) in documents("valid") {
        for flow in &valid(path.file_name().unwrap().to_str().unwrap()).flows {
            let result = schema.check(&flow.source);
            assert!(result.is_ok(), "{} `{}`: {result:?}", path.display(), flow.id);
        }
    }
}

#[test]
fn the_published_schema_refuses_broken_structure() {
    let schema = Schema::compile(&json_schema()).unwrap();
    let flow =
        |step: Value| json!({"id": "x", "version": "1.0.0", "initialStepId": "a", "steps": {"a": step}});
    assert!(schema.check(&flow(json!({"type": "echo", "unknown": 1}))).is_ok());
    let broken = [
        json!({}),
        json!({"id": "x", "version": "1.0.0", "initialStepId": "a", "steps": {}}),
        flow(json!({})),
        flow(json!(7)),
        flow(json!({"type": "echo", "input": {"type": "pth"}})),
        flow(json!({"type": "echo", "input": {"type": "path"}})),
        flow(json!({"type": "echo", "timeoutMs": -1})),
        flow(json!({"type": "echo", "retry": {"maxAttempts": 1001}})),
        flow(json!({"type": "echo", "vault": {"keys": []}})),
        flow(json!({"type": "wait-signal", "config": {"signl": "x"}})),
        flow(json!({"type": "wait-event"})),
        flow(json!({"type": "sub-flow", "config": {}})),
        flow(json!({"type": "map", "config": {"items": {"type": "full"}}})),
        flow(json!({"type": "map", "config": {"items": {"type": "full"}, "body": {"config": {}}}})),
        flow(json!({"type": "parallel", "config": {"branches": {"a": {"steps": {}, "initialStepId": "x"}}}})),
        flow(json!({"type": "parallel", "config": {"branches": {"a": {"type": "echo"}}, "join": "most"}})),
    ];
    for value in broken {
        assert!(schema.check(&value).is_err(), "{value}");
        assert!(parse_flow_value(&value).is_err(), "{value}");
    }
}

#[test]
fn the_order_example_has_the_meaning_it_is_given() {
    let document = valid("order.yaml");
    assert!(document.warnings.is_empty(), "{}", show(&document.warnings));
    let flow = &document.flows[0];
    assert_eq!(flow.timeouts.execution_ms, Some(86_400_000));
    assert_eq!(flow.budget.max_cost_usd, Some(5.0));
    let StepKind::Map(map) = &step(flow, "quote").kind else { panic!("not a map") };
    assert_eq!(
        (map.item_key.as_str(), map.max_concurrency, map.on_item_error),
        ("item", Some(20), OnItemError::Tolerate(2))
    );
    assert_eq!(&*map.body.initial, "quote");
    assert!(map.body.output.is_some());
    let StepKind::Parallel(parallel) = &step(flow, "checks").kind else { panic!("not a parallel") };
    assert_eq!(
        parallel.branches.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["stock", "fraud"]
    );
    assert!(
        matches!(&step(flow, "route").kind, StepKind::Switch(Switch::Cases(cases)) if cases.cases.len() == 1)
    );
    assert_eq!(step(flow, "pay").compensate_with.as_deref(), Some("refund"));
    assert!(flow.graph_at(&["checks".into(), "fraud".into()]).is_some());
    assert!(flow.output.is_some());
}

#[test]
fn constructs_get_their_defaults_and_values() {
    let document = valid("delay.yaml");
    let flow = &document.flows[0];
    let expected = 3 + 500 + 60_000 + 7_200_000 + 86_400_000;
    assert!(matches!(step(flow, "units").kind, StepKind::Delay(Delay::For(millis)) if millis == expected));

    let document = valid("waits.yaml");
    let flow = &document.flows[0];
    assert!(matches!(&step(flow, "paid").kind, StepKind::WaitSignal(wait) if wait.signal == "paid"));
    assert!(
        matches!(&step(flow, "shipped").kind, StepKind::WaitSignal(wait) if wait.signal == "parcel-shipped")
    );

    let document = valid("fan-out.yaml");
    let flow = &document.flows[0];
    assert!(
        matches!(&step(flow, "checks").kind, StepKind::Parallel(parallel) if parallel.join == JoinRule::N(1))
    );
    let ask = &flow.graph_at(&["poll".into()]).unwrap().steps["ask"];
    assert_eq!(&*ask.type_name, "http-request");
    assert!(matches!(&step(flow, "again").kind, StepKind::Loop(config) if config.max_iterations == 1000));

    let document = valid("sub-flow.yaml");
    assert!(
        matches!(&step(&document.flows[0], "wait").kind, StepKind::SubFlow(sub) if sub.wait_for_completion)
    );

    let document = valid("step-fields.yaml");
    let flow = &document.flows[0];
    assert_eq!(flow.status, FlowStatus::Draft);
    assert!(document.warnings.is_empty(), "{}", show(&document.warnings));

    let document = valid("flowmonkey-everything.json");
    let flow = &document.flows[0];
    let retry = step(flow, "fetch").retry.as_ref().unwrap();
    assert_eq!((retry.max_attempts, retry.backoff_ms, retry.max_backoff_ms), (4, 200, 5000));
    assert_eq!(flow.pipes[0].on, PipeOn::Any);
}

#[test]
fn a_document_may_hold_several_flows_and_tables() {
    let document = valid("several.yaml");
    let ids: Vec<String> =
        document.flows.iter().map(|flow| format!("{}@{}", flow.id, flow.version)).collect();
    assert_eq!(ids, ["first@1.0.0", "second@1.0.0", "second@1.1.0", "third@1.0.0"]);
    assert_eq!(document.tables[0]["id"], "orders");
    let document = valid("flowmonkey-example-09-pipes.json");
    assert_eq!((document.flows.len(), document.tables.len()), (1, 1));
    assert_eq!(valid("flowmonkey-shared.json").flows.len(), 6);
    let off = valid("pipes.yaml");
    assert_eq!(off.flows[0].pipes.iter().map(|pipe| pipe.id.as_str()).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_cycle_without_progress_is_a_warning() {
    let document = valid("flowmonkey-shared.json");
    let [warning] = document.warnings.as_slice() else { panic!("{}", show(&document.warnings)) };
    assert_eq!((warning.code, warning.pointer.as_str()), ("cycle", "/4/steps/step1"));
    assert!(warning.message.contains("`step1` → `step2` → `step1`"), "{}", warning.message);
}

#[test]
fn the_hash_depends_on_the_content_only() {
    let json =
        r#"{"id":"x","version":"1.0.0","initialStepId":"a","steps":{"a":{"type":"echo","config":{}}}}"#;
    let yaml = "version: 1.0.0\nid: x\nsteps: { a: { config: {}, type: echo } }\ninitialStepId: a\n";
    let hash = |text, format| parse_document(text, format).unwrap().flows[0].hash.clone();
    assert_eq!(hash(json, Format::Json), hash(yaml, Format::Yaml));
    assert_ne!(hash(json, Format::Json), hash(&json.replace("echo", "succeed"), Format::Json));
}

#[test]
fn formats_are_known_by_name_and_guessed_by_content() {
    assert_eq!(Format::of_path("a/b.YML"), Some(Format::Yaml));
    assert_eq!(Format::of_path("a.json"), Some(Format::Json));
    assert_eq!(Format::of_path("a.txt"), None);
    assert_eq!(Format::guess("\u{feff} {\"id\": 1}"), Format::Json);
    assert_eq!(Format::guess("# x\nid: 1"), Format::Yaml);
}

#[test]
fn issues_are_shown_and_sent_with_their_place() {
    let issues = parse_document(
        "id: x\nversion: 1.0.0\ninitialStepId: b\nsteps:\n  a: { type: echo }\n",
        Format::Yaml,
    );
    let issues = issues.unwrap_err();
    let wanted =
        "3:16: error: flow `x`: `initialStepId` names step \"b\", which was not found [unknown-step]";
    assert_eq!(issues[0].to_string(), wanted);
    let sent = serde_json::to_value(&issues[0]).unwrap();
    assert_eq!(
        (&sent["severity"], &sent["line"], &sent["pointer"]),
        (&json!("error"), &json!(3), &json!("/initialStepId"))
    );
}

// FlowMonkey's tests of its registry, as far as they are about definitions.

fn flowmonkey_flow(change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let mut flow = json!({"id": "test", "version": "1.0.0", "initialStepId": "start", "steps": {"start": {
        "id": "start", "type": "echo", "config": {}, "input": {"type": "full"}, "transitions": {"onSuccess": null}}}});
    change(&mut flow);
    parse_flow_value(&flow).map(|_| ()).map_err(|issues| show(&issues))
}

#[test]
fn flowmonkey_valid_flows_are_accepted() {
    flowmonkey_flow(|_| ()).unwrap();
    flowmonkey_flow(|flow| {
        flow["steps"]["start"]["transitions"] = json!({"onSuccess": "a", "onFailure": "b", "onResume": "c"});
        for id in ["a", "b", "c"] {
            flow["steps"][id] = json!({"id": id, "type": "echo", "config": {}, "input": {"type": "full"},
                "transitions": {"onSuccess": null}});
        }
    })
    .unwrap();
}

#[test]
fn flowmonkey_invalid_flows_are_refused_in_its_words() {
    let no_steps = flowmonkey_flow(|flow| {
        flow["steps"] = json!({});
        flow["initialStepId"] = json!("nowhere");
    });
    let text = no_steps.unwrap_err();
    assert!(text.contains("At least one step required") && !text.contains("nowhere"), "{text}");
    let text = flowmonkey_flow(|flow| flow["initialStepId"] = json!("nowhere")).unwrap_err();
    assert!(text.contains("\"nowhere\", which was not found"), "{text}");
    let text = flowmonkey_flow(|flow| flow["steps"]["start"]["transitions"]["onSuccess"] = json!("missing"))
        .unwrap_err();
    assert!(text.contains("\"missing\", which was not found"), "{text}");
    let text = flowmonkey_flow(|flow| flow["steps"]["start"]["id"] = json!("other")).unwrap_err();
    assert!(text.contains("\"other\", which does not match its key \"start\""), "{text}");
    for field in ["id", "version", "initialStepId"] {
        let text = flowmonkey_flow(|flow| flow[field] = json!("")).unwrap_err();
        assert!(text.contains("Required") || field == "version", "{text}");
    }
}

#[test]
fn the_latest_version_is_by_semver_order() {
    let versions = ["9.0.0", "10.0.0", "2.0.0", "10.0.0-rc.1"].map(|text| Version::parse(text).unwrap());
    assert_eq!(latest(&versions), Some(&versions[1]));
    assert_eq!(latest(&versions[2..3]), Some(&versions[2]));
    assert_eq!(latest(&[]), None);
}

#[test]
fn a_flow_is_drawn_with_its_bodies_and_kinds_of_edges() {
    let drawn = mermaid(&valid("order.yaml").flows[0]);
    assert_recorded(&Path::new(CORPUS).join("order.mmd"), &drawn);
    for part in ["subgraph", "-.->|\"failure\"|", "-.->|\"undone by\"|", "|\"default\"|"] {
        assert!(drawn.contains(part), "{part}: {drawn}");
    }
    assert_eq!(drawn.matches("subgraph ").count(), drawn.lines().filter(|line| line.trim() == "end").count());
}

#[test]
fn labels_of_a_drawing_cannot_become_markup() {
    let flow = json!({"id": "x", "version": "1.0.0", "initialStepId": "a\"]; end", "steps": {
        "a\"]; end": {"type": "echo", "name": "<b>\"`#1;\n%% x", "transitions": {"onResume": "b"}},
        "b": {"type": "switch", "config": {"path": "p", "cases": {"\"|x": null}}}}});
    let drawn = mermaid(&parse_flow_value(&flow).unwrap().0);
    assert!(drawn.contains("#60;b#62;#34;#96;#35;1#59; #37;#37; x"), "{drawn}");
    assert!(drawn.contains("==>|\"resume\"|"), "{drawn}");
    assert!(drawn.contains("|\"#34;#124;x\"|"), "{drawn}");
}

/// The blocks of the reference that are marked as flows or as steps, as documents.
fn reference_examples(reference: &str) -> Vec<String> {
    let mut examples = Vec::new();
    let mut lines = reference.lines();
    while let Some(line) = lines.next() {
        let steps = line == "```yaml steps";
        if !steps && line != "```yaml flow" {
            continue;
        }
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        examples.push(if steps {
            let (first, _) = block[0].split_once(':').unwrap();
            let steps: String = block.iter().map(|line| format!("  {line}\n")).collect();
            format!("id: example\nversion: 1.0.0\ninitialStepId: {first}\nsteps:\n{steps}")
        } else {
            block.join("\n")
        });
    }
    examples
}

#[test]
fn every_example_of_the_reference_is_valid() {
    let reference = fs::read_to_string(Path::new(DOCS).join("flow-language.md")).unwrap();
    let examples = reference_examples(&reference);
    assert_eq!(
        examples.len(),
        reference.matches("```yaml").count(),
        "an example is not marked as flow or steps"
    );
    assert!(examples.len() >= 15);
    for example in examples {
        let document = parse_document(&example, Format::Yaml)
            .unwrap_or_else(|issues| panic!("{example}\n{}", show(&issues)));
        assert!(
            document.warnings.iter().all(|issue| issue.code == "unreachable"),
            "{}",
            show(&document.warnings)
        );
    }
}

#[test]
fn the_reference_names_every_field_of_the_schema() {
    fn names(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Object(properties)) = map.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                if let Some(name) = map.get("const").and_then(Value::as_str) {
                    found.push(name.to_owned());
                }
                map.values().for_each(|value| names(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| names(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let reference = fs::read_to_string(Path::new(DOCS).join("flow-language.md")).unwrap();
    let mut found = Vec::new();
    names(&json_schema(), &mut found);
    assert!(found.len() > 100);
    for name in found {
        let named = [format!("`{name}`"), format!("{{ {name}: ")].iter().any(|word| reference.contains(word));
        assert!(named, "the reference does not name `{name}`");
    }
}
