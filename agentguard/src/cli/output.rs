//! Data to standard output, words to standard error.
//!
//! What is printed for people may come from an agent: process names, paths, HTTP methods. It is
//! made harmless by [`printable`] before it reaches a terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

/// The form of the data.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned, for people; may change
    #[default]
    Table,
    /// One JSON document, for programs; stable
    Json,
    /// One JSON document a line, for programs; stable
    Jsonl,
}

/// Standard output. A reader that goes away (`| head`) ends the program quietly and well.
pub(crate) struct Output {
    pub(crate) format: Format,
    to: Box<dyn Write>,
    /// Columns of the terminal, if it is one.
    width: Option<usize>,
}

impl Output {
    pub(crate) fn stdout(format: Format) -> Self {
        let stdout = io::stdout();
        let width = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()
            .map(|size| usize::from(size.ws_col))
            .filter(|columns| *columns > 0);
        Self {
            format,
            to: Box::new(stdout.lock()),
            width,
        }
    }

    /// A whole answer: JSON as one document, JSON lines as one line.
    pub(crate) fn value<T: Serialize>(
        &mut self,
        value: &T,
        words: impl FnOnce() -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => self.text(&words()),
            Format::Json => self.pretty(value),
            Format::Jsonl => self.line(value),
        }
    }

    /// Whether the data is for people.
    pub(crate) fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// A list: JSON as one array, JSON lines as one line for each.
    pub(crate) fn list<T: Serialize>(
        &mut self,
        items: &[T],
        table: impl FnOnce() -> Table,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => self.table(&table()),
            Format::Json => self.pretty(&items),
            Format::Jsonl => items.iter().try_for_each(|item| self.line(item)),
        }
    }

    /// A table for people, cut to the terminal.
    pub(crate) fn table(&mut self, table: &Table) -> io::Result<()> {
        let text = table.render(self.width);
        self.text(&text)
    }

    /// Text for people, with a line end.
    pub(crate) fn text(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            self.to.write_all(b"\n")?;
        }
        self.to.flush()
    }

    /// One JSON document on one line.
    pub(crate) fn line<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.to, value)?;
        self.to.write_all(b"\n")?;
        self.to.flush()
    }

    /// One JSON document on many lines, in every form.
    pub(crate) fn pretty<T: Serialize>(&mut self, value: &T) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut self.to, value)?;
        self.to.write_all(b"\n")?;
        self.to.flush()
    }
}

/// Words, with a line end. Nobody can be told that standard error is closed.
pub(crate) fn say(words: &str) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// A number and a noun that takes an `s`.
pub(crate) fn counted<N: Copy + Display + From<u8> + PartialEq>(number: N, noun: &str) -> String {
    let plural = if number == N::from(1) { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// Rows under a header, aligned. Where the terminal is narrower than the table, the flexible column
/// is cut and marked with `…`; the JSON forms always have it whole.
pub(crate) struct Table {
    header: &'static [&'static str],
    flexible: usize,
    rows: Vec<Vec<String>>,
}

/// Columns that the flexible column keeps however narrow the terminal is.
const FLEXIBLE_MIN: usize = 16;

/// Between two columns.
const GAP: &str = "  ";

impl Table {
    pub(crate) fn new(header: &'static [&'static str], flexible: usize) -> Self {
        Self {
            header,
            flexible,
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        self.rows
            .push(cells.iter().map(|cell| printable(cell)).collect());
    }

    pub(crate) fn render(&self, terminal: Option<usize>) -> String {
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let total = widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
        if let (Some(terminal), Some(width)) = (terminal, widths.get_mut(self.flexible))
            && total > terminal
        {
            let wanted = width.saturating_sub(total - terminal);
            *width = wanted.max(FLEXIBLE_MIN).min(*width);
        }
        let header = self.header.iter().map(|name| (*name).to_owned()).collect();
        let mut out = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            out.push_str(&aligned(row, &widths));
            out.push('\n');
        }
        out
    }
}

/// One row in columns of these widths; a longer cell is cut. Nothing follows the last cell.
fn aligned(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        if index > 0 {
            line.push_str(GAP);
        }
        if cell.chars().count() > *width {
            line.extend(cell.chars().take(width.saturating_sub(1)));
            line.push('…');
        } else {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
    }
    line.truncate(line.trim_end().len());
    line
}

/// A row for a stream, whose later rows are not known: a cell longer than its column pushes the rest
/// to the right.
pub(crate) fn streamed(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if index > 0 {
            line.push_str(GAP);
        }
        let cell = printable(cell);
        let missing = width.saturating_sub(cell.chars().count());
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', missing));
    }
    line.truncate(line.trim_end().len());
    line
}

/// The text with everything that a terminal could obey, or that could make it read otherwise than
/// it is stored (escapes, line ends, bidirectional marks), written as `\u{…}`.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == ' '
            || c.is_ascii_graphic()
            || (!c.is_ascii() && (c.is_alphanumeric() || "…×→µ".contains(c)))
        {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Table, printable, streamed};

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "WHERE", "ID"], 1);
        table.row(&[
            "a".into(),
            "somewhere.far.away.example:443".into(),
            "1".into(),
        ]);
        table.row(&["longer".into(), "near".into(), "22".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_nothing_trails() {
        assert_eq!(
            table().render(None),
            "NAME    WHERE                           ID\n\
             a       somewhere.far.away.example:443  1\n\
             longer  near                            22\n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_the_flexible_column_only() {
        assert_eq!(
            table().render(Some(32)),
            "NAME    WHERE                 ID\n\
             a       somewhere.far.away.…  1\n\
             longer  near                  22\n"
        );
        let narrowest = table().render(Some(3));
        assert!(narrowest.contains("somewhere.far.a…  1"), "{narrowest}");
    }

    #[test]
    fn a_stream_is_pushed_right_rather_than_cut() {
        let cells = ["abc".to_owned(), "d".to_owned()];
        assert_eq!(streamed(&cells, &[2, 2]), "abc  d");
        assert_eq!(streamed(&cells, &[4, 2]), "abc   d");
    }

    #[test]
    fn nothing_an_agent_names_reaches_the_terminal_as_a_command() {
        for (text, shown) in [
            ("curl", "curl"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb", "a\\u{a}b"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{9b}b", "a\\u{9b}b"),
            ("größe", "größe"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }
}
