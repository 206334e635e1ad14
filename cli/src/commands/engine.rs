//! `flowmonkey engine` and `flowmonkey migrate`.

use std::time::Duration;

use super::tell;
use crate::args::{DatabaseArgs, EngineArgs, MigrateArgs};
use crate::distributed::connect;
use crate::distributed::engine_process::EngineProcess;
use crate::errors::{CliError, Exit};
use crate::listen::local_url;
use crate::signals::Signals;

/// Runs an engine until it is told to end.
pub(crate) async fn engine(args: EngineArgs) -> Result<Exit, CliError> {
    let mut signals = Signals::listen()?;
    let keys_required = !args.api.insecure_no_auth;
    args.api.check(keys_required)?;
    if args.heartbeat_ms.saturating_mul(3) > args.lease_ms {
        return Err(CliError::Usage(format!(
            "--lease-ms {} is shorter than three heartbeats of {} ms: two in a row may get lost",
            args.lease_ms, args.heartbeat_ms
        )));
    }
    let process = tokio::select! {
        started = EngineProcess::start(&args) => started?,
        () = signals.next() => return Ok(Exit::Interrupted),
    };
    let in_process = match process.in_process.as_slice() {
        [] => "none".to_owned(),
        some => some.join(", "),
    };
    let public = args.api.public_url.as_ref();
    let known_as = public.map_or_else(String::new, |url| format!("  public URL  {url}\n"));
    tell(&format!(
        "flowmonkey {version} engine {name} listens on http://{address}\n{known_as}  in process  {in_process}\n\n\
         Next:\n  flowmonkey worker --engine {url}\n  flowmonkey run FLOW --server {url}",
        version = env!("CARGO_PKG_VERSION"),
        name = process.engine.config().engine_id,
        address = process.address,
        url = public.unwrap_or(&local_url(process.address)),
    ));
    if !keys_required {
        tracing::warn!("nobody is asked for a key: everybody who reaches the HTTP API may do everything");
    }
    signals.next().await;
    tell("stopping: what was begun is finished; once more to leave at once");
    tokio::select! {
        () = process.close(Duration::from_millis(args.grace_ms)) => Ok(Exit::Done),
        () = signals.next() => Ok(Exit::Interrupted),
    }
}

/// Brings the record's schema up to date.
pub(crate) async fn migrate(args: MigrateArgs) -> Result<Exit, CliError> {
    let MigrateArgs { database, pooler } = args;
    let options = connect::database_options(&DatabaseArgs { database, pooler, no_migrate: false });
    connect::check_url(&options)?;
    let version = flowmonkey_engine::store::PostgresStore::migrate(&options).await?;
    // Makes the partitions of history.
    flowmonkey_engine::store::PostgresStore::connect(options).await?.close().await;
    tell(&format!("the schema is at version {version}"));
    Ok(Exit::Done)
}
