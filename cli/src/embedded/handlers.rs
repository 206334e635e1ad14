//! The handlers of the embedded worker: the stock ones under the policy of the command line, and those of manifests.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flowmonkey_core::execution::Handlers;
use flowmonkey_engine::config::UnknownHandler;
use flowmonkey_handlers::jq::JqPolicy;
use flowmonkey_handlers::{
    CommandPolicy, EmailPolicy, FilePolicy, HttpPolicy, Programs, SmtpTls, StockPolicy, Trust, stock,
};
use flowmonkey_plumbing::manifest::Mode;
use flowmonkey_worker::{ChildHandler, Handler, Registry, load_manifests};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::Url;

use crate::args::HandlerArgs;
use crate::errors::CliError;
use crate::panics::Contained;
use crate::source;

/// The hidden argument that makes this program an evaluator of jq programs.
pub(crate) const JQ_EVALUATOR: &str = "__jq";

/// Networks that are private but not the machine itself (RFC 1918, RFC 4193).
const PRIVATE_V4: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(192, 168, 0, 0), 16),
];
const PRIVATE_V6: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// All handlers that the command line asks for.
///
/// # Errors
/// When a manifest or a permission cannot be understood.
pub(crate) fn registry(args: &HandlerArgs) -> Result<Registry, CliError> {
    let mut registry = Registry::with_reserved(flowmonkey_core::flow::parse::orchestrated_types());
    let mine = |error: flowmonkey_worker::RegistryError| CliError::Usage(error.to_string());
    for handler in stock(policy(args)?) {
        registry.register(Arc::new(Contained(handler))).map_err(mine)?;
    }
    for path in &args.manifests {
        for handler in manifests(path)? {
            // A manifest may take the place of a stock handler.
            registry.override_with(Arc::new(Contained(handler))).map_err(mine)?;
        }
    }
    Ok(registry)
}

/// The handlers of a manifest file, or of all manifest files of a directory, in the order of their names.
///
/// # Errors
/// Names everything that is wrong with them.
pub(crate) fn manifests(path: &Path) -> Result<Vec<Arc<dyn Handler>>, CliError> {
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        let unreadable = |error: std::io::Error| CliError::Usage(format!("{}: {error}", path.display()));
        let entries: Result<Vec<_>, _> = std::fs::read_dir(path).map_err(unreadable)?.collect();
        files = entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
        files.retain(|file| {
            file.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|one| ending == *one))
        });
        files.sort();
        if files.is_empty() {
            return Err(CliError::Usage(format!(
                "{}: no handler manifests (*.yaml, *.json) here",
                path.display()
            )));
        }
    }
    let mut handlers: Vec<Arc<dyn Handler>> = Vec::new();
    for file in files {
        for (manifest, directory) in
            load_manifests(&file).map_err(|error| CliError::Usage(error.to_string()))?
        {
            let handler = ChildHandler::new(manifest, directory)
                .map_err(|error| CliError::Usage(format!("{}: {error}", file.display())))?;
            handlers.push(Arc::new(handler));
        }
    }
    Ok(handlers)
}

fn policy(args: &HandlerArgs) -> Result<StockPolicy, CliError> {
    let http = networks(&args.allow_net)?;
    let email = match &args.smtp {
        Some(url) => mail_server(url, http.clone())?,
        None => EmailPolicy { flow_servers: http.clone(), ..EmailPolicy::default() },
    };
    let program = std::env::current_exe().map_err(CliError::io("cannot find this program"))?;
    let jq = JqPolicy { program, arguments: vec![JQ_EVALUATOR.to_owned()] };
    let command = CommandPolicy { programs: programs(&args.allow_command) };
    let trust = trust(&args.ca_files)?;
    Ok(StockPolicy { http, command, file: folders(&args.files)?, email, trust, jq: Some(jq) })
}

fn networks(words: &[String]) -> Result<HttpPolicy, CliError> {
    let mut policy = HttpPolicy::default();
    for word in words {
        match word.as_str() {
            "loopback" => policy.allow_loopback = true,
            "private" => {
                policy.allow_networks.extend(PRIVATE_V4.map(IpNet::V4));
                policy.allow_networks.push(IpNet::V6(PRIVATE_V6));
            }
            _ => {
                let network = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
                policy.allow_networks.push(network.map_err(|_| {
                    let wanted = "`loopback`, `private` or a network such as 10.1.0.0/16";
                    CliError::Usage(format!("--allow-net {word}: give {wanted}"))
                })?);
            }
        }
    }
    Ok(policy)
}

fn programs(words: &[String]) -> Programs {
    if words.is_empty() {
        Programs::None
    } else if words.iter().any(|word| word == "all") {
        Programs::Any
    } else {
        Programs::Listed(words.to_vec())
    }
}

fn folders(given: &[PathBuf]) -> Result<FilePolicy, CliError> {
    let here = [PathBuf::from(".")];
    let given = if given.is_empty() { &here } else { given };
    let roots = given.iter().map(|folder| {
        let root = folder
            .canonicalize()
            .map_err(|error| CliError::Usage(format!("--files {}: {error}", folder.display())))?;
        if root.is_dir() {
            Ok(root)
        } else {
            Err(CliError::Usage(format!("--files {}: it is no directory", folder.display())))
        }
    });
    Ok(FilePolicy { roots: roots.collect::<Result<_, _>>()? })
}

/// Certificates are small: a file of more bytes is something else.
const CA_FILE_BYTES_MAX: usize = 1 << 20;

fn trust(files: &[PathBuf]) -> Result<Trust, CliError> {
    let mut trust = Trust::default();
    for file in files {
        let pem = source::read_text(&file.to_string_lossy(), CA_FILE_BYTES_MAX)?;
        trust
            .add_pem(pem.as_bytes())
            .map_err(|error| CliError::Usage(format!("--ca-file {}: {error}", file.display())))?;
    }
    Ok(trust)
}

fn mail_server(text: &str, flow_servers: HttpPolicy) -> Result<EmailPolicy, CliError> {
    let wrong = |reason: &str| {
        let wanted = "smtp://, smtp+starttls:// or smtps://[USER:PASSWORD@]HOST[:PORT]";
        CliError::Usage(format!("--smtp: {reason}; give {wanted}"))
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    let tls = match url.scheme() {
        "smtp" => SmtpTls::None,
        "smtp+starttls" => SmtpTls::StartTls,
        "smtps" => SmtpTls::Tls,
        _ => return Err(wrong("the scheme is not one of mail")),
    };
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("the host is missing"))?;
    let decoded = |text: &str| unescape(text).ok_or_else(|| wrong("the account is not spelled well"));
    let username = (!url.username().is_empty()).then(|| decoded(url.username())).transpose()?;
    let password = url.password().map(decoded).transpose()?;
    if username.is_some() != password.is_some() {
        return Err(wrong("an account needs a name and a password"));
    }
    let host = Some(host.trim_start_matches('[').trim_end_matches(']').to_owned());
    Ok(EmailPolicy { host, port: url.port(), tls, username, password, flow_servers })
}

/// Percent-encoded text (RFC 3986) as it is meant.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// What the core knows of the handlers of the embedded worker.
pub(crate) struct Known {
    registry: Option<Registry>,
    unknown: UnknownHandler,
}

impl Known {
    /// The handlers of `registry`; without one, every handler may turn up in another process.
    pub(crate) const fn new(registry: Option<Registry>, unknown: UnknownHandler) -> Self {
        Self { registry, unknown }
    }
}

impl Handlers for Known {
    fn accepts(&self, handler_type: &str) -> bool {
        match (&self.registry, self.unknown) {
            (None, _) | (Some(_), UnknownHandler::Wait) => true,
            (Some(registry), UnknownHandler::Fail) => registry.get(handler_type).is_some(),
        }
    }

    fn timeout_ms(&self, handler_type: &str) -> Option<u64> {
        self.registry.as_ref()?.get(handler_type)?.manifest().limit_ms()
    }

    fn is_stateful(&self, handler_type: &str) -> bool {
        let handler = self.registry.as_ref().and_then(|registry| registry.get(handler_type));
        handler.is_some_and(|handler| handler.manifest().mode == Mode::Stateful)
    }

    fn any_stateful(&self) -> bool {
        let mut manifests = self.registry.iter().flat_map(Registry::manifests);
        manifests.any(|manifest| manifest.mode == Mode::Stateful)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_named_or_given() {
        let words = ["loopback", "10.1.0.0/16", "192.168.0.7", "private"].map(str::to_owned);
        let policy = networks(&words).unwrap();
        assert!(policy.allow_loopback);
        assert_eq!(policy.allow_networks.len(), 6);
        assert!(networks(&["internet".to_owned()]).is_err());
    }

    #[test]
    fn a_mail_server_is_a_url() {
        let policy =
            mail_server("smtps://me%40home:p%C3%A4ss@mail.example:4650", HttpPolicy::default()).unwrap();
        assert_eq!((policy.host.as_deref(), policy.port), (Some("mail.example"), Some(4650)));
        assert_eq!(policy.username.as_deref(), Some("me@home"));
        assert_eq!(policy.password.as_deref(), Some("päss"));
        assert_eq!(policy.tls, SmtpTls::Tls);
        for wrong in
            ["mail.example", "http://mail.example", "smtp://", "smtp://me@mail.example", "smtp://a:%zz@h"]
        {
            assert!(mail_server(wrong, HttpPolicy::default()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn programs_are_none_some_or_all() {
        assert_eq!(programs(&[]), Programs::None);
        assert_eq!(programs(&["git".to_owned()]), Programs::Listed(vec!["git".to_owned()]));
        assert_eq!(programs(&["git".to_owned(), "all".to_owned()]), Programs::Any);
    }
}
