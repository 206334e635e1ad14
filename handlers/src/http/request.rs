//! What to request: the configuration, completed by the input.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Map, Value, json};

use crate::config::{ConfigError, Fields, kind};
use crate::schema::{Table, anything, flag, object_to, optional, text, whole, words};

/// Milliseconds that a request may take, redirects and body included.
const TIMEOUT_MS: u64 = 30_000;
/// The most that `timeoutMs` may ask for.
const TIMEOUT_MS_MAX: u64 = 3_600_000;
/// Bytes of a response's body, after decompression.
const RESPONSE_BYTES: u64 = 8 << 20;
/// The most that `maxResponseBytes` may ask for.
const RESPONSE_BYTES_MAX: u64 = 256 << 20;

pub(super) const FIELDS: Table = &[&[
    optional("url", text, "An absolute http or https URL. The input may give it when it is left out."),
    optional("method", || words(&METHODS), "GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS. Default GET."),
    optional(
        "headers",
        || object_to(json!({ "type": ["string", "number", "boolean", "null"] })),
        "Name to string, number or boolean.",
    ),
    optional("query", query_schema, "Name to a string, a number, a boolean, or an array of them."),
    optional("body", anything, "A string is sent as it is, anything else as JSON. Default none."),
    optional(
        "timeoutMs",
        || whole(&TIMEOUTS_MS),
        "Milliseconds for everything. Default 30000, at most 3600000.",
    ),
    optional("timeout", || whole(&TIMEOUTS_MS), "Another name of `timeoutMs`."),
    optional(
        "expect",
        expect_schema,
        "What counts as success: a status, a class such as \"2xx\", or an array. Default \"2xx\".",
    ),
    optional("followRedirects", flag, "Whether to follow at most 5 redirects. Default true."),
    optional(
        "maxResponseBytes",
        || whole(&RESPONSE_SIZES),
        "Bytes of the body, decompressed. Default 8388608, at most 268435456.",
    ),
    optional("responseType", || words(&RESPONSE_TYPES), "auto, json, text or base64. Default auto."),
    optional("ignoreInput", flag, "`true`: the input does nothing. Default false."),
]];

const TIMEOUTS_MS: RangeInclusive<u64> = 1..=TIMEOUT_MS_MAX;
const RESPONSE_SIZES: RangeInclusive<u64> = 1..=RESPONSE_BYTES_MAX;

fn query_schema() -> Value {
    let scalar_or_null = json!({ "type": ["string", "number", "boolean", "null"] });
    object_to(json!({ "anyOf": [scalar_or_null, { "type": "array", "items": scalar_or_null }] }))
}

fn expect_schema() -> Value {
    let one = json!({ "anyOf": [
        { "type": "integer", "minimum": 100, "maximum": 599 },
        { "type": "string", "pattern": "^([1-5][xX][xX]|[1-5][0-9][0-9])$" },
    ] });
    json!({ "anyOf": [one, { "type": "array", "items": one }] })
}

const METHODS: [(&str, Verb); 7] = [
    ("GET", Verb::Get),
    ("POST", Verb::Post),
    ("PUT", Verb::Put),
    ("PATCH", Verb::Patch),
    ("DELETE", Verb::Delete),
    ("HEAD", Verb::Head),
    ("OPTIONS", Verb::Options),
];

const RESPONSE_TYPES: [(&str, ResponseType); 4] = [
    ("auto", ResponseType::Auto),
    ("json", ResponseType::Json),
    ("text", ResponseType::Text),
    ("base64", ResponseType::Base64),
];

/// Headers that the client or the connection decides on.
const REFUSED_HEADERS: [&str; 10] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "proxy-authorization",
    "proxy-connection",
];

/// The methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
    Head,
    Options,
}

impl Verb {
    pub(super) const fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Post => Method::POST,
            Self::Put => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete => Method::DELETE,
            Self::Head => Method::HEAD,
            Self::Options => Method::OPTIONS,
        }
    }

    /// Whether sending it twice may act twice.
    const fn acts(self) -> bool {
        match self {
            Self::Post | Self::Put | Self::Patch | Self::Delete => true,
            Self::Get | Self::Head | Self::Options => false,
        }
    }
}

/// What the body of a response becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ResponseType {
    #[default]
    Auto,
    Json,
    Text,
    Base64,
}

/// Which statuses are a success: single ones and classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expect(Vec<std::ops::RangeInclusive<u16>>);

impl Expect {
    pub(super) fn accepts(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }

    fn parse(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let one = |value: &Value| {
            let problem =
                || fields.error("expect", format!("{value} is neither a status (204) nor a class (\"2xx\")"));
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_ascii_lowercase);
            let class = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok());
            match (class, text.parse::<u16>()) {
                (Some(class @ 1..=5), _) => Ok(class * 100..=class * 100 + 99),
                (Some(_) | None, Ok(status @ 100..=599)) => Ok(status..=status),
                (Some(_) | None, Ok(_) | Err(_)) => Err(problem()),
            }
        };
        match fields.value("expect") {
            None => Ok(Self(vec![200..=299])),
            Some(Value::Array(items)) => items.iter().map(one).collect::<Result<_, _>>().map(Self),
            Some(value) => Ok(Self(vec![one(value)?])),
        }
    }
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) timeout: Duration,
    pub(super) expect: Expect,
    pub(super) follow_redirects: bool,
    pub(super) response_bytes_max: u64,
    pub(super) response_type: ResponseType,
}

impl Request {
    /// The configuration wins; the input supplies what it leaves out.
    pub(super) fn new(
        fields: &Fields<'_>,
        input: &Value,
        idempotency_key: &str,
    ) -> Result<Self, ConfigError> {
        let none = Map::new();
        let ignore_input = fields.flag("ignoreInput", false)?;
        let input = input.as_object().filter(|_| !ignore_input).unwrap_or(&none);

        let verb = match fields.choice("method", &METHODS)? {
            Some(verb) => verb,
            None => Fields::nested("input.", input).choice("method", &METHODS)?.unwrap_or(Verb::Get),
        };
        let mut url = url(fields, input)?;
        for source in [fields.object("query")?, part(input, "query")].into_iter().flatten() {
            add_query(&mut url, source)?;
        }

        let mut headers = HeaderMap::new();
        for (origin, source) in
            [("headers", fields.object("headers")?), ("input.headers", part(input, "headers"))]
        {
            add_headers(&mut headers, origin, source.unwrap_or(&none))?;
        }
        let body = fields.value("body").or_else(|| input.get("body").filter(|body| !body.is_null()));
        let (body, content_type) = match body {
            None => (None, None),
            Some(Value::String(text)) => (Some(Bytes::from(text.clone())), Some("text/plain; charset=utf-8")),
            Some(value) => (Some(Bytes::from(value.to_string())), Some("application/json")),
        };
        if let Some(content_type) = content_type {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(content_type));
        }
        if verb.acts()
            && let Ok(key) = HeaderValue::from_str(idempotency_key)
        {
            headers.entry(HeaderName::from_static("idempotency-key")).or_insert(key);
        }

        let timeout = match fields.number("timeoutMs", &TIMEOUTS_MS)? {
            Some(timeout) => timeout,
            None => fields.number("timeout", &TIMEOUTS_MS)?.unwrap_or(TIMEOUT_MS),
        };
        Ok(Self {
            verb,
            url,
            headers,
            body,
            timeout: Duration::from_millis(timeout),
            expect: Expect::parse(fields)?,
            follow_redirects: fields.flag("followRedirects", true)?,
            response_bytes_max: fields.number("maxResponseBytes", &RESPONSE_SIZES)?.unwrap_or(RESPONSE_BYTES),
            response_type: fields.choice("responseType", &RESPONSE_TYPES)?.unwrap_or_default(),
        })
    }
}

fn part<'a>(input: &'a Map<String, Value>, field: &str) -> Option<&'a Map<String, Value>> {
    input.get(field).and_then(Value::as_object)
}

fn url(fields: &Fields<'_>, input: &Map<String, Value>) -> Result<Url, ConfigError> {
    let text = match (fields.text("url")?, input.get("url").and_then(Value::as_str)) {
        (Some(url), _) | (None, Some(url)) => url,
        (None, None) => return Err(fields.error("url", "is required")),
    };
    Url::parse(text).map_err(|error| fields.error("url", format!("is not an absolute URL: {error}")))
}

/// Adds the parameters whose names the URL does not have yet.
fn add_query(url: &mut Url, query: &Map<String, Value>) -> Result<(), ConfigError> {
    let present: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    let mut added = Vec::new();
    for (name, value) in query.iter().filter(|(name, _)| !present.contains(name)) {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values.iter().filter(|value| !value.is_null()) {
            added.push((name, scalar(&format!("query.{name}"), value)?));
        }
    }
    if !added.is_empty() {
        url.query_pairs_mut().extend_pairs(added);
    }
    Ok(())
}

/// Adds the headers that are not there yet.
fn add_headers(
    headers: &mut HeaderMap,
    origin: &str,
    source: &Map<String, Value>,
) -> Result<(), ConfigError> {
    for (name, value) in source.iter().filter(|(_, value)| !value.is_null()) {
        let field = format!("{origin}.{name}");
        let header = HeaderName::try_from(name.as_str())
            .map_err(|_| ConfigError::new(&field, "is not a header name"))?;
        if REFUSED_HEADERS.contains(&header.as_str()) {
            return Err(ConfigError::new(field, "is set by the client and cannot be chosen"));
        }
        let value = HeaderValue::try_from(scalar(&field, value)?)
            .map_err(|_| ConfigError::new(&field, "has characters that a header cannot hold"))?;
        headers.entry(header).or_insert(value);
    }
    Ok(())
}

fn scalar(field: &str, value: &Value) -> Result<String, ConfigError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(ConfigError::new(
            field,
            format!("must be a string, a number or a boolean, not {}", kind(value)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(config: Value, input: Value) -> Result<Request, String> {
        Request::new(&Fields::new(&config).unwrap(), &input, "key-1").map_err(|error| error.to_string())
    }

    #[test]
    fn the_configuration_wins_and_the_input_fills_the_gaps() {
        let config = json!({
            "url": "https://a.example/x?b=1", "method": "post",
            "headers": { "Authorization": "secret" }, "query": { "a": 1 },
        });
        let input = json!({
            "url": "https://evil.example/", "method": "DELETE", "body": { "n": 1 },
            "headers": { "authorization": "other", "x-more": true }, "query": { "a": 9, "b": 9, "c": ["x", "y"] },
        });
        let request = request(config, input).unwrap();
        assert_eq!(request.verb, Verb::Post);
        assert_eq!(request.url.as_str(), "https://a.example/x?b=1&a=1&c=x&c=y");
        assert_eq!(request.body.as_deref(), Some(&b"{\"n\":1}"[..]));
        let header = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(header("authorization"), Some("secret"));
        assert_eq!(header("x-more"), Some("true"));
        assert_eq!(header("content-type"), Some("application/json"));
        assert_eq!(header("idempotency-key"), Some("key-1"));
    }

    #[test]
    fn the_input_can_give_the_whole_request_unless_it_is_ignored() {
        let input = json!({ "url": "https://a.example/", "method": "PUT", "body": "text" });
        let whole = request(json!({}), input.clone()).unwrap();
        assert_eq!((whole.verb, whole.url.as_str()), (Verb::Put, "https://a.example/"));
        let refused = request(json!({ "ignoreInput": true }), input.clone());
        assert_eq!(refused.unwrap_err(), "config.url: is required");
        let alias = request(json!({ "ignoreInput": true, "url": "https://b.example/" }), input).unwrap();
        assert_eq!((alias.verb, alias.body), (Verb::Get, None));
        assert!(!alias.headers.contains_key("idempotency-key"));
    }

    #[test]
    fn expected_statuses_are_numbers_or_classes() {
        let expect =
            request(json!({ "url": "https://a.example/", "expect": ["2xx", 404, "304"] }), Value::Null)
                .unwrap()
                .expect;
        let accepted = [200, 299, 404, 304, 300, 405, 500]
            .map(|status| expect.accepts(StatusCode::from_u16(status).unwrap()));
        assert_eq!(accepted, [true, true, true, true, false, false, false]);
    }

    #[test]
    fn what_cannot_be_requested_is_refused_by_field() {
        let with = |field: &str, value: Value| {
            let mut config = json!({ "url": "https://a.example/" });
            config[field] = value;
            request(config, Value::Null).unwrap_err()
        };
        assert_eq!(
            with("url", json!("/path")),
            "config.url: is not an absolute URL: relative URL without a base"
        );
        assert!(with("method", json!("TRACE")).starts_with("config.method: `TRACE` is not one of GET, POST"));
        assert_eq!(
            with("headers", json!({ "Host": "x" })),
            "config.headers.Host: is set by the client and cannot be chosen"
        );
        assert_eq!(
            with("headers", json!({ "a": "x\r\nb: y" })),
            "config.headers.a: has characters that a header cannot hold"
        );
        assert_eq!(with("headers", json!({ "a b": "x" })), "config.headers.a b: is not a header name");
        assert_eq!(
            with("query", json!({ "a": { "b": 1 } })),
            "config.query.a: must be a string, a number or a boolean, not an object"
        );
        assert!(with("expect", json!("9xx")).starts_with("config.expect: \"9xx\" is neither"));
        assert!(with("timeoutMs", json!(0)).starts_with("config.timeoutMs: must be a whole number from 1"));
    }
}
