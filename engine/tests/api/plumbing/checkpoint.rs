//! Checkpoints that are not JSON, and those that are too large for the record.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Response;
use flowmonkey_engine::chores::objects::{self, Collected};
use flowmonkey_engine::objects::Objects;
use flowmonkey_engine::services::EnginePlumbing;
use flowmonkey_plumbing::api::{CheckpointApi, CheckpointData, PlumbingError, TaskAccess};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::throttle::{ThrottleConfig, ThrottledStore};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tower::ServiceExt;

use super::*;

const BINARY: &str = "application/octet-stream";
const MEBIBYTE: usize = 1024 * 1024;

/// Bytes that do not compress, always the same.
fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

async fn bench(objects: Objects) -> Bench {
    Bench::with(work(), json!({ "a": 1 }), EngineConfig { objects: Some(objects), ..EngineConfig::default() })
        .await
}

async fn in_memory() -> (Bench, Arc<InMemory>) {
    let store = Arc::new(InMemory::new());
    (bench(Objects::new(store.clone())).await, store)
}

async fn stored(store: &dyn ObjectStore) -> Vec<ObjectMeta> {
    store.list(None).try_collect().await.unwrap()
}

/// A body in pieces, which does not say how long it is.
fn pieces(data: &Bytes) -> Vec<Result<Bytes, io::Error>> {
    data.chunks(300_000).map(|piece| Ok(data.slice_ref(piece))).collect()
}

fn streamed(data: &Bytes) -> Body {
    Body::from_stream(stream::iter(pieces(data)))
}

impl Bench {
    async fn put(&self, media: &str, body: impl Into<Body>) -> Answer {
        let path = format!("/v1/plumbing/tasks/{}/checkpoint", self.task.task_id);
        let authorization = format!("Bearer {}", self.token());
        let headers = [("authorization", authorization.as_str()), ("content-type", media)];
        self.server.send(request("PUT", &path, &headers, body.into())).await
    }

    async fn data(&self) -> Response<Body> {
        let path = format!("/v1/plumbing/tasks/{}/checkpoint/data", self.task.task_id);
        let authorization = format!("Bearer {}", self.token());
        let headers = [("authorization", authorization.as_str())];
        self.server.router.clone().oneshot(request("GET", &path, &headers, Body::empty())).await.unwrap()
    }

    /// The data, its length and type.
    async fn content(&self) -> (Bytes, String, String) {
        let response = self.data().await;
        assert_eq!(response.status(), 200);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let (media, version) = (header("content-type"), header("x-flowmonkey-version"));
        let length: usize = header("content-length").parse().unwrap();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(bytes.len(), length);
        (bytes, media, version)
    }

    fn plumbing(&self) -> (EnginePlumbing, TaskAccess) {
        (EnginePlumbing::new(self.server.engine.clone()), TaskAccess::from(&self.task))
    }

    async fn collect(&self) -> Collected {
        objects::tick(&self.server.engine).await.unwrap()
    }
}

#[tokio::test]
async fn a_checkpoint_may_be_of_any_type() {
    let bench = Bench::new().await;
    assert_eq!(bench.data().await.status(), 204);
    let all: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let saved = bench.put("image/PNG; q=1", all.clone()).await.expect(200);
    let note = bench.call("GET", "checkpoint", "").await.expect(200);
    assert_eq!(
        note,
        json!({ "id": saved["id"], "savedAt": saved["savedAt"], "version": 1, "bytes": 256,
        "contentType": "image/png" })
    );
    let response = bench.data().await;
    assert_eq!(response.headers()["etag"], format!("\"{}\"", saved["id"].as_str().unwrap()));
    assert_eq!(response.headers()["x-flowmonkey-saved-at"], saved["savedAt"].as_str().unwrap());
    assert_eq!(response.headers()["repr-digest"], "sha-256=:QK/y6dLYki5Hr9RkjmlnSXFYeF+9Hahw5xECZr+USIA=:");
    assert_eq!(bench.content().await, (all, "image/png".into(), "1".into()));
    bench.put(BINARY, "").await.expect(200);
    assert_eq!(bench.content().await, (Bytes::new(), BINARY.into(), "2".into()));
    bench.put("application/vnd.x+json", r#"{ "a" :1}"#).await.expect(200);
    assert_eq!(bench.content().await.0, r#"{"a":1}"#);
    for wrong in ["png", "image/", "/png", "image/p ng", &format!("image/{}", "x".repeat(200))] {
        bench.put(wrong, "x").await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    }
}

#[tokio::test]
async fn a_large_checkpoint_is_in_the_object_store_until_nothing_refers_to_it() {
    let (bench, store) = in_memory().await;
    let data = noise(10 * MEBIBYTE);
    let saved = bench.put(BINARY, streamed(&data)).await.expect(200);
    assert_eq!((&saved["version"], &saved["bytes"]), (&json!(1), &json!(data.len())));
    let note = bench.call("GET", "checkpoint", "").await.expect(200);
    assert_eq!((note.get("data"), &note["contentType"]), (None, &json!(BINARY)));
    assert!(bench.content().await == (data.clone(), BINARY.into(), "1".into()));
    let (plumbing, access) = bench.plumbing();
    let loaded = plumbing.load_checkpoint(&access).await.unwrap().unwrap();
    assert!(loaded.data == CheckpointData::Bytes(data));
    assert_eq!(bench.collect().await, Collected { objects: 0, failed: 0 });

    let value = json!({ "text": "x".repeat(3 * MEBIBYTE) });
    let saved = plumbing.save_checkpoint(&access, value.clone().into()).await.unwrap();
    assert_eq!((saved.version, saved.bytes), (2, value.to_string().len() as u64));
    assert!(plumbing.load_checkpoint(&access).await.unwrap().unwrap().data == CheckpointData::Json(value));
    assert_eq!(stored(&*store).await.len(), 2);
    assert_eq!(bench.collect().await, Collected { objects: 1, failed: 0 }, "what was replaced");
    assert_eq!(stored(&*store).await.len(), 1);
    bench.call("DELETE", "checkpoint", "").await.expect(204);
    assert_eq!(bench.collect().await, Collected { objects: 1, failed: 0 }, "what was cleared");
    assert_eq!(stored(&*store).await, []);
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_or_is_stale_leaves_the_last_good_one() {
    let store = Arc::new(InMemory::new());
    let objects = Some(Objects::new(store.clone()));
    let max = 2 * MEBIBYTE as u64;
    let config = EngineConfig { objects, checkpoint_bytes_max: max, ..EngineConfig::default() };
    let bench = Bench::with(work(), json!({ "a": 1 }), config).await;
    let good = noise(2 * MEBIBYTE);
    bench.put(BINARY, streamed(&good)).await.expect(200);
    let more = noise(2 * MEBIBYTE + 1);
    bench.put(BINARY, streamed(&more)).await.problem(413, "CHECKPOINT_TOO_LARGE");
    let said = [("content-length", "9999999999")];
    let authorization = format!("Bearer {}", bench.token());
    let headers = [said[0], ("authorization", authorization.as_str()), ("content-type", BINARY)];
    let path = format!("/v1/plumbing/tasks/{}/checkpoint", bench.task.task_id);
    // Not a byte of it is asked for.
    let never = Body::from_stream(stream::pending::<Result<Bytes, io::Error>>());
    bench.server.send(request("PUT", &path, &headers, never)).await.problem(413, "CHECKPOINT_TOO_LARGE");
    for whole in [100, 2 * MEBIBYTE] {
        let mut broken = pieces(&noise(whole));
        broken.push(Err(io::Error::other("cut")));
        let body = Body::from_stream(stream::iter(broken));
        bench.put(BINARY, body).await.problem(400, "BODY_INCOMPLETE");
    }
    assert_eq!(stored(&*store).await.len(), 1);
    let engine = bench.server.engine.clone();
    let task: TaskId = bench.task.task_id.parse().unwrap();
    let attempt = TaskAttempt { task: task.number, attempt: bench.task.attempt };
    let lost = stream::once(async move {
        engine.command(task.execution, Command::LeaseLost { attempt, saved_at: None }).await.unwrap();
        Ok(Bytes::from_static(b"end"))
    });
    let body = Body::from_stream(stream::iter(pieces(&good.slice(3..))).chain(lost));
    bench.put(BINARY, body).await.problem(409, "STALE_ATTEMPT");
    assert_eq!(stored(&*store).await.len(), 1, "what a stale attempt has written is deleted");
    bench.put(BINARY, streamed(&good)).await.problem(409, "STALE_ATTEMPT");
    let next = Bench { task: claim(&bench.queue).await, ..bench };
    assert!(next.content().await.0 == good);
}

#[tokio::test]
async fn an_object_store_that_is_away_is_said_to_be_and_the_last_good_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("objects");
    let bench = bench(Objects::folder(&root).unwrap()).await;
    bench.put(BINARY, "good").await.expect(200);
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::write(&root, "in the way").unwrap();
    let large = noise(2 * MEBIBYTE);
    bench.put(BINARY, streamed(&large)).await.problem(503, "OBJECT_STORE_UNAVAILABLE");
    assert_eq!(bench.content().await.0, "good");
    let (plumbing, access) = bench.plumbing();
    let error = plumbing.save_checkpoint(&access, large.clone().into()).await.unwrap_err();
    assert!(matches!(error, PlumbingError::Unavailable(_)), "{error}");
    std::fs::remove_file(&root).unwrap();
    bench.put(BINARY, streamed(&large)).await.expect(200);
    assert!(bench.content().await.0 == large);
}

#[tokio::test]
async fn an_object_store_that_is_slow_is_not_waited_for() {
    let store = ThrottledStore::new(InMemory::new(), ThrottleConfig::default());
    let store = Arc::new(store);
    let bench = bench(Objects::new(store.clone()).request_time(Duration::from_millis(100))).await;
    let data = noise(2 * MEBIBYTE);
    bench.put(BINARY, data.clone()).await.expect(200);
    let for_ever = Duration::from_secs(3600);
    store.config_mut(|config| (config.wait_put_per_call, config.wait_get_per_call) = (for_ever, for_ever));
    bench.put(BINARY, data.clone()).await.problem(503, "OBJECT_STORE_UNAVAILABLE");
    assert_eq!(bench.data().await.status(), 503);
    store.config_mut(|config| *config = ThrottleConfig::default());
    assert!(bench.content().await == (data, BINARY.into(), "1".into()));
}

#[tokio::test]
async fn what_is_not_what_was_stored_is_never_taken_for_it() {
    let (bench, store) = in_memory().await;
    bench.put(BINARY, noise(2 * MEBIBYTE)).await.expect(200);
    let path: Path = stored(&*store).await.remove(0).location;
    let mut bytes = store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.put(&path, bytes.into()).await.unwrap();
    let body = bench.data().await.into_body();
    axum::body::to_bytes(body, usize::MAX).await.unwrap_err();
    let (plumbing, access) = bench.plumbing();
    let unreadable = |error: &PlumbingError| matches!(error, PlumbingError::Refused { code, .. } if code == "CHECKPOINT_UNREADABLE");
    let error = plumbing.load_checkpoint(&access).await.unwrap_err();
    assert!(unreadable(&error), "{error}");
    store.delete(&path).await.unwrap();
    bench.call("GET", "checkpoint/data", "").await.problem(500, "CHECKPOINT_UNREADABLE");
    let error = plumbing.load_checkpoint(&access).await.unwrap_err();
    assert!(unreadable(&error), "{error}");
    let corrupt = bench.server.engine.counters.objects_corrupt.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(corrupt, 4);
}
