//! What an expression comes to where an answer is fetched: of what was called neither model nor tools are known any more.
//!
//! It is evaluated in three values, of which the third is that it depends on that (Kleene's logic): `false && it` is false,
//! `true || it` is true. What fails for another reason fails, on whichever side of what is not known it stands: else it
//! would be enough to leave out a field that a denial looks at.

use std::slice;

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, operators};
use cel::{Context, ExecutionError, Value};

use crate::steps::Meter;

/// What a part of an expression comes to. None: it depends on what is not known.
type Known = Result<Option<Value>, ExecutionError>;

/// What is known of a call whose answer is fetched.
pub(super) const OF_FETCHED: [&str; 2] = ["provider", "operation"];

/// Evaluates an expression, each part once: one that joins only what is known is counted again, in so many parts.
pub(super) struct Evaluation<'a> {
    pub(super) meter: &'a Meter,
    pub(super) parts: u64,
}

/// Where a part is evaluated: in a comprehension variables are bound, to what is not known too.
#[derive(Clone, Copy)]
struct Scope<'a, 'p, 'v> {
    context: &'a Context<'p, 'v>,
    hidden: &'a [&'a str],
}

impl Evaluation<'_> {
    /// # Errors
    /// It fails, whatever was called.
    pub(super) fn of(&self, expression: &IdedExpr, context: &Context<'_, '_>) -> Known {
        let scope = Scope {
            context,
            hidden: &[],
        };
        self.part(expression, scope)
    }

    fn part(&self, node: &IdedExpr, scope: Scope<'_, '_, '_>) -> Known {
        if !is_hidden(node, scope.hidden) {
            return scope.context.resolve(node).map(Some);
        }
        match &node.expr {
            Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
                (operators::LOGICAL_AND, [left, right]) => self.joined(false, left, right, scope),
                (operators::LOGICAL_OR, [left, right]) => self.joined(true, left, right, scope),
                (operators::CONDITIONAL, [asks, yes, no]) => self.conditional(asks, yes, no, scope),
                (operators::LOGICAL_NOT, [part]) => {
                    let holds = truth(self.part(part, scope))?;
                    Ok(holds.map(|holds| Value::Bool(!holds)))
                }
                _ => self.call(node, call, scope),
            },
            Expr::List(list) => self.all(node, list.elements.iter(), scope),
            Expr::Comprehension(of) => self.comprehension(of, scope),
            _ => Ok(None),
        }
    }

    /// What decides by itself does so on either side. `decides`: false of `&&`, true of `||`.
    fn joined(
        &self,
        decides: bool,
        left: &IdedExpr,
        right: &IdedExpr,
        scope: Scope<'_, '_, '_>,
    ) -> Known {
        let left = truth(self.part(left, scope));
        if left == Ok(Some(decides)) {
            return Ok(Some(Value::Bool(decides)));
        }
        let right = truth(self.part(right, scope));
        if right == Ok(Some(decides)) {
            return Ok(Some(Value::Bool(decides)));
        }
        let (left, right) = (left?, right?);
        Ok(left.and(right).map(Value::Bool))
    }

    fn conditional(
        &self,
        asks: &IdedExpr,
        yes: &IdedExpr,
        no: &IdedExpr,
        scope: Scope<'_, '_, '_>,
    ) -> Known {
        match truth(self.part(asks, scope))? {
            Some(true) => self.part(yes, scope),
            Some(false) => self.part(no, scope),
            None => {
                let (yes, no) = (self.part(yes, scope)?, self.part(no, scope)?);
                Ok(yes.filter(|yes| no.as_ref() == Some(yes)))
            }
        }
    }

    /// A function, or an operator that takes all of its operands.
    fn call(&self, node: &IdedExpr, call: &CallExpr, scope: Scope<'_, '_, '_>) -> Known {
        let target = call.target.as_deref().map_or(&[][..], slice::from_ref);
        self.all(node, target.iter().chain(&call.args), scope)
    }

    /// What is known where all of these are.
    fn all<'n>(
        &self,
        node: &IdedExpr,
        parts: impl Iterator<Item = &'n IdedExpr>,
        scope: Scope<'_, '_, '_>,
    ) -> Known {
        let mut known = true;
        for part in parts {
            known &= self.part(part, scope)?.is_some();
        }
        if !known {
            return Ok(None);
        }
        if !self.meter.parts(self.parts) {
            return Err(failed("too much"));
        }
        scope.context.resolve(node).map(Some)
    }

    /// `all`, `exists` and their like. Of the tools of a call nothing is known, not whether there are any; of a list that
    /// stands in the expression some entries may be.
    fn comprehension(&self, of: &ComprehensionExpr, scope: Scope<'_, '_, '_>) -> Known {
        let Expr::List(list) = &of.iter_range.expr else {
            return Ok(None);
        };
        let mut result = self.part(&of.accu_init, scope)?;
        let mut first = None;
        for entry in &list.elements {
            let entry = self.part(entry, scope)?;
            let mut context = scope.context.new_inner_scope();
            let mut hidden = scope.hidden.to_vec();
            for (name, value) in [(&of.iter_var, entry), (&of.accu_var, result.clone())] {
                match value {
                    Some(value) => context.add_variable_from_value(name.clone(), value),
                    None => hidden.push(name),
                }
            }
            let inside = Scope {
                context: &context,
                hidden: &hidden,
            };
            match self.part(&of.loop_step, inside) {
                Ok(step) => result = step,
                // A later entry may decide by itself.
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
            if self.is_over(of, result.as_ref(), scope)? {
                first = None;
                break;
            }
        }
        match (first, result) {
            (Some(error), _) => Err(error),
            (None, None) => Ok(None),
            (None, Some(result)) => {
                let mut context = scope.context.new_inner_scope();
                context.add_variable_from_value(of.accu_var.clone(), result);
                context.resolve(&of.result).map(Some)
            }
        }
    }

    /// Whether what has been found decides, whatever comes.
    fn is_over(
        &self,
        of: &ComprehensionExpr,
        result: Option<&Value>,
        scope: Scope<'_, '_, '_>,
    ) -> Result<bool, ExecutionError> {
        let Some(result) = result else {
            return Ok(false);
        };
        let mut context = scope.context.new_inner_scope();
        context.add_variable_from_value(of.accu_var.clone(), result.clone());
        let goes_on = truth(context.resolve(&of.loop_cond).map(Some))?;
        Ok(goes_on == Some(false))
    }
}

/// Whether what is not known stands in a part.
fn is_hidden(node: &IdedExpr, hidden: &[&str]) -> bool {
    let is_it = |it: &IdedExpr| is_hidden(it, hidden);
    match &node.expr {
        Expr::Ident(name) => hidden.contains(&name.as_str()),
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(of) if of == "llm" => !OF_FETCHED.contains(&select.field.as_str()),
            _ => is_hidden(&select.operand, hidden),
        },
        Expr::Call(call) => {
            call.target.as_deref().is_some_and(is_it) || call.args.iter().any(is_it)
        }
        Expr::List(list) => list.elements.iter().any(is_it),
        Expr::Comprehension(it) => is_it(&it.iter_range) || is_it(&it.loop_step),
        _ => false,
    }
}

fn truth(value: Known) -> Result<Option<bool>, ExecutionError> {
    match value? {
        None => Ok(None),
        Some(Value::Bool(holds)) => Ok(Some(holds)),
        Some(_) => Err(failed("neither true nor false")),
    }
}

fn failed(why: &str) -> ExecutionError {
    ExecutionError::function_error("when", why)
}
