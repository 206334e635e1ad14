//! Who asks, what they may do, and whose rows they see.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a caller may do. `Admin` includes all others but `Worker`; `Operator` and `Deployer` include `Viewer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at everything but secrets and keys.
    Viewer,
    /// Start executions and tell them what to do; replay tasks; pause queues; drain workers.
    Operator,
    /// Publish and archive flows; define tables and webhooks.
    Deployer,
    /// Keys, retention, deletion, the audit.
    Admin,
    /// What worker processes ask of an engine outside their tasks.
    Worker,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Deployer, Self::Admin, Self::Worker];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Deployer => "deployer",
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }

    /// Whether who has `self` may do what asks for `wanted`.
    #[must_use]
    pub const fn includes(self, wanted: Self) -> bool {
        match self {
            Self::Admin => !matches!(wanted, Self::Worker),
            Self::Operator => matches!(wanted, Self::Operator | Self::Viewer),
            Self::Deployer => matches!(wanted, Self::Deployer | Self::Viewer),
            Self::Viewer => matches!(wanted, Self::Viewer),
            Self::Worker => matches!(wanted, Self::Worker),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A word that names no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no scope: there are viewer, operator, deployer, admin and worker")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// Whose rows a caller sees. What it does not see does not exist for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Those of all tenants, and of none: operators of the installation, and an engine without keys.
    All,
    /// Those of one tenant only.
    Tenant(Arc<str>),
}

impl Visibility {
    /// Whether rows of `tenant` are seen.
    #[must_use]
    pub fn sees(&self, tenant: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Tenant(own) => tenant == Some(&**own),
        }
    }

    /// The only tenant whose rows are seen.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Tenant(own) => Some(own),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Names the caller in the audit: `key:<id>`, `jwt:<subject>`, or `anonymous`.
    pub name: Arc<str>,
    /// Whose rows it sees.
    pub visibility: Visibility,
    /// What it may do.
    pub scopes: Arc<[Scope]>,
}

impl Principal {
    /// Everybody, where keys are not asked for: all rows, all scopes.
    #[must_use]
    pub fn anonymous() -> Self {
        Self { name: "anonymous".into(), visibility: Visibility::All, scopes: Scope::ALL.into() }
    }

    /// Whether it may do what asks for `wanted`.
    #[must_use]
    pub fn may(&self, wanted: Scope) -> bool {
        self.scopes.iter().any(|scope| scope.includes(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_include_what_they_say() {
        let included = |scope: Scope| Scope::ALL.into_iter().filter(move |wanted| scope.includes(*wanted));
        let of = |scope| included(scope).map(Scope::as_str).collect::<Vec<_>>();
        assert_eq!(of(Scope::Viewer), ["viewer"]);
        assert_eq!(of(Scope::Operator), ["viewer", "operator"]);
        assert_eq!(of(Scope::Deployer), ["viewer", "deployer"]);
        assert_eq!(of(Scope::Admin), ["viewer", "operator", "deployer", "admin"]);
        assert_eq!(of(Scope::Worker), ["worker"]);
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        "root".parse::<Scope>().unwrap_err();
    }

    #[test]
    fn a_tenant_sees_its_own_rows_only() {
        let acme = Visibility::Tenant("acme".into());
        assert!(acme.sees(Some("acme")));
        assert!(!acme.sees(Some("other")));
        assert!(!acme.sees(None));
        assert!(Visibility::All.sees(None) && Visibility::All.sees(Some("acme")));
    }
}
