//! What a subscription asks for.

use std::sync::Arc;

use flowmonkey_core::ids::ExecutionId;

use super::told::{BOARD_KINDS, EXECUTION_KINDS};
use super::{About, TYPES_MAX};

/// What updates are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// One execution.
    Execution(ExecutionId),
    /// Those below one execution.
    Below(ExecutionId),
    /// All of a flow.
    Flow(Arc<str>),
    /// All.
    All,
    /// Queues and workers.
    Board,
}

impl Topic {
    /// Whether it takes in executions that it does not name.
    pub(super) const fn is_wide(&self) -> bool {
        match self {
            Self::Below(_) | Self::Flow(_) | Self::All => true,
            Self::Execution(_) | Self::Board => false,
        }
    }
}

/// What a subscription asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// One execution; all of its events are told, in order.
    pub(super) execution: Option<ExecutionId>,
    /// Of this flow only.
    pub(super) flow: Option<Arc<str>>,
    /// Children, too.
    pub(super) children: bool,
    pub(super) types: Types,
}

impl Filter {
    pub(super) fn topics(&self) -> Vec<Topic> {
        let mut topics = Vec::new();
        if self.types.includes_any(EXECUTION_KINDS) {
            match (self.execution, &self.flow) {
                (Some(id), _) => {
                    topics.push(Topic::Execution(id));
                    if self.children {
                        topics.push(Topic::Below(id));
                    }
                }
                (None, Some(flow)) => topics.push(Topic::Flow(flow.clone())),
                (None, None) => topics.push(Topic::All),
            }
        }
        if self.types.includes_any(BOARD_KINDS) {
            topics.push(Topic::Board);
        }
        topics
    }

    /// Whether it asks for this execution at all.
    pub(super) fn is_about(&self, about: &About) -> bool {
        match self.execution {
            Some(id) => id == about.id || (self.children && (id == about.root || Some(id) == about.parent)),
            None => {
                self.flow.as_ref().is_none_or(|flow| *flow == about.flow)
                    && (self.children || about.parent.is_none())
            }
        }
    }

    /// Whether it asks for this execution and no single one.
    pub(super) fn is_wide_about(&self, about: &About) -> bool {
        self.execution != Some(about.id) && self.is_about(about)
    }
}

/// Types of events, as names and as patterns (`step.*`).
#[derive(Clone, Debug, Default)]
pub(super) struct Types(Option<Vec<String>>);

impl Types {
    /// Reads them; none: everything about executions.
    ///
    /// # Errors
    /// Says which one names nothing.
    pub(super) fn parse(words: Option<Vec<String>>) -> Result<Self, String> {
        let Some(words) = words else { return Ok(Self(None)) };
        if words.is_empty() || words.len() > TYPES_MAX {
            return Err(format!("there must be 1 to {TYPES_MAX} `types`, or none at all"));
        }
        let names_something =
            |word: &&String| EXECUTION_KINDS.iter().chain(BOARD_KINDS).any(|kind| matches(word, kind));
        match words.iter().find(|word| !names_something(word)) {
            Some(word) => Err(format!("`{word}` is no type of events, and no pattern of one")),
            None => Ok(Self(Some(words))),
        }
    }

    /// Whether events of this type are asked for.
    pub(super) fn includes(&self, kind: &str) -> bool {
        match &self.0 {
            Some(words) => words.iter().any(|word| matches(word, kind)),
            None => EXECUTION_KINDS.contains(&kind),
        }
    }

    fn includes_any(&self, kinds: &[&str]) -> bool {
        kinds.iter().any(|kind| self.includes(kind))
    }
}

fn matches(word: &str, kind: &str) -> bool {
    match word.strip_suffix('*') {
        Some(start) => start.ends_with('.') && kind.starts_with(start),
        None => word == kind,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> ExecutionId {
        ExecutionId::from_uuid(Uuid::from_u128(number))
    }

    fn about(number: u128, parent: Option<u128>, root: u128, flow: &str) -> About {
        About { id: id(number), root: id(root), parent: parent.map(id), flow: flow.into(), tenant: None }
    }

    #[test]
    fn filters_choose_executions() {
        let (root, child, grandchild) =
            (about(1, None, 1, "a"), about(2, Some(1), 1, "b"), about(3, Some(2), 1, "b"));
        let asks = |filter: &Filter| [&root, &child, &grandchild].map(|about| filter.is_about(about));
        let one = |number, children| Filter { execution: Some(id(number)), children, ..Filter::default() };
        assert_eq!(asks(&one(1, false)), [true, false, false]);
        assert_eq!(asks(&one(1, true)), [true, true, true]);
        assert_eq!(asks(&one(2, true)), [false, true, true]);
        let all = |children| Filter { children, ..Filter::default() };
        assert_eq!(asks(&all(false)), [true, false, false]);
        assert_eq!(asks(&all(true)), [true, true, true]);
        let flow = |flow: &str| Filter { flow: Some(flow.into()), children: true, ..Filter::default() };
        assert_eq!(asks(&flow("a")), [true, false, false]);
        assert_eq!(asks(&flow("b")), [false, true, true]);
        assert!(!one(1, true).is_wide_about(&root) && one(1, true).is_wide_about(&child));
    }

    #[test]
    fn types_are_names_or_patterns() {
        let types = |words: &[&str]| Types::parse(Some(words.iter().map(|&word| word.to_owned()).collect()));
        let some = types(&["step.*", "execution.completed"]).unwrap();
        assert!(some.includes("step.entered") && some.includes("execution.completed"));
        assert!(!some.includes("execution.failed") && !some.includes("queue.depth"));
        let default = Types::parse(None).unwrap();
        assert!(default.includes("task.log") && !default.includes("worker.joined"));
        for bad in ["", "*", "step", "step*", "steps.*", "step.none"] {
            assert!(types(&[bad]).is_err(), "{bad}");
        }
        assert!(types(&[]).is_err());
        let topics = |words: &[&str]| Filter { types: types(words).unwrap(), ..Filter::default() }.topics();
        assert_eq!(topics(&["worker.*"]), [Topic::Board]);
        assert_eq!(topics(&["worker.*", "task.log"]), [Topic::All, Topic::Board]);
    }
}
