//! The rules that every store keeps, on each of them; and the same random work on both.

use std::sync::Arc;

use flowmonkey_engine::store::conformance::{RULES, compare};
use flowmonkey_engine::store::{Durability, MemoryStore, SqliteOptions, SqliteStore};

/// Relaxed, so that the tests do not wait for the disk: no machine crashes in them.
const OPTIONS: SqliteOptions = SqliteOptions { durability: Durability::Relaxed, max_pages: None };

#[tokio::test]
async fn the_memory_store_keeps_all_rules() {
    for rule in RULES {
        eprintln!("memory: {}", rule.name);
        (rule.run)(Arc::new(MemoryStore::default())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sqlite_store_keeps_all_rules() {
    let directory = tempfile::tempdir().unwrap();
    for rule in RULES {
        eprintln!("sqlite: {}", rule.name);
        let path = directory.path().join(rule.name);
        (rule.run)(Arc::new(SqliteStore::open(&path, OPTIONS).await.unwrap())).await;
    }
}

#[tokio::test]
async fn memory_and_sqlite_give_the_same_answers() {
    for seed in 0..6 {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = SqliteStore::open(&directory.path().join("record"), OPTIONS).await.unwrap();
        let effective = compare(&MemoryStore::default(), &sqlite, seed, 60).await;
        assert!(effective > 20, "seed {seed} did too little: {effective}");
        assert_eq!(sqlite.corrupt_rows(), 0);
        sqlite.close().await;
        flowmonkey_engine::store::verify(&directory.path().join("record")).await.unwrap();
    }
}
