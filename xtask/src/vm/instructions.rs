//! How many instructions the verifier walked in each program, held against what is recorded in
//! `docs/kernels.md`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use crate::recorded::{self, Compared, Counts, cells, own_lines};

/// The table's file, from the workspace's root.
pub(super) const FILE: &str = "docs/kernels.md";

/// What the table's first column is called.
const FIRST: &str = "program";

/// The counts of each kernel, by its version.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Table(BTreeMap<Version, Counts>);

/// A version of the kernel's makers: 6.1.192. Ordered by its numbers.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Version(Vec<u32>);

impl Version {
    /// By what `uname -r` and `-v` say. Debian's 6.1 calls itself 6.1.0-56-cloud-amd64 in the first and
    /// names its version, `Debian 6.1.192-2`, in the second.
    pub(super) fn of(release: &str, version: &str) -> Self {
        let debian = version
            .split_once("Debian ")
            .map(|(_, rest)| Self::parse(rest));
        match debian {
            Some(debian) if !debian.0.is_empty() => debian,
            _ => Self::parse(release),
        }
    }

    /// The numbers that a text begins with.
    fn parse(text: &str) -> Self {
        let end = text
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(text.len());
        let (numbers, _) = text.split_at(end);
        Self(numbers.split('.').map_while(|n| n.parse().ok()).collect())
    }

    fn same_series(&self, other: &Self) -> bool {
        self.0.iter().take(2).eq(other.0.iter().take(2))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

/// What a test prints of each program: `verified connect4: 1234 instructions`.
pub(super) fn read(lines: &[String]) -> Counts {
    lines
        .iter()
        .filter_map(|line| {
            let (_, rest) = line.split_once("verified ")?;
            let (name, rest) = rest.split_once(": ")?;
            let count = rest.strip_suffix(" instructions")?.parse().ok()?;
            Some((name.to_owned(), count))
        })
        .collect()
}

impl Table {
    /// From the table of a text whose first column is called `program`.
    ///
    /// # Errors
    /// A cell has no number.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let own = own_lines(text, FIRST);
        let lines = text.lines().skip(own.start).take(own.len());
        let mut rows = lines.filter_map(cells);
        let mut table = Self::default();
        let Some(header) = rows.next() else {
            return Ok(table);
        };
        let versions: Vec<Version> = header.iter().skip(1).map(|v| Version::parse(v)).collect();
        for row in rows {
            let Some((program, counts)) = row.split_first() else {
                continue;
            };
            if program.starts_with('-') {
                continue;
            }
            for (version, count) in versions.iter().zip(counts) {
                if *count == NONE {
                    continue;
                }
                let count = count
                    .replace(',', "")
                    .parse()
                    .with_context(|| format!("{FILE}: `{count}` of {program} is no number"))?;
                let column = table.0.entry(version.clone()).or_default();
                column.insert((*program).to_owned(), count);
            }
        }
        Ok(table)
    }

    /// Puts counts in the place of those of the same series.
    pub(super) fn record(&mut self, version: Version, counts: Counts) {
        self.0.retain(|other, _| !other.same_series(&version));
        self.0.insert(version, counts);
    }

    /// The text with this table instead of its own.
    pub(super) fn write(&self, text: &str) -> String {
        recorded::write(text, FIRST, &self.render())
    }

    fn render(&self) -> String {
        let programs: BTreeSet<&String> = self.0.values().flat_map(BTreeMap::keys).collect();
        let mut text = format!("| {FIRST} |");
        for version in self.0.keys() {
            text.push_str(&format!(" {version} |"));
        }
        text.push_str("\n| --- |");
        text.push_str(&" ---: |".repeat(self.0.len()));
        text.push('\n');
        for program in programs {
            text.push_str(&format!("| {program} |"));
            for counts in self.0.values() {
                let count = counts.get(program).map(u64::to_string);
                text.push_str(&format!(" {} |", count.as_deref().unwrap_or(NONE)));
            }
            text.push('\n');
        }
        text
    }

    /// Holds counts against those of the same series, or of the very version where `exact`.
    pub(super) fn compare(&self, version: &Version, counts: &Counts, exact: bool) -> Comparison {
        let recorded = self.0.iter().find(|(other, _)| {
            if exact {
                *other == version
            } else {
                other.same_series(version)
            }
        });
        let Some((_, recorded)) = recorded else {
            return Comparison::NotRecorded;
        };
        Comparison::Compared(recorded::compare(recorded, counts))
    }
}

/// How counts compare to what is recorded.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Comparison {
    /// Nothing is recorded of such a kernel.
    NotRecorded,
    Compared(Compared),
}

/// In a cell without a number.
const NONE: &str = "–";

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Counts {
        list.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn a_version_is_that_of_the_makers() {
        let debian = Version::of(
            "6.1.0-56-cloud-amd64",
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)",
        );
        assert_eq!(debian.to_string(), "6.1.192");
        let host = Version::of("6.18.44-some-host", "#1 SMP");
        assert_eq!(host.to_string(), "6.18.44");
        assert!(Version::parse("6.9.3") < Version::parse("6.12.1"));
    }

    #[test]
    fn what_tests_print_is_read() {
        let lines = [
            "verified connect4: 1234 instructions",
            "test x ... ok",
            "verified y: no instructions",
        ];
        assert_eq!(
            read(&lines.map(str::to_owned)),
            counts(&[("connect4", 1234)])
        );
    }

    #[test]
    fn a_table_that_is_written_is_read_again_and_the_text_around_it_stays() {
        let mut table = Table::default();
        let v = Version::parse;
        table.record(v("6.12.117"), counts(&[("a", 10), ("b", 20)]));
        table.record(v("6.1.100"), counts(&[("a", 1)]));
        table.record(v("6.1.192"), counts(&[("a", 12)]));
        let text = table.write("# Kernels\n\n| program | old |\n| --- |\n\n| other |\n| --- |\n");
        assert_eq!(
            text,
            "# Kernels\n\n| program | 6.1.192 | 6.12.117 |\n| --- | ---: | ---: |\n\
             | a | 12 | 10 |\n| b | – | 20 |\n\n| other |\n| --- |\n"
        );
        assert_eq!(Table::parse(&text).unwrap(), table);
        assert_eq!(
            Table::parse(&Table::default().write("")).unwrap(),
            Table::default()
        );
        assert!(Table::parse("| program | 6.1 |\n| --- | --- |\n| a | b |\n").is_err());
    }

    #[test]
    fn a_kernel_is_held_against_one_of_its_series_or_its_very_version() {
        let mut table = Table::default();
        table.record(Version::parse("6.1.192"), counts(&[("a", 100), ("b", 100)]));
        let found = counts(&[("a", 105), ("b", 106)]);
        let newer = Version::parse("6.1.200");
        assert_eq!(
            table.compare(&newer, &found, false),
            Comparison::Compared(Compared {
                wrong: vec!["b: 100 instructions recorded, 106 now (6.0% more)".into()],
                told: vec![],
            })
        );
        assert_eq!(table.compare(&newer, &found, true), Comparison::NotRecorded);
        let other = Version::parse("6.12.1");
        assert_eq!(
            table.compare(&other, &found, false),
            Comparison::NotRecorded
        );
    }
}
