//! Tasks, waits, fan-outs and the small steps, each rule by itself.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "test code")]

mod support;

use std::collections::BTreeMap;

use flowmonkey_core::execution::command::{
    Command, ContextChange, EmittedEvent, NextStep, ReportedOutcome, Signal, TaskAttempt,
};
use flowmonkey_core::execution::event::{AttemptOutcome, Event};
use flowmonkey_core::execution::rerun::context_at;
use flowmonkey_core::execution::state::{Activity, Lineage};
use flowmonkey_core::execution::{Origin, Rejection, StartError, StartRequest, Status, create};
use flowmonkey_core::limits::{LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX};
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};
use support::{Bench, failure, report, success};

fn bench(steps: Value) -> Bench {
    extended(steps, json!({}))
}

fn extended(steps: Value, more: Value) -> Bench {
    let mut flow = json!({"id": "t", "version": "1.0.0", "initialStepId": "s", "steps": steps});
    flow.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Bench::new(&flow.to_string())
}

fn retrying(retry: Value, more: Value) -> Bench {
    let mut step = json!({"type": "work", "config": {}, "retry": retry});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    bench(json!({"s": step}))
}

fn outcome(code: &str, retryable: bool, retry_after_ms: Option<u64>) -> ReportedOutcome {
    ReportedOutcome::Failure {
        code: Some(code.into()),
        message: "no".into(),
        retryable,
        details: None,
        retry_after_ms,
        next: NextStep::Transition,
    }
}

#[test]
fn back_offs_grow_to_their_limit() {
    for (retry, more, wanted) in [
        (
            json!({"maxAttempts": 5, "backoffMs": 100, "maxBackoffMs": 900}),
            json!({}),
            vec![100, 200, 400, 800, 900],
        ),
        (json!({"maxAttempts": 3, "backoffMs": 100, "backoffMultiplier": 1}), json!({}), vec![100, 100, 100]),
        (json!({"maxAttempts": 4, "backoffMs": 0, "backoffMultiplier": 1e300}), json!({}), vec![0, 0, 0, 0]),
        (json!({"maxAttempts": 9, "backoffMs": 100, "totalMs": 400}), json!({}), vec![100, 200]),
        (json!({"maxAttempts": 9, "backoffMs": 100}), json!({"totalTimeoutMs": 400}), vec![100, 200]),
    ] {
        let shown = retry.to_string();
        let mut bench = retrying(retry, more);
        bench.on("work", |_| failure("BAD"));
        let id = bench.start(json!({}));
        bench.run_to_end();
        assert_eq!((bench.backoffs(id), bench.status(id)), (wanted, Status::Failed), "{shown}");
    }
}

#[test]
fn jitter_stays_within_its_bounds() {
    for (jitter, chance, wanted) in [
        ("none", u64::MAX, 1000),
        ("equal", 0, 500),
        ("equal", u64::MAX, 1000),
        ("full", 0, 0),
        ("full", u64::MAX, 999),
        ("full", u64::MAX / 2, 499),
    ] {
        let mut bench = retrying(json!({"maxAttempts": 1, "backoffMs": 1000, "jitter": jitter}), json!({}));
        bench.chance = chance;
        bench.on("work", |_| failure("BAD"));
        let id = bench.start(json!({}));
        assert_eq!(bench.backoffs(id), [wanted], "{jitter} {chance}");
    }
}

#[test]
fn what_is_retried() {
    let policy = |more: Value| {
        let mut policy = json!({"maxAttempts": 1, "backoffMs": 10});
        policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        policy
    };
    for (more, outcome, wanted) in [
        (json!({}), outcome("A", true, None), vec![10]),
        (json!({}), outcome("A", false, None), vec![]),
        (json!({}), outcome("A", true, Some(70)), vec![70]),
        (json!({}), outcome("A", true, Some(3)), vec![10]),
        (json!({"totalMs": 60}), outcome("A", true, Some(70)), vec![]),
        (json!({"retryOn": ["A"]}), outcome("A", true, None), vec![10]),
        (json!({"retryOn": ["B"]}), outcome("A", true, None), vec![]),
        (json!({"retryOn": []}), outcome("A", true, None), vec![]),
        (json!({"noRetryOn": ["A"]}), outcome("A", true, None), vec![]),
        (json!({"retryOn": ["A"], "noRetryOn": ["A"]}), outcome("A", true, None), vec![]),
    ] {
        let shown = format!("{more} {outcome:?}");
        let mut bench = retrying(policy(more), json!({}));
        let id = bench.start(json!({}));
        bench.answer(id, outcome);
        assert_eq!(bench.backoffs(id), wanted, "{shown}");
    }
}

fn lost(attempt: TaskAttempt) -> Command {
    Command::LeaseLost { attempt, saved_at: None }
}

#[test]
fn attempts_are_fenced_and_keep_their_key() {
    let mut bench = retrying(json!({"maxAttempts": 9, "backoffMs": 0}), json!({}));
    let id = bench.start(json!({}));
    let first = bench.queue[&id].clone();
    bench.answer(id, failure("BAD"));
    let stale = Command::Report(Box::new(report(&first, success(json!(1)))));
    assert_eq!(bench.command(id, stale), Err(Rejection::StaleAttempt));
    bench.answer(id, ReportedOutcome::Released);
    for poke in [lost as fn(_) -> _, Command::Republish, Command::TimedOut] {
        let attempt = bench.attempt(id);
        bench.must(id, poke(attempt));
        assert_eq!(bench.command(id, poke(attempt)), Err(Rejection::StaleAttempt));
    }
    let run = bench.get(id).task().unwrap().run.clone();
    assert_eq!((run.attempt, run.retry, run.lost, run.visit), (6, 2, 1, 1));
    assert!(bench.dispatched.iter().all(|draft| draft.idempotency_key == first.idempotency_key));
    assert_eq!(bench.dispatched.iter().map(|draft| draft.attempt).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn losses_with_a_new_checkpoint_between_them_count_from_one_up_to_a_total() {
    let mut bench = retrying(json!({"maxAttempts": 1}), json!({"outputKey": "out"}));
    bench.limits.max_lost_total = 10;
    let id = bench.start(json!({}));
    let lose = |bench: &mut Bench, saved_at: Option<Timestamp>| {
        bench.now = bench.now.plus(1000);
        let attempt = bench.attempt(id);
        bench.must(id, Command::LeaseLost { attempt, saved_at });
        bench.get(id).task().map(|task| task.run.lost)
    };
    let first = bench.now;
    assert_eq!(lose(&mut bench, Some(first)), Some(1), "there was no loss before it");
    assert_eq!(lose(&mut bench, Some(first)), Some(2), "the same checkpoint shows nothing new");
    for _ in 0..4 {
        let saved = bench.now.plus(1);
        assert_eq!(lose(&mut bench, Some(saved)), Some(1));
    }
    assert_eq!(lose(&mut bench, None), Some(2), "it was cleared");
    let same_instant = bench.now;
    assert_eq!(lose(&mut bench, Some(same_instant)), None, "parked: three in a row");
    assert_eq!(bench.status(id), Status::Incident);
    bench.must(id, Command::Retry { by: None });
    let run = bench.get(id).task().unwrap().run.clone();
    assert_eq!((run.lost, run.last_loss), (0, None));
    for _ in 1..bench.limits.max_lost_total {
        let saved = bench.now.plus(1);
        assert_eq!(lose(&mut bench, Some(saved)), Some(1));
    }
    let saved = bench.now.plus(1);
    assert_eq!(lose(&mut bench, Some(saved)), None, "parked: ten in all");
    assert_eq!(bench.status(id), Status::Incident);
}

#[test]
fn lost_workers_become_an_incident_free_of_the_retry_budget() {
    let mut bench = retrying(json!({"maxAttempts": 1}), json!({"outputKey": "out"}));
    let id = bench.start(json!({}));
    for _ in 0..bench.limits.max_lost {
        let attempt = bench.attempt(id);
        bench.must(id, Command::LeaseLost { attempt, saved_at: None });
    }
    assert_eq!(
        (bench.status(id), bench.failed_tasks.len(), bench.backoffs(id).len()),
        (Status::Incident, 1, 0)
    );
    bench.must(id, Command::Retry { by: Some("me".into()) });
    assert_eq!(bench.get(id).task().unwrap().run.lost, 0);
    bench.answer(id, success(json!(1)));
    assert_eq!(bench.status(id), Status::Completed);
}

#[test]
fn time_limits_of_a_task() {
    let mut bench = retrying(json!({"maxAttempts": 1, "backoffMs": 0}), json!({"scheduleToStartMs": 50}));
    let id = bench.start(json!({}));
    let attempt = bench.attempt(id);
    assert_eq!(bench.command(id, Command::NotStarted(attempt)), Err(Rejection::NothingDue));
    bench.pass(50);
    assert_eq!(bench.backoffs(id), [0], "retried");
    let attempt = bench.attempt(id);
    bench.must(id, Command::Started(attempt));
    assert_eq!(bench.get(id).next_wake(), None);

    let mut bench = retrying(json!({"maxAttempts": 5}), json!({"totalTimeoutMs": 80}));
    let id = bench.start(json!({}));
    bench.pass(80);
    assert_eq!(
        (bench.status(id), bench.code(id).as_str(), bench.backoffs(id).len()),
        (Status::Failed, "TIMEOUT", 0)
    );

    for (step, manifest, wanted) in [(Some(5), Some(7), 5), (None, Some(7), 7), (None, None, 30_000)] {
        let mut bench =
            retrying(json!({"maxAttempts": 1}), step.map_or(json!({}), |ms| json!({"timeoutMs": ms})));
        bench.timeout_ms = manifest;
        bench.start(json!({}));
        assert_eq!(bench.dispatched[0].timeout_ms, wanted);
    }
}

#[test]
fn outputs_and_changes_are_written_within_limits_or_not_at_all() {
    let change = |path: &str, value: Value| ContextChange::Set { path: path.into(), value };
    for (schema, output, changes, code, context) in [
        (json!(true), json!(1), vec![change("a", json!(2))], "", json!({"a": 2, "out": 1})),
        (json!(true), json!("x".repeat(200)), vec![], "CONTEXT_VALUE_TOO_LARGE", json!({})),
        (json!(true), json!([[[[1]]]]), vec![], "CONTEXT_NESTING_LIMIT", json!({})),
        (
            json!(true),
            json!(1),
            vec![change("a", json!(1)), change("a.b", json!(1))],
            "CONTEXT_PATH_BLOCKED",
            json!({}),
        ),
        (json!({"type": "string"}), json!(1), vec![], "OUTPUT_INVALID", json!({})),
    ] {
        let mut bench =
            retrying(json!({"maxAttempts": 3}), json!({"outputKey": "out", "outputSchema": schema}));
        bench.limits.context.max_value_size = 100;
        bench.limits.context.max_depth = 3;
        let id = bench.start(json!({}));
        let mut report = report(&bench.queue[&id].clone(), success(output));
        report.context_changes = changes;
        bench.must(id, Command::Report(Box::new(report)));
        assert_eq!((bench.code(id).as_str(), bench.context(id)), (code, context));
        assert!(bench.backoffs(id).is_empty(), "the same output would be refused again");
    }
}

#[test]
fn the_small_steps() {
    let input = json!({"type": "key", "key": "in"});
    for (step, wanted) in [
        (json!({"type": "set", "config": {"value": 5}}), json!(5)),
        (json!({"type": "set", "config": {}}), json!({"a": 1})),
        (json!({"type": "echo", "config": {}}), json!({"a": 1})),
        (json!({"type": "emit", "config": {"event": "e"}}), json!({"a": 1})),
        (json!({"type": "succeed", "config": {}}), json!({"a": 1})),
    ] {
        let mut step = step;
        step["input"] = input.clone();
        step["outputKey"] = json!("out");
        step["transitions"] = json!({"onSuccess": (step["type"] != "succeed").then_some("after")});
        let ends = step["type"] == "succeed";
        let mut bench =
            bench(json!({"s": step, "after": {"type": "set", "config": {"value": 1}, "outputKey": "after"}}));
        let id = bench.start(json!({"in": {"a": 1}}));
        let context = bench.context(id);
        assert_eq!(
            (bench.status(id), &context["out"], context.get("after").is_none()),
            (Status::Completed, &wanted, ends)
        );
    }
    let mut bench = bench(
        json!({"s": {"type": "fail", "config": {"code": "OH"}, "transitions": {"onFailure": "h"}},
        "h": {"type": "set", "config": {}, "input": {"type": "path", "path": "_error"}, "outputKey": "e", "transitions": {"onSuccess": "later"}},
        "later": {"type": "set", "config": {}, "input": {"type": "template", "template": "${_error.code:-gone}"}, "outputKey": "l"}}),
    );
    let id = bench.start(json!({}));
    assert_eq!(bench.context(id)["e"]["code"], "OH");
    assert_eq!((&bench.context(id)["e"]["stepId"], &bench.context(id)["l"]), (&json!("s"), &json!("gone")));
}

#[test]
fn when_skips_and_its_errors_are_failures_that_count() {
    let flow = |when: &str, failure: Value| {
        bench(json!({"s": {"type": "set", "config": {"value": 1}, "outputKey": "x", "when": when,
            "transitions": {"onSuccess": "n", "onFailure": failure}}, "n": {"type": "set", "config": {"value": 2}, "outputKey": "n"}}))
    };
    let mut skipped = flow("context.go", json!(null));
    let id = skipped.start(json!({"go": false}));
    assert_eq!(skipped.context(id), json!({"go": false, "n": 2}));
    assert_eq!(skipped.attempts(id)[0].outcome, AttemptOutcome::Skipped);
    let mut wrong = flow("context.missing.deep > 1", json!("s"));
    let id = wrong.start(json!({}));
    wrong.run_to_end();
    assert_eq!(wrong.code(id), "MAX_STEPS", "a failure that leads to itself ends");
}

#[test]
fn ten_thousand_steps_need_a_constant_stack() {
    let run = || {
        let mut bench = extended(
            json!({"s": {"type": "set", "config": {"value": 1}, "transitions": {"onSuccess": "s"}}}),
            json!({"limits": {"maxSteps": 10_000}}),
        );
        bench.check_json = false;
        bench.limits.max_inline_steps = u32::MAX;
        let id = bench.created("t", json!({}));
        bench.must(id, Command::Begin);
        (bench.get(id).step_count, bench.decisions)
    };
    let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(run).unwrap();
    assert_eq!(thread.join().unwrap(), (10_000, 1));
}

#[test]
fn a_long_decision_lets_others_go_on() {
    let mut bench = extended(
        json!({"s": {"type": "set", "config": {"value": 1}, "transitions": {"onSuccess": "s"}}}),
        json!({"limits": {"maxSteps": 25}}),
    );
    bench.limits.max_inline_steps = 10;
    let id = bench.start(json!({}));
    assert_eq!((bench.get(id).step_count, bench.get(id).next_wake()), (10, Some(bench.now)));
    bench.run_to_end();
    assert_eq!((bench.code(id).as_str(), bench.get(id).step_count), ("MAX_STEPS", 25));
}

#[test]
fn signals_early_late_twice_and_too_many() {
    let mut bench = bench(json!({"s": {"type": "work", "config": {}, "transitions": {"onSuccess": "w"}},
        "w": {"type": "wait-signal", "config": {"signal": "go"}, "outputKey": "got", "transitions": {"onSuccess": "x"}},
        "x": {"type": "set", "config": {}, "input": {"type": "key", "key": "_resume"}, "outputKey": "seen"}}));
    bench.limits.max_buffered_signals = 1;
    let id = bench.start(json!({}));
    let named = |name: &str, id: &str| {
        Command::Signal(Signal { name: name.into(), data: Some(Value::Null), id: Some(id.into()) })
    };
    bench.must(id, named("go", "1"));
    assert_eq!(bench.command(id, named("go", "1")), Err(Rejection::DuplicateSignal));
    assert_eq!(bench.command(id, named("go", "2")), Err(Rejection::SignalBufferFull { limit: 1 }));
    bench.answer(id, success(json!(1)));
    assert_eq!(
        (bench.status(id), bench.context(id)),
        (Status::Completed, json!({"got": null, "seen": null}))
    );
}

#[test]
fn resume_tokens_work_early_and_once_for_every_kind_of_wait() {
    let handler_wait = ReportedOutcome::Wait {
        output: None,
        until: None,
        reason: None,
        token: None,
        again: false,
        event: None,
    };
    for (wait, handler) in [
        (json!({"type": "wait-signal", "config": {}}), false),
        (json!({"type": "wait-event", "config": {"event": "e"}}), false),
        (json!({"type": "delay", "config": {"ms": 99}}), false),
        (json!({"type": "approval", "config": {"form": {"type": "object"}}}), false),
        (json!({"type": "job", "config": {}}), true),
    ] {
        for early in [true, false] {
            let mut wait = wait.clone();
            wait["outputKey"] = json!("got");
            wait["transitions"] = json!({"onSuccess": "x"});
            let mut bench = bench(
                json!({"s": {"type": "work", "config": {}, "transitions": {"onSuccess": "w"}}, "w": wait,
                "x": {"type": "hold", "config": {}}}),
            );
            let reply = handler_wait.clone();
            bench.on("job", move |_| reply.clone());
            let id = bench.start(json!({}));
            let resume = Command::Resume { step: "w".into(), visit: 1, data: Some(json!({"yes": 1})) };
            if early {
                bench.must(id, resume.clone());
                bench.answer(id, success(json!(1)));
            } else {
                bench.answer(id, success(json!(1)));
                bench.must(id, resume.clone());
            }
            assert_eq!(bench.context(id)["got"], json!({"yes": 1}), "{handler} {early}");
            assert_eq!(bench.get(id).cursor.as_ref(), "x");
            assert_eq!(bench.command(id, resume), Err(Rejection::DuplicateSignal));
            let past = Command::Resume { step: "s".into(), visit: 1, data: None };
            assert!(matches!(bench.command(id, past), Err(Rejection::NotWaiting(_))));
        }
    }
}

#[test]
fn approvals_check_their_form_escalate_and_can_be_refused() {
    let mut bench = bench(json!({"s": {"type": "approval", "config": {"assignees": ["a"], "timeoutMs": 100,
        "form": {"type": "object", "required": ["approved"]}, "escalation": {"afterMs": 40, "assignees": ["boss"]}},
        "outputKey": "answer", "retry": {"maxAttempts": 1, "backoffMs": 0}, "transitions": {"onFailure": "no"}},
        "no": {"type": "set", "config": {}, "input": {"type": "path", "path": "_error.code"}, "outputKey": "why"}}));
    let id = bench.start(json!({}));
    assert!(matches!(bench.signal(id, "s", json!({})), Err(Rejection::InvalidAnswer(_))));
    bench.pass(40);
    assert_eq!(bench.published.last().unwrap().name, "approval.escalated");
    bench.signal(id, "s", json!({"approved": false})).unwrap();
    assert_eq!(bench.context(id), json!({"answer": {"approved": false}, "why": "APPROVAL_REJECTED"}));
    let late = bench.start(json!({}));
    bench.pass(200);
    assert_eq!(bench.context(late), json!({"why": "WAIT_TIMEOUT"}), "asked once more, then given up");
    assert_eq!(bench.backoffs(late), [0]);
}

#[test]
fn events_match_by_name_and_expression_and_are_used_once() {
    let wait = |next: Value| {
        json!({"type": "wait-event", "config": {"event": "paid", "match": "event.data.order == context.order"},
            "outputKey": "got", "transitions": {"onSuccess": next}})
    };
    let mut bench = bench(json!({"s": wait(json!("t")), "t": wait(json!(null))}));
    let id = bench.start(json!({"order": 7}));
    for (name, order) in [("other", 7), ("paid", 8)] {
        bench.publish(EmittedEvent { id: None, name: name.into(), data: json!({"order": order}) });
        bench.run();
        assert_eq!(bench.get(id).cursor.as_ref(), "s");
    }
    bench.publish(EmittedEvent { id: None, name: "paid".into(), data: json!({"order": 7}) });
    bench.run();
    assert_eq!(
        (bench.status(id), bench.get(id).cursor.as_ref()),
        (Status::Waiting, "t"),
        "not consumed twice"
    );
    bench.publish(EmittedEvent { id: None, name: "paid".into(), data: json!({"order": 7, "again": 1}) });
    bench.run();
    assert_eq!((bench.status(id), bench.context(id)["got"]["again"].clone()), (Status::Completed, json!(1)));
}

#[test]
fn waits_of_handlers() {
    let mut bench = bench(
        json!({"s": {"type": "job", "config": {}, "outputKey": "o", "transitions": {"onResume": "r", "onSuccess": "x"}},
        "r": {"type": "set", "config": {}, "input": {"type": "key", "key": "_resume"}, "outputKey": "r"},
        "x": {"type": "fail", "config": {}}}),
    );
    let waits = |until, token: Option<&str>| ReportedOutcome::Wait {
        output: Some(json!("so far")),
        until,
        reason: Some("customs".into()),
        token: token.map(Into::into),
        again: false,
        event: None,
    };
    let id = bench.start(json!({}));
    bench.answer(id, waits(None, Some("tok")));
    assert_eq!(bench.get(id).waiting_reason().as_deref(), Some("customs"));
    let by = |token: &str| Command::ResumeByToken { token: token.into(), data: Some(json!(5)) };
    assert!(matches!(bench.command(id, by("other")), Err(Rejection::NotWaiting(_))));
    bench.must(id, by("tok"));
    assert_eq!((bench.status(id), bench.context(id)), (Status::Completed, json!({"o": 5, "r": 5})));
    let timed = bench.start(json!({}));
    bench.answer(timed, waits(Some(bench.now.plus(30)), None));
    bench.pass(30);

    assert_eq!(
        (bench.status(timed), bench.context(timed)["o"].clone()),
        (Status::Completed, json!("so far"))
    );
}

/// A map over `[0, 1, …]` whose item 1 fails.
fn map(count: usize, config: Value) -> Bench {
    let mut all = json!({"items": {"type": "key", "key": "items"}, "body": {"type": "work", "config": {},
        "input": {"type": "template", "template": {"item": "${item}", "index": "${index}", "base": "${base}", "same": "${parent.base}"}}}});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let mut bench = bench(json!({"s": {"type": "map", "config": all, "outputKey": "out"}}));
    bench.on("work", |draft| {
        let input = draft.input.clone().unwrap();
        if input["item"] == 1 { failure("ONE") } else { success(input) }
    });
    let items: Vec<usize> = (0..count).collect();
    bench.start(json!({"items": items, "base": 9}));
    bench.run_to_end();
    bench
}

#[test]
fn joins_and_item_errors() {
    let done = |index: u32| json!({"item": index, "index": index, "base": 9, "same": 9});
    for (count, config, status, out, has_errors) in [
        (1, json!({}), Status::Completed, json!([done(0)]), false),
        (0, json!({}), Status::Completed, json!([]), false),
        (0, json!({"join": "any"}), Status::Failed, Value::Null, false),
        (3, json!({}), Status::Failed, Value::Null, false),
        (3, json!({"onItemError": "continue"}), Status::Completed, json!([done(0), null, done(2)]), true),
        (
            3,
            json!({"onItemError": {"tolerate": 1}}),
            Status::Completed,
            json!([done(0), null, done(2)]),
            true,
        ),
        (3, json!({"onItemError": {"tolerate": 0}}), Status::Failed, Value::Null, false),
        (
            4,
            json!({"join": "any", "maxConcurrency": 1}),
            Status::Completed,
            json!([done(0), null, null, null]),
            false,
        ),
        (3, json!({"join": {"n": 2}}), Status::Completed, json!([done(0), null, done(2)]), false),
        (3, json!({"join": {"n": 3}}), Status::Failed, Value::Null, false),
        (3, json!({"join": {"n": 4}}), Status::Failed, Value::Null, false),
    ] {
        let bench = map(count, config.clone());
        let root = bench.executions.values().find(|slot| slot.execution.identity.parent.is_none()).unwrap();
        let execution = &root.execution;
        assert_eq!(execution.status(), status, "{config}");
        assert_eq!(execution.context.get("out").cloned().unwrap_or_default(), out, "{config}");
        assert_eq!(execution.has_errors, has_errors, "{config}");
        if has_errors {
            assert_eq!(execution.context["outErrors"][0]["index"], 1);
            assert_eq!(execution.context["outErrors"][0]["error"]["code"], "ONE");
        }
        if status == Status::Failed {
            assert_eq!(execution.error().unwrap().code, "CHILD_FAILED");
        }
    }
    let bench = map(2, json!({"join": "settled"}));
    let root = bench.executions.values().find(|slot| slot.execution.identity.parent.is_none()).unwrap();
    let out = &root.execution.context["out"];
    assert_eq!((&out[0]["status"], &out[1]["error"]["code"]), (&json!("completed"), &json!("ONE")));
}

#[test]
fn fail_fast_names_the_failure_that_decided() {
    let mut bench = bench(json!({"s": {"type": "parallel", "config": {"branches": {
        "slow": {"type": "delay", "config": {"ms": 99}}, "bad": {"type": "fail", "config": {"code": "REAL"}}}}}}));
    let id = bench.start(json!({}));
    let error = bench.get(id).error().unwrap();
    assert_eq!((bench.status(id), error.code.as_str()), (Status::Failed, "CHILD_FAILED"));
    assert_eq!(error.details.as_ref().unwrap()["code"], "REAL");
    assert_eq!(error.details.as_ref().unwrap()["branch"], "bad");
}

#[test]
fn bodies_within_bodies_see_outwards() {
    let inner = json!({"type": "loop", "config": {"while": "iteration < 2", "body": {"type": "set", "config": {}, "input":
        {"type": "template", "template": "${iteration}/${item}/${top}"}}}, "outputKey": "last"});
    let mut bench = bench(
        json!({"s": {"type": "map", "config": {"items": {"type": "static", "value": ["a", "b"]}, "body":
        {"type": "parallel", "config": {"branches": {"one": inner}}}}, "outputKey": "out"}}),
    );
    let id = bench.start(json!({"top": "T"}));
    assert_eq!(bench.context(id)["out"], json!([{"one": "1/a/T"}, {"one": "1/b/T"}]));
}

#[test]
fn loops_end_by_while_until_and_their_limit() {
    for (config, rounds, code) in [
        (json!({"while": "iteration < 3"}), 3, ""),
        (json!({"while": "false"}), 0, ""),
        (json!({"until": "context.last >= 2"}), 2, ""),
        (json!({"until": "false", "maxIterations": 4}), 4, "MAX_ITERATIONS"),
        (json!({"while": "context.last.deep"}), 0, "EXPRESSION_ERROR"),
    ] {
        let mut all =
            json!({"body": {"type": "work", "config": {}, "input": {"type": "key", "key": "iteration"}}});
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        // Yields between all steps, so that nothing depends on one decision doing it all.
        let mut bench = bench(
            json!({"s": {"type": "loop", "config": all, "outputKey": "last", "transitions": {"onSuccess": "again"}},
            "again": {"type": "loop", "config": {"while": "iteration < 1", "body": {"type": "set", "config": {"value": 1}}}, "outputKey": "n"}}),
        );
        bench.limits.max_inline_steps = 0;
        bench.on("work", |draft| success(json!(draft.input.as_ref().unwrap().as_u64().unwrap() + 1)));
        let id = bench.start(json!({}));
        bench.run_to_end();
        assert_eq!((bench.dispatched.len(), bench.code(id).as_str()), (rounds, code), "{config}");
        if code.is_empty() {
            assert_eq!(bench.context(id)["n"], 1, "the next loop begins at 0");
        }
    }
}

#[test]
fn concurrency_is_bounded_and_children_end_before_the_parent_goes_on() {
    let mut bench = bench(
        json!({"s": {"type": "map", "config": {"maxConcurrency": 2, "items": {"type": "static", "value": [1, 2, 3, 4, 5]},
        "body": {"type": "work", "config": {}}}, "outputKey": "out", "totalTimeoutMs": 100}}),
    );
    let id = bench.start(json!({}));
    assert_eq!(bench.queue.len(), 2);
    let child = bench.children(id)[1];
    bench.answer(child, success(json!(1)));
    assert_eq!((bench.queue.len(), bench.children(id).len()), (2, 3));
    bench.pass(100);
    assert_eq!(bench.status(id), Status::Waiting, "its children drain first");
    bench.run_to_end();
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "TIMEOUT"));
    assert_eq!(bench.joins.values().next().unwrap().most_live, 2);
}

#[test]
fn sub_flows_that_do_not_exist_or_nest_too_deep() {
    let mut missing = bench(json!({"s": {"type": "sub-flow", "config": {"flowId": "nowhere"}}}));
    let id = missing.start(json!({}));
    assert_eq!(missing.code(id), "FLOW_NOT_FOUND");
    let mut deep = bench(json!({"s": {"type": "sub-flow", "config": {"flowId": "t"}}}));
    deep.limits.max_depth = 3;
    let id = deep.start(json!({}));
    assert_eq!((deep.executions.len(), deep.code(id).as_str()), (4, "CHILD_FAILED"));
}

#[test]
fn drafts_schemas_labels_and_reruns() {
    let steps = json!({"s": {"type": "set", "config": {"value": 1}, "outputKey": "a", "transitions": {"onSuccess": "b"}},
        "b": {"type": "set", "config": {"value": 2}, "outputKey": "b"}});
    let mut draft = extended(steps.clone(), json!({"status": "draft"}));
    let flow = draft.flows[0].clone();
    let mut request = StartRequest::new(draft.next_id(), json!({}));
    let refused = create(request.clone(), &flow, &draft.limits, draft.now);
    assert!(matches!(refused, Err(StartError::NotPublished { status: "a draft", .. })));
    request.force = true;
    assert!(create(request, &flow, &draft.limits, draft.now).is_ok());

    let mut bench = extended(
        steps,
        json!({"inputSchema": {"type": "object", "required": ["n"]}, "labels": {"n": "n"},
            "outputSchema": {"type": "integer"}, "output": {"type": "key", "key": "out"}}),
    );
    let flow = bench.flows[0].clone();
    let wrong = create(StartRequest::new(bench.next_id(), json!({})), &flow, &bench.limits, bench.now);
    assert_eq!(wrong.unwrap_err().code(), "INPUT_INVALID");
    let id = bench.start(json!({"n": 5}));
    assert_eq!(
        (bench.code(id).as_str(), bench.get(id).identity.labels["n"].as_str()),
        ("OUTPUT_INVALID", "5")
    );
    let history = &bench.executions[&id].history;
    assert_eq!(context_at(history, "b").map(Value::Object), Some(json!({"n": 5, "a": 1})));
    assert_eq!(context_at(history, "nowhere"), None);
    let origin = Origin::Rerun(Lineage { rerun_of: id, from_step: "b".into() });
    let request =
        StartRequest { origin, ..StartRequest::new(bench.next_id(), json!({"n": 5, "a": 1, "out": 3})) };
    let creation = create(request, &flow, &bench.limits, bench.now).unwrap();
    let rerun = bench.admit(creation);
    bench.must(rerun, Command::Begin);
    assert_eq!((bench.status(rerun), bench.get(rerun).output.clone()), (Status::Completed, Some(json!(3))));
    assert!(bench.events(rerun).all(|event| !matches!(event, Event::Entered { step } if &**step == "s")));
}

#[test]
fn labels_come_from_the_start_and_from_the_input_within_limits() {
    let steps = json!({"s": {"type": "set", "config": {"value": 1}}});
    let labels =
        json!({"city": "order.city", "paid": "order.paid", "none": "order.none", "gone": "order.gone"});
    let mut bench = extended(steps, json!({ "labels": labels }));
    let flow = bench.flows[0].clone();
    let mut labelled = |context, labels: BTreeMap<String, String>| {
        let request = StartRequest { labels, ..StartRequest::new(bench.next_id(), context) };
        create(request, &flow, &bench.limits, bench.now)
            .map(|creation| creation.execution.identity.labels.clone())
    };
    let texts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let input = json!({"order": {"city": "Bern", "paid": true, "none": null}});
    assert_eq!(labelled(input.clone(), texts(&[])), Ok(texts(&[("city", "Bern"), ("paid", "true")])));
    assert_eq!(
        labelled(input, texts(&[("city", "Basel"), ("shop", "")])),
        Ok(texts(&[("city", "Basel"), ("paid", "true"), ("shop", "")])),
        "what the start says comes first"
    );
    let many = |count| (0..count).map(|n| (format!("l{n}"), String::new())).collect::<BTreeMap<_, _>>();
    let city = json!({"order": {"city": "Bern"}});
    assert!(labelled(city.clone(), many(LABELS_MAX - 1)).is_ok());
    assert_eq!(labelled(city, many(LABELS_MAX)), Err(StartError::TooManyLabels(LABELS_MAX + 1)));
    let long = "é".repeat(LABEL_VALUE_BYTES_MAX / 2);
    assert!(labelled(json!({"order": {"city": long}}), texts(&[])).is_ok());
    let name = "é".repeat(LABEL_NAME_BYTES_MAX / 2);
    assert!(labelled(json!({}), texts(&[(&name, "")])).is_ok());
    for (input, labels) in [
        (json!({"order": {"city": format!("{long}!")}}), texts(&[])),
        (json!({}), texts(&[("shop", &format!("{long}!"))])),
        (json!({}), texts(&[("", "x")])),
        (json!({}), texts(&[(&format!("!{name}"), "x")])),
    ] {
        let refused = labelled(input, labels).unwrap_err();
        assert_eq!(refused.code(), "INVALID_LABEL", "{refused}");
    }
}

#[test]
fn urls_that_resume_are_in_what_is_sent_and_not_in_what_is_kept() {
    let mut bench = bench(
        json!({"s": {"type": "mail", "config": {}, "input": {"type": "template", "template": "see ${_resumeUrl.w}"},
        "transitions": {"onSuccess": "w"}}, "w": {"type": "wait-signal", "config": {}}}),
    );
    let id = bench.start(json!({}));
    assert_eq!(bench.dispatched[0].input, Some(json!("see https://resume/w/1")));
    let kept = serde_json::to_string(&bench.executions[&id].history).unwrap();
    assert!(!kept.contains("https://resume"));
    assert!(matches!(bench.get(id).activity, Activity::Task(_)));
}

#[test]
fn iteration_counts_in_the_body_of_a_loop_too() {
    let body = json!({"type": "set", "config": {}, "input": {"type": "expr", "expr": "iteration * 10"}});
    let mut bench = bench(json!({"s": {"type": "loop", "outputKey": "last",
        "config": {"while": "iteration < 3", "body": body}}}));
    let id = bench.start(json!({}));
    assert_eq!(bench.context(id)["last"], json!(20));
}
