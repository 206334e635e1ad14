//! `email`: sends one mail by SMTP.

use std::ops::RangeInclusive;
use std::time::Duration;

use async_trait::async_trait;
use flowmonkey_plumbing::manifest::Manifest;
use flowmonkey_worker::{Completion, Failure, Handler, Task};
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters, TlsParametersBuilder};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::config::{ConfigError, Fields};
use crate::http::{HttpPolicy, ResolveError, blocked_failure};
use crate::schema::{
    Field, Table, flag, object_of, object_to, one_or_more_texts, optional, required, required_text, text,
    whole, words,
};
use crate::trust::{Trust, refused_certificate};

/// Time for each answer of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the whole conversation.
const SEND_TIMEOUT: Duration = Duration::from_secs(120);
/// Recipients of one mail.
const RECIPIENTS_MAX: usize = 100;

const FIELDS: Table = &[&[
    optional("from", one_or_more_texts, "One address, with or without a name."),
    optional("to", one_or_more_texts, "Addresses."),
    optional("cc", one_or_more_texts, "Addresses."),
    optional("bcc", one_or_more_texts, "Addresses."),
    optional("replyTo", one_or_more_texts, "Addresses."),
    optional("subject", text, "The subject."),
    optional("text", text, "The mail as text; this or `html` at least."),
    optional("html", text, "The mail as HTML."),
    optional("headers", || object_to(text()), "More headers."),
    optional("smtp", || object_of(&SMTP_FIELDS), "The server. Default: the worker's."),
    optional("ignoreInput", flag, "`true`: the input does nothing. Default false."),
]];

const SMTP_FIELDS: [Field; 5] = [
    required("host", required_text, "Name or address."),
    optional("port", || whole(&PORTS), "Default 587 for starttls, 465 for tls, 25 for none."),
    optional("tls", || words(&TLS), "none, starttls (default) or tls."),
    optional("username", text, "The account; needs a password."),
    optional("password", text, "The account's password."),
];
const PORTS: RangeInclusive<u64> = 1..=65_535;

/// Headers that come from their own fields or are made here.
const RESERVED_HEADERS: [&str; 14] = [
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "return-path",
    "received",
];

/// The mail server.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EmailPolicy {
    /// Name or address; none: flows must name a server in `smtp`.
    pub host: Option<String>,
    /// None: 465 for [`SmtpTls::Tls`], 587 for [`SmtpTls::StartTls`], 25 for [`SmtpTls::None`].
    pub port: Option<u16>,
    /// How the connection is protected.
    pub tls: SmtpTls,
    /// The account; needs a password.
    pub username: Option<String>,
    /// The account's password.
    pub password: Option<String>,
    /// Which servers flows may name themselves: as for HTTP requests, public addresses unless allowed.
    pub flow_servers: HttpPolicy,
}

impl std::fmt::Debug for EmailPolicy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EmailPolicy")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmtpTls {
    /// Not at all.
    None,
    /// Starts plain, must change to TLS before anything is sent. The default.
    #[default]
    StartTls,
    /// TLS from the start.
    Tls,
}

const TLS: [(&str, SmtpTls); 3] =
    [("none", SmtpTls::None), ("starttls", SmtpTls::StartTls), ("tls", SmtpTls::Tls)];

/// The handler `email`.
#[derive(Debug)]
pub struct Email {
    manifest: Manifest,
    policy: EmailPolicy,
    trust: Trust,
}

/// A server to connect to.
struct Server {
    /// What to connect to.
    address: String,
    /// What its certificate must be for.
    name: String,
    port: u16,
    tls: SmtpTls,
    credentials: Option<Credentials>,
}

impl Email {
    /// A handler that sends by the server of `policy`, and trusts the authorities of `trust` besides the public ones.
    #[must_use]
    pub fn new(policy: EmailPolicy, trust: Trust) -> Self {
        crate::install_crypto();
        Self { manifest: crate::manifest("email", "Sends a mail", FIELDS), policy, trust }
    }

    async fn server(&self, fields: &Fields<'_>) -> Result<Server, Failure> {
        let default_port = |tls| match tls {
            SmtpTls::None => 25,
            SmtpTls::StartTls => 587,
            SmtpTls::Tls => 465,
        };
        let Some(smtp) = fields.object("smtp")? else {
            let EmailPolicy { host, port, tls, username, password, .. } = &self.policy;
            let host = host
                .clone()
                .ok_or_else(|| fields.error("smtp", "is required: this worker has no mail server"))?;
            let credentials = username
                .clone()
                .zip(password.clone())
                .map(|(name, password)| Credentials::new(name, password));
            let port = port.unwrap_or_else(|| default_port(*tls));
            return Ok(Server { address: host.clone(), name: host, port, tls: *tls, credentials });
        };
        let smtp = Fields::nested("smtp.", smtp);
        let host = smtp.required_text("host")?;
        let tls = smtp.choice("tls", &TLS)?.unwrap_or_default();
        let port = smtp.number("port", &PORTS)?.and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or_else(|| default_port(tls));
        let credentials = match (smtp.text("username")?, smtp.text("password")?) {
            (Some(name), Some(password)) => Some(Credentials::new(name.into(), password.into())),
            (None, None) => None,
            (Some(_), None) => return Err(smtp.error("password", "is required with username").into()),
            (None, Some(_)) => return Err(smtp.error("username", "is required with password").into()),
        };
        // Resolved once, so that what is checked is what is connected to.
        let addresses = self.policy.flow_servers.resolve(host, port).await.map_err(|error| match error {
            ResolveError::Blocked(blocked) => blocked_failure(&blocked),
            ResolveError::Lookup(source) => unavailable(format!("`{host}` cannot be resolved: {source}")),
        })?;
        let address = addresses
            .first()
            .ok_or_else(|| unavailable(format!("`{host}` has no address")))?
            .ip()
            .to_string();
        Ok(Server { address, name: host.into(), port, tls, credentials })
    }
}

impl Server {
    fn connect(self, trust: &Trust) -> Result<AsyncSmtpTransport<Tokio1Executor>, Failure> {
        let parameters = || {
            let mut authorities = trust.authorities().map(|der| Certificate::from_der(der.to_vec()));
            let builder = authorities
                .try_fold(TlsParameters::builder(self.name.clone()), |builder, authority| {
                    authority.map(|authority| builder.add_root_certificate(authority))
                });
            builder
                .and_then(TlsParametersBuilder::build_rustls)
                .map_err(|error| unavailable(format!("TLS cannot be used: {error}")))
        };
        let tls = match self.tls {
            SmtpTls::None => Tls::None,
            SmtpTls::StartTls => Tls::Required(parameters()?),
            SmtpTls::Tls => Tls::Wrapper(parameters()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(self.address)
            .port(self.port)
            .tls(tls)
            .timeout(Some(ANSWER_TIMEOUT));
        if let Some(credentials) = self.credentials {
            builder = builder.credentials(credentials);
        }
        Ok(builder.build())
    }
}

/// A mail, and who gets it.
#[derive(Debug)]
struct Mail {
    message: Message,
    id: String,
    recipients: Vec<String>,
}

/// Where a field's value comes from: the configuration, else the input.
struct Source<'a> {
    config: Fields<'a>,
    input: Fields<'a>,
}

impl<'a> Source<'a> {
    fn of(&self, field: &str) -> Fields<'a> {
        if self.config.value(field).is_some() { self.config } else { self.input }
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, ConfigError> {
        self.of(field).text(field)
    }

    /// One address, addresses between commas, or an array of addresses.
    fn mailboxes(&self, field: &str) -> Result<Vec<Mailbox>, ConfigError> {
        let fields = self.of(field);
        let texts = match fields.value(field) {
            None => return Ok(Vec::new()),
            Some(Value::Array(_)) => fields.texts(field)?.unwrap_or_default(),
            Some(_) => fields.text(field)?.map(str::to_owned).into_iter().collect(),
        };
        let mut mailboxes = Vec::new();
        for text in texts {
            let wrong = || fields.error(field, format!("{text:?} is not a mail address"));
            if text.contains(char::is_control) {
                return Err(wrong());
            }
            let parsed: lettre::message::Mailboxes = text.parse().map_err(|_| wrong())?;
            mailboxes.extend(parsed);
        }
        Ok(mailboxes)
    }

    fn mail(&self, idempotency_key: &str) -> Result<Mail, ConfigError> {
        let mut from = self.mailboxes("from")?;
        let from = match (from.pop(), from.is_empty()) {
            (Some(from), true) => from,
            (None, _) => return Err(self.config.error("from", "is required")),
            (Some(_), false) => return Err(self.config.error("from", "must be one address")),
        };
        let mut digest = String::new();
        for byte in &Sha256::digest(idempotency_key)[..16] {
            digest.push_str(&format!("{byte:02x}"));
        }
        let id = format!("<{digest}@{}>", from.email.domain());
        let mut builder = Message::builder().message_id(Some(id.clone())).from(from);
        let mut recipients = Vec::new();
        let mut note = |mailbox: Mailbox| {
            recipients.push(mailbox.email.to_string());
            mailbox
        };
        for mailbox in self.mailboxes("to")? {
            builder = builder.to(note(mailbox));
        }
        for mailbox in self.mailboxes("cc")? {
            builder = builder.cc(note(mailbox));
        }
        for mailbox in self.mailboxes("bcc")? {
            builder = builder.bcc(note(mailbox));
        }
        for mailbox in self.mailboxes("replyTo")? {
            builder = builder.reply_to(mailbox);
        }
        if recipients.is_empty() {
            return Err(self.config.error("to", "is required"));
        }
        if recipients.len() > RECIPIENTS_MAX {
            return Err(self.config.error(
                "to",
                format!("{} recipients are over the limit of {RECIPIENTS_MAX}", recipients.len()),
            ));
        }
        let subject = self.text("subject")?.unwrap_or_default();
        if subject.contains(char::is_control) {
            return Err(self.config.error("subject", "must not contain line breaks or control characters"));
        }
        builder = builder.subject(subject);
        for header in self.headers()? {
            builder = builder.raw_header(header);
        }
        let message = match (self.text("text")?, self.text("html")?) {
            (Some(text), Some(html)) => {
                builder.multipart(MultiPart::alternative_plain_html(text.to_owned(), html.to_owned()))
            }
            (Some(text), None) => builder.singlepart(SinglePart::plain(text.to_owned())),
            (None, Some(html)) => builder.singlepart(SinglePart::html(html.to_owned())),
            (None, None) => return Err(self.config.error("text", "is required, or html")),
        };
        let message = message.map_err(|error| self.config.error("to", error.to_string()))?;
        Ok(Mail { message, id, recipients })
    }

    fn headers(&self) -> Result<Vec<HeaderValue>, ConfigError> {
        let mut headers = Vec::new();
        for (name, value) in self.of("headers").object("headers")?.into_iter().flatten() {
            let error =
                |problem: &str| self.config.error(&format!("headers.{}", name.escape_default()), problem);
            let is_name = !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            if !is_name {
                return Err(error("is not a header name"));
            }
            if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(error("is made from other fields and cannot be chosen"));
            }
            let value = value.as_str().ok_or_else(|| error("must be a string"))?;
            if value.contains(char::is_control) {
                return Err(error("must not contain line breaks or control characters"));
            }
            let name = HeaderName::new_from_ascii(name.clone()).map_err(|_| error("is not a header name"))?;
            headers.push(HeaderValue::new(name, value.to_owned()));
        }
        Ok(headers)
    }
}

fn unavailable(message: String) -> Failure {
    let mut failure = Failure::new("EMAIL_UNAVAILABLE", message);
    failure.error.retryable = Some(true);
    failure
}

fn send_failure(error: &lettre::transport::smtp::Error) -> Failure {
    if let Some(failure) = refused_certificate(error) {
        return failure;
    }
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        message = format!("{message}: {inner}");
        source = inner.source();
    }
    let status = error.status().map(|code| code.to_string());
    if error.is_permanent() {
        Failure::terminal("EMAIL_REJECTED", message).details(json!({ "status": status }))
    } else if error.is_client() {
        Failure::terminal("EMAIL_REJECTED", message)
    } else {
        unavailable(message).details(json!({ "status": status }))
    }
}

#[async_trait]
impl Handler for Email {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    async fn run(&self, task: &Task) -> Result<Completion, Failure> {
        let fields = Fields::new(task.config())?;
        let none = Map::new();
        let ignore_input = fields.flag("ignoreInput", false)?;
        let input = task.input().as_object().filter(|_| !ignore_input);
        let source = Source { config: fields, input: Fields::nested("input.", input.unwrap_or(&none)) };
        let mail = source.mail(task.idempotency_key())?;
        let server = self.server(&fields).await?;
        fields.warn_unknown(task, FIELDS);
        let transport = server.connect(&self.trust)?;
        let sent = tokio::time::timeout(SEND_TIMEOUT, transport.send(mail.message)).await;
        let sent = sent.map_err(|_| unavailable("the mail server took too long".into()))?;
        sent.map_err(|error| send_failure(&error))?;
        Ok(Completion::output(json!({ "messageId": mail.id, "accepted": mail.recipients })))
    }
}
