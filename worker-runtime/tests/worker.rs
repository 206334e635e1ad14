//! The worker against the local queue: slots, endings of all kinds, leases, reports, drain.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flowmonkey_plumbing::queue::{Delivery, DispatchQueue, Dispatched};
use flowmonkey_plumbing::wire::{
    ContextOperation, ContextUpdates, Cost, LogLevel, Outcome, Priority, TaskMessage,
};
use flowmonkey_worker::{Completion, DrainReport, Failure, Handler, Wait, WorkerConfig};
use serde_json::{Value, json};
use support::{Memory, Probe, config, handler, soon, start, task};
use tokio::sync::{Semaphore, watch};

/// Long enough for everything that is not meant to run out.
const LONG: Duration = Duration::from_secs(60);

/// The task `t` of a pool.
fn dispatched(pool: &str) -> Dispatched {
    Dispatched { pool: pool.into(), delivery: delivery("t") }
}

fn delivery(id: &str) -> Delivery {
    Delivery { task_id: id.into(), attempt: 1 }
}

/// A handler that never ends by itself, and counts how many have started.
fn endless(started: &watch::Sender<usize>) -> Arc<dyn Handler> {
    let started = started.clone();
    handler("endless", None, move |_| {
        let started = started.clone();
        Box::pin(async move {
            started.send_modify(|count| *count += 1);
            std::future::pending().await
        })
    })
}

async fn wait_for(count: &watch::Sender<usize>, goal: usize) {
    soon(count.subscribe().wait_for(|count| *count >= goal)).await.unwrap();
}

fn error(result: &flowmonkey_plumbing::wire::ResultMessage) -> (String, String) {
    let error = result.error.clone().unwrap();
    (error.code, error.message)
}

#[tokio::test]
async fn all_that_an_attempt_leaves_behind_is_in_its_result() {
    let queue = Probe::new();
    let memory = Arc::new(Memory::default());
    let echo = handler("echo", None, |task| {
        Box::pin(async move {
            task.log(LogLevel::Info, "hello");
            task.progress(150.0, None);
            task.emit("seen", json!(1));
            task.update_context(ContextOperation::Set { path: "a.b".into(), value: json!(2) });
            task.add_cost(Cost { usd: 0.25, tokens: 7 });
            Ok(Completion::output(task.input().clone()))
        })
    });
    let worker = start(config(), &queue, Arc::clone(&memory), [echo]);
    queue.queue.push(vec![task("t", "echo")]).await.unwrap();
    let result = queue.result().await;
    assert_eq!((result.outcome, result.output), (Outcome::Success, Some(json!({ "id": "t" }))));
    assert_eq!(result.logs[0].message, "hello");
    assert_eq!(result.events[0].event, "seen");
    assert_eq!(result.cost, Some(Cost { usd: 0.25, tokens: 7 }));
    let set = ContextOperation::Set { path: "a.b".into(), value: json!(2) };
    assert_eq!(result.context_updates, Some(ContextUpdates::Operations(vec![set])));
    assert_eq!(result.metrics.worker_id, "worker-1");
    assert_eq!(memory.progress.lock().unwrap()[0].percent, 100.0);
    assert_eq!(soon(worker.drain(LONG)).await, DrainReport::default());
}

/// A call for each short attempt would cost more than the attempt.
#[tokio::test]
async fn an_attempt_that_runs_for_a_while_is_told_of() {
    let queue = Probe::new();
    let memory = Arc::new(Memory::default());
    let quick = handler("quick", None, |_| Box::pin(async { Ok(Completion::Success(None)) }));
    let told = Arc::clone(&memory);
    let long = handler("long", None, move |_| {
        let told = Arc::clone(&told);
        Box::pin(async move {
            while told.started.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(Completion::Success(None))
        })
    });
    let _worker = start(config(), &queue, Arc::clone(&memory), [quick, long]);
    queue.queue.push(vec![task("q", "quick")]).await.unwrap();
    queue.result().await;
    queue.queue.push(vec![task("l", "long")]).await.unwrap();
    queue.result().await;
    assert_eq!(*memory.started.lock().unwrap(), [delivery("l")]);
}

#[tokio::test]
async fn waits_and_overrides_are_reported_as_such() {
    let queue = Probe::new();
    let waits = handler("waits", None, |task| {
        let output = task.input()["output"].clone();
        let output = (!output.is_null()).then_some(output);
        let wait = Wait { reason: Some("approval".into()), output, ..Wait::default() };
        Box::pin(async move { Ok(Completion::Wait(wait)) })
    });
    let jumps =
        handler("jumps", None, |_| Box::pin(async { Ok(Completion::Override { output: None, next: None }) }));
    let _worker = start(config(), &queue, Arc::default(), [waits, jumps]);
    let mut early = task("early", "waits");
    early.input = Some(json!({ "output": 1 }));
    queue.queue.push(vec![task("late", "waits"), early, task("jump", "jumps")]).await.unwrap();
    let mut results = queue.results(3).await;
    results.sort_by(|a, b| a.task_id.cmp(&b.task_id));
    assert_eq!((results[0].outcome, &results[0].output), (Outcome::Waiting, &Some(json!(1))));
    assert_eq!((results[1].outcome, &results[1].next_step_override), (Outcome::Success, &Some(None)));
    assert_eq!((results[2].outcome, &results[2].output), (Outcome::Wait, &None));
    assert_eq!(results[2].wait_reason.as_deref(), Some("approval"));
}

/// Such a task may kill this worker: what was claimed with it is back in the queue before it begins, and nothing begins
/// before it has ended.
#[tokio::test]
async fn a_suspected_task_is_in_hand_alone() {
    let queue = Probe::new();
    let gate = Arc::new(Semaphore::new(0));
    let seen = watch::Sender::new(Vec::new());
    let handlers = ["one", "other"].map(|handler_type| {
        let (gate, seen) = (Arc::clone(&gate), seen.clone());
        handler(handler_type, None, move |task| {
            let (gate, seen) = (Arc::clone(&gate), seen.clone());
            Box::pin(async move {
                let id = &task.message.task_id;
                seen.send_modify(|seen| seen.push(format!("{id} begins")));
                gate.acquire().await.unwrap().forget();
                seen.send_modify(|seen| seen.push(format!("{id} ends")));
                Ok(Completion::Success(None))
            })
        })
    });
    let suspect = |id| TaskMessage { isolate: true, ..task(id, "one") };
    let tasks = vec![task("before", "one"), suspect("s1"), suspect("s2"), task("after", "one")];
    queue.queue.push(tasks).await.unwrap();
    // Of whatever pool.
    queue.queue.push(vec![task("elsewhere", "other")]).await.unwrap();
    let worker = start(WorkerConfig { concurrency: 8, ..config() }, &queue, Arc::default(), handlers);
    let wait_for = async |what: &str| {
        soon(seen.subscribe().wait_for(|seen| seen.iter().any(|one| one == what))).await.map(drop).unwrap();
    };
    wait_for("s1 begins").await;
    let depths = queue.queue.depths().await.unwrap();
    let (_, depth) = depths.iter().find(|(pool, _)| pool == "one").unwrap();
    assert_eq!((depth.normal, depth.in_flight), (3, 1), "{depths:?}");
    gate.add_permits(1);
    wait_for("s2 begins").await;
    gate.add_permits(4);
    assert_eq!(queue.results(5).await.len(), 5);
    let seen = seen.borrow().clone();
    for suspect in ["s1", "s2"] {
        let place = |what: &str| seen.iter().position(|one| *one == format!("{suspect} {what}")).unwrap();
        let beside = &seen[place("begins") + 1..place("ends")];
        assert!(beside.iter().all(|one| one.ends_with("ends")), "{seen:?}");
    }
    assert_eq!(worker.metrics().started.get(), 5);
}

#[tokio::test]
async fn no_more_handlers_run_than_there_are_slots() {
    let queue = Probe::new();
    let gate = Arc::new(Semaphore::new(0));
    let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    let started = watch::Sender::new(0);
    let counted = |name: &str, slots| {
        let (gate, running, started) = (Arc::clone(&gate), Arc::clone(&running), started.clone());
        handler(name, slots, move |_| {
            let (gate, running, started) = (Arc::clone(&gate), Arc::clone(&running), started.clone());
            Box::pin(async move {
                let now = running.0.fetch_add(1, Ordering::SeqCst) + 1;
                running.1.fetch_max(now, Ordering::SeqCst);
                started.send_modify(|count| *count += 1);
                gate.acquire().await.unwrap().forget();
                running.0.fetch_sub(1, Ordering::SeqCst);
                Ok(Completion::Success(None))
            })
        })
    };
    let handlers = [counted("narrow", Some(1)), counted("wide", None)];
    let worker = start(WorkerConfig { concurrency: 3, ..config() }, &queue, Arc::default(), handlers);
    let narrow = (0..5).map(|n| task(&format!("n{n}"), "narrow"));
    queue.queue.push(narrow.collect()).await.unwrap();
    wait_for(&started, 1).await;
    // The handler's own limit: one of three slots is used.
    assert_eq!(worker.in_hand(), 1);
    let wide = (0..5).map(|n| task(&format!("w{n}"), "wide"));
    queue.queue.push(wide.collect()).await.unwrap();
    wait_for(&started, 3).await;
    assert_eq!(worker.in_hand(), 3);
    gate.add_permits(10);
    assert_eq!(queue.results(10).await.len(), 10);
    assert_eq!(running.1.load(Ordering::SeqCst), 3);
    assert_eq!(worker.metrics().started.get(), 10);
}

#[tokio::test]
async fn a_panic_fails_the_attempt_and_harms_nothing_else() {
    let queue = Probe::new();
    let panics = handler("panics", Some(1), |task| {
        let first = task.message.task_id == "a";
        Box::pin(async move {
            assert!(!first, "the first one breaks");
            Ok(Completion::Success(None))
        })
    });
    let worker = start(config(), &queue, Arc::default(), [panics]);
    queue.queue.push(vec![task("a", "panics"), task("b", "panics")]).await.unwrap();
    let results = queue.results(2).await;
    let (code, message) = error(&results[0]);
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("HANDLER_ERROR", "the handler panicked: the first one breaks")
    );
    assert_eq!(results[1].outcome, Outcome::Success);
    assert_eq!(worker.metrics().panicked.get(), 1);
}

#[tokio::test]
async fn an_attempt_past_its_limit_is_dropped_and_fails_with_the_limit_named() {
    let queue = Probe::new();
    let started = watch::Sender::new(0);
    let worker = start(config(), &queue, Arc::default(), [endless(&started)]);
    let mut short = task("t", "endless");
    short.remaining_ms = 30;
    queue.queue.push(vec![short]).await.unwrap();
    let (code, message) = error(&queue.result().await);
    assert_eq!((code.as_str(), message.as_str()), ("TIMEOUT", "the attempt passed its limit of 30 ms"));
    assert_eq!(worker.metrics().timed_out.get(), 1);
}

#[tokio::test]
async fn missing_handlers_and_versions_are_failures() {
    let queue = Probe::new();
    let started = watch::Sender::new(0);
    let _worker = start(config(), &queue, Arc::default(), [endless(&started)]);
    let mut missing = task("a", "endless");
    missing.handler.handler_type = "other".into();
    let mut newer = task("b", "endless");
    newer.handler.version = Some("^2".into());
    let mut odd = task("c", "endless");
    odd.handler.version = Some("latest".into());
    queue.queue.push(vec![missing, newer, odd]).await.unwrap();
    let mut results = queue.results(3).await;
    results.sort_by(|a, b| a.task_id.cmp(&b.task_id));
    let codes: Vec<_> = results.iter().map(|result| error(result).0).collect();
    assert_eq!(codes, ["HANDLER_NOT_FOUND", "HANDLER_VERSION_MISMATCH", "HANDLER_VERSION_MISMATCH"]);
    assert!(error(&results[1]).1.contains("asks for version ^2 of `endless`, this worker has 1.2.0"));
    assert_eq!(*started.borrow(), 0);
}

#[tokio::test]
async fn a_cancelled_handler_may_end_by_itself() {
    let queue = Probe::new();
    let started = watch::Sender::new(0);
    let polite = {
        let started = started.clone();
        handler("polite", None, move |task| {
            let started = started.clone();
            Box::pin(async move {
                started.send_modify(|count| *count += 1);
                task.cancelled.cancelled().await;
                Err(Failure::new("STOPPED", "as asked"))
            })
        })
    };
    let worker = start(WorkerConfig { heartbeat_ms: 10, ..config() }, &queue, Arc::default(), [polite]);
    queue.queue.push(vec![task("t", "polite")]).await.unwrap();
    wait_for(&started, 1).await;
    assert_eq!(queue.queue.request_cancel(&[dispatched("polite")]).await.unwrap(), []);
    assert_eq!(error(&queue.result().await).0, "STOPPED");
    assert_eq!(worker.metrics().cancelled.get(), 0);
}

#[tokio::test]
async fn a_cancelled_handler_that_goes_on_is_dropped_after_the_grace() {
    let queue = Probe::new();
    let started = watch::Sender::new(0);
    let config = WorkerConfig { heartbeat_ms: 10, cancel_grace_ms: 20, ..config() };
    let worker = start(config, &queue, Arc::default(), [endless(&started)]);
    queue.queue.push(vec![task("t", "endless")]).await.unwrap();
    wait_for(&started, 1).await;
    queue.queue.request_cancel(&[dispatched("endless")]).await.unwrap();
    let result = queue.result().await;
    assert_eq!(error(&result).0, "CANCELLED");
    assert_eq!(result.error.unwrap().retryable, Some(false));
    assert_eq!(worker.metrics().cancelled.get(), 1);
}

/// Rings when it is dropped.
struct Dropped(watch::Sender<usize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count += 1);
    }
}

/// A handler that never ends, and rings when its future is dropped.
fn dropping(started: &watch::Sender<usize>, dropped: &watch::Sender<usize>) -> Arc<dyn Handler> {
    let (started, dropped) = (started.clone(), dropped.clone());
    handler("endless", None, move |_| {
        let (started, dropped) = (started.clone(), Dropped(dropped.clone()));
        Box::pin(async move {
            let _dropped = dropped;
            started.send_modify(|count| *count += 1);
            std::future::pending().await
        })
    })
}

#[tokio::test]
async fn a_lost_lease_stops_the_handler_and_nothing_is_reported() {
    let queue = Probe::new();
    queue.queue.set_generation("endless", 1).await.unwrap();
    let (started, dropped) = (watch::Sender::new(0), watch::Sender::new(0));
    let config = WorkerConfig { heartbeat_ms: 10, ..config() };
    let worker = start(config, &queue, Arc::default(), [dropping(&started, &dropped)]);
    queue.queue.push(vec![task("t", "endless")]).await.unwrap();
    wait_for(&started, 1).await;
    queue.queue.drop_deliveries(&[dispatched("endless")]).await.unwrap();
    wait_for(&dropped, 1).await;
    let metrics = worker.metrics();
    assert_eq!(soon(worker.drain(LONG)).await, DrainReport::default());
    assert_eq!((metrics.lost.get(), metrics.reported.get() + metrics.refused.get()), (1, 0));
    assert!(queue.queue.is_idle().await.unwrap());
}

#[tokio::test]
async fn a_worker_that_cannot_extend_fences_itself_before_the_lease_ends() {
    let queue = Probe::new();
    let (started, dropped) = (watch::Sender::new(0), watch::Sender::new(0));
    let config = WorkerConfig { heartbeat_ms: 10, ..config() };
    let worker = start(config, &queue, Arc::default(), [dropping(&started, &dropped)]);
    let mut short = task("t", "endless");
    short.lease_ms = 1_200;
    queue.failing_extends.store(true, Ordering::SeqCst);
    queue.queue.push(vec![short]).await.unwrap();
    wait_for(&started, 1).await;
    wait_for(&dropped, 1).await;
    // The margin: by the queue's clock, the lease has not ended yet.
    assert_eq!(queue.queue.expired(10).await.unwrap(), []);
    let metrics = worker.metrics();
    soon(worker.drain(LONG)).await;
    assert_eq!((metrics.fenced.get(), metrics.reported.get()), (1, 0));
    assert!(metrics.extend_errors.get() > 0);
}

#[tokio::test]
async fn a_handler_that_blocks_its_thread_keeps_its_lease() {
    let queue = Probe::new();
    let (begun, begin) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Mutex::new(ended);
    let blocks = handler("blocks", None, move |_| {
        begun.send(()).unwrap();
        // On this runtime of one thread, nothing else of the worker runs meanwhile.
        ended.lock().unwrap().recv().unwrap();
        Box::pin(async { Ok(Completion::Success(None)) })
    });
    let config = WorkerConfig { heartbeat_ms: 10, ..config() };
    let worker = start(config, &queue, Arc::default(), [blocks]);
    let mut short = task("t", "blocks");
    short.lease_ms = 2_000;
    queue.queue.push(vec![short]).await.unwrap();
    // Observed from outside, as the handler blocks the runtime of this test.
    let mut extends = queue.extends.subscribe();
    let observer = std::thread::spawn(move || {
        begin.recv().unwrap();
        let seen = *extends.borrow_and_update();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(extends.wait_for(|count| *count >= seen + 5)).unwrap();
        end.send(()).unwrap();
    });
    assert_eq!(queue.result().await.outcome, Outcome::Success);
    observer.join().unwrap();
    assert_eq!((worker.metrics().lost.get(), worker.metrics().fenced.get()), (0, 0));
}

#[tokio::test]
async fn results_are_repeated_until_they_are_accepted_exactly_once() {
    for answers_get_lost in [false, true] {
        let queue = Probe::new();
        queue.failing_finishes.store(3, Ordering::SeqCst);
        queue.finish_answers_get_lost.store(answers_get_lost, Ordering::SeqCst);
        let echo = handler("echo", None, |_| Box::pin(async { Ok(Completion::output(Value::Null)) }));
        let worker = start(config(), &queue, Arc::default(), [echo]);
        queue.queue.push(vec![task("t", "echo")]).await.unwrap();
        let result = queue.result().await;
        assert_eq!(result.output, Some(Value::Null));
        let metrics = worker.metrics();
        let report = soon(worker.drain(LONG)).await;
        assert_eq!(report.unreported, 0);
        assert_eq!((metrics.finish_errors.get(), metrics.reported.get()), (3, 1));
        assert_eq!(queue.queue.take("engine", 10).await.unwrap(), []);
    }
}

#[tokio::test]
async fn results_that_are_ready_together_travel_together() {
    let queue = Probe::new();
    let gate = Arc::new(Semaphore::new(0));
    let gated = {
        let gate = Arc::clone(&gate);
        handler("gated", None, move |_| {
            let gate = Arc::clone(&gate);
            Box::pin(async move {
                gate.acquire().await.unwrap().forget();
                Ok(Completion::Success(None))
            })
        })
    };
    let _worker = start(config(), &queue, Arc::default(), [gated]);
    queue.queue.push((0..8).map(|n| task(&format!("t{n}"), "gated")).collect()).await.unwrap();
    soon(queue.claims.subscribe().wait_for(|claims| *claims > 0)).await.unwrap();
    gate.add_permits(8);
    queue.results(8).await;
    assert!(queue.finished.lock().unwrap().len() < 8, "{:?}", queue.finished.lock().unwrap());
}

#[tokio::test]
async fn refused_results_are_counted() {
    let queue = Probe::new();
    let gate = Arc::new(Semaphore::new(0));
    let started = watch::Sender::new(0);
    let gated = {
        let (gate, started) = (Arc::clone(&gate), started.clone());
        handler("gated", None, move |_| {
            let (gate, started) = (Arc::clone(&gate), started.clone());
            Box::pin(async move {
                started.send_modify(|count| *count += 1);
                gate.acquire().await.unwrap().forget();
                Ok(Completion::Success(None))
            })
        })
    };
    let worker = start(config(), &queue, Arc::default(), [gated]);
    queue.queue.push(vec![task("t", "gated")]).await.unwrap();
    wait_for(&started, 1).await;
    // The queue is rebuilt behind the worker's back, and another worker claims the task.
    queue.queue.drop_deliveries(&[dispatched("gated")]).await.unwrap();
    let claim = flowmonkey_plumbing::queue::Claim {
        pool: "gated".into(),
        worker: "worker-2".into(),
        max: 1,
        low_first: false,
    };
    let mut low = task("t", "gated");
    low.priority = Priority::Low;
    let theirs = {
        use flowmonkey_plumbing::queue::TaskQueue;
        // Without an await between them, the worker of this test's only thread cannot claim it first.
        let push = queue.queue.push(vec![low]);
        let claimed = async {
            push.await.unwrap();
            queue.queue.claim(claim).await.unwrap()
        };
        claimed.await
    };
    assert_eq!(theirs.len(), 1);
    gate.add_permits(1);
    let metrics = worker.metrics();
    soon(worker.drain(LONG)).await;
    assert_eq!((metrics.refused.get(), metrics.reported.get()), (1, 0));
}

/// A pool whose rings are lost is asked all the same, however often another one rings.
#[tokio::test]
async fn all_pools_are_asked_now_and_then() {
    let queue = Probe::new();
    *queue.deaf_to.lock().unwrap() = Some("silent".into());
    let handlers = ["loud", "silent"]
        .map(|name| handler(name, None, |_| Box::pin(async { Ok(Completion::Success(None)) })));
    let config = WorkerConfig { poll_ms: 50, ..config() };
    let _worker = start(config, &queue, Arc::default(), handlers);
    queue.queue.push(vec![task("loud", "loud")]).await.unwrap();
    assert_eq!(queue.result().await.task_id, "loud");
    queue.queue.push(vec![task("silent", "silent")]).await.unwrap();
    for number in 0.. {
        queue.queue.push(vec![task(&format!("loud-{number}"), "loud")]).await.unwrap();
        if queue.result().await.task_id == "silent" {
            break;
        }
    }
}

/// A claim of an idle worker waits for a few tasks, and for a sixth of the shortest lease that was seen. After many tasks a worker
/// waits first, and then asks for many.
#[tokio::test]
async fn claims_wait_for_few_tasks() {
    let queue = Probe::new();
    let echo = handler("echo", None, |_| Box::pin(async { Ok(Completion::Success(None)) }));
    let _worker = start(WorkerConfig { concurrency: 20, ..config() }, &queue, Arc::default(), [echo]);
    let waits = |count| {
        let queue = Arc::clone(&queue);
        async move { support::until(async || queue.waits.lock().unwrap().len() == count).await }
    };
    let push = async |ids: std::ops::Range<u8>| {
        let count = ids.len();
        queue.queue.push(ids.map(|id| task(&format!("t{id}"), "echo")).collect()).await.unwrap();
        queue.results(count).await;
    };
    // No lease is known before the first task.
    push(0..1).await;
    waits(1).await;
    push(1..2).await;
    waits(2).await;
    // Four for the claim that waited, the others for the next.
    push(2..11).await;
    push(11..12).await;
    waits(3).await;
    let expected = (4, Duration::from_secs(10));
    assert_eq!(*queue.waits.lock().unwrap(), [expected; 3]);
}

#[tokio::test]
async fn every_tenth_claim_looks_at_the_low_list_first() {
    let queue = Probe::new();
    let echo = handler("echo", Some(1), |_| Box::pin(async { Ok(Completion::Success(None)) }));
    let _worker = start(config(), &queue, Arc::default(), [echo]);
    queue.queue.push((0..30).map(|n| task(&format!("t{n}"), "echo")).collect()).await.unwrap();
    queue.results(30).await;
    let low_first = queue.low_first.lock().unwrap().clone();
    let tenth: Vec<bool> = (1..=low_first.len()).map(|claim| claim % 10 == 0).collect();
    assert_eq!(low_first, tenth);
    assert!(low_first.len() >= 30);
}

#[tokio::test]
async fn a_drain_waits_for_handlers_within_its_grace() {
    let queue = Probe::new();
    let gate = Arc::new(Semaphore::new(0));
    let started = watch::Sender::new(0);
    let gated = {
        let (gate, started) = (Arc::clone(&gate), started.clone());
        handler("gated", None, move |_| {
            let (gate, started) = (Arc::clone(&gate), started.clone());
            Box::pin(async move {
                started.send_modify(|count| *count += 1);
                gate.acquire().await.unwrap().forget();
                Ok(Completion::Success(None))
            })
        })
    };
    let worker = start(config(), &queue, Arc::default(), [gated]);
    queue.queue.push(vec![task("a", "gated")]).await.unwrap();
    wait_for(&started, 1).await;
    let (report, ()) = soon(async {
        tokio::join!(worker.drain(LONG), async {
            queue.queue.push(vec![task("b", "gated")]).await.unwrap();
            gate.add_permits(2);
        })
    })
    .await;
    assert_eq!(report, DrainReport { finished: 1, ..DrainReport::default() });
    assert_eq!(queue.result().await.task_id, "a");
    // What came after the drain began was not touched.
    assert_eq!(queue.queue.depths().await.unwrap()[0].1.normal, 1);
}

#[tokio::test]
async fn a_drain_hands_back_what_it_has_to_stop() {
    let queue = Probe::new();
    let started = watch::Sender::new(0);
    let config = WorkerConfig { stop_grace_ms: 20, ..config() };
    let worker = start(config, &queue, Arc::default(), [endless(&started)]);
    queue.queue.push(vec![task("t", "endless")]).await.unwrap();
    wait_for(&started, 1).await;
    let report = soon(worker.drain(Duration::ZERO)).await;
    assert_eq!(report, DrainReport { stopped: 1, ..DrainReport::default() });
    assert_eq!(queue.result().await.outcome, Outcome::Released);
}

#[tokio::test]
async fn a_drain_releases_what_was_claimed_but_not_started() {
    let queue = Probe::new();
    let started = watch::Sender::new(0);
    queue.claims_open.send_replace(false);
    queue.queue.push(vec![task("a", "endless"), task("b", "endless")]).await.unwrap();
    let worker = start(config(), &queue, Arc::default(), [endless(&started)]);
    soon(queue.claims.subscribe().wait_for(|claims| *claims > 0)).await.unwrap();
    let (report, ()) = soon(async {
        tokio::join!(worker.drain(LONG), async {
            queue.claims_open.send_replace(true);
        })
    })
    .await;
    assert_eq!(report, DrainReport { released: 2, ..DrainReport::default() });
    assert_eq!(*started.borrow(), 0);
    let depth = &queue.queue.depths().await.unwrap()[0].1;
    assert_eq!((depth.normal, depth.in_flight), (2, 0));
}

#[tokio::test]
async fn a_drain_ends_while_the_queue_is_away_and_says_what_is_missing() {
    let queue = Probe::new();
    queue.failing_finishes.store(usize::MAX, Ordering::SeqCst);
    let echo = handler("echo", None, |_| Box::pin(async { Ok(Completion::Success(None)) }));
    let config = WorkerConfig { flush_ms: 50, stop_grace_ms: 0, ..config() };
    let worker = start(config, &queue, Arc::default(), [echo]);
    queue.queue.push(vec![task("t", "echo")]).await.unwrap();
    soon(queue.claims.subscribe().wait_for(|claims| *claims > 0)).await.unwrap();
    let report = soon(worker.drain(LONG)).await;
    assert_eq!(report.unreported, 1);
    // The lease is still there: the reaper will find it, so that nothing is lost.
    assert_eq!(queue.queue.depths().await.unwrap()[0].1.in_flight, 1);
}
