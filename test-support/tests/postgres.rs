//! Postgres: starts, is reached, dies and comes back.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::time::Duration;

use flowmonkey_test_support::{Postgres, PostgresOptions};
use sqlx::{Connection as _, PgConnection};

/// Long enough for an answer to have come.
const MOMENT: Duration = Duration::from_millis(150);

async fn count(url: &str) -> sqlx::Result<i64> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut connection).await
}

async fn fill(url: String) {
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)")
        .execute(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let database = postgres.database().await;
    fill(database.url()).await;
    let (port, pid) = (postgres.port(), postgres.pid());
    // `kill` ends the backends too: this one would otherwise keep the server from starting again.
    let mut open = PgConnection::connect(&database.url()).await.unwrap();
    postgres.kill();
    open.ping().await.unwrap_err();
    count(&database.url()).await.unwrap_err();
    postgres.restart().await;
    assert_eq!(postgres.port(), port);
    assert_ne!(postgres.pid(), pid);
    assert_eq!(count(&database.url()).await.unwrap(), 2);
    postgres.stop().await;
    postgres.restart().await;
    assert_eq!(count(&database.url()).await.unwrap(), 2);
}

#[tokio::test]
async fn a_template_is_filled_once_and_its_copies_are_apart() {
    let postgres = Postgres::shared().await;
    let template = postgres.template("numbers", fill).await;
    let (one, two) = tokio::join!(template.database(), template.database());
    let again = postgres.template("numbers", async |_| unreachable!("it is filled already")).await;
    let three = again.database().await;
    let mut connection = PgConnection::connect(&one.url()).await.unwrap();
    sqlx::raw_sql("DELETE FROM t").execute(&mut connection).await.unwrap();
    assert_eq!(count(&one.url()).await.unwrap(), 0);
    assert_eq!(count(&two.url()).await.unwrap(), 2);
    assert_eq!(count(&three.url()).await.unwrap(), 2);
    two.terminate_backends().await;
    connection.ping().await.unwrap();
    one.terminate_backends().await;
    connection.ping().await.unwrap_err();
}

#[tokio::test]
async fn a_paused_server_keeps_its_connections_and_answers_later() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let database = postgres.database().await;
    fill(database.url()).await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    postgres.pause();
    let mut asked = Box::pin(connection.ping());
    tokio::time::timeout(MOMENT, &mut asked).await.unwrap_err();
    postgres.resume();
    asked.await.unwrap();
    assert_eq!(count(&database.url()).await.unwrap(), 2);
}
