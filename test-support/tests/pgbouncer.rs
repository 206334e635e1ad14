//! PgBouncer: shares connections, dies and comes back.

use flowmonkey_test_support::{PgBouncer, Postgres};
use sqlx::{Connection as _, PgConnection, Row as _};

async fn backend(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("SELECT pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

#[tokio::test]
async fn clients_share_a_connection_one_transaction_at_a_time() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    let pool = PgBouncer::start(postgres).await;
    let mut one = PgConnection::connect(&pool.url(database.name())).await.unwrap();
    let mut two = PgConnection::connect(&pool.url(database.name())).await.unwrap();
    let shared = backend(&mut one).await.unwrap();
    assert_eq!(backend(&mut two).await.unwrap(), shared);
    sqlx::raw_sql("BEGIN").execute(&mut one).await.unwrap();
    assert_ne!(backend(&mut two).await.unwrap(), backend(&mut one).await.unwrap());

    pool.kill();
    backend(&mut two).await.unwrap_err();
    pool.restart().await;
    let mut three = PgConnection::connect(&pool.url(database.name())).await.unwrap();
    backend(&mut three).await.unwrap();
}
