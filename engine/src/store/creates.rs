//! What becomes of the creates of a batch: the rule that the databases share.

use std::collections::{HashMap, HashSet};

use flowmonkey_core::ids::ExecutionId;
use flowmonkey_core::time::Timestamp;

use super::model::CreateOutcome;

/// An idempotency key.
pub(super) struct Key {
    pub(super) name: KeyName,
    pub(super) input_hash: String,
    /// The instant until which it is remembered.
    pub(super) until: Timestamp,
}

/// Tenant (empty for none), flow and key.
pub(super) type KeyName = (String, String, String);

/// A create as far as it matters whether it is stored.
pub(super) struct Candidate<'a> {
    pub(super) id: ExecutionId,
    pub(super) key: Option<&'a Key>,
    /// Index into the batch's spawns.
    pub(super) spawn: Option<usize>,
    /// Index into the batch's updates.
    pub(super) cause: Option<usize>,
    /// Whether flows have changed since its flow was found.
    pub(super) is_outdated: bool,
}

/// What the record has already.
#[derive(Default)]
pub(super) struct Known {
    /// Ids that are taken.
    pub(super) ids: HashSet<ExecutionId>,
    /// Keys that have not expired, with their executions and the hashes of their inputs.
    pub(super) keys: HashMap<KeyName, (ExecutionId, String)>,
}

/// What becomes of each create, given which spawns and updates count. A key or an id that occurs twice in a batch counts
/// once. One that is there already is said to be so, whatever flows do: its answer may have been lost.
pub(super) fn choose<'a>(
    creates: impl Iterator<Item = Candidate<'a>>,
    spawned: &[bool],
    updated: &[bool],
    known: Known,
) -> Vec<CreateOutcome> {
    let Known { mut ids, mut keys } = known;
    let fails = |index: Option<usize>, held: &[bool]| {
        index.is_some_and(|index| !held.get(index).copied().unwrap_or(false))
    };
    let outcome = |Candidate { id, key, spawn, cause, is_outdated }: Candidate<'_>| {
        let existing = key.and_then(|key| Some((key, keys.get(&key.name)?)));
        if fails(spawn, spawned) || fails(cause, updated) {
            CreateOutcome::NotSpawned
        } else if let Some((key, (id, input_hash))) = existing {
            CreateOutcome::Existing { id: *id, input_differs: *input_hash != key.input_hash }
        } else if ids.contains(&id) {
            CreateOutcome::IdTaken
        } else if is_outdated {
            CreateOutcome::FlowsChanged
        } else {
            ids.insert(id);
            if let Some(key) = key {
                keys.insert(key.name.clone(), (id, key.input_hash.clone()));
            }
            CreateOutcome::Created
        }
    };
    creates.map(outcome).collect()
}
