//! Whatever a flow looks like and whatever is sent to its executions, in whatever order: the invariants hold, nothing
//! panics, a replay gives the state; and once every task is answered and every wait is over, everything has ended.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use flowmonkey_core::execution::command::{
    Command, ContextChange, EmittedEvent, NextStep, ReportedOutcome, Signal, TaskAttempt, TaskReport,
};
use flowmonkey_core::execution::event::Event;
use flowmonkey_core::execution::state::{Activity, AwaitedEvent, CancelSource, Compensation, Cost, WaitOn};
use flowmonkey_core::execution::{Status, apply};
use flowmonkey_core::ids::ExecutionId;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use support::{Bench, Slot};

/// Steps of the flow's own graph.
const STEPS_MAX: usize = 6;
/// Rounds in which everything is answered, after which a flow that has not ended never will.
const HEALING_ROUNDS: usize = 3000;

/// One step, its transitions as places in the graph.
#[derive(Clone, Debug)]
struct Node {
    body: Value,
    success: Index,
    failure: Index,
    ends: (bool, bool),
}

fn leaf() -> impl Strategy<Value = Value> {
    let full = || json!({"type": "full"});
    prop_oneof![
        4 => Just(json!({"type": "work", "config": {}, "input": {"type": "full"}})),
        2 => Just(json!({"type": "work", "config": {}, "retry": {"maxAttempts": 2, "backoffMs": 5, "jitter": "full"},
            "scheduleToStartMs": 50, "totalTimeoutMs": 500})),
        1 => Just(json!({"type": "work", "config": {}, "onExhausted": "incident"})),
        2 => Just(json!({"type": "work", "config": {}, "compensateWith": "undo"})),
        1 => Just(json!({"type": "work", "config": {}, "compensateWith": "undo-by-hand", "timeoutMs": 9})),
        1 => Just(json!({"type": "delay", "config": {"ms": 20}})),
        1 => Just(json!({"type": "wait-signal", "config": {"signal": "go"}, "outputKey": "went"})),
        1 => Just(json!({"type": "wait-signal", "config": {"signal": "go", "timeoutMs": 30},
            "retry": {"maxAttempts": 1, "backoffMs": 0}})),
        1 => Just(json!({"type": "wait-event", "config": {"event": "news"}, "outputKey": "news"})),
        1 => Just(json!({"type": "approval", "config": {"assignees": ["a"], "form":
            {"type": "object", "required": ["approved"]}, "escalation": {"afterMs": 10, "assignees": ["b"]}}})),
        1 => Just(json!({"type": "set", "config": {"value": {"n": 1}}, "outputKey": "set.deep"})),
        1 => Just(json!({"type": "echo", "config": {}, "input": full(), "outputKey": "echo"})),
        1 => Just(json!({"type": "emit", "config": {"event": "news"}, "input": full()})),
        1 => Just(json!({"type": "fail", "config": {"code": "BOOM"}})),
        1 => Just(json!({"type": "fail", "config": {}, "retry": {"maxAttempts": 2, "backoffMs": 0}})),
        1 => Just(json!({"type": "succeed", "config": {}})),
        1 => Just(json!({"type": "set", "config": {"value": 1}, "when": "has(context.item)"})),
        1 => Just(json!({"type": "set", "config": {"value": 1}, "when": "context.nothing > 1"})),
        1 => Just(json!({"type": "sub-flow", "config": {"flowId": "child", "waitForCompletion": true}, "outputKey": "sub"})),
        1 => Just(json!({"type": "sub-flow", "config": {"flowId": "child", "waitForCompletion": false}})),
        1 => Just(json!({"type": "sub-flow", "config": {"flowId": "missing"}})),
    ]
}

/// A body: up to two steps in a row, with the steps that undo.
fn body(step: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    vec(step, 1..3).prop_map(|steps| {
        let mut map = undoing();
        let count = steps.len();
        for (place, mut step) in steps.into_iter().enumerate() {
            let next = (place + 1 < count).then(|| format!("b{}", place + 1));
            step["transitions"] = json!({"onSuccess": next});
            map.insert(format!("b{place}"), step);
        }
        json!({"initialStepId": "b0", "steps": map})
    })
}

fn undoing() -> Map<String, Value> {
    let undo = json!({"type": "undo", "config": {}, "input": {"type": "full"}, "retry": {"maxAttempts": 1, "backoffMs": 3}});
    let by_hand = json!({"type": "wait-signal", "config": {"signal": "undone"}});
    Map::from_iter([("undo".to_owned(), undo), ("undo-by-hand".to_owned(), by_hand)])
}

fn fan(inner: impl Strategy<Value = Value> + Clone + 'static) -> impl Strategy<Value = Value> {
    let rules = select(vec![json!("all"), json!("any"), json!({"n": 2}), json!("settled")]);
    let errors = select(vec![json!("fail-fast"), json!("continue"), json!({"tolerate": 1})]);
    let map = (body(inner.clone()), rules.clone(), errors.clone(), 0..4_usize, 1..3_u32).prop_map(
        |(body, join, errors, items, live)| {
            json!({"type": "map", "config": {"items": {"type": "static", "value": vec![7; items]}, "body": body,
                "join": join, "onItemError": errors, "maxConcurrency": live}, "outputKey": "mapped"})
        },
    );
    let parallel =
        (body(inner.clone()), body(inner.clone()), rules, errors).prop_map(|(left, right, join, errors)| {
            json!({"type": "parallel", "config": {"branches": {"left": left, "right": right}, "join": join,
                "onItemError": errors}, "outputKey": "both", "totalTimeoutMs": 2000})
        });
    let repeat = (body(inner), any::<bool>()).prop_map(|(body, until)| {
        let (key, condition) = if until { ("until", "iteration >= 2") } else { ("while", "iteration < 2") };
        json!({"type": "loop", "config": {key: condition, "maxIterations": 2, "body": body}, "outputKey": "last",
            "retry": {"maxAttempts": 1, "backoffMs": 0}})
    });
    prop_oneof![map, parallel, repeat]
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let inner = prop_oneof![3 => leaf().boxed(), 1 => fan(leaf().boxed()).boxed()].boxed();
    let step = prop_oneof![3 => leaf().boxed(), 2 => fan(inner).boxed()];
    let node = (step, any::<Index>(), any::<Index>(), any::<(bool, bool)>())
        .prop_map(|(body, success, failure, ends)| Node { body, success, failure, ends });
    vec(node, 1..STEPS_MAX)
}

fn flow(nodes: &[Node], clean_up: bool, limited: bool) -> Value {
    let mut steps = undoing();
    steps
        .insert("tidy".into(), json!({"type": "tidy", "config": {}, "transitions": {"onSuccess": "tidied"}}));
    steps.insert(
        "tidied".into(),
        json!({"type": "wait-signal", "config": {"signal": "tidied", "timeoutMs": 40}}),
    );
    for (place, node) in nodes.iter().enumerate() {
        let mut step = node.body.clone();
        let to = |index: &Index, ends: bool| (!ends).then(|| format!("s{}", index.index(nodes.len())));
        step["transitions"] =
            json!({"onSuccess": to(&node.success, node.ends.0), "onFailure": to(&node.failure, node.ends.1)});
        steps.insert(format!("s{place}"), step);
    }
    let mut flow = json!({"id": "f", "version": "1.0.0", "initialStepId": "s0", "steps": steps,
        "budget": {"maxAttempts": 100_000}});
    if clean_up {
        flow["onFailure"] = json!("tidy");
        flow["onCancel"] = json!("tidy");
    }
    if limited {
        flow["timeouts"] = json!({"executionMs": 300, "waitMs": 100});
    }
    flow
}

/// Something to send to one of the executions.
#[derive(Clone, Debug)]
enum Poke {
    Report(u8),
    Again(Index),
    LeaseLost,
    TimedOut,
    Started,
    Republish,
    Pass(u64),
    Signal(&'static str, Option<u8>),
    Resume(u32),
    News,
    Decided,
    Cancel,
    Terminate,
    Pause,
    Unpause,
    Retry,
    Budget,
    Warning,
    Begin,
    Wake,
    Nonsense(u32, u32),
}

fn pokes() -> impl Strategy<Value = Vec<(Index, Poke)>> {
    let poke = prop_oneof![
        12 => (0..10_u8).prop_map(Poke::Report),
        3 => any::<Index>().prop_map(Poke::Again),
        2 => Just(Poke::LeaseLost),
        2 => Just(Poke::TimedOut),
        1 => Just(Poke::Started),
        2 => Just(Poke::Republish),
        4 => (0..60_u64).prop_map(Poke::Pass),
        4 => (select(vec!["go", "undone", "tidied", "s0", "s1"]), proptest::option::of(0..3_u8))
            .prop_map(|(name, id)| Poke::Signal(name, id)),
        2 => (0..3_u32).prop_map(Poke::Resume),
        2 => Just(Poke::News),
        1 => Just(Poke::Decided),
        2 => Just(Poke::Cancel),
        1 => Just(Poke::Terminate),
        2 => Just(Poke::Pause),
        2 => Just(Poke::Unpause),
        2 => Just(Poke::Retry),
        1 => Just(Poke::Budget),
        1 => Just(Poke::Warning),
        1 => Just(Poke::Begin),
        2 => Just(Poke::Wake),
        2 => (0..4_u32, 0..4_u32).prop_map(|(task, attempt)| Poke::Nonsense(task, attempt)),
    ];
    vec((any::<Index>(), poke), 0..40)
}

fn outcome(kind: u8) -> ReportedOutcome {
    match kind {
        0..=2 => support::success(json!({"k": kind})),
        3 => support::failure("BAD"),
        4 => ReportedOutcome::Success { output: None, next: NextStep::To("s0".into()) },
        5 => ReportedOutcome::Success { output: Some(Value::Null), next: NextStep::End },
        6 => ReportedOutcome::Wait {
            output: Some(json!(1)),
            until: None,
            reason: None,
            token: Some("t".into()),
            again: false,
            event: None,
        },
        7 => ReportedOutcome::Released,
        8 => ReportedOutcome::Wait {
            output: None,
            until: None,
            reason: None,
            token: None,
            again: true,
            event: Some(AwaitedEvent { name: "e".into(), condition: None }),
        },
        _ => ReportedOutcome::Failure {
            code: None,
            message: String::new(),
            retryable: false,
            details: Some(json!([1])),
            retry_after_ms: Some(3),
            next: NextStep::To("nowhere".into()),
        },
    }
}

/// A visit that can be undone.
type Visit = (ExecutionId, String, u32);

fn visit_of(compensation: &Compensation) -> Visit {
    (compensation.execution, compensation.step.to_string(), compensation.visit)
}

struct Player {
    bench: Bench,
    reports: Vec<(ExecutionId, TaskReport)>,
}

impl Player {
    fn play(&mut self, at: &Index, poke: &Poke) {
        let ids: Vec<ExecutionId> = self.bench.executions.keys().copied().collect();
        let id = ids[at.index(ids.len())];
        let execution = self.bench.get(id);
        let attempt = execution.task().map_or(TaskAttempt { task: 1, attempt: 1 }, |task| TaskAttempt {
            task: task.run.task,
            attempt: task.run.attempt,
        });
        let command = match poke {
            Poke::Report(kind) => {
                let mut report = TaskReport {
                    task: attempt.task,
                    attempt: attempt.attempt,
                    outcome: outcome(*kind),
                    context_changes: Vec::new(),
                    emitted: Vec::new(),
                    rows: Vec::new(),
                    cost: Cost { usd: 0.25, tokens: 3, attempts: 0 },
                    started_at: None,
                    duration_ms: 1,
                    worker: None,
                };
                if *kind == 2 {
                    report.context_changes = vec![
                        ContextChange::Set { path: "a.b".into(), value: json!(1) },
                        ContextChange::Merge { value: Map::from_iter([("m".into(), json!([1]))]) },
                        ContextChange::Delete { path: "a.b".into() },
                    ];
                    report.emitted = vec![EmittedEvent { id: None, name: "news".into(), data: json!(1) }];
                }
                if *kind == 1 {
                    // Refused as a whole: there is no object at the text.
                    report.context_changes = vec![
                        ContextChange::Set { path: "t".into(), value: json!("text") },
                        ContextChange::Set { path: "t.x".into(), value: json!(1) },
                    ];
                }
                self.reports.push((id, report.clone()));
                Command::Report(Box::new(report))
            }
            Poke::Again(which) => {
                if self.reports.is_empty() {
                    return;
                }
                let (id, report) = self.reports[which.index(self.reports.len())].clone();
                self.bench.command(id, Command::Report(Box::new(report))).unwrap_or_default();
                return self.bench.run();
            }
            Poke::LeaseLost => Command::LeaseLost { attempt, saved_at: None },
            Poke::TimedOut => Command::TimedOut(attempt),
            Poke::Started => Command::Started(attempt),
            Poke::Republish => Command::Republish(attempt),
            Poke::Pass(millis) => return self.bench.pass(*millis),
            Poke::Signal(name, signal) => Command::Signal(Signal {
                name: (*name).into(),
                data: Some(json!({"approved": *signal != Some(1)})),
                id: signal.map(|id| id.to_string()),
            }),
            Poke::Resume(visit) => {
                Command::Resume { step: execution.cursor.to_string(), visit: *visit, data: Some(Value::Null) }
            }
            Poke::News => {
                self.bench.publish(EmittedEvent { id: None, name: "news".into(), data: json!({"n": 1}) });
                return self.bench.run();
            }
            Poke::Decided => Command::JoinDecided { join: execution.joins },
            Poke::Cancel => Command::Cancel { source: CancelSource::User, reason: Some("enough".into()) },
            Poke::Terminate => Command::Terminate { reason: None },
            Poke::Pause => Command::Pause { reason: None },
            Poke::Unpause => Command::Unpause,
            Poke::Retry => Command::Retry { by: Some("me".into()) },
            Poke::Budget => Command::BudgetExceeded { spent: Cost { usd: 9.0, tokens: 0, attempts: 9 } },
            Poke::Warning => Command::BudgetWarning { spent: Cost::default() },
            Poke::Begin => Command::Begin,
            Poke::Wake => Command::Wake,
            Poke::Nonsense(task, attempt) => {
                Command::TimedOut(TaskAttempt { task: *task, attempt: *attempt })
            }
        };
        self.bench.command(id, command).unwrap_or_default();
        self.bench.run();
    }

    /// Answers every task, fires every timer, sends every signal.
    fn heal(&mut self) {
        for _ in 0..HEALING_ROUNDS {
            let open: Vec<ExecutionId> = self
                .bench
                .executions
                .values()
                .filter(|slot| !slot.execution.is_terminal())
                .map(|slot| slot.execution.id())
                .collect();
            if open.is_empty() {
                return;
            }
            for id in open {
                self.help(id);
            }
            self.bench.advance();
        }
        let stuck: Vec<_> = self
            .bench
            .executions
            .values()
            .map(|slot| &slot.execution)
            .filter(|one| !one.is_terminal())
            .collect();
        panic!("never ends: {stuck:#?}");
    }

    fn help(&mut self, id: ExecutionId) {
        let execution = self.bench.get(id).clone();
        if execution.is_terminal() {
            return;
        }
        if execution.pause.is_some() {
            return self.bench.must(id, Command::Unpause);
        }
        match &execution.activity {
            Activity::Task(task) => {
                let Some(draft) = self.bench.queue.get(&id).cloned() else {
                    // Lost while paused, and then cancelled: what reconciliation would find out.
                    let attempt = TaskAttempt { task: task.run.task, attempt: task.run.attempt };
                    return self.bench.must(id, Command::Republish(attempt));
                };
                let report = support::report(&draft, support::success(json!("healed")));
                self.bench.must(id, Command::Report(Box::new(report)));
            }
            Activity::Wait(wait) => match &wait.on {
                WaitOn::Signal { signal } | WaitOn::Approval { signal, .. } => {
                    self.bench.signal(id, signal, json!({"approved": true})).unwrap();
                }
                WaitOn::Event { event }
                | WaitOn::Handler { event: Some(AwaitedEvent { name: event, condition: None }), .. } => {
                    self.bench.publish(EmittedEvent { id: None, name: event.clone(), data: json!(1) });
                    self.bench.run();
                }
                WaitOn::Handler { token: Some(token), .. } => {
                    self.bench.must(id, Command::ResumeByToken { token: token.clone(), data: None });
                }
                // What else it waits for is a time, and that passes.
                WaitOn::Handler { token: None, .. } | WaitOn::Timer { .. } => {}
            },
            Activity::Incident(_) => {
                let retried =
                    self.bench.events(id).filter(|event| matches!(event, Event::IncidentResolved { .. }));
                // What fails every time is given up, as a person would.
                let command = if retried.count() < 20 {
                    Command::Retry { by: None }
                } else {
                    Command::Terminate { reason: None }
                };
                self.bench.must(id, command);
            }
            Activity::Ready | Activity::Backoff { .. } | Activity::Children(_) | Activity::Nothing => {}
        }
    }

    /// What an execution could undo and has not, oldest first, by its history and those of its children; checks that what
    /// it undid was always the last of it.
    fn left_to_undo(&self, slot: &Slot) -> Vec<Visit> {
        let mut left: Vec<Visit> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut state = slot.execution.clone();
        for recorded in &slot.history {
            match &recorded.event {
                Event::Created { execution } => state = (**execution).clone(),
                event => apply(&mut state, event, recorded.at),
            }
            let added = match &recorded.event {
                Event::CompensationAdded(added) => vec![visit_of(added)],
                // What the clean-up does stays done.
                Event::FanEnded { .. } if state.is_cleaning_up() => Vec::new(),
                Event::FanEnded { join, .. } => self.left_by_children(slot.execution.id(), *join),
                Event::CompensationBegan => {
                    let undoing = state.undoing.as_ref().map(visit_of);
                    assert!(
                        undoing.is_some() && undoing == left.pop(),
                        "{undoing:?} is undone, then {left:?}"
                    );
                    Vec::new()
                }
                Event::Failed => {
                    assert_eq!(left, [], "it failed, and has not undone all");
                    Vec::new()
                }
                _ => Vec::new(),
            };
            assert!(
                added.iter().all(|visit| seen.insert(visit.clone())),
                "a visit is undone once: {added:?}"
            );
            left.extend(added);
        }
        left
    }

    fn left_by_children(&self, parent: ExecutionId, join: u32) -> Vec<Visit> {
        self.bench
            .children(parent)
            .into_iter()
            .map(|child| &self.bench.executions[&child])
            .filter(|slot| slot.execution.identity.parent.is_some_and(|link| link.join == join))
            .filter(|slot| slot.execution.status() == Status::Completed)
            .flat_map(|slot| self.left_to_undo(slot))
            .collect()
    }

    fn check_histories(&self) {
        for slot in self.bench.executions.values() {
            let mut attempts: BTreeMap<u32, u32> = BTreeMap::new();
            for recorded in &slot.history {
                if let Event::TaskScheduled { task } = &recorded.event {
                    let before = attempts.insert(task.run.task, task.run.attempt);
                    assert!(before.is_none_or(|before| before < task.run.attempt), "attempts rise: {task:?}");
                }
            }
            self.left_to_undo(slot);
        }
        for ((parent, number), join) in &self.bench.joins {
            let terminated = self.bench.events(*parent).any(|event| matches!(event, Event::Cancelled { .. }));
            assert!(join.taken || terminated, "fan-out {number} of {parent} is left");
            assert!(join.most_live <= join.spec.max_live, "more children live than maxConcurrency");
            if join.taken {
                let wanted = if join.closing { join.spawned } else { join.spec.total };
                assert_eq!(join.ended(), wanted);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_flow_and_any_commands(
        nodes in nodes(), clean_up: bool, limited: bool, inline in 0..6_u32, pokes in pokes(), chance: u64,
    ) {
        let child = json!({"id": "child", "version": "1.0.0", "initialStepId": "c", "steps": {
            "c": {"type": "work", "config": {}, "compensateWith": "undo", "outputKey": "c"},
            "undo": {"type": "undo", "config": {}, "input": {"type": "path", "path": "c"}},
        }, "output": {"type": "path", "path": "c"}});
        let mut bench = Bench::new(&json!([flow(&nodes, clean_up, limited), child]).to_string());
        bench.limits.max_steps = 20;
        bench.limits.max_inline_steps = inline;
        bench.limits.max_buffered_signals = 3;
        bench.chance = chance;
        bench.start_flow("f", json!({"seed": chance % 7}));
        let mut player = Player { bench, reports: Vec::new() };
        for (at, poke) in &pokes {
            player.play(at, poke);
        }
        player.heal();
        for slot in player.bench.executions.values() {
            prop_assert!(matches!(
                slot.execution.status(), Status::Completed | Status::Failed | Status::Cancelled
            ));
        }
        player.check_histories();
    }
}
