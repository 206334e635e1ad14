//! A pool in front of a Postgres.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use crate::postgres::Postgres;
use crate::process::Farewell;
use crate::service::{Recipe, Service, program};
use crate::user::User;
use crate::wait::blocking;

/// Connections to the server, for each database.
const POOL_SIZE: u32 = 20;
const CLIENTS_MAX: u32 = 200;

/// A running PgBouncer in transaction mode: each transaction of a client may run on another connection of the server, so that
/// prepared statements, `SET`, `LISTEN` and advisory locks of sessions do not hold. Clones are the same; it ends with the last.
#[derive(Debug, Clone)]
pub struct PgBouncer {
    service: Arc<Service>,
    postgres: Postgres,
}

impl PgBouncer {
    /// Starts one in front of all databases of a server without TLS. Panics when `pgbouncer` is missing or does not start.
    pub async fn start(postgres: &Postgres) -> Self {
        let postgres = postgres.clone();
        blocking(|| Self::start_blocking(postgres)).await
    }

    fn start_blocking(postgres: Postgres) -> Self {
        let binary = program("pgbouncer", "pgbouncer");
        let user = User::of_servers();
        let service = Service::start("pgbouncer", None, user, |folder, port| {
            let config = folder.join("pgbouncer.ini");
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={} user=postgres\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = any\nadmin_users = postgres\npool_mode = transaction\n\
                 default_pool_size = {POOL_SIZE}\nmax_client_conn = {CLIENTS_MAX}\n\
                 ignore_startup_parameters = extra_float_digits\n",
                postgres.port()
            );
            std::fs::write(&config, text).expect("the folder is ours");
            user.own(&config);
            let binary = binary.clone();
            Recipe {
                name: "pgbouncer",
                command: Box::new(move || {
                    let mut command = user.command(&binary);
                    command.arg(&config);
                    command
                }),
                is_ready: Box::new(move |_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()),
                farewell: Farewell::Kill,
            }
        });
        Self { service: Arc::new(service), postgres }
    }

    /// The address of a database of the server, through the pool.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port())
    }

    pub fn port(&self) -> u16 {
        self.service.port()
    }

    /// The server behind it.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// SIGKILL. The port is kept for `restart`.
    pub fn kill(&self) {
        self.service.kill();
    }

    /// Starts it again on the same port; kills it first when it runs.
    pub async fn restart(&self) {
        let service = Arc::clone(&self.service);
        blocking(move || service.restart(|| {})).await;
    }

    /// It answers nothing any more, and its connections stay open (SIGSTOP).
    pub fn pause(&self) {
        self.service.pause();
    }

    /// Ends `pause`.
    pub fn resume(&self) {
        self.service.resume();
    }
}
