//! The configuration file: profiles by name.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::errors::CliError;
use crate::output::Output;

/// Names the configuration file.
const CONFIG: &str = "FLOWMONKEY_CONFIG";
/// Where it is in the folder for configurations.
const NAME: &str = "flowmonkey/config.toml";
/// Bytes of a configuration file.
const BYTES_MAX: u64 = 1024 * 1024;

/// What one profile says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Profile {
    /// The server to ask.
    pub(crate) server: Option<String>,
    /// File with the key or token for that server; not absolute: beside the configuration file, or `~/…`.
    pub(crate) token_file: Option<PathBuf>,
    /// How results are printed.
    pub(crate) output: Option<Output>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// All profiles of a configuration file.
#[derive(Debug)]
pub(crate) struct Profiles {
    pub(crate) file: PathBuf,
    pub(crate) by_name: BTreeMap<String, Profile>,
}

/// Where the configuration file is, whether it exists or not.
///
/// # Errors
/// When nothing says where the user's files are.
pub(crate) fn config_path(env: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, CliError> {
    let filled = |name: &str| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    filled(CONFIG)
        .or_else(|| filled("XDG_CONFIG_HOME").map(|folder| folder.join(NAME)))
        .or_else(|| filled("HOME").map(|home| home.join(".config").join(NAME)))
        .ok_or_else(|| CliError::Usage(format!("neither {CONFIG} nor HOME says where the profiles are")))
}

impl Profiles {
    /// Reads them.
    ///
    /// # Errors
    /// When the file does not exist, cannot be read, or says something that is not known.
    pub(crate) fn read(file: &Path) -> Result<Self, CliError> {
        let shown = file.display();
        let text = match std::fs::metadata(file) {
            Ok(metadata) if metadata.len() > BYTES_MAX => {
                return Err(CliError::Usage(format!("{shown} has more than {BYTES_MAX} bytes")));
            }
            Ok(_) => std::fs::read_to_string(file),
            Err(error) => Err(error),
        };
        let text = text.map_err(|error| {
            CliError::Usage(if error.kind() == ErrorKind::NotFound {
                format!("{shown} does not exist; profiles stand there, or in the file that {CONFIG} names")
            } else {
                format!("{shown} cannot be read: {error}")
            })
        })?;
        let document: Document = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, column) = place(&text, at);
            let cure = if error.message().starts_with("unknown field `token`") {
                "; put the token into a file of its own, and name that: token-file = \"…\""
            } else {
                ""
            };
            let message = error.message().trim_end();
            CliError::Usage(format!("{shown}:{line}:{column}: {message}{cure}"))
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut by_name = document.profiles;
        for profile in by_name.values_mut() {
            if let Some(token_file) = &mut profile.token_file {
                *token_file = match (token_file.strip_prefix("~"), std::env::home_dir()) {
                    (Ok(below), Some(home)) => home.join(below),
                    (Ok(_) | Err(_), _) => folder.join(&*token_file),
                };
            }
        }
        Ok(Self { file: file.to_owned(), by_name })
    }

    /// The profile called `name`, with its name and the file.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn take(mut self, name: &str) -> Result<(String, PathBuf, Profile), CliError> {
        match self.by_name.remove(name) {
            Some(profile) => Ok((name.to_owned(), self.file, profile)),
            None => {
                let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                let file = self.file.display();
                Err(CliError::Usage(format!("{file} has no profile `{name}`; it has {known}")))
            }
        }
    }
}

/// Line and column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
