//! `flowmonkey worker`.

use std::time::Duration;

use super::tell;
use crate::args::WorkerArgs;
use crate::distributed::worker_process::WorkerProcess;
use crate::errors::{CliError, Exit};
use crate::signals::Signals;

/// Runs a worker until it is told to end.
pub(crate) async fn worker(args: WorkerArgs) -> Result<Exit, CliError> {
    let mut signals = Signals::listen()?;
    let process = tokio::select! {
        started = WorkerProcess::start(&args) => started?,
        () = signals.next() => return Ok(Exit::Interrupted),
    };
    tell(&format!(
        "flowmonkey {version} worker {name}\n  handlers  {handlers}\n  engines   {engines}",
        version = env!("CARGO_PKG_VERSION"),
        name = process.name,
        handlers = process.handler_types.join(", "),
        engines = args.engines.join(", "),
    ));
    tokio::select! {
        () = signals.next() => tell("stopping: running handlers may end; once more to leave at once"),
        () = process.drained() => tell("somebody has asked this worker to drain; it has"),
    }
    tokio::select! {
        report = process.close(Duration::from_millis(args.grace_ms)) => {
            tell(&format!(
                "{} finished, {} stopped and {} given back untouched",
                report.finished, report.stopped, report.released
            ));
            Ok(Exit::Done)
        }
        () = signals.next() => Ok(Exit::Interrupted),
    }
}
