//! Who may ask: keys, the audit, and the issuer whose tokens an engine takes.

use clap::{Args, Subcommand};

use super::{Place, Pooler};

/// Whom an engine answers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AccessArgs {
    /// Take tokens of this OpenID Connect issuer beside keys; https://, or http:// on this machine
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_OIDC_ISSUER", requires = "oidc_audience")]
    pub(crate) oidc_issuer: Option<String>,
    /// The audience that those tokens must be meant for
    #[arg(long, value_name = "NAME", env = "FLOWMONKEY_OIDC_AUDIENCE", requires = "oidc_issuer")]
    pub(crate) oidc_audience: Option<String>,
    /// The claim with the scopes, a list or words in one text [default: `flowmonkey_scopes`]
    #[arg(long, value_name = "CLAIM", env = "FLOWMONKEY_OIDC_SCOPES_CLAIM", requires = "oidc_issuer")]
    pub(crate) oidc_scopes_claim: Option<String>,
    /// The claim with the tenant, `*` for all; tokens without it are refused [default: tokens see the rows of all tenants]
    #[arg(long, value_name = "CLAIM", env = "FLOWMONKEY_OIDC_TENANT_CLAIM", requires = "oidc_issuer")]
    pub(crate) oidc_tenant_claim: Option<String>,
    /// Requests a second of one key or token
    #[arg(long, value_name = "N", default_value_t = 1000, env = "FLOWMONKEY_REQUESTS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests_per_second: u32,
}

/// Where keys and the audit are.
#[derive(Clone, Debug, Args)]
pub(crate) struct AccessPlace {
    /// The record of engines that share it: the way to the first key, before any engine asks for one
    #[arg(long, value_name = "URL", env = "FLOWMONKEY_DATABASE", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// What pools the connections between here and Postgres
    #[arg(long, value_enum, default_value_t, env = "FLOWMONKEY_POOLER")]
    pub(crate) pooler: Pooler,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// `flowmonkey key …`.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key and print it: it is shown this once
    #[command(
        after_help = "Examples:\n  flowmonkey key create --name me --scope admin --database postgres://db/flowmonkey\n  flowmonkey key create --name ci --scope deployer,operator --expires 30d --server http://engine:7420"
    )]
    Create {
        /// For people: who or what uses it
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What it allows, separated by commas: viewer, operator, deployer, admin, worker
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
        scopes: Vec<String>,
        /// The only tenant whose rows it sees [default: those of all]
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// How long it counts, as 12h, 30d or 8w [default: until it is revoked]
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        expires: Option<u64>,
        #[command(flatten)]
        at: AccessPlace,
    },
    /// List keys, newest first; their secrets are nowhere
    #[command(after_help = "Example:\n  flowmonkey key list --server http://engine:7420")]
    List {
        /// At most this many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        #[command(flatten)]
        at: AccessPlace,
    },
    /// Take a key back: engines refuse it after five seconds at the latest
    #[command(after_help = "Example:\n  flowmonkey key revoke 5f0c9c3a6d1b2e47 --server http://engine:7420")]
    Revoke {
        /// Its id: what stands between `fmk_` and the next `_`
        id: String,
        #[command(flatten)]
        at: AccessPlace,
    },
}

/// `flowmonkey audit …`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check the chain of the audit; exits with 1 and names the first row that is not what was sealed
    #[command(after_help = "Example:\n  flowmonkey audit verify --database postgres://db/flowmonkey")]
    Verify {
        #[command(flatten)]
        at: AccessPlace,
    },
}

/// Seconds of a time such as `30d`.
fn seconds(text: &str) -> Result<u64, String> {
    let wanted = || "give a whole number and s, m, h, d or w, as in 30d".to_owned();
    let unit = text.chars().next_back().ok_or_else(wanted)?;
    let each: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        'w' => 7 * 24 * 60 * 60,
        _ => return Err(wanted()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wanted())?;
    number.checked_mul(each).filter(|seconds| *seconds > 0).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(seconds("30d"), Ok(2_592_000));
        assert_eq!(["90s", "2m", "1h", "1w"].map(|text| seconds(text).unwrap()), [90, 120, 3600, 604_800]);
        for wrong in ["", "d", "30", "-1d", "1.5h", "0d", "99999999999999999w", "1é"] {
            seconds(wrong).unwrap_err();
        }
    }
}
