//! A worker in Python that was written from `docs/protocol.md` alone (`e2e/python/worker.py`, `careful.py`) does the work of the real
//! engine, over real servers: it runs tasks, heartbeats, is killed, is cancelled, loses its queue and its leases, and ends.

#![expect(clippy::unwrap_used, reason = "test code")]

mod python_document;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flowmonkey_plumbing::queue::redis::{AclRole, acl_rules};
use flowmonkey_test_support::{Postgres, Redis, RedisOptions, TestDatabase, wait_for, wait_until};
use redis::FromRedisValue as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The system's Python, for which Debian has the packages.
const PYTHON: &str = "/usr/bin/python3";
const PACKAGES: &str = "python3-redis python3-msgpack python3-zstandard";
/// How long anything may take that is waited for.
const DEADLINE: Duration = Duration::from_secs(30);
const HEARTBEAT_MS: &str = "200";
/// For tests that wait for leases to end.
const SHORT_LEASE_MS: &str = "2000";
/// For those in which none may end, on however busy a machine.
const LONG_LEASE_MS: &str = "20000";
/// The handler whose worker has a user of its own at Redis, with the rights of its pool and no others.
const CONFINED: &str = "forge";
/// First byte of a message: MessagePack as it is, or in a zstd frame.
const PLAIN: u8 = 1;
const ZSTD: u8 = 2;

/// A process that ends with the value.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for the exit code.
    async fn code(mut self) -> Option<i32> {
        wait_for("the process ends", DEADLINE, || {
            let ended = self.0.try_wait().unwrap();
            async move { ended }
        })
        .await
        .code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has usually ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An engine with a record and queues of its own.
struct World {
    _engine: Process,
    address: String,
    redis: Redis,
    _database: TestDatabase,
    folder: TempDir,
}

impl World {
    async fn start(lease_ms: &str) -> Self {
        require_python();
        let template = Postgres::shared().await.template("python_worker", migrate).await;
        let database = template.database().await;
        let rights = acl_rules(&AclRole::Worker { pool: CONFINED.into() }, "flowmonkey").unwrap();
        let acl = vec![
            "user default on nopass ~* &* +@all".to_owned(),
            format!("user {CONFINED} on >secret {rights}"),
        ];
        let redis = Redis::start(RedisOptions { acl, ..RedisOptions::default() }).await;
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("engine.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowmonkey"));
        command.args([
            "engine",
            "--insecure-no-auth",
            "--listen",
            "127.0.0.1:0",
            "--heartbeat-ms",
            HEARTBEAT_MS,
            "--lease-ms",
            lease_ms,
        ]);
        command.args(["--database", &database.url(), "--redis", &redis.url()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let engine = Process(command.spawn().unwrap());
        let address = wait_for("the engine says where it is", DEADLINE, || {
            let log = fs::read_to_string(&log).unwrap();
            let address = log.split_once("listens on http://").and_then(|(_, rest)| rest.split_once('\n'));
            let address = address.map(|(address, _)| address.to_owned());
            async move { address }
        })
        .await;
        Self { _engine: engine, address, redis, _database: database, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a worker for a handler.
    fn worker(&self, handler: &str, slots: usize, prefetch: usize) -> Process {
        let login = if handler == CONFINED { format!("{CONFINED}:secret@") } else { String::new() };
        let numbers = [slots.to_string(), prefetch.to_string()];
        let folder = self.folder.path().to_str().unwrap();
        self.script("cases.py", &login, &[folder, &numbers[0], &numbers[1], handler])
    }

    /// Starts one of the scripts in `e2e/python`.
    fn script(&self, script: &str, login: &str, arguments: &[&str]) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/python").join(script);
        let redis = format!("redis://{login}127.0.0.1:{}", self.redis.port());
        let mut command = Command::new(PYTHON);
        command.arg("-B").arg(script).arg(redis).args(arguments);
        let log = fs::File::options().create(true).append(true).open(self.path("worker.log")).unwrap();
        Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// One request, on a connection of its own.
    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "Host: {}\r\nContent-Type: application/json\r\nContent-Length: {}",
            self.address,
            body.len()
        );
        write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.split(' ').nth(1).unwrap().starts_with('2'), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap()
    }

    /// Publishes a flow of one step, which is given the context's `input`, and starts it.
    fn start_step(&self, id: &str, step: &Value, input: &Value) -> String {
        let mut step = step.clone();
        step["outputKey"] = json!("result");
        if step["type"] != "map" {
            step["input"] = json!({ "type": "key", "key": "input" });
        }
        let output = json!({ "type": "key", "key": "result" });
        let flow = json!({ "id": id, "version": "1.0.0", "initialStepId": "step", "steps": { "step": step }, "output": output });
        self.call("POST", "/v1/flows", Some(&flow));
        let start = json!({ "flowId": id, "input": { "input": input } });
        self.call("POST", "/v1/executions", Some(&start))["id"].as_str().unwrap().to_owned()
    }

    /// Waits for the end of an execution, which must be `status`, and gives its record.
    fn ends(&self, id: &str, status: &str) -> Value {
        let record = self.call("GET", &format!("/v1/executions/{id}?wait={}", DEADLINE.as_secs()), None);
        let logs =
            ["engine.log", "worker.log"].map(|log| fs::read_to_string(self.path(log)).unwrap_or_default());
        assert_eq!(record["status"], status, "{record:#}\n{}", logs.join("\n"));
        record
    }

    /// Attempts of a record that count, and how they ended.
    fn attempts(record: &Value) -> Vec<(u64, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let history = record["history"].as_array().unwrap().iter();
        history
            .map(|e| (e["attempt"].as_u64().unwrap(), text(&e["outcome"]), text(&e["error"]["code"])))
            .collect()
    }

    /// What the handlers have noted, by the first word.
    fn notes(&self, word: &str) -> Vec<String> {
        let notes = fs::read_to_string(self.path("notes")).unwrap_or_default();
        notes.lines().filter_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_owned()).collect()
    }

    async fn noted(&self, word: &str, count: usize) -> Vec<String> {
        let what = format!("`{word}` is noted {count} times");
        wait_until(&what, DEADLINE, || async { self.notes(word).len() >= count }).await;
        let notes = self.notes(word);
        assert_eq!(notes.len(), count, "{notes:?}");
        notes
    }

    fn open_gate(&self) {
        fs::write(self.path("gate"), "").unwrap();
    }

    async fn redis(&self, words: &[&str]) -> redis::Value {
        self.redis.command(words).await
    }

    /// How many tasks are ready at normal priority, and in hands.
    fn depth(&self, handler: &str) -> (u64, u64) {
        let queues = self.call("GET", "/v1/queues", None);
        let items = queues["items"].as_array().unwrap();
        items.iter().find(|item| item["handler"] == handler).map_or((0, 0), |item| {
            (item["ready"]["normal"].as_u64().unwrap(), item["inFlight"].as_u64().unwrap())
        })
    }
}

async fn migrate(database: String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowmonkey"));
    let migrated = command.args(["migrate", "--database", &database]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
}

/// Ends the test with the cure when something is missing.
fn require_python() {
    let has = Command::new(PYTHON).args(["-c", "import redis, msgpack, zstandard"]).output();
    assert!(
        has.is_ok_and(|has| has.status.success()),
        "this test needs {PYTHON} with {PACKAGES}; on Debian: apt-get install python3 {PACKAGES}"
    );
}

#[tokio::test]
async fn a_worker_in_python_does_the_work_of_flows() {
    let world = World::start(LONG_LEASE_MS).await;
    // Nobody serves the pool yet, so the message can be looked at as it travels.
    let text = "a long story. ".repeat(4_000);
    let mirrored = world.start_step("mirrored", &json!({ "type": "mirror" }), &json!({ "text": text }));
    let payload = wait_for("the task is in the queue", DEADLINE, || async {
        let payloads = world.redis(&["HVALS", "flowmonkey:payload:{mirror}"]).await;
        Vec::<Vec<u8>>::from_redis_value(payloads).unwrap().pop()
    })
    .await;
    assert_eq!((payload[0], payload.len() < text.len() / 2), (ZSTD, true));

    fs::write(world.path("lose"), "").unwrap();
    let _workers = ["greet", "flaky", "mirror", "unwritable"].map(|handler| world.worker(handler, 8, 8));
    let names: Vec<Value> = (0..50).map(|number| json!({ "name": format!("guest {number}") })).collect();
    let body = json!({ "type": "greet", "input": { "type": "key", "key": "item" } });
    let items = json!({ "type": "key", "key": "input" });
    let map = json!({ "type": "map", "config": { "items": items, "body": body } });
    let greeted = world.start_step("greeted", &map, &json!(names));
    let retry = json!({ "type": "flaky", "retry": { "maxAttempts": 3, "backoffMs": 10 } });
    let retried = world.start_step("retried", &retry, &Value::Null);
    let broken = world.start_step("broken", &json!({ "type": "greet" }), &json!({}));
    let integer = world.start_step("too-large", &json!({ "type": "unwritable" }), &json!("integer"));
    let set = world.start_step("no-json", &json!({ "type": "unwritable" }), &json!("set"));

    let greetings: Vec<String> = (0..50).map(|number| format!("Hello, guest {number}!")).collect();
    assert_eq!(world.ends(&greeted, "completed")["output"], json!(greetings));
    let retried = world.ends(&retried, "completed");
    assert_eq!(retried["output"], json!({ "attempt": 3, "half": 0.5 }));
    let failed = |attempt| (attempt, "failure".to_owned(), "NOT_YET".to_owned());
    assert_eq!(World::attempts(&retried)[..2], [failed(1), failed(2)]);
    assert_eq!(world.ends(&broken, "failed")["error"]["code"], "HANDLER_ERROR");
    assert_eq!(world.ends(&integer, "failed")["error"]["code"], "RESULT_UNWRITABLE");
    assert_eq!(world.ends(&set, "failed")["error"]["code"], "HANDLER_ERROR");

    let reversed: String = text.chars().rev().collect();
    let mirrored = world.ends(&mirrored, "completed");
    assert_eq!(mirrored["output"]["text"], reversed.repeat(2));
    // The answer of the claim that took it was lost; it was given back at once, not when its lease had ended.
    assert!(!world.path("lose").exists());
    assert_eq!(World::attempts(&mirrored), [(1, "success".to_owned(), String::new())]);
    let formats: Vec<String> = world.notes("format step");
    assert_eq!(formats.iter().filter(|format| **format == ZSTD.to_string()).count(), 1);
    assert!(formats.contains(&PLAIN.to_string()));
}

/// The worker without what spares work when something goes wrong.
#[tokio::test]
async fn the_short_worker_works_and_ends_and_its_tasks_outlive_it() {
    let world = World::start(SHORT_LEASE_MS).await;
    let names: Vec<Value> = (0..20).map(|number| json!({ "name": format!("guest {number}") })).collect();
    let body = json!({ "type": "greet", "input": { "type": "key", "key": "item" } });
    let items = json!({ "type": "key", "key": "input" });
    let map = json!({ "type": "map", "config": { "items": items, "body": body } });
    let greeted = world.start_step("greeted", &map, &json!(names));
    let killed = world.script("worker.py", "", &[]);
    let queue = ["LLEN", "flowmonkey:tasks:{greet}"];
    wait_until("it has taken the first tasks", DEADLINE, || async {
        world.redis(&queue).await != redis::Value::Int(20)
    })
    .await;
    killed.signal(Signal::KILL);
    killed.code().await;
    let other = world.script("worker.py", "", &[]);
    let greetings: Vec<String> = (0..20).map(|number| format!("Hello, guest {number}!")).collect();
    assert_eq!(world.ends(&greeted, "completed")["output"], json!(greetings));
    other.signal(Signal::TERM);
    assert_eq!(other.code().await, Some(0));
}

#[tokio::test]
async fn a_task_of_a_killed_worker_is_finished_by_another() {
    let world = World::start(SHORT_LEASE_MS).await;
    let doomed = world.worker("hold", 1, 0);
    let id = world.start_step("held", &json!({ "type": "hold" }), &json!("a"));
    world.noted("begun", 1).await;
    doomed.signal(Signal::KILL);
    doomed.code().await;
    let _other = world.worker("hold", 1, 0);
    let begun = world.noted("begun", 2).await;
    assert!(begun[1].starts_with("a 2 "), "{begun:?}");
    world.open_gate();
    assert_eq!(world.ends(&id, "completed")["output"], 2);
    assert_eq!(world.notes("ended"), ["a 2"]);
}

#[tokio::test]
async fn a_task_outlives_the_loss_of_the_queue_and_is_not_run_twice() {
    let world = World::start(LONG_LEASE_MS).await;
    let _worker = world.worker("hold", 2, 0);
    let id = world.start_step("held", &json!({ "type": "hold" }), &json!("a"));
    world.noted("begun", 1).await;
    let generation = ["GET", "flowmonkey:generation:{hold}"];
    let is_built = async |world: &World| {
        !matches!(world.redis(&generation).await, redis::Value::Nil)
            && world.redis(&generation).await != redis::Value::BulkString(b"0".to_vec())
    };
    wait_until("the queue is built", DEADLINE, || is_built(&world)).await;
    world.redis(&["FLUSHALL"]).await;
    wait_until("the queue is built anew", DEADLINE, || is_built(&world)).await;
    world.open_gate();
    let record = world.ends(&id, "completed");
    assert_eq!(record["output"], 1);
    assert_eq!(world.notes("begun").len(), 1);
    assert_eq!(world.notes("ended"), ["a 1"]);
}

#[tokio::test]
async fn a_forged_result_is_refused_and_the_task_is_delivered_anew() {
    let world = World::start(LONG_LEASE_MS).await;
    let _worker = world.worker(CONFINED, 1, 0);
    let id = world.start_step("forged", &json!({ "type": "forge" }), &Value::Null);
    let record = world.ends(&id, "completed");
    assert_eq!(record["output"], "honest");
    assert_eq!(World::attempts(&record), [(2, "success".to_owned(), String::new())]);
    let log = fs::read_to_string(world.path("engine.log")).unwrap();
    assert!(log.contains("a result is not known to be of its pool"), "{log}");
    // The rights of its pool are all that the worker needs.
    assert_eq!(fs::read_to_string(world.path("worker.log")).unwrap(), "");
}

#[tokio::test]
async fn a_terminated_worker_gives_back_what_it_has_not_begun() {
    let world = World::start(LONG_LEASE_MS).await;
    let first = world.worker("hold", 1, 5);
    let body = json!({ "type": "hold", "input": { "type": "key", "key": "item" } });
    let items = json!({ "type": "key", "key": "input" });
    let map = json!({ "type": "map", "config": { "items": items, "body": body } });
    let id = world.start_step("held", &map, &json!(["a", "b", "c", "d"]));
    wait_until("all are in hand and one is begun", DEADLINE, || async {
        world.depth("hold") == (0, 4) && world.notes("begun").len() == 1
    })
    .await;
    first.signal(Signal::TERM);
    wait_until("the others are given back", DEADLINE, || async { world.depth("hold") == (3, 1) }).await;
    world.open_gate();
    assert_eq!(first.code().await, Some(0));
    assert_eq!((world.notes("begun").len(), world.notes("ended").len()), (1, 1));
    assert_eq!(world.redis(&["HLEN", "flowmonkey:workers:{hold}"]).await, redis::Value::Int(0));
    let _second = world.worker("hold", 4, 0);
    // The same attempts: giving back uses none up.
    assert_eq!(world.ends(&id, "completed")["output"], json!([1, 1, 1, 1]));
    assert_eq!(world.notes("begun").len(), 4);
}

#[tokio::test]
async fn handlers_stop_when_they_are_cancelled_or_their_leases_end() {
    let world = World::start(SHORT_LEASE_MS).await;
    let _worker = world.worker("hold", 1, 0);
    let cancelled = world.start_step("cancelled", &json!({ "type": "hold" }), &json!("a"));
    world.noted("begun", 1).await;
    world.call("POST", &format!("/v1/executions/{cancelled}:cancel"), Some(&json!({})));
    world.ends(&cancelled, "cancelled");
    assert_eq!(world.noted("stopped", 1).await, ["a 1 cancel"]);

    // Somebody else is said to own it.
    let lost = world.start_step("lost", &json!({ "type": "hold" }), &json!("b"));
    world.noted("begun", 2).await;
    let owners = "flowmonkey:owners:{hold}";
    let held: Vec<String> =
        redis::FromRedisValue::from_redis_value(world.redis(&["HKEYS", owners]).await).unwrap();
    world.redis(&["HSET", owners, &held[0], "somebody"]).await;
    assert_eq!(world.noted("stopped", 2).await[1], "b 1 lost");
    let begun = world.noted("begun", 3).await;
    assert!(begun[2].starts_with("b 2 "), "{begun:?}");

    // The queue does not answer: the worker stops by its own clock.
    world.redis.pause();
    assert_eq!(world.noted("stopped", 3).await[2], "b 2 fenced");
    world.redis.resume();
    let begun = world.noted("begun", 4).await;
    assert!(begun[3].starts_with("b 3 "), "{begun:?}");
    world.open_gate();
    assert_eq!(world.ends(&lost, "completed")["output"], 3);
    assert_eq!(world.notes("ended"), ["b 3"]);
}
