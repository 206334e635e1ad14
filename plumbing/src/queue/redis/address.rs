//! Where Redis is, out of a URL.
//!
//! | URL | means |
//! |---|---|
//! | `redis://[user:password@]host[:6379][/db]` | one server |
//! | `redis+sentinel://[user:password@]host[:26379],…/master[/db]` | the primary that these Sentinels name `master` |
//! | `redis+cluster://[user:password@]host[:6379],…` | a Cluster; the hosts are where to ask first |
//!
//! `rediss://`, `rediss+sentinel://`, `rediss+cluster://` are the same over TLS. `valkey` may stand for `redis`. User and
//! password may be percent-encoded; IPv6 addresses stand in brackets.

use super::options::RedisOptionsError;

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A parsed URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) tls: bool,
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: i64,
    pub(super) kind: AddressKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AddressKind {
    Single,
    Sentinel { master: String },
    Cluster,
}

/// Without user and password.
impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.kind {
            AddressKind::Single => "",
            AddressKind::Sentinel { .. } => "+sentinel",
            AddressKind::Cluster => "+cluster",
        };
        write!(formatter, "redis{}{kind}://", if self.tls { "s" } else { "" })?;
        for (number, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
            write!(formatter, "{comma}{open}{host}{close}:{port}")?;
        }
        if let AddressKind::Sentinel { master } = &self.kind {
            write!(formatter, "/{master}")?;
        }
        if self.db != 0 {
            write!(formatter, "/{}", self.db)?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Address({self})")
    }
}

impl Address {
    /// Reads a URL. Errors never repeat the part that may hold a password.
    pub(super) fn parse(url: &str) -> Result<Self, RedisOptionsError> {
        let invalid = |reason: &str| RedisOptionsError::Url { reason: reason.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no `scheme://`"))?;
        let (transport, kind) = match scheme.split_once('+') {
            Some((transport, kind)) => (transport, Some(kind)),
            None => (scheme, None),
        };
        let tls = match transport {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            _ => return Err(invalid("its scheme is none of redis, rediss, with +sentinel or +cluster")),
        };
        if rest.contains('?') || rest.contains('#') {
            return Err(invalid("options after `?` are not read; use the settings"));
        }
        // The last `@`: a password that was not encoded may hold one.
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        let (username, password) = read_credentials(credentials)?;
        let mut parts = rest.trim_end_matches('/').split('/');
        let hosts = parts.next().unwrap_or_default();
        let kind = match kind {
            None => AddressKind::Single,
            Some("sentinel") => {
                let master = parts.next().filter(|name| !name.is_empty());
                let master =
                    master.ok_or_else(|| invalid("it does not name the master after the Sentinels"))?;
                AddressKind::Sentinel { master: master.to_owned() }
            }
            Some("cluster") => AddressKind::Cluster,
            Some(_) => return Err(invalid("after `+` comes sentinel or cluster")),
        };
        let db = match parts.next() {
            None => 0,
            Some(db) => db
                .parse()
                .ok()
                .filter(|db| *db >= 0)
                .ok_or_else(|| invalid("the database is not a number"))?,
        };
        if parts.next().is_some() {
            return Err(invalid("its path has too many parts"));
        }
        if db != 0 && kind == AddressKind::Cluster {
            return Err(invalid("a Cluster has only database 0"));
        }
        let port = if matches!(kind, AddressKind::Sentinel { .. }) { SENTINEL_PORT } else { REDIS_PORT };
        let hosts: Vec<_> = hosts.split(',').map(|host| read_host(host, port)).collect::<Result<_, _>>()?;
        if hosts.len() > 1 && kind == AddressKind::Single {
            return Err(invalid("several hosts need redis+sentinel:// or redis+cluster://"));
        }
        Ok(Self { tls, hosts, username, password, db, kind })
    }
}

fn read_credentials(
    credentials: Option<&str>,
) -> Result<(Option<String>, Option<String>), RedisOptionsError> {
    let Some(credentials) = credentials else { return Ok((None, None)) };
    let (username, password) = match credentials.split_once(':') {
        Some((username, password)) => (username, Some(password)),
        None => (credentials, None),
    };
    let username = decode(username)?;
    let password = password.map(decode).transpose()?;
    Ok((Some(username).filter(|name| !name.is_empty()), password.filter(|password| !password.is_empty())))
}

fn decode(text: &str) -> Result<String, RedisOptionsError> {
    let wrong =
        || RedisOptionsError::Url { reason: "its user or password is not percent-encoded UTF-8".into() };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(wrong()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn read_host(text: &str, default_port: u16) -> Result<(String, u16), RedisOptionsError> {
    let invalid = || RedisOptionsError::Url { reason: "a host is not `host` or `host:port`".into() };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(invalid)?;
        (host, rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some(rest) }))
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map_or(Ok(default_port), |port| port.parse().map_err(|_| invalid()))?;
    if host.is_empty() || port == 0 {
        return Err(invalid());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[(&str, u16)]) -> Vec<(String, u16)> {
        list.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect()
    }

    #[test]
    fn every_kind_of_url_is_read() {
        let single = Address::parse("redis://localhost").unwrap();
        assert_eq!((single.hosts, single.tls, single.db), (hosts(&[("localhost", 6379)]), false, 0));
        let tls = Address::parse("rediss://me:p%40ss%3a@[::1]:7000/3").unwrap();
        assert_eq!((&tls.hosts, tls.tls, tls.db), (&hosts(&[("::1", 7000)]), true, 3));
        assert_eq!((tls.username.as_deref(), tls.password.as_deref()), (Some("me"), Some("p@ss:")));
        assert_eq!(tls.to_string(), "rediss://[::1]:7000/3");
        let sentinel = Address::parse("redis+sentinel://:secret@a,b:5/main/2").unwrap();
        assert_eq!(sentinel.hosts, hosts(&[("a", 26379), ("b", 5)]));
        assert_eq!(sentinel.kind, AddressKind::Sentinel { master: "main".into() });
        assert_eq!((sentinel.username.as_deref(), sentinel.password.as_deref()), (None, Some("secret")));
        assert_eq!(sentinel.db, 2);
        let cluster = Address::parse("valkeys+cluster://a:1,b:2").unwrap();
        assert_eq!((cluster.kind, cluster.tls), (AddressKind::Cluster, true));
    }

    #[test]
    fn wrong_urls_are_refused_without_repeating_secrets() {
        for url in [
            "localhost:6379",
            "http://user:secret@localhost",
            "redis://user:secret@",
            "redis://user:secret@a,b",
            "redis://user:secret@host:port",
            "redis://user:secret@host:0",
            "redis://user:secret@host/x",
            "redis://user:secret@host/-1",
            "redis://user:secret@host/1/2",
            "redis://user:secret%@host",
            "redis://user:secret@host?protocol=resp3",
            "redis+sentinel://user:secret@a",
            "redis+cluster://user:secret@a/1",
            "redis+proxy://user:secret@a",
            "redis://user:secret@[::1",
            "redis://user:secret@[::1]7000x",
        ] {
            let error = Address::parse(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let address = Address::parse("redis://user:secret@host").unwrap();
        assert_eq!(format!("{address:?} {address}"), "Address(redis://host:6379) redis://host:6379");
    }
}
