//! Checkpoints of all kinds, and the objects that some of them are in.

use bytes::Bytes;
use serde_json::json;

use super::fixture::{at, failure, start, store_all, task, update, updates, work};
use crate::store::Store;
use crate::store::model::{CheckpointContent, ObjectReference, Retention, StoredCheckpoint};

fn checkpoint(content: CheckpointContent) -> StoredCheckpoint {
    StoredCheckpoint { id: "cp".into(), saved_at: at(5), version: 0, bytes: 3, content }
}

fn object(key: &str) -> StoredCheckpoint {
    let (content_type, sha256) = ("image/png".into(), "ab".repeat(32));
    checkpoint(CheckpointContent::Object(ObjectReference { key: key.into(), content_type, sha256 }))
}

pub(super) async fn content_comes_back_as_it_was(store: &dyn Store) {
    let one = start(store, &work(), 1, at(0)).await;
    let out = task(&one);
    store.register_object("o", at(0)).await.unwrap();
    let all: Vec<u8> = (0..=255).collect();
    let saved = [
        checkpoint(CheckpointContent::Json(json!({ "a": "\u{0}\t\\" }))),
        checkpoint(CheckpointContent::Bytes("text/plain".into(), Bytes::from(all))),
        checkpoint(CheckpointContent::Bytes("application/json".into(), Bytes::new())),
        object("o"),
        checkpoint(CheckpointContent::Json(json!(null))),
    ];
    for (version, saved) in (1..).zip(saved) {
        assert_eq!(store.save_checkpoint(out, 1, &saved).await.unwrap(), Some(version));
        let loaded = store.load_checkpoint(out).await.unwrap();
        assert_eq!(loaded, Some(StoredCheckpoint { version, ..saved }));
        assert_eq!(store.checkpoint_notes(&[out]).await.unwrap()[0].bytes, 3);
    }
}

pub(super) async fn objects_are_garbage_when_nothing_refers_to_them(store: &dyn Store) {
    let flow = work();
    let one = start(store, &flow, 1, at(0)).await;
    let out = task(&one);
    let garbage = async |before| store.garbage_objects(at(before), 9).await.unwrap();
    assert_eq!(store.save_checkpoint(out, 1, &object("unknown")).await.unwrap(), None);
    assert_eq!(
        store.load_checkpoint(out).await.unwrap(),
        None,
        "what was not registered may be garbage already"
    );
    for (key, when) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("c", 9)] {
        store.register_object(key, at(when)).await.unwrap();
    }
    assert_eq!(garbage(4).await, ["a", "b", "c"]);
    assert_eq!(store.garbage_objects(at(4), 2).await.unwrap(), ["a", "b"]);
    assert_eq!(store.save_checkpoint(out, 2, &object("a")).await.unwrap(), None, "the attempt is stale");
    assert_eq!(garbage(2).await, ["a"], "and so it is not used");
    store.save_checkpoint(out, 1, &object("a")).await.unwrap();
    assert_eq!(garbage(3).await, ["b"]);
    store.save_checkpoint(out, 1, &object("b")).await.unwrap();
    assert_eq!(garbage(0).await, ["a"], "replaced");
    store.forget_objects(&["a".into(), "unknown".into()]).await.unwrap();
    store.clear_checkpoint(out, 1).await.unwrap();
    assert_eq!(garbage(0).await, ["b"], "cleared");
    store.save_checkpoint(out, 1, &object("c")).await.unwrap();
    store_all(store, updates(at(5), vec![update(&flow, &one, failure(&one), at(5))])).await;
    let retention = |checkpoints, executions| Retention {
        executions_before: at(executions),
        events_before: at(0),
        checkpoints_before: at(checkpoints),
        keys_before: at(0),
        progress_before: at(0),
        logs_before: at(0),
    };
    store.prune(&retention(6, 0), 9).await.unwrap();
    assert_eq!(garbage(0).await, ["b", "c"], "expired");
    let two = start(store, &flow, 2, at(6)).await;
    store.save_checkpoint(task(&two), 1, &object("d")).await.unwrap();
    store_all(store, updates(at(7), vec![update(&flow, &two, failure(&two), at(7))])).await;
    store.prune(&retention(0, 8), 9).await.unwrap();
    assert_eq!(garbage(0).await, ["b", "c", "d"], "gone with its execution");
    store.forget_objects(&garbage(0).await).await.unwrap();
    assert_eq!(garbage(99).await, [""; 0]);
    store.forget_objects(&[]).await.unwrap();
}
