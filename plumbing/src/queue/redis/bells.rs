//! Waiting. Workers block on the bells of their pools; engines subscribe to the bells of all results. A ring that is lost
//! does no harm: workers wait no longer than their slow poll, and engines look first.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::select_all;
use redis::{Cmd, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::failure::RedisFailure;
use super::functions::Call;
use super::keys::PoolKeys;
use super::link::{BELL_WAIT, BELL_WAIT_MIN, Client, Link, Purpose, back_off, chain, within};
use super::shared::Shared;

/// Engines look for results at least this often, whatever they hear.
const RESULTS_POLL: Duration = Duration::from_secs(1);
/// A subscription that is silent for this long is asked whether it lives.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(20);
/// The answer to that must come within this.
pub(super) const PING_DEADLINE: Duration = Duration::from_secs(5);
/// Connections for bells that nobody uses, kept at most.
const IDLE_LINKS_MAX: usize = 4;
/// Pools a worker may listen to in a Cluster, each on a connection of its own.
const LISTENERS_MAX: usize = 256;

/// The workers' bells.
pub(super) struct TasksBells {
    client: Arc<Client>,
    state: Mutex<TasksBellsState>,
}

#[derive(Default)]
struct TasksBellsState {
    /// Open connections on which nobody blocks.
    idle: Vec<Link>,
    failures: u32,
    /// In a Cluster: who listens to which pool.
    listeners: HashMap<String, Arc<Listener>>,
}

/// Listens to one pool's bell in a Cluster, where one connection cannot block on keys of several slots.
#[derive(Default)]
struct Listener {
    wanted: Notify,
    /// Keeps one ring for whoever waits next.
    rung: Notify,
}

impl TasksBells {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, TasksBellsState> {
        // Plain data, and every change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to block on.
    async fn link(&self) -> Result<Link, RedisFailure> {
        let idle = self.state().idle.pop();
        match idle {
            Some(link) => Ok(link),
            None => self.client.connect(Purpose::Bells).await,
        }
    }

    /// For the next: nobody blocks on it any more.
    fn keep(&self, link: Link) {
        let mut state = self.state();
        if state.idle.len() < IDLE_LINKS_MAX {
            state.idle.push(link);
        }
    }

    fn failed(&self) -> Duration {
        let mut state = self.state();
        let pause = back_off(state.failures);
        state.failures = state.failures.saturating_add(1);
        pause
    }
}

fn blocking_pop<'a>(pools: impl Iterator<Item = &'a PoolKeys>, longest: Duration) -> Cmd {
    let mut command = redis::cmd("BLPOP");
    for pool in pools {
        command.arg(pool.bell());
    }
    // No time at all would be for ever.
    command.arg(longest.clamp(BELL_WAIT_MIN, BELL_WAIT).as_secs_f64());
    command
}

/// Which pool has rung.
fn rung(pools: &[PoolKeys], answer: &Value) -> Option<String> {
    let Value::Array(answer) = answer else { return None };
    let Some(Value::BulkString(key)) = answer.first() else { return None };
    pools.iter().find(|pool| pool.bell().as_bytes() == key).map(|pool| pool.pool().to_owned())
}

impl Shared {
    /// Waits until one of `pools` may have a task, for `longest` and [`BELL_WAIT`] at most, and tells which has rung; after an
    /// error for a growing pause.
    pub(super) async fn wait_for_tasks(
        self: &Arc<Self>,
        pools: &[PoolKeys],
        longest: Duration,
    ) -> Option<String> {
        if pools.is_empty() {
            sleep(longest.min(BELL_WAIT)).await;
            return None;
        }
        let heard = self.hear_tasks(pools, longest).await;
        let heard = heard.inspect_err(|error| {
            tracing::debug!(error = chain(error), "waiting for tasks failed");
        });
        self.pause_unless(heard.is_ok()).await;
        heard.ok().flatten()
    }

    async fn hear_tasks(
        self: &Arc<Self>,
        pools: &[PoolKeys],
        longest: Duration,
    ) -> Result<Option<String>, RedisFailure> {
        if self.client.is_cluster() {
            return Ok(self.hear_in_cluster(pools, longest).await);
        }
        let mut link = self.tasks_bells.link().await?;
        // Should the caller drop this, the connection is dropped with it, and Redis forgets that somebody blocks there.
        let pop = blocking_pop(pools.iter(), longest);
        let answer = within("waiting for tasks", BELL_WAIT * 2, link.query(&pop)).await?;
        self.tasks_bells.keep(link);
        Ok(rung(pools, &answer))
    }

    /// Blocks on the bell of a pool, and makes `call` as soon as it has rung or `longest` is over, without a word in between:
    /// Redis has both and begins the second when the first is done. Whether the first was carried out is told beside the answer to
    /// the second. Not for a Cluster.
    pub(super) async fn call_when_rung(
        &self,
        pool: &PoolKeys,
        call: &Call,
        longest: Duration,
    ) -> Result<(Value, bool), RedisFailure> {
        let mut link = self.tasks_bells.link().await?;
        let both = [&blocking_pop([pool].into_iter(), longest), call.command()];
        let deadline = longest.min(BELL_WAIT) + BELL_WAIT;
        let mut answers = within("waiting for tasks", deadline, link.query_all(&both)).await?;
        let called = answers.pop().unwrap_or(Value::Nil).extract_error();
        let waited = answers.pop().unwrap_or(Value::Nil).extract_error();
        let has_waited = waited.is_ok();
        if let Err(error) = waited {
            tracing::debug!(error = chain(&error), "waiting for tasks failed");
        } else if called.is_ok() {
            // A server that refuses, as one that has become a replica, is not asked again on this connection.
            self.tasks_bells.keep(link);
        }
        match called {
            Ok(answer) => Ok((answer, has_waited)),
            Err(source) => Err(RedisFailure::Command { doing: "claim".to_owned(), source }),
        }
    }

    /// Notes whether waiting works: pauses for a growing time when it does not.
    pub(super) async fn pause_unless(&self, has_waited: bool) {
        if has_waited {
            self.tasks_bells.state().failures = 0;
            return;
        }
        let pause = self.tasks_bells.failed();
        sleep(pause).await;
    }

    /// Lets one who blocks on the bell of a pool go on.
    pub(super) async fn ring(&self, pool: &PoolKeys) -> Result<(), RedisFailure> {
        let mut command = redis::cmd("LPUSH");
        command.arg(pool.bell()).arg(1);
        self.calls.query("ringing", &command).await.map(drop)
    }

    async fn hear_in_cluster(self: &Arc<Self>, pools: &[PoolKeys], longest: Duration) -> Option<String> {
        let longest = longest.min(BELL_WAIT);
        let listeners: Vec<_> = pools.iter().filter_map(|pool| Some((pool, self.listener(pool)?))).collect();
        let rings = listeners.iter().map(|(_, listener)| {
            listener.wanted.notify_one();
            Box::pin(listener.rung.notified())
        });
        let rings: Vec<_> = rings.collect();
        if rings.is_empty() {
            sleep(longest).await;
            return None;
        }
        let ((), first, _) = timeout(longest, select_all(rings)).await.ok()?;
        listeners.get(first).map(|(pool, _)| pool.pool().to_owned())
    }

    fn listener(self: &Arc<Self>, pool: &PoolKeys) -> Option<Arc<Listener>> {
        let mut state = self.tasks_bells.state();
        if let Some(listener) = state.listeners.get(pool.pool()) {
            return Some(Arc::clone(listener));
        }
        if state.listeners.len() >= LISTENERS_MAX {
            return None;
        }
        let listener = Arc::new(Listener::default());
        state.listeners.insert(pool.pool().to_owned(), Arc::clone(&listener));
        let (client, stop) = (Arc::clone(&self.client), self.stop.clone());
        let (task_listener, pool) = (Arc::clone(&listener), pool.clone());
        self.tracker.spawn(async move {
            stop.run_until_cancelled(listen_to_pool(&client, &task_listener, &pool)).await;
        });
        Some(listener)
    }

    /// Where results may be that this engine may take.
    pub(super) fn where_to_look(&self) -> Look {
        let mut news = self.results_bell.news();
        let mut before = mem::take(&mut news.pools);
        if news.may_have_missed() {
            news.looked_at_all = Some(Instant::now());
            return Look::AtAll;
        }
        let mut at: Vec<String> = before.split_off(&news.next).into_iter().collect();
        at.extend(before);
        if let Some(first) = at.first() {
            // Sorts behind it, and before every other.
            news.next = format!("{first}\0");
        }
        Look::At(at)
    }

    /// Notes that a pool may have more results.
    pub(super) fn look_again_at(&self, pool: &str) {
        self.results_bell.news().pools.insert(pool.to_owned());
    }

    /// Whether a ring tells of results that this engine may take.
    fn is_for_us(&self, ring: &[u8]) -> bool {
        match ring.strip_prefix(b"for ") {
            Some(engine) => self.options.engine.as_ref().is_some_and(|own| own.as_bytes() == engine),
            // No results: a worker has announced itself.
            None => ring != b"0",
        }
    }

    /// Waits until there may be results, for [`RESULTS_POLL`] at most.
    pub(super) async fn wait_for_results(self: &Arc<Self>) {
        self.results_bell.listen(self);
        let mut rung = pin!(self.results_bell.rung.notified());
        // Listen first, look second: a ring between the two is heard.
        rung.as_mut().enable();
        let until = Instant::now() + RESULTS_POLL;
        let heard = self.results_bell.news().heard();
        let any = match heard {
            Some(any) => Ok(any),
            None => self.any_results().await,
        };
        match any {
            Ok(true) => {}
            Ok(false) => {
                tokio::select! {
                    () = rung => {}
                    () = sleep_until(until) => {}
                }
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "looking for results failed");
                sleep_until(until).await;
            }
        }
    }
}

async fn listen_to_pool(client: &Client, listener: &Listener, pool: &PoolKeys) {
    let mut link = None;
    let mut failures = 0;
    let pop = blocking_pop([pool].into_iter(), BELL_WAIT);
    loop {
        // Only while somebody waits: a ring that is taken here is not heard by other workers.
        listener.wanted.notified().await;
        let mut open = match link.take() {
            Some(open) => open,
            None => match client.connect(Purpose::Bells).await {
                Ok(open) => open,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "connecting to a bell failed");
                    sleep(back_off(failures)).await;
                    failures = failures.saturating_add(1);
                    continue;
                }
            },
        };
        match within("waiting for tasks", BELL_WAIT * 2, open.query(&pop)).await {
            Ok(answer) => {
                failures = 0;
                if answer != Value::Nil {
                    listener.rung.notify_one();
                }
                link = Some(open);
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "waiting for tasks failed");
                sleep(back_off(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// The engines' bell.
#[derive(Default)]
pub(super) struct ResultsBell {
    listening: AtomicBool,
    rung: Notify,
    news: Mutex<News>,
}

/// Where to look for results.
pub(super) enum Look {
    AtAll,
    /// At these pools, with this one first.
    At(Vec<String>),
}

/// What the bell has told since the last look.
#[derive(Default)]
struct News {
    pools: BTreeSet<String>,
    /// Where the next look begins.
    next: String,
    /// Whether rings are heard.
    hears: bool,
    /// When all pools were looked at for the last time since rings are heard.
    looked_at_all: Option<Instant>,
}

impl News {
    /// Rings may have been missed: everything is to be looked at. Now and then also while they are heard.
    fn may_have_missed(&self) -> bool {
        !self.hears || self.looked_at_all.is_none_or(|at| at.elapsed() >= RESULTS_POLL)
    }

    /// Whether there is news; none: that cannot be known without a look.
    fn heard(&self) -> Option<bool> {
        (!self.may_have_missed()).then_some(!self.pools.is_empty())
    }
}

impl ResultsBell {
    fn news(&self) -> MutexGuard<'_, News> {
        // Plain data, and every change of it is whole.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hears(&self, hears: bool) {
        let mut news = self.news();
        (news.hears, news.looked_at_all) = (hears, None);
    }

    /// Begins to listen, once. The listener ends with the queue.
    fn listen(&self, shared: &Arc<Shared>) {
        if self.listening.swap(true, Ordering::SeqCst) {
            return;
        }
        let stop = shared.stop.clone();
        // Weak, so that the listener does not keep the queue alive.
        let weak = Arc::downgrade(shared);
        let client = Arc::clone(&shared.client);
        let pattern = shared.keys.results_bells();
        shared.tracker.spawn(async move {
            let hear = |message: Option<redis::Msg>| {
                let Some(shared) = weak.upgrade() else { return };
                let Some(message) = message else {
                    // Rings before this moment were not heard.
                    shared.results_bell.hears(true);
                    return shared.results_bell.rung.notify_waiters();
                };
                let Some(pool) = shared.keys.pool_of_bell(message.get_channel_name()) else { return };
                shared.pools.note([pool]);
                if shared.is_for_us(message.get_payload_bytes()) {
                    shared.look_again_at(pool);
                    shared.results_bell.rung.notify_waiters();
                }
            };
            let listening = async {
                let mut attempt = 0_u32;
                loop {
                    if let Err(error) = subscription(&client, &pattern, &mut attempt, &hear).await {
                        tracing::debug!(error = chain(&error), "the subscription to results broke");
                    }
                    if let Some(shared) = weak.upgrade() {
                        shared.results_bell.hears(false);
                    }
                    sleep(back_off(attempt)).await;
                    attempt = attempt.saturating_add(1);
                }
            };
            stop.run_until_cancelled(listening).await;
        });
    }
}

/// Hears the results' bells until the connection breaks.
async fn subscription(
    client: &Client,
    pattern: &str,
    attempt: &mut u32,
    hear: &impl Fn(Option<redis::Msg>),
) -> Result<(), RedisFailure> {
    let node = usize::try_from(*attempt).unwrap_or(0);
    let mut subscriber = client.subscriber(node).await?;
    within("subscribing", PING_DEADLINE, subscriber.psubscribe(pattern)).await?;
    *attempt = 0;
    hear(None);
    let (mut sink, mut messages) = subscriber.split();
    loop {
        match timeout(SILENCE_MAX, messages.next()).await {
            Ok(Some(message)) => hear(Some(message)),
            Ok(None) => return Ok(()),
            // A connection whose other end vanished is silent too.
            Err(_) => drop(within("pinging", PING_DEADLINE, sink.ping::<Value>()).await?),
        }
    }
}
