//! Handlers that give their worker back and go on later: the same task, from its checkpoint.
#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use flowmonkey_core::execution::command::{Command, EmittedEvent, ReportedOutcome};
use flowmonkey_core::execution::state::{AwaitedEvent, ResumedBy};
use flowmonkey_core::execution::{Rejection, Resumed, Status};
use flowmonkey_core::time::Timestamp;
use serde_json::{Value, json};
use support::{Bench, failure, success};

fn bench(step: Value, more: Value) -> Bench {
    let mut all = json!({"type": "job", "config": {}, "outputKey": "out"});
    all.as_object_mut().unwrap().extend(step.as_object().unwrap().clone());
    let mut flow = json!({"id": "t", "version": "1.0.0", "initialStepId": "s", "steps": {"s": all}});
    flow.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Bench::new(&flow.to_string())
}

fn pause(until: Option<Timestamp>, event: Option<(&str, Option<&str>)>) -> ReportedOutcome {
    ReportedOutcome::Wait {
        output: None,
        until,
        reason: Some("the machine is busy".into()),
        token: Some("tok".into()),
        again: true,
        event: event.map(|(name, condition)| AwaitedEvent {
            name: name.into(),
            condition: condition.map(Into::into),
        }),
    }
}

#[test]
fn a_pause_ends_by_its_time_a_resume_or_its_event_and_the_same_task_goes_on() {
    let mut bench = bench(json!({"retry": {"maxAttempts": 0}}), json!({}));
    let id = bench.start(json!({}));
    let first = bench.queue[&id].clone();
    assert_eq!((first.attempt, &first.resumed), (1, &None));

    bench.answer(id, pause(Some(bench.now.plus(60_000)), None));
    assert_eq!(bench.status(id), Status::Waiting);
    assert_eq!(bench.get(id).waiting_reason().as_deref(), Some("the machine is busy"));
    assert!(!bench.queue.contains_key(&id), "no worker is held");
    bench.pass(59_999);
    assert_eq!(bench.status(id), Status::Waiting);
    bench.pass(1);
    let second = bench.queue[&id].clone();
    assert_eq!((second.task, second.attempt), (first.task, 2));
    assert_eq!(second.idempotency_key, first.idempotency_key);
    assert_eq!(second.resumed, Some(Resumed { by: ResumedBy::Time, data: None }));

    bench.answer(id, pause(None, None));
    bench.must(id, Command::ResumeByToken { token: "tok".into(), data: Some(json!({"go": 1})) });
    let third = bench.queue[&id].clone();
    let resumed = Some(Resumed { by: ResumedBy::Resume, data: Some(json!({"go": 1})) });
    assert_eq!((third.attempt, &third.resumed), (3, &resumed));
    // A worker that dies takes nothing with it.
    let lost = bench.attempt(id);
    bench.must(id, Command::LeaseLost { attempt: lost, saved_at: None });
    assert_eq!((bench.queue[&id].attempt, &bench.queue[&id].resumed), (4, &resumed));

    bench.answer(id, pause(Some(bench.now.plus(1_000)), Some(("freed", Some("event.data.gpus > 1")))));
    let freed = |gpus: u32| EmittedEvent { id: None, name: "freed".into(), data: json!({"gpus": gpus}) };
    bench.publish(freed(1));
    bench.run();
    assert_eq!(bench.status(id), Status::Waiting, "that one does not match");
    bench.publish(freed(2));
    bench.run();
    let last = bench.queue[&id].clone();
    let resumed = last.resumed.unwrap();
    assert!(matches!(&resumed.by, ResumedBy::Event { name, .. } if name == "freed"));
    assert_eq!((last.attempt, resumed.data), (5, Some(json!({"gpus": 2}))));

    bench.answer(id, success(json!("done")));
    assert_eq!((bench.status(id), bench.context(id)), (Status::Completed, json!({"out": "done"})));
    assert_eq!(bench.get(id).visits.values().sum::<u32>(), 1, "it was one visit");
}

#[test]
fn a_pause_uses_no_retry_and_a_failure_after_it_does() {
    let mut bench = bench(json!({"retry": {"maxAttempts": 1, "backoffMs": 10, "jitter": "none"}}), json!({}));
    let id = bench.start(json!({}));
    for _ in 0..3 {
        bench.answer(id, pause(Some(bench.now.plus(5)), None));
        bench.pass(5);
    }
    bench.answer(id, failure("BAD"));
    bench.pass(10);
    let retried = bench.queue[&id].clone();
    assert_eq!(retried.resumed.map(|resumed| resumed.by), Some(ResumedBy::Time));
    bench.answer(id, failure("BAD"));
    assert_eq!(bench.status(id), Status::Failed);
}

#[test]
fn pauses_are_bounded_by_steps_and_by_the_limit_of_the_visit() {
    let mut bench_of_steps = bench(json!({}), json!({"limits": {"maxSteps": 3}}));
    let id = bench_of_steps.start(json!({}));
    for _ in 0..2 {
        bench_of_steps.answer(id, pause(Some(bench_of_steps.now.plus(5)), None));
        bench_of_steps.pass(5);
    }
    bench_of_steps.answer(id, pause(None, None));
    assert_eq!((bench_of_steps.status(id), bench_of_steps.code(id)), (Status::Failed, "MAX_STEPS".into()));

    let mut bench = bench(json!({"totalTimeoutMs": 1_000}), json!({}));
    let id = bench.start(json!({}));
    bench.pass(400);
    bench.answer(id, pause(None, None));
    bench.pass(599);
    assert_eq!(bench.status(id), Status::Waiting);
    bench.pass(1);
    assert_eq!((bench.status(id), bench.code(id)), (Status::Failed, "WAIT_TIMEOUT".into()));
}

#[test]
fn an_event_that_cannot_be_waited_for_is_a_failure() {
    let mut bench = bench(json!({}), json!({}));
    let id = bench.start(json!({}));
    bench.answer(id, pause(None, Some(("freed", Some("event.data.gpus >")))));
    assert_eq!((bench.status(id), bench.code(id)), (Status::Failed, "INVALID_RESULT".into()));
}

#[test]
fn a_paused_job_can_be_cancelled() {
    let mut bench = bench(json!({}), json!({}));
    let id = bench.start(json!({}));
    bench.answer(id, pause(None, Some(("freed", None))));
    bench.cancel(id).unwrap();
    assert_eq!(bench.status(id), Status::Cancelled);
    let resume = Command::ResumeByToken { token: "tok".into(), data: None };
    assert!(matches!(bench.command(id, resume), Err(Rejection::Finished(_))));
    assert!(!bench.queue.contains_key(&id));
}

#[test]
fn an_event_that_came_before_the_pause_ends_it() {
    let mut bench = bench(json!({}), json!({}));
    let id = bench.start(json!({}));
    bench.publish(EmittedEvent { id: None, name: "freed".into(), data: json!(7) });
    bench.run();
    bench.answer(id, pause(None, Some(("freed", None))));
    bench.run();
    assert_eq!(bench.queue[&id].resumed.as_ref().and_then(|resumed| resumed.data.clone()), Some(json!(7)));
    // It counts once.
    bench.answer(id, pause(None, Some(("freed", None))));
    bench.run();
    assert_eq!(bench.status(id), Status::Waiting);
}
