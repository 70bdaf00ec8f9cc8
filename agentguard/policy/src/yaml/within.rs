//! Where a part of a scalar stands in the text.

use super::Place;

/// Where the part of a scalar that begins `at` bytes into its value stands: `scalar` is where the scalar
/// begins in `text`. White space and the escapes of quoted scalars differ between the two; where more
/// does, since something was put in, it is where the scalar begins.
pub(crate) fn within(text: &str, scalar: Place, value: &str, at: usize) -> Place {
    find(text, scalar, value, at).unwrap_or(scalar)
}

fn find(text: &str, scalar: Place, value: &str, at: usize) -> Option<Place> {
    let mut source = Source::new(text, scalar)?;
    let quote = match source.rest.chars().next()? {
        '|' | '>' => {
            while source.next()? != '\n' {}
            None
        }
        quote @ ('"' | '\'') => {
            source.next();
            Some(quote)
        }
        _ => None,
    };
    let (before, from) = value.split_at_checked(at)?;
    let wanted = from.chars().find(|it| !it.is_whitespace());
    for next in before.chars().filter(|it| !it.is_whitespace()) {
        source.go_to(next, quote)?;
        source.next();
    }
    // At the end of the value, it is right behind what that ends with.
    if let Some(next) = wanted {
        source.go_to(next, quote)?;
    }
    Some(source.place)
}

struct Source<'a> {
    rest: &'a str,
    place: Place,
}

impl<'a> Source<'a> {
    fn new(text: &'a str, at: Place) -> Option<Self> {
        let line = usize::try_from(at.line.checked_sub(1)?).ok()?;
        let column = usize::try_from(at.column.checked_sub(1)?).ok()?;
        let before: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let line = text.get(before..)?;
        let (first, _) = line.char_indices().nth(column)?;
        Some(Self {
            rest: line.get(first..)?,
            place: at,
        })
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        if next == '\n' {
            self.place.line += 1;
            self.place.column = 1;
        } else {
            self.place.column += 1;
        }
        Some(next)
    }

    /// Skips what the value has not, up to its next character.
    fn go_to(&mut self, wanted: char, quote: Option<char>) -> Option<()> {
        loop {
            match self.rest.chars().next()? {
                next if next == wanted => return Some(()),
                next if next.is_whitespace() => {}
                '\\' if quote == Some('"') => {}
                '\'' if quote == Some('\'') => {}
                _ => return None,
            }
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, within};
    use crate::yaml::{Value, tree};

    /// Where `part` of the value of the one key of a document stands.
    fn place_of(text: &str, part: &str) -> (u32, u32) {
        let (tree, found) = tree("p.yaml", text);
        assert_eq!(found, []);
        let Value::Mapping(entries) = tree.unwrap().root.value else {
            panic!("{text}");
        };
        let node = &entries[0].1;
        let value = node.text().unwrap();
        let at = if part.is_empty() {
            value.len()
        } else {
            value.find(part).unwrap()
        };
        let Place { line, column, .. } = within(text, node.place, value, at);
        (line, column)
    }

    #[test]
    fn a_part_is_found_in_every_style() {
        for (text, part, place) in [
            ("k: a == b", "b", (1, 9)),
            ("k: a == b", "", (1, 10)),
            ("k: a ==\n  b && c", "c", (2, 8)),
            ("k: 'a == ''b'' && c'", "c", (1, 19)),
            ("k: \"a == \\\"b\\\" && c\"", "c", (1, 19)),
            ("k: \"é == \\\\d && c\"", "c", (1, 17)),
            ("k: >-\n  a == 'b'\n  && c\n", "c", (3, 6)),
            ("k: |\n  a == 'b'\n\n  && c\n", "c", (4, 6)),
            ("k: >- # why\n    a\n", "a", (2, 5)),
        ] {
            assert_eq!(place_of(text, part), place, "{text:?} {part:?}");
        }
    }

    #[test]
    fn what_was_put_in_is_where_the_scalar_begins() {
        let scalar = Place::at(1, 4);
        for (text, value, at) in [
            ("k: a == ${b} && c", "a == 'x' && c", 12),
            ("k: a", "a", 7),
            ("", "a", 0),
        ] {
            assert_eq!(within(text, scalar, value, at), scalar, "{text:?}");
        }
    }
}
