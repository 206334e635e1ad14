//! `flowmonkey key …` and `flowmonkey audit …`: over the HTTP API, or in the record itself for whoever may open it.

use std::time::Duration;

use flowmonkey_core::time::Timestamp;
use flowmonkey_engine::access::Scope;
use flowmonkey_engine::audit::{self, ChainCheck};
use flowmonkey_engine::keys::{self, NewKey};
use flowmonkey_engine::store::{AccessStore, ApiKeyFilter, AuditEntry, AuditRow, PostgresStore};
use flowmonkey_plumbing::clock::{Clock, SystemClock};
use flowmonkey_plumbing::ids::{SystemEntropy, new_uuid};
use serde_json::{Value, json};

use super::place::{Access, Session};
use super::tell;
use crate::args::{AccessPlace, AuditCommand, DatabaseArgs, KeyCommand};
use crate::client::{query, segment};
use crate::distributed::connect;
use crate::errors::{CliError, Exit};
use crate::output::Output;
use crate::settings::Settings;
use crate::show;

/// Rows of the audit that are checked at a time.
const PAGE: usize = 500;
/// Who changes keys in the record itself, as the audit has it.
const CONSOLE: &str = "console";

pub(crate) async fn key(command: KeyCommand, settings: &Settings) -> Result<Exit, CliError> {
    match command {
        KeyCommand::Create { name, scopes, tenant, expires, at } => {
            let mut made = Where::open(&at, settings, Access::Act).await?;
            let outcome = made.create(name, scopes, tenant, expires).await;
            let key = made.close(&at).await.and(outcome)?;
            settings.output.print(&key, |key| key["key"].as_str().unwrap_or_default().to_owned())?;
            if settings.output == Output::Table {
                tell(
                    "keep it: it is shown this once; programs take it from FLOWMONKEY_TOKEN or --token-file",
                );
            }
        }
        KeyCommand::List { limit, at } => {
            let mut made = Where::open(&at, settings, Access::Look).await?;
            let outcome = made.list(limit).await;
            let page = made.close(&at).await.and(outcome)?;
            settings.output.print(&page, table)?;
        }
        KeyCommand::Revoke { id, at } => {
            let mut made = Where::open(&at, settings, Access::Act).await?;
            let outcome = made.revoke(&id).await;
            let key = made.close(&at).await.and(outcome)?;
            settings.output.print(&key, |_| format!("key {id} is revoked"))?;
        }
    }
    Ok(Exit::Done)
}

pub(crate) async fn audit(command: AuditCommand, settings: &Settings) -> Result<Exit, CliError> {
    let AuditCommand::Verify { at } = command;
    let mut made = Where::open(&at, settings, Access::Look).await?;
    let outcome = verify(&mut made).await;
    let (check, broken) = made.close(&at).await.and(outcome)?;
    let (place, hash) = check.end();
    let whole = broken.is_none();
    let report = json!({
        "whole": whole,
        "first": check.first(),
        "last": place,
        "hash": hash,
        "broken": broken.as_ref().map(|broken| json!({
            "place": broken.place,
            "sequence": broken.sequence,
            "reason": broken.reason,
        })),
    });
    settings.output.print(&report, |_| match (&broken, check.first()) {
        (Some(broken), _) => broken.to_string(),
        (None, None) => "the audit has no sealed entries".to_owned(),
        (None, Some(first)) => {
            format!("the audit is whole from place {first} to {place}; the hash there is {hash}")
        }
    })?;
    Ok(if whole { Exit::Done } else { Exit::Failed })
}

async fn verify(made: &mut Where) -> Result<(ChainCheck, Option<audit::Broken>), CliError> {
    let mut check = ChainCheck::default();
    loop {
        let rows = made.chain(check.end().0).await?;
        for row in &rows {
            if let Err(broken) = check.row(row) {
                return Ok((check, Some(broken)));
            }
        }
        if rows.len() < PAGE {
            return Ok((check, None));
        }
    }
}

fn table(page: &Value) -> String {
    show::rows(
        &page["items"],
        &[
            ("id", "id"),
            ("name", "name"),
            ("state", "state"),
            ("scopes", "scopes"),
            ("tenant", "tenantId"),
            ("expires", "expiresAt"),
            ("used", "lastUsedAt"),
        ],
    )
}

/// Who has the keys.
enum Where {
    Api(Box<Session>),
    Record(PostgresStore),
}

impl Where {
    async fn open(at: &AccessPlace, settings: &Settings, access: Access) -> Result<Self, CliError> {
        match (&settings.server, &at.database) {
            (None, Some(database)) => {
                let args = DatabaseArgs { database: database.clone(), pooler: at.pooler, no_migrate: false };
                Ok(Self::Record(connect::database(&args).await?))
            }
            (Some(_), _) | (None, None) => {
                Ok(Self::Api(Box::new(Session::open(settings, &at.place, access).await?)))
            }
        }
    }

    async fn close(self, at: &AccessPlace) -> Result<(), CliError> {
        match self {
            Self::Api(session) => session.close(&at.place).await,
            Self::Record(store) => {
                store.close().await;
                Ok(())
            }
        }
    }

    async fn create(
        &mut self,
        name: String,
        scopes: Vec<String>,
        tenant: Option<String>,
        expires: Option<u64>,
    ) -> Result<Value, CliError> {
        match self {
            Self::Api(session) => {
                let mut body = json!({ "name": name, "scopes": scopes });
                if let Some(tenant) = tenant {
                    body["tenantId"] = json!(tenant);
                }
                if let Some(seconds) = expires {
                    body["expiresInSeconds"] = json!(seconds);
                }
                session.client.post("/v1/keys", &body).await
            }
            Self::Record(store) => {
                let scopes = scopes.iter().map(|word| word.parse::<Scope>()).collect::<Result<Vec<_>, _>>();
                let scopes = scopes.map_err(|error| CliError::Usage(error.to_string()))?;
                let new = NewKey { name, scopes, tenant, life: expires.map(Duration::from_secs) };
                if let Some((_, problem)) = new.problems().into_iter().next() {
                    return Err(CliError::Usage(problem));
                }
                let (key, text) = new.make(now(), &SystemEntropy::new());
                store.put_key(&key).await?;
                note(store, "/v1/keys", "/v1/keys", 201).await?;
                let mut shown = keys::shown(&key, now());
                shown["key"] = json!(text);
                Ok(shown)
            }
        }
    }

    async fn list(&mut self, limit: u32) -> Result<Value, CliError> {
        match self {
            Self::Api(session) => {
                session.client.get(&format!("/v1/keys{}", query([("limit", limit.to_string())]))).await
            }
            Self::Record(store) => {
                let filter = ApiKeyFilter { max: limit as usize, ..ApiKeyFilter::default() };
                let found = store.api_keys(&filter).await?;
                let items: Vec<Value> = found.iter().map(|key| keys::shown(key, now())).collect();
                Ok(json!({ "items": items }))
            }
        }
    }

    async fn revoke(&mut self, id: &str) -> Result<Value, CliError> {
        match self {
            Self::Api(session) => {
                session.client.post(&format!("/v1/keys/{}:revoke", segment(id)), &json!({})).await
            }
            Self::Record(store) => {
                if !store.revoke_key(id, now()).await? {
                    return Err(CliError::Usage(format!("there is no key `{id}`")));
                }
                note(store, "/v1/keys/{target}", &format!("/v1/keys/{id}:revoke"), 200).await?;
                let key = store.api_key(id).await?;
                Ok(key.map_or(Value::Null, |key| keys::shown(&key, now())))
            }
        }
    }

    /// Sealed rows behind a place.
    async fn chain(&mut self, after: i64) -> Result<Vec<AuditRow>, CliError> {
        match self {
            Self::Api(session) => {
                let pairs = [
                    ("order", "chain".to_owned()),
                    ("limit", PAGE.to_string()),
                    ("cursor", after.to_string()),
                ];
                let page = session.client.get(&format!("/v1/audit{}", query(pairs))).await?;
                let items = page["items"].as_array().map_or(&[][..], Vec::as_slice);
                let rows = items.iter().map(audit::read).collect::<Option<Vec<_>>>();
                rows.ok_or_else(|| {
                    CliError::Unreachable("the server's audit is not as this release knows it".into())
                })
            }
            Self::Record(store) => Ok(store.audit_chain(after, PAGE).await?),
        }
    }
}

/// What is done in the record itself is in the audit, too.
async fn note(store: &PostgresStore, route: &str, target: &str, status: u16) -> Result<(), CliError> {
    let id = new_uuid(&SystemClock, &SystemEntropy::new()).simple().to_string();
    let entry = AuditEntry {
        at: now(),
        actor: CONSOLE.into(),
        tenant: None,
        method: "POST".into(),
        route: route.into(),
        target: target.into(),
        status,
        request_id: format!("rq_{id}"),
        id,
    };
    Ok(store.append_audit(&[entry]).await?)
}

fn now() -> Timestamp {
    Timestamp::from_millis(SystemClock.now_ms())
}
