//! Which server is asked, what it is shown, and how results are printed: decided here and nowhere else.
//!
//! An option counts before the environment, the environment before a profile of the configuration file, and without any of
//! them the data directory is asked.

mod file;

use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;
use reqwest::header::HeaderValue;

use crate::args::Global;
use crate::client::Client;
use crate::errors::CliError;
use crate::output::Output;
use crate::tree::tell;
pub(crate) use file::{Profiles, config_path};

/// Holds the key or token for servers; no argument does, as other users of the machine can see those.
const TOKEN: &str = "FLOWMONKEY_TOKEN";
/// Bytes of a key or token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An option of the command line.
    Option(&'static str),
    /// A variable of the environment.
    Environment(&'static str),
    /// A profile.
    Profile { name: String, file: PathBuf },
    /// Nobody.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(name) | Self::Environment(name) => f.write_str(name),
            Self::Profile { name, file } => write!(f, "profile {name} of {}", file.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What the command line itself gave, and not the environment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given {
    server: bool,
    token_file: bool,
    output: bool,
    profile: bool,
    /// A place that is no server: a data directory or a database.
    place: bool,
}

impl Given {
    /// Looks at the whole command line, down to the last subcommand.
    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let mut given = Self::default();
        let mut level = Some(matches);
        let mut falls_back = false;
        while let Some(matches) = level {
            let has = |id: &str| {
                matches.try_contains_id(id).is_ok()
                    && matches.value_source(id) == Some(ValueSource::CommandLine)
            };
            given.server |= has("server");
            given.token_file |= has("token_file");
            given.output |= has("output");
            given.profile |= has("profile");
            given.place |= has("data_dir") || has("database");
            falls_back |= has("fallback");
            level = matches.subcommand().map(|(_, inner)| inner);
        }
        // The data directory is then where the flow runs when the server is away.
        given.place &= !falls_back;
        given
    }
}

/// What is shown to servers, and who gave it.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// The value of `Authorization`.
    pub(crate) header: HeaderValue,
    /// Who gave it.
    pub(crate) origin: Origin,
}

/// A server to ask.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Where it is.
    pub(crate) url: String,
    /// Who named it.
    pub(crate) origin: Origin,
}

/// All that was decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Whom to ask; none: a data directory.
    pub(crate) server: Option<Server>,
    /// What servers are shown; none: nothing.
    pub(crate) token: Option<Token>,
    /// How results are printed.
    pub(crate) output: Output,
    /// Who said how.
    pub(crate) output_origin: Origin,
}

impl Settings {
    /// Decides.
    ///
    /// # Errors
    /// When the profile, the configuration file or the token cannot be used.
    pub(crate) fn resolve(global: &Global, given: Given) -> Result<Self, CliError> {
        let env = |name: &str| std::env::var(name).ok();
        Self::from(global, given, &env)
    }

    fn from(global: &Global, given: Given, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, CliError> {
        let profile = match filled(global.profile.as_deref()) {
            Some(name) => Some(Profiles::read(&config_path(env)?)?.take(name)?),
            None => None,
        };
        let origin = || match &profile {
            Some((name, file, _)) => Origin::Profile { name: name.clone(), file: file.clone() },
            None => Origin::Default,
        };
        let said = |is_given: bool, option: &'static str, variable: &'static str| {
            if is_given { Origin::Option(option) } else { Origin::Environment(variable) }
        };
        let of_profile = profile.as_ref().map(|(_, _, profile)| profile);
        let own = of_profile.and_then(|profile| profile.server.clone());
        let server = match filled(global.server.as_deref()) {
            Some(url) => {
                let origin = said(given.server, "--server", "FLOWMONKEY_SERVER");
                if given.profile && !given.server && own.as_deref().is_some_and(|own| own != url) {
                    tell(&format!("FLOWMONKEY_SERVER counts before the profile: {url} is asked"));
                }
                Some(Server { url: url.to_owned(), origin })
            }
            None => own.map(|url| Server { url, origin: origin() }),
        };
        // Who names a directory on the command line means it, whatever the environment or a profile says.
        let server = match server {
            Some(server) if given.place => match server.origin {
                Origin::Option(_) => {
                    let text = "the command line names a server and a place that is none: --data-dir and --database are \
                                of no use with --server, unless there is a --fallback";
                    return Err(CliError::Usage(text.into()));
                }
                Origin::Environment(_) | Origin::Profile { .. } | Origin::Default => None,
            },
            server => server,
        };
        // A profile's token is for the profile's server, and for no other.
        let is_own = server.as_ref().is_some_and(|server| matches!(server.origin, Origin::Profile { .. }));
        let token = match (filled_path(global.token_file.as_deref()), env(TOKEN)) {
            (Some(path), _) => {
                let origin = said(given.token_file, "--token-file", "FLOWMONKEY_TOKEN_FILE");
                Some(Token { header: token_file(path)?, origin })
            }
            (None, Some(text)) if !text.trim().is_empty() => {
                Some(Token { header: token(&text, TOKEN)?, origin: Origin::Environment(TOKEN) })
            }
            (None, Some(_) | None) => match of_profile.and_then(|profile| profile.token_file.as_deref()) {
                Some(path) if is_own => Some(Token { header: token_file(path)?, origin: origin() }),
                Some(_) | None => None,
            },
        };
        let (output, output_origin) = match (global.output, of_profile.and_then(|profile| profile.output)) {
            (Some(output), _) => (output, said(given.output, "--output", "FLOWMONKEY_OUTPUT")),
            (None, Some(output)) => (output, origin()),
            (None, None) => (Output::default(), Origin::Default),
        };
        Ok(Self { server, token, output, output_origin })
    }

    /// A client of the server that was named; none: none was.
    ///
    /// # Errors
    /// When what was named is not the URL of a server.
    pub(crate) fn client(&self) -> Result<Option<Client>, CliError> {
        self.server.as_ref().map(|server| Client::new(server, self.token.as_ref())).transpose()
    }

    /// Options by which another command asks the same server, each with a space before it; none: no server is asked.
    pub(crate) fn options(&self) -> Option<String> {
        let server = self.server.as_ref()?;
        Some(match &server.origin {
            Origin::Profile { name, .. } => format!(" --profile {}", shell_word(name)),
            Origin::Option(_) | Origin::Environment(_) | Origin::Default => {
                format!(" --server {}", shell_word(&server.url))
            }
        })
    }
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn filled_path(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// The key or token in a file. Warns when others than its owner can read it.
fn token_file(path: &Path) -> Result<HeaderValue, CliError> {
    let shown = path.display().to_string();
    let unreadable = |error: std::io::Error| CliError::Usage(format!("{shown} cannot be read: {error}"));
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        /// Reading, by the group and by all others.
        const READ_BY_OTHERS: u32 = 0o044;
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
        if mode & READ_BY_OTHERS != 0 {
            tracing::warn!("others on this machine can read the token in {shown}: chmod 600 {shown}");
        }
    }
    token(&text, &shown)
}

fn token(text: &str, place: &str) -> Result<HeaderValue, CliError> {
    let text = text.trim();
    let wrong =
        || CliError::Usage(format!("what {place} holds is no key or token: it is one line, without spaces"));
    if text.is_empty() || text.len() > TOKEN_BYTES_MAX || text.contains(char::is_whitespace) {
        return Err(wrong());
    }
    let mut header = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| wrong())?;
    header.set_sensitive(true);
    Ok(header)
}

/// `text` as one word for a shell.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.:/@".contains(character);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::args::Cli;

    struct Bench {
        dir: tempfile::TempDir,
        env: HashMap<&'static str, String>,
    }

    impl Bench {
        fn new(config: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("config.toml"), config).unwrap();
            std::fs::write(dir.path().join("own.token"), "fmk_own\n").unwrap();
            let config = dir.path().join("config.toml").to_string_lossy().into_owned();
            Self { dir, env: HashMap::from([("FLOWMONKEY_CONFIG", config)]) }
        }

        fn resolve(&self, args: &[&str]) -> Result<Settings, CliError> {
            let line = ["flowmonkey", "execution", "list"].iter().chain(args);
            let matches = Cli::command().try_get_matches_from(line).unwrap();
            let mut global = Cli::from_arg_matches(&matches).unwrap().global;
            // As clap takes them from the environment of the process.
            let env = |name: &str| self.env.get(name).cloned();
            global.server = global.server.or_else(|| env("FLOWMONKEY_SERVER"));
            global.profile = global.profile.or_else(|| env("FLOWMONKEY_PROFILE"));
            Settings::from(&global, Given::of(&matches), &env)
        }

        fn told(&self, args: &[&str]) -> (Option<String>, Option<String>, Output) {
            let settings = self.resolve(args).unwrap();
            let token = settings.token.map(|token| token.header.to_str().unwrap().to_owned());
            (settings.server.map(|server| server.url), token, settings.output)
        }
    }

    const CONFIG: &str = "\
[profiles.own]
server = \"http://own\"
token-file = \"own.token\"
output = \"yaml\"
[profiles.bare]
";

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn options_count_before_the_environment_and_that_before_a_profile() {
        let mut bench = Bench::new(CONFIG);
        assert_eq!(bench.told(&[]), (None, None, Output::Table));
        assert_eq!(
            bench.told(&["--profile", "own"]),
            (some("http://own"), some("Bearer fmk_own"), Output::Yaml)
        );
        assert_eq!(bench.told(&["--profile", "bare"]), (None, None, Output::Table));
        bench.env.insert("FLOWMONKEY_PROFILE", "own".into());
        assert_eq!(bench.told(&["-o", "json"]), (some("http://own"), some("Bearer fmk_own"), Output::Json));
        bench.env.insert("FLOWMONKEY_SERVER", "http://env".into());
        bench.env.insert("FLOWMONKEY_TOKEN", "fmk_env".into());
        assert_eq!(bench.told(&[]), (some("http://env"), some("Bearer fmk_env"), Output::Yaml));
        assert_eq!(bench.told(&["--server", "http://flag"]).0, some("http://flag"));
        let file = bench.dir.path().join("flag.token");
        std::fs::write(&file, "fmk_flag").unwrap();
        assert_eq!(bench.told(&["--token-file", file.to_str().unwrap()]).1, some("Bearer fmk_flag"));
        // The directory on the command line counts before a server that is not.
        assert_eq!(bench.told(&["--data-dir", "data"]).0, None);
        assert!(bench.resolve(&["--data-dir", "data", "--server", "http://flag"]).is_err());
    }

    #[test]
    fn a_profiles_token_is_shown_to_its_own_server_only() {
        let bench = Bench::new(CONFIG);
        let told = bench.told(&["--profile", "own", "--server", "http://other"]);
        assert_eq!((told.0, told.1), (some("http://other"), None));
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place() {
        let bench = Bench::new(CONFIG);
        let error = bench.resolve(&["--profile", "none"]).unwrap_err().to_string();
        assert!(error.contains("config.toml has no profile `none`; it has bare, own"), "{error}");
        for (config, place, reason) in [
            ("[profiles.own]\nsever = \"http://x\"\n", ":2:1: ", "unknown field `sever`"),
            ("[profiles.own]\ntoken = \"fmk_x\"\n", ":2:1: ", "token-file"),
            ("[profiles.own]\nserver = \n", ":2:", ""),
            ("[profiles.own]\noutput = \"xml\"\n", ":2:10: ", "`json`, `table`, `yaml`"),
            ("default = \"own\"\n", ":1:1: ", "unknown field `default`, expected `profiles`"),
        ] {
            let error = Bench::new(config).resolve(&["--profile", "own"]).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let error = error.to_string();
            assert!(error.contains(&format!("config.toml{place}")) && error.contains(reason), "{error}");
        }
        let missing = bench.resolve(&["--token-file", "/none"]).unwrap_err().to_string();
        assert!(missing.contains("/none cannot be read"), "{missing}");
        std::fs::write(bench.dir.path().join("own.token"), "two words").unwrap();
        let error = bench.resolve(&["--profile", "own"]).unwrap_err().to_string();
        assert!(error.contains("own.token holds is no key or token"), "{error}");
        std::fs::remove_file(bench.dir.path().join("config.toml")).unwrap();
        let error = bench.resolve(&["--profile", "own"]).unwrap_err().to_string();
        assert!(error.contains("config.toml does not exist"), "{error}");
        assert!(bench.resolve(&[]).is_ok(), "nobody asked for it");
    }
}
