//! `flowmonkey demo`: audits the packages that this program is built from, and writes a report.
//!
//! Nothing here is staged: the flow is `examples/audit/flow.yaml`, the engine is the embedded one with its record on disk,
//! and every number of the report is counted in the sources.

mod cargo_manifest;
mod licence;
mod package_audit;
mod packages;
mod page;
mod report;
mod rust_source;
mod summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowmonkey_core::execution::command::Command;
use flowmonkey_core::execution::state::CancelSource;
use flowmonkey_core::execution::{Execution, Status};
use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::parse::{Format, parse_document};
use flowmonkey_engine::CommandError;
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::start::{Start, StartFlow};
use flowmonkey_handlers::HttpPolicy;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Failure, Handler, Registry, Task};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::args::{CheckpointArgs, DemoArgs, Durability, HandlerArgs};
use crate::commands::tell;
use crate::embedded::data_dir::{DataDir, Ownership, owned};
use crate::embedded::{ANY_PORT, Embedded, Options, handlers};
use crate::errors::{CliError, Exit};
use crate::output::Output;
use crate::panics::Contained;
use crate::tree::Tree;

/// The flow of the audit.
const FLOW: &str = include_str!("../../../examples/audit/flow.yaml");
/// The source tree that this program was built from.
const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// How long handlers may take to end once the execution has ended.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) async fn demo(args: DemoArgs, output: Output) -> Result<Exit, CliError> {
    let flow = flow()?;
    let input =
        json!({ "project": project(args.project.as_deref())?, "reportDirectory": absolute(&args.report)? });
    let made = tempfile::Builder::new().prefix("flowmonkey-demo-").tempdir();
    let record = made.map_err(CliError::io("cannot make a temporary directory"))?;
    let dir = match DataDir::take(record.path())? {
        Ownership::Ours(dir) => dir,
        Ownership::Theirs(owner) => return Err(owned(record.path(), &owner, "try again")),
    };
    let options = Options {
        durability: Durability::Full,
        listen: ANY_PORT,
        public_url: None,
        allowed_hosts: Vec::new(),
        webhook_policy: HttpPolicy::default(),
        moves: true,
        registry: Some(registry(args.concurrency)?),
        concurrency: args.concurrency,
        checkpoints: CheckpointArgs::default(),
        unknown_handler: UnknownHandler::Fail,
    };
    let mut embedded = Embedded::open(dir, options).await?;
    embedded.serve()?;
    let tree = Tree::new(&embedded.engine, &flow);
    let started = Instant::now();
    let ended =
        walk(&embedded, Start::new(StartFlow::Inline { flow, bundle: Vec::new() }, input), &tree).await;
    let elapsed = started.elapsed();
    tree.end().await;
    embedded.close(GRACE).await;
    let execution = ended?;
    if execution.status() != Status::Completed {
        let reason = execution.error().map_or_else(
            || execution.status().as_str().to_owned(),
            |error| format!("{} [{}]", error.message, error.code),
        );
        tell(&format!("the audit did not complete: {reason}"));
        tell(&format!("the record is kept in {}", record.keep().display()));
        return Ok(Exit::Failed);
    }
    let summary = summary::Summary::new(&execution, elapsed)?;
    output.print(&json!(summary), |_| summary.text())?;
    Ok(Exit::Done)
}

fn flow() -> Result<Arc<Flow>, CliError> {
    let document = parse_document(FLOW, Format::Yaml);
    let document =
        document.map_err(|issues| CliError::Usage(format!("the flow of the demo is invalid: {issues:?}")))?;
    let flow = document.flows.into_iter().next();
    flow.ok_or_else(|| CliError::Usage("the flow of the demo is missing".into()))
}

/// The project to audit: the given one, else the source tree of this program, else where we are.
fn project(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let built_from = Path::new(BUILT_FROM);
    let project = match given {
        Some(given) => given,
        None if built_from.join("Cargo.toml").is_file() => built_from,
        None => Path::new("."),
    };
    let project = project.canonicalize();
    project.map_err(|error| CliError::Usage(format!("the project to audit cannot be found: {error}")))
}

fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(CliError::io(format!("{}: not a path", path.display())))
}

/// The stock handlers, and those of the audit.
fn registry(concurrency: Option<u32>) -> Result<Registry, CliError> {
    let stock = HandlerArgs {
        manifests: Vec::new(),
        concurrency,
        allow_net: Vec::new(),
        files: Vec::new(),
        allow_command: Vec::new(),
        smtp: None,
        ca_files: Vec::new(),
    };
    let mut registry = handlers::registry(&stock)?;
    let ours: [Arc<dyn Handler>; 3] = [
        Arc::new(packages::CargoPackages::default()),
        Arc::new(package_audit::PackageAudit::default()),
        Arc::new(report::AuditReport::default()),
    ];
    for handler in ours {
        let registered = registry.register(Arc::new(Contained(handler)));
        registered.map_err(|error| CliError::Usage(error.to_string()))?;
    }
    Ok(registry)
}

/// Starts the audit and waits for its end. The first Ctrl-C cancels it.
async fn walk(embedded: &Embedded, start: Start, tree: &Tree) -> Result<Arc<Execution>, CliError> {
    let engine = &embedded.engine;
    let id = engine.start(start).await?.id;
    tree.root(id);
    let mut end = engine.watchers.end_of(id);
    let execution = engine.execution(id).await?;
    if execution.is_terminal() {
        return Ok(Arc::new(execution));
    }
    let interrupted = tokio::select! {
        ended = &mut end => ended.is_err(),
        _ = tokio::signal::ctrl_c() => true,
    };
    if interrupted {
        tell("cancelling");
        let cancel = Command::Cancel { source: CancelSource::User, reason: Some("interrupted".into()) };
        match engine.command(id, cancel).await {
            // It has ended meanwhile.
            Ok(_) | Err(CommandError::Rejected(_)) => {}
            Err(error @ CommandError::Engine(_)) => return Err(error.into()),
        }
        // An error means that nobody will tell any more; the record says what there is to say.
        drop(end.await);
    }
    Ok(Arc::new(engine.execution(id).await?))
}

/// The manifest of a handler of the demo.
fn manifest(handler_type: &str, description: &str) -> Manifest {
    Manifest {
        handler_type: handler_type.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        description: Some(description.into()),
        ..Manifest::default()
    }
}

/// The task's input as a type.
fn input<T: DeserializeOwned>(task: &Task) -> Result<T, Failure> {
    T::deserialize(task.input())
        .map_err(|error| Failure::terminal("INVALID_INPUT", format!("the input is wrong: {error}")))
}

/// The step's configuration as a type.
fn config<T: DeserializeOwned>(task: &Task) -> Result<T, Failure> {
    T::deserialize(task.config())
        .map_err(|error| Failure::terminal("BAD_CONFIG", format!("config is wrong: {error}")))
}
