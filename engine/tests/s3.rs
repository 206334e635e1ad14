//! Large checkpoints in an S3: there and back, in parts, and while it is away.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_core::execution::Handlers;
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_engine::chores::objects::{self, Collected};
use flowmonkey_engine::objects::{Objects, PART_BYTES};
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::api::{CheckpointApi, CheckpointData, PlumbingError, TaskAccess};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, LocalQueue, LocalQueueLimits, TaskQueue};
use flowmonkey_test_support::S3;
use serde_json::json;

struct AllHandlers;

impl Handlers for AllHandlers {
    fn accepts(&self, _: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        None
    }
}

/// Bytes that do not compress, always the same for a seed.
fn noise(seed: u64, length: usize) -> CheckpointData {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    CheckpointData::Bytes(words.flatten().take(length).collect())
}

#[tokio::test]
async fn a_large_checkpoint_goes_to_s3_and_back() {
    let s3 = S3::start("checkpoints").await;
    let objects = Objects::open_with("s3://checkpoints/some/prefix", s3.environment()).unwrap();
    // Longer than a busy machine needs for a part, shorter than the patience of this test.
    let objects = Some(objects.request_time(Duration::from_secs(5)));
    let clock = Arc::new(SystemClock);
    let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
    let deps = EngineDeps {
        store: Arc::new(MemoryStore::default()),
        queue: queue.clone(),
        clock,
        entropy: Arc::new(SystemEntropy::new()),
        handlers: Arc::new(AllHandlers),
        announced: None,
    };
    let engine = Engine::open(deps, EngineConfig { objects, ..EngineConfig::default() }, None).await.unwrap();
    let flow = json!({ "id": "f", "version": "1.0.0", "initialStepId": "do", "steps": { "do": { "type": "toil" } } });
    let flow = parse_flow_value(&flow).unwrap_or_else(|issues| panic!("{issues:?}")).0;
    engine.start(Start::new(StartFlow::Inline { flow, bundle: Vec::new() }, json!({}))).await.unwrap();
    let claim = Claim { pool: "toil".into(), worker: "w".into(), max: 1, low_first: false };
    let access = TaskAccess::from(&queue.claim(claim).await.unwrap().remove(0).task);
    let plumbing = EnginePlumbing::new(engine.clone());

    let first = noise(1, 3 * PART_BYTES + 6_000_000);
    assert_eq!(plumbing.save_checkpoint(&access, first.clone()).await.unwrap().version, 1);
    assert!(plumbing.load_checkpoint(&access).await.unwrap().unwrap().data == first);
    let second = noise(2, 2 * PART_BYTES);
    assert_eq!(plumbing.save_checkpoint(&access, second.clone()).await.unwrap().version, 2);
    assert_eq!(objects::tick(&engine).await.unwrap(), Collected { objects: 1, failed: 0 });
    assert_eq!(objects::tick(&engine).await.unwrap(), Collected { objects: 0, failed: 0 });

    s3.pause();
    let error = plumbing.save_checkpoint(&access, first.clone()).await.unwrap_err();
    assert!(matches!(error, PlumbingError::Unavailable(_)), "{error}");
    s3.resume();
    let last = plumbing.load_checkpoint(&access).await.unwrap().unwrap();
    assert!((last.version, &last.data) == (2, &second), "the last good one stays");
    s3.kill();
    let error = plumbing.save_checkpoint(&access, first).await.unwrap_err();
    assert!(matches!(error, PlumbingError::Unavailable(_)), "{error}");
    let error = plumbing.load_checkpoint(&access).await.unwrap_err();
    assert!(matches!(error, PlumbingError::Unavailable(_)), "{error}");
    // Garbage waits until it can be deleted.
    plumbing.clear_checkpoint(&access).await.unwrap();
    assert_eq!(objects::tick(&engine).await.unwrap(), Collected { objects: 0, failed: 1 });
}
