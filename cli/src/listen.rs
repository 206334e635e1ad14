//! Where the HTTP API of a process listens, and who may reach it there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;

use crate::args::DEV_LISTEN;
use crate::errors::CliError;

/// The HTTP API of a process.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApiArgs {
    /// Address of the HTTP API; port 0 chooses a free one
    #[arg(long, value_name = "ADDRESS", default_value = DEV_LISTEN, env = "FLOWMONKEY_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Ask nobody who they are, whatever address is listened on: everybody who reaches it may do everything
    #[arg(long, alias = "insecure")]
    pub(crate) insecure_no_auth: bool,
    /// Where workers and people reach the HTTP API; resume URLs begin with it [default: the address it listens on]
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_PUBLIC_URL")]
    pub(crate) public_url: Option<String>,
    /// Host names by which requests may call this engine, beside those of this machine, separated by commas; `*` for any
    #[arg(long = "allow-host", value_name = "HOST", env = "FLOWMONKEY_ALLOW_HOST", value_delimiter = ',')]
    pub(crate) allowed_hosts: Vec<String>,
    /// Let webhooks reach more than public addresses: `loopback`, `private`, a network such as 10.1.0.0/16, an address or the
    /// name of a host, separated by commas
    #[arg(long, value_name = "NETWORK", env = "FLOWMONKEY_WEBHOOK_ALLOW", value_delimiter = ',')]
    pub(crate) webhook_allow: Vec<String>,
}

impl ApiArgs {
    /// Refuses to listen where other machines get in when nobody is asked for a key, unless that was asked for; tells when
    /// resume URLs would name an address that nobody can call.
    ///
    /// # Errors
    /// When `--insecure-no-auth` is missing.
    pub(crate) fn check(&self, keys_required: bool) -> Result<(), CliError> {
        let Self { listen, insecure_no_auth, public_url, .. } = self;
        if !listen.ip().is_loopback() && !keys_required && !insecure_no_auth {
            return Err(CliError::Usage(format!(
                "{listen} can be reached from other machines, and the HTTP API asks nobody who they are; listen on \
                 127.0.0.1 behind a proxy that does, or say --insecure-no-auth"
            )));
        }
        if listen.ip().is_unspecified() && public_url.is_none() {
            tracing::warn!(
                "resume URLs begin with http://{listen}, which only this machine can call; name the address that others \
                 know with --public-url"
            );
        }
        Ok(())
    }

    /// Hosts that requests may name: those that were allowed, and the address itself when it was given.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let mut hosts = self.allowed_hosts.clone();
        match self.listen.ip() {
            ip if ip.is_unspecified() => {}
            IpAddr::V4(ip) => hosts.push(ip.to_string()),
            IpAddr::V6(ip) => hosts.push(format!("[{ip}]")),
        }
        hosts
    }
}

/// The URL by which this machine reaches the API at `address`.
pub(crate) fn local_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: &str, insecure: bool) -> ApiArgs {
        ApiArgs {
            listen: listen.parse().unwrap(),
            insecure_no_auth: insecure,
            public_url: None,
            allowed_hosts: vec!["e1".into()],
            webhook_allow: Vec::new(),
        }
    }

    #[test]
    fn only_loopback_needs_no_word() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            args(listen, false).check(false).unwrap();
        }
        for listen in ["0.0.0.0:0", "10.1.2.3:0", "[::]:0"] {
            let error = args(listen, false).check(false).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("--insecure-no-auth"), "{error}");
            args(listen, true).check(false).unwrap();
            args(listen, false).check(true).unwrap();
        }
    }

    #[test]
    fn an_address_that_is_listened_on_may_be_called() {
        assert_eq!(args("10.1.2.3:0", true).hosts(), ["e1", "10.1.2.3"]);
        assert_eq!(args("[fd00::1]:0", true).hosts(), ["e1", "[fd00::1]"]);
        assert_eq!(args("0.0.0.0:0", true).hosts(), ["e1"]);
    }

    #[test]
    fn this_machine_reaches_what_listens_everywhere() {
        let urls = ["0.0.0.0:1", "[::]:1", "10.1.2.3:1"].map(|listen| local_url(listen.parse().unwrap()));
        assert_eq!(urls, ["http://127.0.0.1:1", "http://[::1]:1", "http://10.1.2.3:1"]);
    }
}
