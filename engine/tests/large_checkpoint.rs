//! A checkpoint of 200 MB passes through the engine in bounded memory. Alone in its process, whose memory it measures.
#![expect(clippy::unwrap_used, reason = "test code")]
#![cfg(target_os = "linux")]

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use flowmonkey_core::execution::Handlers;
use flowmonkey_core::flow::parse::parse_flow_value;
use flowmonkey_engine::api::{ApiOptions, router};
use flowmonkey_engine::objects::Objects;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_engine::store::MemoryStore;
use flowmonkey_engine::{Engine, EngineConfig, EngineDeps};
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::SystemEntropy;
use flowmonkey_plumbing::queue::{Claim, DispatchQueue, LocalQueue, LocalQueueLimits, TaskQueue};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tower::ServiceExt;

const PIECE: usize = 1_000_000;
const PIECES: u64 = 200;
/// What the process may take on top of what it has before.
const MEMORY_MAX: u64 = 64 * 1024 * 1024;

struct AllHandlers;

impl Handlers for AllHandlers {
    fn accepts(&self, _: &str) -> bool {
        true
    }

    fn timeout_ms(&self, _: &str) -> Option<u64> {
        None
    }
}

/// Bytes that the process has had at most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Bytes that compress to about half.
fn base() -> Bytes {
    let mut state = 1_u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        [state.to_be_bytes()[0], 0]
    });
    words.flatten().take(PIECE).collect()
}

/// The pieces differ by their numbers, each at another place.
fn piece(base: &Bytes, number: u64) -> Bytes {
    let mut piece = base.to_vec();
    let place = usize::try_from(number).unwrap() * 1000;
    piece[place..place + 8].copy_from_slice(&number.to_le_bytes());
    piece.into()
}

#[tokio::test]
async fn a_checkpoint_of_200_mb_takes_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(SystemClock);
    let queue = Arc::new(LocalQueue::new(clock.clone(), LocalQueueLimits::default()));
    let deps = EngineDeps {
        store: Arc::new(MemoryStore::default()),
        queue: queue.clone() as Arc<dyn DispatchQueue>,
        clock,
        entropy: Arc::new(SystemEntropy::new()),
        handlers: Arc::new(AllHandlers),
        announced: None,
    };
    let objects = Some(Objects::folder(folder.path()).unwrap());
    let engine = Engine::open(deps, EngineConfig { objects, ..EngineConfig::default() }, None).await.unwrap();
    let flow = json!({ "id": "f", "version": "1.0.0", "initialStepId": "do", "steps": { "do": { "type": "toil" } } });
    let flow = parse_flow_value(&flow).unwrap_or_else(|issues| panic!("{issues:?}")).0;
    engine.start(Start::new(StartFlow::Inline { flow, bundle: Vec::new() }, json!({}))).await.unwrap();
    let claim = Claim { pool: "toil".into(), worker: "w".into(), max: 1, low_first: false };
    let task = queue.claim(claim).await.unwrap().remove(0).task;
    let router = router(engine, ApiOptions::default());
    let ask = async |method: &str, route: &str, body: Body| {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://localhost/v1/plumbing/tasks/{}/{route}", task.task_id))
            .header("host", "localhost")
            .header("authorization", format!("Bearer {}", task.token.as_ref().unwrap().as_str()))
            .header("content-type", "application/octet-stream");
        router.clone().oneshot(request.body(body).unwrap()).await.unwrap()
    };
    ask("PUT", "checkpoint", Body::from("small")).await;
    let base = base();
    let all = base.clone();
    let before = peak();
    let pieces = stream::iter((0..PIECES).map(move |number| Ok::<_, Infallible>(piece(&all, number))));
    let saved = ask("PUT", "checkpoint", Body::from_stream(pieces)).await;
    assert_eq!(saved.status(), StatusCode::OK);
    let loaded = ask("GET", "checkpoint/data", Body::empty()).await;
    let length = PIECES * PIECE as u64;
    assert_eq!(loaded.headers()["content-length"], length.to_string());
    let mut body = loaded.into_body().into_data_stream();
    let mut seen = 0;
    let mut wanted = Bytes::new();
    while let Some(bytes) = body.next().await {
        let mut bytes = bytes.unwrap();
        while !bytes.is_empty() {
            if wanted.is_empty() {
                wanted = piece(&base, seen / PIECE as u64);
            }
            let length = bytes.len().min(wanted.len());
            assert!(bytes.split_to(length) == wanted.split_to(length), "at {seen}");
            seen += length as u64;
        }
    }
    assert_eq!(seen, length);
    let more = peak() - before;
    assert!(more < MEMORY_MAX, "{more} bytes");
}
