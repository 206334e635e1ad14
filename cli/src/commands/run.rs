//! `flowmonkey run`: one flow from start to end, in this process or on a server.

mod server;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::execution::{Execution, Status};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::CommandError;
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::start::{Start, StartFlow, Started};
use flowmonkey_engine::store::ExecutionFilter;
use flowmonkey_engine::view;
use flowmonkey_handlers::HttpPolicy;
use serde_json::Value;

use super::tell;
use crate::args::RunArgs;
use crate::embedded::data_dir::{DataDir, Ownership, address_of, owned};
use crate::embedded::rest::Next;
use crate::embedded::{ANY_PORT, Embedded, Options, handlers};
use crate::errors::{CliError, Exit};
use crate::settings::Settings;
use crate::signals::Signals;
use crate::tree::Tree;
use crate::{show, source};

/// How often it is looked whether anything moves.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The same in virtual time, where each look may move it.
const SKIP_EVERY: Duration = Duration::from_millis(2);
/// How long handlers may take to end once the execution has ended.
const GRACE: Duration = Duration::from_secs(1);
/// How long a run that shows no tree may go on without a word.
const QUIET_MAX: Duration = Duration::from_secs(2);
/// Executions that are read at a time.
const PAGE: usize = 1000;

pub(crate) async fn run(args: RunArgs, settings: &Settings) -> Result<Exit, CliError> {
    if args.file == "-" && args.input.as_deref() == Some("-") {
        return Err(CliError::Usage("standard input can be the flow or the input, not both".into()));
    }
    let client = settings.client()?;
    if args.fallback.is_some() && client.is_none() {
        return Err(CliError::Usage(
            "--fallback is of use with --server only: without, the flow runs here".into(),
        ));
    }
    let mut interrupts = Signals::listen()?;
    let job = Job { args: &args, settings };
    match client {
        Some(client) => server::run(&job, &client, &mut interrupts).await,
        None => {
            let wanted = Wanted::read(&args)?;
            here(&job, wanted, &mut interrupts).await
        }
    }
}

/// What the command line asks for.
struct Job<'a> {
    args: &'a RunArgs,
    settings: &'a Settings,
}

/// What is to run.
struct Wanted {
    flow: Arc<Flow>,
    /// The others of the file.
    bundle: Vec<Arc<Flow>>,
    input: Value,
    /// The execution's id, if it has one already.
    id: Option<ExecutionId>,
    key: Option<String>,
}

impl Wanted {
    fn read(args: &RunArgs) -> Result<Self, CliError> {
        let (flow, bundle) = flow_of(args)?;
        let input = source::read_input(args.input.as_deref())?;
        Ok(Self { flow, bundle, input, id: None, key: args.idempotency_key.clone() })
    }
}

/// The flow of the file, and the others of the file.
fn flow_of(args: &RunArgs) -> Result<(Arc<Flow>, Vec<Arc<Flow>>), CliError> {
    let document = source::read_document(&args.file)?;
    for line in source::lines(&args.file, &document.warnings) {
        tell(&line);
    }
    source::choose(&args.file, document.flows, args.flow.as_deref())
}

/// Where the record of a run is.
enum Place {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(dir) => dir.path(),
        }
    }

    /// Removes a temporary directory, unless somebody may want to look at it.
    fn end(self, keep: bool) {
        match self {
            Self::Given(_) => {}
            Self::Temporary(dir) if keep => {
                let path = dir.keep();
                tell(&format!("the record is kept in {}", path.display()));
            }
            Self::Temporary(dir) => {
                let path = dir.path().to_owned();
                if let Err(error) = dir.close() {
                    tell(&format!("{} cannot be removed: {error}", path.display()));
                }
            }
        }
    }
}

async fn here(job: &Job<'_>, wanted: Wanted, interrupts: &mut Signals) -> Result<Exit, CliError> {
    let Job { args, settings } = job;
    let Wanted { flow, bundle, input, id, key } = wanted;
    let registry = handlers::registry(&args.handlers)?;
    let place = match &args.data_dir {
        Some(path) => Place::Given(path.clone()),
        None => {
            let made = tempfile::Builder::new().prefix("flowmonkey-").tempdir();
            Place::Temporary(made.map_err(CliError::io("cannot make a temporary directory"))?)
        }
    };
    let dir = match DataDir::take(place.path())? {
        Ownership::Ours(dir) => dir,
        Ownership::Theirs(owner) => {
            let url = address_of(place.path(), &owner).unwrap_or_else(|| "URL".into());
            let advice = format!("start the flow there with --server {url}, or run it elsewhere");
            return Err(owned(place.path(), &owner, &advice));
        }
    };
    let options = Options {
        durability: args.durability,
        listen: ANY_PORT,
        public_url: None,
        allowed_hosts: Vec::new(),
        webhook_policy: HttpPolicy::default(),
        moves: true,
        registry: Some(registry),
        concurrency: args.handlers.concurrency,
        checkpoints: args.checkpoints,
        unknown_handler: UnknownHandler::Fail,
    };
    let mut embedded = Embedded::open(dir, options).await?;
    embedded.serve()?;
    let tree = Tree::new(&embedded.engine, &flow);
    let flow = StartFlow::Inline { flow, bundle };
    let start = Start { id, idempotency_key: key, ..Start::new(flow, input) };
    let started = embedded.engine.start(start).await.map_err(CliError::from);
    // What was refused has left nothing that somebody may want to look at.
    let is_refused = started.as_ref().is_err_and(CliError::is_usage);
    let ended = match started {
        Ok(started) => walk(args, &embedded, place.path(), started, &tree, interrupts).await,
        Err(error) => Err(error),
    };
    tree.end().await;
    let result = match ended {
        Ok(Ended::Exit(exit)) => Ok((exit, None)),
        Ok(Ended::At(execution, waits)) => {
            let history = embedded.engine.whole_history(execution.id()).await?;
            Ok((exit_of(execution.status(), waits), Some(view::execution(&execution, Some(&history)))))
        }
        Err(error) => Err(error),
    };
    embedded.close(GRACE).await;
    let keep = !is_refused && !matches!(result, Ok((Exit::Done, _)));
    if let Ok((_, Some(record))) = &result {
        settings.output.print(record, show::record)?;
        if keep {
            advise(record, place.path());
        }
    }
    place.end(keep);
    result.map(|(exit, _)| exit)
}

/// How a walk ended.
enum Ended {
    /// The execution as it is; true: only somebody else can move it.
    At(Arc<Execution>, bool),
    /// Without a result.
    Exit(Exit),
}

async fn walk(
    args: &RunArgs,
    embedded: &Embedded,
    data_dir: &Path,
    started: Started,
    tree: &Tree,
    interrupts: &mut Signals,
) -> Result<Ended, CliError> {
    let engine = &embedded.engine;
    let id = started.id;
    if !started.created {
        tell_existing(&id.to_string(), started.input_differs);
    }
    tree.root(id);
    let asks = std::io::stdin().is_terminal();
    let every = if args.skip_time { SKIP_EVERY } else { LOOK_EVERY };
    let mut end = engine.watchers.end_of(id);
    let mut is_cancelling = false;
    let mut has_told = false;
    let mut quiet_until = (!std::io::stderr().is_terminal()).then(|| Instant::now() + QUIET_MAX);
    let root = loop {
        let execution = engine.execution(id).await?;
        if execution.is_terminal() {
            break Arc::new(execution);
        }
        if quiet_until.is_some_and(|until| Instant::now() >= until) {
            quiet_until = None;
            tell(&format!(
                "{id} goes on; see: flowmonkey execution explain {id} --data-dir {}",
                data_dir.display()
            ));
        }
        let next = if args.skip_time { embedded.skip().await? } else { embedded.next().await? };
        if next == Next::Never {
            let execution = engine.execution(id).await?;
            if execution.is_terminal() {
                break Arc::new(execution);
            }
            if !asks {
                return Ok(Ended::At(Arc::new(execution), true));
            }
            if !has_told {
                has_told = true;
                tell(&format!(
                    "only a signal or a person can move it now; see: flowmonkey execution explain {id} --server {}",
                    embedded.url
                ));
            }
        }
        tokio::select! {
            _ = &mut end => end = engine.watchers.end_of(id),
            () = tokio::time::sleep(every) => {}
            () = interrupts.next() => {
                if is_cancelling {
                    return Ok(Ended::Exit(Exit::Interrupted));
                }
                is_cancelling = true;
                tell("cancelling; once more to leave at once");
                let cancel = Command::Cancel { source: CancelSource::User, reason: Some("interrupted".into()) };
                match engine.command(id, cancel).await {
                    // It has ended, or is on its way to its end.
                    Ok(_) | Err(CommandError::Rejected(_)) => {}
                    Err(error @ CommandError::Engine(_)) => return Err(error.into()),
                }
            }
        }
    };
    // Children that were left to themselves belong to the run all the same.
    while has_live_descendants(embedded, id).await? {
        let next = if args.skip_time { embedded.skip().await? } else { embedded.next().await? };
        if next == Next::Never {
            tell("children that were left to themselves wait for a signal; they are not waited for");
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = interrupts.next() => return Ok(Ended::Exit(Exit::Interrupted)),
        }
    }
    Ok(Ended::At(root, false))
}

/// Whether anything of the tree below `root` has not ended.
async fn has_live_descendants(embedded: &Embedded, root: ExecutionId) -> Result<bool, CliError> {
    let store = embedded.engine.store();
    let statuses = Status::ALL.into_iter().filter(|status| !status.is_terminal()).collect();
    let mut filter =
        ExecutionFilter { statuses, include_children: true, max: PAGE, ..ExecutionFilter::default() };
    loop {
        let page = store.list(&filter).await?;
        let ids: Vec<ExecutionId> = page.items.iter().map(|item| item.id).collect();
        let live = store.load(&ids).await?;
        if live.iter().any(|execution| execution.identity.root == root && !execution.is_terminal()) {
            return Ok(true);
        }
        let Some(next) = page.next else { return Ok(false) };
        filter.before = Some(next);
    }
}

pub(super) const fn exit_of(status: Status, waits: bool) -> Exit {
    match status {
        Status::Completed => Exit::Done,
        Status::Failed | Status::Cancelled => Exit::Failed,
        Status::Pending
        | Status::WaitingForWorker
        | Status::Waiting
        | Status::Paused
        | Status::Incident
        | Status::Cancelling
        | Status::Compensating => {
            if waits {
                Exit::Waits
            } else {
                Exit::Failed
            }
        }
    }
}

/// What can be done about an execution that did not complete.
fn advise(record: &Value, data_dir: &Path) {
    let id = record["id"].as_str().unwrap_or_default();
    let dir = data_dir.display();
    if let Some(reason) = record["waitingReason"].as_str() {
        tell(&format!("it waits for: {reason}"));
        tell(&format!("  flowmonkey execution explain {id} --data-dir {dir}"));
        tell(&format!("  flowmonkey dev --data-dir {dir}"));
    }
}

/// Says that a key named an execution that was there.
fn tell_existing(id: &str, input_differs: bool) {
    let more = if input_differs { ", which was started with ANOTHER input" } else { "" };
    tell(&format!("the idempotency key names {id}{more}; nothing is started"));
}
