//! `flowmonkey dev`: an engine that stays, with worker and HTTP API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flowmonkey_core::flow::Flow;
use flowmonkey_core::flow::definition::StepKind;
use flowmonkey_core::limits::FLOW_DOCUMENT_BYTES_MAX;
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_engine::store::{PublishOutcome, TableDefinition};
use flowmonkey_worker::Registry;

use super::tell;
use crate::args::DevArgs;
use crate::embedded::data_dir::{DataDir, Ownership, owned};
use crate::embedded::{Embedded, Options, handlers};
use crate::errors::{CliError, Exit};
use crate::signals::Signals;
use crate::source;

/// How often it is looked whether flow files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long running handlers may take to end.
const GRACE: Duration = Duration::from_secs(20);

pub(crate) async fn dev(args: DevArgs) -> Result<Exit, CliError> {
    args.api.check(false)?;
    let mut signals = Signals::listen()?;
    let registry = handlers::registry(&args.handlers)?;
    let dir = match DataDir::take(&args.data_dir)? {
        Ownership::Ours(dir) => dir,
        Ownership::Theirs(owner) => {
            return Err(owned(
                &args.data_dir,
                &owner,
                "one process at a time; use that one, or another --data-dir",
            ));
        }
    };
    let options = Options {
        durability: args.durability,
        listen: args.api.listen,
        public_url: args.api.public_url.clone(),
        allowed_hosts: args.api.hosts(),
        webhook_policy: handlers::webhook_policy(&args.api.webhook_allow)?,
        moves: true,
        registry: Some(registry.clone()),
        concurrency: args.handlers.concurrency,
        checkpoints: args.checkpoints,
        unknown_handler: UnknownHandler::Wait,
    };
    let mut embedded = Embedded::open(dir, options).await?;
    let mut files = FlowFiles { seen: BTreeMap::new() };
    if let Some(folder) = &args.flows {
        files.publish_changes(&embedded, &registry, folder).await;
    }
    // Whoever is answered finds the flows published.
    embedded.serve()?;
    banner(&args, &embedded, &registry);
    loop {
        tokio::select! {
            () = signals.next() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {
                if let Some(folder) = &args.flows {
                    files.publish_changes(&embedded, &registry, folder).await;
                }
            }
        }
    }
    tell("stopping: running handlers may end; once more to leave at once");
    tokio::select! {
        () = embedded.close(GRACE) => Ok(Exit::Done),
        () = signals.next() => Ok(Exit::Interrupted),
    }
}

fn banner(args: &DevArgs, embedded: &Embedded, registry: &Registry) {
    let dir = args.data_dir.display();
    let url = &embedded.url;
    let types: Vec<&str> = registry.manifests().map(|manifest| manifest.handler_type.as_str()).collect();
    tell(&format!(
        "flowmonkey {version} listens on http://{address}\n  record    {dir}\n  handlers  {types}\n\n\
         Next:\n  flowmonkey run FLOW --server {url}\n  flowmonkey execution list --data-dir {dir}\n  \
         curl {url}/v1/executions",
        version = env!("CARGO_PKG_VERSION"),
        address = embedded.address,
        types = types.join(", "),
    ));
}

/// Flow files and the times of their last change that were seen.
struct FlowFiles {
    seen: BTreeMap<PathBuf, (SystemTime, u64)>,
}

impl FlowFiles {
    /// Publishes every file that is new or has changed. What is wrong with one does not keep the others back.
    async fn publish_changes(&mut self, embedded: &Embedded, registry: &Registry, folder: &Path) {
        let found = match source::flow_files(folder) {
            Ok(found) => found,
            Err(error) => {
                if self.seen.insert(folder.to_owned(), (SystemTime::UNIX_EPOCH, 0)).is_none() {
                    tracing::warn!(folder = %folder.display(), %error, "the flows directory cannot be read");
                }
                return;
            }
        };
        self.seen.retain(|path, _| found.contains_key(path));
        for (path, stamp) in found {
            if self.seen.insert(path.clone(), stamp) != Some(stamp) {
                publish_file(embedded, registry, &path).await;
            }
        }
    }
}

async fn publish_file(embedded: &Embedded, registry: &Registry, path: &Path) {
    let name = path.to_string_lossy();
    let text = match source::read_text(&name, FLOW_DOCUMENT_BYTES_MAX) {
        Ok(text) => text,
        Err(error) => return tell(&error.to_string()),
    };
    let document = match source::check_text(&name, &text) {
        Ok(document) => document,
        Err(issues) => return tell(&source::lines(&name, &issues).join("\n")),
    };
    for line in source::lines(&name, &document.warnings) {
        tell(&line);
    }
    for table in &document.tables {
        define_table(embedded, &name, table).await;
    }
    for flow in &document.flows {
        let shown = format!("{}@{}", flow.id, flow.version);
        match embedded.engine.publish(flow).await {
            Ok(PublishOutcome::Created) => {
                tell(&format!("published {shown} ({name})"));
                warn_of_unknown_handlers(flow, registry);
            }
            Ok(PublishOutcome::Unchanged) => tracing::debug!(flow = shown, "published before"),
            Ok(PublishOutcome::Conflict { .. }) => {
                tell(&format!("{name}: {shown} is published with other content; raise its version"));
            }
            Err(error) => tell(&format!("{name}: {shown} is not published: {error}")),
        }
    }
}

async fn define_table(embedded: &Embedded, name: &str, table: &serde_json::Value) {
    match serde_json::from_value::<TableDefinition>(table.clone()) {
        Ok(table) => {
            let engine = &embedded.engine;
            if let Err(error) = engine.store().define_table(&table, engine.now()).await {
                tell(&format!("{name}: table {} is not defined: {error}", table.id));
            }
        }
        Err(error) => tell(&format!("{name}: a table cannot be understood: {error}")),
    }
}

fn warn_of_unknown_handlers(flow: &Flow, registry: &Registry) {
    let mut unknown = Vec::new();
    flow.graph.each_step(&mut |step| {
        if matches!(step.kind, StepKind::Task(_)) && registry.get(&step.type_name).is_none() {
            unknown.push(step.type_name.to_string());
        }
    });
    unknown.sort_unstable();
    unknown.dedup();
    for handler in unknown {
        tell(&format!("flow {}: no handler `{handler}` here; its steps wait for one", flow.id));
    }
}
