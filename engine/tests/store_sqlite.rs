//! What only a file can do: survive, fill up, break, be copied.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Waker};

use flowmonkey_core::execution::StartRequest;
use flowmonkey_engine::store::conformance::fixture::{
    at, creates, id, load, root, start, started, store_all, success, update, updates, work,
};
use flowmonkey_engine::store::{
    Durability, ExecutionFilter, PublishedEvent, SCHEMA_VERSION, SqliteOptions, SqliteStore, Store,
    StoreError, verify,
};
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

const RELAXED: SqliteOptions = SqliteOptions { durability: Durability::Relaxed, max_pages: None };

async fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, RELAXED).await.unwrap()
}

/// Runs a statement on the file behind the store's back.
async fn meddle(path: &Path, statement: &'static str) {
    let mut connection =
        SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let flow = work();
    let store = SqliteStore::open(&path, SqliteOptions::default()).await.unwrap();
    let one = start(&store, &flow, 1, at(0)).await;
    drop(store);
    let store = SqliteStore::open(&path, SqliteOptions::default()).await.unwrap();
    assert_eq!(load(&store, id(1)).await, one);
    let next = update(&flow, &one, success(&one, json!(1)), at(1));
    store_all(&store, updates(at(1), vec![next.clone()])).await;
    store.close().await;
    let store = open(&path).await;
    assert_eq!(load(&store, id(1)).await, next.execution);
}

#[tokio::test]
async fn the_files_of_a_killed_process_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let store = open(&path).await;
    let one = start(&store, &work(), 1, at(0)).await;
    // What a kill leaves: the database and its log as they are, nothing checkpointed or closed.
    let copy = directory.path().join("copy");
    for suffix in ["", "-wal"] {
        let name = |base: &Path| format!("{}{suffix}", base.display());
        std::fs::copy(name(&path), name(&copy)).unwrap();
    }
    start(&store, &work(), 2, at(0)).await;
    let copied = open(&copy).await;
    assert_eq!(copied.load(&[id(1), id(2)]).await.unwrap(), [(*one).clone()]);
    copied.check().await.unwrap();
}

#[tokio::test]
async fn two_may_open_a_new_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let (one, other) = tokio::join!(open(&path), open(&path));
    let first = start(&one, &work(), 1, at(0)).await;
    assert_eq!(load(&other, id(1)).await, first);
    start(&other, &work(), 2, at(0)).await;
    assert_eq!(one.load(&[id(1), id(2)]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_full_record_loses_nothing_and_goes_on_with_more_space() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let flow = work();
    let small = SqliteOptions { max_pages: Some(100), ..RELAXED };
    let store = SqliteStore::open(&path, small).await.unwrap();
    let mut stored = Vec::new();
    let mut number = 0;
    let full = loop {
        number += 1;
        let request = StartRequest::new(id(number), json!({ "text": "x".repeat(5_000) }));
        let create = started(&flow, request, at(0));
        let execution = create.execution.clone();
        match store.commit(creates(at(0), vec![create])).await {
            Ok(_) => stored.push((*execution).clone()),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
    assert!(full.is_retryable());
    assert!(!stored.is_empty());
    // The failed batch left nothing, and what was there is whole and can be read.
    assert!(store.load(&[id(number)]).await.unwrap().is_empty());
    assert_eq!(store.history(id(number), 0, 9).await.unwrap(), []);
    let ids: Vec<_> = (1..number).map(id).collect();
    assert_eq!(store.load(&ids).await.unwrap(), stored);
    store.close().await;
    assert_eq!(verify(&path).await.unwrap(), SCHEMA_VERSION);
    let store = open(&path).await;
    start(&store, &flow, number + 1, at(0)).await;
    assert_eq!(store.load(&ids).await.unwrap(), stored);
}

/// Runs the test below in a process of its own that may not make large files, and lives on when it tries.
#[cfg(unix)]
#[test]
fn a_limit_of_a_files_size_is_a_full_record() {
    let program = std::env::current_exe().unwrap();
    let limited = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\"";
    let arguments = ["--exact", "--ignored", "within_a_limit_of_a_files_size_a_record_fills_up"];
    let output =
        std::process::Command::new("sh").args(["-c", limited]).arg(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by `a_limit_of_a_files_size_is_a_full_record`"]
async fn within_a_limit_of_a_files_size_a_record_fills_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("record")).await;
    let flow = work();
    let mut number = 0;
    let error = loop {
        number += 1;
        let request = StartRequest::new(id(number), json!({ "text": "x".repeat(5_000) }));
        match store.commit(creates(at(0), vec![started(&flow, request, at(0))])).await {
            Ok(_) => assert!(number < 10_000, "there is a limit"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let ids: Vec<_> = (1..number).map(id).collect();
    assert_eq!(store.load(&ids).await.unwrap().len(), ids.len(), "what was stored is there");
}

#[tokio::test]
async fn what_is_no_record_is_corrupt_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, vec![b'x'; 20_000]).unwrap();
    for error in
        [SqliteStore::open(&garbage, RELAXED).await.err().unwrap(), verify(&garbage).await.unwrap_err()]
    {
        let StoreError::Corrupt { what, .. } = &error else { panic!("{error:?}") };
        assert!(what.ends_with("garbage"), "{what}");
        assert!(!error.is_retryable());
    }
    assert_eq!(std::fs::read(&garbage).unwrap(), vec![b'x'; 20_000], "it is left as it is");
    let empty = directory.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    assert!(matches!(verify(&empty).await.unwrap_err(), StoreError::Corrupt { .. }));
    let missing = directory.path().join("nowhere/record");
    let error = SqliteStore::open(&missing, RELAXED).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(matches!(verify(&missing).await.unwrap_err(), StoreError::Unavailable { .. }));
}

#[tokio::test]
async fn a_damaged_page_is_found_by_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let store = open(&path).await;
    for number in 1..=50 {
        start(&store, &work(), number, at(0)).await;
    }
    store.close().await;
    assert_eq!(verify(&path).await.unwrap(), SCHEMA_VERSION);
    let mut bytes = std::fs::read(&path).unwrap();
    // All pages but the first, which says what the file is.
    for page in bytes.chunks_exact_mut(4096).skip(1).step_by(3) {
        page[..64].fill(0xff);
    }
    std::fs::write(&path, bytes).unwrap();
    let error = verify(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_corrupt_row_does_not_hide_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let store = open(&path).await;
    for number in 1..=3 {
        start(&store, &work(), number, at(0)).await;
    }
    let two = id(2);
    meddle(&path, "UPDATE fm_executions SET state = '{\"identity\":5}' WHERE hex(id) LIKE '%02'").await;
    let loaded = store.load(&[id(1), two, id(3)]).await.unwrap();
    assert_eq!(
        loaded.iter().map(flowmonkey_core::execution::Execution::id).collect::<Vec<_>>(),
        [id(1), id(3)]
    );
    assert_eq!(store.corrupt_rows(), 1);
    let alone = store.load(&[two]).await.unwrap_err();
    let StoreError::Corrupt { what, .. } = &alone else { panic!("{alone:?}") };
    assert_eq!(*what, format!("fm_executions {two}"));
    assert_eq!(store.tasks_out(None, at(9), 9).await.unwrap().len(), 3, "the narrow columns are whole");
    meddle(&path, "UPDATE fm_executions SET labels = 'x' WHERE hex(id) LIKE '%03'").await;
    let page = store.list(&ExecutionFilter { max: 2, ..ExecutionFilter::default() }).await.unwrap();
    assert_eq!(page.items.iter().map(|item| item.id).collect::<Vec<_>>(), [two]);
    assert_eq!(page.next, Some(two), "the next page begins behind the row that is left out");
    let labels = [("a".to_owned(), "b".to_owned())].into();
    let labelled =
        store.list(&ExecutionFilter { max: 9, labels, ..ExecutionFilter::default() }).await.unwrap();
    assert_eq!(labelled.items, []);
    meddle(&path, "UPDATE fm_executions SET version = 7 WHERE hex(id) LIKE '%01'").await;
    assert!(matches!(store.load(&[id(1)]).await.unwrap_err(), StoreError::Corrupt { .. }));
    meddle(
        &path,
        "UPDATE fm_history SET events = '[{\"type\":\"Unknown\"}]' WHERE hex(execution_id) LIKE '%01'",
    )
    .await;
    assert!(matches!(store.history(id(1), 0, 9).await.unwrap_err(), StoreError::Corrupt { .. }));
    assert!(!store.history(id(3), 0, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn corrupt_events_do_not_hold_up_those_behind_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let store = open(&path).await;
    let event = |number: u32| PublishedEvent {
        tenant: None,
        id: format!("ev_{number:03}"),
        name: "rain".into(),
        data: json!({ "number": number }),
        source: None,
        attributes: None,
        // Several at each instant: within it, the order is that of publication.
        at: at(i64::from(number / 7)),
    };
    for number in 0..250 {
        assert!(store.publish_event(&event(number)).await.unwrap());
    }
    meddle(&path, "UPDATE fm_events SET data = '{' WHERE id < 'ev_203' OR id = 'ev_205'").await;
    assert_eq!(store.undelivered_events(100).await.unwrap().len(), 46);
    assert_eq!(store.corrupt_rows(), 204, "each is counted");
    let since = async |when: i64, max| store.events_since(None, "rain", at(when), max).await.unwrap();
    assert_eq!(since(0, 3).await, [event(203), event(204), event(206)]);
    assert_eq!(since(0, 100).await.len(), 46);
    assert_eq!(since(35, 2).await, [event(245), event(246)], "the instant itself is part of it");
    assert_eq!(store.undelivered_events(3).await.unwrap(), [event(203), event(204), event(206)]);
    let (all, whole) =
        (store.undelivered_events(46).await.unwrap(), store.undelivered_events(999).await.unwrap());
    assert_eq!(all, whole);
    assert_eq!(store.undelivered_events(0).await.unwrap(), []);
    let ids: Vec<String> = all.into_iter().map(|event| event.id).collect();
    store.mark_delivered(None, &ids).await.unwrap();
    assert_eq!(store.undelivered_events(100).await.unwrap(), [], "what cannot be read is left as it is");
}

#[tokio::test]
async fn a_dropped_commit_is_stored_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("record")).await;
    let flow = work();
    let mut present = 0;
    for polls in 0..40 {
        let number = 100 + 2 * polls;
        let pair = vec![root(&flow, number, at(0)), root(&flow, number + 1, at(0))];
        {
            let mut commit = pin!(store.commit(creates(at(0), pair)));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if commit.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // The next caller finds a connection that is in no transaction.
        store.check().await.unwrap();
        let found = store.load(&[id(number), id(number + 1)]).await.unwrap().len();
        assert!(found == 0 || found == 2, "half a batch after {polls} polls");
        present += found;
    }
    let all = store.list(&ExecutionFilter { max: 1000, ..ExecutionFilter::default() }).await.unwrap();
    assert_eq!(all.items.len(), present);
}

#[tokio::test]
async fn a_backup_is_one_moment_of_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("record");
    let store = open(&path).await;
    let flow = work();
    let one = start(&store, &flow, 1, at(0)).await;
    let copy = directory.path().join("copy");
    store.backup(&copy).await.unwrap();
    let next = update(&flow, &one, success(&one, json!(1)), at(1));
    store_all(&store, updates(at(1), vec![next])).await;
    assert_eq!(verify(&copy).await.unwrap(), SCHEMA_VERSION);
    let restored = open(&copy).await;
    assert_eq!(load(&restored, id(1)).await, one);
    restored.close().await;
    let error = store.backup(&copy).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { reason, .. } if reason.contains("exists")), "{error}");
    let nowhere = directory.path().join("nowhere/copy");
    assert!(matches!(store.backup(&nowhere).await.unwrap_err(), StoreError::Unavailable { .. }));
    let names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("unfinished"))
        .collect();
    assert!(names.is_empty(), "{names:?}");
}
