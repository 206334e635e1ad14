//! One try of one delivery.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use flowmonkey_core::time::Timestamp;
use flowmonkey_plumbing::net::{GuardedResolver, ResolveError};
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url, redirect};
use ring::digest;

use super::cloud_event::{MEDIA_TYPE, cloud_event};
use super::signature::sign;
use crate::engine::Engine;
use crate::store::{DeliveryTry, PublishedEvent, Webhook};

/// How long a try may take, the connection included.
pub const DELIVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds to rest after each failed try; after the last one there is no other. A day in all, about.
pub const RETRY_AFTER_S: [u64; 8] = [5, 60, 300, 1800, 7200, 18_000, 28_800, 28_800];
/// A part of each rest is chance: at most a fifth on top.
const JITTER_PART: u64 = 5;
/// The longest rest that a `Retry-After` may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of an answer that are read, so that its connection can be used again. More than that ends the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 500;

/// How a try ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) last: DeliveryTry,
    pub(crate) next: Next,
}

/// What follows from a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It has arrived.
    Arrived,
    /// It may be tried again, not before this rest.
    Again(Duration),
    /// No other try helps.
    Never,
    /// The receiver wants no more of anything.
    Gone,
}

/// When the try after the `tried`th one is; none: there is no other.
pub(crate) fn retry_at(now: Timestamp, tried: u32, asked: Duration, chance: u64) -> Option<Timestamp> {
    let place = usize::try_from(tried).ok()?.checked_sub(1)?;
    let rest_ms = RETRY_AFTER_S.get(place)?.saturating_mul(1000);
    let rest_ms = rest_ms + chance % (rest_ms / JITTER_PART + 1);
    let asked_ms = u64::try_from(asked.as_millis()).unwrap_or(u64::MAX);
    Some(now.plus(rest_ms.max(asked_ms)))
}

impl Engine {
    /// Sends an event to a webhook, once.
    pub(crate) async fn try_delivery(&self, webhook: &Webhook, event: &PublishedEvent) -> Outcome {
        let begun = Instant::now();
        let tried = tokio::time::timeout(DELIVERY_TIMEOUT, self.send(webhook, event)).await;
        let (status, error, next) = match tried {
            Ok(Ok(answer)) => answer,
            Ok(Err((error, next))) => (None, Some(error), next),
            Err(_) => {
                let error = format!("no answer within {} s", DELIVERY_TIMEOUT.as_secs());
                (None, Some(error), Next::Again(Duration::ZERO))
            }
        };
        let error = error.map(|error| error.chars().take(ERROR_CHARS_MAX).collect());
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let status = status.map(|status| status.as_u16());
        Outcome { last: DeliveryTry { at: self.now(), status, error, duration_ms }, next }
    }

    async fn send(
        &self,
        webhook: &Webhook,
        event: &PublishedEvent,
    ) -> Result<(Option<StatusCode>, Option<String>, Next), (String, Next)> {
        let again = |error: String| (error, Next::Again(Duration::ZERO));
        let never = |error: String| (error, Next::Never);
        let client = self.hooks.client.get_or_init(|| client(self)).as_ref();
        let client = client.map_err(|error| again(format!("this engine has no HTTP client: {error}")))?;
        let url = Url::parse(&webhook.url).map_err(|error| never(error.to_string()))?;
        self.hooks.policy.check_url(&url).map_err(|blocked| never(blocked.to_string()))?;
        let body = cloud_event(event).to_string();
        let id = header_id(&event.id);
        let timestamp = self.now().as_millis().div_euclid(1000);
        let signature = sign(&webhook.secret, &id, timestamp, body.as_bytes())
            .ok_or_else(|| never("the webhook's secret cannot be read".into()))?;
        let request = client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let response = request.send().await.map_err(|error| match blocked(&error) {
            Some(blocked) => never(blocked),
            None => again(chain(&error)),
        })?;
        let status = response.status();
        let rest = retry_after(&response, self.now());
        drain(response).await;
        Ok(if status.is_success() {
            (Some(status), None, Next::Arrived)
        } else if status == StatusCode::GONE {
            (Some(status), Some("the receiver wants no more".into()), Next::Gone)
        } else if status.is_redirection() {
            (Some(status), Some("redirects are not followed".into()), Next::Again(rest))
        } else {
            (Some(status), Some(format!("the receiver answered {status}")), Next::Again(rest))
        })
    }
}

fn client(engine: &Engine) -> Result<reqwest::Client, String> {
    // An error means that the program has chosen its cryptography already.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder()
        // A signed body goes where its webhook says, and nowhere else.
        .redirect(redirect::Policy::none())
        .no_proxy()
        .dns_resolver(Arc::new(GuardedResolver(Arc::clone(&engine.hooks.policy))))
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("flowmonkey/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| chain(&error))
}

/// An event's id as a header carries it, and as the signature has it: ids from outside may hold anything.
fn header_id(id: &str) -> String {
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return id.to_owned();
    }
    let hash = digest::digest(&digest::SHA256, id.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256_{hex}")
}

fn blocked(error: &reqwest::Error) -> Option<String> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(ResolveError::Blocked(blocked)) = inner.downcast_ref::<ResolveError>() {
            return Some(blocked.to_string());
        }
        source = inner.source();
    }
    None
}

/// An error and its sources in one line. The URL is left out: it may hold secrets.
fn chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_connect() {
        "the receiver cannot be reached".to_owned()
    } else if error.is_builder() {
        "the request cannot be made".to_owned()
    } else {
        "the request failed".to_owned()
    };
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// What the receiver asks for: seconds, or a date.
fn retry_after(response: &Response, now: Timestamp) -> Duration {
    let value = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let asked = value.map(str::trim).and_then(|text| match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            let at = Timestamp::from_millis(i64::try_from(date.as_millis()).ok()?);
            Some(Duration::from_millis(at.since(now)))
        }
    });
    asked.unwrap_or_default().min(RETRY_AFTER_MAX)
}

/// Reads what there is of an answer, up to a limit. The answer counts by its status, so that a failure here is none.
async fn drain(mut response: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_spread_over_a_day_and_end() {
        let now = Timestamp::from_millis(0);
        let (mut least, mut most) = (0, 0);
        for tried in 1..=8 {
            let rest = |chance| retry_at(now, tried, Duration::ZERO, chance).unwrap().as_millis();
            let seconds = i64::try_from(RETRY_AFTER_S[tried as usize - 1]).unwrap();
            for chance in [0, 1, u64::MAX / 3, u64::MAX] {
                assert!((seconds * 1000..=seconds * 1200).contains(&rest(chance)), "{tried}");
            }
            least += seconds * 1000;
            most += seconds * 1200;
        }
        let hours = |millis: i64| millis / 3_600_000;
        assert!(hours(least) >= 23 && hours(most) <= 29, "{} {}", hours(least), hours(most));
        assert_eq!(retry_at(now, 9, Duration::ZERO, 0), None);
        assert_eq!(retry_at(now, 0, Duration::ZERO, 0), None);
        assert_eq!(retry_at(now, 1, Duration::from_secs(600), 0), Some(Timestamp::from_millis(600_000)));
    }

    #[test]
    fn every_id_fits_a_header() {
        assert_eq!(header_id("ex_1:5:0"), "ex_1:5:0");
        for id in ["", "a b", "ü", "a\nb"] {
            assert!(header_id(id).starts_with("sha256_") && header_id(id).len() == 71, "{id}");
        }
    }
}
