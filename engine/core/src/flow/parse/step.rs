//! Reads steps and graphs of steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use serde_json::{Map, Value, json};

use super::checks;
use super::config;
use super::fields::{self, Shape, optional, required, unavailable};
use super::orchestrated::{self, Kind};
use super::reader::{Object, Reader};
use super::retry;
use crate::flow::definition::{
    ContextNeeds, Graph, OnExhausted, Priority, Step, StepId, StepKind, TaskStep, Transitions,
};

/// Handler types with a second name, which is resolved here: name and handler type.
const ALIASES: &[(&str, &str)] = &[("http", "http-request")];

/// The fields of a step.
pub(crate) const STEP_FIELDS: Shape = Shape {
    fields: &[
        optional(
            "id",
            fields::name,
            "The step's name. Default: its key in `steps`, which it must be equal to.",
        ),
        required("type", fields::name, "An orchestrated type, or the type of a handler."),
        optional("name", fields::text, "For display."),
        optional("config", fields::object, "Settings of the type; a handler's are opaque to the engine."),
        optional("input", fields::selector, "What the step is given. Default: nothing."),
        optional(
            "outputKey",
            fields::text,
            "Dotted path in the context where the output is written. Default: nowhere.",
        ),
        optional("transitions", transitions_schema, "Where to go next. Default: the end."),
        optional("retry", retry::schema, "When and how often a failed step runs again. Default: never."),
        optional("when", fields::expression, "CEL; when false the step is skipped and `onSuccess` is next."),
        optional(
            "timeoutMs",
            fields::milliseconds,
            "Milliseconds one attempt of a handler may take (`TIMEOUT`).",
        ),
        optional(
            "heartbeatTimeoutMs",
            fields::milliseconds,
            "Milliseconds without a heartbeat after which the lease ends.",
        ),
        optional(
            "scheduleToStartMs",
            fields::milliseconds,
            "Milliseconds an attempt may wait for a worker (`SCHEDULE_TO_START_TIMEOUT`).",
        ),
        optional(
            "totalTimeoutMs",
            fields::milliseconds,
            "Milliseconds for all attempts and back-offs of one visit together.",
        ),
        optional(
            "handlerVersion",
            fields::name,
            "SemVer requirement on the handler's version. Default: any.",
        ),
        optional(
            "priority",
            || json!({ "enum": ["high", "normal", "low"], "type": "string" }),
            "Which list of the queue. Default `normal`.",
        ),
        optional(
            "context",
            context_schema,
            "How much of the context travels with the task: `full` (default, up to the inline limit), `none`, or a list of paths.",
        ),
        optional(
            "idempotencyKey",
            fields::selector_or_template,
            "Replaces the idempotency key that handlers are given: a selector, or a text as template.",
        ),
        optional("outputSchema", fields::schema, "JSON Schema that the output is checked against."),
        optional(
            "output",
            fields::selector,
            "The result of a body that is one step. Default: the step's output.",
        ),
        optional("compensateWith", fields::name, "The step that undoes this one."),
        optional(
            "onExhausted",
            || json!({ "enum": ["fail", "incident"], "type": "string" }),
            "What happens when the retries are used up. Default `fail`.",
        ),
        unavailable("vault"),
        unavailable("region"),
        unavailable("routing"),
        unavailable("residency"),
    ],
    strict: false,
};

/// Fields of a step that mean something for tasks only.
const TASK_FIELDS: &[&str] = &[
    "timeoutMs",
    "heartbeatTimeoutMs",
    "scheduleToStartMs",
    "handlerVersion",
    "priority",
    "context",
    "idempotencyKey",
];

/// The fields of `transitions`.
pub(super) const TRANSITION_FIELDS: Shape = Shape {
    fields: &[
        optional("onSuccess", fields::target, "The step after success. Null or missing: the end."),
        optional(
            "onFailure",
            fields::target,
            "The step after a failure. Null or missing: the execution fails.",
        ),
        optional("onResume", fields::target, "The step after a wait. Null or missing: `onSuccess`."),
    ],
    strict: false,
};

fn transitions_schema() -> Value {
    fields::schema_of(&TRANSITION_FIELDS)
}

fn context_schema() -> Value {
    json!({ "anyOf": [{ "enum": ["full", "none"] }, { "type": "array", "items": { "type": "string" } }] })
}

/// What a step is read within.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a, 's> {
    /// The id of the step.
    pub(super) id: &'a str,
    /// The ids of all steps of its graph.
    pub(super) steps: &'s BTreeSet<&'a str>,
    /// How many bodies are around its graph.
    pub(super) depth: usize,
}

/// Reads `initialStepId`, `steps` and the connections between them. `path` names the bodies around the graph (`"quote/"`),
/// `roots` are steps that something outside the graph refers to.
pub(super) fn read_graph(
    object: &Object<'_>,
    path: &str,
    depth: usize,
    roots: &[Option<StepId>],
) -> Option<Graph> {
    let map = object.get("steps")?.object()?;
    if map.map().is_empty() {
        let hint = Some("add a step, and name it in `initialStepId`".to_owned());
        map.reader().error("no-steps", "is empty: At least one step required", hint);
        return None;
    }
    let names: BTreeSet<&str> = map.map().keys().map(String::as_str).collect();
    let initial = object.get("initialStepId").and_then(|reader| reader.step(&names));
    let mut steps = BTreeMap::new();
    let mut order = Vec::with_capacity(names.len());
    for (key, reader) in map.entries() {
        if key.is_empty() {
            reader.error("empty", "has an empty key: Required", Some("give the step a name".to_owned()));
            continue;
        }
        let reader = reader.named(&format!("step `{path}{key}`"));
        let surroundings = Surroundings { id: key, steps: &names, depth };
        let Some(object) = reader.shaped(&STEP_FIELDS) else { continue };
        if let Some(id) = object.get("id").and_then(|id| id.name())
            && id != key
        {
            let hint = "make the two equal, or leave `id` out".to_owned();
            let text = format!("has the id \"{id}\", which does not match its key \"{key}\"");
            reader.error("id-mismatch", &text, Some(hint));
        }
        if let Some(output) = object.get("output") {
            let hint = Some("in a graph of steps, give `output` beside `steps`".to_owned());
            output.warning("no-effect", "has an effect only in a body that is one step", hint);
        }
        if let Some(step) = read_step(&object, surroundings, &format!("{path}{key}/")) {
            order.push(Arc::clone(&step.id));
            steps.insert(Arc::clone(&step.id), Arc::new(step));
        }
    }
    let complete = steps.len() == names.len();
    let graph = Graph { initial: initial?, steps, order, output: None };
    if complete {
        checks::check(&graph, map.reader(), path, roots);
    }
    complete.then_some(graph)
}

/// Reads one step whose known fields have been checked. `path` names its bodies.
pub(super) fn read_step(object: &Object<'_>, surroundings: Surroundings<'_, '_>, path: &str) -> Option<Step> {
    let kind_reader = object.get("type");
    let written = kind_reader.as_ref().and_then(|reader| reader.name());
    let known = written.and_then(orchestrated::find);
    refuse_vault(object, known);
    let transitions = object
        .get("transitions")
        .map_or(Some(Transitions::default()), |reader| read_transitions(&reader, surroundings.steps));
    let input = read(object, "input", Reader::selector);
    let output_key = match object.get("outputKey").filter(|reader| reader.value() != "") {
        Some(reader) => reader.path().map(Some),
        None => Some(None),
    };
    let retry = read(object, "retry", retry::read);
    let when = read(object, "when", Reader::expression);
    let total_timeout_ms = read(object, "totalTimeoutMs", Reader::duration);
    let output_schema = read(object, "outputSchema", Reader::schema);
    let compensate_with = read(object, "compensateWith", |reader| {
        let target = reader.step(surroundings.steps)?;
        if *target == *surroundings.id {
            let hint = Some("name another step".to_owned());
            reader.error("compensates-itself", "names the step itself", hint);
            return None;
        }
        Some(target)
    });
    let on_exhausted = read(object, "onExhausted", |reader| {
        reader.word(&[("fail", OnExhausted::Fail), ("incident", OnExhausted::Incident)])
    });
    let written = written?;
    let type_name = ALIASES.iter().find(|(alias, _)| *alias == written).map_or(written, |(_, name)| *name);
    let kind = match known {
        Some(known) => read_orchestrated(object, known, surroundings, path),
        None => {
            config::check(object, type_name);
            read_task(object).map(StepKind::Task)
        }
    };
    // The alias has always ignored what it was given, and the handler cannot know by which name it was called.
    let ignores_input = type_name != written;
    Some(Step {
        id: Arc::from(surroundings.id),
        type_name: Arc::from(type_name),
        name: read(object, "name", Reader::text)?.map(str::to_owned),
        kind: kind?,
        input: input?.filter(|_| !ignores_input),
        output_key: output_key?,
        transitions: transitions?,
        retry: retry?,
        when: when?,
        total_timeout_ms: total_timeout_ms?,
        output_schema: output_schema?,
        compensate_with: compensate_with?,
        on_exhausted: on_exhausted?.unwrap_or_default(),
    })
}

/// An optional field: the outer none says that an issue was reported.
pub(super) fn read<'a, T>(
    object: &Object<'a>,
    key: &str,
    read: impl FnOnce(&Reader<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match object.get(key) {
        Some(reader) => read(&reader).map(Some),
        None => Some(None),
    }
}

fn read_orchestrated(
    object: &Object<'_>,
    known: &Kind,
    surroundings: Surroundings<'_, '_>,
    path: &str,
) -> Option<StepKind> {
    for field in TASK_FIELDS {
        if let Some(reader) = object.get(field) {
            let hint =
                Some("the engine does this step itself; only handlers' steps have this field".to_owned());
            reader.warning("no-effect", &format!("has no effect on the type `{}`", known.name), hint);
        }
    }
    static NOTHING: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    let config = object.get("config").unwrap_or_else(|| object.reader().entry("config", &NOTHING));
    let config = config.shaped(&known.shape)?;
    // Without effect, but not without rules: the published schema knows these fields at every step.
    let task = TASK_FIELDS.iter().any(|field| object.get(field).is_some()).then(|| read_task(object));
    let kind = (known.read)(&config, surroundings, path);
    if let Some(None) = task { None } else { kind }
}

fn read_task(object: &Object<'_>) -> Option<TaskStep> {
    let config = read(object, "config", |reader| reader.object().map(|object| object.map().clone()));
    let handler_version = read(object, "handlerVersion", Reader::version_requirement);
    let timeout_ms = read(object, "timeoutMs", Reader::duration);
    let heartbeat_timeout_ms = read(object, "heartbeatTimeoutMs", Reader::duration);
    let schedule_to_start_ms = read(object, "scheduleToStartMs", Reader::duration);
    let priority = read(object, "priority", |reader| {
        reader.word(&[("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)])
    });
    let context = read(object, "context", read_context);
    let idempotency_key = read(object, "idempotencyKey", Reader::selector_or_template);
    Some(TaskStep {
        config: Value::Object(config?.unwrap_or_default()),
        handler_version: handler_version?,
        timeout_ms: timeout_ms?,
        heartbeat_timeout_ms: heartbeat_timeout_ms?,
        schedule_to_start_ms: schedule_to_start_ms?,
        priority: priority?.unwrap_or_default(),
        context: context?.unwrap_or_default(),
        idempotency_key: idempotency_key?,
    })
}

fn read_context(reader: &Reader<'_>) -> Option<ContextNeeds> {
    if !reader.value().is_array() {
        return reader
            .word(&[("full", false), ("none", true)])
            .map(|none| if none { ContextNeeds::None } else { ContextNeeds::Full });
    }
    let paths: Vec<_> = reader.list()?.iter().map(Reader::path).collect();
    paths.into_iter().collect::<Option<_>>().map(ContextNeeds::Paths)
}

fn read_transitions<'a>(reader: &Reader<'a>, steps: &BTreeSet<&'a str>) -> Option<Transitions> {
    let object = reader.shaped(&TRANSITION_FIELDS)?;
    let target = |key| object.get(key).map_or(Some(None), |reader| reader.target(steps));
    let (on_success, on_failure, on_resume) = (target("onSuccess"), target("onFailure"), target("onResume"));
    Some(Transitions { on_success: on_success?, on_failure: on_failure?, on_resume: on_resume? })
}

/// Refuses references to the vault wherever they would have to be filled in. Bodies look after themselves.
fn refuse_vault(object: &Object<'_>, known: Option<&Kind>) {
    for key in ["config", "input", "output", "idempotencyKey"] {
        let Some(reader) = object.get(key) else { continue };
        match (key, known, reader.value()) {
            ("config", Some(known), Value::Object(map)) if known.has_bodies => {
                for (key, value) in map.iter().filter(|(key, _)| !matches!(key.as_str(), "body" | "branches"))
                {
                    refuse_vault_in(&reader.entry(key, value));
                }
            }
            _ => refuse_vault_in(&reader),
        }
    }
}

/// Refuses `{{vault.NAME}}` in any text of the value.
pub(super) fn refuse_vault_in(reader: &Reader<'_>) {
    match reader.value() {
        Value::String(text) => {
            if text.split("{{").skip(1).any(|rest| rest.trim_start().starts_with("vault.")) {
                let text = "refers to the vault, which is not available in this version";
                let hint = Some("give handlers their secrets by the environment of the worker".to_owned());
                reader.error("not-available", text, hint);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_vault_in(&reader.entry(&index.to_string(), item));
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                refuse_vault_in(&reader.entry(key, value));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
