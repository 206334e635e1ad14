//! The audit of what was changed through the API: written before the answer goes out, in batches; sealed in a chain later.
//!
//! Architecture invariant: what was acknowledged is in the audit. What was not acknowledged may be, or may not.

use std::sync::{Arc, Mutex, PoisonError};

use flowmonkey_core::time::Timestamp;
use ring::digest;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::keys::hex;
use crate::store::{AuditEntry, AuditRow, Store, StoreError};

/// Entries that are written with one statement.
pub const AUDIT_BATCH_MAX: usize = 500;
/// What the first place of the chain takes for the hash before it.
const NOTHING_BEFORE: &str = "";

/// An entry on its way, and who waits for it.
type Waiting = (AuditEntry, oneshot::Sender<Result<(), Arc<StoreError>>>);

/// Writes entries: those that come while a batch is being written go together with the next.
#[derive(Default)]
pub(crate) struct AuditLog {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

impl AuditLog {
    /// Writes an entry; it is in the record when this returns.
    pub(crate) async fn append(&self, store: &dyn Store, entry: AuditEntry) -> Result<(), Arc<StoreError>> {
        let (done, mut written) = oneshot::channel();
        self.waiting().push((entry, done));
        loop {
            let _turn = self.turn.lock().await;
            // Who had the turn before may have written it.
            match written.try_recv() {
                Ok(result) => return result,
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    let reason = "the writer of the audit was ended".into();
                    return Err(Arc::new(StoreError::Unavailable { reason, source: None }));
                }
            }
            let batch: Vec<Waiting> = {
                let mut waiting = self.waiting();
                let count = waiting.len().min(AUDIT_BATCH_MAX);
                waiting.drain(..count).collect()
            };
            let (entries, done): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let result = store.append_audit(&entries).await.map_err(Arc::new);
            for one in done {
                // Who does not wait any more does not want to know.
                one.send(result.clone()).ok();
            }
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hash at a place of the chain: SHA-256 over the hash before it, the place, and the entry.
#[must_use]
pub fn chain_hash(previous: &str, place: i64, entry: &AuditEntry) -> String {
    let AuditEntry { id, at, actor, tenant, method, route, target, status, request_id } = entry;
    let content = json!([
        previous,
        place,
        id,
        at.as_millis(),
        actor,
        tenant,
        method,
        route,
        target,
        status,
        request_id
    ]);
    hex(digest::digest(&digest::SHA256, content.to_string().as_bytes()).as_ref())
}

/// The hash that the place behind `head` builds on.
pub(crate) fn hash_of(head: Option<&(i64, String)>) -> (i64, &str) {
    head.map_or((0, NOTHING_BEFORE), |(place, hash)| (*place, hash))
}

/// A row as the API shows it.
#[must_use]
pub fn shown(row: &AuditRow) -> Value {
    let entry = &row.entry;
    json!({
        "sequence": row.sequence,
        "id": entry.id,
        "at": entry.at.to_rfc3339(),
        "actor": entry.actor,
        "tenantId": entry.tenant,
        "method": entry.method,
        "route": entry.route,
        "target": entry.target,
        "status": entry.status,
        "requestId": entry.request_id,
        "place": row.seal.as_ref().map(|(place, _)| place),
        "hash": row.seal.as_ref().map(|(_, hash)| hash),
    })
}

/// Reads what [`shown`] gives; none when it is something else.
#[must_use]
pub fn read(shown: &Value) -> Option<AuditRow> {
    let text = |field: &str| shown[field].as_str().map(str::to_owned);
    Some(AuditRow {
        sequence: shown["sequence"].as_i64()?,
        entry: AuditEntry {
            id: text("id")?,
            at: Timestamp::parse_rfc3339(shown["at"].as_str()?)?,
            actor: text("actor")?,
            tenant: text("tenantId"),
            method: text("method")?,
            route: text("route")?,
            target: text("target")?,
            status: u16::try_from(shown["status"].as_u64()?).ok()?,
            request_id: text("requestId")?,
        },
        seal: shown["place"].as_i64().zip(text("hash")),
    })
}

/// The first place at which the chain is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit is broken at place {place} (sequence {sequence}): {reason}")]
pub struct Broken {
    /// The place.
    pub place: i64,
    /// The row.
    pub sequence: i64,
    /// What is wrong there.
    pub reason: &'static str,
}

/// Checks a chain, row by row in its order.
#[derive(Clone, Debug, Default)]
pub struct ChainCheck {
    head: Option<(i64, String)>,
    first: Option<i64>,
}

impl ChainCheck {
    /// Checks the next row. Where older rows were deleted, the first that is left says what the chain builds on.
    ///
    /// # Errors
    /// When the row is not the one that was sealed there, or rows before it are missing.
    pub fn row(&mut self, row: &AuditRow) -> Result<(), Broken> {
        let broken = |place: i64, reason: &'static str| Err(Broken { place, sequence: row.sequence, reason });
        let Some((place, hash)) = &row.seal else {
            return broken(self.end().0 + 1, "the row has no seal");
        };
        let is_first_left = self.head.is_none() && *place > 1;
        if !is_first_left {
            let (last, previous) = hash_of(self.head.as_ref());
            if *place != last + 1 {
                return broken(last + 1, "the row that was sealed there is missing");
            }
            if chain_hash(previous, *place, &row.entry) != *hash {
                return broken(*place, "the row, or its hash, is not what was sealed");
            }
        }
        self.first.get_or_insert(*place);
        self.head = Some((*place, hash.clone()));
        Ok(())
    }

    /// The last place that was checked, and its hash.
    #[must_use]
    pub fn end(&self) -> (i64, &str) {
        hash_of(self.head.as_ref())
    }

    /// The first place that is left; none: there are no rows.
    #[must_use]
    pub const fn first(&self) -> Option<i64> {
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(count: i64) -> Vec<AuditRow> {
        let mut head: Option<(i64, String)> = None;
        (1..=count)
            .map(|place| {
                let entry = AuditEntry {
                    id: format!("a{place}"),
                    at: Timestamp::from_millis(place),
                    actor: "key:k".into(),
                    tenant: None,
                    method: "POST".into(),
                    route: "/v1/flows".into(),
                    target: "/v1/flows".into(),
                    status: 201,
                    request_id: "rq".into(),
                };
                let hash = chain_hash(hash_of(head.as_ref()).1, place, &entry);
                head = Some((place, hash.clone()));
                AuditRow { sequence: place + 10, entry, seal: Some((place, hash)) }
            })
            .collect()
    }

    fn check(rows: &[AuditRow]) -> Result<i64, i64> {
        let mut check = ChainCheck::default();
        for row in rows {
            check.row(row).map_err(|broken| broken.place)?;
        }
        Ok(check.end().0)
    }

    #[test]
    fn the_first_row_that_was_touched_is_named() {
        let whole = chain(5);
        assert_eq!(check(&whole), Ok(5));
        let carried: Vec<AuditRow> = whole.iter().map(|row| read(&shown(row)).unwrap()).collect();
        assert_eq!(carried, whole);
        assert_eq!(check(&whole[2..]), Ok(5), "older rows may be deleted");
        assert_eq!(check(&[]), Ok(0));
        let touched = |touch: fn(&mut Vec<AuditRow>)| {
            let mut rows = whole.clone();
            touch(&mut rows);
            check(&rows)
        };
        assert_eq!(touched(|rows| rows[2].entry.actor = "key:other".into()), Err(3));
        assert_eq!(touched(|rows| rows[2].entry.status = 200), Err(3));
        assert_eq!(touched(|rows| rows[2].entry.tenant = Some(String::new())), Err(3));
        assert_eq!(touched(|rows| drop(rows.remove(2))), Err(3));
        assert_eq!(touched(|rows| rows[3].seal = None), Err(4));
        // Who seals the changed row anew breaks the next.
        let resealed = touched(|rows| {
            rows[2].entry.status = 500;
            let hash = chain_hash(&rows[1].seal.clone().unwrap().1, 3, &rows[2].entry);
            rows[2].seal = Some((3, hash));
        });
        assert_eq!(resealed, Err(4));
    }
}
