//! What no server should be sent: many bad requests a second, bodies that are too large, bodies that do not come, and bytes
//! that are no HTTP; beside them somebody who works.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::load::{histogram, percentiles};
use crate::report::report;
use crate::system::dev;
use crate::system::usage::{memory_kib, rounded};

/// Bytes of a body that is too large.
const HUGE: usize = 100 << 20;
/// Of so many requests, one is no HTTP.
const RAW_EVERY: u64 = 50;
/// Between two looks at whether the engine is ready, and at its memory.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(30);

const GOOD: &str = r#"{
    "id": "good", "version": "1.0.0", "initialStepId": "greet",
    "steps": { "greet": { "type": "set", "config": { "values": { "greeting": "hello" } } } }
}"#;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Garbage {
    /// Bad requests a second.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Connections that send them.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Connections that send a body a byte a second.
    #[arg(long, default_value_t = 100)]
    slow: u32,
    /// Connections that send bodies of 100 MB, one after the other.
    #[arg(long, default_value_t = 2)]
    huge: u32,
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// The program to measure [default: `flowmonkey` beside this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// What was answered.
#[derive(Default)]
struct Answers {
    by_status: Mutex<BTreeMap<String, u64>>,
    sent: AtomicU64,
    over: AtomicBool,
}

impl Answers {
    fn count(&self, what: &str) {
        let mut counts = self.by_status.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what.to_owned()).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// Sends garbage for a while.
///
/// # Errors
/// When the engine is not ready at some time, answers that it has failed, or has lost what it acknowledged.
pub(crate) async fn garbage(wanted: Garbage) -> Result<()> {
    let (engine, address) = dev(wanted.program.clone()).await?;
    let tracker = TaskTracker::new();
    let mut client = Client::connect(address, &tracker).await?;
    client.publish(&serde_json::from_str(GOOD)?).await?;
    let before = memory_kib(engine.pid());
    let answers = Arc::new(Answers::default());
    let place = Place { address, tracker, answers: answers.clone() };
    let begins = Instant::now();
    let ends = begins + Duration::from_secs(wanted.seconds.into());
    let mut senders = JoinSet::new();
    for number in 0..wanted.connections {
        let place = place.clone();
        let (every, rate) = (u64::from(wanted.connections), f64::from(wanted.rate));
        senders.spawn(async move { place.bad(number.into(), every, rate, begins, ends).await });
    }
    for _ in 0..wanted.slow {
        let place = place.clone();
        senders.spawn(async move { place.slow().await });
    }
    for _ in 0..wanted.huge {
        let place = place.clone();
        senders.spawn(async move { place.huge().await });
    }
    let mut worked = JoinSet::new();
    worked.spawn(async move { place.work().await });
    let peak = watch(&mut client, engine.pid(), ends).await?;
    answers.over.store(true, Ordering::Relaxed);
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let sent = answers.sent.load(Ordering::Relaxed);
    let took = begins.elapsed();
    let (acknowledged, micros) = worked.join_next().await.context("somebody works")???;
    for id in &acknowledged {
        let shown = client.get(&format!("/v1/executions/{id}")).await?;
        ensure!(shown["status"] == "completed", "{id} was acknowledged, and is {}", shown["status"]);
    }
    let counts = answers.by_status.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let failed: u64 =
        counts.iter().filter(|(status, _)| status.starts_with('5')).map(|(_, count)| count).sum();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = sent as f64 / took.as_secs_f64();
    report(
        "garbage",
        &json!({ "connections": wanted.connections, "slow": wanted.slow, "huge": wanted.huge }),
        &json!({
            "seconds": wanted.seconds,
            "sent": sent,
            "perSecond": rounded(rate),
            "answers": counts,
            "goodExecutions": acknowledged.len(),
            "goodMillis": percentiles(&micros),
            "residentKib": { "before": before, "peak": peak, "after": memory_kib(engine.pid()) },
        }),
    );
    ensure!(failed == 0, "{failed} answers say that the engine failed");
    engine.stop().await;
    Ok(())
}

/// Asks whether the engine is ready until `ends`; the most memory that it had.
async fn watch(client: &mut Client, pid: u32, ends: Instant) -> Result<Option<u64>> {
    let mut peak = None;
    while Instant::now() < ends {
        client.get("/readyz").await?;
        peak = peak.max(memory_kib(pid));
        sleep(LOOK_EVERY).await;
    }
    Ok(peak)
}

/// One who sends something.
#[derive(Clone)]
struct Place {
    address: SocketAddr,
    tracker: TaskTracker,
    answers: Arc<Answers>,
}

impl Place {
    /// One bad request after the other, each at its instant.
    async fn bad(&self, first: u64, every: u64, rate: f64, begins: Instant, ends: Instant) -> Result<()> {
        let mut client = Client::connect(self.address, &self.tracker).await?;
        let mut number = first;
        loop {
            #[expect(clippy::cast_precision_loss, reason = "numbers of requests are small")]
            let due = begins + Duration::from_secs_f64(number as f64 / rate);
            if due >= ends || Instant::now() >= ends {
                return Ok(());
            }
            sleep_until(due).await;
            if number.is_multiple_of(RAW_EVERY) {
                self.raw(number).await?;
            } else {
                let request = bad_request(&client, number)?;
                match timeout(ANSWER_MAX, client.send(request)).await? {
                    Ok((status, _)) => self.answers.count(status.as_str()),
                    Err(_) => {
                        self.answers.count("closed");
                        client = Client::connect(self.address, &self.tracker).await?;
                    }
                }
            }
            self.answers.sent.fetch_add(1, Ordering::Relaxed);
            number += every;
        }
    }

    /// Bytes that are no HTTP, on a connection of their own.
    async fn raw(&self, number: u64) -> Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let bytes: Vec<u8> = (0..256_u64)
            .map(|place| {
                number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(place * 1_442_695).to_le_bytes()
                    [5]
            })
            .collect();
        // It may be closed before all is sent.
        drop(stream.write_all(&bytes).await);
        drop(stream.shutdown().await);
        let mut answer = Vec::new();
        match timeout(ANSWER_MAX, stream.read_to_end(&mut answer)).await? {
            Ok(_) | Err(_) => self.answers.count("not HTTP"),
        }
        Ok(())
    }

    /// A body of which a byte comes each second.
    async fn slow(&self) -> Result<()> {
        while !self.answers.is_over() {
            let mut stream = TcpStream::connect(self.address).await?;
            let head = format!(
                "POST /v1/executions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
                self.address
            );
            stream.write_all(head.as_bytes()).await?;
            let mut answer = [0; 1024];
            loop {
                if self.answers.is_over() {
                    self.answers.count("slow, and still waited for");
                    break;
                }
                match timeout(Duration::from_secs(1), stream.read(&mut answer)).await {
                    Ok(read) => {
                        let text = String::from_utf8_lossy(&answer[..read.unwrap_or_default()]).into_owned();
                        let status = text.split_whitespace().nth(1).unwrap_or("closed");
                        self.answers.count(&format!("slow: {status}"));
                        break;
                    }
                    Err(_) => drop(stream.write_all(b" ").await),
                }
            }
        }
        Ok(())
    }

    /// Bodies of 100 MB.
    async fn huge(&self) -> Result<()> {
        let body = Bytes::from(vec![b' '; HUGE]);
        while !self.answers.is_over() {
            let mut client = Client::connect(self.address, &self.tracker).await?;
            let request = client.request(Method::POST, "/v1/executions", body.clone())?;
            match client.send(request).await {
                Ok((status, _)) => self.answers.count(&format!("huge: {}", status.as_str())),
                // Refused before all was sent.
                Err(_) => self.answers.count("huge: closed"),
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Good work meanwhile: the ids that were acknowledged, and how long each took.
    async fn work(&self) -> Result<(Vec<String>, hdrhistogram::Histogram<u64>)> {
        let mut client = Client::connect(self.address, &self.tracker).await?;
        let (mut ids, mut micros) = (Vec::new(), histogram()?);
        while !self.answers.is_over() {
            let began = Instant::now();
            let answer = client.run(Bytes::from_static(br#"{"flowId":"good"}"#)).await?;
            micros.record(u64::try_from(began.elapsed().as_micros())?)?;
            let answer: Value = serde_json::from_slice(&answer)?;
            ids.extend(answer["id"].as_str().map(str::to_owned));
            sleep(Duration::from_millis(5)).await;
        }
        Ok((ids, micros))
    }
}

/// One of many kinds of requests that are refused.
fn bad_request(client: &Client, number: u64) -> Result<Request<Full<Bytes>>> {
    let deep = "[".repeat(5000);
    let json = |method, path: &str, body: &str| {
        client.request(method, path, Bytes::copy_from_slice(body.as_bytes()))
    };
    let (post, get) = (Method::POST, Method::GET);
    let mut request = match number % 16 {
        0 => json(post, "/v1/executions", "{")?,
        1 => json(post, "/v1/executions", r#"{"flowId":17}"#)?,
        2 => json(post, "/v1/executions", r#"{"flowId":"good","unknown":true}"#)?,
        3 => json(post, "/v1/executions", r#"{"flowId":"missing"}"#)?,
        4 => json(post, "/v1/executions", &deep)?,
        5 => json(post, "/v1/flows", r#"{"id":"x","steps":{"a":{"type":"sett"}}}"#)?,
        6 => json(post, "/v1/flows", "\u{0}\u{1}")?,
        7 => json(get, "/v1/executions/not-an-id", "")?,
        8 => json(get, "/v1/executions?limit=-1&status=odd", "")?,
        9 => json(get, "/no/such/route?%00=%ff", "")?,
        10 => json(Method::DELETE, "/v1/flows", "")?,
        11 => json(post, "/v1/executions", r#"{"flowId":"good","input":[1,2"#)?,
        12 => json(post, "/v1/events", r#"{"type":"x","id":{}}"#)?,
        13 => json(post, "/v1/executions", "{}")?,
        14 => json(Method::PATCH, "/v1/executions", "null")?,
        _ => json(get, &format!("/v1/executions/{}", "a".repeat(4000)), "")?,
    };
    if number % 16 == 13 {
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    }
    if number % 5 == 4 {
        request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer fm_expired.and.wrong"));
    }
    Ok(request)
}
