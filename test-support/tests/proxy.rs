//! The proxy does to a connection what it is told.
#![expect(clippy::unwrap_used, reason = "test code")]

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use flowmonkey_test_support::{Direction, FaultProxy, Flow, Redis, RedisOptions, patient, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(10);
/// Long enough for an answer to have come, were it not held back.
const MOMENT: Duration = Duration::from_millis(150);

async fn setup() -> (Redis, FaultProxy) {
    let redis = Redis::start(RedisOptions::default()).await;
    let proxy = FaultProxy::start(redis.port());
    (redis, proxy)
}

async fn connect(proxy: &FaultProxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// What comes back, until `length` bytes or the end are there.
async fn reply(stream: &mut TcpStream, length: usize) -> std::io::Result<String> {
    let mut text = Vec::new();
    timeout(LIMIT, stream.take(u64::try_from(length).unwrap()).read_to_end(&mut text)).await.unwrap()?;
    Ok(String::from_utf8(text).unwrap())
}

async fn echo(stream: &mut TcpStream, word: &str) -> std::io::Result<String> {
    stream.write_all(format!("ECHO {word}\r\n").as_bytes()).await?;
    reply(stream, format!("${}\r\n{word}\r\n", word.len()).len()).await
}

async fn stays_silent(stream: &mut TcpStream) -> bool {
    timeout(MOMENT, stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn healthy_it_passes_all_and_counts() {
    let (redis, proxy) = setup().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, "hello").await.unwrap(), "$5\r\nhello\r\n");
    assert_eq!((proxy.connections_accepted(), proxy.connections_open()), (1, 1));
    assert_eq!((proxy.bytes(Direction::ToServer), proxy.bytes(Direction::ToClient)), (12, 11));
    drop(stream);
    wait_until("the end is passed on", LIMIT, async || proxy.connections_open() == 0).await;
    let large = "x".repeat(3_000_000);
    let client = redis::Client::open(proxy.url_of(&redis.url(), redis.port())).unwrap();
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient()).await.unwrap();
    let echoed: String = redis::cmd("ECHO").arg(&large).query_async(&mut connection).await.unwrap();
    assert!(echoed == large);
}

#[tokio::test]
async fn a_delay_delays_and_ends_with_heal() {
    let (_redis, proxy) = setup().await;
    let mut stream = connect(&proxy).await;
    proxy.set(Direction::ToClient, Flow::Delayed(Duration::from_millis(200)));
    let sent = Instant::now();
    echo(&mut stream, "late").await.unwrap();
    assert!(sent.elapsed() >= Duration::from_millis(200));
    proxy.set(Direction::ToServer, Flow::Delayed(Duration::from_secs(3600)));
    stream.write_all(b"ECHO on\r\n").await.unwrap();
    assert!(stays_silent(&mut stream).await);
    proxy.heal();
    assert_eq!(reply(&mut stream, 8).await.unwrap(), "$2\r\non\r\n");
}

#[tokio::test]
async fn what_is_held_arrives_later_and_what_is_swallowed_never() {
    let (redis, proxy) = setup().await;
    for direction in [Direction::ToServer, Direction::ToClient] {
        let mut stream = connect(&proxy).await;
        proxy.set(direction, Flow::Held);
        stream.write_all(b"INCR n\r\n").await.unwrap();
        assert!(stays_silent(&mut stream).await);
        proxy.heal();
        reply(&mut stream, 4).await.unwrap();

        proxy.set(direction, Flow::Swallowed);
        stream.write_all(b"INCR n\r\n").await.unwrap();
        assert!(stays_silent(&mut stream).await);
        assert_ne!(proxy.bytes_swallowed(), 0);
        proxy.heal();
        let reset = reply(&mut stream, 4).await.unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "a stream with a hole in it is of no use");
    }
    // Half-open: of the four, only the one that was swallowed on its way to the server did not count.
    assert_eq!(redis.command(&["GET", "n"]).await, redis::Value::BulkString(b"3".to_vec()));
}

#[tokio::test]
async fn connections_are_cut_or_reset_at_once_or_within_a_reply() {
    let (_redis, proxy) = setup().await;
    let mut stream = connect(&proxy).await;
    echo(&mut stream, "hello").await.unwrap();
    proxy.cut();
    assert_eq!(reply(&mut stream, 1).await.unwrap(), "");

    let mut stream = connect(&proxy).await;
    echo(&mut stream, "hello").await.unwrap();
    proxy.reset();
    assert_eq!(reply(&mut stream, 1).await.unwrap_err().kind(), ErrorKind::ConnectionReset);

    let mut stream = connect(&proxy).await;
    echo(&mut stream, "hello").await.unwrap();
    proxy.set(Direction::ToClient, Flow::CutAfter(6));
    assert_eq!(echo(&mut stream, "hello").await.unwrap(), "$5\r\nhe");
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, "again").await.unwrap(), "$5\r\nag");
    proxy.heal();
    let mut stream = connect(&proxy).await;
    assert_eq!(echo(&mut stream, "hello").await.unwrap(), "$5\r\nhello\r\n");
}

#[tokio::test]
async fn new_connections_are_refused_and_taken_again() {
    let (_redis, proxy) = setup().await;
    let mut stream = connect(&proxy).await;
    echo(&mut stream, "hello").await.unwrap();
    proxy.refuse();
    let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(echo(&mut stream, "still").await.unwrap(), "$5\r\nstill\r\n");
    proxy.heal();
    echo(&mut connect(&proxy).await, "hello").await.unwrap();
    let address = proxy.address();
    drop(proxy);
    assert_eq!(reply(&mut stream, 1).await.unwrap(), "");
    TcpStream::connect(address).await.unwrap_err();
}
