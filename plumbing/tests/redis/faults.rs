//! What goes wrong with Redis and the way to it.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::queue::conformance::result;
use flowmonkey_plumbing::queue::redis::{RedisFailure, RedisOptions};
use flowmonkey_plumbing::queue::{DispatchQueue, Lease, QueueError, TaskQueue, WorkerPresence};
use flowmonkey_plumbing::wire::TaskMessage;
use flowmonkey_test_support::{
    Direction, FaultProxy, Flow, Redis, RedisOptions as ServerOptions, wait_for, wait_until,
};

use super::support::{claim_by, claimed, long_task, new_queue, on, options, queue_with, shared_server};

const PATIENCE: Duration = Duration::from_secs(30);

async fn private_server(config: &[&str]) -> Redis {
    let config = config.iter().map(|line| (*line).to_owned()).collect();
    Redis::start(ServerOptions { config, ..ServerOptions::default() }).await
}

/// How many clients block.
async fn blocked(server: &Redis) -> u64 {
    let info: String = redis::from_redis_value(server.command(&["INFO", "clients"]).await).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:")).unwrap().to_owned();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn tasks_of_a_claim_that_nobody_waits_for_go_back_at_once() {
    let server = shared_server().await;
    let options = options(server.url());
    let bell = format!("{}:bell:{{a}}", options.prefix);
    let queue = queue_with(options).await.0;
    queue.push(vec![long_task("t1"), long_task("t2")]).await.unwrap();
    server.command(&["DEL", &bell]).await;
    let mut claim = Box::pin(queue.claim(claim_by("gone", 2)));
    tokio::select! {
        biased;
        _ = &mut claim => panic!("a claim takes longer than one look"),
        () = std::future::ready(()) => {}
    }
    drop(claim);
    // Only the release has rung since.
    wait_until("the tasks were claimed and came back", PATIENCE, async || {
        server.command(&["LLEN", &bell]).await == redis::Value::Int(1)
    })
    .await;
    assert_eq!(claimed(&queue, "w", 2).await, ["t1", "t2"]);
}

#[tokio::test]
async fn results_are_in_although_nobody_waits_for_the_answer() {
    let queue = new_queue().await.0;
    let task = long_task("t");
    queue.push(vec![task.clone()]).await.unwrap();
    claimed(&queue, "w", 1).await;
    let mut finish = Box::pin(queue.finish("a", "w", vec![result(&task)]));
    tokio::select! {
        biased;
        _ = &mut finish => panic!("handing in takes longer than one look"),
        () = std::future::ready(()) => {}
    }
    drop(finish);
    wait_until("the result is there", PATIENCE, async || queue.depths().await.unwrap()[0].1.results == 1)
        .await;
    // Nor is it lost with an engine's call that nobody waits for.
    let mut take = Box::pin(queue.take("e", 1));
    tokio::select! {
        biased;
        _ = &mut take => panic!("a take takes longer than one look"),
        () = std::future::ready(()) => {}
    }
    drop(take);
    let taken = wait_for("the result is there", PATIENCE, async || {
        queue.take("e", 1).await.unwrap().into_iter().next()
    })
    .await;
    assert_eq!(taken.result.unwrap(), result(&task));
}

/// The answers of a claim and of a take get lost on the way: Redis has moved what nobody has heard of.
#[tokio::test]
async fn what_an_unanswered_claim_or_take_moved_is_not_lost() {
    let server = private_server(&[]).await;
    let proxy = FaultProxy::start(server.port());
    let direct = options(server.url());
    let behind = RedisOptions { url: proxy.url_of(&server.url(), server.port()), ..direct.clone() };
    let (direct, behind) = (queue_with(direct).await.0, queue_with(behind).await.0);
    let tasks = ["t1", "t2", "t3"].map(long_task);
    direct.push(tasks.to_vec()).await.unwrap();
    assert_eq!(claimed(&behind, "w", 1).await, ["t1"]);

    proxy.set(Direction::ToClient, Flow::Swallowed);
    let unanswered = {
        let behind = Arc::clone(&behind);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = async move { drop(sender.send(behind.claim(claim_by("w", 1)).await)) };
        tokio_util::task::TaskTracker::new().spawn(task);
        receiver
    };
    wait_until("the claim was carried out", PATIENCE, async || {
        direct.depths().await.unwrap()[0].1.in_flight == 2
    })
    .await;
    proxy.cut();
    assert!(matches!(unanswered.await.unwrap(), Err(QueueError::Unavailable(_))));
    proxy.heal();
    // What the worker knows stays in its hands, and only that.
    let again =
        wait_for("the connection is back", PATIENCE, async || behind.claim(claim_by("w", 9)).await.ok())
            .await;
    let again: Vec<_> = again.into_iter().map(|claimed| claimed.task.task_id).collect();
    assert_eq!(again, ["t2", "t3"]);
    let all = ["t1", "t2", "t3"].map(|id| on(id, 1).delivery);
    assert_eq!(behind.extend("a", "w", &all).await.unwrap().lost, []);

    direct.finish("a", "w", tasks.iter().map(result).collect()).await.unwrap();
    assert_eq!(behind.take("e", 1).await.unwrap().len(), 1);
    let sent = proxy.bytes(Direction::ToServer);
    proxy.set(Direction::ToClient, Flow::Swallowed);
    let unanswered = {
        let behind = Arc::clone(&behind);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = async move { drop(sender.send(behind.take("e", 1).await)) };
        tokio_util::task::TaskTracker::new().spawn(task);
        receiver
    };
    // A take looks first; its question is lost here, or its answer. Either way nothing may be missing afterwards.
    wait_until("the take is under way", PATIENCE, async || proxy.bytes(Direction::ToServer) > sent).await;
    proxy.cut();
    assert!(unanswered.await.unwrap().is_err());
    proxy.heal();
    let rest = wait_for("the other results are there", PATIENCE, async || {
        behind.take("e", 9).await.ok().filter(|taken| taken.len() == 2)
    })
    .await;
    assert!(rest.iter().all(|taken| taken.result.is_ok()));
}

#[tokio::test]
async fn after_everything_was_deleted_workers_keep_their_tasks_and_the_engine_learns_of_it() {
    let server = private_server(&[]).await;
    let queue = queue_with(options(server.url())).await.0;
    let tasks = ["held", "ready"].map(long_task);
    queue.push(tasks.to_vec()).await.unwrap();
    queue.set_generation("a", 3).await.unwrap();
    claimed(&queue, "w", 1).await;
    server.command(&["FLUSHALL"]).await;
    assert_eq!(queue.generations(&["a".into()]).await.unwrap(), [None]);
    let extended = queue.extend("a", "w", &[on("held", 1).delivery]).await.unwrap();
    assert_eq!((extended.generation, extended.lost.len()), (0, 1));
    let lease = Lease { delivery: on("held", 1).delivery, lease_ms: 600_000, remaining_ms: 600_000 };
    assert_eq!(queue.reassert("a", "w", &[lease]).await.unwrap().lost, []);
    let asked = [on("held", 1), on("ready", 1)];
    assert_eq!(queue.present(&asked).await.unwrap(), [true, false]);
    queue.push(tasks.to_vec()).await.unwrap();
    assert_eq!(claimed(&queue, "w2", 9).await, ["ready"]);
    assert_eq!(queue.finish("a", "w", vec![result(&tasks[0])]).await.unwrap(), []);
    assert_eq!(queue.take("e", 9).await.unwrap().len(), 1);
}

/// A list alone is deleted, as an evicting Redis does: what was in it is present no more, whatever the hashes say.
#[tokio::test]
async fn what_is_in_no_list_is_not_present() {
    let server = private_server(&[]).await;
    let options = options(server.url());
    let prefix = options.prefix.clone();
    let queue = queue_with(options).await.0;
    queue.push(["r1", "r2", "h1", "d1"].map(long_task).to_vec()).await.unwrap();
    server.command(&["DEL", &format!("{prefix}:tasks:{{a}}")]).await;
    let asked = [on("r1", 1), on("h1", 1)];
    assert_eq!(queue.present(&asked).await.unwrap(), [false, false]);
    // The engine publishes it with the next attempt, which the older one does not stop.
    queue.push(vec![TaskMessage { attempt: 2, ..long_task("r1") }]).await.unwrap();
    assert_eq!(queue.present(&[on("r1", 1), on("r1", 2)]).await.unwrap(), [false, true]);
    assert_eq!(claimed(&queue, "w", 9).await, ["r1"]);
    queue.finish("a", "w", vec![result(&long_task("late"))]).await.unwrap();
    server.command(&["DEL", &format!("{prefix}:results:{{a}}")]).await;
    assert_eq!(queue.present(&[on("late", 1), on("r1", 2)]).await.unwrap(), [false, true]);
}

/// The lists of results alone are deleted: their bodies are found, and nothing counts them for ever.
#[tokio::test]
async fn results_that_are_in_no_list_are_taken_all_the_same() {
    let server = private_server(&[]).await;
    let options = options(server.url());
    let prefix = options.prefix.clone();
    let queue = queue_with(options).await.0;
    let key = |name: &str| format!("{prefix}:{name}");
    let tasks = ["waiting", "taken", "dropped"].map(long_task);
    queue.push(tasks.to_vec()).await.unwrap();
    claimed(&queue, "w", 3).await;
    queue.finish("a", "w", vec![result(&tasks[1])]).await.unwrap();
    assert_eq!(queue.take("e", 9).await.unwrap().len(), 1);
    queue.finish("a", "w", vec![result(&tasks[0]), result(&tasks[2])]).await.unwrap();
    assert_eq!(queue.keep_alive("e").await.unwrap(), 0, "all are in lists");
    server.command(&["HSET", &key("outcomes:{a}"), "nothing of ours", "x"]).await;
    server.command(&["DEL", &key("results:{a}"), &key("results:{a}:processing:e")]).await;
    assert_eq!(queue.keep_alive("e").await.unwrap(), 3);
    assert_eq!(queue.keep_alive("e").await.unwrap(), 0);
    queue.drop_deliveries(&[on("dropped", 1)]).await.unwrap();
    let mut taken: Vec<String> =
        queue.take("e", 9).await.unwrap().into_iter().map(|taken| taken.result.unwrap().task_id).collect();
    taken.sort_unstable();
    assert_eq!(taken, ["taken", "waiting"]);
    queue.acknowledge("e", &[on("taken", 1), on("waiting", 1)]).await.unwrap();
    assert!(queue.is_idle().await.unwrap());
}

#[tokio::test]
async fn functions_that_were_flushed_are_loaded_again() {
    let server = private_server(&[]).await;
    let queue = queue_with(options(server.url())).await.0;
    queue.push(vec![long_task("t")]).await.unwrap();
    server.command(&["FUNCTION", "FLUSH"]).await;
    assert_eq!(claimed(&queue, "w", 1).await, ["t"]);
    server.command(&["FUNCTION", "FLUSH"]).await;
    assert_eq!(queue.extend("a", "w", &[on("t", 1).delivery]).await.unwrap().lost, []);
}

/// Below Redis' own limit, pushes are refused by the ratio; at it, by Redis; workers and results go on both times.
#[tokio::test]
async fn a_full_redis_takes_no_tasks_but_drains() {
    let server = private_server(&["maxmemory 100mb", "maxmemory-policy noeviction"]).await;
    let ratio = options(server.url());
    let at_the_limit = RedisOptions { memory_ratio_max: 1.0, ..ratio.clone() };
    let (by_ratio, by_redis) = (queue_with(ratio).await.0, queue_with(at_the_limit).await.0);
    let tasks = ["t1", "t2"].map(long_task);
    by_ratio.push(tasks.to_vec()).await.unwrap();
    let used = |info: String| {
        let line = info.lines().find(|line| line.starts_with("used_memory:")).unwrap().to_owned();
        line["used_memory:".len()..].trim().parse::<u64>().unwrap()
    };
    let info = server.command(&["INFO", "memory"]).await;
    let used = used(redis::from_redis_value(info).unwrap());
    let limit = |bytes: u64| bytes.to_string();
    server.command(&["CONFIG", "SET", "maxmemory", &limit(used + used / 20)]).await;
    let full = |error: &QueueError| matches!(error, QueueError::Full { .. });
    // The view of the memory may be a second old.
    wait_until("pushes are refused by the ratio", PATIENCE, async || {
        by_ratio.push(vec![long_task("t1")]).await.as_ref().is_err_and(full)
    })
    .await;
    // Its view of the memory is from just before, so that most likely Redis itself refuses; it looks the same.
    by_redis.push(tasks.to_vec()).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", &limit(used / 2)]).await;
    let error = by_redis.push(vec![long_task("t3")]).await.unwrap_err();
    assert!(full(&error), "{error:?}");
    assert_eq!(claimed(&by_ratio, "w", 1).await, ["t1"]);
    assert_eq!(by_ratio.extend("a", "w", &[on("t1", 1).delivery]).await.unwrap().lost, []);
    assert_eq!(by_ratio.finish("a", "w", vec![result(&tasks[0])]).await.unwrap(), []);
    assert_eq!(by_ratio.take("e", 9).await.unwrap().len(), 1);
    by_ratio.acknowledge("e", &[on("t1", 1)]).await.unwrap();
    assert_eq!(claimed(&by_ratio, "w", 1).await, ["t2"]);
    by_ratio.release("a", "w", &[on("t2", 1).delivery]).await.unwrap();
    assert_eq!(by_ratio.take_back(&[on("t2", 1)]).await.unwrap(), [on("t2", 1)]);
    assert!(by_ratio.is_idle().await.unwrap());
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_another_server_and_is_reached_again() {
    let server = private_server(&[]).await;
    let queue = queue_with(options(server.url())).await.0;
    let before = queue.server_id().await.unwrap();
    queue.push(vec![long_task("t")]).await.unwrap();
    server.kill();
    assert!(matches!(queue.depths().await, Err(QueueError::Unavailable(_))));
    // While it is away, nobody waits for attempts that were made a moment ago.
    let error = queue.depths().await.unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().is::<RedisFailure>(), "{error:?}");
    server.restart_empty().await;
    let after = wait_for("it is reached again", PATIENCE, async || queue.server_id().await.ok()).await;
    assert_ne!(before, after);
    queue.push(vec![long_task("t")]).await.unwrap();
    assert_eq!(claimed(&queue, "w", 1).await, ["t"]);
    assert!(queue.stats().await.connections_opened >= 2);
}

/// Heartbeats come from a thread with a runtime of its own, also when that runtime is replaced.
#[tokio::test]
async fn heartbeats_have_their_own_connection_in_each_runtime() {
    let queue = new_queue().await.0;
    queue.push(vec![long_task("t")]).await.unwrap();
    claimed(&queue, "w", 1).await;
    for _ in 0..2 {
        let queue = Arc::clone(&queue);
        let heartbeat = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let held = [on("t", 1).delivery];
            runtime.block_on(queue.extend("a", "w", &held)).unwrap().lost
        };
        let lost = tokio::task::spawn_blocking(heartbeat).await.unwrap();
        assert_eq!(lost, []);
    }
}

/// A worker that stops waiting, because it ends or has work of its own, does not take rings away from the others.
#[tokio::test]
async fn a_worker_that_stops_waiting_leaves_the_bells_to_others() {
    let server = private_server(&[]).await;
    let (leaving, staying) = (options(server.url()), options(server.url()));
    let staying = RedisOptions { prefix: leaving.prefix.clone(), ..staying };
    let (leaving, staying) = (queue_with(leaving).await.0, queue_with(staying).await.0);
    let blocked = async || blocked(&server).await;
    let pools = ["a".to_owned()];
    let waiting = async {
        loop {
            leaving.wait_for_tasks(&pools, PATIENCE).await;
        }
    };
    tokio::select! {
        () = waiting => {}
        () = wait_until("it waits", PATIENCE, async || blocked().await == 1) => {}
    }
    wait_until("nobody waits", PATIENCE, async || blocked().await == 0).await;
    let hears = staying.wait_for_tasks(&pools, PATIENCE);
    let (heard, pushed) = tokio::join!(hears, leaving.push(vec![long_task("t")]));
    assert_eq!(heard.as_deref(), Some("a"));
    pushed.unwrap();
    assert_eq!(claimed(&staying, "w", 1).await, ["t"]);
}

/// A claim waits in Redis. When nobody waits for its answer any more, it takes nothing away from the others.
#[tokio::test]
async fn a_claim_that_waits_is_let_go() {
    let server = private_server(&[]).await;
    let options = options(server.url());
    let leaving = queue_with(options.clone()).await.0;
    let staying = queue_with(options).await.0;
    let blocked = async || blocked(&server).await;
    tokio::select! {
        claimed = leaving.claim_when_ready(claim_by("leaving", 1), PATIENCE) => panic!("{claimed:?}"),
        () = wait_until("it waits", PATIENCE, async || blocked().await == 1) => {}
    }
    wait_until("it has been let go", PATIENCE, async || blocked().await == 0).await;
    staying.push(vec![long_task("t")]).await.unwrap();
    assert_eq!(claimed(&staying, "w", 1).await, ["t"]);

    // What was claimed for nobody comes back, as the same attempt.
    let mut waiting = Box::pin(leaving.claim_when_ready(claim_by("leaving", 1), PATIENCE));
    tokio::select! {
        claimed = &mut waiting => panic!("{claimed:?}"),
        () = wait_until("it waits", PATIENCE, async || blocked().await == 1) => {}
    }
    staying.push(vec![long_task("u")]).await.unwrap();
    wait_until("it is claimed", PATIENCE, async || staying.depths().await.unwrap()[0].1.in_flight == 2).await;
    drop(waiting);
    let back =
        wait_for("it is back", PATIENCE, async || staying.claim(claim_by("w", 1)).await.unwrap().pop());
    assert_eq!(back.await.task.delivery(), on("u", 1).delivery);
}

/// Where the bell is no bell, nobody can wait for it; claims find nothing, or what is there.
#[tokio::test]
async fn a_claim_that_cannot_wait_is_made_all_the_same() {
    let server = private_server(&[]).await;
    let options = options(server.url());
    let bell = format!("{}:bell:{{a}}", options.prefix);
    let queue = queue_with(options).await.0;
    server.command(&["SET", &bell, "no list"]).await;
    assert!(queue.claim_when_ready(claim_by("w", 1), PATIENCE).await.unwrap().is_empty());
    server.command(&["DEL", &bell]).await;
    queue.push(vec![long_task("t")]).await.unwrap();
    let claimed = queue.claim_when_ready(claim_by("w", 1), PATIENCE).await.unwrap();
    assert_eq!(claimed[0].task.delivery(), on("t", 1).delivery);
}

/// Functions that are gone are loaded, also by a claim that waits.
#[tokio::test]
async fn a_claim_that_waits_finds_its_functions_again() {
    let server = private_server(&[]).await;
    let queue = queue_with(options(server.url())).await.0;
    queue.push(vec![long_task("t")]).await.unwrap();
    server.command(&["FUNCTION", "FLUSH"]).await;
    let claimed = queue.claim_when_ready(claim_by("w", 1), PATIENCE).await.unwrap();
    assert_eq!(claimed[0].task.delivery(), on("t", 1).delivery);
}

/// An engine that is not heard of any more loses what it took to those that are.
#[tokio::test]
async fn results_of_engines_that_fell_silent_are_adopted() {
    let server = private_server(&[]).await;
    let options = RedisOptions { engine_stale: Duration::from_millis(200), ..options(server.url()) };
    let (dead, alive) = (queue_with(options.clone()).await.0, queue_with(options).await.0);
    let task = long_task("t");
    dead.push(vec![task.clone()]).await.unwrap();
    claimed(&dead, "w", 1).await;
    dead.finish("a", "w", vec![result(&task)]).await.unwrap();
    assert_eq!(dead.keep_alive("dead").await.unwrap(), 0);
    assert_eq!(dead.take("dead", 9).await.unwrap().len(), 1);
    wait_until("the silent engine's result is adopted", PATIENCE, async || {
        alive.keep_alive("alive").await.unwrap() == 1
    })
    .await;
    assert_eq!(alive.take("alive", 9).await.unwrap().len(), 1);
}

/// Long lists are not searched: what is withdrawn from them is left out at its turn, and counted nowhere.
#[tokio::test]
async fn what_is_withdrawn_from_a_long_list_is_gone_at_once() {
    let queue = new_queue().await.0;
    let tasks: Vec<_> = (0..1_200).map(|number| long_task(&format!("t{number}"))).collect();
    queue.push(tasks).await.unwrap();
    let withdrawn: Vec<_> = (0..50).map(|number| on(&format!("t{number}"), 1)).collect();
    assert_eq!(queue.take_back(&withdrawn).await.unwrap().len(), 50);
    assert_eq!(queue.present(&withdrawn[..2]).await.unwrap(), [false, false]);
    assert_eq!(queue.depths().await.unwrap()[0].1.normal, 1_150);
    // Pushed again, it waits where it is; the element that is left out does not take it out.
    queue.push(vec![long_task("t0")]).await.unwrap();
    assert_eq!(claimed(&queue, "w", 2).await, ["t0", "t50"]);
    let mut count = 2;
    loop {
        let more = claimed(&queue, "w", 500).await.len();
        if more == 0 {
            break;
        }
        count += more;
    }
    assert_eq!(count, 1_151);
    let depth = queue.depths().await.unwrap().remove(0).1;
    assert_eq!((depth.normal, depth.in_flight), (0, 1_151));
}

/// The leases alone are deleted: what is in a worker's hands gets a lease again, as long as the task's and not longer, so that the
/// death of its worker is noticed as soon as ever.
#[tokio::test]
async fn what_has_lost_its_lease_gets_another_as_long() {
    let server = shared_server().await;
    let options = options(server.url());
    let prefix = options.prefix.clone();
    let queue = queue_with(options).await.0;
    let presence =
        WorkerPresence { worker: "w".into(), pools: vec!["a".into()], ..WorkerPresence::default() };
    queue.announce(&presence).await.unwrap();
    let task = TaskMessage { lease_ms: 1, ..long_task("t") };
    queue.push(vec![task, long_task("long")]).await.unwrap();
    claimed(&queue, "w", 2).await;
    server.command(&["DEL", &format!("{prefix}:leases:{{a}}")]).await;
    assert_eq!(queue.expired(9).await.unwrap(), []);
    queue.keep_alive("e").await.unwrap();
    let expired = wait_for("the short lease has ended", PATIENCE, async || {
        queue.expired(9).await.ok().filter(|expired| !expired.is_empty())
    })
    .await;
    assert_eq!(expired.len(), 1);
    assert_eq!((expired[0].dispatched.clone(), expired[0].worker.as_str()), (on("t", 1), "w"));
}
