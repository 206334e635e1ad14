//! What children have left to undo: it stays in their records, and is read by page when their parent undoes.

use std::sync::{Mutex, PoisonError};

use flowmonkey_core::execution::state::{ChildStacks, StackPage};

use crate::config::{STACK_PAGE_READS_MAX, STACKS_READ_MAX, STACKS_READ_MIN};
use crate::engine::Engine;
use crate::store::StoreError;

/// The page of children's stacks that decisions on one execution may see, and the first that they asked for in vain.
#[derive(Default)]
pub(crate) struct Stacks {
    known: Option<(ChildStacks, StackPage)>,
    missed: Mutex<Option<ChildStacks>>,
}

impl Stacks {
    /// The page, if it is known; asked for in vain, it is noted, and the decision has to be made again.
    pub(crate) fn get(&self, stacks: &ChildStacks) -> Option<StackPage> {
        if let Some((_, page)) = self.known.as_ref().filter(|(known, _)| known == stacks) {
            return Some(page.clone());
        }
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(*stacks);
        None
    }

    /// What was asked for in vain since this was asked last.
    pub(crate) fn missed(&mut self) -> Option<ChildStacks> {
        self.missed.get_mut().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn know(&mut self, stacks: ChildStacks, page: StackPage) {
        self.known = Some((stacks, page));
    }
}

impl Engine {
    /// Reads the top of what children have left to undo, from the last child on. Where many in a row have left nothing,
    /// the page may be empty; it has come further down all the same.
    ///
    /// # Errors
    /// When the record cannot be read, or a child or a part of its stack is missing in it.
    pub(crate) async fn stack_page(&self, stacks: ChildStacks) -> Result<StackPage, StoreError> {
        let mut page = StackPage::new(stacks, self.config.stack_page);
        let mut max = STACKS_READ_MIN;
        for _ in 0..STACK_PAGE_READS_MAX {
            let Some(last) = page.wants() else { break };
            let from = (last.index + 1).saturating_sub(max);
            let many = last.index + 1 - from;
            let children = self.store.children(last.parent, last.join, from, many as usize).await?;
            let corrupt = |index: u32, reason: &str| StoreError::Corrupt {
                what: format!("fm_executions child {index} of fan-out {} of {}", last.join, last.parent),
                reason: reason.into(),
            };
            if children.len() != many as usize
                || children.last().is_none_or(|child| child.index != last.index)
            {
                return Err(corrupt(last.index, "what it could undo is gone"));
            }
            for child in children.iter().rev() {
                // A page that is full wants no child; a fan-out that is at its end is followed by another.
                if page.wants().is_none_or(|wanted| (wanted.join, wanted.index) != (last.join, child.index)) {
                    break;
                }
                if !page.take(&child.compensations) {
                    return Err(corrupt(child.index, "its compensation stack has become shorter"));
                }
            }
            if page.is_empty() {
                max = (max * 2).min(STACKS_READ_MAX);
            }
        }
        Ok(page)
    }
}
