//! The sealer of the audit: gives new entries their places in the chain.

use super::HasMore;
use crate::audit::{chain_hash, hash_of};
use crate::engine::{Engine, EngineError};
use crate::store::AuditSeal;

/// Entries sealed in one tick.
const SEAL_BATCH_MAX: usize = 500;

/// What a tick did.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Entries that were sealed.
    pub entries: usize,
}

impl HasMore for Sealed {
    fn has_more(&self) -> bool {
        self.entries >= SEAL_BATCH_MAX
    }
}

/// Seals entries of the audit, oldest first. Where another engine has sealed meanwhile, nothing is done.
///
/// # Errors
/// When the record fails.
pub async fn tick(engine: &Engine) -> Result<Sealed, EngineError> {
    let unsealed = engine.store.unsealed_audit(SEAL_BATCH_MAX).await?;
    if unsealed.is_empty() {
        return Ok(Sealed { entries: 0 });
    }
    let head = engine.store.audit_head().await?;
    let (start, hash) = hash_of(head.as_ref());
    let mut previous = hash.to_owned();
    let seals: Vec<AuditSeal> = unsealed
        .iter()
        .zip(start + 1..)
        .map(|(row, place)| {
            previous = chain_hash(&previous, place, &row.entry);
            AuditSeal { sequence: row.sequence, place, hash: previous.clone() }
        })
        .collect();
    let sealed = engine.store.seal_audit(start, &seals).await?;
    Ok(Sealed { entries: if sealed { seals.len() } else { 0 } })
}
