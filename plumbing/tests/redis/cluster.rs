//! A Cluster whose slots are moved and whose primaries are replaced, under load.

use std::time::Duration;

use flowmonkey_plumbing::queue::DispatchQueue;
use flowmonkey_test_support::{Cluster, ClusterOptions, Redis, wait_until};

use super::load::{Load, POOLS};
use super::support::{cluster_url, options, queue_with};

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
