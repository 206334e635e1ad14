//! `flowmonkey execution watch`: what happens in an execution, as it happens, to its end.

mod follower;
mod words;

use std::convert::Infallible;
use std::io::IsTerminal;

use flowmonkey_core::execution::Status;
use flowmonkey_core::ids::ExecutionId;
use serde_json::{Value, json};

use super::place::{Access, Asking};
use super::run::exit_of;
use super::tell;
use crate::client::Client;
use crate::errors::{CliError, Exit};
use crate::output::{Output, write};
use crate::show;
use crate::signals::Signals;
use crate::tree::RemoteTree;
use follower::Follower;

/// What is watched.
pub(super) struct Asked {
    pub(super) id: ExecutionId,
    /// Lines of what it started, too.
    pub(super) children: bool,
}

pub(super) async fn watch(asked: &Asked, asking: &Asking<'_>) -> Result<Exit, CliError> {
    let mut signals = Signals::listen()?;
    let session = asking.open(Access::Look).await?;
    // Where nobody works on the record, nothing will happen.
    let is_idle = session.is_opened_here();
    let watched = tokio::select! {
        watched = follow(asked, &session.client, asking.settings.output, is_idle) => watched,
        () = signals.next() => Ok(Exit::Interrupted),
    };
    session.close(asking.place).await?;
    if matches!(watched, Ok(Exit::Interrupted)) {
        tell(&format!("{} goes on", asked.id));
    }
    watched
}

/// Where what happens is shown.
enum View {
    Tree(Box<RemoteTree>),
    Lines(Output),
}

impl View {
    /// Shows a message; false: nobody reads any more.
    fn show(&mut self, message: &Value) -> Result<bool, CliError> {
        match self {
            Self::Tree(tree) => {
                tree.draw(message);
                Ok(true)
            }
            Self::Lines(output) => write(&output.one(message, words::line)),
        }
    }

    fn end(self) {
        match self {
            Self::Tree(tree) => tree.end(),
            Self::Lines(_) => {}
        }
    }
}

async fn follow(asked: &Asked, client: &Client, output: Output, is_idle: bool) -> Result<Exit, CliError> {
    let path = format!("/v1/executions/{}", asked.id);
    let record = client.get(&path).await?;
    let has_terminals = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
    let is_tree = output == Output::Table && has_terminals;
    let mut view = if is_tree {
        let title = format!("{}@{}", show::cell(&record["flowId"]), show::cell(&record["flowVersion"]));
        View::Tree(Box::new(RemoteTree::new(asked.id, title)))
    } else {
        View::Lines(output)
    };
    let mut follower = Follower::new(client, asked.id, is_tree || asked.children);
    let ended = to_the_end(&mut follower, &mut view, is_idle).await;
    view.end();
    if !ended? {
        return Ok(Exit::Done);
    }
    let record = client.get(&path).await?;
    if is_tree {
        output.print(&record, show::record)?;
    }
    let status = record["status"].as_str().and_then(Status::parse).unwrap_or(Status::Failed);
    if !status.is_terminal() {
        tell("nobody works on this record now: this is all that has happened");
    }
    Ok(exit_of(status, true))
}

/// Draws an execution for as long as this is waited for, beside whoever waits for its end. What goes wrong is left to them.
pub(super) async fn draw(client: &Client, id: ExecutionId, tree: &mut RemoteTree) -> Infallible {
    let mut follower = Follower::new(client, id, true);
    loop {
        let drawn = async {
            draw_progress(&mut follower, tree).await?;
            if let Some(message) = follower.next().await? {
                tree.draw(&message);
            }
            Ok::<_, CliError>(())
        };
        if let Err(error) = drawn.await {
            tracing::debug!(%error, "nothing more is drawn");
            return std::future::pending().await;
        }
    }
}

/// Draws progress that was reported before the connection was there: it is not repeated live.
async fn draw_progress(follower: &mut Follower<'_>, tree: &mut RemoteTree) -> Result<(), CliError> {
    if follower.take_fresh() {
        let record = follower.record().await?;
        tree.draw(&json!({
            "type": "execution.progress", "executionId": record["id"], "stepId": record["currentStepId"],
            "progress": record["progress"],
        }));
    }
    Ok(())
}

/// Shows everything until the execution has ended, or, where nobody works on it, all that has happened; false: nobody reads
/// any more.
async fn to_the_end(follower: &mut Follower<'_>, view: &mut View, is_idle: bool) -> Result<bool, CliError> {
    loop {
        if follower.has_caught_up() && (is_idle || follower.has_ended()) {
            return Ok(true);
        }
        if let View::Tree(tree) = view {
            draw_progress(follower, tree).await?;
        }
        if let Some(message) = follower.next().await?
            && !view.show(&message)?
        {
            return Ok(false);
        }
    }
}
