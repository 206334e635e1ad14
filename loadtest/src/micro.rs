//! What the pure parts cost, each alone: nanoseconds here, instructions under callgrind (`make bench-check`), which no noise of
//! the machine hides.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use flowmonkey_core::execution::command::{Command, NextStep, ReportedOutcome, TaskReport};
use flowmonkey_core::execution::state::Cost;
use flowmonkey_core::execution::{
    Dataset, Decision, Execution, RecordedEvent, StartRequest, World, create, decide, replay,
};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::{Format, parse_document};
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::limits::Limits;
use flowmonkey_core::time::{Moment, Timestamp};
use flowmonkey_plumbing::wire::{
    ResultMessage, TaskMessage, decode_result, decode_task, encode_result, encode_task,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::flows;
use crate::harness::AllKnown;
use crate::report::report;

/// Rounds of which the median counts.
const ROUNDS: usize = 21;
/// Times in a round.
const TIMES: u32 = 2000;
/// Steps of the flow that is decided.
const STEPS: usize = 20;
const BEGINNING: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A task as it travels.
pub(crate) const TASK: &str = include_str!("../../plumbing/tests/golden/task_with_token.json");
const RESULT: &str = include_str!("../../plumbing/tests/golden/success.json");

/// What is measured.
#[derive(Default, clap::Args)]
pub(crate) struct Micro {
    /// Run this alone, so many times, and say nothing: for callgrind.
    #[arg(long, value_name = "NAME", requires = "times")]
    only: Option<String>,
    /// How often.
    #[arg(long)]
    times: Option<u32>,
    /// Say what there is.
    #[arg(long)]
    list: bool,
}

struct Case {
    name: &'static str,
    run: Box<dyn Fn() -> Result<()>>,
}

fn case<T>(name: &'static str, run: impl Fn() -> Result<T> + 'static) -> Case {
    Case { name, run: Box::new(move || run().map(|value| drop(black_box(value)))) }
}

/// Measures.
///
/// # Errors
/// When a case fails, or is not known.
pub(crate) fn micro(wanted: &Micro) -> Result<()> {
    let cases = cases()?;
    if wanted.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(());
    }
    if let (Some(only), Some(times)) = (&wanted.only, wanted.times) {
        let case = cases.iter().find(|case| case.name == only).context("no such case; see --list")?;
        for _ in 0..times {
            (case.run)()?;
        }
        return Ok(());
    }
    let mut figures = serde_json::Map::new();
    for case in &cases {
        let mut rounds = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let began = Instant::now();
            for _ in 0..TIMES {
                (case.run)()?;
            }
            rounds.push(began.elapsed().as_nanos() / u128::from(TIMES));
        }
        rounds.sort_unstable();
        figures.insert(case.name.into(), json!(u64::try_from(rounds[ROUNDS / 2])?));
    }
    report("micro", &json!({ "unit": "nanoseconds" }), &Value::Object(figures));
    Ok(())
}

fn with_world<T>(flow: &Flow, see: impl FnOnce(&World<'_>) -> T) -> T {
    see(&World {
        flow,
        flows: &|_| None,
        outer: None,
        limits: &Limits::default(),
        flow_exists: &|_, _| false,
        handlers: &AllKnown,
        datasets: &|_| Dataset::Unknown,
        stacks: &|_| None,
        resume_url: &|_, _| String::new(),
    })
}

fn decided(flow: &Flow, execution: &Execution, command: Command) -> Result<Decision> {
    let moment = Moment { now: BEGINNING.plus(execution.version), chance: 7 };
    with_world(flow, |world| decide(execution, world, command, moment)).map_err(|error| anyhow!("{error}"))
}

fn created(flow: &Flow, payload: &str) -> Result<(Execution, Vec<RecordedEvent>)> {
    let id = ExecutionId::from_uuid(Uuid::from_u128(7));
    let request = StartRequest::new(id, json!({ "n": 1, "payload": payload }));
    let creation = create(request, flow, &Limits::default(), BEGINNING)?;
    let history = vec![RecordedEvent { sequence: 1, at: BEGINNING, event: creation.event }];
    Ok((creation.execution, history))
}

/// The report that moves an execution on whose task is out.
fn success(execution: &Execution) -> Result<Command> {
    let task = execution.task().context("a task is out")?;
    Ok(Command::Report(Box::new(TaskReport {
        task: task.run.task,
        attempt: task.run.attempt,
        outcome: ReportedOutcome::Success { output: Some(json!({ "n": 1 })), next: NextStep::Transition },
        context_changes: Vec::new(),
        emitted: Vec::new(),
        rows: Vec::new(),
        cost: Cost::default(),
        started_at: Some(BEGINNING),
        duration_ms: 3,
        worker: Some("worker".into()),
    })))
}

fn cases() -> Result<Vec<Case>> {
    let source = flows::chain("micro", 0, STEPS, 4);
    let text = source.to_string();
    let parse = |text: &str| -> Result<Arc<Flow>> {
        let document = parse_document(text, Format::Json).map_err(|issues| anyhow!("{issues:?}"))?;
        document.flows.into_iter().next().context("a flow")
    };
    let flow = parse(&text)?;
    let payload = "x".repeat(4096);
    let (mut execution, mut history) = created(&flow, &payload)?;
    // In the middle of its way, the task of a step is out.
    for step in 0..=STEPS / 2 {
        let command = if step == 0 { Command::Begin } else { success(&execution)? };
        let decision = decided(&flow, &execution, command)?;
        for (event, sequence) in decision.events.into_iter().zip(execution.events + 1..) {
            history.push(RecordedEvent { sequence, at: BEGINNING, event });
        }
        execution = decision.execution;
    }
    ensure!(replay(&history).is_some(), "a history that can be replayed");
    let task: TaskMessage = serde_json::from_str(TASK)?;
    let result: ResultMessage = serde_json::from_str(RESULT)?;
    let (task_bytes, result_bytes) = (encode_task(&task)?, encode_result(&result)?);
    Ok(vec![
        case("parse a flow of 20 steps", move || parse(&text)),
        {
            let (flow, payload) = (flow.clone(), payload.clone());
            case("create, context of 4 KiB", move || created(&flow, &payload))
        },
        {
            let (flow, execution) = (flow.clone(), execution.clone());
            case("decide a step, context of 4 KiB", move || decided(&flow, &execution, success(&execution)?))
        },
        case("replay of 10 steps", move || replay(&history).context("it can be replayed")),
        case("write a context of 4 KiB", move || Ok(serde_json::to_string(&execution.context)?)),
        case("encode a task", move || Ok(encode_task(&task)?)),
        case("decode a task", move || Ok(decode_task(&task_bytes)?)),
        case("encode a result", move || Ok(encode_result(&result)?)),
        case("decode a result", move || Ok(decode_result(&result_bytes)?)),
    ])
}
