//! The JSON Schema (2020-12) of a flow, made from the tables of fields that the parser checks by.

use serde_json::{Value, json};

use super::parse::{BODY, FLOW_FIELDS, KINDS, STEP_FIELDS, schema_of, selector_schema};

/// Where the schema is published.
const ID: &str = "https://flowmonkey.dev/schema/flow.schema.json";

/// The JSON Schema of a flow. It says what JSON Schema can say: shapes, types, ranges. Names of steps, expressions,
/// versions and nesting are checked by [`super::parse`] only.
#[must_use]
pub fn json_schema() -> Value {
    let mut flow = schema_of(&FLOW_FIELDS);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "FlowMonkey flow",
    });
    if let (Some(schema), Some(flow)) = (schema.as_object_mut(), flow.as_object_mut()) {
        schema.append(flow);
    }
    let mut step = schema_of(&STEP_FIELDS);
    step["allOf"] = KINDS.iter().map(config_rule).collect();
    let mut graph = schema_of(&BODY);
    graph["description"] = Value::from("A body that is a graph of steps.");
    schema["$defs"] = json!({
        "step": step,
        "body": {
            "if": { "anyOf": [{ "required": ["steps"] }, { "required": ["initialStepId"] }] },
            "then": graph,
            "else": { "$ref": "#/$defs/step" },
        },
        "selector": selector_schema(),
    });
    schema
}

/// What the `config` of an orchestrated type looks like.
fn config_rule(kind: &super::parse::Kind) -> Value {
    let mut config = schema_of(&kind.shape);
    config["description"] = Value::from(kind.doc);
    let mut then = json!({ "properties": { "config": config } });
    if kind.shape.fields.iter().any(|field| field.required) {
        then["required"] = json!(["config"]);
    } else if let Some(config) = then["properties"]["config"].as_object_mut() {
        config.insert("type".to_owned(), json!(["object", "null"]));
    }
    json!({ "if": { "properties": { "type": { "const": kind.name } } }, "then": then })
}
