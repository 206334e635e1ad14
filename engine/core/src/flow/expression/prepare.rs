//! What a parsed expression is given before it is evaluated: a budget, and an order for the keys of maps.
//!
//! CEL's comprehensions can multiply work and copies, and they walk maps in an order that differs from run to run. So each
//! range of a comprehension, and each element that is put into a list or map within one, goes through a function of ours.

use std::any::Any;
use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, operators};
use cel::common::types::{CelList, CelNull, CelString, DYN_TYPE, Kind, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::objects::Key;
use cel::{Context, Env, ExecutionError, IdedExpr};
use serde_json::Value;

use super::pending::{Pending, look_at};
use super::values::{Unconvertible, VALUE_DEPTH_MAX, to_json};

/// What the comprehensions of one evaluation may cost: one for each element walked and each value copied, and one for each
/// 16 bytes of text copied.
pub const EVALUATION_COST_MAX: u64 = 4 * 1024 * 1024;
/// Bytes of text that cost as much as one element.
const TEXT_BYTES_PER_COST: usize = 16;
/// One regular expression within a comprehension costs as much as this many elements: it is compiled each time.
const MATCH_COST: u64 = 512;

// No name that can be written in an expression starts with `@`.
const BUDGET: &str = "@budget";
/// Around the whole expression.
const GIVE: &str = "@give";
const RANGE: &str = "@range";
const SPEND: &str = "@spend";
const SPEND_MATCH: &str = "@spend_match";
/// Around what is compared with others: these do not ask it anything.
const LOOK: &str = "@look";
const MATCHES: &str = "matches";

/// The standard library, and our functions.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    let functions: [(&str, cel::common::functions::Function); 5] =
        [(GIVE, give), (RANGE, range), (SPEND, spend), (SPEND_MATCH, spend_match), (LOOK, look)];
    for (name, function) in functions {
        let added = env.add_overload(name, name, vec![DYN_TYPE, DYN_TYPE], function);
        debug_assert!(added.is_ok(), "`{name}` is declared twice");
    }
    env
}

/// A fresh budget for one evaluation; `pending` says whether references to datasets are in sight.
pub(super) fn declare_budget(context: &mut Context<'_, '_>, pending: bool) -> Given {
    let left = Arc::new(AtomicU64::new(EVALUATION_COST_MAX));
    let given = Given::default();
    context.add_variable_as_val(BUDGET, Box::new(Budget { left, pending, given: given.clone() }));
    given
}

/// Puts our functions into a parsed expression.
pub(super) fn prepare(program: &mut IdedExpr) {
    visit(program, false);
    // In a list: a call asks its arguments for their types, and a reference that is only given is not looked at.
    let value = std::mem::take(program);
    let (id, elements) = (value.id, vec![value]);
    *program = IdedExpr { id, expr: Expr::List(ListExpr { elements, optional_indices: Vec::new() }) };
    wrap(program, GIVE);
}

fn visit(node: &mut IdedExpr, repeated: bool) {
    match &mut node.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) => {}
        Expr::Select(select) => visit(&mut select.operand, repeated),
        Expr::Call(call) => visit_call(call, repeated),
        Expr::List(list) => list.elements.iter_mut().for_each(|element| visit_copied(element, repeated)),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                match &mut entry.expr {
                    EntryExpr::MapEntry(entry) => {
                        visit(&mut entry.key, repeated);
                        visit_copied(&mut entry.value, repeated);
                    }
                    EntryExpr::StructField(field) => visit_copied(&mut field.value, repeated),
                }
            }
        }
        Expr::Comprehension(comprehension) => visit_comprehension(comprehension, repeated),
    }
}

fn visit_call(call: &mut CallExpr, repeated: bool) {
    if let Some(target) = &mut call.target {
        visit(target, repeated);
    }
    // These look at, or copy, the whole of their operands.
    let whole = matches!(
        call.func_name.as_str(),
        operators::ADD | operators::EQUALS | operators::NOT_EQUALS | operators::IN
    );
    for argument in &mut call.args {
        if whole { visit_copied(argument, repeated) } else { visit(argument, repeated) }
    }
    match (call.func_name.as_str(), call.args.as_mut_slice()) {
        (operators::EQUALS | operators::NOT_EQUALS, [_, compared]) | (operators::IN, [compared, _])
            if !matches!(compared.expr, Expr::Literal(_)) =>
        {
            wrap(compared, LOOK);
        }
        _ => {}
    }
    if repeated
        && call.func_name == MATCHES
        && let Some(pattern) = call.args.last_mut()
    {
        wrap(pattern, SPEND_MATCH);
    }
}

fn visit_copied(node: &mut IdedExpr, repeated: bool) {
    visit(node, repeated);
    // The accumulator (`@result`) is left alone: CEL appends to it in place only where it finds it as it made it.
    let internal = matches!(&node.expr, Expr::Ident(name) if name.starts_with('@'));
    let free = internal || matches!(node.expr, Expr::Literal(_) | Expr::List(_) | Expr::Map(_));
    if repeated && !free {
        wrap(node, SPEND);
    }
}

fn visit_comprehension(comprehension: &mut ComprehensionExpr, repeated: bool) {
    visit(&mut comprehension.iter_range, repeated);
    wrap(&mut comprehension.iter_range, RANGE);
    visit(&mut comprehension.loop_cond, true);
    visit(&mut comprehension.loop_step, true);
    visit(&mut comprehension.result, repeated);
}

/// `node` becomes `function(@budget, node)`.
fn wrap(node: &mut IdedExpr, function: &str) {
    let id = node.id;
    let budget = IdedExpr { id, expr: Expr::Ident(BUDGET.to_owned()) };
    let args = vec![budget, std::mem::take(node)];
    *node =
        IdedExpr { id, expr: Expr::Call(CallExpr { func_name: function.to_owned(), target: None, args }) };
}

/// What is left to spend.
#[derive(Clone, Debug)]
struct Budget {
    left: Arc<AtomicU64>,
    pending: bool,
    given: Given,
}

/// The value of an expression. The library gives only values of its own, which have no form for a reference.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(Arc<Mutex<Option<Result<Value, Unconvertible>>>>);

impl Given {
    pub(super) fn take(&self) -> Option<Result<Value, Unconvertible>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

const BUDGET_TYPE: Type = Type::simple_type(Kind::Opaque, BUDGET);

impl Val for Budget {
    fn get_type(&self) -> &Type {
        const { &BUDGET_TYPE }
    }

    fn cel_type() -> &'static Type {
        const { &BUDGET_TYPE }
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }
}

impl StaticVal for Budget {}

impl Budget {
    fn spend(&self, cost: u64) -> Result<(), ExecutionError> {
        let left = self.left.load(Relaxed).checked_sub(cost).ok_or_else(|| {
            ExecutionError::function_error("the expression", "costs more than an evaluation may")
        })?;
        // One evaluation runs on one thread: nobody spends in between.
        self.left.store(left, Relaxed);
        Ok(())
    }

    /// Spends the cost of a copy of `value`.
    fn spend_copy(&self, value: &dyn Val, room: usize) -> Result<(), ExecutionError> {
        let too_deep =
            || ExecutionError::function_error("the expression", "makes a value that is nested too deep");
        let room = room.checked_sub(1).ok_or_else(too_deep)?;
        if value.downcast_ref::<Pending>().is_some() {
            return self.spend(1);
        }
        let text = value.downcast_ref::<CelString<'_>>().map_or(0, |text| text.inner().len());
        self.spend(1 + (text / TEXT_BYTES_PER_COST) as u64)?;
        let Some(elements) = value.as_iterable() else { return Ok(()) };
        let values = if value.get_type().kind() == Kind::Map { value.as_indexer() } else { None };
        let mut elements = elements.iter();
        while let Some(element) = elements.next() {
            self.spend_copy(element, room)?;
            if let Some(values) = values {
                self.spend_copy(values.get(element)?.as_ref(), room)?;
            }
        }
        Ok(())
    }
}

type Arguments<'b, 'v> = Vec<CowVal<'b, 'v>>;

fn split<'b, 'v>(mut args: Arguments<'b, 'v>) -> Result<(Budget, CowVal<'b, 'v>), ExecutionError> {
    let (Some(value), Some(budget)) = (args.pop(), args.pop()) else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    let budget = budget.as_ref().downcast_ref::<Budget>().cloned();
    Ok((budget.ok_or_else(ExecutionError::missing_argument_or_target)?, value))
}

fn spend<'b, 'v>(args: Arguments<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (budget, value) = split(args)?;
    budget.spend_copy(value.as_ref(), VALUE_DEPTH_MAX)?;
    Ok(value)
}

fn spend_match<'b, 'v>(args: Arguments<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (budget, pattern) = split(args)?;
    budget.spend(MATCH_COST)?;
    Ok(pattern)
}

fn give<'b, 'v>(args: Arguments<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (budget, value) = split(args)?;
    let list = value.as_ref().downcast_ref::<CelList<'_>>().and_then(|list| list.inner().first());
    let json = to_json(&**list.ok_or_else(ExecutionError::missing_argument_or_target)?);
    *budget.given.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(json);
    Ok(CowVal::owned(CelNull))
}

fn look<'b, 'v>(args: Arguments<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (budget, value) = split(args)?;
    if budget.pending {
        look_at(value.as_ref());
    }
    Ok(value)
}

/// The range of a comprehension: a map's keys become a sorted list.
fn range<'b, 'v>(args: Arguments<'b, 'v>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let (budget, range) = split(args)?;
    let size = range.as_ref().as_sizer().map_or(0, |sizer| *sizer.size().inner());
    budget.spend(1 + size.unsigned_abs())?;
    if range.as_ref().get_type().kind() != Kind::Map {
        return Ok(range);
    }
    let mut keys: Vec<(Key, Box<dyn Val + 'v>)> = Vec::new();
    if let Some(entries) = range.as_ref().as_iterable() {
        let mut entries = entries.iter();
        while let Some(key) = entries.next() {
            keys.push((sortable(key)?, key.clone_as_boxed()));
        }
    }
    keys.sort_by(|(left, _), (right, _)| compare_keys(left, right));
    Ok(CowVal::owned(CelList::from(keys.into_iter().map(|(_, key)| key).collect::<Vec<_>>())))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "maps of CEL have no other keys")]
fn sortable(key: &dyn Val) -> Result<Key, ExecutionError> {
    match cel::Value::try_from(key)? {
        cel::Value::Int(integer) => Ok(Key::Int(integer)),
        cel::Value::UInt(integer) => Ok(Key::Uint(integer)),
        cel::Value::Bool(truth) => Ok(Key::Bool(truth)),
        cel::Value::String(text) => Ok(Key::String(text)),
        other => Err(ExecutionError::unsupported_key_type(other)),
    }
}

fn compare_keys(left: &Key, right: &Key) -> Ordering {
    fn integer(key: &Key) -> Option<i128> {
        match key {
            Key::Int(integer) => Some((*integer).into()),
            Key::Uint(integer) => Some((*integer).into()),
            Key::Bool(_) | Key::String(_) => None,
        }
    }
    match (left, right) {
        (Key::String(left), Key::String(right)) => left.cmp(right),
        (Key::String(_), _) => Ordering::Greater,
        (_, Key::String(_)) => Ordering::Less,
        (left, right) => {
            integer(left).cmp(&integer(right)).then_with(|| left.to_string().cmp(&right.to_string()))
        }
    }
}
