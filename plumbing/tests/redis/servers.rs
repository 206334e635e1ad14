//! Sentinels, TLS, and servers that are not set up as they should be.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::queue::conformance::{result, task};
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue, Severity};
use flowmonkey_plumbing::queue::{DispatchQueue, QueueError, TaskQueue};
use flowmonkey_test_support::{
    Certificates, ClientCertificates, Cluster, Redis, RedisOptions as ServerOptions, Sentinel, Tls,
    wait_until,
};

use super::support::{claimed, cluster_url, options, queue_with, sentinel_url};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_failover_is_followed_and_changes_the_servers_name() {
    let sentinel = Sentinel::start(1).await;
    let queue = queue_with(options(sentinel_url(&sentinel))).await.0;
    queue.push(vec![task("t", 1, "a")]).await.unwrap();
    let before = queue.server_id().await.unwrap();
    sentinel.kill_primary().await;
    wait_until("the new primary is used", PATIENCE, async || {
        queue.server_id().await.is_ok_and(|after| after != before)
            && queue.push(vec![task("u", 1, "a")]).await.is_ok()
    })
    .await;
    // The functions came along, and what was copied in time is still there.
    assert!(claimed(&queue, "w", 9).await.contains(&"u".to_owned()));
    assert_eq!(queue.finish("a", "w", vec![result(&task("u", 1, "a"))]).await.unwrap(), []);
    queue.wait_for_results().await;
    assert!(!queue.take("e", 9).await.unwrap().is_empty());
}

async fn tls_server(clients: ClientCertificates) -> (Redis, Arc<Certificates>) {
    let certificates = Arc::new(Certificates::new());
    let tls = Some(Tls { certificates: Arc::clone(&certificates), clients });
    (Redis::start(ServerOptions { tls, ..ServerOptions::default() }).await, certificates)
}

/// Calls, heartbeats, bells and subscriptions all go over TLS.
async fn works(queue: &RedisQueue) {
    let task = task("t", 1, "a");
    queue.push(vec![task.clone()]).await.unwrap();
    queue.wait_for_tasks(&["a".into()], PATIENCE).await;
    assert_eq!(claimed(queue, "w", 1).await, ["t"]);
    queue.extend("a", "w", &[task.delivery()]).await.unwrap();
    queue.finish("a", "w", vec![result(&task)]).await.unwrap();
    queue.wait_for_results().await;
    assert_eq!(queue.take("e", 1).await.unwrap().len(), 1);
    assert!(queue.check().await.unwrap().iter().all(|finding| finding.severity < Severity::Refuse));
}

#[tokio::test]
async fn tls_needs_the_authority_of_the_server() {
    let (server, certificates) = tls_server(ClientCertificates::Ignored).await;
    let url = format!("rediss://localhost:{}", server.port());
    let trusting = RedisOptions { tls_ca_file: Some(certificates.authority()), ..options(url.clone()) };
    works(&queue_with(trusting).await.0).await;
    let error = RedisQueue::connect(options(url)).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_may_demand_a_client_certificate() {
    let (server, certificates) = tls_server(ClientCertificates::Demanded).await;
    let url = format!("rediss://127.0.0.1:{}", server.port());
    let without = RedisOptions { tls_ca_file: Some(certificates.authority()), ..options(url) };
    let with = RedisOptions {
        tls_certificate_file: Some(certificates.client_certificate()),
        tls_key_file: Some(certificates.client_key()),
        ..without.clone()
    };
    works(&queue_with(with).await.0).await;
    assert!(matches!(RedisQueue::connect(without).await, Err(QueueError::Unavailable(_))));
}

#[tokio::test]
async fn a_wrong_password_is_an_error_that_does_not_repeat_it() {
    let password = Some("right".to_owned());
    let server = Redis::start(ServerOptions { password, ..ServerOptions::default() }).await;
    works(&queue_with(options(server.url())).await.0).await;
    let url = server.url().replace("right", "wr0ng");
    let error = RedisQueue::connect(options(url)).await.unwrap_err();
    assert!(!format!("{error:?}").contains("wr0ng"), "{error:?}");
}

async fn codes(queue: &RedisQueue) -> Vec<(Severity, &'static str)> {
    queue.check().await.unwrap().into_iter().map(|finding| (finding.severity, finding.code)).collect()
}

#[tokio::test]
async fn a_check_names_what_is_wrong_with_a_server() {
    let config = vec!["maxmemory 1gb".to_owned(), "maxmemory-policy allkeys-lru".to_owned()];
    let server = Redis::start(ServerOptions { config, ..ServerOptions::default() }).await;
    let queue = queue_with(options(server.url())).await.0;
    let found = codes(&queue).await;
    let info = [(Severity::Info, "REDIS_WITHOUT_REPLICA"), (Severity::Info, "REDIS_NOT_PERSISTENT")];
    assert_eq!(found, [&[(Severity::Refuse, "REDIS_EVICTS")], &info[..]].concat());
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let found = codes(&queue).await;
    assert_eq!(found, [&[(Severity::Warning, "REDIS_WITHOUT_MEMORY_LIMIT")], &info[..]].concat());
}

#[tokio::test]
async fn a_node_of_a_cluster_is_not_taken_for_a_single_server() {
    let cluster = Cluster::start().await;
    let queue = RedisQueue::new(options(cluster.addresses()[0].clone())).unwrap();
    let found = codes(&queue).await;
    assert!(found.contains(&(Severity::Refuse, "REDIS_IS_CLUSTER")), "{found:?}");
    let queue = queue_with(options(cluster_url(&cluster))).await.0;
    let found = codes(&queue).await;
    assert!(found.iter().all(|(severity, _)| *severity < Severity::Refuse), "{found:?}");
    let id = queue.server_id().await.unwrap();
    assert_eq!(id.split(',').count(), 3, "{id}");
}
