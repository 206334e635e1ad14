//! `flowmonkey profile …`: what profiles say, and what counts.

use serde_json::{Value, json};

use crate::args::{Global, ProfileCommand};
use crate::errors::{CliError, Exit};
use crate::settings::{Given, Profiles, Settings, config_path};
use crate::show;

pub(crate) fn profile(command: &ProfileCommand, global: &Global, given: Given) -> Result<Exit, CliError> {
    let settings = Settings::resolve(global, given)?;
    let file = config_path(&|name| std::env::var(name).ok())?;
    match command {
        ProfileCommand::List => {
            let profiles = Profiles::read(&file)?;
            let used = global.profile.as_deref().unwrap_or_default();
            let items: Vec<Value> = profiles
                .by_name
                .iter()
                .map(|(name, profile)| {
                    json!({
                        "name": name,
                        "used": name == used,
                        "server": profile.server,
                        "tokenFile": profile.token_file,
                        "output": profile.output.map(crate::output::Output::name),
                    })
                })
                .collect();
            let list = json!({ "file": profiles.file, "items": items });
            settings.output.print(&list, |list| {
                let columns = [
                    ("name", "name"),
                    ("server", "server"),
                    ("token file", "tokenFile"),
                    ("output", "output"),
                ];
                show::rows(&list["items"], &columns)
            })?;
        }
        ProfileCommand::Show => {
            let server = settings.server.as_ref();
            let shown = json!({
                "profile": global.profile,
                "file": file,
                "server": server.map(|server| &server.url),
                "serverFrom": server.map(|server| server.origin.to_string()),
                // Never the token itself.
                "token": settings.token.is_some(),
                "tokenFrom": settings.token.as_ref().map(|token| token.origin.to_string()),
                "output": settings.output.name(),
                "outputFrom": settings.output_origin.to_string(),
            });
            settings.output.print(&shown, |shown| {
                let token = if shown["token"] == true { "given" } else { "none" };
                let server = if server.is_some() {
                    show::line(&shown["server"])
                } else {
                    "none: a data directory".into()
                };
                let rows = [
                    ("server", server, "serverFrom"),
                    ("token", token.to_owned(), "tokenFrom"),
                    ("output", show::line(&shown["output"]), "outputFrom"),
                ];
                let rows =
                    rows.map(|(what, value, from)| vec![what.to_owned(), value, show::line(&shown[from])]);
                show::table(&["what", "value", "said by"], rows)
            })?;
        }
    }
    Ok(Exit::Done)
}
