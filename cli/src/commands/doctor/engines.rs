//! Engines: whether they answer, and which release they are of.

use super::{Findings, State};
use crate::client::Client;
use crate::settings::{Origin, Server, Settings};

/// Asks one engine.
pub(super) async fn look(findings: &mut Findings, url: &str, settings: &Settings) {
    let server = Server { url: url.to_owned(), origin: Origin::Option("--engine") };
    let client = match Client::new(&server, settings.token.as_ref()) {
        Ok(client) => client,
        Err(error) => return findings.add("engine", State::Bad, error.to_string()),
    };
    if let Err(error) = client.get("/readyz").await {
        return findings.add("engine", State::Bad, format!("{url} is not ready: {error}"));
    }
    match client.get("/v1/version").await {
        Ok(version) => {
            let theirs = version["version"].as_str().unwrap_or("?");
            let name = version["engineId"].as_str().unwrap_or("?");
            let ours = env!("CARGO_PKG_VERSION");
            let text = format!("{name} at {url} is ready, version {theirs}");
            if theirs == ours {
                findings.add("engine", State::Good, text);
            } else {
                findings.add("engine", State::Warning, format!("{text}; this program is {ours}"));
            }
        }
        Err(error) => findings.add("engine", State::Bad, error.to_string()),
    }
}
