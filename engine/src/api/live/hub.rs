//! Hears what the engine tells and puts it into the mailboxes of those who asked for it. It runs while anybody does.
//!
//! Architecture invariant: nothing here waits for a client, and the record is asked beside the hearing.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;

use flowmonkey_core::execution::Execution;
use flowmonkey_core::ids::ExecutionId;
use futures_util::future::BoxFuture;
use lru::LruCache;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::filter::Topic;
use super::mailbox::{CommittedTold, Wide};
use super::told::{After, Slot, Told};
use super::{About, KNOWN_MAX, Live, MISSED_EVERY, UNKNOWN_MAX, UNKNOWN_READ_MAX, UNKNOWN_UPDATES_MAX};
use crate::store::StoreError;
use crate::watch::{CommittedUpdate, Update};

/// Executions that are being read from the record.
type Reading = BoxFuture<'static, (Vec<ExecutionId>, Result<Vec<Execution>, StoreError>)>;

struct Hub {
    live: Arc<Live>,
    known: LruCache<ExecutionId, Known>,
    /// Updates of executions of which it is not known whose they are.
    unknown: HashMap<ExecutionId, VecDeque<Update>>,
    /// When it is said that something was missed; none: nothing was.
    missed_at: Option<Instant>,
    said_missed: Option<Instant>,
}

/// What is known of an execution.
struct Known {
    about: Arc<About>,
    /// The last event that those were told who have not named it; 0: none.
    told: u64,
}

/// Hears `updates` until nobody asks for anything.
pub(super) async fn run(live: Arc<Live>, mut updates: Receiver<Update>) {
    let mut hub = Hub {
        known: LruCache::new(NonZeroUsize::new(KNOWN_MAX).unwrap_or(NonZeroUsize::MIN)),
        unknown: HashMap::new(),
        missed_at: None,
        said_missed: None,
        live: live.clone(),
    };
    let mut reading: Option<Reading> = None;
    loop {
        let read = async {
            match &mut reading {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        let missed_at = hub.missed_at;
        let missed = async {
            match missed_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            update = updates.recv() => match update {
                Ok(update) => hub.hear(update),
                Err(RecvError::Lagged(_)) => hub.note_missed(),
                Err(RecvError::Closed) => return,
            },
            (ids, found) = read => {
                reading = None;
                hub.learn(&ids, found);
            }
            () = missed => hub.say_missed(),
            () = live.idle.notified() => if live.index.ends_hub() { return },
            () = live.shutdown.cancelled() => return,
        }
        if reading.is_none() {
            reading = hub.read_unknown();
        }
    }
}

impl Hub {
    fn hear(&mut self, update: Update) {
        match &update {
            Update::Committed(update) => self.committed(update),
            Update::Elsewhere { execution, sequence, status: _ } => {
                for mailbox in self.live.index.of(&Topic::Execution(*execution)) {
                    mailbox.elsewhere(*execution, *sequence);
                }
                self.widely(*execution, update);
            }
            Update::Started { execution, .. }
            | Update::Progress { execution, .. }
            | Update::Log { execution, .. } => {
                let execution = *execution;
                match self.about(execution) {
                    Some(about) => self.volatile(&about, &update, true),
                    None => {
                        self.volatile_of_unknown(execution, &update);
                        self.widely(execution, update);
                    }
                }
            }
            Update::Missed => self.note_missed(),
        }
    }

    /// Whose an execution is, as far as it is in memory.
    fn about(&mut self, id: ExecutionId) -> Option<Arc<About>> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.about.clone());
        }
        let about = About::of(&*self.live.engine.peek_hot(id)?);
        self.known.put(id, Known { about: about.clone(), told: 0 });
        Some(about)
    }

    fn committed(&mut self, update: &CommittedUpdate) {
        let id = update.execution.id();
        let (Some(first), Some(last)) = (update.events.first(), update.events.last()) else { return };
        let (first, last) = (first.sequence, last.sequence);
        let known =
            self.known.get_or_insert_mut(id, || Known { about: About::of(&update.execution), told: 0 });
        let wide = if last <= known.told {
            Wide::Nothing
        } else if known.told == 0 || first == known.told + 1 {
            Wide::Events
        } else {
            Wide::Snapshot
        };
        known.told = known.told.max(last);
        let about = known.about.clone();
        let mailboxes = self.live.index.about(&about);
        if mailboxes.is_empty() {
            return;
        }
        let status = update.execution.status();
        let events = update.events.iter().map(|recorded| {
            Arc::new(Told::committed(&about, recorded, (recorded.sequence == last).then_some(status)))
        });
        let events = events.collect();
        let after = Arc::new(After::of(about.clone(), &update.execution));
        let told = CommittedTold { about, events, after, wide };
        for mailbox in mailboxes {
            mailbox.committed(&told);
        }
    }

    /// Tells those who have not named the execution, once it is known whose it is.
    fn widely(&mut self, id: ExecutionId, update: Update) {
        if !self.live.index.is_wide() {
            return;
        }
        match self.about(id) {
            Some(about) if !self.unknown.contains_key(&id) => self.tell_widely(&about, &update),
            Some(_) | None => {
                if self.unknown.len() >= UNKNOWN_MAX && !self.unknown.contains_key(&id) {
                    if matches!(update, Update::Elsewhere { .. }) {
                        self.note_missed();
                    }
                    return;
                }
                let waiting = self.unknown.entry(id).or_default();
                if matches!(update, Update::Elsewhere { .. }) {
                    // The latest says it all.
                    waiting.retain(|one| !matches!(one, Update::Elsewhere { .. }));
                } else if waiting.len() >= UNKNOWN_UPDATES_MAX {
                    return;
                }
                waiting.push_back(update);
            }
        }
    }

    fn tell_widely(&mut self, about: &Arc<About>, update: &Update) {
        let Update::Elsewhere { execution, sequence, status } = update else {
            // Those who have named it were told at once.
            self.volatile(about, update, false);
            return;
        };
        let known = self.known.get_or_insert_mut(*execution, || Known { about: about.clone(), told: 0 });
        if *sequence <= known.told {
            return;
        }
        known.told = *sequence;
        let now = self.live.engine.now();
        let after = Arc::new(After::elsewhere(about.clone(), *sequence, *status, now));
        for mailbox in self.live.index.about(about) {
            mailbox.snapshot(&after);
        }
    }

    /// Tells those who asked for it; those who have named the execution, too, or not.
    fn volatile(&self, about: &Arc<About>, update: &Update, named: bool) {
        let mailboxes = self.live.index.about(about);
        if mailboxes.is_empty() {
            return;
        }
        let Some((slot, told)) = self.written(update, Some(about.clone()), about.id) else { return };
        for mailbox in mailboxes {
            if named || !mailbox.has_named(about.id) {
                mailbox.volatile(Some(about.id), slot.as_ref(), &told);
            }
        }
    }

    /// Tells those who have named the execution.
    fn volatile_of_unknown(&self, id: ExecutionId, update: &Update) {
        let mailboxes = self.live.index.of(&Topic::Execution(id));
        if mailboxes.is_empty() {
            return;
        }
        let Some((slot, told)) = self.written(update, None, id) else { return };
        for mailbox in mailboxes {
            mailbox.volatile(Some(id), slot.as_ref(), &told);
        }
    }

    fn written(
        &self,
        update: &Update,
        about: Option<Arc<About>>,
        id: ExecutionId,
    ) -> Option<(Option<Slot>, Arc<Told>)> {
        let step = if let Update::Started { task, .. } = update {
            let hot = self.live.engine.peek_hot(id);
            hot.and_then(|hot| Some(hot.task().filter(|out| out.run.task == *task)?.run.step.clone()))
        } else {
            None
        };
        let (slot, told) = Told::volatile(update, about, step.as_deref(), self.live.engine.now())?;
        Some((slot, Arc::new(told)))
    }

    /// Begins to read whose some executions are.
    fn read_unknown(&self) -> Option<Reading> {
        if self.unknown.is_empty() {
            return None;
        }
        let ids: Vec<ExecutionId> = self.unknown.keys().take(UNKNOWN_READ_MAX).copied().collect();
        let engine = self.live.engine.clone();
        Some(Box::pin(async move {
            let found = engine.store().load(&ids).await;
            (ids, found)
        }))
    }

    fn learn(&mut self, ids: &[ExecutionId], found: Result<Vec<Execution>, StoreError>) {
        let mut waiting: HashMap<ExecutionId, VecDeque<Update>> =
            ids.iter().filter_map(|id| self.unknown.remove_entry(id)).collect();
        match found {
            Ok(found) => {
                for execution in found {
                    let (id, about) = (execution.id(), About::of(&execution));
                    // What was heard of it in the meantime stays.
                    self.known.get_or_insert(id, || Known { about: about.clone(), told: 0 });
                    for update in waiting.remove(&id).unwrap_or_default() {
                        self.tell_widely(&about, &update);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, "it cannot be read whose some executions are");
                self.note_missed();
            }
        }
    }

    /// Something was missed: it is said soon, and not too often.
    fn note_missed(&mut self) {
        let soon = self.said_missed.map_or_else(Instant::now, |said| said + MISSED_EVERY);
        self.missed_at.get_or_insert(soon);
    }

    fn say_missed(&mut self) {
        self.missed_at = None;
        self.said_missed = Some(Instant::now());
        for mailbox in self.live.index.all() {
            mailbox.missed();
        }
    }
}
