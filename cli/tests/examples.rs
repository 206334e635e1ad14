//! Every example, as its README says, with the real program.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::fs;

use serde_json::{Value, json};
use support::{Dev, Run, Server, Started, call, example, history, http, wait_for};

#[test]
fn hello_greets_and_shouts() {
    let record = Run::of("hello/flow.yaml").input(&json!({ "name": "Ada" })).ends("completed");
    assert_eq!(record["output"], "HELLO, ADA");
    assert_eq!(history(&record), [("greet", "success"), ("pause", "wait"), ("shout", "success")]);
    let record = Run::of("hello/flow.yaml").ends("completed");
    assert_eq!(record["output"], "HELLO, WORLD");
}

#[test]
fn a_wait_of_thirty_days_passes_at_once_when_time_is_skipped() {
    let run = Run::of("long-wait/flow.yaml").input(&json!({ "customer": "Ada" })).args(&["--skip-time"]);
    let record = run.ends("completed");
    assert_eq!(record["output"], json!({ "plan": "free", "by": "time" }));
    assert_eq!(record["context"]["mail"]["reminder"], "Your trial has ended (WAIT_TIMEOUT)");
    let month = |record: &Value, key: &str| record[key].as_str().unwrap()[..10].to_owned();
    assert_ne!(month(&record, "createdAt"), month(&record, "updatedAt"), "virtual time has passed");
}

#[test]
fn a_signal_ends_the_long_wait_early() {
    let run = Run::of("long-wait/flow.yaml").input(&json!({ "customer": "Ada" }));
    let started = run.starts(|record| record["status"] == "waiting");
    started.ask("signal", &["decided", "--data", r#"{"plan":"pro"}"#]);
    let record = started.ends("completed");
    assert_eq!(record["output"], json!({ "plan": "pro", "by": "customer" }));
}

#[test]
fn a_python_handler_goes_on_from_its_checkpoint() {
    let input = fs::read_to_string(example("python-handler/input.json")).unwrap();
    let run = Run::of("python-handler/flow.yaml")
        .handlers("python-handler/handlers.yaml")
        .input(&serde_json::from_str(&input).unwrap());
    let record = run.ends("completed");
    let words = json!({ "the": 3, "monkey": 2, "climbs": 1, "tree": 1, "stands": 1, "sleeps": 1, "a": 1, "flow": 1, "flows": 1 });
    assert_eq!(record["output"], json!({ "words": words, "report": { "documents": 4, "attempt": 2 } }));
    assert_eq!(history(&record), [("count", "failure"), ("count", "success")]);
    assert_eq!(record["history"][0]["error"]["code"], "TIRED");
}

#[test]
fn a_job_in_python_that_is_killed_goes_on_from_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    // The handler of the example; what it says is written down as well.
    let script = example("python-job/prime_count.py");
    let command = format!("python3 '{}' | tee -a '{}'", script.display(), said.display());
    let handler = json!({ "type": "prime-count", "version": "1.0.0", "mode": "stateful", "command": ["sh", "-c", command] });
    let manifest = folder.path().join("handlers.json");
    fs::write(&manifest, json!({ "handlers": [handler] }).to_string()).unwrap();
    let mut dev = Dev::with_flows("python-job/flow.yaml", &["count-primes"], manifest.to_str().unwrap());
    let input = json!({ "limit": 999, "chunk": 100, "pauseMs": 100 });
    let (status, started) =
        dev.call("POST", "/v1/executions", Some(&json!({ "flowId": "count-primes", "input": input })));
    assert_eq!(status, 202, "{started}");
    // What each attempt saved: the attempts that did the chunks until then.
    let saved = || -> Vec<Vec<u64>> {
        let said = fs::read_to_string(&said).unwrap_or_default();
        let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let saved = lines.filter(|line| line["type"] == "checkpoint");
        saved.map(|line| serde_json::from_value(line["data"]["chunks"].clone()).unwrap()).collect()
    };
    wait_for("some chunks to be done", || (saved().len() >= 4).then_some(()));
    dev.kill_and_restart();
    let record = dev.ends(started["id"].as_str().unwrap(), "completed");
    assert_eq!(record["output"], json!({ "primes": 168, "chunks": 10, "attempts": [1, 2] }));
    let second = saved().into_iter().find(|chunks| chunks.contains(&2)).unwrap();
    assert!(second.len() > 3, "the second attempt began with what the first had saved: {second:?}");
}

#[test]
fn a_film_is_encoded_segment_by_segment() {
    let films = tempfile::tempdir().unwrap();
    let run = Run::of("video/flow.yaml").args(&["--allow-command", "ffmpeg", "--allow-command", "ffprobe"]);
    let record = run.in_folder(films.path()).ends("completed");
    let film = &record["output"]["film"];
    assert_eq!(record["output"]["verdict"], "every frame is there");
    assert_eq!(
        (&film["frames"], &film["segments"], &film["durationMs"], &film["resumedFrom"]),
        (&json!(180), &json!(3), &json!(6000), &Value::Null)
    );
    assert_eq!(film["bytes"], fs::metadata(films.path().join("film.mp4")).unwrap().len());
    let mut left: Vec<_> =
        fs::read_dir(films.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["film.mp4", "raw.mp4"]);
}

#[test]
fn a_shell_handler_needs_nothing_but_sh() {
    let manifest = example("shell-handler/handlers.yaml");
    let run = Run::of("shell-handler/flow.yaml").args(&["--handlers", manifest.to_str().unwrap()]);
    let record = run.ends("completed");
    let files: Vec<_> = fs::read_dir(example("shell-handler")).unwrap().map(|entry| entry.unwrap()).collect();
    let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len()).sum();
    let usage = json!({ "files": files.len(), "bytes": bytes });
    assert_eq!(record["output"], json!({ "usage": usage, "size": "small" }));
}

#[test]
fn ten_thousand_children_join_exactly_once() {
    let record = Run::of("map-10000/flow.yaml").ends("completed");
    assert_eq!(record["output"], json!({ "counted": 10_000, "sum": 333_283_335_000_u64 }));
    let squares = record["context"]["squares"].as_array().unwrap();
    let expected = (0..10_000_u64).map(|number| json!(number * number));
    assert!(squares.iter().cloned().eq(expected), "each at its place");
    assert_eq!(history(&record).iter().filter(|(step, _)| *step == "square").count(), 1);
}

#[test]
fn the_nightly_report_fills_a_table_and_a_file() {
    let files = tempfile::tempdir().unwrap();
    let input = format!("@{}", example("nightly-report/input.json").display());
    let run = Run::of("nightly-report/flow.yaml").args(&[
        "--input",
        &input,
        "--files",
        files.path().to_str().unwrap(),
    ]);
    run.ends("completed");
    let csv = fs::read_to_string(files.path().join("nightly-report.csv")).unwrap();
    assert_eq!(csv, "shop,orders,total\n\"Harbour\",3,41.75\n\"Station\",0,0\n\"Market, north\",1,100\n");
    let rows =
        call(&["table", "rows", "shop_totals", "--output", "json", "--data-dir", run.data_dir()]).json();
    let rows: Vec<&Value> = rows["items"].as_array().unwrap().iter().map(|item| &item["row"]).collect();
    let row = |shop: &str, orders: u64, total: Value| json!({ "shop": shop, "orders": orders, "total": total, "source": "nightly" });
    let expected =
        [row("Harbour", 3, json!(41.75)), row("Station", 0, json!(0)), row("Market, north", 1, json!(100))];
    assert_eq!(rows, expected.iter().collect::<Vec<_>>());
}

/// An order, and the service it talks to.
struct Order {
    service: Server,
    run: Run,
}

impl Order {
    fn new(change: &Value) -> Self {
        let service = Server::python("order-saga/service.py");
        let mut input = json!({
            "service": service.url, "customer": "Ada", "address": "Tree 1",
            "items": [{ "sku": "banana", "quantity": 5 }, { "sku": "coconut", "quantity": 2 }],
        });
        input.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let run = Run::of("order-saga/flow.yaml").args(&["--allow-net", "loopback"]).input(&input);
        Self { service, run }
    }

    /// How often each action was asked for, and what happened.
    fn log(&self) -> (Vec<(String, usize)>, Vec<Value>) {
        let (_, log) = http(&self.service.url, "GET", "/log", "");
        let requests = log["requests"].as_array().unwrap();
        let asked = |path: &str| {
            let requests: Vec<_> = requests.iter().filter(|request| request["path"] == path).collect();
            assert!(
                requests.windows(2).all(|two| two[0]["key"] == two[1]["key"]),
                "one key in all attempts: {log:#}"
            );
            (path.to_owned(), requests.len())
        };
        let asked = ["/charges", "/refunds", "/shipments"].map(asked).to_vec();
        (asked, log["effects"].as_array().unwrap().clone())
    }

    fn assert_log(&self, asked: [usize; 3], effects: &[(&str, &str)]) {
        let (requests, happened) = self.log();
        let requests: Vec<usize> = requests.into_iter().map(|(_, count)| count).collect();
        assert_eq!(requests, asked, "charges, refunds, shipments: {happened:#?}");
        let happened: Vec<_> = happened
            .iter()
            .map(|effect| (effect["path"].as_str().unwrap(), effect["id"].as_str().unwrap()))
            .collect();
        assert_eq!(happened, effects);
    }
}

fn is_at<'a>(step: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |record| record["currentStepId"] == step && record["status"] == "waiting"
}

#[test]
fn an_order_is_paid_once_although_the_answer_was_lost() {
    let order = Order::new(&json!({}));
    let record = order.run.ends("completed");
    assert_eq!(record["output"], json!({ "paid": 39, "tracking": "FM000002" }));
    order.assert_log([2, 0, 1], &[("/charges", "charge-1"), ("/shipments", "shipment-2")]);
}

#[test]
fn a_failed_shipment_refunds_the_payment_once() {
    let order = Order::new(&json!({ "address": "nowhere" }));
    let record = order.run.ends("failed");
    assert_eq!(
        (&record["error"]["code"], &record["error"]["stepId"]),
        (&json!("HTTP_ERROR"), &json!("ship"))
    );
    assert_eq!(record["context"]["apology"], "Sorry, Ada");
    order.assert_log([2, 2, 1], &[("/charges", "charge-1"), ("/refunds", "refund-2")]);
    assert_eq!(order.log().1[1]["charge"], "charge-1");
}

#[test]
fn a_sold_out_order_is_not_paid() {
    let order = Order::new(&json!({ "items": [{ "sku": "banana", "quantity": 200 }] }));
    let record = order.run.ends("failed");
    assert_eq!(record["error"]["code"], "SOLD_OUT");
    order.assert_log([0, 0, 0], &[]);
}

#[test]
fn a_doubtful_order_waits_for_a_person() {
    let hammocks = json!({ "items": [{ "sku": "hammock", "quantity": 5 }] });
    let order = Order::new(&hammocks);
    let started: Started = order.run.starts(is_at("review"));
    let refused = started.call("signal", &["review", "--data", r#"{"approved":"yes"}"#]);
    assert_ne!(refused.code, 0, "the form wants a boolean");
    order.assert_log([0, 0, 0], &[]);
    started.ask("signal", &["review", "--data", r#"{"approved":true}"#]);
    let record = started.ends("completed");
    assert_eq!(record["output"]["paid"], 1245);

    let order = Order::new(&hammocks);
    let started = order.run.starts(is_at("review"));
    started.ask("signal", &["review", "--data", r#"{"approved":false}"#]);
    assert_eq!(started.ends("failed")["error"]["code"], "REFUSED");
    order.assert_log([0, 0, 0], &[]);

    let nobody = Order::new(&hammocks);
    let record = nobody.run.args(&["--skip-time"]).ends("failed");
    assert_eq!(record["error"]["code"], "REFUSED", "nobody has answered in two days");
}

#[test]
fn a_cancelled_order_is_refunded() {
    let order = Order::new(&json!({ "hold": true }));
    let started = order.run.starts(is_at("pack"));
    order.assert_log([2, 0, 0], &[("/charges", "charge-1")]);
    started.ask("cancel", &["--reason", "changed my mind"]);
    let record = started.ends("cancelled");
    assert_eq!(record["cancellation"]["reason"], "changed my mind");
    order.assert_log([2, 2, 0], &[("/charges", "charge-1"), ("/refunds", "refund-2")]);
}
