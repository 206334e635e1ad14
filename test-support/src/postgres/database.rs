//! Databases for single tests, and templates they are copied from.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::{Server, administer};

/// Nobody may connect to it, and so nobody can stand in the way of a copy.
pub(super) const EMPTY: &str = "template0";
/// A server that does not answer any more is being ended anyway.
const DROP_WITHIN: Duration = Duration::from_secs(10);

static CREATED: AtomicU64 = AtomicU64::new(0);

/// The names of the templates that are whole.
#[derive(Debug, Default)]
pub(super) struct Templates(Mutex<HashSet<String>>);

/// A database of one test. Dropping it drops the database, with the connections that are still open.
#[derive(Debug)]
pub struct TestDatabase {
    server: Arc<Server>,
    name: String,
}

impl TestDatabase {
    pub(super) async fn create(server: Arc<Server>, template: &str) -> Self {
        let name = format!("test_{}", CREATED.fetch_add(1, Ordering::Relaxed));
        server.administer(&[create(&name, template)]).await.expect("the server is running");
        Self { server, name }
    }

    /// `postgres://…`, for the superuser; with the certificates, when the server demands TLS.
    pub fn url(&self) -> String {
        self.server.url(&self.name)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends all connections to it, as a failover does.
    pub async fn terminate_backends(&self) {
        self.server.administer(&[terminate_backends(&self.name)]).await.expect("the server is running");
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // Only the address: the server must not live on for this.
        let url = self.server.url("postgres");
        // Best effort, and nobody waits for it: what is left goes with the folder of the server. On a thread, as there may be
        // no runtime, or one that is ending.
        std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                drop(tokio::time::timeout(DROP_WITHIN, administer(&url, &[sql])).await);
            });
        });
    }
}

/// A filled database from which others are copied.
#[derive(Debug, Clone)]
pub struct Template {
    server: Arc<Server>,
    name: String,
}

impl Template {
    pub(super) async fn ensure<F, Fut>(server: Arc<Server>, name: &str, fill: F) -> Self
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = ()>,
    {
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
            "the name of a template consists of small letters, digits and underscores"
        );
        let name = format!("template_{name}");
        let mut whole = server.templates.0.lock().await;
        if !whole.contains(&name) {
            // Filled under another name: a test that fails half-way leaves nothing that the next would take for whole.
            let filling = format!("filling_{}", CREATED.fetch_add(1, Ordering::Relaxed));
            server.administer(&[create(&filling, EMPTY)]).await.expect("the server is running");
            fill(server.url(&filling)).await;
            server
                .administer(&[
                    format!("ALTER DATABASE {filling} ALLOW_CONNECTIONS false"),
                    terminate_backends(&filling),
                    format!("ALTER DATABASE {filling} RENAME TO {name}"),
                ])
                .await
                .expect("a filled database can be renamed");
            whole.insert(name.clone());
        }
        drop(whole);
        Self { server, name }
    }

    /// A new database with what the template holds.
    pub async fn database(&self) -> TestDatabase {
        TestDatabase::create(Arc::clone(&self.server), &self.name).await
    }
}

fn create(name: &str, template: &str) -> String {
    format!("CREATE DATABASE {name} TEMPLATE {template}")
}

pub(super) fn terminate_backends(database: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
         WHERE datname = '{}' AND pid <> pg_backend_pid()",
        database.replace('\'', "''")
    )
}
