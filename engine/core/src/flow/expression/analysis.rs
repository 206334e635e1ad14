//! What an expression reads and how its comprehensions nest, from its parsed form.

use std::collections::{BTreeMap, BTreeSet};

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, EntryExpr, Expr, LiteralValue, operators};

use super::super::scope::PARENT_KEY;
use super::super::selector::Needs;

/// Comprehensions (`map`, `filter`, `all`, `exists`, `exists_one`) within comprehensions.
pub const COMPREHENSION_DEPTH_MAX: usize = 3;

/// Variables of every expression.
pub(super) const VARIABLES: [&str; 8] =
    ["context", "input", "item", "index", "iteration", "parent", "event", "execution"];
/// Names of types, which CEL has as values.
const TYPE_NAMES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("comprehensions are nested deeper than {COMPREHENSION_DEPTH_MAX}")]
    Comprehensions,
    #[error("unknown variable `{0}`; there are {all}, and a key of the context is `context.{0}`", all = VARIABLES.join(", "))]
    Variable(String),
    #[error("messages of type `{0}` cannot be made")]
    Message(String),
    #[error("not a complete expression")]
    Incomplete,
}

/// Which keys of one variable are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    /// The variable is used as a whole.
    All,
    /// Only by these keys.
    Named(BTreeSet<String>),
}

/// Which variables an expression reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    variables: BTreeMap<&'static str, Keys>,
}

impl Reads {
    /// The keys read of a variable; `None` when it is not used.
    pub(super) fn keys(&self, variable: &str) -> Option<&Keys> {
        self.variables.get(variable)
    }

    pub(super) fn needs(&self) -> Needs {
        let mut roots = BTreeSet::new();
        match self.keys("context") {
            Some(Keys::All) => return Needs::All,
            Some(Keys::Named(names)) => roots.extend(names.iter().cloned()),
            None => {}
        }
        for root in ["item", "index", PARENT_KEY] {
            if self.keys(root).is_some() {
                roots.insert(root.to_owned());
            }
        }
        Needs::Roots(roots)
    }

    fn add(&mut self, variable: &'static str, key: Option<&str>) {
        let keys = self.variables.entry(variable).or_insert_with(|| Keys::Named(BTreeSet::new()));
        match (keys, key) {
            (keys, None) => *keys = Keys::All,
            (Keys::Named(names), Some(key)) => {
                names.insert(key.to_owned());
            }
            (Keys::All, Some(_)) => {}
        }
    }
}

/// Finds what `program` reads; refuses what could never be evaluated.
pub(super) fn analyse(program: &IdedExpr) -> Result<Reads, Refused> {
    let mut walk = Walk { reads: Reads::default(), bound: Vec::new(), depth: 0 };
    walk.visit(program)?;
    Ok(walk.reads)
}

struct Walk<'e> {
    reads: Reads,
    /// Variables of the comprehensions around.
    bound: Vec<&'e str>,
    depth: usize,
}

impl<'e> Walk<'e> {
    fn visit(&mut self, node: &'e IdedExpr) -> Result<(), Refused> {
        match &node.expr {
            Expr::Unspecified => Err(Refused::Incomplete),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name, None),
            Expr::Select(select) => {
                if let Expr::Ident(name) = &select.operand.expr {
                    return self.variable(name, Some(&select.field));
                }
                self.visit(&select.operand)
            }
            Expr::Call(call) => {
                if let (operators::INDEX, [operand, index]) = (call.func_name.as_str(), call.args.as_slice())
                    && let (Expr::Ident(name), Expr::Literal(LiteralValue::String(key))) =
                        (&operand.expr, &index.expr)
                {
                    return self.variable(name, Some(key.inner()));
                }
                call.target.iter().map(Box::as_ref).chain(&call.args).try_for_each(|node| self.visit(node))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.visit(&entry.key)?;
                    self.visit(&entry.value)
                }
                EntryExpr::StructField(field) => self.visit(&field.value),
            }),
            Expr::Struct(message) => Err(Refused::Message(message.type_name.clone())),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
        }
    }

    fn comprehension(&mut self, comprehension: &'e ComprehensionExpr) -> Result<(), Refused> {
        // The range is evaluated once, outside; only what is repeated counts as nested.
        self.visit(&comprehension.iter_range)?;
        self.visit(&comprehension.accu_init)?;
        self.depth += 1;
        if self.depth > COMPREHENSION_DEPTH_MAX {
            return Err(Refused::Comprehensions);
        }
        let outside = self.bound.len();
        self.bound.push(&comprehension.accu_var);
        self.bound.push(&comprehension.iter_var);
        self.bound.extend(comprehension.iter_var2.as_deref());
        self.visit(&comprehension.loop_cond)?;
        self.visit(&comprehension.loop_step)?;
        self.visit(&comprehension.result)?;
        self.bound.truncate(outside);
        self.depth -= 1;
        Ok(())
    }

    fn variable(&mut self, name: &str, key: Option<&str>) -> Result<(), Refused> {
        if self.bound.contains(&name) || TYPE_NAMES.contains(&name) {
            return Ok(());
        }
        match VARIABLES.into_iter().find(|variable| *variable == name) {
            Some(variable) => {
                self.reads.add(variable, key);
                Ok(())
            }
            None => Err(Refused::Variable(name.to_owned())),
        }
    }
}
