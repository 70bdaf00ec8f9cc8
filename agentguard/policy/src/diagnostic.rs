//! What is wrong with a document, and where.

use std::fmt;

/// The most diagnostics that are kept for one load. What is beyond is counted, not listed.
pub const MAX_DIAGNOSTICS: usize = 100;

/// Whether a document can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and probably does not say what its author meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// How wrong.
    pub severity: Severity,
    /// The document, as the operator named it.
    pub path: String,
    /// The line, from 1; 0 where the document as a whole is meant.
    pub line: u32,
    /// The column, from 1, in characters; 0 where the document as a whole is meant.
    pub column: u32,
    /// What is wrong, with the offending text.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Diagnostic {
    /// `FILE:LINE:COLUMN: error: MESSAGE`, and on a second line the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}: {}", self.severity, self.message)?;
        write!(f, "\n  hint: {}", self.hint)
    }
}

/// Why documents were refused: at least one error, in the order of the documents.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{}", Listing(.found, *.more))]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
    more: usize,
}

impl Diagnostics {
    /// Keeps the first [`MAX_DIAGNOSTICS`].
    pub(crate) fn new(mut found: Vec<Diagnostic>) -> Self {
        let more = found.len().saturating_sub(MAX_DIAGNOSTICS);
        found.truncate(MAX_DIAGNOSTICS);
        Self { found, more }
    }

    /// The diagnostics.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    /// How many of them are errors and how many warnings, in words: `2 errors, 1 warning`.
    #[must_use]
    pub fn summary(&self) -> String {
        let errors = self.iter().filter(|it| it.severity == Severity::Error);
        let errors = errors.count();
        let warnings = self.found.len() - errors;
        let mut parts = Vec::new();
        for (count, noun) in [(errors, "error"), (warnings, "warning")] {
            match count {
                0 => {}
                1 => parts.push(format!("1 {noun}")),
                _ => parts.push(format!("{count} {noun}s")),
            }
        }
        if self.more > 0 {
            parts.push(format!("{} more", self.more));
        }
        parts.join(", ")
    }

    /// How many were found beyond those listed.
    #[must_use]
    pub const fn more(&self) -> usize {
        self.more
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::new(vec![diagnostic])
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.into_iter()
    }
}

struct Listing<'a>(&'a [Diagnostic], usize);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        if self.1 > 0 {
            write!(f, "\nand {} more", self.1)?;
        }
        Ok(())
    }
}

/// The candidate most like `text`, if one is like enough to be what was meant.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Long texts are no typing errors, and the comparison is quadratic in their length.
    if text.len() > 80 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// `text` for a message: control characters escaped, cut at 80 characters.
pub(crate) fn quoted(text: &str) -> String {
    // Nearly all that a decision says of a request is shown as it is.
    if text.len() <= 80
        && text
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
    {
        return text.to_owned();
    }
    let mut shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    // Quotes are no danger in backticks.
    shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_is_plain_is_shown_as_it_is_and_the_rest_escaped_and_cut() {
        for plain in ["", "GET", "it's \"/v1/x~\"", &"a".repeat(80)] {
            assert_eq!(quoted(plain), plain);
        }
        for (text, shown) in [
            ("a\\b", "a\\\\b"),
            ("a\nb\u{7f}", "a\\nb\\u{7f}"),
            ("\u{202e}é", "\\u{202e}é"),
            (&*"é".repeat(80), &*"é".repeat(80)),
            (&"a".repeat(81), &format!("{}…", "a".repeat(80))),
        ] {
            assert_eq!(quoted(text), shown);
        }
    }
}
