//! Where executions are asked for: a server, the process that owns the data directory, or the directory itself.

use std::time::Duration;

use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_handlers::HttpPolicy;
use reqwest::Method;
use serde_json::Value;

use super::tell;
use crate::args::{CheckpointArgs, Durability, Place};
use crate::client::Client;
use crate::embedded::data_dir::{self, Owner, Ownership, owned};
use crate::embedded::{ANY_PORT, Embedded, Options};
use crate::errors::{CliError, Exit};
use crate::settings::Settings;

/// Whether a command only looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing moves in the record.
    Look,
    /// What the command sets in motion is done as far as the engine alone can do it.
    Act,
}

/// Something that answers.
pub(crate) struct Session {
    pub(crate) client: Client,
    /// The record, when this process opened it.
    opened: Option<Embedded>,
    access: Access,
}

impl Session {
    /// Finds out whom to ask.
    ///
    /// # Errors
    /// When nobody can be asked and the record cannot be opened.
    pub(crate) async fn open(settings: &Settings, place: &Place, access: Access) -> Result<Self, CliError> {
        if let Some(client) = settings.client()? {
            return Ok(Self { client, opened: None, access });
        }
        let path = &place.data_dir;
        if !data_dir::database(path).exists() {
            let advice = "name one with --data-dir, or a server with --server";
            return Err(CliError::Usage(format!("{} holds no record; {advice}", path.display())));
        }
        let dir = match data_dir::take_or_ask(path).await? {
            Ownership::Ours(dir) => dir,
            Ownership::Theirs(Owner { address: Some(address), .. }) => {
                return Ok(Self { client: Client::local(&address)?, opened: None, access });
            }
            Ownership::Theirs(owner) => {
                return Err(owned(path, &owner, "it does not say where it can be asked; try again later"));
            }
        };
        let options = Options {
            durability: Durability::Full,
            listen: ANY_PORT,
            public_url: None,
            allowed_hosts: Vec::new(),
            webhook_policy: HttpPolicy::default(),
            moves: access == Access::Act,
            registry: None,
            concurrency: None,
            checkpoints: CheckpointArgs::default(),
            unknown_handler: UnknownHandler::Wait,
        };
        let mut embedded = Embedded::open(dir, options).await?;
        embedded.serve()?;
        Ok(Self { client: Client::local(&embedded.url)?, opened: Some(embedded), access })
    }

    /// Whether no other process works on the record: this one opened it.
    pub(crate) const fn is_opened_here(&self) -> bool {
        self.opened.is_some()
    }

    /// Lets what was set in motion come to rest, and closes the record, if this process opened it.
    ///
    /// # Errors
    /// When the record fails.
    pub(crate) async fn close(self, place: &Place) -> Result<(), CliError> {
        let Some(embedded) = self.opened else { return Ok(()) };
        if self.access == Access::Act {
            embedded.settle().await?;
            let depths = embedded.engine.queue().depths().await.unwrap_or_default();
            let ready: usize = depths.iter().map(|(_, depth)| depth.high + depth.normal + depth.low).sum();
            if ready > 0 {
                let tasks =
                    if ready == 1 { "1 task waits".to_owned() } else { format!("{ready} tasks wait") };
                let dir = place.data_dir.display();
                tell(&format!("{tasks} for a worker: flowmonkey dev --data-dir {dir}"));
            }
        }
        embedded.close(Duration::ZERO).await;
        Ok(())
    }
}

/// A request to whoever has what it is about.
pub(crate) struct Asking<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) place: &'a Place,
}

impl Asking<'_> {
    /// Finds out whom to ask.
    pub(crate) async fn open(&self, access: Access) -> Result<Session, CliError> {
        Session::open(self.settings, self.place, access).await
    }

    /// Asks for `path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        let session = self.open(Access::Look).await?;
        let answer = session.client.get(path).await;
        session.close(self.place).await?;
        answer
    }

    /// Asks for `path` and prints the answer; `text` is for people.
    pub(crate) async fn look(
        &self,
        path: &str,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<Exit, CliError> {
        self.settings.output.print(&self.get(path).await?, text)?;
        Ok(Exit::Done)
    }

    /// Sends a request that changes something, and gives the answer once what follows from that is done.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, CliError> {
        let session = self.open(Access::Act).await?;
        let answer = session.client.ask(method, path, body).await;
        session.close(self.place).await.and(answer)
    }

    /// As [`Self::send`], by `POST`; prints the answer and gives it. `text` is for people.
    pub(crate) async fn act(
        &self,
        path: &str,
        body: &Value,
        text: impl FnOnce(&Value) -> String,
    ) -> Result<Value, CliError> {
        let answer = self.send(Method::POST, path, Some(body)).await?;
        self.settings.output.print(&answer, text)?;
        Ok(answer)
    }
}

/// A page of a list for people: its rows, and how to go on.
pub(crate) fn page(page: &Value, columns: &[(&str, &str)]) -> String {
    let mut text = crate::show::rows(&page["items"], columns);
    if let Some(next) = page["nextCursor"].as_str() {
        text.push_str(&format!("\nmore: --cursor {next}"));
    }
    text
}
