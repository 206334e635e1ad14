//! TLS together with Sentinels and with a Cluster.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{DispatchQueue, QueueError};
use flowmonkey_test_support::{
    Certificates, ClientCertificates, Cluster, ClusterOptions, Sentinel, Tls, wait_until,
};
use tokio::sync::OnceCell;

use super::support::{Real, cluster_url, options, queue_with, sentinel_url};

const PATIENCE: Duration = Duration::from_secs(60);

/// Servers that talk TLS only, and what a client needs to know of them.
struct Secured<T> {
    servers: T,
    certificates: Arc<Certificates>,
}

impl<T> Secured<T> {
    async fn start(start: impl AsyncFnOnce(Tls) -> T) -> Self {
        let certificates = Arc::new(Certificates::new());
        let tls = Tls { certificates: Arc::clone(&certificates), clients: ClientCertificates::Ignored };
        Self { servers: start(tls).await, certificates }
    }

    /// Options with a prefix that nobody else has.
    fn options(&self, url: String) -> RedisOptions {
        RedisOptions { tls_ca_file: Some(self.certificates.authority()), ..options(url) }
    }
}

/// Some for all tests of the process that do nothing to the servers themselves.
async fn shared_cluster() -> &'static Secured<Cluster> {
    static CLUSTER: OnceCell<Secured<Cluster>> = OnceCell::const_new();
    let start = async |tls| Cluster::start_with(ClusterOptions { replicas: false, tls: Some(tls) }).await;
    CLUSTER.get_or_init(|| Secured::start(start)).await
}

async fn shared_sentinel() -> &'static Secured<Sentinel> {
    static SENTINEL: OnceCell<Secured<Sentinel>> = OnceCell::const_new();
    SENTINEL.get_or_init(|| Secured::start(async |tls| Sentinel::start_with(1, Some(tls)).await)).await
}

/// An empty queue on the shared Cluster.
pub(crate) async fn new_cluster_queue() -> Real {
    let cluster = shared_cluster().await;
    // Of an engine to which results come back.
    let options = cluster.options(cluster_url(&cluster.servers));
    queue_with(RedisOptions { engine: Some("e".into()), ..options }).await
}

/// An empty queue behind the shared Sentinels.
pub(crate) async fn new_sentinel_queue() -> Real {
    let sentinel = shared_sentinel().await;
    queue_with(sentinel.options(sentinel_url(&sentinel.servers))).await
}

/// An error with its sources, as people see it.
fn told(error: &QueueError) -> String {
    let sources = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error names the certificate, not only that nobody answered.
async fn refuses_another_authority(trusting: RedisOptions) {
    let stranger = Certificates::new();
    for tls_ca_file in [Some(stranger.authority()), None] {
        let error = RedisQueue::connect(RedisOptions { tls_ca_file, ..trusting.clone() }).await.unwrap_err();
        assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
        let whole = told(&error);
        assert!(whole.contains("invalid peer certificate"), "{whole}");
    }
}

#[tokio::test]
async fn a_cluster_of_another_authority_is_refused() {
    let cluster = shared_cluster().await;
    refuses_another_authority(cluster.options(cluster_url(&cluster.servers))).await;
}

#[tokio::test]
async fn sentinels_of_another_authority_are_refused() {
    let sentinel = shared_sentinel().await;
    refuses_another_authority(sentinel.options(sentinel_url(&sentinel.servers))).await;
}

#[tokio::test]
async fn a_failover_is_followed_over_tls() {
    let sentinel = Secured::start(async |tls| Sentinel::start_with(1, Some(tls)).await).await;
    let queue = queue_with(sentinel.options(sentinel_url(&sentinel.servers))).await.0;
    let before = queue.server_id().await.unwrap();
    sentinel.servers.kill_primary().await;
    wait_until("the new primary is used", PATIENCE, async || {
        queue.server_id().await.is_ok_and(|after| after != before)
    })
    .await;
}
