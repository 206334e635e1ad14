//! What names of flows stand for, kept in memory: for a store whose process is the only one that writes the file.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use flowmonkey_core::execution::FlowReference;
use lru::LruCache;

use crate::config::FLOWS_CACHED_MAX;

/// Tenant, id and version of a flow; no version: the latest.
type Name = (Option<String>, String, Option<String>);

/// What was found lately. While a version is being published nothing is known, and what was read meanwhile is not kept.
pub(super) struct Published(Mutex<State>);

struct State {
    found: LruCache<Name, FlowReference>,
    /// Publications that have begun and not ended. One that is abandoned in the middle may be stored at any time after
    /// that, so that it never ends here: correct, and slower.
    under_way: usize,
    /// Changes with each beginning and each end.
    generation: u64,
}

/// The state that a reading began in.
pub(super) struct Seen(u64);

impl Default for Published {
    fn default() -> Self {
        let max = NonZeroUsize::new(FLOWS_CACHED_MAX).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(State { found: LruCache::new(max), under_way: 0, generation: 0 }))
    }
}

impl Published {
    /// What was found under the name; else the state to be given to [`Self::keep`] with what is found now.
    pub(super) fn get(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
    ) -> Result<FlowReference, Seen> {
        let mut state = self.state();
        let name = name(tenant, id, version);
        state.found.get(&name).cloned().ok_or(Seen(state.generation))
    }

    /// Keeps what was found, unless something was published since `seen`.
    pub(super) fn keep(
        &self,
        tenant: Option<&str>,
        id: &str,
        version: Option<&str>,
        found: &FlowReference,
        seen: &Seen,
    ) {
        let mut state = self.state();
        if state.under_way == 0 && state.generation == seen.0 {
            state.found.put(name(tenant, id, version), found.clone());
        }
    }

    /// A publication begins.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.under_way += 1;
        state.forget();
    }

    /// A publication has ended, well or not.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.under_way = state.under_way.saturating_sub(1);
        state.forget();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(tenant: Option<&str>, id: &str, version: Option<&str>) -> Name {
    (tenant.map(ToOwned::to_owned), id.to_owned(), version.map(ToOwned::to_owned))
}

impl State {
    fn forget(&mut self) {
        self.generation += 1;
        self.found.clear();
    }
}

#[cfg(test)]
mod tests {
    use flowmonkey_core::ids::FlowHash;

    use super::*;

    fn version(version: &str) -> FlowReference {
        FlowReference { id: "f".into(), version: version.into(), hash: FlowHash::of(version.as_bytes()) }
    }

    #[test]
    fn what_was_read_while_something_was_published_is_not_kept() {
        let published = Published::default();
        let look = || published.get(None, "f", None);
        let before = look().unwrap_err();
        published.keep(None, "f", None, &version("1.0.0"), &before);
        assert_eq!(look().ok(), Some(version("1.0.0")));
        assert!(published.get(None, "f", Some("1.0.0")).is_err());

        let before = look().err().or(published.get(None, "g", None).err()).unwrap();
        published.begin();
        let during = look().unwrap_err();
        published.keep(None, "f", None, &version("1.0.0"), &during);
        assert!(look().is_err(), "read while something is published");
        published.end();
        published.keep(None, "f", None, &version("1.0.0"), &before);
        published.keep(None, "f", None, &version("1.0.0"), &during);
        assert!(look().is_err(), "read before it was published");
        let after = look().unwrap_err();
        published.keep(None, "f", None, &version("2.0.0"), &after);
        assert_eq!(look().ok(), Some(version("2.0.0")));

        published.begin();
        published.begin();
        published.end();
        let after = look().unwrap_err();
        published.keep(None, "f", None, &version("2.0.0"), &after);
        assert!(look().is_err(), "one of two was abandoned");
    }
}
