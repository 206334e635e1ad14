//! What this process knows to have taken out of the queue.
//!
//! When a connection breaks after a claim or a take was sent, Redis may have moved deliveries that nobody here has heard
//! of. Before the next claim or take of that holder, everything in its list that is not in this book goes back.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One book for workers, one for engines.
#[derive(Default)]
pub(super) struct Hands {
    holders: Mutex<HashMap<Holder, Held>>,
    /// Read while a claim is under way, written while one is made good.
    pub(super) exchange: tokio::sync::RwLock<()>,
}

/// A worker or an engine, at a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub(super) pool: String,
    pub(super) name: String,
}

#[derive(Default)]
struct Held {
    ids: HashSet<String>,
    /// There may be more in Redis than is known here.
    in_doubt: bool,
}

impl Hands {
    fn holders(&self) -> MutexGuard<'_, HashMap<Holder, Held>> {
        // Plain data, and every change of it is whole.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, holder: &Holder, ids: impl IntoIterator<Item = String>) {
        self.holders().entry(holder.clone()).or_default().ids.extend(ids);
    }

    pub(super) fn remove(&self, holder: &Holder, ids: impl IntoIterator<Item = String>) {
        let mut holders = self.holders();
        let Some(held) = holders.get_mut(holder) else { return };
        for id in ids {
            held.ids.remove(&id);
        }
        if held.ids.is_empty() && !held.in_doubt {
            holders.remove(holder);
        }
    }

    /// Forgets all of a holder.
    pub(super) fn clear(&self, holder: &Holder) {
        self.holders().remove(holder);
    }

    /// Who holds something at a pool.
    pub(super) fn names(&self, pool: &str) -> BTreeSet<String> {
        self.holders().keys().filter(|holder| holder.pool == pool).map(|holder| holder.name.clone()).collect()
    }

    pub(super) fn doubt(&self, holder: &Holder) {
        self.holders().entry(holder.clone()).or_default().in_doubt = true;
    }

    /// What is known, if there may be more.
    pub(super) fn in_doubt(&self, holder: &Holder) -> Option<Vec<String>> {
        let holders = self.holders();
        let held = holders.get(holder).filter(|held| held.in_doubt)?;
        Some(held.ids.iter().cloned().collect())
    }

    pub(super) fn settle(&self, holder: &Holder) {
        let mut holders = self.holders();
        if let Some(held) = holders.get_mut(holder) {
            held.in_doubt = false;
            if held.ids.is_empty() {
                holders.remove(holder);
            }
        }
    }
}
