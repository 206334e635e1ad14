//! Reaching the database, and not reaching it.

use std::sync::Arc;
use std::time::Duration;

use flowmonkey_engine::store::conformance::RULES;
use flowmonkey_engine::store::conformance::fixture::{
    at, creates, id, load, root, start, store_all, success, update, updates, work,
};
use flowmonkey_engine::store::{
    Batch, CreateOutcome, POSTGRES_SCHEMA_VERSION, PostgresOptions, PostgresStore, Retention, Store,
    StoreError, Update,
};
use flowmonkey_plumbing::clock::{Clock, SkippingClock, SystemClock};
use flowmonkey_test_support::{
    Certificates, ClientCertificates, Postgres, PostgresOptions as ServerOptions, Tls,
};
use futures_util::future::join_all;
use serde_json::json;
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
    // Whose programs an older one may not disturb, and one that does not say.
    for says in ["UPDATE fm_schema SET readable_from = 999", "DELETE FROM fm_schema", "DROP TABLE fm_schema"]
    {
        meddle(&database.url(), says).await;
        for options in [without.clone(), options(&database.url())] {
            let StoreError::Schema { found: 999, needed, cure } = refused(options).await else {
                panic!("it is newer: {says}")
            };
            assert_eq!(needed, POSTGRES_SCHEMA_VERSION);
            assert!(cure.contains("release"));
        }
    }
    meddle(&database.url(), "DELETE FROM fm_migrations WHERE version = 999; UPDATE fm_migrations SET checksum = '' WHERE version = 1; DELETE FROM fm_migrations WHERE version > 1").await;
    let error = refused(options(&database.url())).await;
    assert!(matches!(error, StoreError::Schema { found: 1, .. }), "{error:?}");
}

/// As in a rolling update: the next release has migrated, and engines of this one go on and start anew.
#[tokio::test]
async fn an_engine_runs_on_a_newer_schema_that_says_so() {
    let next = format!(
        "INSERT INTO fm_migrations (version, description, success, checksum, execution_time)
            VALUES ({}, 'of the next release', true, '', 0);
        UPDATE fm_schema SET readable_from = {POSTGRES_SCHEMA_VERSION};
        CREATE TABLE fm_later (id uuid PRIMARY KEY);
        ALTER TABLE fm_executions ADD COLUMN later text NOT NULL DEFAULT '';
        ALTER TABLE fm_tables ADD COLUMN later bigint",
        POSTGRES_SCHEMA_VERSION + 1
    );
    let rules = RULES.iter().filter(|rule| RULES_OF_ROLLING.contains(&rule.name));
    assert_eq!(rules.clone().count(), RULES_OF_ROLLING.len());
    for rule in rules {
        let database = fresh().await;
        let running = open(&database).await;
        meddle(&database.url(), &next).await;
        running.check().await.unwrap();
        let version = PostgresStore::migrate(&options(&database.url())).await.unwrap();
        assert_eq!(version, POSTGRES_SCHEMA_VERSION + 1, "the newer one stays");
        for migrate in [true, false] {
            let options = PostgresOptions { migrate, ..options(&database.url()) };
            PostgresStore::connect(options).await.unwrap().check().await.unwrap();
        }
        (rule.run)(Arc::new(open(&database).await)).await;
    }
}

/// Rules of the store that an engine of the release before needs most.
const RULES_OF_ROLLING: [&str; 4] = [
    "an_execution_reads_back_as_it_was_written",
    "a_batch_stored_twice_changes_nothing_the_second_time",
    "concurrent_updates_of_one_version_hold_once",
    "the_same_key_gives_the_same_execution",
];

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

#[tokio::test]
async fn a_statement_does_not_wait_for_ever() {
    let database = fresh().await;
    let limited =
        PostgresOptions { statement_timeout: Duration::from_millis(100), ..options(&database.url()) };
    let store = PostgresStore::connect(limited).await.unwrap();
    let one = start(&store, &work(), 1, at(0)).await;
    let mut other = PgConnection::connect(&database.url()).await.unwrap();
    let mut holding = other.begin().await.unwrap();
    sqlx::raw_sql("SELECT 1 FROM fm_executions FOR UPDATE").execute(&mut *holding).await.unwrap();
    let step = || updates(at(1), vec![update(&work(), &one, success(&one, json!(1)), at(1))]);
    let error = store.commit(step()).await.unwrap_err();
    assert!(reason(&error).contains("timeout"), "{error}");
    holding.rollback().await.unwrap();
    assert_eq!(load(&store, id(1)).await, one, "nothing was stored");
    store_all(&store, step()).await;
}

#[tokio::test]
async fn an_engine_that_hangs_in_a_transaction_holds_nothing_for_long() {
    let database = fresh().await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let hanging = PostgresOptions {
        idle_in_transaction_timeout: Duration::from_millis(1234),
        application_name: "hanging engine".into(),
        ..options(&database.url())
    };
    let store = PostgresStore::connect(hanging).await.unwrap();
    store.check().await.unwrap();
    let names: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'hanging engine'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(names > 0);
    // What the server was told shows in the function that a test puts in the place of one of ours.
    let spy =
        "CREATE OR REPLACE FUNCTION fm_prune(ended_before bigint, max bigint) RETURNS bigint LANGUAGE sql AS
        $$ SELECT (current_setting('idle_in_transaction_session_timeout') = '1234ms')::int::bigint $$";
    meddle(&database.url(), spy).await;
    let never = at(0);
    let retention = Retention {
        executions_before: never,
        events_before: never,
        checkpoints_before: never,
        keys_before: never,
        progress_before: never,
        logs_before: never,
    };
    assert_eq!(store.prune(&retention, 10).await.unwrap(), 1);
}

/// Many more callers than connections: whoever waits gets what others give back, though that is kept at hand.
#[tokio::test]
async fn nobody_waits_for_a_connection_that_others_keep_at_hand() {
    let database = fresh().await;
    let few = PostgresOptions {
        connections: 2,
        acquire_timeout: Duration::from_secs(600),
        ..options(&database.url())
    };
    let store = PostgresStore::connect(few).await.unwrap();
    let asking = (0..64).map(async |_| {
        for _ in 0..20 {
            store.check().await.unwrap();
        }
    });
    join_all(asking).await;
    store.close().await;
}

/// One after the other, all statements go to the same process of the server, whose memory is warm.
#[tokio::test]
async fn the_connection_that_was_used_last_is_used_next() {
    let database = fresh().await;
    let store = open(&database).await;
    // As many as there may be.
    join_all((0..6).map(|_| store.check())).await;
    let mut watch = PgConnection::connect(&database.url()).await.unwrap();
    let question = "SELECT pid::text || state_change::text FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let before: Vec<String> = sqlx::query_scalar(question).fetch_all(&mut watch).await.unwrap();
    for _ in 0..12 {
        store.check().await.unwrap();
    }
    let after: Vec<String> = sqlx::query_scalar(question).fetch_all(&mut watch).await.unwrap();
    assert_eq!(after.iter().filter(|state| !before.contains(state)).count(), 1, "{before:?} {after:?}");
}

/// What the server has closed meanwhile is noticed by a caller at most once per connection, and the store goes on.
#[tokio::test]
async fn connections_that_the_server_closed_are_replaced() {
    let database = fresh().await;
    let store = open(&database).await;
    join_all((0..6).map(|_| store.check())).await;
    meddle(
        &database.url(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .await;
    let mut failed = 0;
    while store.check().await.is_err() {
        failed += 1;
        assert!(failed <= 6, "there were no more connections than that");
    }
    let one = start(&store, &work(), 1, at(0)).await;
    assert_eq!(load(&store, one.id()).await.version, one.version);
}

/// Steps and starts of one batch are one statement: what its guards refuse is told for each.
#[tokio::test]
async fn a_batch_of_steps_and_starts_tells_of_each() {
    let database = fresh().await;
    let store = open(&database).await;
    let stepped = start(&store, &work(), 1, at(0)).await;
    let stale = start(&store, &work(), 2, at(0)).await;
    let taken = start(&store, &work(), 3, at(0)).await;
    let good = update(&work(), &stepped, success(&stepped, json!(1)), at(1));
    let old = update(&work(), &stale, success(&stale, json!(1)), at(1));
    let batch = Batch {
        now: at(1),
        updates: vec![good, Update { expected_version: old.expected_version + 1, ..old }],
        creates: vec![root(&work(), 3, at(1)), root(&work(), 4, at(1))],
        ..Batch::default()
    };
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.updates, [true, false]);
    assert_eq!(committed.creates, [CreateOutcome::IdTaken, CreateOutcome::Created]);
    assert!(load(&store, stepped.id()).await.version > stepped.version);
    assert_eq!(load(&store, stale.id()).await.version, stale.version);
    assert_eq!(load(&store, taken.id()).await.identity.created_at, at(0));
    assert_eq!(load(&store, id(4)).await.identity.created_at, at(1));
}
