//! `email` against a server that speaks SMTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use flowmonkey_handlers::{EmailPolicy, HttpPolicy, SmtpTls, StockPolicy};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::support::Bench;

/// A mail as the server got it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Received {
    from: String,
    to: Vec<String>,
    pub(crate) data: String,
    /// Whether it came by TLS.
    pub(crate) by_tls: bool,
}

/// Takes mails; answers recipients whose names start with a code by that code.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    mails: Arc<Mutex<Vec<Received>>>,
    _task: JoinSet<()>,
}

impl Sink {
    async fn start() -> Self {
        Self::with(None, false).await
    }

    /// Offers STARTTLS.
    pub(crate) async fn start_tls(acceptor: TlsAcceptor) -> Self {
        Self::with(Some(acceptor), false).await
    }

    /// TLS from the start.
    pub(crate) async fn smtps(acceptor: TlsAcceptor) -> Self {
        Self::with(Some(acceptor), true).await
    }

    async fn with(acceptor: Option<TlsAcceptor>, at_once: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let mut task = JoinSet::new();
        let kept = Arc::clone(&mails);
        task.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One client at a time is enough; it may go away at any moment.
                receive(stream, acceptor.as_ref(), at_once, &kept).await.ok();
            }
        });
        Self { address, mails, _task: task }
    }

    fn bench(&self) -> Bench {
        let email = EmailPolicy {
            host: Some(self.address.ip().to_string()),
            port: Some(self.address.port()),
            tls: SmtpTls::None,
            ..EmailPolicy::default()
        };
        Bench::new(StockPolicy { email, ..StockPolicy::default() })
    }

    pub(crate) fn only_mail(&self) -> Received {
        let mails = self.mails.lock().unwrap();
        assert_eq!(mails.len(), 1);
        mails[0].clone()
    }
}

async fn receive(
    stream: TcpStream,
    acceptor: Option<&TlsAcceptor>,
    at_once: bool,
    mails: &Mutex<Vec<Received>>,
) -> std::io::Result<()> {
    let Some(acceptor) = acceptor else { return serve(stream, Talk::Plain, mails).await.map(drop) };
    if at_once {
        return serve(acceptor.accept(stream).await?, Talk::Tls { greets: true }, mails).await.map(drop);
    }
    match serve(stream, Talk::Offering, mails).await? {
        None => Ok(()),
        Some(stream) => {
            let stream = acceptor.accept(stream).await?;
            serve(stream, Talk::Tls { greets: false }, mails).await.map(drop)
        }
    }
}

/// How a server talks.
#[derive(Clone, Copy, PartialEq)]
enum Talk {
    Plain,
    /// Plain, and can change to TLS.
    Offering,
    /// By TLS; after STARTTLS there is no second greeting.
    Tls {
        greets: bool,
    },
}

/// Takes mails until the client goes away, or (the stream is given back) wants to change to TLS.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    talk: Talk,
    mails: &Mutex<Vec<Received>>,
) -> std::io::Result<Option<S>> {
    let mut stream = BufReader::new(stream);
    let mut mail = Received::default();
    let by_tls = matches!(talk, Talk::Tls { .. });
    if talk != (Talk::Tls { greets: false }) {
        stream.write_all(b"220 sink ESMTP\r\n").await?;
        stream.flush().await?;
    }
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let answer = match line.trim_end().to_ascii_uppercase() {
            verb if verb.starts_with("EHLO") && talk == Talk::Offering => "250-sink\r\n250 STARTTLS".into(),
            verb if verb.starts_with("EHLO") || verb.starts_with("HELO") => "250 sink".into(),
            verb if verb == "STARTTLS" && talk == Talk::Offering => {
                stream.write_all(b"220 go on\r\n").await?;
                stream.flush().await?;
                return Ok(Some(stream.into_inner()));
            }
            verb if verb.starts_with("MAIL FROM") => {
                mail = Received { from: address(), by_tls, ..Received::default() };
                "250 ok".into()
            }
            verb if verb.starts_with("RCPT TO") => {
                match address().get(..3).and_then(|code| code.parse::<u16>().ok()) {
                    Some(code) => format!("{code} not now or never"),
                    None => {
                        mail.to.push(address());
                        "250 ok".into()
                    }
                }
            }
            verb if verb == "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                stream.flush().await?;
                let mut data = String::new();
                while !data.ends_with("\r\n.\r\n") && stream.read_line(&mut data).await? > 0 {}
                mail.data = data;
                mails.lock().unwrap().push(mail.clone());
                "250 taken".into()
            }
            verb if verb == "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                stream.flush().await?;
                return Ok(None);
            }
            verb if verb == "RSET" || verb == "NOOP" => "250 ok".into(),
            _ => "500 what".into(),
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        stream.flush().await?;
    }
}

fn config() -> Value {
    json!({ "from": "Shop <shop@example.com>", "subject": "Grüße", "headers": { "X-Order": "7" } })
}

#[tokio::test]
async fn a_mail_arrives_with_all_its_parts() {
    let sink = Sink::start().await;
    let input = json!({
        "to": ["Ann <ann@example.com>", "bob@example.com"], "cc": "cy@example.com, di@example.com", "bcc": "eve@example.com",
        "replyTo": "help@example.com", "text": "plain words", "html": "<p>words</p>",
        "from": "other@example.com", "subject": "other",
    });
    let output = sink.bench().run("email", config(), input).await.unwrap();
    let mail = sink.only_mail();
    let recipients =
        ["ann@example.com", "bob@example.com", "cy@example.com", "di@example.com", "eve@example.com"];
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("shop@example.com", &recipients.map(String::from)[..])
    );
    assert_eq!(output["accepted"], json!(recipients));
    let id = output["messageId"].as_str().unwrap();
    assert!(id.ends_with("@example.com>"), "{id}");
    for part in [
        id,
        "From: Shop <shop@example.com>",
        "Reply-To: help@example.com",
        "X-Order: 7",
        "plain words",
        "<p>words</p>",
        "multipart/alternative",
    ] {
        assert!(mail.data.contains(part), "{part} is not in {}", mail.data);
    }
    assert!(!mail.data.contains("eve@"), "blind copies stay blind");
}

#[tokio::test]
async fn every_attempt_has_the_same_message_id() {
    let sink = Sink::start().await;
    let bench = sink.bench();
    let input = json!({ "to": "ann@example.com", "text": "x" });
    let first = bench.run("email", config(), input.clone()).await.unwrap();
    let second = bench.run("email", config(), input).await.unwrap();
    assert_eq!(first["messageId"], second["messageId"]);
}

#[tokio::test]
async fn refusals_are_for_good_or_for_now() {
    let sink = Sink::start().await;
    let bench = sink.bench();
    for (to, code, retryable) in
        [("550gone@example.com", "EMAIL_REJECTED", false), ("450busy@example.com", "EMAIL_UNAVAILABLE", true)]
    {
        let failure = bench
            .run("email", config(), json!({ "to": ["ann@example.com", to], "text": "x" }))
            .await
            .unwrap_err();
        assert_eq!(
            (failure.error.code.as_str(), failure.error.retryable),
            (code, Some(retryable)),
            "{}",
            failure.error.message
        );
    }
    assert!(sink.mails.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_one_without_tls_gets_nothing() {
    let sink = Sink::start().await;
    let input = json!({ "to": "ann@example.com", "text": "x" });
    let mut email = EmailPolicy {
        host: Some("127.0.0.1".into()),
        port: Some(sink.address.port()),
        ..EmailPolicy::default()
    };
    let no_tls = Bench::new(StockPolicy { email: email.clone(), ..StockPolicy::default() });
    let failure = no_tls.run("email", config(), input.clone()).await.unwrap_err();
    assert_eq!(failure.error.code, "EMAIL_REJECTED");
    assert!(sink.mails.lock().unwrap().is_empty(), "nothing is sent without the TLS that was asked for");
    email.port = Some(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port());
    let gone = Bench::new(StockPolicy { email, ..StockPolicy::default() });
    let failure = gone.run("email", config(), input).await.unwrap_err();
    assert_eq!((failure.error.code.as_str(), failure.error.retryable), ("EMAIL_UNAVAILABLE", Some(true)));
}

#[tokio::test]
async fn a_server_named_by_the_flow_must_be_public_or_allowed() {
    let sink = Sink::start().await;
    let mut config = config();
    config["smtp"] = json!({ "host": "localhost", "port": sink.address.port(), "tls": "none" });
    let input = json!({ "to": "ann@example.com", "text": "x" });
    let strict = Bench::new(StockPolicy::default());
    assert_eq!(strict.code("email", config.clone(), input.clone()).await, "SSRF_BLOCKED");
    config["smtp"]["host"] = "127.0.0.1".into();
    assert_eq!(strict.code("email", config.clone(), input.clone()).await, "SSRF_BLOCKED");
    let flow_servers = HttpPolicy { allow_loopback: true, ..HttpPolicy::default() };
    let email = EmailPolicy { flow_servers, ..EmailPolicy::default() };
    let open = Bench::new(StockPolicy { email, ..StockPolicy::default() });
    open.run("email", config, input).await.unwrap();
    assert_eq!(sink.only_mail().to, ["ann@example.com"]);
}
