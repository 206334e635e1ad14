//! `http-request` against a real server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get};
use flowmonkey_handlers::{HttpPolicy, StockPolicy};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::Bench;

/// A server that stops with the test.
struct Server {
    address: SocketAddr,
    hits: Arc<AtomicU32>,
    _task: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hits = Arc::new(AtomicU32::new(0));
        let router = router().with_state(Arc::clone(&hits));
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, hits, _task: task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn router() -> Router<Arc<AtomicU32>> {
    Router::new()
        .route("/echo", any(echo))
        .route("/text", get(async || "plain"))
        .route("/binary", get(async || ([(header::CONTENT_TYPE, "image/png")], vec![0xff_u8, 0])))
        .route("/empty", get(async || (StatusCode::NO_CONTENT, [(header::CONTENT_TYPE, "application/json")])))
        .route("/broken", get(async || ([(header::CONTENT_TYPE, "application/json")], "{")))
        .route(
            "/status/{status}",
            any(async |axum::extract::Path(status): axum::extract::Path<u16>| {
                (StatusCode::from_u16(status).unwrap(), [(header::RETRY_AFTER, "7")], "what went wrong")
            }),
        )
        .route(
            "/flaky",
            get(async |State(hits): State<Arc<AtomicU32>>| {
                if hits.fetch_add(1, Ordering::SeqCst) == 0 {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::OK
                }
            }),
        )
        .route("/slow", get(async || std::future::pending::<&str>().await))
        .route(
            "/drip",
            get(async || {
                Body::from_stream(
                    futures_util::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"x")) })
                        .chain_pending(),
                )
            }),
        )
        .route(
            "/huge",
            get(async || {
                Body::from_stream(futures_util::stream::repeat_with(|| {
                    Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 8192]))
                }))
            }),
        )
        .route("/bomb", get(bomb))
        .route("/loop", any(async || Redirect::temporary("/loop")))
        .route("/see-other", any(async || Redirect::to("/echo")))
        .route("/moved", any(async || (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/echo")])))
        .route("/same-method", any(async || Redirect::temporary("/echo")))
        .route("/to", any(async |uri: Uri| Redirect::temporary(uri.query().unwrap_or_default())))
}

/// A stream that gives what it has and then neither more nor an end.
trait ChainPending: futures_util::Stream + Sized {
    fn chain_pending(self) -> impl futures_util::Stream<Item = Self::Item> {
        futures_util::StreamExt::chain(self, futures_util::stream::pending())
    }
}
impl<S: futures_util::Stream> ChainPending for S {}

async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: String) -> axum::Json<Value> {
    let headers: serde_json::Map<String, Value> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().into())).collect();
    axum::Json(json!({ "method": method.as_str(), "uri": uri.to_string(), "headers": headers, "body": body }))
}

/// 64 MiB of zeros in 64 KiB of gzip.
async fn bomb() -> Response {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..1024 {
        encoder.write_all(&[0; 65536]).unwrap();
    }
    ([(header::CONTENT_ENCODING, "gzip")], encoder.finish().unwrap()).into_response()
}

fn open() -> Bench {
    Bench::new(StockPolicy {
        http: HttpPolicy { allow_loopback: true, ..HttpPolicy::default() },
        ..StockPolicy::default()
    })
}

#[tokio::test]
async fn a_request_is_sent_as_configured_and_the_answer_is_parsed() {
    let server = Server::start().await;
    let config = json!({ "url": server.url("/echo"), "method": "POST", "headers": { "X-A": "1" }, "query": { "q": "a b" } });
    let output = open().run("http-request", config, json!({ "body": { "n": 1 } })).await.unwrap();
    assert_eq!((&output["status"], &output["statusText"]), (&json!(200), &json!("OK")));
    assert_eq!(output["headers"]["content-type"], "application/json");
    let echo = &output["body"];
    assert_eq!(
        (&echo["method"], &echo["uri"], &echo["body"]),
        (&json!("POST"), &json!("/echo?q=a+b"), &json!("{\"n\":1}"))
    );
    assert_eq!(echo["headers"]["idempotency-key"], "key-1");
    assert_eq!(echo["headers"]["x-a"], "1");
}

#[tokio::test]
async fn bodies_become_what_their_type_says() {
    let (server, bench) = (Server::start().await, open());
    let body = async |path: &str, response_type: &str| {
        let output = bench
            .run(
                "http-request",
                json!({ "url": server.url(path), "responseType": response_type }),
                Value::Null,
            )
            .await;
        output
            .map(|output| (output["body"].clone(), output["bodyEncoding"].clone()))
            .map_err(|failure| failure.error.code)
    };
    assert_eq!(body("/text", "auto").await, Ok((json!("plain"), Value::Null)));
    assert_eq!(body("/binary", "auto").await, Ok((json!("/wA="), json!("base64"))));
    assert_eq!(body("/empty", "auto").await, Ok((Value::Null, Value::Null)));
    assert_eq!(body("/broken", "auto").await, Ok((json!("{"), Value::Null)));
    assert_eq!(body("/broken", "json").await, Err("RESPONSE_INVALID".into()));
    assert_eq!(body("/text", "base64").await, Ok((json!("cGxhaW4="), json!("base64"))));
}

#[tokio::test]
async fn statuses_fail_unless_expected_and_say_whether_to_try_again() {
    let (server, bench) = (Server::start().await, open());
    for (status, retryable) in
        [(400, false), (404, false), (408, true), (425, true), (429, true), (500, true), (503, true)]
    {
        let config = json!({ "url": server.url(&format!("/status/{status}")) });
        let failure = bench.run("http-request", config, Value::Null).await.unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            ("HTTP_ERROR", Some(retryable)),
            "{status}"
        );
        assert_eq!(failure.error.details, Some(json!({ "status": status, "body": "what went wrong" })));
        assert_eq!(failure.retry_after_ms, retryable.then_some(7000));
    }
    let config = json!({ "url": server.url("/status/404"), "expect": ["2xx", 404] });
    assert_eq!(bench.run("http-request", config, Value::Null).await.unwrap()["status"], 404);
    let flaky = json!({ "url": server.url("/flaky") });
    assert_eq!(bench.code("http-request", flaky.clone(), Value::Null).await, "HTTP_ERROR");
    assert_eq!(bench.run("http-request", flaky, Value::Null).await.unwrap()["status"], 200);
    assert_eq!(server.hits.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn time_and_size_have_limits_after_decompression() {
    let (server, bench) = (Server::start().await, open());
    for path in ["/slow", "/drip"] {
        let config = json!({ "url": server.url(path), "timeoutMs": 300 });
        let failure = bench.run("http-request", config, Value::Null).await.unwrap_err();
        assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("TIMEOUT", Some(true)), "{path}");
    }
    for path in ["/huge", "/bomb"] {
        let config = json!({ "url": server.url(path), "maxResponseBytes": 100_000 });
        assert_eq!(bench.code("http-request", config, Value::Null).await, "RESPONSE_TOO_LARGE", "{path}");
    }
}

#[tokio::test]
async fn redirects_are_followed_with_the_right_method_and_have_an_end() {
    let (server, bench) = (Server::start().await, open());
    let run = async |path: &str, more: Value| {
        let mut config = json!({ "url": server.url(path), "method": "POST", "body": "text" });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.run("http-request", config, Value::Null).await.map_err(|failure| failure.error.code)
    };
    let echo = async |path| {
        let body = run(path, json!({})).await.unwrap()["body"].clone();
        (body["method"].clone(), body["body"].clone())
    };
    assert_eq!(echo("/see-other").await, (json!("GET"), json!("")));
    assert_eq!(echo("/moved").await, (json!("GET"), json!("")));
    assert_eq!(echo("/same-method").await, (json!("POST"), json!("text")));
    assert_eq!(run("/loop", json!({})).await, Err("TOO_MANY_REDIRECTS".into()));
    assert_eq!(run("/loop", json!({ "followRedirects": false })).await, Err("HTTP_ERROR".into()));
    assert_eq!(run("/loop", json!({ "expect": 307 })).await.unwrap()["status"], 307);
}

#[tokio::test]
async fn secrets_stay_behind_when_a_redirect_leads_to_another_origin() {
    let (first, second, bench) = (Server::start().await, Server::start().await, open());
    let headers = json!({ "authorization": "Bearer x", "cookie": "a=b", "x-api-key": "k", "accept": "application/json" });
    for (target, kept) in [(first.url("/echo"), true), (second.url("/echo"), false)] {
        let config = json!({ "url": first.url(&format!("/to?{target}")), "headers": headers });
        let output = bench.run("http-request", config, Value::Null).await.unwrap();
        let sent = &output["body"]["headers"];
        for name in ["authorization", "cookie", "x-api-key"] {
            assert_eq!(sent[name].is_string(), kept, "{name} to {target}");
        }
        assert_eq!(sent["accept"], "application/json");
    }
}

#[tokio::test]
async fn inner_addresses_are_blocked_by_number_by_name_and_behind_redirects() {
    let server = Server::start().await;
    let port = server.address.port();
    let strict = Bench::new(StockPolicy::default());
    for host in
        ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]
    {
        let config = json!({ "url": format!("http://{host}:{port}/flaky") });
        let failure = strict.run("http-request", config, Value::Null).await.unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            ("SSRF_BLOCKED", Some(false)),
            "{host}: {}",
            failure.error.message
        );
        assert!(failure.error.message.contains("an operator can allow"), "{}", failure.error.message);
    }
    // Only the first hop is allowed here.
    for target in [
        "http://169.254.169.254/latest",
        "http://10.0.0.1/",
        "http://[fd00::1]/",
        "http://metadata.google.internal/",
    ] {
        let config = json!({ "url": server.url(&format!("/to?{target}")) });
        assert_eq!(open().code("http-request", config, Value::Null).await, "SSRF_BLOCKED", "{target}");
    }
    let config = json!({ "url": server.url("/to?file:///etc/passwd") });
    assert_eq!(open().code("http-request", config, Value::Null).await, "REDIRECT_REFUSED");
    assert_eq!(server.hits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_worth_another_try() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let failure = open()
        .run("http-request", json!({ "url": format!("http://{address}/?token=secret") }), Value::Null)
        .await
        .unwrap_err();
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("REQUEST_FAILED", Some(true)));
    assert!(!failure.error.message.contains("secret"), "{}", failure.error.message);
}
