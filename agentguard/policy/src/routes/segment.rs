//! One segment of a template: text, a parameter, or both.

use percent_encoding::percent_decode_str;

use super::template::InvalidTemplate;

/// The most parameters in one segment. More are refused.
pub(super) const MAX_PARAMETERS: usize = 4;

/// The longest segment, in characters, that is divided among several parameters. How a longer one is divided is not
/// said.
const MAX_DIVIDED: usize = 4096;

/// A segment. Without parameters it is text alone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Segment {
    /// What it begins with, or all of it.
    before: Text,
    /// Each parameter with what follows it, which is nothing behind the last one at most.
    parameters: Vec<(String, Text)>,
}

/// Text of a template.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Text {
    /// As it stands in a canonical path.
    written: String,
    /// That in [`units`].
    sent: String,
    /// That as some server may read it ([`folded`]).
    folded: String,
}

impl Text {
    fn of(written: &str) -> Self {
        Self {
            written: written.to_owned(),
            sent: units(written),
            folded: folded(written),
        }
    }

    fn as_read(&self, reading: Reading) -> &str {
        match reading {
            Reading::Sent => &self.sent,
            Reading::Folded | Reading::Trimmed => &self.folded,
        }
    }
}

/// How a path's segments are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// As they are sent, in [`units`].
    Sent,
    /// As some server may take them, [`folded`]. A parameter beside text may be empty here.
    Folded,
    /// As [`Self::Folded`], without what some leave out: spaces and controls around it, and what stands behind a `;`.
    Trimmed,
}

impl Reading {
    /// The segments of a path in this reading; none of what is no path.
    pub(super) fn segments(self, path: &str) -> Option<Vec<String>> {
        let parts = path.strip_prefix('/')?.split('/');
        Some(match self {
            Self::Sent => parts.map(units).collect(),
            Self::Folded => parts.map(folded).collect(),
            Self::Trimmed => without_empty(parts.map(trimmed)),
        })
    }
}

/// What begins the characters that stand for escapes: a private use area, of which nothing is in a canonical path.
const ESCAPES: u32 = 0xe000;

/// A part of a canonical path in which each escape is one character, so that no text is found in the middle of one.
fn units(part: &str) -> String {
    let mut rest = part;
    let mut units = String::with_capacity(part.len());
    while let Some(first) = rest.chars().next() {
        let escape = rest.get(1..3).filter(|_| first == '%');
        let escape = escape.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let (unit, used) = match escape.and_then(|byte| char::from_u32(ESCAPES + byte)) {
            Some(unit) => (unit, 3),
            None => (first, first.len_utf8()),
        };
        units.push(unit);
        rest = rest.get(used..).unwrap_or_default();
    }
    units
}

/// What [`units`] stand for. A canonical path is UTF-8 once it is decoded.
pub(super) fn decoded(units: &str) -> String {
    let byte = |unit: char| {
        u32::from(unit)
            .checked_sub(ESCAPES)
            .unwrap_or(u32::from(unit))
    };
    let bytes: Vec<u8> = units
        .chars()
        .filter_map(|it| u8::try_from(byte(it)).ok())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A part of a path for who decodes it first and does not look at case.
fn folded(part: &str) -> String {
    let decoded = percent_decode_str(part).decode_utf8_lossy();
    decoded.to_ascii_lowercase()
}

/// Segments without those that are nothing once they are trimmed, or lead back.
fn without_empty(trimmed: impl Iterator<Item = String>) -> Vec<String> {
    let mut left = Vec::new();
    for segment in trimmed {
        match segment.as_str() {
            "" | "." => {}
            ".." => _ = left.pop(),
            _ => left.push(segment),
        }
    }
    left
}

/// That without parameters of its own (RFC 3986, 3.3), spaces and controls.
fn trimmed(part: &str) -> String {
    let folded = folded(part);
    let own = folded.split(';').next().unwrap_or_default();
    own.trim_matches(|it: char| it.is_whitespace() || it.is_control() || it == '\u{feff}')
        .to_owned()
}

/// How a segment of a path fits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Fit<'p> {
    /// It does not.
    No,
    /// In one way: what the parameters are.
    One(Vec<&'p str>),
    /// In several, or nobody looked.
    Several,
}

impl Segment {
    /// Reads a segment.
    ///
    /// # Errors
    /// [`InvalidTemplate`].
    pub(super) fn parse(written: &str) -> Result<Self, InvalidTemplate> {
        let mut pieces = written.split('{');
        let before = pieces.next().unwrap_or_default();
        if before.contains('}') {
            return Err(InvalidTemplate::Brace);
        }
        let mut parameters: Vec<(String, Text)> = Vec::new();
        for piece in pieces {
            let (name, text) = piece.split_once('}').ok_or(InvalidTemplate::Brace)?;
            if text.contains('}') {
                return Err(InvalidTemplate::Brace);
            }
            if !is_parameter(name) {
                return Err(InvalidTemplate::Name);
            }
            if parameters
                .last()
                .is_some_and(|(_, text)| text.written.is_empty())
            {
                return Err(InvalidTemplate::Touching);
            }
            if parameters.len() == MAX_PARAMETERS {
                return Err(InvalidTemplate::Many);
            }
            parameters.push((name.to_owned(), Text::of(text)));
        }
        let before = Text::of(before);
        Ok(Self { before, parameters })
    }

    /// As it is written, with these for its parameters.
    pub(super) fn written(&self, parameter: impl Fn(&str) -> String) -> String {
        let before = self.before.written.clone();
        self.parameters.iter().fold(before, |all, (name, text)| {
            all + &parameter(name) + &text.written
        })
    }

    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| name.as_str())
    }

    pub(super) fn is_text(&self) -> bool {
        self.parameters.is_empty()
    }

    /// Whether it is one parameter and nothing else.
    pub(super) fn is_parameter(&self) -> bool {
        let texts = self.parameters.iter().map(|(_, text)| text);
        let mut texts = std::iter::once(&self.before).chain(texts);
        !self.is_text() && texts.all(|text| text.written.is_empty())
    }

    /// Whether some segment of a path fits both, as it is sent or as some server may read it.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let fits =
            |text: &Self, other: &Self| other.fit(&text.before.folded, Reading::Folded) != Fit::No;
        match (self.is_text(), other.is_text()) {
            (true, _) => fits(self, other),
            (_, true) => fits(other, self),
            // What lies between can be made to fit both.
            _ => {
                let (one, two) = (&self.before.folded, &other.before.folded);
                let (begin, other_begin) = (one.as_str(), two.as_str());
                let (end, other_end) = (self.after(Reading::Folded), other.after(Reading::Folded));
                (begin.starts_with(other_begin) || other_begin.starts_with(begin))
                    && (end.ends_with(other_end) || other_end.ends_with(end))
            }
        }
    }

    /// What it ends with.
    fn after(&self, reading: Reading) -> &str {
        let last = self.parameters.last();
        last.map_or("", |(_, text)| text.as_read(reading))
    }

    /// How a segment of a path fits that is read so.
    pub(super) fn fit<'p>(&self, part: &'p str, reading: Reading) -> Fit<'p> {
        let before = self.before.as_read(reading);
        if self.is_text() {
            return match part == before {
                true => Fit::One(Vec::new()),
                false => Fit::No,
            };
        }
        let inner = part.strip_prefix(before);
        let inner = inner.and_then(|it| it.strip_suffix(self.after(reading)));
        let Some(inner) = inner else {
            return Fit::No;
        };
        let least = usize::from(reading == Reading::Sent || self.is_parameter());
        let between: Vec<&str> = self.between(reading).collect();
        if between.is_empty() {
            return match inner.len() >= least {
                true => Fit::One(vec![inner]),
                false => Fit::No,
            };
        }
        if inner.len() > MAX_DIVIDED {
            return Fit::Several;
        }
        let (Some(first), Some(last)) = (
            divided_early(inner, &between, least),
            divided_late(inner, &between, least),
        ) else {
            return Fit::No;
        };
        // Each place of a text lies between these two.
        match first == last {
            true => Fit::One(first),
            false => Fit::Several,
        }
    }

    /// The texts between parameters.
    fn between(&self, reading: Reading) -> impl Iterator<Item = &str> {
        let texts = self
            .parameters
            .iter()
            .map(move |(_, text)| text.as_read(reading));
        texts.take(self.parameters.len().saturating_sub(1))
    }
}

/// What is before, between and behind these texts where each stands as early as it can, if each of it has `least`
/// characters.
fn divided_early<'p>(mut rest: &'p str, texts: &[&str], least: usize) -> Option<Vec<&'p str>> {
    let mut values = Vec::with_capacity(texts.len() + 1);
    for text in texts {
        let from = rest.char_indices().nth(least).map(|(at, _)| at)?;
        let at = from + rest.get(from..)?.find(text)?;
        values.push(rest.get(..at)?);
        rest = rest.get(at + text.len()..)?;
    }
    values.push(rest);
    (rest.len() >= least).then_some(values)
}

/// The same where each stands as late as it can.
fn divided_late<'p>(mut rest: &'p str, texts: &[&str], least: usize) -> Option<Vec<&'p str>> {
    let mut values = Vec::with_capacity(texts.len() + 1);
    for text in texts.iter().rev() {
        let kept = rest.char_indices().rev().take(least).last();
        let to = match least {
            0 => rest.len(),
            _ => kept.map(|(at, _)| at)?,
        };
        let at = rest.get(..to)?.rfind(text)?;
        values.push(rest.get(at + text.len()..)?);
        rest = rest.get(..at)?;
    }
    values.push(rest);
    values.reverse();
    (rest.len() >= least).then_some(values)
}

/// Whether a text is a parameter's name.
fn is_parameter(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=63).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(template: &str, part: &str, reading: Reading) -> Option<Vec<String>> {
        let path = format!("/{part}");
        let segments = reading.segments(&path).unwrap();
        match Segment::parse(template).unwrap().fit(&segments[0], reading) {
            Fit::No => None,
            Fit::One(values) => Some(values.into_iter().map(decoded).collect()),
            Fit::Several => Some(vec!["several".to_owned()]),
        }
    }

    #[test]
    fn a_segment_is_divided_where_that_can_be_done_in_one_way() {
        let cases = [
            ("{id}.{format}", "7.pdf", Some(vec!["7", "pdf"])),
            ("{id}.{format}", "a.b.pdf", Some(vec!["several"])),
            ("{id}.{format}", "7.", None),
            ("{id}.{format}", ".pdf", None),
            // One dot of three is the text; which one only the middle one can be.
            ("{id}.{format}", "...", Some(vec![".", "."])),
            ("{name}:download", "a:download", Some(vec!["a"])),
            (
                "{name}:download",
                "a:download:download",
                Some(vec!["a:download"]),
            ),
            ("{name}:download", ":download", None),
            ("{name}:download", "a%3Adownload", None),
            ("v{major}", "v2", Some(vec!["2"])),
            ("aa{x}aa", "aaa", None),
            ("{a}--{b}", "x---y", Some(vec!["several"])),
            ("{a}2{b}", "x%2Fy", None),
            ("{a}%2F{b}", "x%2Fy", Some(vec!["x", "y"])),
            ("{x}", "%C3%A9", Some(vec!["é"])),
            ("{x}", "", None),
        ];
        for (template, part, expected) in cases {
            let expected = expected.map(|it| it.into_iter().map(str::to_owned).collect());
            assert_eq!(
                fit(template, part, Reading::Sent),
                expected,
                "{template} {part}"
            );
        }
        for (template, part) in [
            ("{name}:Download", "%3adownload"),
            ("{a}.{b}", "A.b.c"),
            ("items:search", "items%3aSEARCH"),
        ] {
            assert!(
                fit(template, part, Reading::Folded).is_some(),
                "{template} {part}"
            );
        }
    }

    #[test]
    fn a_long_segment_is_not_divided() {
        let long = format!("{}.b", "a".repeat(MAX_DIVIDED));
        assert_eq!(
            fit("{a}.{b}", &long, Reading::Sent),
            Some(vec!["several".to_owned()])
        );
        assert!(
            matches!(fit("{a}.b", &long, Reading::Sent), Some(values) if values[0].len() == MAX_DIVIDED)
        );
    }

    /// A segment with up to three parameters, and what stands between.
    fn templates() -> impl Strategy<Value = (String, Vec<String>)> {
        let text = "[ab.:]{1,2}|%2F|%C3%A9";
        let edge = "([ab.:]{0,2})";
        (edge, prop::collection::vec(text, 0..3), edge).prop_map(|(before, between, after)| {
            let mut template = before;
            let mut names = Vec::new();
            for n in 0..=between.len() {
                let text = between.get(n).unwrap_or(&after);
                template.push_str(&format!("{{p{n}}}{text}"));
                names.push(format!("p{n}"));
            }
            (template, names)
        })
    }

    proptest! {
        /// A segment that is made of a template gives back what it was made of, or is said to fit in several ways.
        #[test]
        fn what_is_made_of_a_template_is_read_as_it_was_made(
            (template, names) in templates(),
            values in prop::collection::vec("([abx.:]|%2F|%C3%A9){1,4}", 3),
        ) {
            let segment = Segment::parse(&template).unwrap();
            let value = |name: &str| {
                let n = names.iter().position(|it| it == name).unwrap();
                values[n].clone()
            };
            let made = units(&segment.written(value));
            match segment.fit(&made, Reading::Sent) {
                Fit::One(read) => {
                    let made: Vec<String> = values.iter().take(names.len()).map(|it| units(it)).collect();
                    prop_assert_eq!(read, made);
                }
                Fit::Several => prop_assert!(names.len() > 1),
                Fit::No => prop_assert!(false, "{} {}", template, made),
            }
            prop_assert!(segment.fit(&folded(&decoded(&made)), Reading::Folded) != Fit::No);
        }

        /// Where both fit, they are known to meet.
        #[test]
        fn what_fits_two_is_known_to_meet(
            (one, _) in templates(),
            (two, _) in templates(),
            text in "[ab.:]{1,4}",
            part in "([abAx.:]|%3A){1,6}",
        ) {
            let read = |it: &str| Segment::parse(it).unwrap();
            let all = [read(&one), read(&two), read(&text), read("{x}")];
            let fits = |it: &Segment| {
                it.fit(&units(&part), Reading::Sent) != Fit::No
                    || it.fit(&folded(&part), Reading::Folded) != Fit::No
            };
            for one in &all {
                for other in all.iter().filter(|it| fits(one) && fits(it)) {
                    prop_assert!(one.meets(other) && other.meets(one), "{:?} {:?}", one, other);
                }
            }
        }
    }
}
