//! Where executions are asked for: a server, the process that owns the data directory, or the directory itself.

use std::time::Duration;

use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_handlers::HttpPolicy;

use super::tell;
use crate::args::{CheckpointArgs, Durability, Place};
use crate::client::Client;
use crate::embedded::data_dir::{self, Owner, Ownership, owned};
use crate::embedded::{ANY_PORT, Embedded, Options};
use crate::errors::CliError;

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
    pub(crate) async fn open(place: &Place, server: Option<&str>, access: Access) -> Result<Self, CliError> {
        if let Some(server) = server {
            return Ok(Self { client: Client::new(server)?, opened: None, access });
        }
        let path = &place.data_dir;
        if !data_dir::database(path).exists() {
            let advice = "name one with --data-dir, or a server with --server";
            return Err(CliError::Usage(format!("{} holds no record; {advice}", path.display())));
        }
        let dir = match data_dir::take_or_ask(path).await? {
            Ownership::Ours(dir) => dir,
            Ownership::Theirs(Owner { address: Some(address), .. }) => {
                return Ok(Self { client: Client::new(&address)?, opened: None, access });
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
        Ok(Self { client: Client::new(&embedded.url)?, opened: Some(embedded), access })
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
