//! The work of a soak: starts go on while things break, and somebody watches what has ended and whether anything moves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::report::Metrics;
use crate::system::{PATIENCE, System};
use crate::workload::ITEMS;

/// A paused engine is left for another one after this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Time between rounds of work.
const ROUND_EVERY: Duration = Duration::from_millis(400);
/// Time between looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rounds without a long task between two with one.
const LONG_EVERY: usize = 4;
const LIVE: &str =
    "/v1/executions?status=pending,waiting_for_worker,waiting,paused,cancelling,compensating&limit=500";
const PARKED: &str = "/v1/executions?status=incident&children=true&limit=500";

/// An execution that was started.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) at: Instant,
    /// How it has to end.
    pub(super) status: &'static str,
    /// Since when it is known to have ended.
    pub(super) ended_at: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    engines: Mutex<Vec<String>>,
    started: Mutex<BTreeMap<String, Started>>,
    /// When some handler began a task.
    moved: Mutex<Vec<Instant>>,
    metrics: Mutex<BTreeMap<String, Metrics>>,
    /// Executions that were parked and then retried, once each time.
    parked: Mutex<usize>,
    stop_starting: AtomicBool,
    stop_watching: AtomicBool,
}

/// The work.
pub(super) struct Load {
    shared: Arc<Shared>,
    client: Client,
    starting: Mutex<Option<JoinHandle<()>>>,
    watching: JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Load {
    pub(super) fn start(system: &System) -> Self {
        let shared = Arc::new(Shared::default());
        let client = Client::builder().timeout(ANSWER_WITHIN).build().unwrap();
        let log = system.folder.path().join("work.log");
        let watching = TaskTracker::new().spawn(watch(shared.clone(), client.clone(), log));
        let load = Self { shared, client, starting: Mutex::default(), watching };
        load.know(system);
        let starting = TaskTracker::new().spawn(keep_starting(load.shared.clone(), load.client.clone()));
        *load.starting.lock().unwrap() = Some(starting);
        load
    }

    /// Takes note of the engines that there are.
    pub(super) fn know(&self, system: &System) {
        let urls = system.engines.iter().filter_map(|engine| engine.url.clone()).collect();
        *self.shared.engines.lock().unwrap() = urls;
    }

    /// Reads the counters of the engines, which go with them.
    pub(super) async fn scrape(&self, system: &System) {
        for engine in &system.engines {
            let Some(url) = &engine.url else { continue };
            let Ok(answer) = self.client.get(format!("{url}/metrics")).send().await else { continue };
            let Ok(text) = answer.text().await else { continue };
            self.shared.metrics.lock().unwrap().insert(engine.name.clone(), Metrics::read(&text));
        }
    }

    /// Starts no more; all answers have come when this returns.
    pub(super) async fn stop_starting(&self) {
        self.shared.stop_starting.store(true, Ordering::SeqCst);
        let starting = self.starting.lock().unwrap().take();
        if let Some(starting) = starting {
            starting.await.unwrap();
        }
    }

    /// Waits until everything has ended; what has not, each with the engine's explanation.
    pub(super) async fn drain(&self, system: &System) -> Vec<Value> {
        let began = Instant::now();
        while self.live().next().is_some() && began.elapsed() < PATIENCE {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.shared.stop_watching.store(true, Ordering::SeqCst);
        let mut lost = Vec::new();
        for id in self.live() {
            lost.push(system.get(&format!("/v1/executions/{id}:explain")).await);
        }
        lost
    }

    fn live(&self) -> impl Iterator<Item = String> + use<> {
        let live: Vec<String> =
            self.started().into_iter().filter(|(_, one)| one.ended_at.is_none()).map(|(id, _)| id).collect();
        live.into_iter()
    }

    pub(super) fn started(&self) -> BTreeMap<String, Started> {
        self.shared.started.lock().unwrap().clone()
    }

    pub(super) fn parked(&self) -> usize {
        *self.shared.parked.lock().unwrap()
    }

    /// The counters of all engines that there have been.
    pub(super) fn metrics(&self) -> Metrics {
        self.shared.metrics.lock().unwrap().values().copied().fold(Metrics::default(), Metrics::plus)
    }

    /// When some handler began a task for the first time after `at`.
    pub(super) fn moved_after(&self, at: Instant) -> Option<Instant> {
        self.shared.moved.lock().unwrap().iter().copied().find(|moved| *moved > at)
    }
}

/// A request to one engine after the other until one answers.
async fn ask(
    shared: &Shared,
    client: &Client,
    method: &Method,
    path: &str,
    body: Option<&Value>,
) -> (u16, Value) {
    loop {
        let engines = shared.engines.lock().unwrap().clone();
        for url in engines {
            let mut request = client.request(method.clone(), format!("{url}{path}"));
            if let Some(body) = body {
                request = request.json(body);
            }
            let Ok(response) = request.send().await else { continue };
            let status = response.status().as_u16();
            // What is not there now comes back.
            if status == 503 || status == 429 {
                continue;
            }
            let Ok(answer) = response.json().await else { continue };
            return (status, answer);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn keep_starting(shared: Arc<Shared>, client: Client) {
    let mut round = 0;
    while !shared.stop_starting.load(Ordering::SeqCst) {
        start_round(&shared, &client, round).await;
        round += 1;
        tokio::time::sleep(ROUND_EVERY).await;
    }
}

async fn start_round(shared: &Shared, client: &Client, round: usize) {
    let items: Vec<usize> = (0..ITEMS).collect();
    let mut mix = vec![
        ("chain", json!({})),
        ("retried", json!({})),
        ("fanned", json!({ "items": items })),
        ("nested", json!({})),
        ("signalled", json!({})),
    ];
    if round.is_multiple_of(LONG_EVERY) {
        mix.push(("long", json!({})));
    }
    for (flow, input) in mix {
        let id = begin(shared, client, flow, &input, &format!("{flow}-{round}"), "completed").await;
        if flow == "signalled" {
            let signal = json!({ "name": "go", "id": format!("go-{round}") });
            verb(shared, client, &id, "signal", &signal).await;
        }
    }
    let id = begin(shared, client, "signalled", &json!({}), &format!("cancelled-{round}"), "cancelled").await;
    verb(shared, client, &id, "cancel", &json!({ "reason": "as asked" })).await;
}

async fn begin(
    shared: &Shared,
    client: &Client,
    flow: &str,
    input: &Value,
    key: &str,
    status: &'static str,
) -> String {
    let body = json!({ "flowId": flow, "input": input, "idempotencyKey": key });
    let (answered, answer) = ask(shared, client, &Method::POST, "/v1/executions", Some(&body)).await;
    assert!(answered == 202 || answered == 200, "{answered} {answer}");
    let id = answer["id"].as_str().unwrap().to_owned();
    let started = Started { at: Instant::now(), status, ended_at: None };
    shared.started.lock().unwrap().insert(id.clone(), started);
    id
}

/// What was done already, though the answer got lost, is a conflict.
async fn verb(shared: &Shared, client: &Client, id: &str, verb: &str, body: &Value) {
    let path = format!("/v1/executions/{id}:{verb}");
    let (answered, answer) = ask(shared, client, &Method::POST, &path, Some(body)).await;
    assert!(answered == 200 || answered == 409, "{answered} {answer}");
}

async fn watch(shared: Arc<Shared>, client: Client, log: PathBuf) {
    let mut seen = 0;
    while !shared.stop_watching.load(Ordering::SeqCst) {
        let length = fs::metadata(&log).map_or(0, |file| file.len());
        if length > seen {
            seen = length;
            shared.moved.lock().unwrap().push(Instant::now());
        }
        look(&shared, &client).await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(shared: &Shared, client: &Client) {
    let known: Vec<String> = {
        let started = shared.started.lock().unwrap();
        started.iter().filter(|(_, one)| one.ended_at.is_none()).map(|(id, _)| id.clone()).collect()
    };
    let live = list(shared, client, LIVE).await;
    let parked = list(shared, client, PARKED).await;
    let roots = list(shared, client, "/v1/executions?status=incident&limit=500").await;
    let now = Instant::now();
    for id in known.iter().filter(|id| !live.contains(*id) && !roots.contains(*id)) {
        if let Some(one) = shared.started.lock().unwrap().get_mut(id) {
            one.ended_at = Some(now);
        }
    }
    // Tasks that lost their worker too often wait for an operator.
    for id in parked {
        let path = format!("/v1/executions/{id}:retry");
        let (answered, _) = ask(shared, client, &Method::POST, &path, None).await;
        *shared.parked.lock().unwrap() += usize::from(answered == 200);
    }
}

async fn list(shared: &Shared, client: &Client, path: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = ask(shared, client, &Method::GET, &format!("{path}{cursor}"), None).await;
        assert_eq!(status, 200, "{page}");
        ids.extend(
            page["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return ids,
        }
    }
}
