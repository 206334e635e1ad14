//! A private Postgres.

mod database;
mod install;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::process::Signal;
use sqlx::{Connection as _, PgConnection};

use self::database::Templates;
pub use self::database::{Template, TestDatabase};
use crate::certificates::{ClientCertificates, ServerFiles, Tls};
use crate::process::Farewell;
use crate::service::{Recipe, Service};
use crate::user::User;
use crate::wait::blocking;

/// Room for many tests with a pool each.
const CONNECTIONS_MAX: u32 = 200;

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// It does not: fast. What was committed survives `kill`, as the system keeps it, but not a loss of power.
    #[default]
    Fast,
    /// As in production (`fsync`, `full_page_writes`): for measurements.
    Synced,
}

/// How a Postgres is set up.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Further settings, as `max_connections=20`. They win over ours.
    pub settings: Vec<String>,
    pub durability: Durability,
    pub tls: Option<Tls>,
    /// A port of one's own choice instead of a free one.
    pub port: Option<u16>,
}

/// A running Postgres that lets the user `postgres` in without a password. Clones are the same server; it ends with the last
/// clone and the last `TestDatabase`.
#[derive(Debug, Clone)]
pub struct Postgres {
    server: Arc<Server>,
}

#[derive(Debug)]
pub(crate) struct Server {
    service: Service,
    tls: Option<Tls>,
    templates: Templates,
}

impl Server {
    pub(crate) fn url(&self, database: &str) -> String {
        let mut url = format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=", self.service.port());
        match &self.tls {
            None => url.push_str("disable"),
            Some(Tls { certificates, clients }) => {
                write!(url, "verify-full&sslrootcert={}", certificates.authority().display())
                    .expect("a string takes all");
                match clients {
                    ClientCertificates::Ignored => {}
                    ClientCertificates::Demanded => write!(
                        url,
                        "&sslcert={}&sslkey={}",
                        certificates.client_certificate().display(),
                        certificates.client_key().display()
                    )
                    .expect("a string takes all"),
                }
            }
        }
        url
    }

    pub(crate) async fn administer(&self, statements: &[String]) -> sqlx::Result<()> {
        administer(&self.url("postgres"), statements).await
    }
}

/// Runs statements, one after the other, over a new connection.
pub(crate) async fn administer(url: &str, statements: &[String]) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    for statement in statements {
        // Names cannot be parameters in these statements; ours consist of letters, digits and underscores.
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.as_str())).execute(&mut connection).await?;
    }
    connection.close().await
}

impl Postgres {
    /// The server that all tests of this process share; started by the first, ended with the process. Each test takes a
    /// database of its own from it, and leaves the server itself alone.
    pub async fn shared() -> &'static Self {
        blocking(Self::shared_blocking).await
    }

    /// As `shared`, for plain threads.
    pub fn shared_blocking() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start_blocking(PostgresOptions::default()))
    }

    /// Starts one of the caller's own, which may be killed and restarted, and waits until it takes connections. Panics when
    /// Postgres is missing or does not start.
    pub async fn start(options: PostgresOptions) -> Self {
        blocking(|| Self::start_blocking(options)).await
    }

    /// As `start`, for plain threads.
    pub fn start_blocking(options: PostgresOptions) -> Self {
        let programs = install::programs();
        let user = User::of_servers();
        let service = Service::start("postgres", options.port, user, |folder, port| {
            let data = install::data_folder(&programs, user, folder);
            let binary = programs.join("postgres");
            let mut settings = settings(port, &options);
            if let Some(tls) = &options.tls {
                settings.extend(demand_tls(folder, &data, user, tls));
            }
            let lock = data.join("postmaster.pid");
            Recipe {
                name: "postgres",
                command: Box::new(move || {
                    let mut command = user.command(&binary);
                    command.arg("-D").arg(&data);
                    for setting in &settings {
                        command.args(["-c", setting]);
                    }
                    command
                }),
                is_ready: Box::new(move |pid| says_ready(&lock, pid)),
                farewell: Farewell::Quit,
            }
        });
        Self { server: Arc::new(Server { service, tls: options.tls, templates: Templates::default() }) }
    }

    /// The address of a database of this server, as `postgres`, which always exists.
    pub fn url(&self, database: &str) -> String {
        self.server.url(database)
    }

    pub fn port(&self) -> u16 {
        self.server.service.port()
    }

    /// Of the first process. Panics when it is not running.
    pub fn pid(&self) -> u32 {
        self.server.service.pid()
    }

    /// SIGKILL to all its processes. The port and the folder are kept for `restart`.
    pub fn kill(&self) {
        self.server.service.kill();
    }

    /// Asks it to end, as an operator does (a fast shutdown: connections are ended, data is written).
    pub async fn stop(&self) {
        let server = Arc::clone(&self.server);
        blocking(move || server.service.stop(Signal::INT)).await;
    }

    /// Starts it again on the same port and data; kills it first when it runs.
    pub async fn restart(&self) {
        let server = Arc::clone(&self.server);
        blocking(move || server.service.restart(|| {})).await;
    }

    /// It answers nothing any more, and its connections stay open (SIGSTOP to all its processes).
    pub fn pause(&self) {
        self.server.service.pause();
    }

    /// Ends `pause`.
    pub fn resume(&self) {
        self.server.service.resume();
    }

    /// Ends all connections to a database, as a failover does.
    pub async fn terminate_backends(&self, database: &str) {
        let sql = database::terminate_backends(database);
        self.server.administer(&[sql]).await.expect("the server is running");
    }

    /// A new, empty database.
    pub async fn database(&self) -> TestDatabase {
        TestDatabase::create(Arc::clone(&self.server), database::EMPTY).await
    }

    /// A database that is filled once for each server by `fill`, which gets its address, and then copied by
    /// `Template::database`: for a schema whose migrations take long. Others that ask for the same `name` meanwhile wait.
    /// `name` consists of small letters, digits and underscores.
    pub async fn template<F, Fut>(&self, name: &str, fill: F) -> Template
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = ()>,
    {
        Template::ensure(Arc::clone(&self.server), name, fill).await
    }
}

fn settings(port: u16, options: &PostgresOptions) -> Vec<String> {
    let mut settings = vec![
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        format!("max_connections={CONNECTIONS_MAX}"),
        "max_wal_size=1GB".to_owned(),
    ];
    match options.durability {
        Durability::Fast => {
            settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
        }
        Durability::Synced => {}
    }
    settings.extend(options.settings.iter().cloned());
    settings
}

/// Lets nobody in without TLS.
fn demand_tls(folder: &Path, data: &Path, user: User, tls: &Tls) -> Vec<String> {
    let files = ServerFiles::copy(&tls.certificates, folder, user);
    let clients = match tls.clients {
        ClientCertificates::Ignored => "",
        ClientCertificates::Demanded => "clientcert=verify-ca",
    };
    let access = data.join("pg_hba.conf");
    std::fs::write(&access, format!("hostssl all all 127.0.0.1/32 trust {clients}\n"))
        .expect("the folder is ours");
    user.own(&access);
    vec![
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", files.certificate.display()),
        format!("ssl_key_file={}", files.key.display()),
        format!("ssl_ca_file={}", files.authority.display()),
    ]
}

/// Postgres writes its state into its lock file: the first line is the process id, the eighth the state. This is what
/// `pg_ctl` waits for.
fn says_ready(lock: &Path, pid: u32) -> bool {
    let text = std::fs::read_to_string(lock).unwrap_or_default();
    let mut lines = text.lines();
    lines.next().is_some_and(|line| line.trim() == pid.to_string())
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}
