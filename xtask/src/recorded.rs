//! Counts that a table in a document has, held against those of today.

use std::collections::BTreeMap;
use std::ops::Range;

/// How many per cent a count may grow before somebody has to look.
pub(crate) const TOLERANCE: u64 = 5;

/// Instructions, by the name of what takes them.
pub(crate) type Counts = BTreeMap<String, u64>;

/// What there is to say of counts.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Compared {
    /// More than may be.
    pub(crate) wrong: Vec<String>,
    /// Less than was: worth to be recorded.
    pub(crate) told: Vec<String>,
}

/// Holds counts against those that are recorded.
pub(crate) fn compare(recorded: &Counts, counts: &Counts) -> Compared {
    let mut compared = Compared::default();
    for (name, &now) in counts {
        let Some(&before) = recorded.get(name) else {
            compared.wrong.push(format!("{name} is not recorded"));
            continue;
        };
        let change = |word| {
            // In thousandths, without floating point: counts are exact.
            let thousandths = now.abs_diff(before).saturating_mul(1000) / before.max(1);
            let (whole, part) = (thousandths / 10, thousandths % 10);
            format!("{name}: {before} instructions recorded, {now} now ({whole}.{part}% {word})")
        };
        if now.saturating_mul(100) > before.saturating_mul(100 + TOLERANCE) {
            compared.wrong.push(change("more"));
        } else if now.saturating_mul(100 + TOLERANCE) < before.saturating_mul(100) {
            compared.told.push(change("less"));
        }
    }
    for name in recorded.keys().filter(|name| !counts.contains_key(*name)) {
        let gone = format!("{name} is recorded and was not counted");
        compared.wrong.push(gone);
    }
    compared
}

/// The cells of a table's row.
pub(crate) fn cells(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(row.split('|').map(str::trim).collect())
}

/// The lines of the table whose first column is called `first`; empty, behind the last line, where there
/// is none.
pub(crate) fn own_lines(text: &str, first: &str) -> Range<usize> {
    let is_row = |line: &str| cells(line).is_some();
    let is_header = |line: &str| cells(line).is_some_and(|row| row.first() == Some(&first));
    let count = text.lines().count();
    let start = text.lines().position(is_header).unwrap_or(count);
    let rows = text.lines().skip(start).take_while(|line| is_row(line));
    start..start + rows.count()
}

/// The text with another table in the place of that whose first column is called `first`, or at the end.
pub(crate) fn write(text: &str, first: &str, table: &str) -> String {
    let own = own_lines(text, first);
    let mut new = String::new();
    for (number, line) in text.lines().enumerate() {
        if number == own.start {
            new.push_str(table);
        }
        if !own.contains(&number) {
            new.push_str(line);
            new.push('\n');
        }
    }
    if own.is_empty() {
        new.push_str(table);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Counts {
        list.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn what_grows_by_more_than_a_twentieth_is_wrong() {
        let recorded = counts(&[("a", 100), ("b", 100), ("c", 100), ("d", 100), ("f", 100)]);
        let found = counts(&[("a", 105), ("b", 106), ("c", 90), ("e", 1), ("f", 96)]);
        assert_eq!(
            compare(&recorded, &found),
            Compared {
                wrong: vec![
                    "b: 100 instructions recorded, 106 now (6.0% more)".into(),
                    "e is not recorded".into(),
                    "d is recorded and was not counted".into(),
                ],
                told: vec!["c: 100 instructions recorded, 90 now (10.0% less)".into()],
            }
        );
    }

    #[test]
    fn a_count_that_was_nothing_may_not_become_one() {
        let compared = compare(&counts(&[("a", 0)]), &counts(&[("a", 1)]));
        assert_eq!(
            compared.wrong,
            ["a: 0 instructions recorded, 1 now (100.0% more)"]
        );
    }

    #[test]
    fn a_table_is_written_in_its_place_or_at_the_end() {
        let text = "# A\n\n| other |\n| --- |\n\n| it |\n| --- |\n| 1 |\n\nB\n";
        assert_eq!(own_lines(text, "it"), 5..8);
        assert_eq!(
            write(text, "it", "| it |\n"),
            "# A\n\n| other |\n| --- |\n\n| it |\n\nB\n"
        );
        assert_eq!(write("# A\n", "it", "| it |\n"), "# A\n| it |\n");
    }
}
