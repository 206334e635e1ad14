//! What waits for one connection. Everything here has a limit, and nobody who puts something in waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use flowmonkey_core::ids::ExecutionId;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::filter::Filter;
use super::told::{After, Slot, Told};
use super::{
    About, LATEST_MAX, LINES_MAX, LOOK_EVERY, LOOK_FIRST, QUEUE_BYTES_MAX, QUEUE_MAX, READ_AGAIN,
    SNAPSHOTS_MAX,
};
use crate::access::Visibility;

/// A commit, for those who asked for it.
pub(super) struct CommittedTold {
    pub(super) about: Arc<About>,
    /// In order, without gaps.
    pub(super) events: Vec<Arc<Told>>,
    pub(super) after: Arc<After>,
    pub(super) wide: Wide,
}

/// What those are told who have not named the execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wide {
    /// The events.
    Events,
    /// What it is afterwards: something before these events was missed.
    Snapshot,
    /// Nothing: they know of something later.
    Nothing,
}

/// What a connection has asked for, under its name.
pub(super) struct Subscription {
    pub(super) id: String,
    pub(super) filter: Filter,
}

/// An execution of which all events are told.
struct Exact {
    about: Arc<About>,
    /// The last event that is sent, or waits to be.
    heard: u64,
    /// The last event that is known to be there.
    latest: u64,
    /// Whether what comes next is to be read from the record.
    behind: bool,
    /// When it is read at the earliest.
    read_at: Instant,
    /// When to look for what nobody told; none: everything is told.
    look_at: Option<Instant>,
    rest: std::time::Duration,
}

struct State {
    subscriptions: Vec<Subscription>,
    exact: HashMap<ExecutionId, Exact>,
    queue: VecDeque<Arc<Told>>,
    lines: VecDeque<Arc<Told>>,
    latest: HashMap<Slot, Arc<Told>>,
    /// Of the latest values, the oldest first.
    slots: VecDeque<Slot>,
    bytes: usize,
    snapshots: HashMap<ExecutionId, Arc<After>>,
    missed: bool,
}

/// What waits for one connection.
pub(super) struct Mailbox {
    visibility: Visibility,
    pub(super) bell: Notify,
    state: Mutex<State>,
}

/// One message as it is sent.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) text: Utf8Bytes,
    /// Of committed events: whose, and their sequence.
    pub(super) place: Option<(ExecutionId, u64)>,
}

impl Frame {
    pub(super) fn plain(text: impl Into<Utf8Bytes>) -> Self {
        Self { text: text.into(), place: None }
    }

    pub(super) fn of(told: &Told) -> Self {
        let place = told.about.as_ref().and_then(|about| Some((about.id, told.sequence?)));
        Self { text: told.text.clone(), place }
    }
}

impl Mailbox {
    pub(super) fn new(visibility: Visibility) -> Self {
        let state = State {
            subscriptions: Vec::new(),
            exact: HashMap::new(),
            queue: VecDeque::new(),
            lines: VecDeque::new(),
            latest: HashMap::new(),
            slots: VecDeque::new(),
            bytes: 0,
            snapshots: HashMap::new(),
            missed: false,
        };
        Self { visibility, bell: Notify::new(), state: Mutex::new(state) }
    }

    pub(super) fn visibility(&self) -> &Visibility {
        &self.visibility
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, and every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sees(&self, about: &About) -> bool {
        self.visibility.sees(about.tenant.as_deref())
    }

    // What subscribers do.

    /// Looks at what is subscribed to.
    pub(super) fn with_subscriptions<T>(&self, look: impl FnOnce(&[Subscription]) -> T) -> T {
        look(&self.state().subscriptions)
    }

    pub(super) fn subscribe(&self, subscription: Subscription) {
        self.state().subscriptions.push(subscription);
    }

    /// Tells all events of an execution after `heard`; first those that the record has. `is_shared`: other engines may do
    /// things that nobody tells.
    pub(super) fn follow(&self, about: Arc<About>, heard: u64, is_shared: bool, now: Instant) {
        let exact = Exact {
            heard,
            latest: heard,
            behind: true,
            read_at: now,
            look_at: is_shared.then(|| now + LOOK_FIRST),
            rest: LOOK_FIRST,
            about,
        };
        self.state().exact.insert(exact.about.id, exact);
    }

    /// Forgets a subscription, and what waits for it alone.
    pub(super) fn unsubscribe(&self, id: &str) -> Option<Filter> {
        let mut guard = self.state();
        let state = &mut *guard;
        let place = state.subscriptions.iter().position(|subscription| subscription.id == id)?;
        let Subscription { filter, .. } = state.subscriptions.remove(place);
        if let Some(execution) = filter.execution {
            state.exact.remove(&execution);
        }
        let left = &state.subscriptions;
        state.queue.retain(|told| wants(left, told));
        state.lines.retain(|told| wants(left, told));
        state.latest.retain(|_, told| wants(left, told));
        let latest = &state.latest;
        state.slots.retain(|slot| latest.contains_key(slot));
        state.snapshots.retain(|_, after| left.iter().any(|one| one.filter.is_about(after.about())));
        state.count_bytes();
        Some(filter)
    }

    // What the hub does.

    pub(super) fn committed(&self, told: &CommittedTold) {
        if !self.sees(&told.about) {
            return;
        }
        let mut guard = self.state();
        let state = &mut *guard;
        let is_named = state.exact.contains_key(&told.about.id);
        let news = if is_named { state.committed_exactly(told) } else { state.committed_widely(told) };
        drop(guard);
        if news {
            self.bell.notify_one();
        }
    }

    /// Whether all events of this execution are told.
    pub(super) fn has_named(&self, id: ExecutionId) -> bool {
        self.state().exact.contains_key(&id)
    }

    /// Another engine committed something.
    pub(super) fn elsewhere(&self, id: ExecutionId, sequence: u64) {
        let mut state = self.state();
        let Some(exact) = state.exact.get_mut(&id) else { return };
        exact.latest = exact.latest.max(sequence);
        if exact.heard < sequence && !exact.behind {
            exact.behind = true;
            drop(state);
            self.bell.notify_one();
        }
    }

    /// What an execution is, for those who have not named it.
    pub(super) fn snapshot(&self, after: &Arc<After>) {
        let about = after.about();
        if !self.sees(about) {
            return;
        }
        let mut state = self.state();
        let asked = state.subscriptions.iter().any(|one| one.filter.is_wide_about(about));
        if asked && !state.exact.contains_key(&about.id) {
            state.keep_snapshot(after);
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Something volatile. `of`: the execution that it is about; none: a queue, or a worker, that is seen.
    pub(super) fn volatile(&self, of: Option<ExecutionId>, slot: Option<&Slot>, told: &Arc<Told>) {
        let mut state = self.state();
        // Whose it is has to be known.
        let named = of.and_then(|id| state.exact.get(&id)).map(|exact| &exact.about);
        let asked = match (of, named.or(told.about.as_ref())) {
            (None, _) => wants(&state.subscriptions, told),
            (Some(_), Some(about)) => {
                self.sees(about) && wants_kind(&state.subscriptions, told.kind, Some(&**about))
            }
            (Some(_), None) => false,
        };
        if asked {
            match slot {
                Some(slot) => state.keep_latest(slot, told),
                None => state.keep_line(told),
            }
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Something may have been missed: whatever is named is read again, of all else it is said.
    pub(super) fn missed(&self) {
        let mut state = self.state();
        for exact in state.exact.values_mut() {
            exact.behind = true;
        }
        state.missed |= state.subscriptions.iter().any(Subscription::is_wide);
        drop(state);
        self.bell.notify_one();
    }

    // What the connection does.

    /// Everything that waits, in order.
    pub(super) fn take(&self) -> Vec<Frame> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut frames = Vec::new();
        if std::mem::take(&mut state.missed) {
            let wide = state.subscriptions.iter().filter(|one| one.is_wide());
            frames.extend(
                wide.map(|one| {
                    Frame::plain(serde_json::json!({ "type": "missed", "id": one.id }).to_string())
                }),
            );
        }
        frames.extend(state.queue.drain(..).map(|told| Frame::of(&told)));
        // After the events: what they could not hold led to this.
        frames.extend(state.snapshots.drain().map(|(_, after)| Frame::plain(after.text())));
        let latest = &mut state.latest;
        frames.extend(
            state.slots.drain(..).filter_map(|slot| latest.remove(&slot)).map(|told| Frame::of(&told)),
        );
        frames.extend(state.lines.drain(..).map(|told| Frame::of(&told)));
        state.bytes = 0;
        frames
    }

    /// An execution whose next events are to be read now, and the last one that needs not be read.
    pub(super) fn to_read(&self, now: Instant) -> Option<(ExecutionId, u64)> {
        let mut state = self.state();
        for exact in state.exact.values_mut() {
            exact.behind |= exact.look_at.is_some_and(|at| at <= now);
        }
        let due = state.exact.values().filter(|exact| exact.behind && exact.read_at <= now);
        due.min_by_key(|exact| exact.read_at).map(|exact| (exact.about.id, exact.heard))
    }

    /// When there may be something to be read; none: not before the bell rings.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let state = self.state();
        let at = |exact: &Exact| if exact.behind { Some(exact.read_at) } else { exact.look_at };
        state.exact.values().filter_map(at).min()
    }

    /// Notes what was read: up to `last`, which is all for now or not. The messages among `told` that were asked for.
    pub(super) fn was_read(
        &self,
        id: ExecutionId,
        told: impl FnOnce(&Arc<About>, &dyn Fn(&Told) -> bool) -> Vec<Frame>,
        last: Option<u64>,
        is_all: bool,
        now: Instant,
    ) -> Vec<Frame> {
        let mut guard = self.state();
        let State { exact, subscriptions, .. } = &mut *guard;
        let Some(exact) = exact.get_mut(&id) else { return Vec::new() };
        // Those that are read in turn take turns.
        exact.read_at = now;
        match last {
            Some(last) => {
                exact.heard = exact.heard.max(last);
                exact.behind = !is_all || exact.latest > exact.heard;
                exact.rest = LOOK_FIRST;
            }
            None => {
                exact.behind = false;
                exact.rest = exact.rest.saturating_mul(2).min(LOOK_EVERY);
            }
        }
        if let Some(look_at) = &mut exact.look_at {
            *look_at = now + exact.rest;
        }
        told(&exact.about, &|told| wants(subscriptions, told))
    }

    /// The record did not answer.
    pub(super) fn read_later(&self, id: ExecutionId, now: Instant) {
        if let Some(exact) = self.state().exact.get_mut(&id) {
            exact.behind = true;
            exact.read_at = now + READ_AGAIN;
            if let Some(look_at) = &mut exact.look_at {
                *look_at = exact.read_at;
            }
        }
    }
}

impl Subscription {
    fn is_wide(&self) -> bool {
        self.filter.topics().iter().any(super::filter::Topic::is_wide)
    }
}

/// Whether any of `subscriptions` asks for it.
fn wants(subscriptions: &[Subscription], told: &Told) -> bool {
    wants_kind(subscriptions, told.kind, told.about.as_deref())
}

fn wants_kind(subscriptions: &[Subscription], kind: &str, about: Option<&About>) -> bool {
    let is_about = |filter: &Filter| about.is_none_or(|about| filter.is_about(about));
    subscriptions.iter().any(|one| one.filter.types.includes(kind) && is_about(&one.filter))
}

impl State {
    fn committed_exactly(&mut self, told: &CommittedTold) -> bool {
        let Some(exact) = self.exact.get_mut(&told.about.id) else { return false };
        exact.latest = exact.latest.max(told.after.sequence);
        if exact.behind {
            // It is read from the record in any case.
            return false;
        }
        let mut news = false;
        for event in &told.events {
            let sequence = event.sequence.unwrap_or_default();
            if sequence <= exact.heard {
                continue;
            }
            let wanted = wants(&self.subscriptions, event);
            let has_room = self.queue.len() < QUEUE_MAX && self.bytes + event.text.len() <= QUEUE_BYTES_MAX;
            if sequence > exact.heard + 1 || (wanted && !has_room) {
                exact.behind = true;
                return true;
            }
            exact.heard = sequence;
            if wanted {
                self.bytes += event.text.len();
                self.queue.push_back(event.clone());
                news = true;
            }
        }
        news
    }

    fn committed_widely(&mut self, told: &CommittedTold) -> bool {
        let id = told.about.id;
        let mut wanted = told.events.iter().filter(|event| wants(&self.subscriptions, event)).peekable();
        if wanted.peek().is_none() || told.wide == Wide::Nothing {
            return false;
        }
        let wanted: Vec<&Arc<Told>> = wanted.collect();
        let bytes: usize = wanted.iter().map(|event| event.text.len()).sum();
        let has_room = self.queue.len() + wanted.len() <= QUEUE_MAX && self.bytes + bytes <= QUEUE_BYTES_MAX;
        // Once a state waits to be told, what follows is told as a later state.
        if told.wide == Wide::Events && has_room && !self.snapshots.contains_key(&id) {
            self.bytes += bytes;
            self.queue.extend(wanted.into_iter().cloned());
        } else {
            self.keep_snapshot(&told.after);
        }
        true
    }

    fn keep_snapshot(&mut self, after: &Arc<After>) {
        let id = after.about().id;
        if self.snapshots.get(&id).is_some_and(|kept| kept.sequence >= after.sequence) {
            return;
        }
        if self.snapshots.len() >= SNAPSHOTS_MAX && !self.snapshots.contains_key(&id) {
            // More than can be named: who looks on reads the lists anew.
            self.snapshots.clear();
            self.missed = true;
        }
        self.snapshots.insert(id, after.clone());
    }

    fn keep_latest(&mut self, slot: &Slot, told: &Arc<Told>) {
        match self.latest.get_mut(slot) {
            Some(kept) => {
                self.bytes = self.bytes + told.text.len() - kept.text.len();
                *kept = told.clone();
            }
            None => {
                while self.latest.len() >= LATEST_MAX || self.bytes + told.text.len() > QUEUE_BYTES_MAX {
                    let Some(oldest) = self.slots.pop_front() else { return };
                    self.bytes -= self.latest.remove(&oldest).map_or(0, |told| told.text.len());
                }
                self.bytes += told.text.len();
                self.slots.push_back(slot.clone());
                self.latest.insert(slot.clone(), told.clone());
            }
        }
    }

    fn keep_line(&mut self, told: &Arc<Told>) {
        while self.lines.len() >= LINES_MAX || self.bytes + told.text.len() > QUEUE_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len();
        }
        self.bytes += told.text.len();
        self.lines.push_back(told.clone());
    }

    fn count_bytes(&mut self) {
        let all = self.queue.iter().chain(&self.lines).chain(self.latest.values());
        self.bytes = all.map(|told| told.text.len()).sum();
    }
}
