//! `run --server --fallback embedded`: a server that is away, that dies with the request in its hands, that answers 503.
#![expect(clippy::unwrap_used, reason = "test code")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::{Bench, Done, HELLO};

/// A server that hears requests and answers each with `answer`: nothing, if that is empty.
struct Deaf {
    url: String,
    /// The bodies that it got.
    heard: Arc<Mutex<Vec<Value>>>,
}

impl Deaf {
    /// Hears `times` requests, then is gone: nobody listens any more.
    fn hears(times: usize, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let bodies = heard.clone();
        std::thread::spawn(move || {
            for _ in 0..times {
                let (mut stream, _) = listener.accept().unwrap();
                let body = read_body(&stream);
                bodies.lock().unwrap().push(body);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { url, heard }
    }

    fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }
}

fn read_body(stream: &TcpStream) -> Value {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}

const UNAVAILABLE: &str =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy";
const INVALID: &str = "HTTP/1.1 422 Unprocessable Entity\r\nContent-Length: 40\r\nConnection: close\r\n\r\n\
    {\"code\":\"INVALID_REQUEST\",\"detail\":\"no\"}";

const STARTED: &str = "HTTP/1.1 202 Accepted\r\nContent-Length: 67\r\nConnection: close\r\n\r\n\
    {\"id\":\"ex_0190a1fd052c307e3e95b983161565db\",\"status\":\"x\",\"q\":12345}";

/// An address on which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn run(bench: &Bench, url: &str, more: &[&str]) -> Done {
    bench.file("hello.yaml", HELLO);
    let mut args =
        vec!["run", "hello.yaml", "--input", r#"{"name":"Ada"}"#, "--output", "json", "--server", url];
    args.extend(more);
    bench.run(&args)
}

const EMBEDDED: [&str; 2] = ["--fallback", "embedded"];

#[test]
fn without_a_fallback_a_server_that_is_away_is_an_error() {
    let done = run(&Bench::new(), &nobody(), &[]).expect(4);
    assert_eq!(done.stdout, "");
}

#[test]
fn a_server_that_is_away_has_got_nothing_and_the_flow_runs_here() {
    let done = run(&Bench::new(), &nobody(), &EMBEDDED).expect(0);
    assert_eq!(done.json()["output"]["text"], "Hello Ada");
    assert!(done.stderr.contains("running here instead, idempotency key "), "{}", done.stderr);
    assert!(!done.stderr.contains("MAY HAVE STARTED"), "{}", done.stderr);
}

#[test]
fn a_server_that_dies_with_the_request_is_asked_again_under_the_same_key_and_then_it_is_said() {
    let server = Deaf::hears(1, "");
    let done = run(&Bench::new(), &server.url, &[&EMBEDDED[..], &["--idempotency-key", "order-17"]].concat())
        .expect(0);
    let record = done.json();
    assert_eq!(record["output"]["text"], "Hello Ada");
    assert!(done.stderr.contains("MAY HAVE STARTED") && done.stderr.contains("order-17"), "{}", done.stderr);
    // What the server got is the execution that ran here: handlers get the same idempotency keys from both.
    let heard = server.heard();
    assert_eq!(heard.len(), 1);
    assert_eq!((&heard[0]["idempotencyKey"], &heard[0]["executionId"]), (&"order-17".into(), &record["id"]));
}

#[test]
fn a_server_that_answers_503_is_asked_again_and_then_it_is_said() {
    let server = Deaf::hears(3, UNAVAILABLE);
    let done = run(&Bench::new(), &server.url, &EMBEDDED).expect(0);
    assert_eq!(done.json()["output"]["text"], "Hello Ada");
    assert!(done.stderr.contains("MAY HAVE STARTED") && done.stderr.contains("503"), "{}", done.stderr);
    let heard = server.heard();
    assert_eq!(heard.len(), 3);
    assert!(heard.iter().all(|body| body == &heard[0] && body["idempotencyKey"].is_string()), "{heard:?}");
}

#[test]
fn what_a_server_has_begun_is_left_to_it_when_it_dies() {
    assert_eq!(STARTED.split_once("\r\n\r\n").unwrap().1.len(), 67);
    let server = Deaf::hears(1, STARTED);
    let done = run(&Bench::new(), &server.url, &EMBEDDED).expect(4);
    assert_eq!(done.stdout, "");
    assert!(done.stderr.contains("started ex_0190a1fd"), "{}", done.stderr);
    assert!(!done.stderr.contains("running here"), "{}", done.stderr);
}

#[test]
fn a_server_that_refuses_is_right() {
    let server = Deaf::hears(1, INVALID);
    let done = run(&Bench::new(), &server.url, &EMBEDDED).expect(2);
    assert_eq!(done.stdout, "");
    assert_eq!(server.heard().len(), 1);
}

#[test]
fn a_server_that_is_there_runs_the_flow_once_for_each_key() {
    let bench = Bench::new();
    let dev = bench.start(&["dev", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    let url = bench.address("data", &dev);
    let more = [&EMBEDDED[..], &["--idempotency-key", "order-17"]].concat();
    let first = run(&bench, &url, &more).expect(0);
    assert!(first.stderr.contains("started "), "{}", first.stderr);
    let second = run(&bench, &url, &more).expect(0);
    assert!(second.stderr.contains("nothing is started"), "{}", second.stderr);
    assert_eq!(first.json()["id"], second.json()["id"]);
}

#[test]
fn the_key_counts_in_a_data_directory_too() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    let run = |name: &str| {
        let input = format!(r#"{{"name":"{name}"}}"#);
        let args = ["--data-dir", "data", "--output", "json", "--idempotency-key", "one", "--input", &input];
        bench.run(&[&["run", "hello.yaml"], &args[..]].concat()).expect(0)
    };
    let (first, second) = (run("Ada"), run("Bea"));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(second.json()["output"]["text"], "Hello Ada");
    assert!(second.stderr.contains("ANOTHER input"), "{}", second.stderr);
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let bench = Bench::new();
    bench.file("hello.yaml", HELLO);
    bench.run(&["run", "hello.yaml", "--fallback", "embedded"]).expect(2);
    bench.run(&["run", "published", "--server", &nobody(), "--fallback", "embedded"]).expect(2);
}
