//! The text of a rule, from the file that it stands in.

use std::path::Path;

use agentguard_model::Source;

use crate::config::sources;

/// Lines of a rule that are shown; a longer one ends in `…`.
const MAX_LINES: usize = 24;

/// What can be shown of a rule.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Excerpt {
    /// The rule as it was when it decided.
    Same(String),
    /// The file holds another policy now.
    Changed,
    /// The file cannot be read from here.
    Unreadable,
}

/// The rule at a place, if its file still is part of the policy of this version. `first`: the file of
/// the policy in force that includes the others. Better nothing than another rule's text.
pub(super) fn of(source: &Source, version: &str, first: Option<&String>) -> Excerpt {
    let Ok(text) = std::fs::read_to_string(&source.file) else {
        return Excerpt::Unreadable;
    };
    let lines = cut(&text, source.line);
    // A policy of several files has a version that no single one of them has.
    let is_same = |first: &str| {
        sources::read(Path::new(first), |_| Ok(())).is_ok_and(|sources| {
            let mut documents = sources.documents().iter();
            documents.any(|it| it.path == source.file && it.text == text)
                && sources.compile().is_ok_and(|it| it.version() == version)
        })
    };
    match lines {
        Some(lines) if is_same(&source.file) || first.is_some_and(|first| is_same(first)) => {
            Excerpt::Same(lines)
        }
        _ => Excerpt::Changed,
    }
}

/// The list item that begins at a line, each line with its number.
fn cut(text: &str, line: u32) -> Option<String> {
    let first = usize::try_from(line).ok()?.checked_sub(1)?;
    let mut lines = text.lines().enumerate().skip(first);
    let (number, head) = lines.next()?;
    let depth = indent(head);
    let mut item = vec![format!("{:>4} | {head}", number + 1)];
    for (number, line) in lines {
        if !line.trim().is_empty() && indent(line) <= depth {
            break;
        }
        if item.len() == MAX_LINES {
            item.push("     | …".into());
            break;
        }
        item.push(format!("{:>4} | {line}", number + 1));
    }
    while item.last().is_some_and(|line| line.ends_with("| ")) {
        item.pop();
    }
    Some(item.join("\n"))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn one_item_and_not_its_neighbours() {
        let text = "rules:\n  - id: a\n    action: allow\n\n  - id: b\n    match:\n      port: [1]\n\n# end\n";
        assert_eq!(
            cut(text, 2).unwrap(),
            "   2 |   - id: a\n   3 |     action: allow"
        );
        assert_eq!(
            cut(text, 5).unwrap(),
            "   5 |   - id: b\n   6 |     match:\n   7 |       port: [1]"
        );
        assert_eq!(cut(text, 0), None);
        assert_eq!(cut(text, 99), None);
    }

    #[test]
    fn a_long_rule_is_cut() {
        let text = format!("- id: a\n{}", "  x: y\n".repeat(100));
        let shown = cut(&text, 1).unwrap();
        assert_eq!(shown.lines().count(), 25);
        assert!(shown.ends_with("| …"));
    }
}
