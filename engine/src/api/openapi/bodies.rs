//! How bodies of requests look. Each describes what its route reads field by field; objects are closed where unknown fields
//! are refused. A field that is null is read as one that is not there.
#![expect(dead_code, reason = "says how bodies look")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::words::{ColumnType, ScopeWord, VerbWord};

/// A flow. All of its fields are in `flow.schema.json`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "id": "hello",
    "version": "1.0.0",
    "initialStepId": "greet",
    "steps": {
        "greet": { "type": "echo", "input": { "type": "path", "path": "name" }, "outputKey": "greeting" },
    },
}))]
pub(in crate::api) struct FlowDefinition {
    /// Names the flow.
    id: String,
    /// SemVer. A published version does not change.
    version: String,
    /// Where executions begin.
    initial_step_id: String,
    /// Steps by id.
    #[schema(value_type = Object)]
    steps: BTreeMap<String, Value>,
}

/// What starts an execution: `flowId` or `definition` has to be there.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "flowId": "hello", "input": { "name": "Ada" }, "labels": { "shop": "north" } }))]
pub(in crate::api) struct StartBody {
    /// A published flow; beside `definition`: which of the flows there.
    flow_id: Option<String>,
    /// Its version; without it the latest that is published.
    version: Option<String>,
    #[schema(schema_with = super::words::one_or_many_flows)]
    definition: Option<Value>,
    /// The initial context; empty when not given.
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
    /// The same key gives the same execution of the flow.
    idempotency_key: Option<String>,
    /// For how many milliseconds the key counts; 24 hours when not given.
    #[schema(minimum = 1)]
    idempotency_window_ms: Option<u64>,
    /// Texts by name, to search for.
    labels: Option<BTreeMap<String, String>>,
    /// Anything; it is shown with the execution.
    metadata: Option<Value>,
    /// Whose the execution is to be.
    tenant_id: Option<String>,
    /// The id that it is to have.
    execution_id: Option<String>,
    /// Start drafts and archived flows, too.
    force: Option<bool>,
    /// Limits of time, instead of the flow's.
    timeout_config: Option<TimeoutConfig>,
}

/// What starts an execution of the flow that the path names.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "input": { "name": "Ada" } }))]
pub(in crate::api) struct StartOfFlowBody {
    /// Its version; without it the latest that is published.
    version: Option<String>,
    /// The initial context; empty when not given.
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
    /// The same key gives the same execution of the flow.
    idempotency_key: Option<String>,
    /// For how many milliseconds the key counts; 24 hours when not given.
    #[schema(minimum = 1)]
    idempotency_window_ms: Option<u64>,
    /// Texts by name, to search for.
    labels: Option<BTreeMap<String, String>>,
    /// Anything; it is shown with the execution.
    metadata: Option<Value>,
    /// Whose the execution is to be.
    tenant_id: Option<String>,
    /// The id that it is to have.
    execution_id: Option<String>,
    /// Start drafts and archived flows, too.
    force: Option<bool>,
    /// Limits of time, instead of the flow's.
    timeout_config: Option<TimeoutConfig>,
}

/// Limits of time of an execution.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct TimeoutConfig {
    /// Milliseconds from its creation to its end.
    #[schema(minimum = 1)]
    execution_timeout_ms: Option<u64>,
    /// Milliseconds of one wait.
    #[schema(minimum = 1)]
    wait_timeout_ms: Option<u64>,
}

/// Nothing is read; the body may be missing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct NoFields {}

/// Why.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ReasonBody {
    /// Shown to people.
    reason: Option<String>,
}

/// A signal.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "name": "paid", "data": { "amount": 5 }, "id": "bank-77" }))]
pub(in crate::api) struct SignalBody {
    /// What is waited for; at most 512 bytes.
    #[schema(min_length = 1, max_length = 512)]
    name: String,
    /// Any JSON.
    data: Option<Value>,
    /// The same id counts once; at most 512 bytes.
    #[schema(max_length = 512)]
    id: Option<String>,
}

/// Who asks for another try.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct RetryBody {
    /// Shown to people.
    by: Option<String>,
}

/// Where a new execution is to begin.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "fromStep": "greet" }))]
pub(in crate::api) struct RerunBody {
    /// A step of the flow.
    #[schema(min_length = 1)]
    from_step: String,
    /// Instead of the context that the execution had there.
    #[schema(value_type = Option<Object>)]
    input: Option<Value>,
}

/// Which executions are meant. All that is given has to hold, and something has to be given.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ExecutionFilterBody {
    /// One of these statuses: a list, or one text with commas.
    #[schema(value_type = Value)]
    status: Option<Value>,
    /// The flow.
    flow_id: Option<String>,
    /// The version of the flow.
    version: Option<String>,
    /// Values of labels by name.
    labels: Option<BTreeMap<String, String>>,
    /// The tenant.
    tenant_id: Option<String>,
    /// Created at this instant or later.
    #[schema(format = DateTime)]
    created_after: Option<String>,
    /// Created before this instant.
    #[schema(format = DateTime)]
    created_before: Option<String>,
    /// Last changed at this instant or later.
    #[schema(format = DateTime)]
    updated_after: Option<String>,
    /// Last changed before this instant.
    #[schema(format = DateTime)]
    updated_before: Option<String>,
    /// Ended at this instant or later.
    #[schema(format = DateTime)]
    ended_after: Option<String>,
    /// Ended before this instant.
    #[schema(format = DateTime)]
    ended_before: Option<String>,
    /// The code of its error.
    error_code: Option<String>,
    /// The step that it is at, or ended at.
    current_step_id: Option<String>,
    /// How the reason begins for which it waits.
    waiting_reason: Option<String>,
    /// How its id begins.
    #[schema(pattern = "^(ex_)?[0-9a-fA-F]{1,32}$")]
    id: Option<String>,
    /// Only children of this execution.
    parent: Option<String>,
    /// Children of all, too.
    children: Option<bool>,
}

/// What is done to which executions.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "verb": "cancel", "filter": { "flowId": "hello" }, "dryRun": true }))]
pub(in crate::api) struct OperationBody {
    verb: VerbWord,
    /// Why, for the verbs that take a reason.
    #[schema(max_length = 1024)]
    reason: Option<String>,
    filter: ExecutionFilterBody,
    /// Only say which executions are meant.
    dry_run: Option<bool>,
    /// At most so many executions.
    #[schema(minimum = 1, maximum = 1_000_000)]
    max: Option<u64>,
}

/// How long executions of a flow are kept after they have ended. One of the two has to be there.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct RetentionBody {
    /// Days of those that completed; without it the default.
    #[schema(minimum = 1, maximum = 36_500)]
    completed_days: Option<u64>,
    /// Days of all others; without it the default.
    #[schema(minimum = 1, maximum = 36_500)]
    failed_days: Option<u64>,
}

/// Which version.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct VersionBody {
    /// One version; without it all of them.
    #[schema(min_length = 1)]
    version: Option<String>,
}

/// An event.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "name": "parcel.arrived", "data": { "parcel": 7 } }))]
pub(in crate::api) struct EventBody {
    /// What is waited for. Names that begin with `flowmonkey.` are the engine's own.
    #[schema(min_length = 1)]
    name: String,
    /// Any JSON, at most 256 KiB.
    data: Option<Value>,
    /// The same id counts once; without one the engine makes one.
    #[schema(min_length = 1)]
    id: Option<String>,
}

/// An event as CloudEvents 1.0 has it. Extension attributes stand beside these.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(example = json!({ "specversion": "1.0", "id": "77", "source": "/depot/3", "type": "parcel.arrived", "data": { "parcel": 7 } }))]
pub(in crate::api) struct CloudEvent {
    /// `1.0`.
    specversion: String,
    /// With the source it names the event.
    id: String,
    /// Who publishes it.
    source: String,
    /// Its name.
    r#type: String,
    /// What it is about.
    subject: Option<String>,
    /// When it happened (RFC 3339).
    time: Option<String>,
    /// The media type of the data.
    datacontenttype: Option<String>,
    /// The schema of the data.
    dataschema: Option<String>,
    /// The data.
    data: Option<Value>,
    /// Instead: bytes, as base64.
    #[serde(rename = "data_base64")]
    #[schema(nullable = false)]
    data_base64: Option<String>,
}

/// A webhook.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "url": "https://hooks.example/flowmonkey", "events": ["order.*"] }))]
pub(in crate::api) struct WebhookBody {
    /// Where events are sent: `https`, or as the settings allow.
    url: String,
    /// Whose it is to be.
    tenant_id: Option<String>,
    /// Names of events, in which `*` stands for any text; the failures of executions when not given.
    #[schema(min_items = 1, max_items = 50)]
    events: Option<Vec<String>>,
    /// Shown to people.
    description: Option<String>,
    /// Whether anything is sent; true when not given.
    active: Option<bool>,
}

/// What is to change of a webhook; what is not named stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "active": false }))]
pub(in crate::api) struct WebhookChange {
    /// Where events are sent.
    url: Option<String>,
    /// Names of events, in which `*` stands for any text.
    #[schema(min_items = 1, max_items = 50)]
    events: Option<Vec<String>>,
    /// Shown to people.
    description: Option<String>,
    /// Whether anything is sent. True also makes a webhook count again that its receiver had ended.
    active: Option<bool>,
}

/// A key that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "name": "dashboard", "scopes": ["viewer"], "expiresInSeconds": 86_400 }))]
pub(in crate::api) struct KeyBody {
    /// Shown to people.
    #[schema(min_length = 1)]
    name: String,
    /// What it allows.
    #[schema(min_items = 1)]
    scopes: Vec<ScopeWord>,
    /// The tenant whose rows it shows; without one, and made by who sees all: all rows.
    tenant_id: Option<String>,
    /// How long it counts; for ever when not given.
    expires_in_seconds: Option<u64>,
}

/// A table.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({ "columns": [{ "id": "name", "type": "string" }] }))]
pub(in crate::api) struct TableBody {
    /// As in the path, if it is given.
    id: Option<String>,
    /// Whose it is to be.
    tenant_id: Option<String>,
    /// Its columns.
    #[schema(max_items = 500)]
    columns: Vec<ColumnBody>,
}

/// A column of a table.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::api) struct ColumnBody {
    /// The key in rows.
    #[schema(min_length = 1)]
    id: String,
    /// Shown to people.
    name: Option<String>,
    r#type: ColumnType,
    /// Whether rows must have it.
    required: Option<bool>,
}
