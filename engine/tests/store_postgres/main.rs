//! The record in Postgres: the rules that every store keeps, and what only many engines on one server can do.
#![expect(clippy::unwrap_used, reason = "test code")]

mod connections;
mod engines;
mod retention;
mod rules;

use std::time::Duration;

use flowmonkey_engine::store::{PostgresOptions, PostgresStore};
use flowmonkey_test_support::{Postgres, TestDatabase};

/// An empty record on the server that the tests share.
async fn fresh() -> TestDatabase {
    let template = Postgres::shared().await.template("record", |url| async move {
        PostgresStore::migrate(&options(&url)).await.unwrap();
    });
    template.await.database().await
}

/// Few connections, so that many tests fit on one server; and no patience with what is broken for good.
fn options(url: &str) -> PostgresOptions {
    PostgresOptions { connections: 6, patience: Duration::from_secs(10), ..PostgresOptions::new(url) }
}

async fn open(database: &TestDatabase) -> PostgresStore {
    PostgresStore::connect(options(&database.url())).await.unwrap()
}
