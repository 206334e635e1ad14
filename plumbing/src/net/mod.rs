//! Keeps HTTP requests off addresses that only this machine or its network can reach: those of handlers and of webhooks.
//!
//! The check sits in the resolver that the connection itself uses, so that a name cannot resolve to one address for the
//! check and to another for the connection. Addresses in URLs skip the resolver and are checked by [`HttpPolicy::check_url`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Which addresses requests may reach. The default: every public address, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpPolicy {
    /// Networks that may be reached although they are not public.
    pub allow_networks: Vec<IpNet>,
    /// Whether the machine itself may be reached (`127.0.0.0/8`, `::1`).
    pub allow_loopback: bool,
    /// Names of hosts that may be reached whatever they resolve to; lower case.
    pub allow_hosts: Vec<String>,
    /// Ports that may be reached; none: all.
    pub allow_ports: Option<Vec<u16>>,
}

/// Why a request was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The address is not public.
    #[error("`{host}` is {address}, which is not a public address")]
    Address {
        /// As the URL or the name service spells it.
        host: String,
        /// The address.
        address: IpAddr,
    },
    /// The name is one of inner machines.
    #[error("`{0}` names a machine of the cloud or the local network")]
    Name(String),
    /// The port is not allowed.
    #[error("port {0} is not among the ports that may be reached")]
    Port(u16),
    /// The URL is not one of HTTP.
    #[error("`{0}` is not a scheme for requests: only http and https are")]
    Scheme(String),
    /// There is nobody to ask.
    #[error("the URL names no host")]
    NoHost,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// Not public: this network, private, shared, loopback, link-local, protocol assignments, documentation, relays,
/// benchmarks, multicast, reserved and broadcast.
const BLOCKED_V4: [Ipv4Net; 15] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// The part of IPv6 that is public at all: global unicast.
const GLOBAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Within it: protocol assignments (Teredo among them) and documentation.
const BLOCKED_V6: [Ipv6Net; 3] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];
/// Translation of IPv4 by a gateway.
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// 6to4: the IPv4 address is in the second and third group.
const SIX_TO_FOUR: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// Names that lead to metadata services or the machine itself, whatever they resolve to.
const BLOCKED_NAMES: [&str; 4] = ["metadata", "metadata.google.internal", "metadata.goog", "instance-data"];

impl HttpPolicy {
    /// Whether requests may reach an address.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = unpacked(address);
        is_public(address)
            || (self.allow_loopback && address.is_loopback())
            || self.allow_networks.iter().any(|network| network.contains(&address))
    }

    /// Checks all of a URL but what its name resolves to.
    ///
    /// # Errors
    /// Why it may not be reached.
    pub fn check_url(&self, url: &Url) -> Result<(), Blocked> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Blocked::Scheme(url.scheme().into()));
        }
        if let (Some(ports), Some(port)) = (&self.allow_ports, url.port_or_known_default())
            && !ports.contains(&port)
        {
            return Err(Blocked::Port(port));
        }
        // The parser has already turned every spelling of an IPv4 address (octal, hexadecimal, one number) into four numbers.
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(Blocked::NoHost)?;
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) if self.allows(address) => Ok(()),
            Ok(address) => Err(Blocked::Address { host: host.into(), address }),
            Err(_) => self.check_name(host),
        }
    }

    fn allows_host(&self, name: &str) -> bool {
        self.allow_hosts.iter().any(|host| host == name)
    }

    fn check_name(&self, name: &str) -> Result<(), Blocked> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if self.allows_host(&name) {
            return Ok(());
        }
        // Who opened networks may have opened the one of such a name: then its address decides.
        let blocked = BLOCKED_NAMES.contains(&name.as_str()) && self.allow_networks.is_empty();
        if blocked { Err(Blocked::Name(name)) } else { Ok(()) }
    }

    /// Resolves a host once, to the addresses that may be reached.
    ///
    /// # Errors
    /// When there is none.
    pub async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        self.check_name(host).map_err(ResolveError::Blocked)?;
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((host, port)).await.map_err(ResolveError::Lookup)?.collect();
        let by_name = self.allows_host(&host.trim_end_matches('.').to_ascii_lowercase());
        let allowed: Vec<SocketAddr> =
            found.iter().copied().filter(|found| by_name || self.allows(found.ip())).collect();
        match (allowed.is_empty(), found.first()) {
            (true, Some(first)) => {
                Err(ResolveError::Blocked(Blocked::Address { host: host.into(), address: first.ip() }))
            }
            (true | false, Some(_) | None) => Ok(allowed),
        }
    }
}

/// Why a name gave no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// It may not be reached.
    #[error(transparent)]
    Blocked(Blocked),
    /// The name service does not know it, or does not answer.
    #[error("the name cannot be resolved")]
    Lookup(#[source] std::io::Error),
}

/// The resolver of an HTTP client whose connections keep to a policy.
pub struct GuardedResolver(pub Arc<HttpPolicy>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = policy.resolve(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// The IPv4 address within an IPv6 address, where there is one: that is where the packets end up.
fn unpacked(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let groups = v6.segments();
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    if let Some(mapped) = v6.to_ipv4_mapped() {
        IpAddr::V4(mapped)
    } else if NAT64.contains(&v6) {
        from(groups[6], groups[7])
    } else if SIX_TO_FOUR.contains(&v6) {
        from(groups[1], groups[2])
    } else {
        address
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !BLOCKED_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address) && !BLOCKED_V6.iter().any(|network| network.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &HttpPolicy, url: &str) -> Result<(), Blocked> {
        policy.check_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn every_spelling_of_an_inner_address_is_blocked() {
        let blocked = [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://0x7f.1/",
            "http://127.0.0.1./",
            "http://①②⑦.0.0.1/",
            "http://0/",
            "http://0.0.0.0/",
            "http://10.1.2.3/",
            "http://100.64.0.1/",
            "http://169.254.169.254/latest/meta-data",
            "http://172.31.255.255/",
            "http://192.0.0.1/",
            "http://192.168.1.1/",
            "http://198.19.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://192.0.2.1/",
            "http://198.51.100.1/",
            "http://203.0.113.1/",
            "http://[::]/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a00:1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[64:ff9b:1::1]/",
            "http://[2002:7f00:1::]/",
            "http://[2002:a9fe:a9fe::]/",
            "http://[fc00::1]/",
            "http://[fd12::1]/",
            "http://[fe80::1]/",
            "http://[ff02::1]/",
            "http://[2001:db8::1]/",
            "http://[2001::1]/",
            "http://[::127.0.0.1]/",
            "http://[100::1]/",
            "http://metadata.google.internal/",
            "http://METADATA.google.internal./",
        ];
        for url in blocked {
            assert!(check(&HttpPolicy::default(), url).is_err(), "{url}");
        }
    }

    #[test]
    fn public_addresses_and_names_pass() {
        for url in [
            "http://1.1.1.1/",
            "https://[2606:4700::1111]/",
            "http://172.32.0.1/",
            "http://100.128.0.1/",
            "http://[64:ff9b::101:101]/",
            "https://example.com/",
        ] {
            assert_eq!(check(&HttpPolicy::default(), url), Ok(()), "{url}");
        }
    }

    #[test]
    fn only_http_and_the_allowed_ports_pass() {
        let policy = HttpPolicy { allow_ports: Some(vec![443]), ..HttpPolicy::default() };
        assert_eq!(check(&policy, "file:///etc/passwd"), Err(Blocked::Scheme("file".into())));
        assert_eq!(check(&policy, "gopher://1.1.1.1/"), Err(Blocked::Scheme("gopher".into())));
        assert_eq!(check(&policy, "http://1.1.1.1/"), Err(Blocked::Port(80)));
        assert_eq!(check(&policy, "https://1.1.1.1/"), Ok(()));
    }

    #[test]
    fn an_allowed_network_opens_exactly_that_network() {
        let policy =
            HttpPolicy { allow_networks: vec!["10.1.0.0/16".parse().unwrap()], ..HttpPolicy::default() };
        assert!(policy.allows("10.1.2.3".parse().unwrap()));
        assert!(policy.allows("::ffff:10.1.2.3".parse().unwrap()));
        assert!(!policy.allows("10.2.0.1".parse().unwrap()));
        assert!(!policy.allows("127.0.0.1".parse().unwrap()));
        let loopback = HttpPolicy { allow_loopback: true, ..HttpPolicy::default() };
        assert!(loopback.allows("127.9.9.9".parse().unwrap()));
        assert!(!loopback.allows("0.0.0.0".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_an_inner_address_is_blocked() {
        let error = HttpPolicy::default().resolve("localhost", 80).await.unwrap_err();
        assert!(matches!(error, ResolveError::Blocked(Blocked::Address { .. })), "{error:?}");
        let loopback = HttpPolicy { allow_loopback: true, ..HttpPolicy::default() };
        assert!(!loopback.resolve("localhost", 80).await.unwrap().is_empty());
        let named = HttpPolicy { allow_hosts: vec!["localhost".into()], ..HttpPolicy::default() };
        assert!(!named.resolve("LocalHost", 80).await.unwrap().is_empty());
        assert!(check(&named, "http://127.0.0.1/").is_err(), "the name is allowed, not its address");
    }
}
