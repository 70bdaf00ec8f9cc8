//! The regular expressions of `matches`.
//!
//! Most have a small automaton that takes one step for each byte of a text, whatever the text, and run as that. The
//! others run in the `regex` crate, where it may come to following each of their places over each byte.

use regex::{Regex, RegexBuilder};
use regex_automata::Input;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_syntax::hir::{Hir, HirKind};

use super::WhenError;
use crate::diagnostic::quoted;

/// How large a compiled regular expression may be, in bytes. A larger one is refused.
const MAX_REGEX: usize = 64 * 1024;

/// How many places a regular expression may have. One with more is refused: each may have to be followed over
/// each byte of a text.
const MAX_PLACES: u64 = 250;

/// How much memory each regular expression may take for what it has learnt of texts, in bytes. It forgets the rest.
const MAX_LEARNT: usize = 64 * 1024;

const TOO_LARGE: &str = "say less with it: fewer or smaller counts in `{…}`, `[a-z0-9]` instead of `\\w`; `startsWith`, `endsWith` and `contains` say much, and a rule can be made two";

/// How large an automaton may be, and how much memory it may take to make it, in bytes: both bound the time that it
/// takes to find out that a pattern has no small one.
const MAX_AUTOMATON: usize = 32 * 1024;
const MAX_MAKING: usize = 32 * 1024;

/// A compiled regular expression.
#[derive(Debug)]
pub(super) struct Pattern {
    text: String,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Automaton(Box<dense::DFA<Vec<u32>>>),
    /// With the number of its places.
    Regex(Regex, u64),
}

impl Pattern {
    /// # Errors
    /// It is none, or too large.
    pub(super) fn new(text: &str) -> Result<Self, WhenError> {
        let places = match regex_syntax::parse(text) {
            Ok(hir) => places(&hir),
            Err(error) => return Err(no_pattern(text, &error.to_string())),
        };
        if places > MAX_PLACES {
            let message = format!(
                "the pattern `{}` is too large: with its counts written out it has {places} places, and at most {MAX_PLACES} can be",
                quoted(text)
            );
            return Err(WhenError::new(message, TOO_LARGE));
        }
        let made = |engine| Self {
            text: text.to_owned(),
            engine,
        };
        if let Some(automaton) = automaton(text) {
            return Ok(made(Engine::Automaton(Box::new(automaton))));
        }
        let mut builder = RegexBuilder::new(text);
        let builder = builder.size_limit(MAX_REGEX).dfa_size_limit(MAX_LEARNT);
        match builder.build() {
            Ok(regex) => Ok(made(Engine::Regex(regex, places))),
            Err(regex::Error::CompiledTooBig(_)) => {
                let message = format!(
                    "the pattern `{}` is too large: compiled it has more than {MAX_REGEX} bytes",
                    quoted(text)
                );
                Err(WhenError::new(message, TOO_LARGE))
            }
            Err(error) => Err(no_pattern(text, &error.to_string())),
        }
    }

    /// As it is written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How many places of it may have to be followed at once.
    pub(super) const fn places(&self) -> u64 {
        match self.engine {
            Engine::Automaton(_) => 1,
            Engine::Regex(_, places) => places,
        }
    }

    /// Whether it is found in a text. `None`: it cannot be told, which only an automaton made in another way says.
    pub(super) fn is_match(&self, text: &str) -> Option<bool> {
        match &self.engine {
            Engine::Automaton(automaton) => {
                let input = Input::new(text).earliest(true);
                let found = automaton.try_search_fwd(&input);
                found.ok().map(|found| found.is_some())
            }
            Engine::Regex(regex, _) => Some(regex.is_match(text)),
        }
    }
}

/// The automaton of a pattern, if that is a small one.
fn automaton(text: &str) -> Option<dense::DFA<Vec<u32>>> {
    let config = dense::Config::new()
        .start_kind(StartKind::Unanchored)
        .dfa_size_limit(Some(MAX_AUTOMATON))
        .determinize_size_limit(Some(MAX_MAKING));
    dense::Builder::new().configure(config).build(text).ok()
}

/// Whether a pattern is found in every text.
pub(super) fn is_everywhere(text: &str) -> bool {
    regex_syntax::parse(text).is_ok_and(|hir| {
        let properties = hir.properties();
        properties.minimum_len() == Some(0) && properties.look_set().is_empty()
    })
}

fn no_pattern(text: &str, error: &str) -> WhenError {
    let last = error.lines().last().unwrap_or_default();
    let last = last.trim_start_matches("error: ");
    WhenError::new(
        format!("`{}` is not a regular expression: {last}", quoted(text)),
        "without look-around and back-references; a backslash is written twice, or r'…' around it",
    )
}

/// How many places a pattern has with its counts written out: for each character or class one, and for each way
/// that it parts into. At no byte of a text are more of them followed.
fn places(hir: &Hir) -> u64 {
    match hir.kind() {
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => u64::try_from(literal.0.len()).unwrap_or(u64::MAX),
        HirKind::Capture(capture) => places(&capture.sub),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1);
            let ways = repetition.max.map_or(1, |max| max - repetition.min);
            places(&repetition.sub)
                .saturating_mul(u64::from(times))
                .saturating_add(u64::from(ways))
        }
        HirKind::Concat(parts) => sum(parts),
        HirKind::Alternation(parts) => {
            let ways = u64::try_from(parts.len()).unwrap_or(u64::MAX);
            sum(parts).saturating_add(ways)
        }
    }
}

fn sum(parts: &[Hir]) -> u64 {
    parts.iter().map(places).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::{Engine, Pattern};
    use regex::Regex;

    #[test]
    fn what_is_ordinary_has_a_small_automaton_and_says_what_the_expression_says() {
        for (pattern, is_small) in [
            ("^/v[0-9]+/users/[^/]+$", true),
            ("(secret|password|token)", true),
            ("(?i)^/admin(/.*)?$", true),
            ("\\.(png|jpe?g)$", true),
            ("^$", true),
            ("^\\w+$", false),
            ("\\badmin\\b", false),
            ("[ab].{20}c", false),
        ] {
            let made = Pattern::new(pattern).unwrap();
            let has_one = matches!(made.engine, Engine::Automaton(_));
            assert_eq!(has_one, is_small, "{pattern}");
            let regex = Regex::new(pattern).unwrap();
            for text in [
                "",
                "/v1/users/é",
                "/v1/users/a/b",
                "/ADMIN/x",
                "an admin",
                "a.jpeg",
                "token",
                "🐚",
            ] {
                assert_eq!(
                    made.is_match(text),
                    Some(regex.is_match(text)),
                    "{pattern} {text}"
                );
            }
        }
    }

    #[test]
    fn a_pattern_is_as_large_as_its_counts() {
        for (pattern, told) in [
            ("[ab][ -~]{400}[cd][ -~]{400}[ab]000", "it has 806 places"),
            ("a{1000}{1000}", "too large"),
            ("(((a{99}){99}){99}){99}", "too large"),
            ("\\w{100}", "compiled it has more than 65536 bytes"),
        ] {
            let error = Pattern::new(pattern).unwrap_err();
            assert!(error.message.contains(told), "{}", error.message);
            assert!(
                error.hint.contains("fewer or smaller counts"),
                "{}",
                error.hint
            );
        }
        for pattern in ["(", "(?=a)", "a{2,1}"] {
            let error = Pattern::new(pattern).unwrap_err();
            assert!(error.hint.contains("look-around"), "{}", error.hint);
        }
    }
}
