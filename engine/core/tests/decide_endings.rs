//! Cancels, failures, undoing, clean-up, pauses, incidents, reopening: every way off the straight path.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "test code")]

mod support;

use flowmonkey_core::execution::command::{Command, Signal};
use flowmonkey_core::execution::state::{Activity, CancelSource, Cost};
use flowmonkey_core::execution::{Rejection, Status};
use flowmonkey_core::ids::ExecutionId;
use serde_json::{Value, json};
use support::{Bench, failure, report, success};

/// A flow `t` that begins at `s`.
fn bench(steps: Value) -> Bench {
    extended(steps, json!({}))
}

fn extended(steps: Value, more: Value) -> Bench {
    let mut flow = json!({"id": "t", "version": "1.0.0", "initialStepId": "s", "steps": steps});
    flow.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Bench::new(&flow.to_string())
}

fn task(more: Value) -> Value {
    let mut step = json!({"type": "work", "config": {}});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

/// Handler types and inputs of all that was dispatched.
fn dispatched(bench: &Bench, handler_type: &str) -> Vec<Value> {
    let of_type = bench.dispatched.iter().filter(|draft| &*draft.handler_type == handler_type);
    of_type.map(|draft| draft.input.clone().unwrap_or(Value::Null)).collect()
}

#[test]
fn a_final_failure_ends_at_once() {
    let mut bench = bench(json!({"s": task(json!({}))}));
    let id = bench.start(json!({}));
    bench.answer(id, failure("BAD"));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "BAD"));
    assert!(bench.cancelled_tasks.is_empty(), "what has reported is not told to stop");
}

#[test]
fn a_cancel_reaches_every_activity() {
    let undone = json!({"undo": {"type": "undo", "config": {}}});
    let with = |step: Value| {
        let mut steps = undone.clone();
        steps["s"] = step;
        steps
    };
    let fan = json!({"type": "map", "config": {"items": {"type": "static", "value": [1, 2]},
        "body": {"type": "delay", "config": {"ms": 9}}}});
    // Step, failing first, how often it is undone.
    for (step, fails, undone) in [
        (json!({"type": "delay", "config": {"ms": 50}}), false, 0),
        (json!({"type": "wait-signal", "config": {}}), false, 0),
        (json!({"type": "wait-event", "config": {"event": "e"}}), false, 0),
        (json!({"type": "approval", "config": {}}), false, 0),
        (fan, false, 0),
        (task(json!({"compensateWith": "undo"})), false, 1),
        (task(json!({"retry": {"maxAttempts": 1, "backoffMs": 99}, "compensateWith": "undo"})), true, 0),
        (task(json!({"onExhausted": "incident", "compensateWith": "undo"})), true, 0),
    ] {
        let shown = step.to_string();
        let mut bench = bench(with(step));
        bench.on("undo", |_| success(json!(1)));
        let id = bench.start(json!({}));
        if fails {
            bench.answer(id, failure("BAD"));
        }
        bench.cancel(id).unwrap();
        assert!(bench.cancel(id).is_err());
        bench.run_to_end();
        assert_eq!(bench.status(id), Status::Cancelled, "{shown}");
        assert_eq!(dispatched(&bench, "undo").len(), undone, "{shown}");
    }
}

#[test]
fn a_draining_task_may_still_report_and_then_is_fenced() {
    let steps = || {
        json!({"s": task(json!({"outputKey": "out", "compensateWith": "undo"})),
            "undo": {"type": "undo", "config": {}, "input": {"type": "template", "template": {"out": "${out}", "why": "${_error.code}"}}}})
    };
    // In time: its output is what is undone.
    let mut early = bench(steps());
    let id = early.start(json!({}));
    early.cancel(id).unwrap();
    assert_eq!((early.status(id), early.cancelled_tasks.len()), (Status::Cancelling, 1));
    early.answer(id, success(json!(7)));
    assert_eq!(early.status(id), Status::Compensating);
    assert!(!early.get(id).undoing.as_ref().unwrap().uncertain);
    assert_eq!(dispatched(&early, "undo"), [json!({"out": 7, "why": "CANCELLED"})]);
    early.answer(id, success(Value::Null));
    assert_eq!(early.status(id), Status::Cancelled);

    // Too late: it is undone as uncertain, and the late result is refused.
    let mut late = bench(steps());
    let id = late.start(json!({}));
    let draft = late.queue[&id].clone();
    late.cancel(id).unwrap();
    late.pass(late.limits.cancel_grace_ms);
    assert!(late.get(id).undoing.as_ref().unwrap().uncertain);
    let refused = late.command(id, Command::Report(Box::new(report(&draft, success(json!(1))))));
    assert_eq!(refused, Err(Rejection::StaleAttempt));
    late.answer(id, success(Value::Null));
    assert_eq!(late.status(id), Status::Cancelled);
}

#[test]
fn an_attempt_that_ran_out_of_time_is_undone_as_uncertain_and_a_reported_failure_is_not() {
    for (times_out, undone) in [(true, 1), (false, 0)] {
        let mut bench = bench(
            json!({"s": task(json!({"compensateWith": "undo"})), "undo": {"type": "undo", "config": {}}}),
        );
        bench.on("undo", |_| success(json!(1)));
        let id = bench.start(json!({}));
        if times_out {
            let attempt = bench.attempt(id);
            bench.must(id, Command::TimedOut(attempt));
        } else {
            bench.answer(id, failure("DECLINED"));
        }
        assert_eq!(bench.status(id), Status::Failed);
        assert_eq!(dispatched(&bench, "undo").len(), undone);
    }
}

#[test]
fn undoing_goes_backwards_with_the_context_of_each_visit() {
    let undo = json!({"type": "undo", "config": {}, "input": {"type": "template", "template": {"n": "${n}", "why": "${_error.code}"}}});
    let step = |n: u32, next: &str| {
        json!({"type": "work", "config": {}, "outputKey": "n", "input": {"type": "static", "value": n},
            "compensateWith": "undo", "transitions": {"onSuccess": next}})
    };
    let mut bench = extended(
        json!({"s": step(1, "b"), "b": step(2, "c"), "c": {"type": "fail", "config": {"code": "LAST"}}, "undo": undo,
            "tidy": {"type": "set", "config": {}, "input": {"type": "path", "path": "_error.code"}, "outputKey": "tidied"}}),
        json!({"onFailure": "tidy"}),
    );
    bench.on("work", |draft| success(draft.input.clone().unwrap()));
    bench.on("undo", |_| success(json!("ignored")));
    let id = bench.start(json!({}));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "LAST"));
    assert_eq!(dispatched(&bench, "undo"), [json!({"n": 2, "why": "LAST"}), json!({"n": 1, "why": "LAST"})]);
    assert_eq!(bench.context(id), json!({"n": 2, "tidied": "LAST"}));
    let keys: Vec<_> = bench.dispatched.iter().map(|draft| draft.idempotency_key.clone()).collect();
    assert_eq!(keys[2..], [format!("{id}:b:1:undo:undo"), format!("{id}:s:1:undo:undo")]);
    assert_eq!(bench.command(id, Command::Retry { by: None }), Err(Rejection::Compensated));
}

#[test]
fn what_the_clean_up_does_stays_done() {
    let body = json!({"initialStepId": "w", "steps": {
        "w": {"type": "work", "config": {}, "compensateWith": "u"}, "u": {"type": "undo", "config": {}}}});
    let mut bench = extended(
        json!({"s": {"type": "fail", "config": {"code": "BAD"}}, "undo": {"type": "undo", "config": {}},
            "tidy": task(json!({"compensateWith": "undo", "transitions": {"onSuccess": "all"}})),
            "all": {"type": "map", "config": {"items": {"type": "static", "value": [1, 2]}, "body": body}}}),
        json!({"onFailure": "tidy"}),
    );
    bench.on("work", |_| success(json!(1)));
    let id = bench.start(json!({}));
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "BAD"));
    assert_eq!((dispatched(&bench, "work").len(), dispatched(&bench, "undo").len()), (3, 0));
    assert!(bench.get(id).compensations.is_empty());
    bench.must(id, Command::Retry { by: None });
}

#[test]
fn what_a_childs_body_did_is_undone_by_its_parent_with_all_that_it_saw() {
    let mut bench = bench(json!({
        "s": {"type": "map", "config": {"items": {"type": "static", "value": ["x", "y"]}, "body": {
            "initialStepId": "w", "steps": {
                "w": {"type": "work", "config": {}, "outputKey": "made", "input": {"type": "key", "key": "item"}, "compensateWith": "u"},
                "u": {"type": "undo", "config": {}, "input": {"type": "template",
                    "template": {"made": "${made}", "item": "${item}", "order": "${order}", "parent": "${parent.order}"}}}}}},
            "transitions": {"onSuccess": "end"}},
        "end": {"type": "fail", "config": {}},
    }));
    bench.on("work", |draft| success(json!(format!("made {}", draft.input.as_ref().unwrap()))));
    bench.on("undo", |_| success(Value::Null));
    let id = bench.start(json!({"order": 5}));
    assert_eq!(bench.status(id), Status::Failed);
    let seen =
        |item: &str| json!({"made": format!("made \"{item}\""), "item": item, "order": 5, "parent": 5});
    assert_eq!(dispatched(&bench, "undo"), [seen("y"), seen("x")]);
}

#[test]
fn a_sub_flows_steps_are_undone_by_its_parent() {
    let flows = json!([
        {"id": "t", "version": "1.0.0", "initialStepId": "s", "steps": {
            "s": {"type": "sub-flow", "config": {"flowId": "c"}, "transitions": {"onSuccess": "end"}},
            "end": {"type": "fail", "config": {}}}},
        {"id": "c", "version": "1.0.0", "initialStepId": "w", "steps": {
            "w": {"type": "work", "config": {}, "outputKey": "made", "compensateWith": "u"},
            "u": {"type": "map", "config": {"items": {"type": "expr", "expr": "[context.made, 2]"},
                "body": {"type": "undo", "config": {}, "input": {"type": "key", "key": "item"}}}}}}
    ]);
    let mut bench = Bench::new(&flows.to_string());
    bench.on("work", |_| success(json!(1)));
    bench.on("undo", |_| success(Value::Null));
    let id = bench.start(json!({}));
    assert_eq!(bench.status(id), Status::Failed);
    assert_eq!(dispatched(&bench, "undo"), [json!(1), json!(2)], "the undoing map runs its own flow's body");
}

#[test]
fn an_undoing_that_fails_is_parked_until_somebody_retries_it() {
    let mut bench = bench(json!({
        "s": task(json!({"compensateWith": "undo", "transitions": {"onSuccess": "end"}})),
        "end": {"type": "fail", "config": {}},
        "undo": {"type": "undo", "config": {}, "retry": {"maxAttempts": 1, "backoffMs": 10}}}));
    let id = bench.start(json!({}));
    bench.answer(id, success(Value::Null));
    bench.answer(id, failure("STUCK"));
    bench.pass(10);
    bench.answer(id, failure("STUCK"));
    assert_eq!((bench.status(id), bench.failed_tasks.len()), (Status::Incident, 1));
    assert_eq!(bench.cancel(id), Err(Rejection::Compensating));
    bench.must(id, Command::Pause { reason: None });
    assert_eq!(bench.command(id, Command::Retry { by: None }), Err(Rejection::Paused));
    bench.must(id, Command::Unpause);
    bench.must(id, Command::Retry { by: None });
    bench.answer(id, success(Value::Null));
    assert_eq!(bench.status(id), Status::Failed);
}

#[test]
fn undoing_has_a_time_limit_of_its_own() {
    let mut bench = bench(json!({
        "s": task(json!({"compensateWith": "undo", "transitions": {"onSuccess": "end"}})),
        "end": {"type": "fail", "config": {}}, "undo": {"type": "undo", "config": {}}}));
    let id = bench.start(json!({}));
    bench.answer(id, success(Value::Null));
    bench.pass(bench.limits.compensation_ms);
    let Activity::Incident(incident) = bench.get(id).activity.clone() else { panic!() };
    assert_eq!(incident.error.code, "COMPENSATION_TIMEOUT");
    bench.must(id, Command::Retry { by: None });
    assert_eq!(bench.get(id).next_wake(), Some(bench.now.plus(bench.limits.compensation_ms)));
    bench.answer(id, success(Value::Null));
    assert_eq!(bench.status(id), Status::Failed);
}

#[test]
fn undoing_and_clean_up_can_wait_and_be_answered() {
    let mut bench = extended(
        json!({"s": task(json!({"compensateWith": "undo", "transitions": {"onSuccess": "hang"}})),
            "hang": {"type": "wait-signal", "config": {}},
            "undo": {"type": "approval", "config": {"signal": "undone"}},
            "ask": {"type": "wait-signal", "config": {"signal": "asked"}, "outputKey": "asked"}}),
        json!({"onCancel": "ask"}),
    );
    let id = bench.start(json!({}));
    bench.answer(id, success(Value::Null));
    bench.cancel(id).unwrap();
    assert_eq!(bench.status(id), Status::Compensating);
    bench.signal(id, "undone", json!({"approved": true})).unwrap();
    assert_eq!(bench.status(id), Status::Cancelling);
    bench.signal(id, "asked", json!(1)).unwrap();
    assert_eq!((bench.status(id), bench.context(id)), (Status::Cancelled, json!({"asked": 1})));
}

#[test]
fn a_clean_up_runs_after_max_steps_and_ends_though_it_goes_in_circles() {
    for circles in [false, true] {
        let mut bench = extended(
            json!({"s": {"type": "set", "config": {"value": 1}, "transitions": {"onSuccess": "s"}},
                "tidy": {"type": "set", "config": {"value": 1}, "outputKey": "tidied",
                    "transitions": {"onSuccess": circles.then_some("tidy")}}}),
            json!({"onFailure": "tidy", "limits": {"maxSteps": 5}}),
        );
        let id = bench.start(json!({}));
        assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "MAX_STEPS"));
        assert_eq!(bench.context(id), json!({"tidied": 1}));
    }
}

#[test]
fn a_pause_holds_everything_back() {
    type Poke = fn(&mut Bench, ExecutionId);
    let reported: Poke = |bench, id| bench.answer(id, success(json!(1)));
    let timed_out: Poke = |bench, id| {
        let attempt = bench.attempt(id);
        bench.must(id, Command::TimedOut(attempt));
    };
    let lost: Poke = |bench, id| {
        let attempt = bench.attempt(id);
        bench.must(id, Command::LeaseLost { attempt, saved_at: None });
        assert!(bench.queue.is_empty(), "nothing goes out while paused");
    };
    for (poke, after, out) in [
        (reported, Status::Completed, 1),
        (timed_out, Status::Failed, 1),
        (lost, Status::WaitingForWorker, 2),
    ] {
        let mut bench = bench(json!({"s": task(json!({"outputKey": "out"}))}));
        let id = bench.start(json!({}));
        bench.must(id, Command::Pause { reason: Some("lunch".into()) });
        poke(&mut bench, id);
        assert_eq!(bench.status(id), Status::Paused);
        assert_eq!(bench.get(id).next_wake(), None);
        assert_eq!(bench.command(id, Command::Wake), Err(Rejection::Paused));
        assert_eq!(bench.command(id, Command::Pause { reason: None }), Err(Rejection::AlreadyPaused));
        bench.must(id, Command::Unpause);
        assert_eq!((bench.status(id), bench.dispatched.len()), (after, out));
    }
}

#[test]
fn a_held_result_counts_when_the_execution_is_cancelled_or_out_of_budget() {
    for budget in [false, true] {
        let mut bench = bench(
            json!({"s": task(json!({"outputKey": "out", "compensateWith": "undo"})), "undo": {"type": "undo", "config": {}}}),
        );
        bench.on("undo", |_| success(Value::Null));
        let id = bench.start(json!({}));
        bench.must(id, Command::Pause { reason: None });
        bench.answer(id, success(json!("done")));
        let attempt = bench.attempt(id);
        assert_eq!(
            bench.command(id, Command::LeaseLost { attempt, saved_at: None }),
            Err(Rejection::StaleAttempt)
        );
        let status = if budget {
            bench.must(id, Command::BudgetExceeded { spent: Cost { usd: 2.0, tokens: 0, attempts: 1 } });
            Status::Failed
        } else {
            bench.cancel(id).unwrap();
            Status::Cancelled
        };
        assert_eq!((bench.status(id), bench.context(id)["out"].as_str()), (status, Some("done")));
        assert_eq!(dispatched(&bench, "undo").len(), 1);
    }
}

#[test]
fn a_paused_start_begins_when_unpaused() {
    let mut bench = bench(json!({"s": {"type": "set", "config": {"value": 1}, "outputKey": "x"}}));
    let id = bench.created("t", json!({}));
    bench.must(id, Command::Pause { reason: None });
    assert_eq!(bench.command(id, Command::Begin), Err(Rejection::Paused));
    bench.must(id, Command::Unpause);
    assert_eq!(bench.status(id), Status::Completed);
}

#[test]
fn signals_and_joins_wait_for_the_end_of_a_pause() {
    let mut bench = bench(json!({
        "s": {"type": "approval", "config": {"signal": "ok", "form": {"type": "object", "required": ["approved"]}},
            "transitions": {"onSuccess": "m"}},
        "m": {"type": "map", "config": {"items": {"type": "static", "value": [1]}, "body": {"type": "work", "config": {}}}, "outputKey": "m"}}));
    let id = bench.start(json!({}));
    bench.must(id, Command::Pause { reason: None });
    assert!(
        matches!(bench.signal(id, "ok", json!(1)), Err(Rejection::InvalidAnswer(_))),
        "told while it can be"
    );
    bench.signal(id, "ok", json!({"approved": true})).unwrap();
    assert_eq!(bench.get(id).cursor.as_ref(), "s");
    bench.must(id, Command::Unpause);
    assert_eq!(bench.get(id).cursor.as_ref(), "m");
    bench.must(id, Command::Pause { reason: None });
    let child = bench.children(id)[0];
    bench.answer(child, success(json!(9)));
    assert_eq!(bench.status(id), Status::Paused);
    bench.must(id, Command::Unpause);
    assert_eq!((bench.status(id), bench.context(id)["m"].clone()), (Status::Completed, json!([9])));
}

#[test]
fn a_failed_execution_is_reopened_at_the_visit_that_failed() {
    let mut bench = extended(
        json!({"s": task(json!({"outputKey": "out"})), "tidy": {"type": "set", "config": {"value": 1}, "outputKey": "tidied"}}),
        json!({"onFailure": "tidy"}),
    );
    let id = bench.start(json!({}));
    bench.answer(id, failure("BAD"));
    assert_eq!((bench.status(id), bench.get(id).cursor.as_ref()), (Status::Failed, "tidy"));
    bench.must(id, Command::Retry { by: Some("me".into()) });
    assert_eq!((bench.status(id), bench.get(id).run), (Status::WaitingForWorker, 2));
    let [first, second] = &bench.dispatched[..] else { panic!() };
    assert_eq!((first.idempotency_key.clone(), first.task), (second.idempotency_key.clone(), second.task));
    assert!(second.attempt > first.attempt);
    bench.answer(id, success(json!(1)));
    assert_eq!(bench.status(id), Status::Completed);
    assert_eq!(
        bench.command(id, Command::Retry { by: None }),
        Err(Rejection::NotRetryable(Status::Completed))
    );
}

#[test]
fn a_visit_cut_off_by_a_limit_goes_on_under_the_same_key() {
    let mut bench = extended(json!({"s": task(json!({}))}), json!({"timeouts": {"executionMs": 100}}));
    let id = bench.start(json!({}));
    bench.pass(100);
    assert_eq!(bench.status(id), Status::Cancelling);
    bench.pass(bench.limits.cancel_grace_ms);
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "EXECUTION_TIMEOUT"));
    bench.must(id, Command::Retry { by: None });
    let keys: Vec<_> = bench.dispatched.iter().map(|draft| &draft.idempotency_key).collect();
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn terminate_ends_at_once_without_undoing() {
    for waits in [
        json!({"type": "work", "config": {}}),
        json!({"type": "delay", "config": {"ms": 5}}),
        json!({"type": "map", "config": {"items": {"type": "static", "value": [1]}, "body": {"type": "work", "config": {}}}}),
    ] {
        let mut bench = bench(json!({
            "s": {"type": "work", "config": {}, "compensateWith": "undo", "transitions": {"onSuccess": "hang"}},
            "hang": waits, "undo": {"type": "undo", "config": {}}}));
        let id = bench.start(json!({}));
        bench.answer(id, success(Value::Null));
        bench.must(id, Command::Terminate { reason: None });
        assert_eq!((bench.status(id), bench.now), (Status::Cancelled, support::BEGINNING));
        assert!(dispatched(&bench, "undo").is_empty());
        bench.run_to_end();
        assert!(bench.children(id).iter().all(|child| bench.get(*child).is_terminal()));
    }
}

#[test]
fn fire_and_forget_children_go_on_after_their_parent_unless_told_otherwise() {
    for (close, status) in [
        (json!({"onParentClose": "cancel"}), Status::Cancelled),
        (json!({"onParentClose": "abandon"}), Status::Waiting),
        (json!({}), Status::Waiting),
    ] {
        let mut config = json!({"flowId": "c", "waitForCompletion": false});
        config.as_object_mut().unwrap().extend(close.as_object().unwrap().clone());
        let flows = json!([
            {"id": "t", "version": "1.0.0", "initialStepId": "s", "steps": {"s": {"type": "sub-flow",
                "config": config}}},
            {"id": "c", "version": "1.0.0", "initialStepId": "w", "steps": {"w": {"type": "wait-signal", "config": {}}}}]);
        let mut bench = Bench::new(&flows.to_string());
        let id = bench.start(json!({}));
        let child = bench.children(id)[0];
        assert_eq!((bench.status(id), bench.status(child)), (Status::Completed, status));
    }
}

#[test]
fn a_child_that_was_counted_is_not_reopened() {
    let mut bench = bench(
        json!({"s": {"type": "parallel", "config": {"branches": {"a": {"type": "fail", "config": {}}}}}}),
    );
    let id = bench.start(json!({}));
    let child = bench.children(id)[0];
    assert_eq!(bench.command(child, Command::Retry { by: None }), Err(Rejection::CountedChild));
    bench.must(id, Command::Retry { by: None });
    assert_eq!((bench.children(id).len(), bench.status(id)), (2, Status::Failed));
}

#[test]
fn budgets_warn_once_and_end() {
    let mut bench =
        extended(json!({"s": task(json!({}))}), json!({"budget": {"maxCostUsd": 1, "maxAttempts": 9}}));
    let id = bench.start(json!({}));
    assert_eq!(bench.spent.attempts, 1);
    let spent = Cost { usd: 1.5, tokens: 0, attempts: 1 };
    bench.must(id, Command::BudgetWarning { spent });
    assert_eq!(bench.command(id, Command::BudgetWarning { spent }), Err(Rejection::NothingDue));
    assert_eq!(bench.published.iter().filter(|event| event.name == "budget.warning").count(), 1);
    bench.must(id, Command::BudgetExceeded { spent });
    bench.run_to_end();
    assert_eq!((bench.status(id), bench.code(id).as_str()), (Status::Failed, "BUDGET_EXCEEDED"));
}

#[test]
fn a_cancel_beats_a_retry_and_names_its_source() {
    let mut bench = bench(json!({"s": task(json!({"retry": {"maxAttempts": 5, "backoffMs": 100}}))}));
    let id = bench.start(json!({}));
    bench.cancel(id).unwrap();
    bench.answer(id, failure("BAD"));
    assert_eq!((bench.status(id), bench.backoffs(id).len()), (Status::Cancelled, 0));
    let command = Command::Cancel { source: CancelSource::System, reason: None };
    assert_eq!(bench.command(id, command), Err(Rejection::Finished(Status::Cancelled)));
    let signal = Signal { name: "x".into(), data: None, id: None };
    assert_eq!(bench.command(id, Command::Signal(signal)), Err(Rejection::Finished(Status::Cancelled)));
}
