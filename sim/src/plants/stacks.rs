//! Faults in what a parent takes over of its children's stacks: in the history and in the state alike, so that only what
//! is undone in the end can tell.

use std::sync::Arc;

use flowmonkey_core::execution::Event;
use flowmonkey_core::execution::state::Undoable;
use flowmonkey_engine::store::Update;

/// Of every page that is read, the oldest entry is lost.
pub(super) fn tear_pages(update: &mut Update) {
    for recorded in Arc::make_mut(&mut update.events) {
        let Event::ChildStacksRead { entries, .. } = &mut recorded.event else { continue };
        let Some(oldest) = entries.first().cloned() else { continue };
        // One that is being undone already cannot get lost any more.
        let stack = &mut Arc::make_mut(&mut update.execution).compensations;
        if let Some(place) = stack.iter().rposition(|entry| *entry == oldest) {
            stack.remove(place);
            entries.remove(0);
        }
    }
}

/// What was taken over last of a page stays with the children, too.
pub(super) fn repeat_pages(update: &mut Update) {
    for recorded in Arc::make_mut(&mut update.events) {
        let Event::ChildStacksRead { left: Some(left), .. } = &mut recorded.event else { continue };
        let stack = &mut Arc::make_mut(&mut update.execution).compensations;
        let Some(place) = stack.iter().rposition(|entry| *entry == Undoable::Children(*left)) else {
            continue;
        };
        if left.entries == 0 {
            left.children += 1;
        } else {
            left.entries += 1;
        }
        stack[place] = Undoable::Children(*left);
    }
}
