//! Which connections hear of what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::About;
use super::filter::Topic;
use super::mailbox::Mailbox;

/// A mailbox, and how many subscriptions of it name the topic.
type Audience = HashMap<u64, (Arc<Mailbox>, usize)>;

#[derive(Default)]
pub(super) struct Index(Mutex<State>);

#[derive(Default)]
struct State {
    topics: HashMap<Topic, Audience>,
    /// Topics through which somebody may want an execution that nobody has named.
    wide: usize,
    numbers: u64,
    hub_runs: bool,
    board_runs: bool,
}

/// What has to be started for those who listen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) hub: bool,
    pub(super) board: bool,
}

impl Index {
    fn state(&self) -> MutexGuard<'_, State> {
        // Plain data, and every change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new connection.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state();
        state.numbers += 1;
        state.numbers
    }

    /// Adds to the audience of `topics`. `begin` starts what has to run for that, before anybody else is added: whoever is
    /// added hears.
    pub(super) fn add(
        &self,
        number: u64,
        mailbox: &Arc<Mailbox>,
        topics: &[Topic],
        begin: impl FnOnce(Begun),
    ) {
        let mut state = self.state();
        for topic in topics {
            if topic.is_wide() && !state.topics.contains_key(topic) {
                state.wide += 1;
            }
            let audience = state.topics.entry(topic.clone()).or_default();
            audience.entry(number).or_insert_with(|| (mailbox.clone(), 0)).1 += 1;
        }
        let begun = Begun {
            hub: !state.hub_runs,
            board: !state.board_runs && state.topics.contains_key(&Topic::Board),
        };
        state.hub_runs = true;
        state.board_runs |= begun.board;
        begin(begun);
    }

    /// True when nobody is left.
    pub(super) fn remove(&self, number: u64, topics: &[Topic]) -> bool {
        let mut state = self.state();
        for topic in topics {
            let Some(audience) = state.topics.get_mut(topic) else { continue };
            if let Some((_, count)) = audience.get_mut(&number) {
                *count -= 1;
                if *count == 0 {
                    audience.remove(&number);
                }
            }
            if audience.is_empty() {
                state.topics.remove(topic);
                state.wide -= usize::from(topic.is_wide());
            }
        }
        state.topics.is_empty()
    }

    /// Whether the hub is to end, as nobody is left; whoever comes then starts another one.
    pub(super) fn ends_hub(&self) -> bool {
        let mut state = self.state();
        state.hub_runs = !state.topics.is_empty();
        !state.hub_runs
    }

    /// Whether nobody looks at queues and workers any more.
    pub(super) fn ends_board(&self) -> bool {
        let mut state = self.state();
        state.board_runs = state.topics.contains_key(&Topic::Board);
        !state.board_runs
    }

    /// Whether anybody may want an execution that nobody has named.
    pub(super) fn is_wide(&self) -> bool {
        self.state().wide > 0
    }

    /// Those who have named `topic`.
    pub(super) fn of(&self, topic: &Topic) -> Vec<Arc<Mailbox>> {
        let state = self.state();
        state.topics.get(topic).into_iter().flatten().map(|(_, (mailbox, _))| mailbox.clone()).collect()
    }

    /// Those who may want to hear of an execution, each once.
    pub(super) fn about(&self, about: &About) -> Vec<Arc<Mailbox>> {
        let topics = [
            Some(Topic::Execution(about.id)),
            Some(Topic::Below(about.root)),
            about.parent.filter(|parent| *parent != about.root).map(Topic::Below),
            Some(Topic::Flow(about.flow.clone())),
            Some(Topic::All),
        ];
        let state = self.state();
        let audiences = topics.into_iter().flatten().filter_map(|topic| state.topics.get(&topic));
        each_once(audiences)
    }

    /// All there are.
    pub(super) fn all(&self) -> Vec<Arc<Mailbox>> {
        each_once(self.state().topics.values())
    }
}

fn each_once<'a>(audiences: impl Iterator<Item = &'a Audience>) -> Vec<Arc<Mailbox>> {
    let mut found: Vec<(u64, Arc<Mailbox>)> = audiences
        .flat_map(|audience| audience.iter().map(|(number, (mailbox, _))| (*number, mailbox.clone())))
        .collect();
    found.sort_unstable_by_key(|(number, _)| *number);
    found.dedup_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, mailbox)| mailbox).collect()
}
