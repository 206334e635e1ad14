//! A private Redis.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ClientTlsConfig, TlsCertificates, Value};
use rustix::process::Signal;

use crate::certificates::{ClientCertificates, ServerFiles, Tls};
use crate::process::Farewell;
use crate::service::{Recipe, Service, program};
use crate::user::User;
use crate::wait::blocking;

/// The program, and the Debian package that has it.
const SERVER: &str = "redis-server";
/// Names a program to be used in its place, by name or path: one that speaks as Redis does, as `valkey-server`.
const SERVER_VARIABLE: &str = "FLOWMONKEY_REDIS_SERVER";
/// A Redis on the same machine answers a PING in microseconds.
const PING_WITHIN: Duration = Duration::from_secs(1);

/// Whether what was written survives `kill` and `restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Nothing survives.
    #[default]
    None,
    /// Everything that was answered survives: append-only file, synced at every write.
    AppendOnly,
}

/// How a Redis is set up. The default: open to all on 127.0.0.1, nothing persisted.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// Further lines of `redis.conf`, as `maxmemory 10mb`. They win over ours.
    pub config: Vec<String>,
    pub persistence: Persistence,
    /// Of the default user; letters and digits. `url` contains it.
    pub password: Option<String>,
    /// Lines of an ACL file, as `user worker on >secret ~* +@all`. Then the password of the default user belongs here too.
    pub acl: Vec<String>,
    pub tls: Option<Tls>,
    /// A port of one's own choice instead of a free one.
    pub port: Option<u16>,
}

/// A running `redis-server`. Clones are the same server; dropping the last one ends it and removes its data.
#[derive(Debug, Clone)]
pub struct Redis {
    service: Arc<Service>,
    options: Arc<RedisOptions>,
}

impl Redis {
    /// Starts one and waits until it answers. Panics when `redis-server` is missing or does not start.
    pub async fn start(options: RedisOptions) -> Self {
        blocking(|| Self::start_blocking(options)).await
    }

    /// As `start`, for plain threads.
    pub fn start_blocking(options: RedisOptions) -> Self {
        let binary = server_program();
        let user = User::of_servers();
        let service = Service::start("redis", options.port, user, |folder, port| {
            let data = folder.join("data");
            std::fs::create_dir(&data).expect("the folder is ours");
            user.own(&data);
            let config = folder.join("redis.conf");
            std::fs::write(&config, config_text(folder, port, user, &options)).expect("the folder is ours");
            user.own(&config);
            let (socket, binary) = (folder.join("s"), binary.clone());
            Recipe {
                name: "redis",
                command: Box::new(move || {
                    let mut command = user.command(&binary);
                    command.arg(&config);
                    command
                }),
                is_ready: Box::new(move |_| answers(&socket)),
                farewell: Farewell::Kill,
            }
        });
        Self { service: Arc::new(service), options: Arc::new(options) }
    }

    /// `redis://127.0.0.1:port`, `rediss` with TLS, with the password if there is one.
    pub fn url(&self) -> String {
        let scheme = scheme(self.options.tls.as_ref());
        let login = self.options.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        format!("{scheme}://{login}127.0.0.1:{}", self.port())
    }

    pub fn port(&self) -> u16 {
        self.service.port()
    }

    /// Panics when it is not running.
    pub fn pid(&self) -> u32 {
        self.service.pid()
    }

    /// SIGKILL. The port and the folder are kept for `restart`.
    pub fn kill(&self) {
        self.service.kill();
    }

    /// Asks it to end, as an operator does; what it persists is written.
    pub async fn stop(&self) {
        let service = Arc::clone(&self.service);
        blocking(move || service.stop(Signal::TERM)).await;
    }

    /// Starts it again on the same port, with the data that survived; kills it first when it runs.
    pub async fn restart(&self) {
        let service = Arc::clone(&self.service);
        blocking(move || service.restart(|| {})).await;
    }

    /// As `restart`, with all its data lost.
    pub async fn restart_empty(&self) {
        let service = Arc::clone(&self.service);
        blocking(move || service.restart(|| delete_data(service.folder()))).await;
    }

    /// It answers nothing any more, and its connections stay open (SIGSTOP).
    pub fn pause(&self) {
        self.service.pause();
    }

    /// Ends `pause`.
    pub fn resume(&self) {
        self.service.resume();
    }

    /// A client that knows the password and has the certificates.
    pub fn client(&self) -> Client {
        client_of(self.url(), self.options.tls.as_ref())
    }

    /// Sends one command over a new connection. Panics on an error reply: use `try_command` for those.
    pub async fn command(&self, words: &[&str]) -> Value {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Sends one command over a new connection, and waits for its reply.
    ///
    /// # Errors
    /// When it cannot be reached, or replies with an error.
    pub async fn try_command(&self, words: &[&str]) -> ::redis::RedisResult<Value> {
        command_of(words).query_async(&mut self.connect().await?).await
    }

    /// A connection that waits for its replies.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn connect(&self) -> ::redis::RedisResult<MultiplexedConnection> {
        self.client().get_multiplexed_async_connection_with_config(&patient()).await
    }

    /// As `try_command` for those who ask again: it gives up after the half second of the client library, as the server may be
    /// paused, or be told to end.
    pub(crate) async fn probe(&self, words: &[&str]) -> ::redis::RedisResult<Value> {
        let mut connection = self.client().get_multiplexed_async_connection().await?;
        command_of(words).query_async(&mut connection).await
    }
}

/// Settings of connections without time limits. The client library gives up after half a second, which a busy machine needs now
/// and then.
pub fn patient() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

/// A client of the server at `url` that has the certificates.
pub(crate) fn client_of(url: String, tls: Option<&Tls>) -> Client {
    let Some(tls) = tls else { return Client::open(url).expect("our own address is valid") };
    let read = |file| std::fs::read(file).expect("the certificates live as long as the options");
    let client_tls = match tls.clients {
        ClientCertificates::Ignored => None,
        ClientCertificates::Demanded => Some(ClientTlsConfig {
            client_cert: read(tls.certificates.client_certificate()),
            client_key: read(tls.certificates.client_key()),
        }),
    };
    let root_cert = Some(read(tls.certificates.authority()));
    Client::build_with_tls(url, TlsCertificates { client_tls, root_cert })
        .expect("our own address and certificates are valid")
}

/// `redis`, or `rediss` with TLS.
pub(crate) fn scheme(tls: Option<&Tls>) -> &'static str {
    if tls.is_some() { "rediss" } else { "redis" }
}

/// The program of the servers.
pub(crate) fn server_program() -> PathBuf {
    let other = std::env::var(SERVER_VARIABLE).ok().filter(|name| !name.is_empty());
    program(other.as_deref().unwrap_or(SERVER), SERVER)
}

pub(crate) fn command_of(words: &[&str]) -> ::redis::Cmd {
    let mut command = ::redis::Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

fn delete_data(folder: &Path) {
    for entry in std::fs::read_dir(folder.join("data")).expect("the folder is ours") {
        let path = entry.expect("the folder is ours").path();
        let deleted =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        deleted.unwrap_or_else(|error| panic!("cannot delete {}: {error}", path.display()));
    }
}

fn config_text(folder: &Path, port: u16, user: User, options: &RedisOptions) -> String {
    let persistence = match options.persistence {
        Persistence::None => "appendonly no",
        Persistence::AppendOnly => "appendonly yes\nappendfsync always",
    };
    // The socket in the folder is how we see that it is ready, whatever TLS and passwords the port demands.
    let mut text = format!(
        "bind 127.0.0.1\nunixsocket {0}/s\ndir {0}/data\ndaemonize no\nprotected-mode no\nsave \"\"\n\
         {persistence}\n",
        folder.display()
    );
    match &options.tls {
        None => writeln!(text, "port {port}").expect("a string takes all"),
        Some(tls) => text.push_str(&tls_text(folder, port, user, tls)),
    }
    if let Some(password) = &options.password {
        writeln!(text, "requirepass {password}").expect("a string takes all");
    }
    if !options.acl.is_empty() {
        let file = folder.join("users.acl");
        std::fs::write(&file, options.acl.join("\n") + "\n").expect("the folder is ours");
        user.own(&file);
        writeln!(text, "aclfile {}", file.display()).expect("a string takes all");
    }
    for line in &options.config {
        writeln!(text, "{line}").expect("a string takes all");
    }
    text
}

/// Among themselves, servers use TLS, too.
pub(crate) fn tls_text(folder: &Path, port: u16, user: User, tls: &Tls) -> String {
    let files = ServerFiles::copy(&tls.certificates, folder, user);
    let clients = match tls.clients {
        ClientCertificates::Ignored => "no",
        ClientCertificates::Demanded => "yes",
    };
    format!(
        "port 0\ntls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients {clients}\n\
         tls-replication yes\ntls-cluster yes\n",
        files.certificate.display(),
        files.key.display(),
        files.authority.display()
    )
}

/// Whether a Redis behind this socket has loaded its data. A refusal for want of a password is an answer too.
pub(crate) fn answers(socket: &Path) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PING_WITHIN))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = vec![0; 64];
        let length = stream.read(&mut reply)?;
        reply.truncate(length);
        Ok(reply)
    };
    ask().is_ok_and(|reply| !reply.is_empty() && !reply.starts_with(b"-LOADING"))
}
