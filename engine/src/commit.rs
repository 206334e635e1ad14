//! Group commit: batches that arrive while a transaction is being written are stored together in the next one. An idle
//! system stores at once; a busy one shares each disk flush.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use flowmonkey_core::ids::ExecutionId;
use flowmonkey_plumbing::crash;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::config::{COMMIT_BATCH_MAX, COMMIT_BYTES_MAX};
use crate::store::{Batch, Committed, JoinKey, Store, StoreError, touched_budgets, touched_joins};
use crate::turns::while_held;

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
    /// The committer, and the loops that have to run for it: as many as commits may be written at the same time. Batches of
    /// one execution may then overtake each other; the version guard tells.
    pub(crate) fn grouped(
        store: &Arc<dyn Store>,
        in_flight: usize,
    ) -> (Self, Vec<impl Future<Output = ()> + Send + 'static>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let line = Arc::new(Mutex::new(Line { receiver, held: None }));
        let runs = (0..in_flight.max(1)).map(|_| run(store.clone(), line.clone())).collect();
        (Self::Grouped(Sender(sender)), runs)
    }

    pub(crate) async fn commit(&self, store: &dyn Store, batch: Batch) -> Result<Committed, StoreError> {
        let Self::Grouped(Sender(sender)) = self else { return store.commit(batch).await };
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable { reason: "the engine is stopping".into(), source: None };
        sender.send(Waiting { batch, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// Batches that wait for a transaction.
struct Line {
    receiver: mpsc::Receiver<Waiting>,
    held: Option<Waiting>,
}

impl Line {
    /// The next group; none: nobody is left who could ask.
    async fn next(&mut self) -> Option<Vec<Waiting>> {
        let first = match self.held.take() {
            Some(waiting) => waiting,
            None => self.receiver.recv().await?,
        };
        let mut touched = HashSet::new();
        let mut size = note(&mut touched, &first.batch).unwrap_or(0);
        let mut bytes = weight(&first.batch);
        let mut group = vec![first];
        while size < COMMIT_BATCH_MAX && bytes < COMMIT_BYTES_MAX {
            let Ok(waiting) = self.receiver.try_recv() else { break };
            match note(&mut touched, &waiting.batch) {
                Some(more) => {
                    size += more;
                    bytes = bytes.saturating_add(weight(&waiting.batch));
                    group.push(waiting);
                }
                // Two decisions on one execution cannot be in one batch; the second may well conflict, and then its
                // caller decides again. It is the first of the next group, so that nobody is overtaken for ever.
                None => {
                    self.held = Some(waiting);
                    break;
                }
            }
        }
        Some(group)
    }
}

async fn run(store: Arc<dyn Store>, line: Arc<Mutex<Line>>) {
    loop {
        // Whoever holds the line waits for batches; the others wait for it, or write.
        let mut turn = line.clone().lock_owned().await;
        let Some(group) = turn.next().await else { return };
        let size =
            group.iter().map(|waiting| waiting.batch.updates.len() + waiting.batch.creates.len()).sum();
        crash::point("engine/before-commit");
        while_held(turn, size, store_group(&*store, group)).await;
    }
}

/// Bytes of context that the batch writes: what its size in memory depends on.
fn weight(batch: &Batch) -> usize {
    let updates = batch.updates.iter().map(|update| update.execution.context_bytes);
    let creates = batch.creates.iter().map(|create| create.execution.context_bytes);
    updates.chain(creates).fold(0, usize::saturating_add)
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

/// Stores a group in one transaction. One bad batch must not fail the others: a group that the record refuses is halved
/// until only the bad one is left to hear of it. What may have been stored is guarded by versions, so that storing it
/// again changes nothing.
async fn store_group(store: &dyn Store, group: Vec<Waiting>) {
    let mut groups = vec![group];
    while let Some(mut group) = groups.pop() {
        if group.len() == 1 {
            for Waiting { batch, reply } in group {
                let committed = store.commit(batch).await;
                crash::point("engine/after-commit");
                answer(reply, committed);
            }
            continue;
        }
        match store.commit(merge(&group)).await {
            Ok(committed) => {
                crash::point("engine/after-commit");
                share(group, committed);
            }
            // Whoever tries next meets the same: it must not be asked once for each batch.
            Err(StoreError::Unavailable { reason, .. }) => {
                for Waiting { reply, .. } in group {
                    answer(reply, Err(StoreError::Unavailable { reason: reason.clone(), source: None }));
                }
            }
            Err(
                StoreError::Full { .. }
                | StoreError::Corrupt { .. }
                | StoreError::Schema { .. }
                | StoreError::Internal { .. },
            ) => {
                let second = group.split_off(group.len() / 2);
                groups.push(second);
                groups.push(group);
            }
        }
    }
}

fn merge(group: &[Waiting]) -> Batch {
    let mut merged = Batch {
        now: group.iter().map(|waiting| waiting.batch.now).max().unwrap_or_default(),
        ..Batch::default()
    };
    for Waiting { batch, .. } in group {
        let (spawns, updates) = (merged.spawns.len(), merged.updates.len());
        merged.spawns.extend(batch.spawns.iter().copied());
        merged.creates.extend(batch.creates.iter().cloned().map(|mut create| {
            create.spawn = create.spawn.map(|spawn| spawn + spawns);
            create.cause = create.cause.map(|cause| cause + updates);
            create
        }));
        merged.updates.extend(batch.updates.iter().cloned());
    }
    merged
}

/// Gives each batch its part of the answer. Of what became of a row that several batches share, one of them is told:
/// all would do the same about it.
fn share(group: Vec<Waiting>, committed: Committed) {
    let Committed { creates, updates, mut joins, mut spent } = committed;
    let (mut creates, mut updates) = (creates.into_iter(), updates.into_iter());
    for Waiting { batch, reply } in group {
        let creates = creates.by_ref().take(batch.creates.len()).collect();
        let updates = updates.by_ref().take(batch.updates.len()).collect();
        let mut part = Committed { creates, updates, joins: Vec::new(), spent: Vec::new() };
        // One who has gone away cannot follow up.
        let is_needless = joins.is_empty() && spent.is_empty();
        if !is_needless && !reply.is_closed() {
            let touched: BTreeSet<JoinKey> = touched_joins(&batch);
            part.joins = joins.extract_if(.., |join| touched.contains(&(join.parent, join.join))).collect();
            let budgets = touched_budgets(&batch);
            part.spent = spent.extract_if(.., |spent| budgets.contains(&spent.root)).collect();
        }
        answer(reply, Ok(part));
    }
}

fn answer(reply: oneshot::Sender<Result<Committed, StoreError>>, result: Result<Committed, StoreError>) {
    // The caller may have gone away; what was stored is found by the chores.
    drop(reply.send(result));
}
