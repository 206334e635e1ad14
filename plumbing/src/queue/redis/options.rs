//! What a Redis queue is told.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis::{ClientTlsConfig, TlsCertificates};

use super::address::Address;
use super::keys::{is_name, is_prefix};

/// Default of [`RedisOptions::prefix`].
pub const PREFIX: &str = "flowmonkey";
/// Default of [`RedisOptions::memory_ratio_max`].
pub const MEMORY_RATIO_MAX: f64 = 0.85;
/// Default of [`RedisOptions::engine_stale`].
pub const ENGINE_STALE: Duration = Duration::from_secs(10);

/// How to reach Redis, and how to use it.
#[derive(Clone)]
pub struct RedisOptions {
    /// Where Redis is: `redis://`, `redis+sentinel://…/master`, `redis+cluster://`, each also as `rediss…` for TLS, with
    /// user, password and database as usual. Never printed whole.
    pub url: String,
    /// Begins the names of all keys and channels: `[a-z0-9._-]+`. Default `flowmonkey`.
    pub prefix: String,
    /// CA certificates in PEM that sign the servers' ones. Default: those of the web.
    pub tls_ca_file: Option<PathBuf>,
    /// Client certificate in PEM, for mutual TLS; needs `tls_key_file`.
    pub tls_certificate_file: Option<PathBuf>,
    /// Key of the client certificate in PEM; needs `tls_certificate_file`.
    pub tls_key_file: Option<PathBuf>,
    /// User at the Sentinels. Default: none.
    pub sentinel_username: Option<String>,
    /// Password at the Sentinels. Default: none. Never printed.
    pub sentinel_password: Option<String>,
    /// Share of `maxmemory` in use from which on a push is refused, so that Redis itself is never full; above 0, at most
    /// 1. Default 0.85.
    pub memory_ratio_max: f64,
    /// Time after which an engine that was not heard of counts as dead, and its results are taken over. Default 10 s.
    pub engine_stale: Duration,
    /// The engine that this process is: results of the tasks that it pushes come back to it as long as it takes them, as it
    /// has their executions at hand. 1 to 200 bytes without control characters. Default: none, and then they go to any engine.
    pub engine: Option<String>,
    /// True: an eviction policy other than `noeviction` is only a warning. Default false.
    pub allow_eviction: bool,
}

impl RedisOptions {
    /// The defaults, for the Redis at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: PREFIX.to_owned(),
            tls_ca_file: None,
            tls_certificate_file: None,
            tls_key_file: None,
            sentinel_username: None,
            sentinel_password: None,
            memory_ratio_max: MEMORY_RATIO_MAX,
            engine_stale: ENGINE_STALE,
            engine: None,
            allow_eviction: false,
        }
    }

    /// Checks all of it.
    pub(super) fn address(&self) -> Result<Address, RedisOptionsError> {
        if !is_prefix(&self.prefix) {
            return Err(RedisOptionsError::Prefix);
        }
        if !(self.memory_ratio_max > 0.0 && self.memory_ratio_max <= 1.0) {
            return Err(RedisOptionsError::MemoryRatio);
        }
        if self.engine.as_deref().is_some_and(|engine| !is_name(engine)) {
            return Err(RedisOptionsError::Engine);
        }
        Address::parse(&self.url)
    }

    /// Reads the files for TLS; none: no TLS.
    pub(super) fn certificates(&self, tls: bool) -> Result<Option<TlsCertificates>, RedisOptionsError> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| RedisOptionsError::File { path: path.clone(), reason: error.to_string() })
        };
        let client_tls = match (&self.tls_certificate_file, &self.tls_key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
            }
            (Some(_), None) => return Err(RedisOptionsError::CertificateWithoutKey),
            (None, Some(_)) => return Err(RedisOptionsError::KeyWithoutCertificate),
        };
        let root_cert = self.tls_ca_file.as_ref().map(read).transpose()?;
        if !tls {
            if client_tls.is_some() || root_cert.is_some() {
                return Err(RedisOptionsError::CertificatesWithoutTls);
            }
            return Ok(None);
        }
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }
}

/// Without secrets.
impl fmt::Debug for RedisOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = Address::parse(&self.url).map_or_else(|_| "?".to_owned(), |address| address.to_string());
        formatter
            .debug_struct("RedisOptions")
            .field("url", &url)
            .field("prefix", &self.prefix)
            .field("tls_ca_file", &self.tls_ca_file)
            .field("tls_certificate_file", &self.tls_certificate_file)
            .field("memory_ratio_max", &self.memory_ratio_max)
            .field("engine_stale", &self.engine_stale)
            .field("engine", &self.engine)
            .field("allow_eviction", &self.allow_eviction)
            .finish_non_exhaustive()
    }
}

/// Why options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisOptionsError {
    /// The URL.
    #[error("the URL of Redis is not valid: {reason}")]
    Url {
        /// What is wrong with it, without repeating it.
        reason: String,
    },
    /// The prefix.
    #[error("the prefix of the keys may only hold `a-z`, `0-9`, `.`, `_`, `-`, and not be empty")]
    Prefix,
    /// The memory ratio.
    #[error("the memory ratio must be above 0 and at most 1")]
    MemoryRatio,
    /// The engine's name.
    #[error("the name of an engine is 1 to 200 bytes without control characters")]
    Engine,
    /// Only half of a client certificate.
    #[error("a client certificate for Redis is set, but not its key")]
    CertificateWithoutKey,
    /// Only half of a client certificate.
    #[error("the key of a client certificate for Redis is set, but not the certificate")]
    KeyWithoutCertificate,
    /// Certificates for a connection that would not use them.
    #[error("certificates for Redis are set, but the URL does not begin with `rediss`")]
    CertificatesWithoutTls,
    /// A file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The client library refuses them, as when a certificate is no PEM.
    #[error("the settings for Redis cannot be used: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_client_certificate_is_an_error_that_says_which_half() {
        let file = std::env::temp_dir();
        let key = RedisOptions { tls_key_file: Some(file.clone()), ..RedisOptions::new("rediss://a") };
        assert_eq!(key.certificates(true).unwrap_err(), RedisOptionsError::KeyWithoutCertificate);
        let certificate =
            RedisOptions { tls_certificate_file: Some(file), ..RedisOptions::new("rediss://a") };
        assert_eq!(certificate.certificates(true).unwrap_err(), RedisOptionsError::CertificateWithoutKey);
    }

    #[test]
    fn settings_out_of_their_bounds_are_refused() {
        for ratio in [0.0, -1.0, 1.1, f64::NAN] {
            let options = RedisOptions { memory_ratio_max: ratio, ..RedisOptions::new("redis://a") };
            assert_eq!(options.address().unwrap_err(), RedisOptionsError::MemoryRatio);
        }
        let options = RedisOptions { prefix: "a*".into(), ..RedisOptions::new("redis://a") };
        assert_eq!(options.address().unwrap_err(), RedisOptionsError::Prefix);
        let options = RedisOptions { engine: Some("a\nb".into()), ..RedisOptions::new("redis://a") };
        assert_eq!(options.address().unwrap_err(), RedisOptionsError::Engine);
    }

    #[test]
    fn secrets_are_not_printed() {
        let mut options = RedisOptions::new("redis://user:hidden@host");
        options.sentinel_password = Some("hidden".into());
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
