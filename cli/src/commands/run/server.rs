//! A run on a server, and what becomes of it when the server cannot be reached.
//!
//! A request whose answer was lost may have been carried out. So each try has the same idempotency key, and with a fallback
//! also the same execution id: should both the server and this process run the flow, handlers get the same idempotency keys
//! from both, and those that heed them do everything once.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::clock::SystemClock;
use flowmonkey_plumbing::ids::{SystemEntropy, new_uuid};
use serde_json::{Value, json};

use super::{Job, Wanted, exit_of, here, tell_existing};
use crate::args::Fallback;
use crate::client::{Client, Failure, Fate};
use crate::commands::{tell, watch};
use crate::errors::{CliError, Exit};
use crate::signals::Signals;
use crate::tree::RemoteTree;
use crate::{show, source};

/// How long a start may take before it counts as lost, where there is a fallback.
const START_MAX: Duration = Duration::from_secs(15);
/// Pauses between tries to start, where there is a fallback: a server that restarts is back after them.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// Starts the flow on a server and waits for its end; with a fallback, runs it here when the server cannot be reached.
pub(super) async fn run(job: &Job<'_>, client: &Client, interrupts: &mut Signals) -> Result<Exit, CliError> {
    let args = job.args;
    let is_file = args.file == "-" || Path::new(&args.file).exists() || args.file.contains(['/', '.']);
    if args.skip_time {
        return Err(CliError::Usage("--skip-time is of no use with --server".into()));
    }
    let Some(fallback) = args.fallback else {
        if args.data_dir.is_some() {
            return Err(CliError::Usage(
                "--data-dir is of no use with --server, unless there is a --fallback".into(),
            ));
        }
        let mut request = if is_file {
            request(&Wanted::read(args)?)
        } else {
            json!({ "flowId": args.file, "input": source::read_input(args.input.as_deref())? })
        };
        if let Some(key) = &args.idempotency_key {
            request["idempotencyKey"] = json!(key);
        }
        let started = client.post("/v1/executions", &request).await?;
        return follow(job, client, &started, interrupts).await;
    };
    if !is_file {
        return Err(CliError::Usage(format!(
            "--fallback needs the flow as a file: what `{}` is, only the server knows",
            args.file
        )));
    }
    let mut wanted = Wanted::read(args)?;
    let id = ExecutionId::from_uuid(new_uuid(&SystemClock, &SystemEntropy::new()));
    let key = wanted.key.get_or_insert_with(|| id.to_string()).clone();
    wanted.id = Some(id);
    let request = request(&wanted);
    let started = tokio::select! {
        started = start(client, &request) => started,
        () = interrupts.next() => return Ok(Exit::Interrupted),
    };
    match (started, fallback) {
        (Ok(started), Fallback::Embedded) => follow(job, client, &started, interrupts).await,
        (Err(Failure { error, fate: Fate::Refused }), Fallback::Embedded) => Err(error),
        (Err(Failure { error, fate: Fate::NotSent }), Fallback::Embedded) => {
            tell(&format!(
                "{error}\nit has got nothing of this; running here instead, idempotency key {key}"
            ));
            here(job, wanted, interrupts).await
        }
        (Err(Failure { error, fate: Fate::Unknown }), Fallback::Embedded) => {
            tell(&format!(
                "{error}\nit MAY HAVE STARTED this flow all the same, as {id}: then it runs twice, there and here, and only \
                 handlers that heed idempotency keys (they are the same) do everything once\nrunning here now, idempotency key \
                 {key}; once the server is back:\n  flowmonkey execution show {id} --server {url}\n  flowmonkey execution \
                 cancel {id} --server {url}",
                url = client.base(),
            ));
            here(job, wanted, interrupts).await
        }
    }
}

/// What a server is asked to start.
fn request(Wanted { flow, bundle, input, id, key }: &Wanted) -> Value {
    let definitions: Vec<&Value> = std::iter::once(flow).chain(bundle).map(|flow| &*flow.source).collect();
    let mut request = json!({
        "flowId": flow.id,
        "version": flow.version.to_string(),
        "definition": definitions,
        "input": input,
    });
    if let Some(id) = id {
        request["executionId"] = json!(id);
    }
    if let Some(key) = key {
        request["idempotencyKey"] = json!(key);
    }
    request
}

/// Tries to start, again and again under the same key. A failure tells what became of all tries together.
async fn start(client: &Client, request: &Value) -> Result<Value, Failure> {
    let mut fate = Fate::NotSent;
    let mut pauses = PAUSES.iter();
    loop {
        let failure = match client.try_post("/v1/executions", request, START_MAX).await {
            Ok(started) => return Ok(started),
            Err(failure) => failure,
        };
        match failure.fate {
            // The server answers: what it says counts, also about what an earlier try may have begun.
            Fate::Refused => return Err(failure),
            Fate::Unknown => fate = Fate::Unknown,
            Fate::NotSent => {}
        }
        let Some(pause) = pauses.next() else { return Err(Failure { fate, ..failure }) };
        tracing::warn!(error = %failure.error, "the server cannot be reached; trying again under the same key");
        tokio::time::sleep(*pause).await;
    }
}

/// Waits for the end of what was started, and prints the record; a person sees meanwhile what it does.
async fn follow(
    job: &Job<'_>,
    client: &Client,
    started: &Value,
    interrupts: &mut Signals,
) -> Result<Exit, CliError> {
    let id = started["id"].as_str().unwrap_or_default().to_owned();
    if started["created"] == false {
        tell_existing(&id, started["inputDiffers"] == true);
    } else {
        tell(&format!("started {id}"));
    }
    let drawn = id.parse().ok().filter(|_| std::io::stderr().is_terminal());
    let ended = match drawn {
        Some(execution) => {
            let title = job.args.flow.as_ref().unwrap_or(&job.args.file);
            let mut tree = RemoteTree::new(execution, title.clone());
            let ended = tokio::select! {
                ended = wait_for_end(client, id, interrupts) => ended,
                never = watch::draw(client, execution, &mut tree) => match never {},
            };
            tree.end();
            ended
        }
        None => wait_for_end(client, id, interrupts).await,
    };
    Ok(match ended? {
        Some((record, exit)) => {
            job.settings.output.print(&record, show::record)?;
            exit
        }
        None => Exit::Interrupted,
    })
}

/// Waits for the end of an execution, or until only somebody else can move it: the record, and what it means; none: the
/// user insists on leaving.
async fn wait_for_end(
    client: &Client,
    id: String,
    interrupts: &mut Signals,
) -> Result<Option<(Value, Exit)>, CliError> {
    let path = format!("/v1/executions/{id}");
    let asks = std::io::stdin().is_terminal();
    let mut is_cancelling = false;
    loop {
        let wait = format!("{path}?wait=2");
        let record = tokio::select! {
            record = client.get(&wait) => record.map_err(|error| gone(client, &id, error))?,
            () = interrupts.next() => {
                if is_cancelling {
                    return Ok(None);
                }
                is_cancelling = true;
                tell("cancelling; once more to leave at once");
                match client.post(&format!("{path}:cancel"), &json!({ "reason": "interrupted" })).await {
                    Ok(_) | Err(CliError::Refused { status: 409, .. }) => continue,
                    Err(error) => return Err(gone(client, &id, error)),
                }
            }
        };
        let status = record["status"].as_str().and_then(Status::parse);
        let has_ended = status.is_some_and(Status::is_terminal);
        if has_ended
            || (!asks && only_others_move(client, &path).await.map_err(|error| gone(client, &id, error))?)
        {
            let exit = exit_of(status.unwrap_or(Status::Failed), !has_ended);
            return Ok(Some((record, exit)));
        }
    }
}

/// What a server that went away means for an execution that it has started.
fn gone(client: &Client, id: &str, error: CliError) -> CliError {
    let CliError::Unreachable(reason) = error else { return error };
    let url = client.base();
    CliError::Unreachable(format!(
        "{reason}\n{id} is not lost: it goes on there, at the latest when the server is back; look with\n  flowmonkey \
         execution show {id} --server {url}"
    ))
}

/// Whether the server says that only somebody else can move the execution.
async fn only_others_move(client: &Client, path: &str) -> Result<bool, CliError> {
    let why = client.get(&format!("{path}:explain")).await?;
    let kind = why["liveCause"]["kind"].as_str().unwrap_or_default();
    let by_others = ["signal", "event", "approval", "resume", "incident", "paused"].contains(&kind);
    Ok(by_others && why["nextWakeAt"].is_null())
}
