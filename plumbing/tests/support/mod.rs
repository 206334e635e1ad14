//! A Redis for the tests of one process, and queues on it that do not know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::queue::conformance::QueueUnderTest;
use flowmonkey_plumbing::queue::redis::{RedisOptions, RedisQueue};
use flowmonkey_plumbing::queue::{DispatchQueue, TaskQueue};
use flowmonkey_test_support::Redis;
use tokio::sync::OnceCell;

/// A queue on real time.
pub struct Real(pub Arc<RedisQueue>);

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
pub async fn shared_server() -> &'static Redis {
    static SERVER: OnceCell<Redis> = OnceCell::const_new();
    SERVER.get_or_init(|| Redis::start(flowmonkey_test_support::RedisOptions::default())).await
}

/// Options for a server, with a prefix that nobody else has.
pub fn options(url: impl Into<String>) -> RedisOptions {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    RedisOptions { prefix: format!("test-{}-{number}", std::process::id()), ..RedisOptions::new(url) }
}

/// An empty queue on the shared server.
pub async fn new_queue() -> Real {
    queue_with(options(shared_server().await.url())).await
}

/// A queue that is connected.
pub async fn queue_with(options: RedisOptions) -> Real {
    Real(Arc::new(RedisQueue::connect(options).await.unwrap()))
}
