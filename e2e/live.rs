//! Two who watch one execution at different engines, while engines and Redis are killed: each is told everything once.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::system::{Options, PATIENCE, System, wait_for};

/// Steps of the flow, of several events each.
const STEPS: usize = 100;
/// Sequences at which something is killed.
const KILL_ENGINE_AT: u64 = 100;
const RESTART_REDIS_AT: u64 = 250;
/// Silence after which a watcher takes its connection for lost and comes again.
const SILENCE: Duration = Duration::from_secs(10);

/// What a watcher was told, in its order.
#[derive(Default)]
struct Book {
    told: Vec<(u64, String)>,
}

impl Book {
    fn last(&self) -> u64 {
        self.told.last().map_or(0, |(sequence, _)| *sequence)
    }

    /// Notes a committed event; true: it was the end.
    fn note(&mut self, text: &str) -> bool {
        let message: Value = serde_json::from_str(text).unwrap();
        assert_ne!(message["type"], "error", "{message}");
        let Some(sequence) = message["seq"].as_u64().filter(|_| message["type"] != "subscribed") else {
            return false;
        };
        assert_ne!(message["type"], "snapshot", "of one execution there is everything");
        let (_, kind) = message["type"].as_str().unwrap().split_once('.').unwrap();
        self.told.push((sequence, kind.to_owned()));
        kind == "completed"
    }
}

/// Follows by a WebSocket, coming again whenever the connection is lost.
async fn by_socket(url: &str, id: &str, told: &tokio::sync::watch::Sender<u64>) -> Book {
    let mut book = Book::default();
    loop {
        let address = format!("{}/v1/ws", url.replacen("http", "ws", 1));
        let (mut socket, _) =
            wait_for("the engine is there", async || connect_async(&address).await.ok()).await;
        let subscribe = json!({
            "type": "subscribe", "id": "s", "filter": { "executionId": id },
            "resumeFrom": book.last(),
        });
        if socket.send(Message::text(subscribe.to_string())).await.is_err() {
            continue;
        }
        while let Ok(Some(Ok(message))) = timeout(SILENCE, socket.next()).await {
            if let Message::Text(text) = message {
                let is_end = book.note(&text);
                told.send_replace(book.last());
                if is_end {
                    return book;
                }
            }
        }
    }
}

/// Follows by server-sent events, with `Last-Event-ID`.
async fn by_stream(url: &str, id: &str) -> Book {
    let (mut book, client) = (Book::default(), Client::new());
    loop {
        let address = format!("{url}/v1/executions/{id}/stream");
        let mut response = wait_for("the engine streams", async || {
            let request = client.get(&address).header("Last-Event-ID", book.last().to_string());
            request.send().await.ok().filter(|response| response.status() == 200)
        })
        .await;
        let mut rest = Vec::new();
        while let Ok(Ok(Some(bytes))) = timeout(SILENCE, response.chunk()).await {
            rest.extend_from_slice(&bytes);
            while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = rest.drain(..end + 2).collect();
                let event = String::from_utf8(event).unwrap();
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: "))
                    && book.note(data)
                {
                    return book;
                }
            }
        }
    }
}

/// Many steps in a row.
fn flow() -> String {
    use std::fmt::Write as _;
    let mut text = "id: watched\nversion: 1.0.0\ninitialStepId: s0\nsteps:\n".to_owned();
    for number in 0..STEPS {
        let next = if number + 1 < STEPS {
            format!(", transitions: {{ onSuccess: s{} }}", number + 1)
        } else {
            String::new()
        };
        let config = if number % 10 == 0 { "{ sleepMs: 300 }" } else { "{}" };
        writeln!(text, "  s{number}: {{ type: work, config: {config}{next} }}").unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_miss_nothing_and_see_nothing_twice() {
    let mut system = System::start(Options::default()).await;
    system.publish(&flow()).await;
    let id = system.begin("watched", json!({}), "watched").await;
    let urls: Vec<String> = system.engines.iter().filter_map(|engine| engine.url.clone()).collect();
    let (told, mut heard) = tokio::sync::watch::channel(0);
    let faults = async {
        heard.wait_for(|last| *last >= KILL_ENGINE_AT).await.unwrap();
        // Of the one that the stream is at, and later of the one that the socket is at.
        for place in [1, 0] {
            let mut old = system.engines.remove(place);
            old.kill();
            system.replace_engine(&old).await;
            let engine = system.engines.pop().unwrap();
            system.engines.insert(place, engine);
        }
        heard.wait_for(|last| *last >= RESTART_REDIS_AT).await.unwrap();
        system.redis.restart_empty().await;
    };
    let watched = async { tokio::join!(by_socket(&urls[0], &id, &told), by_stream(&urls[1], &id), faults) };
    let (socket, stream, ()) = timeout(PATIENCE, watched).await.expect("both are told of the end");
    let record = system.ended(&id).await;
    assert_eq!(record["status"], "completed", "{record}");
    let mut history: Vec<(u64, String)> = Vec::new();
    loop {
        let after = history.last().map_or(0, |(sequence, _)| *sequence);
        let page = system.get(&format!("/v1/executions/{id}/history?after={after}&limit=500")).await;
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        history.extend(items.iter().map(|item| {
            (item["sequence"].as_u64().unwrap(), item["event"]["type"].as_str().unwrap().to_owned())
        }));
    }
    let end = history.iter().position(|(_, kind)| kind == "completed").unwrap();
    history.truncate(end + 1);
    assert!(history.len() > 3 * STEPS, "{}", history.len());
    assert_eq!(socket.told, history);
    assert_eq!(stream.told, history);
}
