//! `GET /v1/ws`.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::SinkExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{Connection, Refused};
use super::mailbox::Frame;
use super::message::{self, ClientMessage, Wanted};
use super::{CLIENT_MESSAGE_BYTES_MAX, CONNECTION_AGE_MAX, Live, PINGS_UNANSWERED_MAX, REFUSALS_MAX};
use crate::api::Api;
use crate::api::access::{Access, Viewer};
use crate::api::problem::{ErrorClass, Problem};
use crate::api::request::Parameters;

/// What we speak. A client that offers any subprotocol has to offer this one.
const SUBPROTOCOL: &str = "flowmonkey.v1";
/// Web pages cannot set headers here: they offer their key as a subprotocol, which is never answered.
const KEY_SUBPROTOCOL: &str = "flowmonkey.bearer.";
/// Bytes that a connection reads at a time: clients say little.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes that are written at a time.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// The key that an upgrade offers as a subprotocol, as `Authorization: Bearer`. To be called before it is checked who asks, so
/// that there is one check for all.
pub(in crate::api) fn show_offered_key(headers: &mut HeaderMap) {
    if headers.contains_key(header::AUTHORIZATION) || !headers.contains_key(header::SEC_WEBSOCKET_KEY) {
        return;
    }
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let mut words = offers.filter_map(|offer| offer.to_str().ok()).flat_map(|offer| offer.split(','));
    let key = words.find_map(|word| word.trim().strip_prefix(KEY_SUBPROTOCOL));
    if let Some(Ok(mut bearer)) = key.map(|key| HeaderValue::try_from(format!("Bearer {key}"))) {
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
    }
}

/// `GET /v1/ws`: a WebSocket that tells what its client subscribes to.
#[utoipa::path(
    get, path = "/v1/ws", tag = "live", operation_id = "openWebSocket",
    summary = "What happens, over a WebSocket",
    security(("apiKey" = ["viewer"])),
    responses((status = 101, description = "the protocol is described by the AsyncAPI document")),
)]
pub(in crate::api) async fn upgrade(
    State(api): State<Api>,
    access: Access<Viewer>,
    parameters: Parameters,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let socket = socket.map_err(|error| {
        Problem::new(
            ErrorClass::Undecodable,
            "WEBSOCKET_EXPECTED",
            format!("this path speaks WebSocket: {error}"),
        )
    })?;
    let connection = api.live.connect(access.visibility().clone())?;
    let (live, token) = (api.live.clone(), api.work.token());
    let socket = socket
        .protocols([SUBPROTOCOL])
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(CLIENT_MESSAGE_BYTES_MAX)
        .max_frame_size(CLIENT_MESSAGE_BYTES_MAX);
    Ok(socket.on_upgrade(move |socket| async move {
        Session { live, connection, socket, refusals: 0 }.run().await;
        drop(token);
    }))
}

struct Session {
    live: Arc<Live>,
    connection: Connection,
    socket: WebSocket,
    /// Messages that were refused.
    refusals: usize,
}

/// Why a connection is closed from here.
struct Closing(u16, &'static str);

/// The client has gone, or does not read.
struct Gone;

impl Session {
    async fn run(mut self) {
        if let Ok(Closing(code, reason)) = self.talk().await {
            let close = Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from_static(reason) }));
            // It may have gone.
            timeout(self.live.ping_every, self.socket.send(close)).await.ok();
        }
    }

    /// Tells and listens until there is a reason to close, or the client has gone.
    async fn talk(&mut self) -> Result<Closing, Gone> {
        let end = Instant::now() + CONNECTION_AGE_MAX;
        let mut ping_at = Instant::now() + self.live.ping_every;
        let mut unanswered = 0;
        let live = self.live.clone();
        loop {
            tokio::select! {
                frames = self.connection.next() => self.tell(frames).await?,
                heard = self.socket.recv() => {
                    let Some(Ok(heard)) = heard else { return Err(Gone) };
                    unanswered = 0;
                    match heard {
                        Message::Text(text) => self.hear(&text).await?,
                        Message::Binary(_) => {
                            return Ok(Closing(close_code::UNSUPPORTED, "messages are JSON texts"));
                        }
                        // Pings are answered below us.
                        Message::Ping(_) | Message::Pong(_) => {}
                        Message::Close(_) => return Err(Gone),
                    }
                    if self.refusals >= REFUSALS_MAX {
                        return Ok(Closing(close_code::POLICY, "too many messages were refused"));
                    }
                }
                () = sleep_until(ping_at) => {
                    if unanswered >= PINGS_UNANSWERED_MAX {
                        return Ok(Closing(close_code::AWAY, "pings were not answered"));
                    }
                    unanswered += 1;
                    ping_at = Instant::now() + self.live.ping_every;
                    self.write([Message::Ping(Bytes::new())]).await?;
                }
                () = sleep_until(end) => return Ok(Closing(close_code::AWAY, "come again")),
                () = live.shutdown.cancelled() => return Ok(Closing(close_code::AWAY, "the engine is ending")),
            }
        }
    }

    async fn tell(&mut self, frames: Vec<Frame>) -> Result<(), Gone> {
        self.write(frames.into_iter().map(|frame| Message::Text(frame.text))).await
    }

    async fn say(&mut self, text: Utf8Bytes) -> Result<(), Gone> {
        self.write([Message::Text(text)]).await
    }

    /// Writes messages together. A client that does not read is given the time in which it would have to answer pings.
    async fn write(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), Gone> {
        let patience = self.live.ping_every.saturating_mul(PINGS_UNANSWERED_MAX);
        for message in messages {
            timeout(patience, self.socket.feed(message)).await.map_err(|_| Gone)?.map_err(|_| Gone)?;
        }
        timeout(patience, self.socket.flush()).await.map_err(|_| Gone)?.map_err(|_| Gone)
    }

    async fn hear(&mut self, text: &str) -> Result<(), Gone> {
        let answer = match ClientMessage::parse(text) {
            Ok(ClientMessage::Ping {}) => message::PONG,
            Ok(ClientMessage::Subscribe { id, filter, resume_from }) => {
                match Wanted::of(id.clone(), filter, resume_from) {
                    Ok(Wanted { id, filter, resume_from }) => {
                        match self.connection.subscribe(id.clone(), filter, resume_from).await {
                            Ok(sequence) => message::subscribed(&id, sequence),
                            Err(refused) => self.refuse(&id, &refused),
                        }
                    }
                    Err(error) => {
                        self.refusals += 1;
                        message::refused(Some(&id), "INVALID_MESSAGE", &error)
                    }
                }
            }
            Ok(ClientMessage::Unsubscribe { id }) => match self.connection.unsubscribe(&id) {
                Ok(()) => message::unsubscribed(&id),
                Err(refused) => self.refuse(&id, &refused),
            },
            Err(error) => {
                self.refusals += 1;
                message::refused(None, "INVALID_MESSAGE", &error)
            }
        };
        self.say(answer).await
    }

    fn refuse(&mut self, id: &str, refused: &Refused) -> Utf8Bytes {
        self.refusals += 1;
        message::refused(Some(id), refused.code(), &refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_be_offered_as_a_subprotocol() {
        let shown = |others: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in others {
                headers.append(*name, HeaderValue::from_static(value));
            }
            show_offered_key(&mut headers);
            headers.get("authorization").map(|value| value.to_str().unwrap().to_owned())
        };
        let upgrade = ("sec-websocket-key", "x");
        let offer = ("sec-websocket-protocol", "flowmonkey.v1, flowmonkey.bearer.fm_abc-1");
        assert_eq!(shown(&[upgrade, offer]).as_deref(), Some("Bearer fm_abc-1"));
        assert_eq!(shown(&[upgrade, ("sec-websocket-protocol", "flowmonkey.v1")]), None);
        assert_eq!(shown(&[offer]), None, "no upgrade");
        let own = ("authorization", "Bearer own");
        assert_eq!(shown(&[own, upgrade, offer]).as_deref(), Some("Bearer own"));
    }
}
