//! A cache that is bounded by what it holds, not only by how many.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::Arc;

use flowmonkey_core::context::{ContextSize, json_size};
use flowmonkey_core::execution::JoinSpec;
use flowmonkey_core::flow::scope::Snapshot;
use lru::LruCache;

/// What was used lately, at most so many bytes of it. One entry is kept whatever it weighs: whoever put it there is about
/// to use it many times.
pub(crate) struct WeighedCache<K: Hash + Eq, V> {
    entries: LruCache<K, (V, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl<K: Hash + Eq, V> WeighedCache<K, V> {
    pub(crate) fn new(entries_max: usize, bytes_max: usize) -> Self {
        let entries = LruCache::new(NonZeroUsize::new(entries_max).unwrap_or(NonZeroUsize::MIN));
        Self { entries, bytes: 0, bytes_max }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(value, _)| value)
    }

    /// As [`Self::get`], for somebody who does not use it.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.peek(key).map(|(value, _)| value)
    }

    pub(crate) fn put(&mut self, key: K, value: V, bytes: usize) {
        self.pop(&key);
        if let Some((_, (_, gone))) = self.entries.push(key, (value, bytes)) {
            self.bytes = self.bytes.saturating_sub(gone);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            let Some((_, (_, gone))) = self.entries.pop_lru() else { break };
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    pub(crate) fn pop(&mut self, key: &K) {
        if let Some((_, gone)) = self.entries.pop(key) {
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }
}

/// Bytes of a snapshot as JSON, with those behind it.
pub(crate) fn snapshot_bytes(snapshot: &Arc<Snapshot>) -> usize {
    let layers = std::iter::successors(Some(snapshot), |layer| layer.outer.as_ref());
    layers.fold(0, |sum, layer| sum.saturating_add(ContextSize::of(&layer.context).bytes()))
}

/// Bytes of what children are made of: the items, and the snapshot.
pub(crate) fn join_bytes(spec: &JoinSpec) -> usize {
    let items = spec.items.iter().fold(0, |sum: usize, item| sum.saturating_add(json_size(item)));
    items.saturating_add(snapshot_bytes(&spec.snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(cache: &mut WeighedCache<u32, char>) -> Vec<u32> {
        (0..9).filter(|key| cache.entries.contains(key)).collect()
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let mut cache = WeighedCache::new(3, 100);
        for key in 0..3 {
            cache.put(key, 'a', 40);
        }
        assert_eq!(held(&mut cache), [1, 2], "120 bytes are too many");
        assert_eq!(cache.get(&1), Some(&'a'));
        cache.put(3, 'b', 30);
        assert_eq!(held(&mut cache), [1, 3]);
        cache.put(4, 'c', 1);
        cache.put(5, 'd', 1);
        assert_eq!(held(&mut cache), [3, 4, 5], "four are too many");
        cache.put(3, 'e', 98);
        assert_eq!((held(&mut cache), cache.bytes), (vec![3, 4, 5], 100), "replaced, it is counted once");
        cache.put(6, 'f', 1000);
        assert_eq!((held(&mut cache), cache.bytes), (vec![6], 1000), "one is kept whatever it weighs");
        cache.pop(&6);
        assert_eq!((held(&mut cache), cache.bytes), (vec![], 0));
    }
}
