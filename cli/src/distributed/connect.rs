//! Connections of a process: to the record and to the queues, with the checks that come before the first use.

use std::time::Duration;

use flowmonkey_engine::store::{PostgresOptions, PostgresSession, PostgresStore};
use flowmonkey_plumbing::queue::QueueError;
use flowmonkey_plumbing::queue::redis::{Finding, RedisFailure, RedisOptions, RedisQueue, Severity};
use tokio::time::Instant;

use crate::args::{DatabaseArgs, Pooler, RedisArgs, RedisSettings};
use crate::errors::{CliError, chain};

/// How long Redis is tried again at the start.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between tries.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// The options of the record, from the command line.
pub(crate) fn database_options(args: &DatabaseArgs) -> PostgresOptions {
    let session = match args.pooler {
        Pooler::None => PostgresSession::Own,
        Pooler::Transaction => PostgresSession::Pooled,
        Pooler::TransactionUnnamed => PostgresSession::PooledUnnamed,
    };
    PostgresOptions { session, migrate: !args.no_migrate, ..PostgresOptions::new(args.database.clone()) }
}

/// Opens the record.
///
/// # Errors
/// When it cannot be reached or is not for this program.
pub(crate) async fn database(args: &DatabaseArgs) -> Result<PostgresStore, CliError> {
    let options = database_options(args);
    check_url(&options)?;
    Ok(PostgresStore::connect(options).await?)
}

/// Refuses a URL that is none of a database, before anything is tried.
///
/// # Errors
/// Names what is wrong with it.
pub(crate) fn check_url(options: &PostgresOptions) -> Result<(), CliError> {
    options.check().map_err(|error| CliError::Usage(error.to_string()))
}

/// The options of the queues, from the command line.
pub(crate) fn redis_options(args: &RedisArgs) -> RedisOptions {
    queue_options(args.redis.clone(), &args.settings)
}

/// The options of the queues at `url`.
pub(crate) fn queue_options(url: String, settings: &RedisSettings) -> RedisOptions {
    RedisOptions {
        prefix: settings.redis_prefix.clone(),
        tls_ca_file: settings.redis_ca_file.clone(),
        tls_certificate_file: settings.redis_certificate_file.clone(),
        tls_key_file: settings.redis_key_file.clone(),
        allow_eviction: settings.redis_allow_eviction,
        ..RedisOptions::new(url)
    }
}

/// Connects to the queues, as the engine of this name if there is one; tries again for a while, as servers that start together
/// do not start at once.
///
/// # Errors
/// At once when the options cannot be used or the user is refused; later when Redis stays unreachable.
pub(crate) async fn redis(args: &RedisArgs, engine: Option<&str>) -> Result<RedisQueue, CliError> {
    let options = RedisOptions { engine: engine.map(str::to_owned), ..redis_options(args) };
    let made = || RedisQueue::new(options.clone()).map_err(|error| CliError::Usage(error.to_string()));
    let mut queue = made()?;
    check_certificates(&args.settings)?;
    let give_up_at = Instant::now() + PATIENCE;
    let mut told = String::new();
    loop {
        match queue.reach().await {
            Ok(()) => return Ok(queue),
            Err(QueueError::Unavailable(source)) if lasts(&*source) => {
                return Err(CliError::Usage(format!("Redis does not let this user in: {}", chain(&*source))));
            }
            Err(error) if Instant::now() >= give_up_at => return Err(error.into()),
            Err(error) => {
                let reason = chain(&error);
                if told != reason {
                    tracing::warn!("Redis is not there yet; trying again for {PATIENCE:?}: {reason}");
                    told = reason;
                }
                tokio::time::sleep(TRY_EVERY).await;
                // A new one each time: one that has failed rests before it tries again.
                queue = made()?;
            }
        }
    }
}

/// Looks whether the files of certificates hold some: with none of them, nobody could be trusted.
fn check_certificates(settings: &RedisSettings) -> Result<(), CliError> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    for path in settings.redis_ca_file.iter().chain(&settings.redis_certificate_file) {
        let bytes = std::fs::read(path)
            .map_err(|error| CliError::Usage(format!("{} cannot be read: {error}", path.display())))?;
        if !bytes.windows(BEGIN.len()).any(|part| part == BEGIN) {
            return Err(CliError::Usage(format!("{} holds no certificate in PEM", path.display())));
        }
    }
    Ok(())
}

/// Whether trying again is no use.
fn lasts(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<RedisFailure>().is_some_and(RedisFailure::lasts)
}

/// Looks whether Redis is set up as engines need it.
///
/// # Errors
/// Names what must be changed first.
pub(crate) async fn check_redis(queue: &RedisQueue) -> Result<(), CliError> {
    let findings = queue.check().await?;
    let mut refused = Vec::new();
    for finding in &findings {
        match finding.severity {
            Severity::Refuse => refused.push(line(finding)),
            Severity::Warning => tracing::warn!("{}", line(finding)),
            Severity::Info => tracing::info!("{}", line(finding)),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(CliError::Usage(refused.join("\n"))) }
}

/// A finding for people.
pub(crate) fn line(finding: &Finding) -> String {
    format!("{} [{}]; {}", finding.reason, finding.code, finding.cure)
}
