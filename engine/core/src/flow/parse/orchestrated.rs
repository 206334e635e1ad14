//! The step types that the engine does itself: the table of them, and the small ones.

use serde_json::{Value, json};

use super::fanout;
use super::fields::{self, Field, Shape, optional, required};
use super::reader::{Object, Reader};
use super::routing;
use super::step::{Surroundings, read};
use super::waits;
use crate::flow::definition::{Emit, Failure, ParentClose, RESERVED_EVENTS, StepKind, SubFlow};

/// One orchestrated step type.
pub(crate) struct Kind {
    /// The value of `type`.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) doc: &'static str,
    /// The fields of its `config`.
    pub(crate) shape: Shape,
    /// Whether its config has bodies, which are graphs of their own.
    pub(crate) has_bodies: bool,
    /// Reads its config, whose known fields have been checked; the text names its bodies.
    pub(super) read: for<'a> fn(&Object<'a>, Surroundings<'a, '_>, &str) -> Option<StepKind>,
}

/// All orchestrated types.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "delay",
        doc: "Waits for a time; nothing is held meanwhile.",
        shape: waits::DELAY,
        has_bodies: false,
        read: waits::read_delay,
    },
    Kind {
        name: "wait",
        doc: "The same as `delay`.",
        shape: waits::DELAY,
        has_bodies: false,
        read: waits::read_delay,
    },
    Kind {
        name: "wait-signal",
        doc: "Waits until a signal, or the step's resume token, arrives.",
        shape: waits::WAIT_SIGNAL,
        has_bodies: false,
        read: waits::read_wait_signal,
    },
    Kind {
        name: "wait-event",
        doc: "Waits until a matching event arrives.",
        shape: waits::WAIT_EVENT,
        has_bodies: false,
        read: waits::read_wait_event,
    },
    Kind {
        name: "approval",
        doc: "Waits for a person's answer.",
        shape: waits::APPROVAL,
        has_bodies: false,
        read: waits::read_approval,
    },
    Kind {
        name: "conditional",
        doc: "Goes to the target of the first case that holds.",
        shape: routing::CONDITIONAL,
        has_bodies: false,
        read: routing::read_conditional,
    },
    Kind {
        name: "switch",
        doc: "Goes to the target that a value of the input names, or of the first case that holds.",
        shape: routing::SWITCH,
        has_bodies: false,
        read: routing::read_switch,
    },
    Kind {
        name: "branch",
        doc: "Goes to the first target whose path of the context is equal to a value.",
        shape: routing::BRANCH,
        has_bodies: false,
        read: routing::read_branch,
    },
    Kind {
        name: "parallel",
        doc: "Runs named branches at the same time.",
        shape: fanout::PARALLEL,
        has_bodies: true,
        read: fanout::read_parallel,
    },
    Kind {
        name: "map",
        doc: "Runs a body for each item of a list.",
        shape: fanout::MAP,
        has_bodies: true,
        read: fanout::read_map,
    },
    Kind {
        name: "loop",
        doc: "Runs a body again and again.",
        shape: fanout::LOOP,
        has_bodies: true,
        read: fanout::read_loop,
    },
    Kind {
        name: "sub-flow",
        doc: "Runs another flow with the step's input as its context.",
        shape: SUB_FLOW,
        has_bodies: false,
        read: read_sub_flow,
    },
    Kind { name: "emit", doc: "Sends an event.", shape: EMIT, has_bodies: false, read: read_emit },
    Kind {
        name: "set",
        doc: "The output is `value`, or else the input.",
        shape: SET,
        has_bodies: false,
        read: read_set,
    },
    Kind {
        name: "echo",
        doc: "The output is the input.",
        shape: old(&[]),
        has_bodies: false,
        read: |_, _, _| Some(StepKind::Echo),
    },
    Kind { name: "fail", doc: "Fails.", shape: FAIL, has_bodies: false, read: read_fail },
    Kind {
        name: "succeed",
        doc: "Completes the execution here; the output is the input.",
        shape: Shape { fields: &[], strict: true },
        has_bodies: false,
        read: |_, _, _| Some(StepKind::Succeed),
    },
];

/// The orchestrated type of that name.
pub(super) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The shape of a construct that FlowMonkey has too.
pub(super) const fn old(fields: &'static [Field]) -> Shape {
    Shape { fields, strict: false }
}

const SUB_FLOW: Shape = old(&[
    required("flowId", fields::name, "The flow to run."),
    optional("version", fields::name, "Exact version. Default: the latest when the child starts."),
    optional("waitForCompletion", fields::flag, "Whether to wait for its end. Default true."),
    optional(
        "onParentClose",
        || json!({ "enum": ["cancel", "abandon"], "type": "string" }),
        "What happens to the child when this execution ends first. Default: `cancel` when it is waited for, else `abandon`.",
    ),
    optional("metadata", fields::object, "Given to the child."),
    optional(
        "tenantId",
        fields::name,
        "The child's tenant. A parent that has a tenant has only children of the same one.",
    ),
]);

fn read_sub_flow(object: &Object<'_>, _: Surroundings<'_, '_>, _: &str) -> Option<StepKind> {
    let flow_id = object.get("flowId").and_then(|reader| reader.name().map(str::to_owned));
    let version = read(object, "version", |reader| {
        if reader.value() == "latest" { Some(None) } else { reader.version().map(Some) }
    });
    let wait_for_completion = read(object, "waitForCompletion", Reader::flag);
    let on_parent_close = read(object, "onParentClose", |reader| {
        reader.word(&[("cancel", ParentClose::Cancel), ("abandon", ParentClose::Abandon)])
    });
    let metadata = read(object, "metadata", |reader| reader.object().map(|_| reader.value().clone()));
    let tenant_id = read(object, "tenantId", |reader| reader.name().map(str::to_owned));
    let wait_for_completion = wait_for_completion?.unwrap_or(true);
    // Whoever does not wait for a child means it to go on: a parent usually ends long before such a child does.
    let usual = if wait_for_completion { ParentClose::Cancel } else { ParentClose::Abandon };
    Some(StepKind::SubFlow(SubFlow {
        flow_id: flow_id?,
        version: version?.flatten(),
        wait_for_completion,
        on_parent_close: on_parent_close?.unwrap_or(usual),
        metadata: metadata?,
        tenant_id: tenant_id?,
    }))
}

const EMIT: Shape = Shape {
    fields: &[
        required("event", fields::name, "The event's name."),
        optional("data", fields::selector, "The event's data. Default: the step's input."),
    ],
    strict: true,
};

fn read_emit(object: &Object<'_>, _: Surroundings<'_, '_>, _: &str) -> Option<StepKind> {
    let event = object.get("event").and_then(|reader| {
        let name = reader.name()?;
        if name.starts_with(RESERVED_EVENTS) {
            let hint = Some("choose another name".to_owned());
            let text = format!("begins with \"{RESERVED_EVENTS}\", as only the engine's own events do");
            reader.error("reserved", &text, hint);
            return None;
        }
        Some(name.to_owned())
    });
    let data = read(object, "data", Reader::selector);
    Some(StepKind::Emit(Emit { event: event?, data: data? }))
}

const SET: Shape = old(&[optional("value", fields::anything, "The output. Default: the step's input.")]);

#[expect(clippy::unnecessary_wraps, reason = "the signature of the table")]
fn read_set(object: &Object<'_>, _: Surroundings<'_, '_>, _: &str) -> Option<StepKind> {
    // `value: null` is a value.
    let value: Option<Value> = object.map().get("value").cloned();
    Some(StepKind::Set(value))
}

const FAIL: Shape = old(&[
    optional("code", fields::name, "The error's code. Default `FAIL`."),
    optional("message", fields::text, "The error's message. Default `Failed`."),
]);

fn read_fail(object: &Object<'_>, _: Surroundings<'_, '_>, _: &str) -> Option<StepKind> {
    let code = read(object, "code", Reader::name);
    let message = read(object, "message", Reader::text);
    Some(StepKind::Fail(Failure {
        code: code?.unwrap_or("FAIL").to_owned(),
        message: message?.unwrap_or("Failed").to_owned(),
    }))
}
