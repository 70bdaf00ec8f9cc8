//! What a part of an expression is, as far as that is known without evaluating it.

use std::collections::BTreeMap;

use agentguard_model::ArgumentType;
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators};

use super::check::ARGUMENTS;

/// Whether all of it, or a part whose truth it goes by, looks at nothing.
pub(super) fn is_constant(node: &IdedExpr) -> bool {
    if let Expr::Call(call) = &node.expr {
        match call.func_name.as_str() {
            operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
                return call.args.iter().any(is_constant);
            }
            operators::CONDITIONAL => {
                return call.args.first().is_some_and(is_constant)
                    || call.args.iter().all(|it| !looks(it, &[]));
            }
            _ => {}
        }
    }
    !looks(node, &[])
}

/// Whether a variable stands in it, other than those that a comprehension binds.
pub(super) fn looks(node: &IdedExpr, bound: &[&str]) -> bool {
    match &node.expr {
        Expr::Ident(name) => !bound.contains(&name.as_str()),
        Expr::Select(select) => path(select).is_some() || looks(&select.operand, bound),
        Expr::Call(call) => {
            let mut parts = call.target.as_deref().into_iter().chain(&call.args);
            parts.any(|it| looks(it, bound))
        }
        Expr::List(list) => list.elements.iter().any(|it| looks(it, bound)),
        Expr::Comprehension(it) => {
            let bound: Vec<&str> = [
                Some(&it.iter_var),
                Some(&it.accu_var),
                it.iter_var2.as_ref(),
            ]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
            [&it.iter_range, &it.loop_cond, &it.loop_step]
                .into_iter()
                .any(|part| looks(part, &bound))
        }
        _ => false,
    }
}

/// How often a name stands in it.
pub(super) fn mentions(node: &IdedExpr, name: &str) -> usize {
    let of = |it: &IdedExpr| mentions(it, name);
    match &node.expr {
        Expr::Ident(it) => usize::from(it == name),
        Expr::Select(select) => of(&select.operand),
        Expr::Call(call) => {
            let parts = call.target.as_deref().into_iter().chain(&call.args);
            parts.map(of).sum()
        }
        Expr::List(list) => list.elements.iter().map(of).sum(),
        _ => 0,
    }
}

/// Whether two parts say the same, as they are written.
pub(super) fn is_same(one: &IdedExpr, other: &IdedExpr) -> bool {
    let all = |ones: &[IdedExpr], others: &[IdedExpr]| {
        let mut pairs = ones.iter().zip(others);
        ones.len() == others.len() && pairs.all(|(one, other)| is_same(one, other))
    };
    match (&one.expr, &other.expr) {
        (Expr::Literal(one), Expr::Literal(other)) => one == other,
        (Expr::Ident(one), Expr::Ident(other)) => one == other,
        (Expr::Select(one), Expr::Select(other)) => {
            one.field == other.field
                && one.test == other.test
                && is_same(&one.operand, &other.operand)
        }
        (Expr::Call(one), Expr::Call(other)) => {
            let targets = match (&one.target, &other.target) {
                (None, None) => true,
                (Some(one), Some(other)) => is_same(one, other),
                _ => false,
            };
            one.func_name == other.func_name && targets && all(&one.args, &other.args)
        }
        (Expr::List(one), Expr::List(other)) => all(&one.elements, &other.elements),
        _ => false,
    }
}

/// What a part is, where that is known without evaluating it: with the types of arguments that have one.
pub(super) fn kind(
    node: &IdedExpr,
    types: &BTreeMap<String, ArgumentType>,
) -> Option<&'static str> {
    const TEXT: Option<&str> = Some("a text");
    const NUMBER: Option<&str> = Some("a number");
    const TRUTH: Option<&str> = Some("true or false");
    const LIST: Option<&str> = Some("a list");
    match &node.expr {
        Expr::Literal(LiteralValue::String(_)) => TEXT,
        Expr::Literal(LiteralValue::Boolean(_)) => TRUTH,
        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)) => {
            NUMBER
        }
        Expr::Literal(LiteralValue::Null) => Some("null"),
        Expr::Literal(LiteralValue::Bytes(_)) => Some("a run of bytes"),
        Expr::List(_) => LIST,
        Expr::Select(select) => match path(select)?.as_str() {
            "destination.port"
            | "time.hour"
            | "time.minute"
            | "time.weekday"
            | "llm.max_output_tokens" => NUMBER,
            "llm.stream" => TRUTH,
            "llm.tools" => LIST,
            path if path.starts_with("switches.") => TRUTH,
            _ => TEXT,
        },
        Expr::Call(call) => match call.func_name.as_str() {
            "size"
            | "int"
            | operators::SUBSTRACT
            | operators::MULTIPLY
            | operators::DIVIDE
            | operators::MODULO
            | operators::NEGATE => NUMBER,
            operators::INDEX => match argument(call).and_then(|it| types.get(it)) {
                Some(ArgumentType::Integer | ArgumentType::Number) => NUMBER,
                Some(ArgumentType::Boolean) => TRUTH,
                Some(ArgumentType::String) | None => TEXT,
            },
            "string" => TEXT,
            operators::ADD => call.args.first().and_then(|it| kind(it, types)),
            operators::CONDITIONAL => call.args.get(1).and_then(|it| kind(it, types)),
            _ => TRUTH,
        },
        _ => None,
    }
}

/// The JSON Pointer of the argument that an entry of a map is.
fn argument(call: &CallExpr) -> Option<&str> {
    let [map, name] = call.args.as_slice() else {
        return None;
    };
    let Expr::Select(map) = &map.expr else {
        return None;
    };
    (path(map)? == ARGUMENTS).then(|| text(name)).flatten()
}

/// A text that stands in the expression.
pub(super) fn text(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// `a.b.c`, where it is nothing but names.
pub(super) fn path(select: &SelectExpr) -> Option<String> {
    let of = match &select.operand.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(select) if !select.test => path(select)?,
        _ => return None,
    };
    Some(format!("{of}.{}", select.field))
}
