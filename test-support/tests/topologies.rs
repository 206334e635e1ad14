//! Several Redis together: they fail over, and serve their slots.

use std::time::Duration;

use flowmonkey_test_support::{Cluster, Sentinel, patient};
use redis::Value;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};

/// Its client knows no "without limit", and gives up after half a second, which a busy machine needs now and then.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn sentinels_replace_a_primary_that_is_killed_or_asked_to_go() {
    let sentinel = Sentinel::start(2).await;
    let builder = || {
        let addresses = sentinel.addresses().into_iter();
        let addresses =
            addresses.map(|address| redis::IntoConnectionInfo::into_connection_info(address).unwrap());
        let addresses = addresses.map(|info| info.addr().clone());
        SentinelClientBuilder::new(addresses, sentinel.primary_name(), SentinelServerType::Master)
            .unwrap()
            .build()
            .unwrap()
    };
    let first = sentinel.primary().await;
    let mut connection = builder().get_async_connection_with_config(&patient()).await.unwrap();
    redis::cmd("SET").arg("key").arg("kept").exec_async(&mut connection).await.unwrap();
    // Replication does not wait; without this the key might be lost as the failover is meant to lose it.
    let replicas: i64 = redis::cmd("WAIT").arg(2).arg(0).query_async(&mut connection).await.unwrap();
    assert_eq!(replicas, 2);

    let killed = sentinel.kill_primary().await;
    assert_eq!(killed.port(), first.port());
    let second = sentinel.primary_after(&killed).await;
    assert_ne!(second.port(), killed.port());
    let mut connection = builder().get_async_connection_with_config(&patient()).await.unwrap();
    let kept: String = redis::cmd("GET").arg("key").query_async(&mut connection).await.unwrap();
    assert_eq!(kept, "kept");

    let third = sentinel.failover().await;
    assert_ne!(third.port(), second.port());
}

#[tokio::test]
async fn a_cluster_serves_all_slots_and_is_whole_again_after_a_kill() {
    let cluster = Cluster::start().await;
    let client = redis::cluster::ClusterClientBuilder::new(cluster.addresses());
    let client = client.connection_timeout(PATIENCE).response_timeout(PATIENCE).build().unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    for key in 0..30 {
        redis::cmd("SET").arg(key).arg(key).exec_async(&mut connection).await.unwrap();
    }
    for node in cluster.nodes() {
        let keys = node.command(&["DBSIZE"]).await;
        assert!(matches!(keys, Value::Int(1..30)), "{keys:?}");
    }
    let node = &cluster.nodes()[1];
    node.kill();
    node.restart().await;
    cluster.wait_until_whole().await;
}
