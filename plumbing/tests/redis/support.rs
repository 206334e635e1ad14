//! A Redis for the tests of one process, and queues on it that do not know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::queue::conformance::{QueueUnderTest, task};
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{Claim, Delivery, DispatchQueue, Dispatched, TaskQueue};
use flowmonkey_plumbing::wire::TaskMessage;
use flowmonkey_test_support::{Cluster, Redis, Sentinel};
use tokio::sync::OnceCell;

/// A queue on real time.
pub(crate) struct Real(pub(crate) Arc<RedisQueue>);

#[async_trait]
impl QueueUnderTest for Real {
    fn tasks(&self) -> Arc<dyn TaskQueue> {
        Arc::clone(&self.0) as Arc<dyn TaskQueue>
    }

    fn dispatch(&self) -> Arc<dyn DispatchQueue> {
        Arc::clone(&self.0) as Arc<dyn DispatchQueue>
    }

    async fn advance(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// One server for all tests of the process that do nothing to the server itself.
pub(crate) async fn shared_server() -> &'static Redis {
    static SERVER: OnceCell<Redis> = OnceCell::const_new();
    SERVER.get_or_init(|| Redis::start(flowmonkey_test_support::RedisOptions::default())).await
}

/// Options for a server, with a prefix that nobody else has.
pub(crate) fn options(url: impl Into<String>) -> RedisOptions {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    RedisOptions { prefix: format!("test-{}-{number}", std::process::id()), ..RedisOptions::new(url) }
}

/// An empty queue on the shared server.
pub(crate) async fn new_queue() -> Real {
    queue_with(options(shared_server().await.url())).await
}

/// The same, of an engine to which results come back.
pub(crate) async fn new_queue_of_an_engine() -> Real {
    let options = options(shared_server().await.url());
    queue_with(RedisOptions { engine: Some("e".into()), ..options }).await
}

/// A queue that is connected.
pub(crate) async fn queue_with(options: RedisOptions) -> Real {
    Real(Arc::new(RedisQueue::connect(options).await.unwrap()))
}

/// One Cluster for all tests of the process that do nothing to the Cluster itself.
async fn shared_cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_init(Cluster::start).await
}

/// The URL of a Cluster.
pub(crate) fn cluster_url(cluster: &Cluster) -> String {
    url_of("cluster", &cluster.addresses())
}

/// The URL of what Sentinels watch.
pub(crate) fn sentinel_url(sentinel: &Sentinel) -> String {
    format!("{}/{}", url_of("sentinel", &sentinel.addresses()), sentinel.primary_name())
}

/// `redis+kind://host:port,…` of `redis://host:port` each; with TLS as those.
fn url_of(kind: &str, addresses: &[String]) -> String {
    let (schemes, hosts): (Vec<&str>, Vec<&str>) =
        addresses.iter().map(|address| address.split_once("://").unwrap()).unzip();
    format!("{}+{kind}://{}", schemes[0], hosts.join(","))
}

/// Options for the shared Cluster, with a prefix that nobody else has.
pub(crate) async fn cluster_options() -> RedisOptions {
    options(cluster_url(shared_cluster().await))
}

/// An empty queue on the shared Cluster.
pub(crate) async fn new_cluster_queue() -> Real {
    queue_with(cluster_options().await).await
}

/// A delivery in the pool `a`.
pub(crate) fn on(id: &str, attempt: u32) -> Dispatched {
    Dispatched { pool: "a".into(), delivery: Delivery { task_id: id.into(), attempt } }
}

/// Asks for tasks of the pool `a`.
pub(crate) fn claim_by(worker: &str, max: usize) -> Claim {
    Claim { pool: "a".into(), worker: worker.into(), max, low_first: false }
}

/// A task of the pool `a` that lasts far longer than any test.
pub(crate) fn long_task(id: &str) -> TaskMessage {
    TaskMessage { lease_ms: 600_000, remaining_ms: 600_000, ..task(id, 1, "a") }
}

/// The ids of the tasks that a claim of the pool `a` gives.
pub(crate) async fn claimed(queue: &RedisQueue, worker: &str, max: usize) -> Vec<String> {
    let claimed = queue.claim(claim_by(worker, max)).await.unwrap();
    claimed.into_iter().map(|claimed| claimed.task.task_id).collect()
}
