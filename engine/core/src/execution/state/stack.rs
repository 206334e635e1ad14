//! What can be undone: an execution's own visits, and what its children have left. The latter stays with the children;
//! the parent has a reference, and reads through it page by page once it really undoes. So a parent stays small, however
//! many children it had.

use serde::{Deserialize, Serialize};

use super::Compensation;
use crate::context::json_size;
use crate::ids::ExecutionId;

/// Default most entries of one page of children's stacks: few, for all of them are written with each commit until they are
/// undone.
pub const STACK_PAGE_ENTRIES: usize = 15;
/// Default most bytes of the contexts in one page of children's stacks: 32 KiB. One entry is taken whatever it weighs.
pub const STACK_PAGE_BYTES: usize = 32 * 1024;

/// An entry of the compensation stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Undoable {
    /// A successful visit.
    Visit(Box<Compensation>),
    /// What children have left, in their records.
    Children(ChildStacks),
}

impl Undoable {
    /// The visit; none for a reference.
    #[must_use]
    pub fn visit(&self) -> Option<&Compensation> {
        match self {
            Self::Visit(visit) => Some(visit),
            Self::Children(_) => None,
        }
    }
}

/// The stacks of completed children, as far as they have not been taken over: the whole stacks of the children in front
/// of the place `children`, and the first `entries` entries of the child at that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildStacks {
    /// The parent: this execution, or a child of it.
    pub parent: ExecutionId,
    /// The first fan-out. Several are joined together only where each has one child, as the iterations of a loop.
    pub first: u32,
    /// The last fan-out, from which on children are undone.
    pub join: u32,
    /// Children whose whole stacks are left.
    pub children: u32,
    /// Entries that are left of the next child's stack.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub entries: u32,
}

/// Where the stack of a child is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackPlace {
    /// The child's parent.
    pub parent: ExecutionId,
    /// The fan-out.
    pub join: u32,
    /// The child's place in it.
    pub index: u32,
}

impl ChildStacks {
    /// All that the children of a fan-out in front of the place `children` have left.
    #[must_use]
    pub const fn of(parent: ExecutionId, join: u32, children: u32) -> Self {
        Self { parent, first: join, join, children, entries: 0 }
    }

    /// Both as one, where `later` follows and each fan-out has one child: a loop leaves one reference, not thousands.
    #[must_use]
    pub fn joined_with(&self, later: &Self) -> Option<Self> {
        let whole = |stacks: &Self| stacks.children == 1 && stacks.entries == 0;
        let follows = self.parent == later.parent && self.join.checked_add(1) == Some(later.first);
        (follows && whole(self) && whole(later)).then_some(Self { first: self.first, ..*later })
    }

    /// The child whose stack is the next to be undone; none: nothing is left.
    #[must_use]
    pub const fn next(&self) -> Option<StackPlace> {
        let index = match (self.entries, self.children.checked_sub(1)) {
            (0, None) => return None,
            (0, Some(last)) => last,
            (_, _) => self.children,
        };
        Some(StackPlace { parent: self.parent, join: self.join, index })
    }

    /// What is left when of the next child the first `entries` entries are left.
    const fn after(self, place: StackPlace, entries: u32) -> Option<Self> {
        let left = Self { children: place.index, entries, ..self };
        match (left.next(), left.join > left.first) {
            (Some(_), _) => Some(left),
            (None, true) => Some(Self { join: left.join - 1, children: 1, entries: 0, ..left }),
            (None, false) => None,
        }
    }
}

/// How much of children's stacks is taken over at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackPageLimits {
    /// Most entries. Default [`STACK_PAGE_ENTRIES`]; at least 1.
    pub entries: usize,
    /// Most bytes of their contexts as JSON. Default [`STACK_PAGE_BYTES`]; one entry is taken whatever it weighs.
    pub bytes: usize,
}

impl Default for StackPageLimits {
    fn default() -> Self {
        Self { entries: STACK_PAGE_ENTRIES, bytes: STACK_PAGE_BYTES }
    }
}

/// The top of children's stacks, as it is read: children from the last to the first.
#[derive(Clone, Debug, PartialEq)]
pub struct StackPage {
    /// The last first.
    taken: Vec<Undoable>,
    left: Option<ChildStacks>,
    limits: StackPageLimits,
    bytes: usize,
    full: bool,
}

impl StackPage {
    /// Nothing has been read yet of `stacks`.
    #[must_use]
    pub const fn new(stacks: ChildStacks, limits: StackPageLimits) -> Self {
        let left = if stacks.next().is_some() { Some(stacks) } else { None };
        Self { taken: Vec::new(), left, limits, bytes: 0, full: false }
    }

    /// The child whose stack is to be read next; none: the page is full, or nothing is left.
    #[must_use]
    pub fn wants(&self) -> Option<StackPlace> {
        if self.full { None } else { self.left.and_then(|left| left.next()) }
    }

    /// Whether nothing has been found yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Takes of the stack of the child that [`Self::wants`] names as much as there is room for. False when the stack is
    /// shorter than it was: only a damaged record can hold such a one, and nothing is taken.
    #[must_use]
    pub fn take(&mut self, stack: &[Undoable]) -> bool {
        let (Some(left), Some(place)) = (self.left, self.wants()) else { return true };
        let entries = match left.entries {
            0 => stack,
            entries => match stack.get(..entries as usize) {
                Some(entries) => entries,
                None => return false,
            },
        };
        let mut rest = entries;
        while let Some((entry, below)) = rest.split_last() {
            let bytes = entry.visit().map_or(0, |visit| visit.context.values().map(json_size).sum());
            let has_room = self.taken.len() < self.limits.entries
                && self.bytes.saturating_add(bytes) <= self.limits.bytes;
            if !has_room && !self.taken.is_empty() {
                self.full = true;
                break;
            }
            self.bytes = self.bytes.saturating_add(bytes);
            self.taken.push(entry.clone());
            rest = below;
            // What a child's own children left has to be read before what lies under it is needed.
            if matches!(entry, Undoable::Children(_)) {
                self.full = true;
                break;
            }
        }
        self.left = left.after(place, u32::try_from(rest.len()).unwrap_or(u32::MAX));
        true
    }

    /// What was taken, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Undoable> {
        self.taken.iter().rev()
    }

    /// What is left of the reference; none: it has been read to its end.
    #[must_use]
    pub const fn left(&self) -> Option<ChildStacks> {
        self.left
    }
}

#[cfg(test)]
mod tests;
