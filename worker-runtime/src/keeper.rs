//! Checkpoints of one attempt: when one is due, those that the runtime saves by itself, and whether one could not be loaded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flowmonkey_plumbing::api::{CheckpointData, Plumbing, PlumbingError, SavedCheckpoint, TaskAccess};
use flowmonkey_plumbing::wire::LogLevel;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::job::JobNotes;
use crate::journal::Journal;

/// How long the last kept checkpoint may take when its attempt has ended: its result waits for it.
const FLUSH_TIME: Duration = Duration::from_secs(10);

/// Keeps the checkpoints of one attempt.
pub(crate) struct Keeper {
    access: TaskAccess,
    plumbing: Arc<dyn Plumbing>,
    journal: Arc<Journal>,
    /// For stateful handlers: what their heartbeats tell.
    job: Option<Arc<JobNotes>>,
    /// Between two checkpoints that nobody asked for.
    interval: Duration,
    state: Mutex<State>,
    /// One at a time, so that an older one does not replace a newer one.
    saving: tokio::sync::Mutex<()>,
    /// Rung when there is something to save.
    bell: Notify,
    /// No attempt needs what is kept any more.
    over: CancellationToken,
}

struct State {
    /// When the last one was saved, or the attempt began.
    last: Instant,
    /// The latest one that is to be saved.
    kept: Option<CheckpointData>,
    /// What saves it; none before the first one.
    saver: Option<JoinHandle<()>>,
    /// The last checkpoint could not be loaded.
    unloaded: bool,
}

impl Keeper {
    pub(crate) fn new(
        access: TaskAccess,
        plumbing: Arc<dyn Plumbing>,
        journal: Arc<Journal>,
        interval: Duration,
    ) -> Self {
        let state = State { last: Instant::now(), kept: None, saver: None, unloaded: false };
        let (state, bell, over) = (Mutex::new(state), Notify::new(), CancellationToken::new());
        let saving = tokio::sync::Mutex::default();
        Self { access, plumbing, journal, job: None, interval, state, saving, bell, over }
    }

    /// Lets the heartbeats of the job tell of what was saved.
    pub(crate) fn of_job(self, job: Option<Arc<JobNotes>>) -> Self {
        Self { job, ..self }
    }

    /// Saves now. What was kept before is older, and needs no saving any more.
    pub(crate) async fn save(&self, data: CheckpointData) -> Result<SavedCheckpoint, PlumbingError> {
        let _turn = self.saving.lock().await;
        self.state().kept = None;
        let saved = self.plumbing.save_checkpoint(&self.access, data).await?;
        self.saved(&saved);
        Ok(saved)
    }

    /// Saves some time: at the next end of an interval, or at the end of the attempt.
    pub(crate) fn keep(self: &Arc<Self>, data: CheckpointData) {
        let mut state = self.state();
        state.kept = Some(data);
        if state.saver.is_none() {
            // Handlers run on the runtime; a thread of another kind leaves the saving to the end.
            state.saver = Handle::try_current().ok().map(|runtime| runtime.spawn(Arc::clone(self).run()));
        }
        drop(state);
        self.bell.notify_one();
    }

    pub(crate) fn is_due(&self) -> bool {
        self.state().last.elapsed() >= self.interval
    }

    /// The last checkpoint could not be loaded, or could after all.
    pub(crate) fn set_unloaded(&self, unloaded: bool) {
        self.state().unloaded = unloaded;
    }

    pub(crate) fn is_unloaded(&self) -> bool {
        self.state().unloaded
    }

    /// Ends the saving, with what is still kept if that is `wanted`.
    pub(crate) async fn end(&self, wanted: bool) {
        self.over.cancel();
        let (saver, kept) = {
            let mut state = self.state();
            if !wanted {
                state.kept = None;
            }
            (state.saver.take(), state.kept.is_some())
        };
        if saver.is_none() && !kept {
            return;
        }
        let flush = async {
            if let Some(saver) = saver
                && let Err(error) = saver.await
                && error.is_panic()
            {
                tracing::error!(delivery = %self.access.delivery, "what saves checkpoints has panicked");
            }
            self.save_kept().await;
        };
        if tokio::time::timeout(FLUSH_TIME, flush).await.is_err() {
            self.not_saved("it took too long");
        }
    }

    async fn run(self: Arc<Self>) {
        while !self.over.is_cancelled() {
            let due = async {
                self.bell.notified().await;
                let rest = self.interval.saturating_sub(self.state().last.elapsed());
                tokio::time::sleep(rest).await;
            };
            tokio::select! {
                () = due => {}
                () = self.over.cancelled() => return,
            }
            if !self.save_kept().await {
                return;
            }
        }
    }

    /// Saves what is kept. False: the attempt is stale, nothing of it is saved any more.
    async fn save_kept(&self) -> bool {
        let _turn = self.saving.lock().await;
        let Some(data) = self.state().kept.take() else { return true };
        match self.plumbing.save_checkpoint(&self.access, data.clone()).await {
            Ok(saved) => self.saved(&saved),
            Err(PlumbingError::Stale { .. }) => return false,
            Err(error @ PlumbingError::Unavailable(_)) => {
                self.not_saved(&error.to_string());
                let mut state = self.state();
                // The next interval counts from here; a later value is better.
                state.last = Instant::now();
                state.kept.get_or_insert(data);
                drop(state);
                self.bell.notify_one();
            }
            Err(error @ (PlumbingError::TooLarge { .. } | PlumbingError::Refused { .. })) => {
                self.not_saved(&error.to_string());
                self.state().last = Instant::now();
            }
        }
        true
    }

    /// Says in the task's log that a checkpoint was not saved.
    pub(crate) fn not_saved(&self, reason: &str) {
        let message = format!("the checkpoint was not saved, the last good one stays: {reason}");
        if let Some(line) = self.journal.log(LogLevel::Warn, message) {
            self.plumbing.log(&self.access, &line);
        }
    }

    fn saved(&self, saved: &SavedCheckpoint) {
        if let Some(job) = &self.job {
            job.saved(saved);
        }
        let mut state = self.state();
        state.last = Instant::now();
        state.unloaded = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
