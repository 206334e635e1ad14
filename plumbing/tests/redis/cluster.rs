//! A Cluster whose slots are moved and whose primaries are replaced, under load.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::queue::conformance::task;
use flowmonkey_plumbing::queue::{DispatchQueue, QueueError, TaskQueue};
use flowmonkey_plumbing::wire::TaskMessage;
use flowmonkey_test_support::{
    Cluster, ClusterOptions, Direction, FaultProxy, Flow, Redis, wait_for, wait_until,
};

use super::load::{Load, POOLS};
use super::support::{claim_by, claimed, cluster_url, options, queue_with};

const PATIENCE: Duration = Duration::from_secs(60);
/// Tasks before, between and after what is done to the Cluster.
const SOME: usize = 60;

/// How often the nodes have answered with this error.
async fn errors(nodes: &[Redis], kind: &str) -> u64 {
    let mut all = 0;
    for node in nodes {
        let stats: String = redis::from_redis_value(node.command(&["INFO", "errorstats"]).await).unwrap();
        let prefix = format!("errorstat_{kind}:count=");
        let count = stats.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        all += count.map_or(0, |count| count.parse::<u64>().unwrap());
    }
    all
}

/// The slot of a pool.
async fn slot(cluster: &Cluster, pool: &str) -> u16 {
    cluster.slot_of(&format!("{{{pool}}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_are_moved_under_load_and_nothing_is_lost_or_doubled() {
    let cluster = Cluster::start().await;
    let load = Load::start(options(cluster_url(&cluster))).await;
    load.goes_on(SOME).await;
    for pool in &POOLS[..2] {
        let slot = slot(&cluster, pool).await;
        let from = cluster.owner(slot).await;
        let to = cluster.nodes().iter().find(|node| node.port() != from.port()).unwrap();
        let (asked, moved) = (errors(cluster.nodes(), "ASK").await, errors(cluster.nodes(), "MOVED").await);
        cluster
            .move_slot(slot, to, async || {
                wait_until("clients are sent on for a time", PATIENCE, async || {
                    errors(cluster.nodes(), "ASK").await > asked
                })
                .await;
            })
            .await;
        wait_until("clients are sent on for good", PATIENCE, async || {
            errors(cluster.nodes(), "MOVED").await > moved
        })
        .await;
        load.goes_on(SOME).await;
    }
    load.finish().await.assert_each_once();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn primaries_are_replaced_under_load_and_nothing_is_lost_or_doubled() {
    let cluster = Cluster::start_with(ClusterOptions { replicas: true, tls: None }).await;
    let load = Load::start(options(cluster_url(&cluster))).await;
    load.goes_on(SOME).await;
    for pool in &POOLS[..2] {
        cluster.fail_over(slot(&cluster, pool).await).await;
        load.goes_on(SOME).await;
    }
    load.finish().await.assert_each_once();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_primary_takes_with_it_is_published_anew() {
    let cluster = Cluster::start_with(ClusterOptions { replicas: true, tls: None }).await;
    let options = options(cluster_url(&cluster));
    let queue = queue_with(options.clone()).await.0;
    let load = Load::start(options).await;
    load.goes_on(SOME).await;
    let before = queue.server_id().await.unwrap();
    let slot = slot(&cluster, POOLS[0]).await;
    let old = cluster.owner(slot).await;
    old.kill();
    cluster.owner_after(slot, &old).await;
    wait_until("engines see that a server was replaced", PATIENCE, async || {
        queue.server_id().await.is_ok_and(|after| after != before)
    })
    .await;
    load.reconcile().await;
    load.goes_on(SOME).await;
    old.restart().await;
    cluster.wait_until_whole().await;
    load.goes_on(SOME).await;
    load.finish().await.assert_none_lost();
}

/// Starts a proxy before each node, and lets the nodes say that clients find them there.
async fn behind_proxies(cluster: &Cluster) -> Vec<FaultProxy> {
    let proxies: Vec<FaultProxy> =
        cluster.nodes().iter().map(|node| FaultProxy::start(node.port())).collect();
    for (node, proxy) in cluster.nodes().iter().zip(&proxies) {
        node.command(&["CONFIG", "SET", "cluster-announce-port", &proxy.port().to_string()]).await;
    }
    wait_until("every node knows where clients find the others", PATIENCE, async || {
        for node in cluster.nodes() {
            let known: String = redis::from_redis_value(node.command(&["CLUSTER", "NODES"]).await).unwrap();
            if !proxies.iter().all(|proxy| known.contains(&format!(":{}@", proxy.port()))) {
                return false;
            }
        }
        true
    })
    .await;
    proxies
}

/// Whether a node has carried out what it did not answer is not known, so nothing is sent again without being asked for: a
/// second claim would take tasks that nobody hears of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_answer_was_lost_is_not_sent_twice() {
    let cluster = Cluster::start().await;
    let owner = cluster.owner(slot(&cluster, "a").await).await;
    let proxies = behind_proxies(&cluster).await;
    let place = cluster.nodes().iter().position(|node| node.port() == owner.port()).unwrap();
    let hosts: Vec<String> = proxies.iter().map(|proxy| proxy.address().to_string()).collect();
    let options = options(format!("redis+cluster://{}", hosts.join(",")));
    let key = |kind: &str| format!("{}:{kind}:{{a}}", options.prefix);
    let (leases, ready) = (key("leases"), key("tasks"));
    let queue = queue_with(options).await.0;
    let long = |id: &str| TaskMessage { lease_ms: 600_000, remaining_ms: 600_000, ..task(id, 1, "a") };
    queue.push(["t1", "t2", "t3"].map(long).to_vec()).await.unwrap();
    assert_eq!(claimed(&queue, "w", 1).await, ["t1"]);

    proxies[place].set(Direction::ToClient, Flow::Swallowed);
    let unanswered = {
        let queue = Arc::clone(&queue);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let claim = async move { drop(sender.send(queue.claim(claim_by("w", 1)).await)) };
        tokio_util::task::TaskTracker::new().spawn(claim);
        receiver
    };
    let count = async |command: &str, key: &str| -> u64 {
        redis::from_redis_value(owner.command(&[command, key]).await).unwrap()
    };
    // And its answer is lost, not only on its way.
    wait_until("the claim was carried out", PATIENCE, async || {
        count("ZCARD", &leases).await == 2 && proxies[place].bytes_swallowed() > 0
    })
    .await;
    // The connection, whose answer is lost, is reset; from now on a repetition would be answered.
    proxies[place].heal();
    let answer = unanswered.await.unwrap();
    assert!(matches!(answer, Err(QueueError::Unavailable(_))), "{answer:?}");
    assert_eq!((count("ZCARD", &leases).await, count("LLEN", &ready).await), (2, 1));
    // The next claim begins by giving back what is in nobody's hands.
    let again =
        wait_for("the connection is back", PATIENCE, async || queue.claim(claim_by("w", 9)).await.ok()).await;
    let again: Vec<_> = again.into_iter().map(|claimed| claimed.task.task_id).collect();
    assert_eq!(again, ["t2", "t3"]);
}
