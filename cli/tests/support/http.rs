//! Waiting for something to see, and HTTP in its plainest form.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest time that anything is waited for; a test that passes never needs it.
const DEADLINE: Duration = Duration::from_secs(120);
/// Time between looks: what is waited for needs the processor, too.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until there is something to see.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// One HTTP request, on a connection of its own: the status and the body.
#[track_caller]
pub fn http(base: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    http_as(base, "", method, path, body)
}

/// As [`http`], of somebody who shows a key; an empty one is none.
#[track_caller]
pub fn http_as(base: &str, key: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let answer = try_http_as(base, key, method, path, body);
    answer.unwrap_or_else(|| panic!("{method} {path}: {base} does not answer"))
}

/// As [`http`]; none when nobody is there, or gives no whole answer.
pub fn try_http(base: &str, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    try_http_as(base, "", method, path, body)
}

fn try_http_as(base: &str, key: &str, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let authorization =
        if key.is_empty() { String::new() } else { format!("Authorization: Bearer {key}\r\n") };
    let host = base.strip_prefix("http://")?;
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).ok()?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         {authorization}Connection: close\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}
