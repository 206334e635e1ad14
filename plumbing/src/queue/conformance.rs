//! The rules that every queue must keep, one function each, for the tests of each implementation.
//!
//! Time passes only through [`QueueUnderTest::advance`]: a queue on real time sleeps there. All times are long enough for
//! that, and no rule depends on how long an operation takes, as long as it is well under [`STEP_MS`].

#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::{
    Claim, ClaimedTask, Delivery, Depth, DispatchQueue, Dispatched, ExpiredLease, Lease, TaskQueue,
    WORKER_SILENT_AFTER, WorkerPresence,
};
use crate::wire::{Outcome, Priority, ResultMessage, TaskMessage};

/// The unit of time of the rules, in milliseconds.
pub const STEP_MS: u64 = 400;
/// Nobody waits longer for a bell, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A queue under test, empty at first.
#[async_trait]
pub trait QueueUnderTest: Send + Sync {
    /// The worker's side.
    fn tasks(&self) -> Arc<dyn TaskQueue>;

    /// The engine's side.
    fn dispatch(&self) -> Arc<dyn DispatchQueue>;

    /// Lets so many milliseconds pass.
    async fn advance(&self, ms: u64);
}

/// Makes a test of every rule: `queue_conformance!(new_queue)`, where `new_queue` is an async function that gives an
/// empty [`QueueUnderTest`] each time.
#[macro_export]
macro_rules! queue_conformance {
    ($new_queue:path) => {
        $crate::queue_conformance!(@rules $new_queue,
            claims_come_in_order_and_only_once,
            claims_follow_priorities_and_low_first,
            pools_are_separate,
            a_push_can_be_repeated_wherever_the_delivery_is,
            a_newer_attempt_replaces_older_ones_that_are_ready,
            a_finished_task_is_a_result_until_acknowledged,
            results_of_a_dead_engine_are_adopted,
            a_result_can_be_handed_in_twice,
            only_another_owner_is_refused,
            results_without_an_owner_are_delivered,
            released_tasks_go_to_the_head_of_the_line,
            only_the_owner_releases_and_extends,
            leases_end_without_heartbeats,
            heartbeats_past_the_hard_end_are_a_timeout,
            silence_is_a_lost_lease_also_past_the_hard_end,
            a_drop_removes_deliveries_wherever_they_are,
            cancel_removes_what_is_ready_and_tells_owners,
            a_cancellation_survives_a_release,
            presence_is_in_any_place,
            depths_count_every_place,
            a_waiting_worker_hears_a_push_and_a_release,
            a_claim_may_wait,
            a_waiting_engine_hears_a_result,
            limits_of_claim_and_take_are_kept,
            a_pool_is_named_with_every_delivery,
            forgotten_leases_are_reasserted,
            a_lease_is_not_reasserted_against_others,
            generations_are_kept_and_told,
            generations_only_go_forward,
            a_generation_replaces_only_the_one_that_was_found,
            workers_announce_themselves,
            workers_learn_that_they_are_to_drain,
        );
    };
    (@rules $new_queue:path, $($rule:ident,)*) => {
        $(
            #[tokio::test]
            async fn $rule() {
                $crate::queue::conformance::$rule(&$new_queue().await).await;
            }
        )*
    };
}

/// A task for `pool`: lease of two steps, hard end after five.
#[must_use]
pub fn task(id: &str, attempt: u32, pool: &str) -> TaskMessage {
    serde_json::from_value(json!({
        "v": 1, "taskId": id, "attempt": attempt, "executionId": "e", "flowId": "f", "flowVersion": "1.0.0",
        "stepId": "s", "handler": { "type": pool }, "pool": pool, "input": { "of": id }, "idempotencyKey": id,
        "deadline": "2100-01-01T00:00:00Z", "remainingMs": 5 * STEP_MS, "heartbeatIntervalMs": STEP_MS,
        "leaseMs": 2 * STEP_MS,
    }))
    .unwrap()
}

/// A successful result of a task.
#[must_use]
pub fn result(task: &TaskMessage) -> ResultMessage {
    serde_json::from_value(json!({
        "v": 1, "taskId": task.task_id, "attempt": task.attempt, "executionId": task.execution_id,
        "stepId": task.step_id, "outcome": Outcome::Success, "output": { "of": task.task_id },
    }))
    .unwrap()
}

fn with_priority(id: &str, priority: Priority) -> TaskMessage {
    TaskMessage { priority, ..task(id, 1, "a") }
}

/// As the engine's side names it, in the pool `a`.
fn on(id: &str, attempt: u32) -> Dispatched {
    Dispatched { pool: "a".into(), delivery: of(id, attempt) }
}

fn of(id: &str, attempt: u32) -> Delivery {
    Delivery { task_id: id.into(), attempt }
}

fn claim(pool: &str, worker: &str, max: usize) -> Claim {
    Claim { pool: pool.into(), worker: worker.into(), max, low_first: false }
}

async fn claimed(queue: &impl QueueUnderTest, pool: &str, worker: &str, max: usize) -> Vec<TaskMessage> {
    let claimed = queue.tasks().claim(claim(pool, worker, max)).await.unwrap();
    claimed.into_iter().map(|claimed| claimed.task).collect()
}

fn ids(tasks: &[TaskMessage]) -> Vec<&str> {
    tasks.iter().map(|task| task.task_id.as_str()).collect()
}

async fn push(queue: &impl QueueUnderTest, tasks: impl IntoIterator<Item = TaskMessage>) {
    queue.dispatch().push(tasks.into_iter().collect()).await.unwrap();
}

async fn finish(queue: &impl QueueUnderTest, worker: &str, task: &TaskMessage) -> Vec<Delivery> {
    queue.tasks().finish(&task.pool, worker, vec![result(task)]).await.unwrap()
}

async fn take(queue: &impl QueueUnderTest, engine: &str) -> Vec<ResultMessage> {
    take_some(queue, engine, 100).await
}

async fn take_some(queue: &impl QueueUnderTest, engine: &str, max: usize) -> Vec<ResultMessage> {
    let taken = queue.dispatch().take(engine, max).await.unwrap();
    let results = taken.into_iter().map(|taken| {
        let result = taken.result.unwrap();
        assert_eq!(taken.dispatched, Dispatched { pool: "a".into(), delivery: result.delivery() });
        result
    });
    results.collect()
}

async fn depth(queue: &impl QueueUnderTest, pool: &str) -> Depth {
    let depths = queue.dispatch().depths().await.unwrap();
    let found = depths.into_iter().find(|(name, _)| name == pool);
    found.map(|(_, depth)| Depth { oldest_age_ms: 0, ..depth }).unwrap_or_default()
}

/// Tasks come out whole, first in first out, and no task twice.
pub async fn claims_come_in_order_and_only_once(queue: &impl QueueUnderTest) {
    push(queue, ["t1", "t2", "t3"].map(|id| task(id, 1, "a"))).await;
    assert_eq!(claimed(queue, "a", "w1", 2).await, ["t1", "t2"].map(|id| task(id, 1, "a")));
    assert_eq!(ids(&claimed(queue, "a", "w2", 2).await), ["t3"]);
    assert!(claimed(queue, "a", "w1", 2).await.is_empty());
}

/// High, then normal, then low; a claim that is low first begins with low.
pub async fn claims_follow_priorities_and_low_first(queue: &impl QueueUnderTest) {
    let [low, normal, high] = [Priority::Low, Priority::Normal, Priority::High];
    let tasks = [("l1", low), ("l2", low), ("n1", normal), ("n2", normal), ("h1", high), ("h2", high)];
    push(queue, tasks.map(|(id, priority)| with_priority(id, priority))).await;
    assert_eq!(ids(&claimed(queue, "a", "w", 1).await), ["h1"]);
    let low_first = Claim { low_first: true, ..claim("a", "w", 1) };
    assert_eq!(queue.tasks().claim(low_first).await.unwrap()[0].task.task_id, "l1");
    assert_eq!(ids(&claimed(queue, "a", "w", 9).await), ["h2", "n1", "n2", "l2"]);
}

/// A claim sees its own pool only.
pub async fn pools_are_separate(queue: &impl QueueUnderTest) {
    push(queue, [task("t1", 1, "eu/a"), task("t2", 1, "a")]).await;
    assert_eq!(ids(&claimed(queue, "a", "w", 9).await), ["t2"]);
    assert_eq!(ids(&claimed(queue, "eu/a", "w", 9).await), ["t1"]);
}

/// A delivery that is ready, in a worker's hands, or among the results is left as it is.
pub async fn a_push_can_be_repeated_wherever_the_delivery_is(queue: &impl QueueUnderTest) {
    let task = task("t", 1, "a");
    push(queue, [task.clone(), task.clone()]).await;
    push(queue, [task.clone()]).await;
    assert_eq!(claimed(queue, "a", "w", 9).await.len(), 1);
    push(queue, [task.clone()]).await;
    assert!(claimed(queue, "a", "w", 9).await.is_empty());
    finish(queue, "w", &task).await;
    push(queue, [task.clone()]).await;
    assert!(claimed(queue, "a", "w", 9).await.is_empty());
    assert_eq!(take(queue, "e").await.len(), 1);
    push(queue, [task.clone()]).await;
    assert!(claimed(queue, "a", "w", 9).await.is_empty());
    queue.dispatch().acknowledge("e", &[on("t", 1)]).await.unwrap();
    assert!(queue.dispatch().is_idle().await.unwrap());
}

/// Older attempts leave the line when a newer one comes; one in a worker's hands stays until it is dropped.
pub async fn a_newer_attempt_replaces_older_ones_that_are_ready(queue: &impl QueueUnderTest) {
    push(queue, [task("t", 1, "a"), task("u", 1, "a")]).await;
    push(queue, [task("t", 2, "a")]).await;
    let first = claimed(queue, "a", "w", 9).await;
    assert_eq!(first.iter().map(TaskMessage::delivery).collect::<Vec<_>>(), [of("u", 1), of("t", 2)]);
    push(queue, [task("t", 3, "a")]).await;
    let held = queue.dispatch().present(&[on("t", 1), on("t", 2), on("t", 3)]).await.unwrap();
    assert_eq!(held, [false, true, true]);
}

/// Claimed, finished, taken by one engine, gone after the acknowledgement.
pub async fn a_finished_task_is_a_result_until_acknowledged(queue: &impl QueueUnderTest) {
    let task = task("t", 1, "a");
    push(queue, [task.clone()]).await;
    claimed(queue, "a", "w", 1).await;
    assert_eq!(finish(queue, "w", &task).await, []);
    assert_eq!(queue.tasks().extend("a", "w", &[of("t", 1)]).await.unwrap().lost, [of("t", 1)]);
    assert_eq!(take(queue, "e1").await, [result(&task)]);
    assert_eq!(take(queue, "e1").await, []);
    assert_eq!(take(queue, "e2").await, []);
    queue.dispatch().acknowledge("e2", &[on("t", 1)]).await.unwrap();
    assert_eq!(queue.dispatch().present(&[on("t", 1)]).await.unwrap(), [true]);
    queue.dispatch().acknowledge("e1", &[on("t", 1)]).await.unwrap();
    assert_eq!(queue.dispatch().present(&[on("t", 1)]).await.unwrap(), [false]);
    assert!(queue.dispatch().is_idle().await.unwrap());
}

/// What a dead engine took and did not acknowledge can be taken again; nothing else.
pub async fn results_of_a_dead_engine_are_adopted(queue: &impl QueueUnderTest) {
    let tasks = ["t1", "t2", "t3"].map(|id| task(id, 1, "a"));
    push(queue, tasks.clone()).await;
    claimed(queue, "a", "w", 9).await;
    let results = tasks.iter().map(result).collect();
    queue.tasks().finish("a", "w", results).await.unwrap();
    assert_eq!(take_some(queue, "dead", 2).await.len(), 2);
    assert_eq!(take_some(queue, "alive", 9).await, [result(&tasks[2])]);
    queue.dispatch().acknowledge("dead", &[on("t1", 1)]).await.unwrap();
    assert_eq!(queue.dispatch().adopt_results("dead").await.unwrap(), 1);
    assert_eq!(queue.dispatch().adopt_results("dead").await.unwrap(), 0);
    assert_eq!(take(queue, "alive").await, [result(&tasks[1])]);
}

/// A worker whose answer was lost repeats itself: one result, no refusal.
pub async fn a_result_can_be_handed_in_twice(queue: &impl QueueUnderTest) {
    let task = task("t", 1, "a");
    push(queue, [task.clone()]).await;
    claimed(queue, "a", "w", 1).await;
    assert_eq!(finish(queue, "w", &task).await, []);
    assert_eq!(finish(queue, "w", &task).await, []);
    assert_eq!(take(queue, "e").await.len(), 1);
    assert_eq!(finish(queue, "w", &task).await, []);
    assert_eq!(take(queue, "e").await, []);
}

/// A result is refused where another owner is recorded, and the owner is not disturbed.
pub async fn only_another_owner_is_refused(queue: &impl QueueUnderTest) {
    let task = task("t", 1, "a");
    push(queue, [task.clone()]).await;
    claimed(queue, "a", "w1", 1).await;
    assert_eq!(finish(queue, "w2", &task).await, [of("t", 1)]);
    assert_eq!(take(queue, "e").await, []);
    assert_eq!(queue.tasks().extend("a", "w1", &[of("t", 1)]).await.unwrap().lost, []);
    assert_eq!(finish(queue, "w1", &task).await, []);
    assert_eq!(take(queue, "e").await.len(), 1);
}

/// With no owner recorded, the result is delivered: the record judges.
pub async fn results_without_an_owner_are_delivered(queue: &impl QueueUnderTest) {
    let (ready, unknown) = (task("ready", 1, "a"), task("unknown", 1, "a"));
    push(queue, [ready.clone()]).await;
    assert_eq!(finish(queue, "w", &ready).await, []);
    assert_eq!(finish(queue, "w", &unknown).await, []);
    assert!(claimed(queue, "a", "w", 9).await.is_empty());
    assert_eq!(take(queue, "e").await, [result(&ready), result(&unknown)]);
    queue.dispatch().acknowledge("e", &[on("ready", 1), on("unknown", 1)]).await.unwrap();
    assert!(queue.dispatch().is_idle().await.unwrap());
}

/// Released tasks keep their attempt and their order, before all others of their priority.
pub async fn released_tasks_go_to_the_head_of_the_line(queue: &impl QueueUnderTest) {
    push(queue, ["t1", "t2", "t3"].map(|id| task(id, 1, "a"))).await;
    claimed(queue, "a", "w", 2).await;
    queue.tasks().release("a", "w", &[of("t1", 1), of("t2", 1)]).await.unwrap();
    assert_eq!(claimed(queue, "a", "w2", 9).await, ["t1", "t2", "t3"].map(|id| task(id, 1, "a")));
}

/// Leases are their owner's alone.
pub async fn only_the_owner_releases_and_extends(queue: &impl QueueUnderTest) {
    push(queue, [task("t", 1, "a"), task("ready", 1, "a")]).await;
    claimed(queue, "a", "w1", 1).await;
    queue.tasks().release("a", "w2", &[of("t", 1)]).await.unwrap();
    let lost = [of("t", 1), of("ready", 1), of("unknown", 1)];
    assert_eq!(queue.tasks().extend("a", "w2", &lost).await.unwrap().lost, lost);
    assert_eq!(queue.tasks().extend("a", "w1", &lost[..1]).await.unwrap().lost, []);
    assert_eq!(ids(&claimed(queue, "a", "w2", 9).await), ["ready"]);
}

/// A lease that nobody extends ends; looking changes nothing; a late result is still accepted.
pub async fn leases_end_without_heartbeats(queue: &impl QueueUnderTest) {
    let task = task("t", 1, "a");
    push(queue, [task.clone()]).await;
    claimed(queue, "a", "w", 1).await;
    queue.advance(STEP_MS).await;
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), []);
    queue.advance(STEP_MS + STEP_MS / 2).await;
    let ended = ExpiredLease { dispatched: on("t", 1), worker: "w".into(), hard_end: false };
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), std::slice::from_ref(&ended));
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), [ended]);
    assert_eq!(queue.dispatch().expired(0).await.unwrap(), []);
    assert!(claimed(queue, "a", "w2", 1).await.is_empty());
    assert_eq!(finish(queue, "w", &task).await, []);
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), []);
}

/// Heartbeats keep a lease, up to the attempt's hard end. One after that is of a worker that has overrun it: a timeout.
pub async fn heartbeats_past_the_hard_end_are_a_timeout(queue: &impl QueueUnderTest) {
    push(queue, [task("t", 1, "a")]).await;
    claimed(queue, "a", "w", 1).await;
    for _ in 0..4 {
        queue.advance(STEP_MS).await;
        assert_eq!(queue.dispatch().expired(9).await.unwrap(), []);
        assert_eq!(queue.tasks().extend("a", "w", &[of("t", 1)]).await.unwrap().lost, []);
    }
    queue.advance(STEP_MS + STEP_MS / 2).await;
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), [], "it may be reported yet");
    for _ in 0..2 {
        assert_eq!(queue.tasks().extend("a", "w", &[of("t", 1)]).await.unwrap().lost, []);
        queue.advance(STEP_MS / 2).await;
    }
    let expired = queue.dispatch().expired(9).await.unwrap();
    assert_eq!((expired.len(), &expired[0].dispatched, expired[0].hard_end), (1, &on("t", 1), true));
}

/// A worker that died before the hard end did not overrun it, even when its lease ends later.
pub async fn silence_is_a_lost_lease_also_past_the_hard_end(queue: &impl QueueUnderTest) {
    push(queue, [task("t", 1, "a")]).await;
    claimed(queue, "a", "w", 1).await;
    for _ in 0..4 {
        queue.advance(STEP_MS).await;
        queue.tasks().extend("a", "w", &[of("t", 1)]).await.unwrap();
    }
    queue.advance(STEP_MS + STEP_MS / 2).await;
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), []);
    queue.advance(STEP_MS).await;
    let expired = queue.dispatch().expired(9).await.unwrap();
    assert_eq!((expired.len(), &expired[0].dispatched, expired[0].hard_end), (1, &on("t", 1), false));
}

/// Dropped deliveries are nowhere, whatever they were; their owners learn of it.
pub async fn a_drop_removes_deliveries_wherever_they_are(queue: &impl QueueUnderTest) {
    let tasks = ["done", "held", "ready"].map(|id| task(id, 1, "a"));
    push(queue, tasks.clone()).await;
    claimed(queue, "a", "w", 2).await;
    finish(queue, "w", &tasks[0]).await;
    let all = ["done", "held", "ready", "unknown"].map(|id| on(id, 1));
    queue.dispatch().drop_deliveries(&all).await.unwrap();
    assert_eq!(queue.dispatch().present(&all).await.unwrap(), [false; 4]);
    assert!(queue.dispatch().is_idle().await.unwrap());
    assert_eq!(take(queue, "e").await, []);
    assert_eq!(queue.tasks().extend("a", "w", &[of("held", 1)]).await.unwrap().lost, [of("held", 1)]);
    queue.advance(3 * STEP_MS).await;
    assert_eq!(queue.dispatch().expired(9).await.unwrap(), []);
}

/// What is ready is removed and returned; owners learn of it with each heartbeat; results stay.
pub async fn cancel_removes_what_is_ready_and_tells_owners(queue: &impl QueueUnderTest) {
    let tasks = ["done", "held", "other", "ready"].map(|id| task(id, 1, "a"));
    push(queue, tasks.clone()).await;
    claimed(queue, "a", "w", 3).await;
    finish(queue, "w", &tasks[0]).await;
    let asked = ["done", "held", "ready", "unknown"].map(|id| on(id, 1));
    assert_eq!(queue.dispatch().request_cancel(&asked).await.unwrap(), [on("ready", 1)]);
    for _ in 0..2 {
        let held = [of("held", 1), of("other", 1)];
        let extended = queue.tasks().extend("a", "w", &held).await.unwrap();
        assert_eq!((extended.cancelled, extended.lost), (vec![of("held", 1)], vec![]));
    }
    assert_eq!(finish(queue, "w", &tasks[1]).await, []);
    assert_eq!(take(queue, "e").await, [result(&tasks[0]), result(&tasks[1])]);
}

/// The next owner of a released task learns that it was to be cancelled.
pub async fn a_cancellation_survives_a_release(queue: &impl QueueUnderTest) {
    push(queue, [task("t", 1, "a")]).await;
    claimed(queue, "a", "w1", 1).await;
    queue.dispatch().request_cancel(&[on("t", 1)]).await.unwrap();
    queue.tasks().release("a", "w1", &[of("t", 1)]).await.unwrap();
    assert_eq!(claimed(queue, "a", "w2", 1).await.len(), 1);
    let extended = queue.tasks().extend("a", "w2", &[of("t", 1)]).await.unwrap();
    assert_eq!(extended.cancelled, [of("t", 1)]);
}

/// Present: ready, in a worker's hands, among the results whether taken or not.
pub async fn presence_is_in_any_place(queue: &impl QueueUnderTest) {
    let tasks = ["taken", "done", "held", "ready"].map(|id| task(id, 1, "a"));
    push(queue, tasks.clone()).await;
    claimed(queue, "a", "w", 3).await;
    finish(queue, "w", &tasks[0]).await;
    take(queue, "e").await;
    finish(queue, "w", &tasks[1]).await;
    let asked = [on("taken", 1), on("done", 1), on("held", 1), on("ready", 1), on("ready", 2), on("x", 1)];
    let present = queue.dispatch().present(&asked).await.unwrap();
    assert_eq!(present, [true, true, true, true, false, false]);
    assert!(!queue.dispatch().is_idle().await.unwrap());
}

/// Depths count ready tasks by priority, tasks in hands and results, and the age of the oldest ready one.
pub async fn depths_count_every_place(queue: &impl QueueUnderTest) {
    let [low, normal, high] = [Priority::Low, Priority::Normal, Priority::High];
    let tasks = [("h1", high), ("h2", high), ("n1", normal), ("l1", low), ("l2", low)];
    push(queue, tasks.map(|(id, priority)| with_priority(id, priority))).await;
    claimed(queue, "a", "w", 2).await;
    finish(queue, "w", &with_priority("h1", high)).await;
    let expected = Depth { high: 0, normal: 1, low: 2, in_flight: 1, results: 1, oldest_age_ms: 0 };
    assert_eq!(depth(queue, "a").await, expected);
    assert_eq!(depth(queue, "b").await, Depth::default());
    queue.advance(STEP_MS).await;
    let depths = queue.dispatch().depths().await.unwrap();
    assert!(depths[0].1.oldest_age_ms >= STEP_MS, "{depths:?}");
    take(queue, "e").await;
    queue.dispatch().acknowledge("e", &[on("h1", 1)]).await.unwrap();
    assert_eq!(depth(queue, "a").await, Depth { results: 0, ..expected });
}

/// Rings of a push and of a release reach a worker that waits, and say which pool rang.
pub async fn a_waiting_worker_hears_a_push_and_a_release(queue: &impl QueueUnderTest) {
    let pools = ["b".to_owned(), "a".to_owned()];
    let tasks = queue.tasks();
    let hears = || tasks.wait_for_tasks(&pools, PATIENCE);
    let (heard, ()) = tokio::join!(hears(), push(queue, [task("t", 1, "a")]));
    assert_eq!(heard.as_deref(), Some("a"));
    claimed(queue, "a", "w", 1).await;
    let released = [of("t", 1)];
    let (heard, done) = tokio::join!(hears(), tasks.release("a", "w", &released));
    assert_eq!(heard.as_deref(), Some("a"));
    done.unwrap();
    assert_eq!(claimed(queue, "a", "w", 1).await.len(), 1);
}

/// A claim may wait for its tasks; it takes no longer than it may, and no more than it asked for.
pub async fn a_claim_may_wait(queue: &impl QueueUnderTest) {
    let claim = Claim { pool: "a".into(), worker: "w".into(), max: 1, low_first: false };
    let tasks = queue.tasks();
    let nothing = tasks.claim_when_ready(claim.clone(), Duration::from_millis(1)).await.unwrap();
    assert!(nothing.is_empty());
    let waiting = tasks.claim_when_ready(claim.clone(), PATIENCE);
    let (claimed_one, ()) = tokio::join!(waiting, push(queue, [task("t", 1, "a"), task("u", 1, "a")]));
    let is_t = |claimed: &[ClaimedTask]| claimed.len() == 1 && claimed[0].task.task_id == "t";
    assert!(is_t(&claimed_one.unwrap()));
    // The other rings for the next.
    let next = Claim { worker: "x".into(), ..claim };
    let other = tasks.claim_when_ready(next, PATIENCE).await.unwrap();
    assert_eq!(other.len(), 1);
    assert_eq!(other[0].task.task_id, "u");
    assert_eq!(depth(queue, "a").await.in_flight, 2);
}

/// The ring of a result reaches an engine that waits; so does one of adopted results.
pub async fn a_waiting_engine_hears_a_result(queue: &impl QueueUnderTest) {
    let task = task("t", 1, "a");
    let dispatch = queue.dispatch();
    push(queue, [task.clone()]).await;
    claimed(queue, "a", "w", 1).await;
    let hears = || async { tokio::time::timeout(PATIENCE, dispatch.wait_for_results()).await };
    let (heard, refused) = tokio::join!(hears(), finish(queue, "w", &task));
    heard.unwrap();
    assert_eq!(refused, []);
    assert_eq!(take(queue, "dead").await.len(), 1);
    let (heard, adopted) = tokio::join!(hears(), dispatch.adopt_results("dead"));
    heard.unwrap();
    assert_eq!(adopted.unwrap(), 1);
    assert_eq!(take(queue, "e").await.len(), 1);
}

/// No more than asked for.
pub async fn limits_of_claim_and_take_are_kept(queue: &impl QueueUnderTest) {
    let tasks: Vec<_> = (0..5).map(|number| task(&format!("t{number}"), 1, "a")).collect();
    push(queue, tasks.clone()).await;
    assert!(claimed(queue, "a", "w", 0).await.is_empty());
    assert_eq!(claimed(queue, "a", "w", 5).await.len(), 5);
    queue.tasks().finish("a", "w", tasks.iter().map(result).collect()).await.unwrap();
    assert_eq!(take_some(queue, "e", 0).await, []);
    assert_eq!(take_some(queue, "e", 2).await.len(), 2);
    assert_eq!(take_some(queue, "e", 9).await.len(), 3);
}

/// A delivery is looked for in its own pool only.
pub async fn a_pool_is_named_with_every_delivery(queue: &impl QueueUnderTest) {
    push(queue, [task("t", 1, "a"), task("u", 1, "b")]).await;
    let there = |pool: &str, id: &str| Dispatched { pool: pool.into(), delivery: of(id, 1) };
    let asked = [there("a", "t"), there("b", "t"), there("a", "u"), there("b", "u")];
    assert_eq!(queue.dispatch().present(&asked).await.unwrap(), [true, false, false, true]);
    assert_eq!(queue.dispatch().take_back(&asked[1..3]).await.unwrap(), []);
    queue.dispatch().drop_deliveries(&asked[1..3]).await.unwrap();
    assert_eq!(queue.dispatch().present(&asked).await.unwrap(), [true, false, false, true]);
    assert_eq!(queue.dispatch().take_back(&asked).await.unwrap(), [asked[0].clone(), asked[3].clone()]);
}

fn lease(id: &str, attempt: u32) -> Lease {
    Lease { delivery: of(id, attempt), lease_ms: 2 * STEP_MS, remaining_ms: 5 * STEP_MS }
}

/// What the queue does not know is in the worker's hands again: present, leased, and finished as if nothing had happened.
pub async fn forgotten_leases_are_reasserted(queue: &impl QueueUnderTest) {
    let tasks = queue.tasks();
    let known = task("known", 1, "a");
    push(queue, [known.clone()]).await;
    claimed(queue, "a", "w", 1).await;
    let leases = [lease("known", 1), lease("forgotten", 1)];
    for _ in 0..2 {
        let extended = tasks.reassert("a", "w", &leases).await.unwrap();
        assert_eq!((extended.lost, extended.cancelled), (vec![], vec![]));
    }
    assert_eq!(depth(queue, "a").await, Depth { in_flight: 2, ..Depth::default() });
    assert_eq!(tasks.extend("a", "w", &[of("forgotten", 1)]).await.unwrap().lost, []);
    assert_eq!(tasks.extend("a", "w2", &[of("forgotten", 1)]).await.unwrap().lost, [of("forgotten", 1)]);
    // The lease ends as any other does.
    queue.advance(2 * STEP_MS + STEP_MS / 2).await;
    let expired = queue.dispatch().expired(9).await.unwrap();
    assert_eq!(expired.len(), 2, "{expired:?}");
    assert_eq!(finish(queue, "w", &task("forgotten", 1, "a")).await, []);
    assert_eq!(take(queue, "e").await, [result(&task("forgotten", 1, "a"))]);
    // A queue may have been restored to an older state, in which the task was ready.
    push(queue, [task("restored", 1, "a")]).await;
    assert_eq!(tasks.reassert("a", "w", &[lease("restored", 1)]).await.unwrap().lost, []);
    assert!(claimed(queue, "a", "w2", 9).await.is_empty());
    // What cannot be put back, because its message is forgotten, is gone; the record knows.
    tasks.reassert("a", "w", &[lease("bare", 1)]).await.unwrap();
    tasks.release("a", "w", &[of("restored", 1), of("bare", 1)]).await.unwrap();
    assert_eq!(ids(&claimed(queue, "a", "w2", 9).await), ["restored"]);
    assert_eq!(queue.dispatch().present(&[on("bare", 1)]).await.unwrap(), [false]);
}

/// Another owner, a newer attempt and a result stand against a lease that is re-asserted.
pub async fn a_lease_is_not_reasserted_against_others(queue: &impl QueueUnderTest) {
    let tasks = queue.tasks();
    push(queue, ["held", "done"].map(|id| task(id, 1, "a"))).await;
    claimed(queue, "a", "w1", 9).await;
    finish(queue, "w1", &task("done", 1, "a")).await;
    push(queue, [task("newer", 2, "a")]).await;
    let leases = [lease("held", 1), lease("done", 1), lease("newer", 1)];
    let lost = leases.each_ref().map(|lease| lease.delivery.clone());
    assert_eq!(tasks.reassert("a", "w2", &leases).await.unwrap().lost, lost);
    assert_eq!(tasks.extend("a", "w1", &[of("held", 1)]).await.unwrap().lost, []);
    assert_eq!(take(queue, "e").await, [result(&task("done", 1, "a"))]);
    assert_eq!(ids(&claimed(queue, "a", "w1", 9).await), ["newer"]);
}

/// A pool has no generation until it is built; workers learn of it with each claim and heartbeat.
pub async fn generations_are_kept_and_told(queue: &impl QueueUnderTest) {
    let (tasks, dispatch) = (queue.tasks(), queue.dispatch());
    let pools = ["a".to_owned(), "b".to_owned()];
    assert_eq!(dispatch.generations(&pools).await.unwrap(), [None, None]);
    assert_eq!(dispatch.server_id().await.unwrap(), dispatch.server_id().await.unwrap());
    push(queue, ["t", "u"].map(|id| task(id, 1, "a"))).await;
    let generation = async || tasks.claim(claim("a", "w", 1)).await.unwrap()[0].generation;
    assert_eq!(generation().await, 0);
    assert_eq!(tasks.extend("a", "w", &[of("t", 1)]).await.unwrap().generation, 0);
    dispatch.set_generation("a", 7).await.unwrap();
    assert_eq!(dispatch.generations(&pools).await.unwrap(), [Some(7), None]);
    assert_eq!(generation().await, 7);
    assert_eq!(tasks.extend("a", "w", &[of("t", 1)]).await.unwrap().generation, 7);
    assert_eq!(tasks.reassert("a", "w", &[lease("t", 1)]).await.unwrap().generation, 7);
    assert_eq!(tasks.extend("b", "w", &[]).await.unwrap().generation, 0);
}

/// A writer that a later one has overtaken changes nothing; the mark of a rebuild is written over every generation.
pub async fn generations_only_go_forward(queue: &impl QueueUnderTest) {
    let dispatch = queue.dispatch();
    let steps = [
        (5, 5),
        (4, 5),
        (5, 5),
        (10, 10),
        (9, 10),
        (0, 0),
        (1, 1),
        (u64::from(u32::MAX), u64::from(u32::MAX)),
    ];
    for (set, held) in steps {
        dispatch.set_generation("a", set).await.unwrap();
        assert_eq!(dispatch.generations(&["a".to_owned()]).await.unwrap(), [Some(held)], "after {set}");
    }
}

/// What has changed since it was looked at is left as it is.
pub async fn a_generation_replaces_only_the_one_that_was_found(queue: &impl QueueUnderTest) {
    let dispatch = queue.dispatch();
    let steps = [
        (Some(0), 7, None),
        (Some(7), 8, None),
        (None, 0, Some(0)),
        (None, 7, Some(0)),
        (Some(1), 7, Some(0)),
        (Some(0), 7, Some(7)),
        (Some(0), 6, Some(7)),
        (Some(7), 0, Some(0)),
        (Some(0), 0, Some(0)),
        (Some(0), 3, Some(3)),
    ];
    for (from, to, held) in steps {
        let before = dispatch.generations(&["a".to_owned()]).await.unwrap();
        let changed = dispatch.change_generation("a", from, to).await.unwrap();
        assert_eq!(changed, before == [from], "{from:?} to {to}");
        assert_eq!(dispatch.generations(&["a".to_owned()]).await.unwrap(), [held], "{from:?} to {to}");
    }
}

/// Workers are there from their announcement on, until they retire.
pub async fn workers_announce_themselves(queue: &impl QueueUnderTest) {
    let (tasks, dispatch) = (queue.tasks(), queue.dispatch());
    assert_eq!(dispatch.workers().await.unwrap(), []);
    let worker = |name: &str, pools: &[&str]| WorkerPresence {
        worker: name.into(),
        pools: pools.iter().map(|&pool| pool.into()).collect(),
        slots: 3,
        version: "1.0.0".into(),
        ..WorkerPresence::default()
    };
    let (one, two) = (worker("w1", &["a", "b"]), worker("w2", &["b"]));
    tasks.announce(&one).await.unwrap();
    tasks.announce(&two).await.unwrap();
    tasks.announce(&WorkerPresence { running: 2, ..one.clone() }).await.unwrap();
    let mut found = dispatch.workers().await.unwrap();
    found.sort_by(|a, b| a.worker.cmp(&b.worker));
    for presence in &mut found {
        assert!(u128::from(presence.silent_ms) < WORKER_SILENT_AFTER.as_millis());
        presence.silent_ms = 0;
    }
    assert_eq!(found, [WorkerPresence { running: 2, ..one.clone() }, two.clone()]);
    tasks.retire("w1", &one.pools).await.unwrap();
    let left: Vec<String> = dispatch.workers().await.unwrap().into_iter().map(|one| one.worker).collect();
    assert_eq!(left, ["w2"]);
}

/// A worker that is asked to drain hears of it when it announces itself; nobody else does, nor who takes its name later.
pub async fn workers_learn_that_they_are_to_drain(queue: &impl QueueUnderTest) {
    let (tasks, dispatch) = (queue.tasks(), queue.dispatch());
    let worker = |name: &str, started_at: &str| WorkerPresence {
        worker: name.into(),
        pools: vec!["a".into(), "b".into()],
        started_at: started_at.into(),
        ..WorkerPresence::default()
    };
    let (one, two) = (worker("w1", "t1"), worker("w2", "t1"));
    assert!(!tasks.announce(&one).await.unwrap());
    assert!(!tasks.announce(&two).await.unwrap());
    for _ in 0..2 {
        dispatch.ask_to_drain(&one).await.unwrap();
        let names: Vec<String> =
            dispatch.workers().await.unwrap().into_iter().map(|one| one.worker).collect();
        assert_eq!(names, ["w1", "w2"]);
        for draining in [false, true] {
            assert!(tasks.announce(&WorkerPresence { draining, ..one.clone() }).await.unwrap());
        }
        assert!(!tasks.announce(&two).await.unwrap());
    }
    tasks.retire("w1", &one.pools).await.unwrap();
    assert!(!tasks.announce(&worker("w1", "t2")).await.unwrap(), "it is another process");
}
