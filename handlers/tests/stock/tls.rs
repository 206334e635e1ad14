//! TLS of `http-request` and `email`: an authority of one's own is trusted when it is named, and nothing else is.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flowmonkey_handlers::{EmailPolicy, HttpPolicy, SmtpTls, StockPolicy, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::email::Sink;
use crate::support::Bench;

/// A private authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Accepts TLS as a server of these names.
    pub(crate) fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.0).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Arc::new(config).into()
    }

    fn trust(&self) -> Trust {
        let mut trust = Trust::default();
        trust.add_pem(self.0.pem().as_bytes()).unwrap();
        trust
    }
}

/// An https server that answers each request by `hello`, and counts the requests that came through.
struct Https {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Https {
    async fn start(acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let mut task = JoinSet::new();
        let count = Arc::clone(&requests);
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not trust this server goes away.
                answer(&acceptor, stream, &count).await.ok();
            }
        });
        Self { address, requests, _task: task }
    }
}

async fn answer(acceptor: &TlsAcceptor, stream: TcpStream, requests: &AtomicUsize) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    requests.fetch_add(1, Ordering::SeqCst);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello").await?;
    stream.shutdown().await
}

fn loopback(trust: Trust) -> Bench {
    let http = HttpPolicy { allow_loopback: true, ..HttpPolicy::default() };
    Bench::new(StockPolicy { http, trust, ..StockPolicy::default() })
}

#[tokio::test]
async fn a_request_trusts_the_authority_that_the_operator_names_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Https::start(authority.acceptor(&["127.0.0.1"])).await;
    let config = json!({ "url": format!("https://{}/", server.address) });
    let output = loopback(authority.trust()).run("http-request", config.clone(), Value::Null).await.unwrap();
    assert_eq!((&output["status"], &output["body"]), (&json!(200), &json!("hello")));
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
    for trust in [Trust::default(), other.trust()] {
        let failure = loopback(trust).run("http-request", config.clone(), Value::Null).await.unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            ("CERTIFICATE_REFUSED", Some(false)),
            "{}",
            failure.error.message
        );
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 1, "nothing is sent to a server that is not trusted");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let server = Https::start(authority.acceptor(&["other.example"])).await;
    let config = json!({ "url": format!("https://{}/", server.address) });
    let failure = loopback(authority.trust()).run("http-request", config, Value::Null).await.unwrap_err();
    assert_eq!(failure.error.code, "CERTIFICATE_REFUSED", "{}", failure.error.message);
}

fn mail_bench(address: SocketAddr, tls: SmtpTls, trust: Trust) -> Bench {
    let host = Some(address.ip().to_string());
    let email = EmailPolicy { host, port: Some(address.port()), tls, ..EmailPolicy::default() };
    Bench::new(StockPolicy { email, trust, ..StockPolicy::default() })
}

/// Sends a mail to a trusted server, and none to the same server when it is not trusted.
async fn mails<F: Future<Output = Sink>>(tls: SmtpTls, start: impl Fn(TlsAcceptor) -> F) {
    let authority = Authority::new();
    let sink = start(authority.acceptor(&["127.0.0.1"])).await;
    let config = json!({ "from": "a@example.com", "to": "b@example.com", "text": "secret words" });
    let trusting = mail_bench(sink.address, tls, authority.trust());
    trusting.run("email", config.clone(), Value::Null).await.unwrap();
    let mail = sink.only_mail();
    assert!(mail.data.contains("secret words") && mail.by_tls, "{mail:?}");
    for trust in [Trust::default(), Authority::new().trust()] {
        let failure =
            mail_bench(sink.address, tls, trust).run("email", config.clone(), Value::Null).await.unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            ("CERTIFICATE_REFUSED", Some(false)),
            "{}",
            failure.error.message
        );
    }
    sink.only_mail();
}

#[tokio::test]
async fn a_mail_goes_by_starttls_to_a_trusted_server_only() {
    mails(SmtpTls::StartTls, Sink::start_tls).await;
}

#[tokio::test]
async fn a_mail_goes_by_smtps_to_a_trusted_server_only() {
    mails(SmtpTls::Tls, Sink::smtps).await;
}
