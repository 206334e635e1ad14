//! TLS: only those with the certificates get in.

use std::sync::Arc;

use flowmonkey_test_support::{
    Certificates, ClientCertificates, Postgres, PostgresOptions, Redis, RedisOptions, Tls, patient,
};
use redis::{Client, TlsCertificates, Value};
use sqlx::{Connection as _, PgConnection};

#[tokio::test]
async fn redis_lets_in_whom_the_options_say() {
    for clients in [ClientCertificates::Ignored, ClientCertificates::Demanded] {
        let certificates = Arc::new(Certificates::new());
        let tls = Some(Tls { certificates: Arc::clone(&certificates), clients });
        let redis = Redis::start(RedisOptions {
            tls,
            password: Some("secret".to_owned()),
            ..RedisOptions::default()
        })
        .await;
        assert_eq!(redis.command(&["PING"]).await, Value::SimpleString("PONG".to_owned()));

        let ping = async |url: String, authority: &Certificates| {
            let root_cert = Some(std::fs::read(authority.authority()).unwrap());
            let client =
                Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert }).unwrap();
            let mut connection = client.get_multiplexed_async_connection_with_config(&patient()).await?;
            redis::cmd("PING").query_async::<String>(&mut connection).await
        };
        let without_certificate = ping(redis.url(), &certificates).await;
        assert_eq!(
            without_certificate.is_ok(),
            clients == ClientCertificates::Ignored,
            "{without_certificate:?}"
        );
        ping(redis.url(), &Certificates::new()).await.unwrap_err();
        let plain = Client::open(redis.url().replace("rediss", "redis")).unwrap();
        plain.get_multiplexed_async_connection_with_config(&patient()).await.unwrap_err();
    }
}

#[tokio::test]
async fn postgres_lets_in_whom_the_options_say() {
    for clients in [ClientCertificates::Ignored, ClientCertificates::Demanded] {
        let certificates = Arc::new(Certificates::new());
        let tls = Some(Tls { certificates: Arc::clone(&certificates), clients });
        let postgres = Postgres::start(PostgresOptions { tls, ..PostgresOptions::default() }).await;
        let database = postgres.database().await;
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        let encrypted: bool = sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert!(encrypted);

        let url = |mode: &str, authority: &Certificates| {
            format!(
                "postgres://postgres@127.0.0.1:{}/postgres?sslmode={mode}&sslrootcert={}",
                postgres.port(),
                authority.authority().display()
            )
        };
        let without_certificate = PgConnection::connect(&url("verify-full", &certificates)).await;
        assert_eq!(without_certificate.is_ok(), clients == ClientCertificates::Ignored);
        PgConnection::connect(&url("verify-full", &Certificates::new())).await.unwrap_err();
        PgConnection::connect(&url("disable", &certificates)).await.unwrap_err();
    }
}
