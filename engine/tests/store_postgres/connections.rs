//! Reaching the database, and not reaching it.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_engine::store::conformance::fixture::{at, creates, id, load, root, start, work};
use flowmonkey_engine::store::{POSTGRES_SCHEMA_VERSION, PostgresOptions, PostgresStore, Store, StoreError};
use flowmonkey_plumbing::clock::{Clock, SkippingClock, SystemClock};
use flowmonkey_test_support::{
    Certificates, ClientCertificates, Postgres, PostgresOptions as ServerOptions, Tls,
};
use futures_util::future::join_all;
use sqlx::{Connection, PgConnection};

use super::{fresh, open, options};

async fn refused(options: PostgresOptions) -> StoreError {
    PostgresStore::connect(options).await.err().unwrap()
}

/// Runs statements behind the store's back.
async fn meddle(url: &str, statements: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn reason(error: &StoreError) -> &str {
    let StoreError::Unavailable { reason, .. } = error else { panic!("{error:?}") };
    reason
}

#[tokio::test]
async fn a_wrong_password_is_said_at_once_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let access = folder.path().join("access");
    std::fs::write(&access, "host all guest 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
        .unwrap();
    let everyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), everyone).unwrap();
    let settings = vec![format!("hba_file={}", access.display())];
    let postgres = Postgres::start(ServerOptions { settings, ..ServerOptions::default() }).await;
    let database = postgres.database().await;
    meddle(
        &database.url(),
        "CREATE ROLE guest LOGIN PASSWORD 'right'; GRANT CREATE ON SCHEMA public TO guest",
    )
    .await;
    let url = |password: &str| {
        format!("postgres://guest:{password}@127.0.0.1:{}/{}", postgres.port(), database.name())
    };
    let patient = |url: String| PostgresOptions { patience: Duration::from_secs(3600), ..options(&url) };
    let error = refused(patient(url("hunter2"))).await;
    assert!(reason(&error).contains("password is wrong"), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    PostgresStore::connect(patient(url("right"))).await.unwrap().check().await.unwrap();
    let error = refused(patient(postgres.url("missing"))).await;
    assert!(reason(&error).contains("does not exist"), "{error}");
}

#[tokio::test]
async fn a_server_that_starts_late_is_waited_for() {
    let postgres = Postgres::start(ServerOptions::default()).await;
    let database = postgres.database().await;
    postgres.stop().await;
    let impatient = PostgresOptions { patience: Duration::from_millis(300), ..options(&database.url()) };
    let error = refused(impatient).await;
    assert!(reason(&error).contains("cannot be reached"), "{error}");
    let patient = PostgresOptions { patience: Duration::from_secs(60), ..options(&database.url()) };
    let (store, ()) = tokio::join!(PostgresStore::connect(patient), postgres.restart());
    let store = store.unwrap();
    let one = start(&store, &work(), 1, at(0)).await;
    // It goes away and comes back.
    postgres.kill();
    let error = store.commit(creates(at(0), vec![root(&work(), 2, at(0))])).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    postgres.restart().await;
    while store.check().await.is_err() {}
    assert_eq!(load(&store, id(1)).await, one);
    drop(database);
}

#[tokio::test]
async fn a_record_that_can_only_be_read_is_unavailable() {
    let database = fresh().await;
    let store = open(&database).await;
    meddle(
        &database.url(),
        &format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name()),
    )
    .await;
    let error = refused(options(&database.url())).await;
    assert!(reason(&error).contains("can only be read"), "{error}");
    database.terminate_backends().await;
    let error = loop {
        let error = store.check().await.unwrap_err();
        if reason(&error).contains("can only be read") {
            break error;
        }
    };
    assert!(error.is_retryable());
}

#[tokio::test]
async fn ten_engines_migrate_at_once() {
    let database = Postgres::shared().await.database().await;
    let options = options(&database.url());
    let all = join_all((0..10).map(|_| PostgresStore::migrate(&options))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let stores = join_all((0..10).map(|_| PostgresStore::connect(options.clone()))).await;
    for store in stores {
        store.unwrap().check().await.unwrap();
    }
}

#[tokio::test]
async fn the_schema_has_to_be_ours() {
    let database = Postgres::shared().await.database().await;
    let without = PostgresOptions { migrate: false, ..options(&database.url()) };
    let error = refused(without.clone()).await;
    assert!(matches!(error, StoreError::Schema { found: 0, .. }), "{error:?}");
    PostgresStore::migrate(&without).await.unwrap();
    PostgresStore::connect(without.clone()).await.unwrap();
    meddle(
        &database.url(),
        "INSERT INTO fm_migrations (version, description, success, checksum, execution_time) VALUES (999, '', true, '', 0)",
    )
    .await;
    for options in [without, options(&database.url())] {
        let StoreError::Schema { found: 999, needed, cure } = refused(options).await else {
            panic!("it is newer")
        };
        assert_eq!(needed, POSTGRES_SCHEMA_VERSION);
        assert!(cure.contains("release"));
    }
    meddle(&database.url(), "DELETE FROM fm_migrations WHERE version = 999; UPDATE fm_migrations SET checksum = '' WHERE version = 1; DELETE FROM fm_migrations WHERE version > 1").await;
    let error = refused(options(&database.url())).await;
    assert!(matches!(error, StoreError::Schema { found: 1, .. }), "{error:?}");
}

#[tokio::test]
async fn connections_are_encrypted_as_the_url_says() {
    let tls = Tls { certificates: Arc::new(Certificates::new()), clients: ClientCertificates::Demanded };
    let postgres = Postgres::start(ServerOptions { tls: Some(tls), ..ServerOptions::default() }).await;
    let database = postgres.database().await;
    PostgresStore::connect(options(&database.url())).await.unwrap().check().await.unwrap();
    let (bare, query) =
        database.url().split_once('?').map(|(bare, query)| (bare.to_owned(), query.to_owned())).unwrap();
    let error = refused(options(&format!("{bare}?sslmode=disable"))).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let anonymous: Vec<&str> =
        query.split('&').filter(|pair| pair.starts_with("sslm") || pair.starts_with("sslr")).collect();
    let impatient = PostgresOptions {
        patience: Duration::from_millis(500),
        ..options(&format!("{bare}?{}", anonymous.join("&")))
    };
    let error = refused(impatient).await;
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn the_offset_to_the_clock_of_the_database_is_known() {
    let database = fresh().await;
    let store = open(&database).await;
    let offset = store.clock_offset(&SystemClock).await.unwrap();
    assert!(offset.abs() < 1000, "{offset}");
    let ahead = SkippingClock::default();
    ahead.skip_to(SystemClock.now_ms() + 3_600_000);
    let offset = store.clock_offset(&ahead).await.unwrap();
    assert!((offset + 3_600_000).abs() < 1000, "{offset}");
}
