//! Connections: to one server, through Sentinels, to a Cluster.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use tokio::time::{Instant, timeout};

use super::address::{Address, AddressKind};
use super::failure::RedisFailure;
use super::options::{RedisOptions, RedisOptionsError};
use crate::ids::{Entropy, SystemEntropy};

/// A connection must stand within this.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// An answer must come within this. Messages are large at times, and a server may be saving.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Workers block on their bells for this long at a time.
pub(super) const BELL_WAIT: Duration = Duration::from_secs(5);
/// And at least for this long.
pub(super) const BELL_WAIT_MIN: Duration = Duration::from_millis(1);
/// An answer of a blocking call must come within this.
const BLOCKING_ANSWER_DEADLINE: Duration = Duration::from_secs(10);
const _: () = assert!(BELL_WAIT.as_secs() < BLOCKING_ANSWER_DEADLINE.as_secs());
/// Before the second attempt to connect; doubled each time.
const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
/// Between attempts to connect, at most.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// How often a command is sent again that a node of a Cluster has sent back.
const CLUSTER_RETRIES: u32 = 5;
/// How often the client library sends a command again by itself: it would do so after a connection broke, and what the
/// first claim took would be in nobody's hands.
const LIBRARY_RETRIES: u32 = 0;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Commands that are answered at once.
    Calls,
    /// Blocking on bells.
    Bells,
}

impl Purpose {
    fn answer_deadline(self) -> Duration {
        match self {
            Self::Calls => ANSWER_DEADLINE,
            Self::Bells => BLOCKING_ANSWER_DEADLINE,
        }
    }
}

/// Opens connections.
pub(super) enum Client {
    Single(Box<redis::Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    Cluster(Box<ClusterNodes>),
}

pub(super) struct ClusterNodes {
    calls: ClusterClient,
    bells: ClusterClient,
    /// The nodes that the URL names, for subscriptions.
    nodes: Vec<redis::Client>,
}

impl Client {
    pub(super) fn new(address: &Address, options: &RedisOptions) -> Result<Self, RedisOptionsError> {
        let refused = |error: RedisError| RedisOptionsError::Client { reason: error.to_string() };
        let certificates = options.certificates(address.tls)?;
        if address.tls {
            use_ring();
        }
        match &address.kind {
            AddressKind::Single => {
                let infos = node_infos(address).map_err(refused)?;
                let info = infos.into_iter().next();
                let info = info.ok_or_else(|| RedisOptionsError::Url { reason: "it has no host".into() })?;
                Ok(Self::Single(Box::new(open(info, certificates.as_ref()).map_err(refused)?)))
            }
            AddressKind::Sentinel { master } => {
                let client = sentinel(address, master, options, certificates).map_err(refused)?;
                Ok(Self::Sentinel(Box::new(tokio::sync::Mutex::new(client))))
            }
            AddressKind::Cluster => {
                let nodes = cluster(address, certificates.as_ref()).map_err(refused)?;
                Ok(Self::Cluster(Box::new(nodes)))
            }
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        match self {
            Self::Cluster(_) => true,
            Self::Single(_) | Self::Sentinel(_) => false,
        }
    }

    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Link, RedisFailure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(purpose.answer_deadline()));
        let connecting = async {
            Ok(match self {
                Self::Single(client) => {
                    Link::Node(client.get_multiplexed_async_connection_with_config(&config).await?)
                }
                Self::Sentinel(client) => {
                    let master = client.lock().await.async_get_client().await?;
                    Link::Node(master.get_multiplexed_async_connection_with_config(&config).await?)
                }
                Self::Cluster(cluster) => {
                    let client = match purpose {
                        Purpose::Calls => &cluster.calls,
                        Purpose::Bells => &cluster.bells,
                    };
                    Link::Cluster(client.get_async_connection().await?)
                }
            })
        };
        within("connecting", CONNECT_DEADLINE, connecting).await
    }

    /// A connection for subscriptions; `attempt` chooses among the nodes of a Cluster.
    pub(super) async fn subscriber(&self, attempt: usize) -> Result<PubSub, RedisFailure> {
        let connecting = async {
            match self {
                Self::Single(client) => client.get_async_pubsub().await,
                Self::Sentinel(client) => {
                    let master = client.lock().await.async_get_client().await?;
                    master.get_async_pubsub().await
                }
                Self::Cluster(cluster) => {
                    let node = cluster.nodes.iter().cycle().nth(attempt % cluster.nodes.len().max(1));
                    match node {
                        Some(node) => node.get_async_pubsub().await,
                        None => Err(RedisError::from((redis::ErrorKind::Client, "no node"))),
                    }
                }
            }
        };
        within("connecting", CONNECT_DEADLINE, connecting).await
    }
}

/// Makes ring the process's cryptography unless something else was chosen: a Redis client does not choose.
fn use_ring() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Refused only when another thread was quicker, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}

fn open(info: ConnectionInfo, certificates: Option<&TlsCertificates>) -> RedisResult<redis::Client> {
    match certificates {
        Some(certificates) => redis::Client::build_with_tls(info, certificates.clone()),
        None => redis::Client::open(info),
    }
}

fn addresses(address: &Address) -> impl Iterator<Item = ConnectionAddr> + '_ {
    address.hosts.iter().map(|(host, port)| {
        if address.tls {
            let host = host.clone();
            ConnectionAddr::TcpTls { host, port: *port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        }
    })
}

fn node_infos(address: &Address) -> RedisResult<Vec<ConnectionInfo>> {
    let mut settings = RedisConnectionInfo::default().set_db(address.db);
    if let Some(username) = &address.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &address.password {
        settings = settings.set_password(password);
    }
    addresses(address)
        .map(|addr| Ok(addr.into_connection_info()?.set_redis_settings(settings.clone())))
        .collect()
}

fn sentinel(
    address: &Address,
    master: &str,
    options: &RedisOptions,
    certificates: Option<TlsCertificates>,
) -> RedisResult<SentinelClient> {
    let mut builder = SentinelClientBuilder::new(addresses(address), master, SentinelServerType::Master)?
        .set_client_to_redis_db(address.db);
    if let Some(username) = &address.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &address.password {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(username) = &options.sentinel_username {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = &options.sentinel_password {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates);
    }
    builder.build()
}

fn cluster(address: &Address, certificates: Option<&TlsCertificates>) -> RedisResult<ClusterNodes> {
    let infos = node_infos(address)?;
    let build = |purpose: Purpose| {
        let mut builder = ClusterClientBuilder::new(infos.clone())
            .connection_timeout(CONNECT_DEADLINE)
            .response_timeout(purpose.answer_deadline())
            .retries(LIBRARY_RETRIES);
        if let Some(certificates) = certificates {
            builder = builder.tls(TlsMode::Secure).certs(certificates.clone());
        }
        builder.build()
    };
    let nodes = infos.iter().map(|info| open(info.clone(), certificates)).collect::<RedisResult<_>>()?;
    Ok(ClusterNodes { calls: build(Purpose::Calls)?, bells: build(Purpose::Bells)?, nodes })
}

/// Waits for an answer, but not for ever.
pub(super) async fn within<T>(
    doing: &str,
    deadline: Duration,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, RedisFailure> {
    match timeout(deadline, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(RedisFailure::Command { doing: doing.to_owned(), source }),
        Err(_) => Err(RedisFailure::Deadline { doing: doing.to_owned(), deadline }),
    }
}

/// An open connection. Clones share it, and their commands follow each other without waiting for answers.
#[derive(Clone)]
pub(super) enum Link {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn query(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Node(connection) => connection.req_packed_command(command).await?.extract_error(),
            Self::Cluster(connection) => query_cluster(connection, command).await,
        }
    }

    /// Sends commands together; answers may be errors. A Cluster's nodes are asked one after the other.
    pub(super) async fn query_all(&mut self, commands: &[&Cmd]) -> RedisResult<Vec<Value>> {
        match self {
            Self::Node(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command((*command).clone());
                }
                connection.req_packed_commands(&pipeline, 0, commands.len()).await
            }
            Self::Cluster(connection) => {
                let mut answers = Vec::with_capacity(commands.len());
                for command in commands {
                    answers.push(query_cluster(connection, command).await?);
                }
                Ok(answers)
            }
        }
    }

    /// Asks the server, or every primary of a Cluster.
    async fn query_primaries(&mut self, command: &Cmd) -> RedisResult<Vec<Value>> {
        match self {
            Self::Node(connection) => {
                Ok(vec![connection.req_packed_command(command).await?.extract_error()?])
            }
            Self::Cluster(connection) => {
                let routing = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let answers = connection.route_command(command.clone(), routing).await?.extract_error()?;
                let answers = answers.into_map_iter().map_err(|_| {
                    RedisError::from((redis::ErrorKind::UnexpectedReturnType, "no answer for each node"))
                })?;
                Ok(answers.map(|(_, answer)| answer).collect())
            }
        }
    }
}

/// Sends a command again while the nodes say that another one serves its slot, or will: then nothing has happened, and the
/// client asks meanwhile who serves what.
async fn query_cluster(connection: &mut ClusterConnection, command: &Cmd) -> RedisResult<Value> {
    let mut retries = 0;
    loop {
        match connection.req_packed_command(command).await.and_then(Value::extract_error) {
            Err(error) if retries < CLUSTER_RETRIES && is_sent_back(&error) => {
                tokio::time::sleep(back_off(retries)).await;
                retries += 1;
            }
            answer => return answer,
        }
    }
}

/// Whether a node has refused a command because of who serves what now.
fn is_sent_back(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::ReadOnly
        )
    )
}

/// A connection that is opened when it is needed, and again after it broke, with growing pauses.
pub(super) struct Line {
    client: Arc<Client>,
    state: tokio::sync::Mutex<LineState>,
}

#[derive(Default)]
struct LineState {
    /// Number and link of the open connection.
    open: Option<(u64, Link)>,
    opened: u64,
    /// Attempts to connect that failed in a row, when the next may come, and what the last said.
    failures: u32,
    next_attempt: Option<Instant>,
    last_error: String,
}

impl Line {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, state: tokio::sync::Mutex::default() }
    }

    /// How many connections were opened so far.
    pub(super) async fn opened(&self) -> u64 {
        self.state.lock().await.opened
    }

    async fn link(&self) -> Result<(u64, Link), RedisFailure> {
        // Held while connecting: one attempt at a time, and the others wait for its outcome.
        let mut state = self.state.lock().await;
        if let Some((number, link)) = &state.open {
            return Ok((*number, link.clone()));
        }
        if state.next_attempt.is_some_and(|next| Instant::now() < next) {
            return Err(RedisFailure::BackingOff { last: state.last_error.clone() });
        }
        match self.client.connect(Purpose::Calls).await {
            Ok(link) => {
                state.opened += 1;
                state.open = Some((state.opened, link.clone()));
                state.failures = 0;
                state.next_attempt = None;
                Ok((state.opened, link))
            }
            Err(error) => {
                let pause = back_off(state.failures);
                state.failures = state.failures.saturating_add(1);
                state.next_attempt = Some(Instant::now() + pause);
                state.last_error = chain(&error);
                Err(error)
            }
        }
    }

    /// Forgets a connection that broke, unless it was replaced already.
    async fn forget(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|(open, _)| *open == number) {
            state.open = None;
        }
    }

    pub(super) async fn query(&self, doing: &str, command: &Cmd) -> Result<Value, RedisFailure> {
        let (number, mut link) = self.link().await?;
        let answer = within(doing, ANSWER_DEADLINE, link.query(command)).await;
        self.check(number, answer).await
    }

    /// Asks the server, or every primary of a Cluster.
    pub(super) async fn query_primaries(
        &self,
        doing: &str,
        command: &Cmd,
    ) -> Result<Vec<Value>, RedisFailure> {
        let (number, mut link) = self.link().await?;
        let answer = within(doing, ANSWER_DEADLINE, link.query_primaries(command)).await;
        self.check(number, answer).await
    }

    async fn check<T>(&self, number: u64, answer: Result<T, RedisFailure>) -> Result<T, RedisFailure> {
        if answer.as_ref().is_err_and(RedisFailure::needs_reconnect) {
            self.forget(number).await;
        }
        answer
    }
}

/// How long to wait after so many failures in a row: at least half of the growing pause, the rest by chance, so that not
/// all come back at once.
pub(super) fn back_off(failures: u32) -> Duration {
    let doubled = BACK_OFF_FIRST.saturating_mul(2_u32.saturating_pow(failures));
    let pause = doubled.min(BACK_OFF_MAX);
    let chance = u32::try_from(SystemEntropy::new().bits() % 1024).unwrap_or(0);
    pause / 2 + pause / 2 * chance / 1024
}

/// An error and its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        for failures in [0, 1, 5, 40, u32::MAX] {
            let full = BACK_OFF_FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(BACK_OFF_MAX);
            let pause = back_off(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
        let pauses: std::collections::BTreeSet<_> = (0..20).map(|_| back_off(10)).collect();
        assert!(pauses.len() > 1);
    }
}
