//! Group commit: batches that arrive while a transaction is being written are stored together in the next one. An idle
//! system stores at once; a busy one shares each disk flush.

use std::collections::HashSet;
use std::sync::Arc;

use flowmonkey_core::ids::ExecutionId;
use tokio::sync::{mpsc, oneshot};

use crate::config::COMMIT_BATCH_MAX;
use crate::store::{Batch, Committed, Store, StoreError};

/// Batches that may wait for the transaction before them.
const WAITING_MAX: usize = 1024;

struct Waiting {
    batch: Batch,
    reply: oneshot::Sender<Result<Committed, StoreError>>,
}

/// How batches reach the record.
#[derive(Clone)]
pub(crate) enum Committer {
    /// Each in a transaction of its own, in the caller's task: for deterministic simulation.
    Direct,
    /// Together with others, by a task of its own.
    Grouped(Sender),
}

#[derive(Clone)]
pub(crate) struct Sender(mpsc::Sender<Waiting>);

impl Committer {
    /// The committer, and the loop that has to run for it.
    pub(crate) fn grouped(store: Arc<dyn Store>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self::Grouped(Sender(sender)), run(store, receiver))
    }

    pub(crate) async fn commit(&self, store: &dyn Store, batch: Batch) -> Result<Committed, StoreError> {
        let Self::Grouped(Sender(sender)) = self else { return store.commit(batch).await };
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable { reason: "the engine is stopping".into(), source: None };
        sender.send(Waiting { batch, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

async fn run(store: Arc<dyn Store>, mut receiver: mpsc::Receiver<Waiting>) {
    let mut held: Option<Waiting> = None;
    loop {
        let first = match held.take() {
            Some(waiting) => waiting,
            None => match receiver.recv().await {
                Some(waiting) => waiting,
                None => return,
            },
        };
        let mut group = vec![first];
        let mut touched = HashSet::new();
        let mut size = note(&mut touched, &group[0].batch).unwrap_or(0);
        while size < COMMIT_BATCH_MAX {
            let Ok(waiting) = receiver.try_recv() else { break };
            match note(&mut touched, &waiting.batch) {
                Some(more) => {
                    size += more;
                    group.push(waiting);
                }
                // Two decisions on one execution cannot be in one batch; the second may well conflict, and then its
                // caller decides again.
                None => {
                    held = Some(waiting);
                    break;
                }
            }
        }
        store_group(&*store, group).await;
    }
}

/// Notes what the batch touches; none when that is touched already.
fn note(touched: &mut HashSet<Touched>, batch: &Batch) -> Option<usize> {
    let keys: Vec<Touched> = batch
        .updates
        .iter()
        .map(|update| Touched::Execution(update.execution.id()))
        .chain(batch.creates.iter().map(|create| Touched::Execution(create.execution.id())))
        .chain(batch.spawns.iter().map(|spawn| Touched::Join(spawn.parent, spawn.join)))
        .chain(batch.creates.iter().filter_map(|create| {
            let (key, _) = create.idempotency.as_ref()?;
            let identity = &create.execution.identity;
            Some(Touched::Key(identity.tenant_id.clone(), identity.flow.id.clone(), key.clone()))
        }))
        .collect();
    if keys.iter().any(|key| touched.contains(key)) {
        return None;
    }
    let count = keys.len();
    touched.extend(keys);
    Some(count)
}

#[derive(PartialEq, Eq, Hash)]
enum Touched {
    Execution(ExecutionId),
    Join(ExecutionId, u32),
    Key(Option<String>, String, String),
}

async fn store_group(store: &dyn Store, mut group: Vec<Waiting>) {
    if group.len() == 1 {
        for Waiting { batch, reply } in group {
            answer(reply, store.commit(batch).await);
        }
        return;
    }
    let mut merged = Batch {
        now: group.iter().map(|waiting| waiting.batch.now).max().unwrap_or_default(),
        ..Batch::default()
    };
    for Waiting { batch, .. } in &group {
        let spawns = merged.spawns.len();
        merged.spawns.extend(batch.spawns.iter().copied());
        merged.creates.extend(batch.creates.iter().cloned().map(|mut create| {
            create.spawn = create.spawn.map(|spawn| spawn + spawns);
            create
        }));
        merged.updates.extend(batch.updates.iter().cloned());
    }
    match store.commit(merged).await {
        Ok(committed) => {
            let mut creates = committed.creates.into_iter();
            let mut updates = committed.updates.into_iter();
            for Waiting { batch, reply } in group {
                let part = Committed {
                    creates: creates.by_ref().take(batch.creates.len()).collect(),
                    updates: updates.by_ref().take(batch.updates.len()).collect(),
                    // What became of shared rows is told to everybody: following up twice is harmless.
                    joins: committed.joins.clone(),
                    spent: committed.spent.clone(),
                };
                answer(reply, Ok(part));
            }
        }
        // One bad batch must not fail the others: each goes alone, and only the bad one hears of it. What may have been
        // stored is guarded by versions, so that storing it again changes nothing.
        Err(_) => {
            for Waiting { batch, reply } in group.drain(..) {
                answer(reply, store.commit(batch).await);
            }
        }
    }
}

fn answer(reply: oneshot::Sender<Result<Committed, StoreError>>, result: Result<Committed, StoreError>) {
    // The caller may have gone away; what was stored is found by the chores.
    drop(reply.send(result));
}
