//! `dev` is killed with -9 at random moments, again and again, while it works; the last one is left alone. Then every
//! execution has ended, no state transition was lost or doubled, and handlers saw one idempotency key per step.
//!
//! The moments are drawn from a seed (KILL_SEED to repeat one) in units of work done, not of time.

#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use flowmonkey_core::flow::parse::{Format, parse_document};
use serde_json::{Value, json};
use support::{Bench, Running, http, try_http, wait_for};

/// Kills before the last process is left alone.
const KILLS: usize = 8;
/// Executions of the workload.
const EXECUTIONS: usize = 12;
/// Items of each execution's map.
const ITEMS: usize = 6;

/// `dev` in `bench`, ready to serve.
struct Server {
    running: Running,
    url: String,
}

impl Server {
    fn start(bench: &Bench) -> Self {
        let running = bench.start(&[
            "dev",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            "data",
            "--handlers",
            "handlers.json",
        ]);
        let url = bench.address("data", &running);
        wait_for("the server to be ready", || {
            try_http(&url, "GET", "/readyz", "").filter(|(status, _)| *status == 200)
        });
        Self { running, url }
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        http(&self.url, method, path, &body.map(Value::to_string).unwrap_or_default())
    }

    fn kill(mut self) {
        // SIGKILL: nothing of it runs any more.
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
    }
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

fn prepare(folder: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kill");
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::copy(sources.join("work.sh"), folder.join("work.sh")).unwrap();
    let manifest = json!({ "handlers": [{
        "type": "work",
        "version": "1.0.0",
        "command": ["sh", "work.sh"],
        "reuse": true,
        "env": { "WORK_LOG": folder.join("work.log") },
    }] });
    fs::write(folder.join("handlers.json"), manifest.to_string()).unwrap();
    fs::write(folder.join("work.log"), "").unwrap();
}

fn work_done(folder: &Path) -> usize {
    fs::read_to_string(folder.join("work.log")).unwrap().lines().count()
}

#[test]
fn nothing_is_lost_or_doubled_when_the_process_is_killed_at_random_moments() {
    let bench = Bench::new();
    let folder = bench.dir.path();
    prepare(folder);
    let seed = std::env::var("KILL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_203);
    println!("KILL_SEED={seed}");
    let mut chance = Chance(seed);
    let flow: String =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kill/flow.yaml")).unwrap();

    let server = Server::start(&bench);
    let (status, answer) = server.call("POST", "/v1/flows", Some(&as_json(&flow)));
    assert_eq!(status, 201, "{answer}");
    server.kill();

    let mut started = BTreeMap::new();
    for round in 0..KILLS {
        let server = Server::start(&bench);
        // Starts go on while the process is killed; the key makes a start whose answer was lost repeatable.
        for place in (0..EXECUTIONS).filter(|place| place % KILLS <= round) {
            let input = json!({ "items": (0..ITEMS).collect::<Vec<_>>() });
            let body =
                json!({ "flowId": "killed", "input": input, "idempotencyKey": format!("start-{place}") });
            let (status, answer) = server.call("POST", "/v1/executions", Some(&body));
            assert!(status == 202 || status == 200, "{status} {answer}");
            let id = answer["id"].as_str().unwrap().to_owned();
            let before = started.entry(place).or_insert_with(|| id.clone());
            assert_eq!(*before, id, "one key, one execution");
        }
        let enough = work_done(folder) + usize::try_from(chance.below(25)).unwrap();
        wait_for("some work to be done, or all", || {
            let unfinished =
                server.call("GET", "/v1/executions?status=waiting_for_worker&status=waiting", None);
            let all_done = unfinished.1["items"].as_array().is_some_and(Vec::is_empty);
            (work_done(folder) >= enough || all_done).then_some(())
        });
        server.kill();
    }

    let server = Server::start(&bench);
    for id in started.values() {
        let record = wait_for("every execution to end", || {
            let (_, record) = server.call("GET", &format!("/v1/executions/{id}"), None);
            ["completed", "failed", "cancelled"].contains(&record["status"].as_str()?).then_some(record)
        });
        assert_eq!(record["status"], "completed", "{record}");
        assert_eq!(record["context"]["all"].as_array().unwrap().len(), ITEMS);
        check_history(&server, id);
    }
    assert_eq!(started.len(), EXECUTIONS);
    server.kill();
    check_work(folder);
}

fn as_json(yaml: &str) -> Value {
    let document = parse_document(yaml, Format::Yaml).unwrap();
    (*document.flows[0].source).clone()
}

/// Sequences have no gaps, and each visit of each step succeeded once.
fn check_history(server: &Server, id: &str) {
    let mut after = 0;
    let mut successes = BTreeSet::new();
    loop {
        let (status, page) = server.call("GET", &format!("/v1/executions/{id}/history?after={after}"), None);
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap().clone();
        if items.is_empty() {
            break;
        }
        for recorded in items {
            assert_eq!(recorded["sequence"], after + 1, "a gap in the history of {id}");
            after += 1;
            let event = &recorded["event"];
            if event["type"] == "attemptEnded" && event["outcome"] == "success" {
                let visit = (event["stepId"].to_string(), event["visit"].to_string());
                assert!(successes.insert(visit.clone()), "{visit:?} of {id} succeeded twice");
            }
        }
    }
}

/// What the handlers saw: each step of each execution under one key, and no attempt delivered twice.
fn check_work(folder: &Path) {
    let log = fs::read_to_string(folder.join("work.log")).unwrap();
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    let mut deliveries = BTreeSet::new();
    for line in log.lines() {
        let mut parts = line.split(' ');
        let (Some(task), Some(key), Some(attempt)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        assert_eq!(*keys.entry(task).or_insert(key), key, "task {task} was given two keys");
        assert!(deliveries.insert((task, attempt)), "attempt {attempt} of task {task} was delivered twice");
    }
    let distinct: BTreeSet<&&str> = keys.values().collect();
    assert_eq!(distinct.len(), keys.len(), "two tasks were given one key");
    // first, two in each item, one in the parallel, last.
    assert_eq!(keys.len(), EXECUTIONS * (3 + 2 * ITEMS));
}
