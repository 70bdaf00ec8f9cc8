//! What an expression says that was probably not meant: parts that always hold, or never.
//!
//! This is no proof: parts are compared as they are written, and with what is known of a few variables. What
//! would take more to find out is not told.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::WhenError;
use super::pattern::is_everywhere;
use super::shape::{is_same, path, text};
use crate::diagnostic::quoted;

/// What is doubtful in an expression, which is written like this.
pub(super) fn doubts(written: &str, expression: &IdedExpr) -> Vec<WhenError> {
    let mut doubts = Doubts {
        written,
        found: Vec::new(),
    };
    doubts.visit(expression);
    doubts.found.dedup();
    doubts.found
}

/// The whole numbers that a variable can be, of those whose range is known.
pub(super) fn range(path: &str) -> Option<(i64, i64)> {
    match path {
        "time.weekday" => Some((1, 7)),
        "time.hour" => Some((0, 23)),
        "time.minute" => Some((0, 59)),
        "destination.port" => Some((1, 65_535)),
        _ => None,
    }
}

/// The range of a variable in words.
pub(super) fn range_in_words(path: &str, (first, last): (i64, i64)) -> String {
    let days = if path == "time.weekday" {
        "; Monday is 1 and Sunday 7"
    } else {
        ""
    };
    format!("it is {first} to {last}{days}")
}

/// What something can be where an expression holds, as far as that is known.
#[derive(Debug)]
pub(crate) struct Possible<'a> {
    /// One of these, if any are named.
    among: Option<Vec<&'a LiteralValue>>,
    /// None of these.
    not: Vec<&'a LiteralValue>,
    /// A whole number from this to that, if it is a number.
    from: f64,
    to: f64,
}

impl<'a> Possible<'a> {
    /// What a variable can be where all of an expression holds.
    pub(super) fn of(expression: &'a IdedExpr, variable: &str) -> Self {
        let mut parts = Vec::new();
        parted(expression, true, &mut parts);
        let is_it = |of: &IdedExpr| matches!(&of.expr, Expr::Select(select) if path(select).as_deref() == Some(variable));
        let mut possible = Self::any();
        for (part, holds) in parts {
            if let Some((of, said)) = said(part, holds)
                && is_it(of)
            {
                possible.narrow(said);
            }
        }
        possible
    }

    const fn any() -> Self {
        Self {
            among: None,
            not: Vec::new(),
            from: f64::NEG_INFINITY,
            to: f64::INFINITY,
        }
    }

    /// Whether it can be this text.
    pub(crate) fn has_text(&self, text: &str) -> bool {
        let is_it = |literal: &&LiteralValue| matches!(literal, LiteralValue::String(it) if it.inner() == text);
        self.among.as_ref().is_none_or(|it| it.iter().any(is_it)) && !self.not.iter().any(is_it)
    }

    /// The texts that it can be, if only some.
    pub(crate) fn texts(&self) -> Option<impl Iterator<Item = &str>> {
        let among = self.among.as_ref()?;
        let texts = among.iter().filter_map(|literal| match literal {
            LiteralValue::String(text) => Some(text.inner()),
            _ => None,
        });
        Some(texts.filter(|text| self.has_text(text)))
    }

    /// Whether it can be a number from `first` to `last`.
    pub(crate) fn has_number_in(&self, first: u16, last: u16) -> bool {
        let (first, last) = (f64::from(first), f64::from(last));
        let is_excluded = |number: f64| self.not.iter().any(|it| value(it) == Some(number));
        match &self.among {
            Some(among) => among.iter().filter_map(|it| value(it)).any(|number| {
                (first..=last).contains(&number) && self.in_bounds(number) && !is_excluded(number)
            }),
            None => {
                let (from, to) = (self.from.max(first), self.to.min(last));
                from < to || from <= to && !is_excluded(from)
            }
        }
    }

    fn in_bounds(&self, number: f64) -> bool {
        (self.from..=self.to).contains(&number)
    }

    fn narrow(&mut self, said: Said<'a>) {
        match said {
            Said::Among(list) => {
                let among = match self.among.take() {
                    None => list,
                    Some(among) => among
                        .into_iter()
                        .filter(|it| list.iter().any(|other| is_equal(it, other)))
                        .collect(),
                };
                self.among = Some(among);
            }
            Said::Not(list) => self.not.extend(list),
            Said::From(number) => self.from = self.from.max(number),
            Said::To(number) => self.to = self.to.min(number),
        }
    }

    /// Whether it can be nothing.
    fn is_empty(&self) -> bool {
        self.from > self.to
            || self.among.as_ref().is_some_and(|among| {
                !among.iter().any(|it| {
                    value(it).is_none_or(|number| self.in_bounds(number))
                        && !self.not.iter().any(|not| is_equal(it, not))
                })
            })
    }
}

/// What a part of an expression says of something.
enum Said<'a> {
    Among(Vec<&'a LiteralValue>),
    Not(Vec<&'a LiteralValue>),
    From(f64),
    To(f64),
}

/// What a part says where it holds, or does not, and of what.
fn said(part: &IdedExpr, holds: bool) -> Option<(&IdedExpr, Said<'_>)> {
    let Expr::Call(call) = &part.expr else {
        return None;
    };
    let [first, second] = call.args.as_slice() else {
        return None;
    };
    let name = call.func_name.as_str();
    if name == operators::IN {
        let Expr::List(list) = &second.expr else {
            return None;
        };
        let literals: Option<Vec<_>> = list.elements.iter().map(literal).collect();
        return Some((first, among(literals?, holds)));
    }
    let (of, constant, name) = match (literal(first), literal(second)) {
        (None, Some(constant)) => (first, constant, name),
        (Some(constant), None) => (second, constant, mirrored(name)),
        _ => return None,
    };
    let said = match name {
        operators::EQUALS => among(vec![constant], holds),
        operators::NOT_EQUALS => among(vec![constant], !holds),
        _ => {
            // Of what is no whole number, nothing is known between two.
            bounds(of)?;
            let number = value(constant)?;
            match (name, holds) {
                (operators::LESS, true) | (operators::GREATER_EQUALS, false) => {
                    Said::To(number.ceil() - 1.0)
                }
                (operators::LESS_EQUALS, true) | (operators::GREATER, false) => {
                    Said::To(number.floor())
                }
                (operators::GREATER, true) | (operators::LESS_EQUALS, false) => {
                    Said::From(number.floor() + 1.0)
                }
                (operators::GREATER_EQUALS, true) | (operators::LESS, false) => {
                    Said::From(number.ceil())
                }
                _ => return None,
            }
        }
    };
    Some((of, said))
}

fn among(literals: Vec<&LiteralValue>, holds: bool) -> Said<'_> {
    if holds {
        Said::Among(literals)
    } else {
        Said::Not(literals)
    }
}

/// A comparison with its sides changed.
fn mirrored(operator: &str) -> &str {
    match operator {
        operators::LESS => operators::GREATER,
        operators::LESS_EQUALS => operators::GREATER_EQUALS,
        operators::GREATER => operators::LESS,
        operators::GREATER_EQUALS => operators::LESS_EQUALS,
        other => other,
    }
}

fn literal(node: &IdedExpr) -> Option<&LiteralValue> {
    match &node.expr {
        Expr::Literal(literal) => Some(literal),
        _ => None,
    }
}

/// What a number is. Those that are compared here are small enough to be exact.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn value(literal: &LiteralValue) -> Option<f64> {
    match literal {
        LiteralValue::Int(number) => Some(*number.inner() as f64),
        LiteralValue::UInt(number) => Some(*number.inner() as f64),
        LiteralValue::Double(number) => Some(*number.inner()),
        _ => None,
    }
}

fn is_equal(one: &LiteralValue, other: &LiteralValue) -> bool {
    match (value(one), value(other)) {
        (Some(one), Some(other)) => one.total_cmp(&other).is_eq(),
        _ => one == other,
    }
}

/// From where to where a number is, if it is a whole one.
#[allow(clippy::cast_precision_loss, reason = "the ranges are small")]
fn bounds(node: &IdedExpr) -> Option<(f64, f64)> {
    match &node.expr {
        Expr::Select(select) => match path(select)?.as_str() {
            "llm.max_output_tokens" => Some((0.0, f64::INFINITY)),
            path => range(path).map(|(first, last)| (first as f64, last as f64)),
        },
        Expr::Call(call) if call.func_name == "size" => Some((0.0, f64::INFINITY)),
        Expr::Call(call) if call.func_name == "int" => Some((f64::NEG_INFINITY, f64::INFINITY)),
        _ => None,
    }
}

/// The parts that all hold where a node does, or where it does not; each with whether it holds itself.
fn parted<'a>(node: &'a IdedExpr, holds: bool, parts: &mut Vec<(&'a IdedExpr, bool)>) {
    if let Expr::Call(call) = &node.expr {
        let joins = if holds {
            operators::LOGICAL_AND
        } else {
            operators::LOGICAL_OR
        };
        if call.func_name == joins {
            return call.args.iter().for_each(|it| parted(it, holds, parts));
        }
        if call.func_name == operators::LOGICAL_NOT {
            return call.args.iter().for_each(|it| parted(it, !holds, parts));
        }
    }
    parts.push((node, holds));
}

/// Whether parts can not all hold.
fn exclude(parts: &[(&IdedExpr, bool)]) -> bool {
    let mut possible: Vec<(&IdedExpr, Possible<'_>)> = Vec::new();
    for (n, (part, holds)) in parts.iter().enumerate() {
        let before = parts.iter().take(n);
        if before
            .into_iter()
            .any(|(other, of_other)| holds != of_other && is_same(part, other))
        {
            return true;
        }
        let Some((of, said)) = said(part, *holds) else {
            continue;
        };
        let known = possible.iter().position(|(it, _)| is_same(it, of));
        let known = known.unwrap_or_else(|| {
            let mut any = Possible::any();
            if let Some((from, to)) = bounds(of) {
                (any.from, any.to) = (from, to);
            }
            possible.push((of, any));
            possible.len() - 1
        });
        if let Some((_, known)) = possible.get_mut(known) {
            known.narrow(said);
        }
    }
    // One that excludes itself is told by itself.
    parts.len() > 1 && possible.iter().any(|(_, it)| it.is_empty())
}

fn is_path(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Select(select) if path(select).as_deref() == Some("request.path"))
}

/// Whether a pattern certainly wants something else than a slash at the beginning of a text.
fn is_beside_a_slash(pattern: &str) -> bool {
    let Some(rest) = pattern.strip_prefix('^') else {
        return false;
    };
    let mut rest = rest.chars();
    rest.next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && !rest.next().is_some_and(|it| "?*{".contains(it))
        && !pattern.contains('|')
}

/// Whether a text has dot segments in it that a canonical path has not, as `name` looks for it.
fn has_dots(name: &str, part: &str) -> bool {
    let ends = |dots: &str| name == "endsWith" && part.ends_with(dots);
    part.contains("/../") || part.contains("/./") || ends("/..") || ends("/.")
}

struct Doubts<'a> {
    /// The expression as it is written.
    written: &'a str,
    found: Vec<WhenError>,
}

impl Doubts<'_> {
    fn doubt(&mut self, about: &str, message: String, hint: &str) {
        self.found.push(WhenError {
            at: self.written.find(about).unwrap_or(0),
            ..WhenError::new(message, hint)
        });
    }

    fn visit(&mut self, node: &IdedExpr) {
        match &node.expr {
            Expr::Call(call) => match call.func_name.as_str() {
                operators::LOGICAL_AND => self.joined(node, true),
                operators::LOGICAL_OR => self.joined(node, false),
                _ => {
                    let before = self.found.len();
                    self.call(call);
                    if self.found.len() > before {
                        return;
                    }
                    let parts = call.target.as_deref().into_iter().chain(&call.args);
                    parts.for_each(|it| self.visit(it));
                }
            },
            Expr::Comprehension(it) => {
                // What it makes of the condition joins that with what came before.
                if let Expr::Call(call) = &it.loop_step.expr {
                    call.args.iter().skip(1).for_each(|it| self.visit(it));
                }
            }
            _ => {}
        }
    }

    /// What `&&` joins, or `||`.
    fn joined(&mut self, node: &IdedExpr, all: bool) {
        let mut parts = Vec::new();
        // `||` always holds where what is the opposite of its parts never does.
        parted(node, all, &mut parts);
        let before = self.found.len();
        parts.iter().for_each(|(part, _)| self.visit(part));
        if self.found.len() > before || !exclude(&parts) {
            return;
        }
        let (about, message, hint) = if all {
            (
                "&&",
                "what `&&` joins never holds together",
                "one part excludes another: was `||` meant?",
            )
        } else {
            (
                "||",
                "what `||` joins always holds",
                "where one part does not, another does: was `&&` meant?",
            )
        };
        self.doubt(about, message.to_owned(), hint);
    }

    fn call(&mut self, call: &CallExpr) {
        let name = call.func_name.as_str();
        let parts: Vec<_> = call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .collect();
        let [first, second] = parts.as_slice() else {
            return;
        };
        let (first, second) = (*first, *second);
        let part = text(second).unwrap_or_default();
        match name {
            "matches" if is_path(first) && is_beside_a_slash(part) => {
                let message = format!("no path is found by the pattern `{}`", quoted(part));
                self.doubt(part, message, "a path begins with `/`: `^/`");
            }
            "contains" | "startsWith" | "endsWith" if is_path(first) && has_dots(name, part) => {
                let message = format!("no path has `{}` there", quoted(part));
                let hint = "the path is the canonical one: without `.` and `..`";
                self.doubt(part, message, hint);
            }
            "matches" => {
                if let Some(pattern) = text(second).filter(|it| is_everywhere(it)) {
                    let message =
                        format!("the pattern `{}` is found in every text", quoted(pattern));
                    self.doubt(name, message, "`^` and `$` are the ends of a text");
                }
            }
            "contains" | "startsWith" | "endsWith" if text(second) == Some("") => {
                let message = format!("`{name}('')` always holds");
                self.doubt(name, message, "say which text is meant, or take it out");
            }
            operators::IN => {
                if matches!(&second.expr, Expr::List(list) if list.elements.is_empty()) {
                    let message = "`in []` never holds".to_owned();
                    self.doubt("[]", message, "say what is in the list, or take it out");
                }
            }
            _ => self.comparison(name, first, second),
        }
    }

    fn comparison(&mut self, operator: &str, first: &IdedExpr, second: &IdedExpr) {
        let on_equal = match operator {
            operators::EQUALS | operators::LESS_EQUALS | operators::GREATER_EQUALS => true,
            operators::NOT_EQUALS | operators::LESS | operators::GREATER => false,
            _ => return,
        };
        let word = |holds| if holds { "always" } else { "never" };
        if is_same(first, second) {
            let message = format!("what is compared with itself {} holds", word(on_equal));
            return self.doubt(
                "",
                message,
                "compare it with something else, or take it out",
            );
        }
        let (of, constant, operator) = match (literal(first), literal(second)) {
            (None, Some(constant)) => (first, constant, operator),
            (Some(constant), None) => (second, constant, mirrored(operator)),
            _ => return,
        };
        let (Some((from, to)), Some(number)) = (bounds(of), value(constant)) else {
            return;
        };
        let holds = match operator {
            operators::LESS if to < number => true,
            operators::LESS if from >= number => false,
            operators::LESS_EQUALS if to <= number => true,
            operators::LESS_EQUALS if from > number => false,
            operators::GREATER if from > number => true,
            operators::GREATER if to <= number => false,
            operators::GREATER_EQUALS if from >= number => true,
            operators::GREATER_EQUALS if to < number => false,
            operators::EQUALS | operators::NOT_EQUALS if number < from || number > to => !on_equal,
            _ => return,
        };
        let variable = match &of.expr {
            Expr::Select(select) => path(select),
            _ => None,
        };
        let variable = variable.unwrap_or_else(|| "size".to_owned());
        let hint = range(&variable).map_or_else(
            || "it is 0 or more".to_owned(),
            |known| range_in_words(&variable, known),
        );
        let message = format!("this comparison of `{variable}` {} holds", word(holds));
        self.doubt(&variable, message, &hint);
    }
}
