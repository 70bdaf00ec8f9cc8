//! What an expression may say.

use agentguard_model::ArgumentType;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators,
};
use cel::parser::pratt_parser::{Lexer, TokenKind};
use cel::parser::{Expression, PrattParser};
use http::header::HeaderName;

use super::doubts::doubts;
use super::pattern::Pattern;
use super::shape::{is_constant, looks, mentions, path, text};
use super::{COMPILED, Declared, LooksAt, MAX_DEPTH, MAX_NODES, MAX_TEXT, Parts, When, WhenError};
use crate::diagnostic::{nearest, quoted};
use crate::load::requests::NOT_PASSED_ON;
use crate::load::tool::not_a_pointer;

/// The variables, each with whether it is a map, of which an entry is named.
const VARIABLES: [(&str, bool); 27] = [
    ("agent.name", false),
    ("agent.labels", true),
    ("context.user", false),
    ("context.session", false),
    ("context.workflow", false),
    ("context.purpose", false),
    ("destination.host", false),
    ("destination.ip", false),
    ("destination.port", false),
    ("destination.transport", false),
    ("request.method", false),
    ("request.path", false),
    ("request.headers", true),
    ("request.query", true),
    ("llm.provider", false),
    ("llm.operation", false),
    ("llm.model", false),
    ("llm.stream", false),
    ("llm.max_output_tokens", false),
    (TOOLS, false),
    ("tool.server", false),
    ("tool.name", false),
    ("tool.method", false),
    (ARGUMENTS, true),
    ("time.hour", false),
    ("time.minute", false),
    ("time.weekday", false),
];

/// The one variable that is a list.
const TOOLS: &str = "llm.tools";

/// The arguments of a call, by JSON Pointer.
pub(super) const ARGUMENTS: &str = "tool.arguments";

/// What `all`, `exists` and their like hold between their steps; nobody can write it.
const COUNTED: &str = "@result";

/// What later versions will have, and what it waits for.
const LATER: [(&str, &str); 4] = [
    ("data", "this version has no detectors"),
    ("risk", "this version has no risk score"),
    ("budget", "expressions cannot ask budgets in this version"),
    ("threat", "this version has no threat level"),
];

/// The functions beside the operators.
const FUNCTIONS: [&str; 7] = [
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "size",
    "int",
    "string",
];

const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::NOT_STRICTLY_FALSE,
];

/// What an expression looks like.
const EXAMPLE: &str = "like `request.method == 'GET' && !request.path.startsWith('/admin/')`, with brackets and quotes in pairs";

/// Parses and checks an expression.
///
/// # Errors
/// All that is wrong with it; of what has no form, that alone.
pub(super) fn expression(text: &str, declared: &Declared<'_>) -> Result<When, Vec<WhenError>> {
    if text.len() > MAX_TEXT {
        let message = format!(
            "an expression has at most {MAX_TEXT} bytes, and this one {}",
            text.len()
        );
        return Err(vec![WhenError::new(message, "make two rules of it")]);
    }
    let mut expression = parse(text)?;
    let mut check = Check {
        text,
        tokens: tokens(text),
        matches: 0,
        declared,
        looks_at: LooksAt::default(),
        patterns: Vec::new(),
        found: Vec::new(),
        doubts: Vec::new(),
        nodes: 0,
        repeated: Parts::default(),
        bound: Vec::new(),
    };
    // As it is written: numbers stand for patterns behind it.
    check.doubts = doubts(text, &expression);
    check.visit(&mut expression);
    if check.found.is_empty() && is_constant(&expression) {
        check.error(
            "",
            "it, or a part that `&&`, `||` or `!` joins, is the same always: it looks at nothing",
            "take the part out; a rule without `when` matches always",
        );
    }
    if check.nodes > MAX_NODES {
        let message = format!(
            "an expression has at most {MAX_NODES} parts, and this one {}",
            check.nodes
        );
        check
            .found
            .push(WhenError::new(message, "make two rules of it"));
    }
    if !check.found.is_empty() {
        check.found.dedup();
        return Err(check.found);
    }
    Ok(When {
        text: text.to_owned(),
        expression,
        parts: check.parts(),
        patterns: check.patterns.into(),
        looks_at: check.looks_at,
        doubts: check.doubts,
    })
}

fn parse(text: &str) -> Result<Expression, Vec<WhenError>> {
    PrattParser::new()
        .max_recursion_depth(MAX_DEPTH)
        .parse(text)
        .map_err(|errors| {
            let errors = errors.errors.into_iter().map(|error| {
                let message = error.msg.lines().next().unwrap_or_default();
                WhenError {
                    at: text.floor_char_boundary(offset(text, error.pos)),
                    ..WhenError::new(quoted(message), EXAMPLE)
                }
            });
            let mut errors: Vec<_> = errors.collect();
            // To the parser each byte of a character that is none of the language's is an error of its own.
            errors.dedup();
            errors.truncate(3);
            errors
        })
}

pub(super) struct Check<'a> {
    /// The expression as it is written.
    text: &'a str,
    /// Where its tokens begin, but for texts in quotes.
    tokens: Vec<usize>,
    /// How many calls of `matches` were seen, which come as they are written.
    matches: usize,
    declared: &'a Declared<'a>,
    pub(super) looks_at: LooksAt,
    patterns: Vec<Pattern>,
    found: Vec<WhenError>,
    /// What was probably not meant.
    doubts: Vec<WhenError>,
    nodes: usize,
    /// What comprehensions evaluate more often than once.
    repeated: Parts,
    /// The variables of the comprehension that this is inside of.
    bound: Vec<String>,
}

impl Check<'_> {
    /// `about`: what is wrong, as it is written. Where it stands first is where the error is.
    pub(super) fn error(&mut self, about: &str, message: impl Into<String>, hint: &str) {
        let at = self.written(about).next();
        let at = at.or_else(|| self.text.find(about)).unwrap_or(0);
        self.error_at(at, message, hint);
    }

    fn error_at(&mut self, at: usize, message: impl Into<String>, hint: &str) {
        self.found.push(WhenError {
            at,
            ..WhenError::new(message, hint)
        });
    }

    /// Where something is written that is not in quotes.
    fn written<'t>(&'t self, about: &'t str) -> impl Iterator<Item = usize> + 't {
        let tokens = self.tokens.iter().copied();
        tokens.filter(move |at| {
            let from = self.text.get(*at..);
            from.is_some_and(|from| from.starts_with(about))
        })
    }

    /// How much there is to evaluate.
    fn parts(&self) -> Parts {
        let Parts {
            fixed,
            per_tool,
            looks,
        } = self.repeated;
        Parts {
            fixed: fixed.saturating_add(wide(self.nodes)),
            per_tool,
            looks: looks.saturating_add(1),
        }
    }

    fn visit(&mut self, node: &mut IdedExpr) {
        self.nodes += 1;
        match &mut node.expr {
            Expr::Literal(_) => {}
            Expr::List(list) => list.elements.iter_mut().for_each(|it| self.visit(it)),
            Expr::Ident(name) => {
                if !self.bound.contains(name) {
                    let name = name.clone();
                    self.variable(&name);
                }
            }
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Map(_) | Expr::Struct(_) => {
                self.error("{", "`{…}` is not known here", "lists are: `['a', 'b']`");
            }
            Expr::Unspecified => self.error("", "a part of it says nothing", "take it out"),
        }
    }

    fn select(&mut self, select: &mut SelectExpr) {
        let Some(path) = path(select) else {
            self.visit(&mut select.operand);
            let about = format!(".{}", select.field);
            self.error(
                &about,
                format!("`.{}` is asked of what has no parts", quoted(&select.field)),
                "variables are written as a whole, like `request.method`",
            );
            return;
        };
        // An entry of a map can be written like a part of a variable.
        if let Some((of, name)) = path.rsplit_once('.')
            && is_map(of)
        {
            self.entry(of, name);
        } else if select.test {
            self.error(
                "has(",
                format!("`has({})` says nothing: it is always there", quoted(&path)),
                "compare it with '' instead",
            );
        } else {
            self.variable(&path);
        }
    }

    fn variable(&mut self, path: &str) {
        if let Some(name) = path.strip_prefix("switches.") {
            match self.declared.switches.get(name) {
                Some(declared) => {
                    let switch = (name.to_owned(), *declared);
                    if !self.looks_at.switches.contains(&switch) {
                        self.looks_at.switches.push(switch);
                    }
                }
                None => {
                    let known = self.declared.switches.keys().map(String::as_str);
                    let hint = nearest(name, known).map_or_else(
                        || {
                            "switches are declared at the top: `switches: {incident: false}`"
                                .to_owned()
                        },
                        |near| format!("did you mean `switches.{near}`?"),
                    );
                    self.error(
                        path,
                        format!("no switch is called `{}`", quoted(name)),
                        &hint,
                    );
                }
            }
            return;
        }
        match VARIABLES.iter().find(|(name, _)| *name == path) {
            Some((_, true)) => {
                let message = format!("`{path}` is not looked at as a whole");
                self.error(path, message, &format!("name an entry: `{path}['name']`"));
            }
            Some((_, false)) => {
                let call = path.strip_prefix("llm.");
                let message = path.strip_prefix("tool.");
                self.looks_at.request |=
                    path.starts_with("request.") || call.is_some() || message.is_some();
                self.looks_at.tool |= message.is_some();
                self.looks_at.message |= message.is_some_and(|it| it != "server");
                self.looks_at.path |= path == "request.path";
                self.looks_at.llm |= call.is_some();
                self.looks_at.call |=
                    call.is_some_and(|it| !matches!(it, "provider" | "operation"));
                self.looks_at.clock |= path.starts_with("time.");
            }
            None => self.unknown(path),
        }
    }

    fn unknown(&mut self, path: &str) {
        let root = path.split('.').next().unwrap_or_default();
        if let Some((_, why)) = LATER.iter().find(|(name, _)| *name == root) {
            let hint = format!("{why}; leave the rule out until one does");
            return self.error(path, format!("`{}` is not there yet", quoted(path)), &hint);
        }
        let names = VARIABLES.iter().map(|(name, _)| *name);
        let hint = nearest(path, names.clone()).map_or_else(
            || {
                format!(
                    "there are {} and switches.NAME",
                    names.collect::<Vec<_>>().join(", ")
                )
            },
            |near| format!("did you mean `{near}`?"),
        );
        self.error(path, format!("there is no `{}`", quoted(path)), &hint);
    }

    /// An entry of a map that it looks at.
    fn entry(&mut self, of: &str, name: &str) {
        if name.contains('*') && of != "agent.labels" {
            let doubt = WhenError {
                at: self.text.find(name).unwrap_or(0),
                ..WhenError::new(
                    format!("`*` in `{}` stands for itself", quoted(name)),
                    "an entry is looked at by its whole name",
                )
            };
            note(&mut self.doubts, doubt);
        }
        match of {
            "agent.labels" => note(&mut self.looks_at.labels, name.to_owned()),
            "request.query" => {
                self.looks_at.request = true;
                note(&mut self.looks_at.parameters, name.to_owned());
            }
            ARGUMENTS => {
                self.looks_at.request = true;
                self.looks_at.tool = true;
                self.looks_at.message = true;
                if let Some((message, hint)) = not_a_pointer(name) {
                    return self.error(name, message, hint);
                }
                note(&mut self.looks_at.arguments, name.to_owned());
                // What is no text is told from one.
                let kind = (self.declared.type_of)(name);
                if let Some(kind) = kind.filter(|it| *it != ArgumentType::String) {
                    self.looks_at.types.insert(name.to_owned(), kind);
                }
            }
            _ => {
                self.looks_at.request = true;
                if HeaderName::try_from(name).is_ok_and(|name| NOT_PASSED_ON.contains(&name)) {
                    let message =
                        format!("`{name}` is not passed on as it comes, so no rule can look at it");
                    return self.error(
                        name,
                        message,
                        "a name is `destination.host`, and a size is for `body_over`",
                    );
                }
                let is_lower = !name.bytes().any(|it| it.is_ascii_uppercase());
                match HeaderName::try_from(name) {
                    Ok(name) if is_lower => note(&mut self.looks_at.fields, name),
                    Ok(_) => self.error(
                        name,
                        format!("`{}` is not in lower case", quoted(name)),
                        "header fields are looked up in lower case",
                    ),
                    Err(_) => self.error(
                        name,
                        format!("`{}` is not the name of a header field", quoted(name)),
                        "like 'content-type'",
                    ),
                }
            }
        }
    }

    fn call(&mut self, call: &mut CallExpr) {
        let name = call.func_name.as_str();
        let is_entry = name == operators::INDEX || name == operators::IN;
        if is_entry && call.target.is_none() && self.entry_call(call) {
            return;
        }
        if name == "matches" {
            self.regex(call);
        } else if name == operators::INDEX {
            self.error(
                "[",
                "`[…]` is for entries of maps",
                "like `request.headers['content-type']`, with the name in quotes",
            );
        } else if name == operators::ADD && !self.bound.is_empty() && !self.counts(call) {
            self.error(
                "+",
                "`+` is not known inside of `all`, `exists` and their like",
                "take it out of there",
            );
        } else if !FUNCTIONS.contains(&name) && !OPERATORS.contains(&name) && name != operators::IN
        {
            let hint = nearest(name, FUNCTIONS).map_or_else(
                || {
                    format!(
                        "there are {}, and all, exists, exists_one for lists",
                        FUNCTIONS.join(", ")
                    )
                },
                |near| format!("did you mean `{near}`?"),
            );
            self.error(
                name,
                format!("there is no function `{}`", quoted(name)),
                &hint,
            );
        }
        if let Some(target) = &mut call.target {
            self.visit(target);
        }
        call.args.iter_mut().for_each(|it| self.visit(it));
        self.same_kind(call);
        self.division(call);
        self.number(call);
        self.never_found(call);
    }

    /// Whether it is how `exists_one` counts.
    fn counts(&self, call: &CallExpr) -> bool {
        let [counted, one] = call.args.as_slice() else {
            return false;
        };
        let is_counted = matches!(&counted.expr, Expr::Ident(name) if name == COUNTED && self.bound.contains(name));
        is_counted && matches!(&one.expr, Expr::Literal(LiteralValue::Int(_)))
    }

    /// `map['name']` or `'name' in map`.
    fn entry_call(&mut self, call: &CallExpr) -> bool {
        let [first, second] = call.args.as_slice() else {
            return false;
        };
        let (map, name) = if call.func_name == operators::INDEX {
            (first, second)
        } else {
            (second, first)
        };
        let Expr::Select(select) = &map.expr else {
            return false;
        };
        let Some(of) = path(select).filter(|of| is_map(of)) else {
            return false;
        };
        self.nodes += 3;
        match text(name) {
            Some(name) => {
                let name = name.to_owned();
                self.entry(&of, &name);
            }
            None => self.error(
                &of,
                format!("which entry of `{of}` is looked at has to stand in the rule"),
                &format!("`{of}['name']`"),
            ),
        }
        true
    }

    /// Compiles what `matches` is given, and has its number stand in its place.
    fn regex(&mut self, call: &mut CallExpr) {
        let at = self.written("matches").nth(self.matches).unwrap_or(0);
        self.matches += 1;
        let mut args = std::mem::take(&mut call.args);
        let of = call.target.take().map(|it| *it);
        let pattern = args.pop();
        let of = of.or_else(|| args.pop());
        let (Some(of), Some(pattern), true) = (of, pattern, args.is_empty()) else {
            self.error_at(
                at,
                "`matches` takes a text and a pattern",
                "`request.path.matches('^/v[0-9]+/')`",
            );
            return;
        };
        let Some(room) = self.declared.regexes.get().checked_sub(1) else {
            return self.error_at(
                at,
                "a policy has at most 500 regular expressions",
                "`startsWith`, `endsWith` and `contains` say most of them",
            );
        };
        self.declared.regexes.set(room);
        match text(&pattern).map(Pattern::new) {
            Some(Ok(compiled)) => {
                let number = i64::try_from(self.patterns.len()).unwrap_or(i64::MAX);
                self.patterns.push(compiled);
                COMPILED.clone_into(&mut call.func_name);
                let number = LiteralValue::Int(number.into());
                let number = IdedExpr {
                    id: pattern.id,
                    expr: Expr::Literal(number),
                };
                call.args = vec![of, number];
                // The number is what it was before: nothing to look at.
                if let Some(of) = call.args.first_mut() {
                    self.visit(of);
                }
            }
            Some(Err(error)) => self.error_at(at, error.message, &error.hint),
            None => self.error_at(
                at,
                "the pattern of `matches` has to stand in the rule",
                "write it in quotes",
            ),
        }
        call.target = None;
    }

    fn comprehension(&mut self, it: &mut ComprehensionExpr) {
        if !self.bound.is_empty() {
            self.error(
                "",
                "`all`, `exists` and their like cannot stand in each other",
                "make two rules of it",
            );
            return;
        }
        let tools = match &it.iter_range.expr {
            Expr::Select(select) => path(select).is_some_and(|path| path == TOOLS),
            _ => false,
        };
        if !tools && !matches!(it.iter_range.expr, Expr::List(_)) {
            self.error(
                "",
                "`all`, `exists` and their like go through a list that stands in the rule, or `llm.tools`",
                "`['/a/', '/b/'].exists(p, request.path.startsWith(p))`",
            );
        }
        self.visit(&mut it.iter_range);
        self.bound
            .extend([it.iter_var.clone(), it.accu_var.clone()]);
        self.bound.extend(it.iter_var2.clone());
        let before = self.nodes;
        for part in [
            &mut it.accu_init,
            &mut it.loop_cond,
            &mut it.loop_step,
            &mut it.result,
        ] {
            self.visit(part);
        }
        // A literal in there is looked at each time.
        let each = wide(self.nodes - before).saturating_add(wide(self.text.len()) / 8);
        let parts = &mut self.repeated;
        match &it.iter_range.expr {
            Expr::List(list) => {
                parts.fixed = parts
                    .fixed
                    .saturating_add(each.saturating_mul(wide(list.elements.len())));
            }
            _ => parts.per_tool = parts.per_tool.saturating_add(each),
        }
        if looks(&it.iter_range, &[]) {
            let mentions =
                mentions(&it.loop_step, &it.iter_var) + mentions(&it.loop_cond, &it.iter_var);
            parts.looks = parts.looks.max(wide(mentions));
        }
        self.bound.clear();
    }
}

/// Where the tokens of an expression begin, but for texts in quotes.
fn tokens(text: &str) -> Vec<usize> {
    let mut lexer = Lexer::new(text);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.lex();
        match token.kind {
            TokenKind::TokEnd | TokenKind::TokError => return tokens,
            TokenKind::TokWhitespace | TokenKind::TokString => {}
            _ => tokens.push(token.start),
        }
    }
}

/// Where a line and a column, both from 1 and the column in bytes, are in a text. A place that is none is
/// the beginning.
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let before = |count: isize| usize::try_from(count.saturating_sub(1)).unwrap_or(0);
    let lines = text.split_inclusive('\n').take(before(line));
    (lines.map(str::len).sum::<usize>() + before(column)).min(text.len())
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub(super) fn note<T: PartialEq>(list: &mut Vec<T>, entry: T) {
    if !list.contains(&entry) {
        list.push(entry);
    }
}

fn is_map(path: &str) -> bool {
    VARIABLES.contains(&(path, true))
}
