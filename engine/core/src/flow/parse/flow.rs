//! Reads flows: the fields of a flow, its pipes, and the entries of a document.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Document;
use super::canonical::canonical;
use super::fanout::steps_schema;
use super::fields::{self, Field, Shape, optional, required, unavailable};
use super::issue::Issues;
use super::orchestrated::old;
use super::reader::{Object, Reader};
use super::step::{read, read_graph, refuse_vault_in};
use crate::flow::definition::{
    Budget, Flow, FlowLimits, FlowStatus, Graph, IdempotencyRule, Pipe, PipeOn, Timeouts,
};
use crate::flow::selector::Path;
use crate::ids::FlowHash;
use crate::limits::{IDEMPOTENCY_WINDOW_MAX_MS, LABEL_NAME_BYTES_MAX, LABELS_MAX};

/// The fields of a flow.
pub(crate) const FLOW_FIELDS: Shape = old(&[
    required("id", fields::name, "The flow's id, by convention in kebab-case."),
    required("version", fields::name, "SemVer 2, such as `1.0.0`; the latest is by the order of SemVer."),
    required("initialStepId", fields::name, "The first step."),
    Field { missing: "At least one step required", ..required("steps", steps_schema, "The steps by id.") },
    optional("name", fields::text, "For display."),
    optional("description", fields::text, "For display."),
    optional("tags", fields::texts, "For display and search."),
    optional(
        "status",
        || json!({ "enum": ["draft", "published", "archived"], "type": "string" }),
        "Only published flows start, unless forced. Default `published`.",
    ),
    optional("visual", fields::object, "For editors only."),
    optional(
        "pipes",
        || json!({ "type": "array", "items": fields::schema_of(&PIPE) }),
        "Taps that write outputs into tables.",
    ),
    optional("inputSchema", fields::schema, "JSON Schema that the initial context is checked against."),
    optional("outputSchema", fields::schema, "JSON Schema that the flow's output is checked against."),
    optional("output", fields::selector, "The flow's result. Default: none."),
    optional("timeouts", || fields::schema_of(&TIMEOUTS), "Time limits of a whole execution. Default: none."),
    optional("limits", || fields::schema_of(&LIMITS), "Limits that the flow narrows or widens."),
    optional(
        "budget",
        || fields::schema_of(&BUDGET),
        "What a tree of executions may cost. Default: anything.",
    ),
    optional(
        "labels",
        fields::texts_of_values,
        "Label to the dotted path in the initial context it is read from.",
    ),
    optional("idempotency", || fields::schema_of(&IDEMPOTENCY), "Idempotency key for starts that give none."),
    optional("onCancel", fields::name, "The first step of the clean-up after a cancel."),
    optional("onFailure", fields::name, "The first step of the clean-up after a failure."),
    unavailable("residency"),
    unavailable("triggers"),
    unavailable("concurrency"),
    unavailable("vault"),
    unavailable("region"),
    unavailable("routing"),
]);

const TIMEOUTS: Shape = Shape {
    fields: &[
        optional(
            "executionMs",
            fields::milliseconds,
            "Milliseconds from creation to the end (`EXECUTION_TIMEOUT`).",
        ),
        optional(
            "waitMs",
            fields::milliseconds,
            "Milliseconds of one wait that has no limit of its own (`WAIT_TIMEOUT`).",
        ),
    ],
    strict: true,
};

const LIMITS: Shape = Shape {
    fields: &[
        optional("maxSteps", fields::count, "Applied outcomes (`MAX_STEPS`). Default: the engine's, 1000."),
        optional(
            "contextBytes",
            fields::count,
            "Bytes of the context as JSON. Default: the engine's, 10 MiB.",
        ),
    ],
    strict: true,
};

const BUDGET: Shape = Shape {
    fields: &[
        optional("maxCostUsd", fields::amount, "US dollars, as reported by handlers (`BUDGET_EXCEEDED`)."),
        optional("warnCostUsd", fields::amount, "US dollars: an event warns once."),
        optional("maxAttempts", fields::count, "Attempts of the whole tree (`BUDGET_EXCEEDED`)."),
    ],
    strict: true,
};

const IDEMPOTENCY: Shape = Shape {
    fields: &[
        required(
            "key",
            fields::selector_or_template,
            "The key from the initial context: a selector, or a text as template.",
        ),
        optional(
            "windowMs",
            || json!({ "type": "integer", "minimum": 1, "maximum": IDEMPOTENCY_WINDOW_MAX_MS }),
            "Milliseconds that the key is remembered. Default 24 h, at most 7 days.",
        ),
    ],
    strict: true,
};

const PIPE: Shape = old(&[
    required("id", fields::name, "Unique within the flow."),
    required("stepId", fields::name, "The step whose output is tapped."),
    optional(
        "on",
        || json!({ "enum": ["success", "failure", "any"], "type": "string" }),
        "For which outcomes; waits count as failures. Default `success`.",
    ),
    required("tableId", fields::name, "The table."),
    optional(
        "mappings",
        || json!({ "type": "array", "items": fields::schema_of(&MAPPING) }),
        "Which values go where.",
    ),
    optional("staticValues", fields::object, "Column to value; wins over mappings."),
    optional("enabled", fields::flag, "False turns the pipe off. Default true."),
]);

const MAPPING: Shape = old(&[
    required("sourcePath", fields::text, "Dotted path in the step's output."),
    required("columnId", fields::name, "The column."),
]);

const ENTRY: Shape = old(&[
    optional("table", fields::object, "Definition of a table."),
    optional("flow", fields::object, "Definition of a flow."),
]);

/// Reads the values of a text, one for each YAML document.
pub(super) fn read_document(values: &[Value], issues: &Issues, document: &mut Document) {
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        issues.enter_document(index);
        match value {
            Value::Array(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    read_entry(entry, &format!("/{index}"), issues, &mut seen, document);
                }
            }
            // An empty document between two `---`.
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
                read_entry(value, "", issues, &mut seen, document);
            }
        }
    }
    if document.flows.is_empty() && document.tables.is_empty() && issues.errors() == 0 {
        issues.enter_document(0);
        let hint = Some("a flow has at least `id`, `version`, `initialStepId` and `steps`".to_owned());
        issues.error("empty", "", "the document holds no flow".to_owned(), hint);
    }
}

fn read_entry(
    value: &Value,
    pointer: &str,
    issues: &Issues,
    seen: &mut BTreeSet<(String, String)>,
    document: &mut Document,
) {
    let wrapped = value.as_object().is_some_and(|map| {
        !map.contains_key("steps") && (map.contains_key("flow") || map.contains_key("table"))
    });
    if !wrapped {
        if let Some(flow) = read_flow(value, pointer, issues) {
            if seen.insert((flow.id.clone(), flow.version.to_string())) {
                document.flows.push(Arc::new(flow));
            } else {
                let message = format!("flow `{}` occurs twice with the version {}", flow.id, flow.version);
                let hint = Some("give one of the two another version".to_owned());
                issues.error("duplicate-flow", pointer, message, hint);
            }
        }
        return;
    }
    let Some(object) = Reader::new(value, pointer, "entry", issues).shaped(&ENTRY) else { return };
    if let Some(table) = object.get("table")
        && let Some(definition) = table.named("table").object()
    {
        match definition.get("id") {
            Some(id) if id.name().is_some() => document.tables.push(table.value().clone()),
            Some(_) => {}
            None => {
                definition.reader().error("missing", "has no `id`: Required", Some("add `id`".to_owned()))
            }
        }
    }
    if let Some(flow) = object.get("flow") {
        read_entry(flow.value(), flow.pointer(), issues, seen, document);
    }
}

/// Reads one flow. None, or a flow beside errors, when something is wrong.
pub(super) fn read_flow(value: &Value, pointer: &str, issues: &Issues) -> Option<Flow> {
    let name = value.get("id").and_then(Value::as_str).filter(|id| !id.is_empty());
    let name = name.map_or_else(|| "flow".to_owned(), |id| format!("flow `{id}`"));
    let object = Reader::new(value, pointer, &name, issues).shaped(&FLOW_FIELDS)?;
    let id = object.get("id").and_then(|reader| reader.name());
    let version = object.get("version").and_then(|reader| reader.version());
    let name = read(&object, "name", Reader::text);
    let description = read(&object, "description", Reader::text);
    let tags = read(&object, "tags", Reader::texts);
    let status = read(&object, "status", |reader| {
        reader.word(&[
            ("draft", FlowStatus::Draft),
            ("published", FlowStatus::Published),
            ("archived", FlowStatus::Archived),
        ])
    });
    let visual = read(&object, "visual", Reader::object);
    let input_schema = read(&object, "inputSchema", Reader::schema);
    let output_schema = read(&object, "outputSchema", Reader::schema);
    let output = read(&object, "output", |reader| {
        refuse_vault_in(reader);
        reader.selector()
    });
    let timeouts = read(&object, "timeouts", read_timeouts);
    let limits = read(&object, "limits", read_limits);
    let budget = read(&object, "budget", read_budget);
    let labels = read(&object, "labels", read_labels);
    let idempotency = read(&object, "idempotency", read_idempotency);
    let steps = step_names(&object);
    let on_cancel = read(&object, "onCancel", |reader| reader.step(&steps));
    let on_failure = read(&object, "onFailure", |reader| reader.step(&steps));
    let pipes = read(&object, "pipes", |reader| read_pipes(reader, &steps));
    let roots = [on_cancel.clone().flatten(), on_failure.clone().flatten()];
    let graph: Option<Graph> = read_graph(&object, "", 0, &roots);
    visual?;
    let graph = graph?;
    let mut closes_children = false;
    graph.each_step(&mut |step| closes_children |= step.kind.starts_child_to_close());
    Some(Flow {
        id: id?.to_owned(),
        version: version?,
        name: name?.map(str::to_owned),
        description: description?.map(str::to_owned),
        tags: tags?.unwrap_or_default(),
        status: status?.unwrap_or_default(),
        graph: Arc::new(graph),
        closes_children,
        pipes: pipes?.unwrap_or_default(),
        input_schema: input_schema?,
        output_schema: output_schema?,
        output: output?,
        timeouts: timeouts?.unwrap_or_default(),
        limits: limits?.unwrap_or_default(),
        budget: budget?.unwrap_or_default(),
        labels: labels?.unwrap_or_default(),
        idempotency: idempotency?,
        on_cancel: on_cancel?,
        on_failure: on_failure?,
        hash: FlowHash::of(canonical(value).as_bytes()),
        source: Arc::new(value.clone()),
    })
}

fn step_names<'a>(object: &Object<'a>) -> BTreeSet<&'a str> {
    let steps = object.map().get("steps").and_then(Value::as_object);
    steps.into_iter().flat_map(Map::keys).map(String::as_str).collect()
}

fn read_timeouts(reader: &Reader<'_>) -> Option<Timeouts> {
    let object = reader.shaped(&TIMEOUTS)?;
    let execution_ms = read(&object, "executionMs", Reader::duration);
    let wait_ms = read(&object, "waitMs", Reader::duration);
    Some(Timeouts { execution_ms: execution_ms?, wait_ms: wait_ms? })
}

fn read_limits(reader: &Reader<'_>) -> Option<FlowLimits> {
    let object = reader.shaped(&LIMITS)?;
    let max_steps = read(&object, "maxSteps", |reader| reader.whole_u32(1, u32::MAX));
    let context_bytes = read(&object, "contextBytes", |reader| {
        usize::try_from(reader.whole(1, u64::from(u32::MAX), "a whole number of bytes")?).ok()
    });
    Some(FlowLimits { max_steps: max_steps?, context_bytes: context_bytes? })
}

fn read_budget(reader: &Reader<'_>) -> Option<Budget> {
    let object = reader.shaped(&BUDGET)?;
    let max_cost_usd = read(&object, "maxCostUsd", |reader| reader.number(0.0));
    let warn_cost_usd = read(&object, "warnCostUsd", |reader| reader.number(0.0));
    let max_attempts = read(&object, "maxAttempts", |reader| reader.whole(1, u64::MAX, "a whole number"));
    if let (Some(Some(limit)), Some(Some(warning))) = (max_cost_usd, warn_cost_usd)
        && warning > limit
        && let Some(reader) = object.get("warnCostUsd")
    {
        let hint = Some("make it less than `maxCostUsd`".to_owned());
        reader.warning("no-effect", "is above `maxCostUsd`, so that it never warns", hint);
    }
    Some(Budget { max_cost_usd: max_cost_usd?, warn_cost_usd: warn_cost_usd?, max_attempts: max_attempts? })
}

fn read_labels(reader: &Reader<'_>) -> Option<BTreeMap<String, Path>> {
    let object = reader.object()?;
    let labels: Vec<Option<(String, Path)>> = object
        .entries()
        .map(|(name, reader)| {
            if name.is_empty() || name.len() > LABEL_NAME_BYTES_MAX {
                let text = format!("is a label whose name has {} bytes", name.len());
                reader.error("bad-label", &text, Some(format!("use 1 to {LABEL_NAME_BYTES_MAX} bytes")));
                return None;
            }
            Some((name.to_owned(), reader.path()?))
        })
        .collect();
    if labels.len() > LABELS_MAX {
        let hint = "keep those that executions are searched by; the input itself is kept anyway";
        reader.error(
            "too-many-labels",
            &format!("has {} labels, and may have {LABELS_MAX}", labels.len()),
            Some(hint.into()),
        );
        return None;
    }
    labels.into_iter().collect()
}

fn read_idempotency(reader: &Reader<'_>) -> Option<IdempotencyRule> {
    let object = reader.shaped(&IDEMPOTENCY)?;
    let key = object.get("key").and_then(|reader| {
        refuse_vault_in(&reader);
        reader.selector_or_template()
    });
    let window_ms = read(&object, "windowMs", |reader| {
        reader.whole(1, IDEMPOTENCY_WINDOW_MAX_MS, "a whole number of milliseconds")
    });
    Some(IdempotencyRule { key: key?, window_ms: window_ms? })
}

fn read_pipes<'a>(reader: &Reader<'a>, steps: &BTreeSet<&'a str>) -> Option<Vec<Pipe>> {
    let mut seen = BTreeSet::new();
    let mut pipes = Vec::new();
    let mut failed = false;
    for item in reader.list()? {
        let pipe = item.shaped(&PIPE).and_then(|object| {
            if let Some(id) = object.get("id")
                && let Some(name) = id.value().as_str()
                && !seen.insert(name)
            {
                let hint = Some("give one of the two another id".to_owned());
                id.error("duplicate-pipe", &format!("is \"{name}\", which another pipe has too"), hint);
            }
            read_pipe(&object, steps)
        });
        match pipe {
            Some((pipe, true)) => pipes.push(pipe),
            Some((_, false)) => {}
            None => failed = true,
        }
    }
    (!failed).then_some(pipes)
}

/// A pipe, and whether it is turned on.
fn read_pipe<'a>(object: &Object<'a>, steps: &BTreeSet<&'a str>) -> Option<(Pipe, bool)> {
    let id = object.get("id").and_then(|reader| reader.name());
    let step = object.get("stepId").and_then(|reader| reader.step(steps));
    let on = read(object, "on", |reader| {
        reader.word(&[("success", PipeOn::Success), ("failure", PipeOn::Failure), ("any", PipeOn::Any)])
    });
    let table = object.get("tableId").and_then(|reader| reader.name());
    let mappings = read(object, "mappings", |reader| {
        let mappings: Vec<Option<(Path, String)>> = reader
            .list()?
            .iter()
            .map(|reader| {
                let object = reader.shaped(&MAPPING)?;
                let path = object.get("sourcePath").and_then(|reader| reader.path());
                let column = object.get("columnId").and_then(|reader| reader.name());
                Some((path?, column?.to_owned()))
            })
            .collect();
        mappings.into_iter().collect::<Option<Vec<_>>>()
    });
    let static_values = read(object, "staticValues", |reader| {
        refuse_vault_in(reader);
        reader.object().map(|object| object.map().clone())
    });
    let enabled = read(object, "enabled", Reader::flag);
    let pipe = Pipe {
        id: id?.to_owned(),
        step: step?,
        on: on?.unwrap_or_default(),
        table: table?.to_owned(),
        mappings: mappings?.unwrap_or_default(),
        static_values: static_values?.unwrap_or_default(),
    };
    Some((pipe, enabled?.unwrap_or(true)))
}
