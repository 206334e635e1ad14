//! Follows one execution over a WebSocket, through lost connections: every committed event once and in order.

use std::time::Duration;

use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::api::PING_EVERY;
use futures_util::{SinkExt, StreamExt};
use reqwest::Upgraded;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::tell;
use crate::client::Client;
use crate::errors::CliError;

/// Silence after which a connection counts as lost: the server pings more often.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const _: () = assert!(PING_EVERY.as_secs() * 2 <= SILENCE_MAX.as_secs());
/// Pauses between tries to come again: doubled from the first to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How our only subscription is called.
const SUBSCRIPTION: &str = "watch";

/// What follows one execution.
pub(super) struct Follower<'a> {
    client: &'a Client,
    id: ExecutionId,
    children: bool,
    socket: Option<WebSocketStream<Upgraded>>,
    /// Whether there was a connection before.
    was_there: bool,
    /// The sequence of the last event that was told.
    after: u64,
    /// The sequence up to which events had happened when the subscription began; none: it has not.
    head: Option<u64>,
    /// Whether the last that was told of it was its end.
    has_ended: bool,
    /// Whether it has caught up on this connection, and nobody was told yet.
    is_fresh: bool,
}

impl<'a> Follower<'a> {
    /// Of an execution, from its beginning; with `children`, of what it starts, too, from now on.
    pub(super) const fn new(client: &'a Client, id: ExecutionId, children: bool) -> Self {
        Self {
            client,
            id,
            children,
            socket: None,
            was_there: false,
            after: 0,
            head: None,
            has_ended: false,
            is_fresh: true,
        }
    }

    /// Whether all was told that had happened when the subscription began.
    pub(super) fn has_caught_up(&self) -> bool {
        self.head.is_some_and(|head| self.after >= head)
    }

    /// Whether it has just caught up on a new connection: true once for each.
    pub(super) fn take_fresh(&mut self) -> bool {
        self.has_caught_up() && std::mem::take(&mut self.is_fresh)
    }

    /// Whether it has ended, as far as was told.
    pub(super) const fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The execution as it is; null when the server has just gone away again.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) async fn record(&self) -> Result<Value, CliError> {
        match self.client.get(&format!("/v1/executions/{}", self.id)).await {
            Err(CliError::Unreachable(_) | CliError::Refused { status: 429 | 500.., .. }) => Ok(Value::Null),
            found => found,
        }
    }

    /// The next message about the execution; none: something else was said. Comes again when the connection is lost.
    ///
    /// # Errors
    /// When the server cannot be reached at first, or refuses.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, CliError> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let fresh = connect(self.client, self.id, self.children, self.after, self.was_there).await?;
                self.was_there = true;
                self.head = None;
                self.is_fresh = true;
                none.insert(fresh)
            }
        };
        let reason = match timeout(SILENCE_MAX, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => return self.told(&text),
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_)))) => {
                return Ok(None);
            }
            Ok(Some(Ok(Message::Close(Some(frame))))) if !frame.reason.is_empty() => frame.reason.to_string(),
            Ok(Some(Ok(Message::Close(_))) | None) => "it was closed".to_owned(),
            Ok(Some(Err(error))) => error.to_string(),
            Err(_) => format!("nothing was heard for {} s", SILENCE_MAX.as_secs()),
        };
        self.socket = None;
        tell(&format!("the connection to {} is lost ({reason}); coming again", self.client.base()));
        Ok(None)
    }

    fn told(&mut self, text: &str) -> Result<Option<Value>, CliError> {
        let message: Value = serde_json::from_str(text).map_err(|_| {
            CliError::Unreachable(format!("{} says what FlowMonkey does not say", self.client.base()))
        })?;
        let kind = message["type"].as_str().unwrap_or_default();
        match kind {
            "subscribed" => {
                self.head = Some(message["seq"].as_u64().unwrap_or(0));
                return Ok(None);
            }
            "error" => {
                let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
                // As the same refusal of a request.
                let status = if text("code") == "EXECUTION_NOT_FOUND" { 404 } else { 503 };
                let more = format!("\n  of the live connection to {}", self.client.base());
                return Err(CliError::Refused { status, code: text("code"), detail: text("message"), more });
            }
            "missed" | "unsubscribed" | "pong" => return Ok(None),
            _ => {}
        }
        let is_ours = message["executionId"].as_str() == Some(&self.id.to_string());
        if let (Some(sequence), true) = (message["seq"].as_u64(), is_ours) {
            if sequence <= self.after {
                return Ok(None);
            }
            self.after = sequence;
            match kind {
                "execution.completed" | "execution.failed" | "execution.cancelled" => self.has_ended = true,
                "execution.reopened" => self.has_ended = false,
                _ => {}
            }
        }
        Ok(Some(message))
    }
}

/// Connects and subscribes behind the event `after`. Who was there before waits until the server is back.
async fn connect(
    client: &Client,
    id: ExecutionId,
    children: bool,
    after: u64,
    was_there: bool,
) -> Result<WebSocketStream<Upgraded>, CliError> {
    let subscribe = json!({
        "type": "subscribe",
        "id": SUBSCRIPTION,
        "filter": { "executionId": id, "children": children },
        "resumeFrom": after,
    });
    let mut pause = PAUSE_MIN;
    loop {
        let tried = async {
            let mut socket = client.socket("/v1/ws").await?;
            let sent = socket.send(Message::text(subscribe.to_string())).await;
            sent.map_err(|error| CliError::Unreachable(format!("{}: {error}", client.base())))?;
            Ok::<_, CliError>(socket)
        };
        match tried.await {
            Ok(socket) => {
                if was_there {
                    tell("connected again");
                }
                return Ok(socket);
            }
            Err(CliError::Unreachable(_) | CliError::Refused { status: 429 | 500.., .. }) if was_there => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            Err(error) => return Err(error),
        }
    }
}
