//! Fan-outs, recounted from the children.

use std::collections::BTreeMap;

use flowmonkey_core::execution::JoinSpec;
use flowmonkey_core::execution::state::ParentLink;
use flowmonkey_core::ids::ExecutionId;
use flowmonkey_engine::store::JoinState;

use super::Books;

/// A fan-out by its children.
#[derive(Clone, Debug, Default)]
pub struct JoinBook {
    total: u32,
    max_live: u32,
    /// Places with the children at them.
    pub children: BTreeMap<u32, ExecutionId>,
    ended: BTreeMap<u32, bool>,
    closing: bool,
    over: bool,
}

impl JoinBook {
    fn count(&self, succeeded: bool) -> u32 {
        u32::try_from(self.ended.values().filter(|ended| **ended == succeeded).count()).unwrap_or(u32::MAX)
    }
}

impl Books {
    pub(super) fn join_opened(&mut self, spec: &JoinSpec) {
        let book = JoinBook { total: spec.total, max_live: spec.max_live, ..JoinBook::default() };
        if self.joins.insert((spec.parent, spec.join), book).is_some() {
            self.violate("joins", format!("fan-out {} of {} was opened twice", spec.join, spec.parent));
        }
    }

    pub(super) fn join_closed(&mut self, parent: ExecutionId, join: u32) {
        if let Some(book) = self.joins.get_mut(&(parent, join)) {
            book.closing = true;
            self.sometimes.hit("fan-out closed early");
        }
    }

    /// A child of a fan-out exists: at a place of its own, while the fan-out takes children.
    pub(super) fn child_made(&mut self, link: ParentLink, child: ExecutionId) {
        let name = format!("child {} of fan-out {} of {}", link.index, link.join, link.execution);
        let Some(book) = self.joins.get_mut(&(link.execution, link.join)) else {
            return self.violate("children", format!("{name} was made for no fan-out"));
        };
        if let Some(other) = book.children.insert(link.index, child) {
            return self.violate("children", format!("{name} exists twice: {other} and {child}"));
        }
        let live = book.children.len().saturating_sub(book.ended.len());
        if book.closing || book.over || link.index >= book.total || live > book.max_live as usize {
            let what = format!("{name} was made though there was no place for it: {book:?}");
            self.violate("children", what);
        }
    }

    pub(super) fn child_ended(&mut self, link: ParentLink, child: ExecutionId, succeeded: bool) {
        let terminal = self.executions.get(&child).is_some_and(|book| book.state.is_terminal());
        let Some(book) = self.joins.get_mut(&(link.execution, link.join)) else { return };
        let repeated = book.ended.insert(link.index, succeeded).is_some();
        if repeated || !terminal || book.children.get(&link.index) != Some(&child) {
            let what = format!("{child} was counted twice or before its end: {book:?}");
            self.violate("joins", what);
        }
    }

    /// The counters that the record answers are those of the children.
    pub(super) fn joins_answered(&mut self, states: &[JoinState]) {
        for state in states {
            let Some(book) = self.joins.get(&(state.parent, state.join)) else { continue };
            let made = u32::try_from(book.children.len()).unwrap_or(u32::MAX);
            let counted = (made, book.count(true), book.count(false));
            let answered = (state.spawned, state.succeeded, state.failed);
            if counted != answered {
                let what = format!(
                    "fan-out {} of {} has (made, succeeded, failed) {answered:?}; recounted: {counted:?}",
                    state.join, state.parent
                );
                self.violate("joins", what);
            }
        }
    }

    /// The parent takes the result: all children that were made have ended, and no other numbers are told.
    pub(super) fn join_taken(&mut self, parent: ExecutionId, join: u32, succeeded: u32, failed: u32) {
        let Some(book) = self.joins.get_mut(&(parent, join)) else { return };
        let counted = (book.count(true), book.count(false));
        let complete = book.ended.len() == book.children.len()
            && (book.closing || book.children.len() == book.total as usize);
        let again = std::mem::replace(&mut book.over, true);
        if again || !complete || counted != (succeeded, failed) {
            let what = format!("{parent} took ({succeeded}, {failed}) of fan-out {join}: {book:?}");
            self.violate("joins", what);
        }
    }

    /// What the completed children of a fan-out could undo, in the order of the children.
    pub(super) fn left_to_undo(&self, parent: ExecutionId, join: u32) -> Vec<super::execution::Undo> {
        let Some(book) = self.joins.get(&(parent, join)) else { return Vec::new() };
        let completed = book.children.iter().filter(|(index, _)| book.ended.get(*index) == Some(&true));
        completed
            .filter_map(|(_, child)| self.executions.get(child))
            .flat_map(|child| child.to_undo.iter().cloned())
            .collect()
    }
}
