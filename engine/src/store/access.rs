//! API keys, and the audit of what was changed through the API.
//!
//! Rows of the audit are appended and never changed but once, when they are sealed: each gets a place in a chain, and a hash
//! over its content and the hash of the place before.

use async_trait::async_trait;
use flowmonkey_core::time::Timestamp;

use super::StoreError;
use super::rows::corrupt;
use crate::access::Scope;

/// A key for the HTTP API, as the record knows it: without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Names it.
    pub id: String,
    /// For people.
    pub name: String,
    /// SHA-256 of the secret, in hexadecimal digits.
    pub hash: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// The only tenant whose rows it sees; none: it sees those of all.
    pub tenant: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it does not count any more.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
    /// When it was used, to about a minute.
    pub last_used_at: Option<Timestamp>,
}

/// Which keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiKeyFilter {
    /// Only those of this tenant.
    pub tenant: Option<String>,
    /// Only those before this one in the list: when it was made, and its id.
    pub before: Option<(Timestamp, String)>,
    /// At most this many.
    pub max: usize,
}

/// One request that may have changed something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Names the entry: an entry that is appended again is not there twice.
    pub id: String,
    /// When it was answered.
    pub at: Timestamp,
    /// Who asked: `key:<id>`, `jwt:<subject>`, …
    pub actor: String,
    /// The only tenant whose rows the caller sees.
    pub tenant: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The route: the path with its variables.
    pub route: String,
    /// The path as it was asked for.
    pub target: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// Names the request in the answer and in the log.
    pub request_id: String,
}

/// An entry in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Where it stands in the order of all.
    pub sequence: i64,
    /// What was asked.
    pub entry: AuditEntry,
    /// Its place in the chain, from 1, and the hash there; none: not sealed yet.
    pub seal: Option<(i64, String)>,
}

/// The seal of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSeal {
    /// The row.
    pub sequence: i64,
    /// Its place in the chain.
    pub place: i64,
    /// SHA-256 of the hash before and of the row, in hexadecimal digits.
    pub hash: String,
}

/// Which entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only of callers of this tenant.
    pub tenant: Option<String>,
    /// Only those before this sequence.
    pub before: i64,
    /// At most this many.
    pub max: usize,
}

/// Keys and the audit in the record.
#[async_trait]
pub trait AccessStore: Send + Sync + 'static {
    /// Stores a new key. Repeatable: of one that is there nothing changes.
    async fn put_key(&self, key: &ApiKey) -> Result<(), StoreError>;

    /// A key by its id, whether it counts or not.
    async fn api_key(&self, id: &str) -> Result<Option<ApiKey>, StoreError>;

    /// Keys by filter, newest first.
    async fn api_keys(&self, filter: &ApiKeyFilter) -> Result<Vec<ApiKey>, StoreError>;

    /// Takes a key back; when it was taken back first stays. False when there is none of that id.
    async fn revoke_key(&self, id: &str, now: Timestamp) -> Result<bool, StoreError>;

    /// Notes that a key was used. An earlier instant than the one that is noted changes nothing.
    async fn touch_key(&self, id: &str, at: Timestamp) -> Result<(), StoreError>;

    /// Appends entries in their order, in one statement.
    async fn append_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError>;

    /// Entries by filter, newest first.
    async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRow>, StoreError>;

    /// Sealed entries behind the place `after`, in the order of the chain.
    async fn audit_chain(&self, after: i64, max: usize) -> Result<Vec<AuditRow>, StoreError>;

    /// The last place of the chain and its hash.
    async fn audit_head(&self) -> Result<Option<(i64, String)>, StoreError>;

    /// Entries without a seal, oldest first.
    async fn unsealed_audit(&self, max: usize) -> Result<Vec<AuditRow>, StoreError>;

    /// Seals entries, all or none: only while the chain ends at the place `head` (0: it is empty). False when it does not.
    async fn seal_audit(&self, head: i64, seals: &[AuditSeal]) -> Result<bool, StoreError>;
}

/// Scopes as they are stored.
pub(super) fn scopes_text(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

/// Scopes as they were stored.
pub(super) fn scopes_of(text: &str) -> Result<Vec<Scope>, StoreError> {
    text.split_whitespace().map(|word| word.parse().map_err(|error| corrupt("fm_api_keys", error))).collect()
}
