//! Patterns of hosts, paths, texts, control groups and ports.

use std::hash::{DefaultHasher, Hasher};
use std::str::FromStr;

use agentguard_model::{HostName, InvalidHost};
use memchr::{memchr, memrchr};

use crate::steps::Steps;

/// Steps of which there are enough for whatever is no agent's.
const ENDLESS: u64 = u64::MAX;

/// In so many bytes the end of a segment is found in one step.
pub(crate) const FOUND: usize = 64;

/// How many bytes a short segment has.
const SHORT: usize = 16;

/// As many segments of a path are looked at to tell what it begins with.
const BEGIN: usize = 8;

/// A segment that is longer ends what a path begins with: no more is gone through.
const BEGIN_SEGMENT: usize = 256;

/// What all that a pattern matches begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Beginning {
    /// As of [`beginnings`], one of which each text has that the pattern matches.
    pub(crate) hash: u64,
    /// How many segments of a text are looked at, at most, to see that it begins otherwise.
    pub(crate) segments: usize,
}

/// What a text without its leading `/` begins with: its first segment, its first two, and so on. Two texts that begin
/// alike have the same, and others next to never.
pub(crate) fn beginnings(text: &str) -> impl Iterator<Item = u64> {
    begin(Segments::of(text))
}

fn begin<'a>(segments: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = u64> {
    let mut hasher = DefaultHasher::new();
    let short = segments.take_while(|segment| segment.len() <= BEGIN_SEGMENT);
    short.take(BEGIN).map(move |segment| {
        hasher.write(segment);
        // No segment has one.
        hasher.write_u8(b'/');
        hasher.finish()
    })
}

/// A pattern of segments that `/` separates. `*` stands for any run of characters within a
/// segment, also none; `**`, alone in a segment, for any number of segments, also none.
///
/// Matching takes time proportional to the product of the two lengths at most.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Glob {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Segment {
    /// `**`.
    Any,
    /// Text with `*` in it.
    Pattern(String),
    /// Text.
    Exact(String),
}

impl Glob {
    /// A pattern without its leading `/`.
    ///
    /// # Errors
    /// What is wrong with it, as the rest of a sentence that begins with it.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        let mut segments = Vec::new();
        for segment in text.split('/') {
            segments.push(match segment {
                "**" => Segment::Any,
                "." | ".." => return Err("has a `.` or `..` segment, which a path never has"),
                _ if segment.contains("**") => {
                    return Err("has `**` beside other characters of a segment");
                }
                _ if segment.contains('*') => Segment::Pattern(segment.to_owned()),
                _ => Segment::Exact(segment.to_owned()),
            });
        }
        Ok(Self { segments })
    }

    /// As it is written, without its leading `/`.
    pub(crate) fn written(&self) -> String {
        let segments = self.segments.iter().map(Segment::written);
        segments.collect::<Vec<_>>().join("/")
    }

    /// Whether it matches one text alone.
    pub(crate) fn is_exact(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.all(|segment| matches!(segment, Segment::Exact(_)))
    }

    /// How much text has to be gone through to compare it: none where it is one text alone.
    pub(crate) fn work(&self) -> usize {
        if self.is_exact() { 0 } else { self.len() }
    }

    /// How much text it has.
    pub(crate) fn len(&self) -> usize {
        let segments = self.segments.iter();
        segments.map(|segment| segment.written().len() + 1).sum()
    }

    /// What all that it matches begins with: its segments before the first with a `*`. Nothing where it has none, or where
    /// it may take long to see that a text is none of these, since the end of a text is looked at first, for what follows
    /// the last `**`.
    pub(crate) fn beginning(&self) -> Option<Beginning> {
        let is_any = |segment: &Segment| *segment == Segment::Any;
        let last_any = self.segments.iter().rposition(is_any);
        let tail = last_any.map_or(&[][..], |n| self.segments.get(n + 1..).unwrap_or_default());
        if tail.iter().any(|it| !matches!(it, Segment::Exact(_))) {
            return None;
        }
        let exact = self.segments.iter().map_while(|segment| match segment {
            Segment::Exact(text) => Some(text.as_bytes()),
            Segment::Any | Segment::Pattern(_) => None,
        });
        let (count, hash) = (1..).zip(begin(exact)).last()?;
        let segments = count + tail.len();
        Some(Beginning { hash, segments })
    }

    /// Whether it matches a text without its leading `/`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.matches_while(text, &mut { ENDLESS })
    }

    /// The same, as far as the steps of a decision suffice; where they do not, they say so.
    pub(crate) fn matches_within(&self, text: &str, steps: &Steps) -> bool {
        let written = || format!("/{}", self.written());
        steps.pattern(written, text.len(), |left| self.matches_while(text, left))
    }

    /// `left` as of [`wildcard`].
    fn matches_while(&self, text: &str, left: &mut u64) -> bool {
        let is_any = |segment: &Segment| *segment == Segment::Any;
        let from_the_end = self.segments.iter().rposition(is_any);
        let Some((head, tail)) = from_the_end.and_then(|n| self.segments.split_at_checked(n + 1))
        else {
            return match_segments(&self.segments, Segments::of(text), |pattern, segment| {
                pattern.matches(segment, left)
            });
        };
        // What follows the last `**` is at the end or nowhere.
        let mut rest = Segments::of(text);
        for segment in tail.iter().rev() {
            if !rest.next_back().is_some_and(|it| segment.matches(it, left)) {
                return false;
            }
        }
        match_segments(head, rest, |pattern, segment| {
            pattern.matches(segment, left)
        })
    }

    /// Whether it certainly matches every text that `other` matches. Where only both together cover something, as
    /// `**` and `*` cover `**`, it is not looked for.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match_segments(&self.segments, other.segments.iter(), |wider, segment| {
            wider.covers(segment)
        })
    }
}

/// The segments of a text that are left. As the library's, and cheap to take up again.
#[derive(Clone, Copy)]
struct Segments<'a>(Option<&'a [u8]>);

impl<'a> Segments<'a> {
    const fn of(text: &'a str) -> Self {
        Self(Some(text.as_bytes()))
    }

    fn next_back(&mut self) -> Option<&'a [u8]> {
        let text = self.0?;
        let at = memrchr(b'/', text);
        self.0 = at.and_then(|at| text.get(..at));
        text.get(at.map_or(0, |at| at + 1)..)
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0?;
        // Most are short, where to call the library takes longer than to look.
        let mut short = text.iter().take(SHORT);
        let at = short.position(|byte| *byte == b'/').or_else(|| {
            let rest = text.get(SHORT..)?;
            Some(SHORT + memchr(b'/', rest)?)
        });
        self.0 = at.and_then(|at| text.get(at + 1..));
        text.get(..at.unwrap_or(text.len()))
    }
}

/// Whether segments, one by one, are those of a pattern. Greedy, with one point of return: only the last `**`
/// can matter.
fn match_segments<T: Copy>(
    pattern: &[Segment],
    segments: impl Iterator<Item = T> + Clone,
    mut is_one: impl FnMut(&Segment, T) -> bool,
) -> bool {
    let (mut patterns, mut rest) = (pattern, segments);
    let mut retry = None;
    loop {
        match patterns.split_first() {
            Some((Segment::Any, [])) => return true,
            Some((Segment::Any, after)) => {
                // It goes on where the next one is found.
                while let Some(next) = after.first().filter(|it| **it != Segment::Any) {
                    let mut following = rest.clone();
                    match following.next() {
                        None => return false,
                        Some(it) if is_one(next, it) => break,
                        Some(_) => rest = following,
                    }
                }
                retry = Some((patterns, rest.clone()));
                patterns = after;
                continue;
            }
            Some((pattern, after)) => {
                let mut following = rest.clone();
                if following.next().is_some_and(|it| is_one(pattern, it)) {
                    patterns = after;
                    rest = following;
                    continue;
                }
            }
            None if rest.clone().next().is_none() => return true,
            None => {}
        }
        let Some((any, from)) = &mut retry else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        patterns = any;
        rest = from.clone();
    }
}

impl Segment {
    /// `left` as of [`wildcard`].
    fn matches(&self, text: &[u8], left: &mut u64) -> bool {
        let found = u64::try_from(text.len() / FOUND).unwrap_or(u64::MAX);
        *left = left.saturating_sub(1 + found);
        match self {
            _ if *left == 0 => false,
            Self::Any => true,
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Pattern(pattern) => wildcard(pattern.as_bytes(), text, same, left),
        }
    }

    /// Whether whatever `other` stands for in a text, this stands for too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (_, Self::Pattern(text) | Self::Exact(text)) => {
                self.matches(text.as_bytes(), &mut { ENDLESS })
            }
        }
    }

    fn written(&self) -> &str {
        match self {
            Self::Any => "**",
            Self::Pattern(text) | Self::Exact(text) => text,
        }
    }
}

/// A pattern of a whole text, in which `*` stands for any run of characters, also none.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Wildcard(String);

impl Wildcard {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As it is written.
    pub(crate) fn written(&self) -> &str {
        &self.0
    }

    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        wildcard(self.0.as_bytes(), text, same, &mut { ENDLESS })
    }

    /// The same, as far as the steps of a decision suffice; where they do not, they say so. A denial has no regard
    /// to the case of ASCII letters.
    pub(crate) fn matches_within(&self, text: &[u8], exact: bool, steps: &Steps) -> bool {
        let is_same = if exact {
            same
        } else {
            u8::eq_ignore_ascii_case
        };
        steps.pattern(
            || self.0.clone(),
            text.len(),
            |left| wildcard(self.0.as_bytes(), text, is_same, left),
        )
    }

    /// As [`Glob::work`].
    pub(crate) fn work(&self) -> usize {
        if self.0.contains('*') { self.len() } else { 0 }
    }

    /// How much text it has.
    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it matches every text that `other` matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.matches(other.0.as_bytes())
    }
}

fn same(a: &u8, b: &u8) -> bool {
    a == b
}

/// `*` against any run of octets. Counts down what is `left`, and does not match once there is none. Of another pattern in the place of the text its `*` is an octet too, that
/// only a `*` stands for: so this says as well whether one pattern covers another.
fn wildcard(pattern: &[u8], text: &[u8], is_same: fn(&u8, &u8) -> bool, left: &mut u64) -> bool {
    let (mut p, mut t) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return false;
        }
        match (p.split_first(), t.split_first()) {
            (Some((b'*', after)), _) => {
                retry = Some((after, t));
                p = after;
                continue;
            }
            (Some((a, p_after)), Some((b, t_after))) if is_same(a, b) => {
                p = p_after;
                t = t_after;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        match retry {
            Some((after, [_, rest @ ..])) => {
                p = after;
                t = rest;
                retry = Some((after, rest));
            }
            _ => return false,
        }
    }
}

/// A pattern of control groups.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CgroupPattern {
    text: String,
    glob: Glob,
    absolute: bool,
}

impl CgroupPattern {
    /// # Errors
    /// What is wrong with it, as the rest of a sentence that begins with it.
    pub(crate) fn new(text: &str) -> Result<Self, &'static str> {
        let absolute = text.starts_with('/');
        let bare = text.trim_matches('/');
        if bare.is_empty() {
            return Err("names no control group");
        }
        if bare.contains("//") {
            return Err("has an empty segment");
        }
        if text.chars().any(char::is_control) {
            return Err("has a control character");
        }
        // PATH_MAX of the kernel; no cgroup has a longer path.
        if text.len() > 4096 {
            return Err("is longer than any path");
        }
        Ok(Self {
            text: text.to_owned(),
            glob: Glob::new(bare)?,
            absolute,
        })
    }

    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether nothing is meant but what lies below `root`, the `cgroup_root`.
    #[must_use]
    pub fn is_below(&self, root: &str) -> bool {
        let below = self.text.strip_prefix(root.trim_end_matches('/'));
        !self.absolute || below.is_some_and(|below| below.starts_with('/'))
    }

    /// Whether a control group is meant: `path` is its absolute path below the control group
    /// file system's mount point or including it, as `root`, the `cgroup_root`, is.
    #[must_use]
    pub fn matches(&self, root: &str, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        if self.absolute {
            return self.glob.matches(path.trim_start_matches('/'));
        }
        path.strip_prefix(root.trim_end_matches('/'))
            .and_then(|below| below.strip_prefix('/'))
            .is_some_and(|below| self.glob.matches(below))
    }
}

/// Which names.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum HostPattern {
    /// This one.
    Exact(HostName),
    /// Those below this one, not itself.
    Below(HostName),
}

impl HostPattern {
    pub(crate) fn matches(&self, name: &HostName) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(suffix) => name.is_below(suffix),
        }
    }

    /// Whether every name that `other` matches, this matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Below(a), Self::Below(b)) => a == b || b.is_below(a),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

/// `name`, or `*.name` for what is below it.
impl FromStr for HostPattern {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        match text.strip_prefix("*.") {
            Some(suffix) => suffix.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

/// A set of ports: ranges in order, apart from each other.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Ports(Vec<(u16, u16)>);

impl Ports {
    pub(crate) fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    pub(crate) fn new(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub(crate) fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= port);
        after
            .checked_sub(1)
            .and_then(|n| self.0.get(n))
            .is_some_and(|(_, last)| port <= *last)
    }

    /// There is no port 0, though [`Self::all`] has it.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(first, last)| {
            let mut own = self.0.iter();
            own.any(|(from, to)| from <= first.max(&1) && last <= to)
        })
    }

    /// Those that are in both.
    pub(crate) fn shared(&self, other: &Self) -> Self {
        let both = self.0.iter().flat_map(|(first, last)| {
            let others = other.0.iter();
            let shared = others.map(move |(from, to)| (*first.max(from), *last.min(to)));
            shared.filter(|(first, last)| first <= last)
        });
        Self(both.collect())
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fewer ports, the more exact.
    pub(crate) fn specificity(&self) -> u32 {
        let ports = self.0.iter();
        let count: u32 = ports.map(|(first, last)| u32::from(last - first) + 1).sum();
        u32::from(u16::MAX) + 1 - count
    }

    /// The ports one by one, if they are few.
    pub(crate) fn singles(&self) -> Option<impl Iterator<Item = u16> + '_> {
        let count: usize = self
            .0
            .iter()
            .map(|(first, last)| usize::from(last - first) + 1)
            .sum();
        (count <= 16).then(|| self.0.iter().flat_map(|(first, last)| *first..=*last))
    }
}

/// Whether one of these patterns matches a name. A denial is not passed by writing it in another case.
pub(crate) fn one_of(patterns: &[Wildcard], name: &str, allows: bool, steps: &Steps) -> bool {
    let name = name.as_bytes();
    let mut patterns = patterns.iter();
    patterns.any(|pattern| pattern.matches_within(name, allows, steps))
}

/// Whether patterns, of which none means any, are all of `others` and perhaps more. By spelling alone.
pub(crate) fn all_or_among(patterns: &[Wildcard], others: &[Wildcard]) -> bool {
    patterns.is_empty()
        || !others.is_empty() && others.iter().all(|pattern| patterns.contains(pattern))
}

#[cfg(test)]
mod tests {
    use super::{
        BEGIN_SEGMENT, CgroupPattern, ENDLESS, FOUND, Glob, HostPattern, Ports, beginnings,
    };

    #[test]
    fn globs() {
        for (pattern, text, matches) in [
            ("repos/*", "repos/a", true),
            ("repos/*", "repos/", true),
            ("repos/*", "repos", false),
            ("repos/*", "repos/a/b", false),
            ("a/**", "a", true),
            ("a/**", "a/", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab", false),
            ("**", "", true),
            ("**", "x/y", true),
            ("**/z", "z", true),
            ("**/z", "x/y/z", true),
            ("**/z", "x/y/zz", false),
            ("a/**/b/*/c", "a/b/b/x/c", true),
            ("a/**/b/*/c", "a/x/b/y/d/b/y/c", true),
            ("a/**/b/*/c", "a/x/b/c", false),
            ("v1/foo*bar", "v1/foobar", true),
            ("v1/foo*bar", "v1/foo-bar-bar", true),
            ("v1/foo*bar", "v1/foo-bar-baz", false),
            ("", "", true),
            ("", "a", false),
        ] {
            let glob = Glob::new(pattern).unwrap();
            assert_eq!(glob.matches(text), matches, "{pattern} on {text}");
        }
        assert!(Glob::new("a/**b").is_err());
        assert!(Glob::new("a/../b").is_err());
    }

    #[test]
    fn a_glob_has_a_beginning_unless_it_begins_or_ends_with_a_pattern() {
        let long = "a".repeat(BEGIN_SEGMENT + 1);
        for (pattern, begins, segments) in [
            ("", Some(""), 1),
            ("a", Some("a"), 1),
            ("a/", Some("a/"), 2),
            ("a/b/**", Some("a/b"), 2),
            ("a/b*/c", Some("a"), 1),
            ("a/**/b/c", Some("a"), 3),
            ("a/**/b*/**/c", Some("a"), 2),
            ("a/a/a/a/a/a/a/a/a/a", Some("a/a/a/a/a/a/a/a"), 8),
            (&format!("a/{long}/b"), Some("a"), 1),
            (&long, None, 0),
            ("a/**/*.txt", None, 0),
            ("*", None, 0),
            ("**", None, 0),
            ("a*/b", None, 0),
            ("**/a", None, 0),
        ] {
            let beginning = Glob::new(pattern).unwrap().beginning();
            let found = beginning.map(|it| (it.hash, it.segments));
            let expected = begins.map(|text| (beginnings(text).last().unwrap(), segments));
            assert_eq!(found, expected, "{pattern}");
        }
        assert_eq!(beginnings("a/b/c").nth(1), beginnings("a/b").last());
        assert_ne!(beginnings("ab/c").last(), beginnings("a/bc").last());
        assert_eq!(beginnings(&long).count(), 0);
    }

    #[test]
    fn one_glob_covers_another_where_that_is_certain() {
        for (wider, narrower, covers) in [
            ("x/**", "x/y", true),
            ("x/**", "x", true),
            ("x/**", "x/*/z/**", true),
            ("x/*", "x/y", true),
            ("x/*", "x/y*z", true),
            ("x/*", "x/", true),
            ("x/*", "x", false),
            ("x/*", "x/y/z", false),
            ("x/*", "x/**", false),
            ("x/a*", "x/*a", false),
            ("x/a*", "x/a*b", true),
            ("x/y", "x/*", false),
            ("**/z", "x/*/z", true),
            ("**/z", "**/y/z", true),
            ("**/y/z", "**/z", false),
            ("a/**/b/**", "a/b/**/c", true),
            ("**", "x/**/y", true),
            ("**/**", "**", true),
            ("*/**", "x/y", true),
            ("*", "**", false),
        ] {
            let glob = |text| Glob::new(text).unwrap();
            let found = glob(wider).covers(&glob(narrower));
            assert_eq!(found, covers, "{wider} over {narrower}");
        }
    }

    /// By the definition, one segment after the other.
    fn defined(pattern: &[&str], text: &[&str]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((&"**", after)), rest) => {
                defined(after, text) || rest.is_some_and(|(_, rest)| defined(pattern, rest))
            }
            (Some(_), None) => false,
            (Some((pattern, after)), Some((segment, rest))) => {
                let is_one = match pattern.split_once('*') {
                    None => pattern == segment,
                    Some((begins, ends)) => {
                        segment.len() >= begins.len() + ends.len()
                            && segment.starts_with(begins)
                            && segment.ends_with(ends)
                    }
                };
                is_one && defined(after, rest)
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_glob_matches_what_it_is_defined_to(
            pattern in proptest::collection::vec(proptest::sample::select(&["**", "*", "a", "b", "a*", "a*b", ""][..]), 1..7),
            text in proptest::collection::vec(proptest::sample::select(&["a", "b", "ab", "", "a-long-segment-of-thirty-letters"][..]), 1..9),
        ) {
            let glob = Glob::new(&pattern.join("/")).unwrap();
            proptest::prop_assert_eq!(glob.matches(&text.join("/")), defined(&pattern, &text));
        }

        /// What it matches begins as it says, and to see that something else does not takes no more than it says.
        #[test]
        fn what_a_glob_matches_has_its_beginning_and_the_rest_is_soon_told(
            pattern in proptest::collection::vec(proptest::sample::select(&["**", "*", "a", "a", "b", "a*", ""][..]), 1..12),
            text in proptest::collection::vec(
                (proptest::sample::select(&["a", "a", "b", ""][..]), proptest::sample::select(&[1, 1, 1, BEGIN_SEGMENT, 2 * BEGIN_SEGMENT][..])),
                1..12,
            ),
        ) {
            let glob = Glob::new(&pattern.join("/")).unwrap();
            let text: Vec<String> = text.iter().map(|(text, times)| text.repeat(*times)).collect();
            let text = text.join("/");
            let mut left = ENDLESS;
            let matches = glob.matches_while(&text, &mut left);
            if let Some(beginning) = glob.beginning()
                && !beginnings(&text).any(|hash| hash == beginning.hash)
            {
                proptest::prop_assert!(!matches);
                let taken = usize::try_from(ENDLESS - left).unwrap();
                proptest::prop_assert!(taken <= beginning.segments + text.len() / FOUND);
            }
        }

        /// Whatever one matches that is covered, the other matches.
        #[test]
        fn what_is_covered_is_matched(
            wider in "(a|b|\\*|\\*\\*|a\\*|\\*b)(/(a|b|\\*|\\*\\*|a\\*|\\*b)){0,3}",
            narrower in "(a|b|\\*|\\*\\*|a\\*|\\*b)(/(a|b|\\*|\\*\\*|a\\*|\\*b)){0,3}",
            text in "[ab]{0,2}(/[ab]{0,2}){0,3}",
        ) {
            let (wider, narrower) = (Glob::new(&wider).unwrap(), Glob::new(&narrower).unwrap());
            if wider.covers(&narrower) && narrower.matches(&text) {
                proptest::prop_assert!(wider.matches(&text));
            }
        }
    }

    #[test]
    fn a_hostile_text_does_not_make_a_glob_slow() {
        let glob = Glob::new(&"**/*a*a*a*a/".repeat(20)).unwrap();
        assert!(!glob.matches(&"aaaaaaaaaaaaaaaaaaaab/".repeat(500)));
    }

    #[test]
    fn control_groups() {
        for (pattern, path, matches) in [
            ("coder", "/sys/fs/cgroup/agentguard/coder", true),
            ("coder", "/sys/fs/cgroup/agentguard/coder/x", false),
            ("coder", "/sys/fs/cgroup/agentguard2/coder", false),
            ("ci-*/build", "/sys/fs/cgroup/agentguard/ci-7/build", true),
            ("/sys/fs/cgroup/**/x", "/sys/fs/cgroup/a/b/x", true),
        ] {
            let pattern = CgroupPattern::new(pattern).unwrap();
            assert_eq!(
                pattern.matches("/sys/fs/cgroup/agentguard", path),
                matches,
                "{} on {path}",
                pattern.as_str()
            );
        }
        for bad in ["", "/", "a//b", "a/../b", "a\nb"] {
            assert!(CgroupPattern::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_merged() {
        let ports = Ports::new(vec![(80, 90), (443, 443), (85, 100), (101, 110)]);
        assert_eq!(ports.ranges(), [(80, 110), (443, 443)]);
        for (port, inside) in [
            (79, false),
            (80, true),
            (110, true),
            (111, false),
            (443, true),
        ] {
            assert_eq!(ports.contains(port), inside, "{port}");
        }
        assert!(Ports::all().covers(&ports));
        assert!(!ports.covers(&Ports::all()));
        assert!(Ports::new(vec![(1, u16::MAX)]).covers(&Ports::all()));
        let shared = ports.shared(&Ports::new(vec![(1, 85), (100, 500)]));
        assert_eq!(shared.ranges(), [(80, 85), (100, 110), (443, 443)]);
        assert_eq!(Ports::new(vec![(443, 443)]).singles().unwrap().count(), 1);
        assert!(ports.singles().is_none());
    }

    #[test]
    fn a_suffix_covers_what_is_below_it() {
        let below = |text: &str| HostPattern::Below(text.parse().unwrap());
        let exact = |text: &str| HostPattern::Exact(text.parse().unwrap());
        assert!(below("example.org").covers(&exact("a.example.org")));
        assert!(!below("example.org").covers(&exact("example.org")));
        assert!(below("example.org").covers(&below("a.example.org")));
        assert!(!below("a.example.org").covers(&below("example.org")));
        assert!(!exact("example.org").covers(&below("example.org")));
    }
}
