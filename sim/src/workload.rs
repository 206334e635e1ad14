//! The flows that are run, and what their documents say of steps, read apart from the engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::{Format, parse_document, parse_flow_value};
use serde_json::Value;

const DOCUMENTS: &[&str] = &[
    include_str!("flows/chain.yaml"),
    include_str!("flows/order.yaml"),
    include_str!("flows/fan.yaml"),
    include_str!("flows/nested.yaml"),
    include_str!("flows/waits.yaml"),
];

/// The handler types of the flows; each is a pool.
pub const POOLS: &[&str] = &["steady", "flaky", "undoer", "sluggish", "batcher", "failing", "costly"];

/// The flows that clients start.
pub const ROOTS: &[&str] = &["chain", "order", "fan", "nested", "waits", "spendthrift", "leaf"];

/// What documents say of steps, by flow and step.
#[derive(Debug, Default)]
pub struct StepTable(BTreeMap<(String, String), (u32, Option<String>)>);

impl StepTable {
    /// How often the step may be tried again.
    #[must_use]
    pub fn retries(&self, flow: &str, step: &str) -> u32 {
        self.0.get(&(flow.to_owned(), step.to_owned())).map_or(0, |(retries, _)| *retries)
    }

    /// The step that undoes it.
    #[must_use]
    pub fn undone_by(&self, flow: &str, step: &str) -> Option<&str> {
        self.0.get(&(flow.to_owned(), step.to_owned())).and_then(|(_, with)| with.as_deref())
    }

    fn read_steps(&mut self, flow: &str, steps: &Value) {
        for (id, step) in steps.as_object().into_iter().flatten() {
            self.read_step(flow, id, step);
        }
    }

    fn read_step(&mut self, flow: &str, id: &str, step: &Value) {
        let retries = step["retry"]["maxAttempts"].as_u64().unwrap_or(0);
        let with = step["compensateWith"].as_str().map(ToOwned::to_owned);
        let retries = u32::try_from(retries).unwrap_or(u32::MAX);
        self.0.insert((flow.to_owned(), id.to_owned()), (retries, with));
        let config = &step["config"];
        self.read_body(flow, id, &config["body"]);
        for (name, branch) in config["branches"].as_object().into_iter().flatten() {
            self.read_body(flow, name, branch);
        }
    }

    fn read_body(&mut self, flow: &str, name: &str, body: &Value) {
        if body["steps"].is_object() {
            self.read_steps(flow, &body["steps"]);
        } else if body.is_object() {
            self.read_step(flow, body["id"].as_str().unwrap_or(name), body);
        }
    }
}

/// All flows of the workload, and what their documents say.
///
/// # Panics
/// When a document is not a flow: they are part of this program.
#[must_use]
pub fn flows() -> (Vec<Arc<Flow>>, StepTable) {
    let mut flows = Vec::new();
    let mut table = StepTable::default();
    for text in DOCUMENTS {
        let document = parse_document(text, Format::Yaml);
        let document = document.unwrap_or_else(|issues| panic!("a flow of the simulation: {issues:?}"));
        for flow in document.flows {
            table.read_steps(&flow.id, &flow.source["steps"]);
            flows.push(flow);
        }
    }
    (flows, table)
}

/// The flow as a later version, which is told by its number.
///
/// # Panics
/// When it is no flow: the documents are part of this program.
#[must_use]
pub fn as_version(flow: &Flow, number: u64) -> Arc<Flow> {
    let mut source = (*flow.source).clone();
    source["version"] = format!("1.0.{number}").into();
    match parse_flow_value(&source) {
        Ok((flow, _)) => flow,
        Err(issues) => panic!("a flow of the simulation: {issues:?}"),
    }
}

/// The number of a version.
#[must_use]
pub fn version_of(version: &str) -> u64 {
    version.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// The flow with one more retry for every step than its document says.
#[must_use]
pub fn with_more_retries(flow: &Flow) -> Option<Arc<Flow>> {
    let mut source = (*flow.source).clone();
    raise_retries(&mut source);
    parse_flow_value(&source).ok().map(|(flow, _)| flow)
}

fn raise_retries(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Number(count)) = map.get("maxAttempts")
                && map.contains_key("backoffMs")
            {
                let more = count.as_u64().unwrap_or(0) + 1;
                map.insert("maxAttempts".into(), more.into());
            }
            map.values_mut().for_each(raise_retries);
        }
        Value::Array(items) => items.iter_mut().for_each(raise_retries),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
