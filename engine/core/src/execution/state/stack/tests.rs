use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::*;
use crate::execution::state::FlowReference;
use crate::ids::FlowHash;

fn id(number: u32) -> ExecutionId {
    ExecutionId::from_uuid(Uuid::from_u128(u128::from(number)))
}

fn visit(number: u32, bytes: usize) -> Undoable {
    Undoable::Visit(Box::new(Compensation {
        step: "s".into(),
        visit: number,
        execution: id(0),
        uncertain: false,
        flow: FlowReference { id: "f".into(), version: "1.0.0".into(), hash: FlowHash::of(b"f") },
        graph: Vec::new(),
        with: "u".into(),
        context: Map::from_iter([("k".into(), Value::String("x".repeat(bytes)))]),
    }))
}

/// The stacks of all executions, by the place of their owners.
type Stacks = BTreeMap<(ExecutionId, u32, u32), Vec<Undoable>>;

/// Undoes all of `stack` as an execution does; gives the visits in that order, and the most entries that it held.
fn undone(mut stack: Vec<Undoable>, stacks: &Stacks, limits: StackPageLimits) -> (Vec<u32>, usize) {
    let (mut visits, mut most) = (Vec::new(), stack.len());
    while let Some(top) = stack.pop() {
        match top {
            Undoable::Visit(visit) => visits.push(visit.visit),
            Undoable::Children(left) => {
                let mut page = StackPage::new(left, limits);
                while let Some(place) = page.wants() {
                    let whole = &stacks[&(place.parent, place.join, place.index)];
                    assert!(page.take(whole), "the stack is as long as it was");
                }
                let is_alone = page.entries().count() == 1;
                let bytes: usize = page
                    .entries()
                    .filter_map(Undoable::visit)
                    .map(|visit| visit.context.values().map(json_size).sum::<usize>())
                    .sum();
                assert!(page.entries().count() <= limits.entries.max(1));
                assert!(bytes <= limits.bytes || is_alone, "{bytes} bytes");
                assert!(page.left() != Some(left), "every page gets on");
                stack.extend(page.left().map(Undoable::Children));
                stack.extend(page.entries().cloned());
                most = most.max(stack.len());
            }
        }
    }
    (visits, most)
}

/// What a child did: visits with so many bytes of context, or fan-outs of others.
#[derive(Clone, Debug)]
enum Did {
    Visit(usize),
    Fan(Vec<Vec<Did>>),
}

fn did(depth: u32) -> BoxedStrategy<Vec<Did>> {
    let leaf = (0..40_usize).prop_map(Did::Visit);
    if depth == 0 {
        return vec(leaf, 0..4).boxed();
    }
    let fan = vec(did(depth - 1), 1..5).prop_map(Did::Fan);
    vec(prop_oneof![2 => leaf, 1 => fan], 0..4).boxed()
}

/// Lets `owner` do all this; gives its stack as it is stored, and notes the visits in their order.
fn stack_of(
    owner: &mut u32,
    done: &[Did],
    stacks: &mut Stacks,
    visits: &mut u32,
    order: &mut Vec<u32>,
) -> Vec<Undoable> {
    let me = id(*owner);
    let (mut stack, mut join) = (Vec::new(), 0);
    for did in done {
        match did {
            Did::Visit(bytes) => {
                *visits += 1;
                order.push(*visits);
                stack.push(visit(*visits, *bytes));
            }
            Did::Fan(children) => {
                join += 1;
                let mut undoable = 0;
                for (index, child) in (0..).zip(children) {
                    *owner += 1;
                    let left = stack_of(owner, child, stacks, visits, order);
                    if !left.is_empty() {
                        undoable = index + 1;
                    }
                    stacks.insert((me, join, index), left);
                }
                if undoable > 0 {
                    let added = ChildStacks::of(me, join, undoable);
                    match stack.last_mut() {
                        Some(Undoable::Children(last)) if last.joined_with(&added).is_some() => {
                            *last = last.joined_with(&added).unwrap();
                        }
                        _ => stack.push(Undoable::Children(added)),
                    }
                }
            }
        }
    }
    stack
}

proptest! {
    #[test]
    fn whatever_children_left_is_undone_once_and_backwards(
        done in did(3), entries in 1..6_usize, bytes in 0..100_usize,
    ) {
        let (mut stacks, mut visits, mut order) = (Stacks::new(), 0, Vec::new());
        let stack = stack_of(&mut 0, &done, &mut stacks, &mut visits, &mut order);
        let own = stack.len();
        let (undone, most) = undone(stack, &stacks, StackPageLimits { entries, bytes });
        order.reverse();
        prop_assert_eq!(undone, order);
        // One page, and on the way to it one reference a level and fan-out.
        prop_assert!(most <= own + entries + 2 * 3, "{} entries were held", most);
    }
}

#[test]
fn a_loop_leaves_one_reference() {
    let mut stacks = Stacks::new();
    let mut all: Option<ChildStacks> = None;
    for join in 1..=1000 {
        stacks.insert((id(1), join, 0), vec![visit(2 * join, 1), visit(2 * join + 1, 1)]);
        let added = ChildStacks::of(id(1), join, 1);
        all = Some(all.map_or(added, |all| all.joined_with(&added).unwrap()));
    }
    let (undone, most) =
        undone(vec![Undoable::Children(all.unwrap())], &stacks, StackPageLimits { entries: 3, bytes: 1000 });
    assert!(undone.iter().copied().eq((2..=2001).rev()));
    assert_eq!(most, 4);
}

#[test]
fn fan_outs_of_several_children_and_those_apart_are_not_joined() {
    let one = ChildStacks::of(id(1), 1, 1);
    assert_eq!(one.joined_with(&ChildStacks::of(id(1), 2, 2)), None);
    assert_eq!(one.joined_with(&ChildStacks::of(id(1), 3, 1)), None);
    assert_eq!(one.joined_with(&ChildStacks::of(id(2), 2, 1)), None);
    assert_eq!(ChildStacks::of(id(1), 1, 2).joined_with(&ChildStacks::of(id(1), 2, 1)), None);
}

#[test]
fn a_stack_that_has_become_shorter_is_refused() {
    let left = ChildStacks { entries: 2, ..ChildStacks::of(id(1), 1, 3) };
    let mut page = StackPage::new(left, StackPageLimits::default());
    assert_eq!(page.wants(), Some(StackPlace { parent: id(1), join: 1, index: 3 }));
    assert!(!page.take(&[visit(1, 1)]));
    assert!(page.is_empty() && page.left() == Some(left));
}

#[test]
fn entries_are_read_in_the_form_they_had_before_there_were_references() {
    let Undoable::Visit(compensation) = visit(7, 3) else { unreachable!("it is a visit") };
    let before = serde_json::to_value(&*compensation).unwrap();
    assert_eq!(serde_json::from_value::<Undoable>(before.clone()).unwrap(), Undoable::Visit(compensation));
    assert_eq!(serde_json::to_value(visit(7, 3)).unwrap(), before);
    let stacks = Undoable::Children(ChildStacks::of(id(1), 2, 3));
    let stored = serde_json::to_value(&stacks).unwrap();
    assert_eq!(stored, json!({"parent": id(1), "first": 2, "join": 2, "children": 3}));
    assert_eq!(serde_json::from_value::<Undoable>(stored).unwrap(), stacks);
}
