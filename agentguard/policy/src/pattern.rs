//! Patterns of hosts, paths, texts, control groups and ports.

use std::str::FromStr;

use agentguard_model::{HostName, InvalidHost};

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

    /// Whether it matches a text without its leading `/`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match_segments(&self.segments, text.split('/'), |pattern, segment| {
            pattern.matches(segment)
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

/// Whether segments, one by one, are those of a pattern. Greedy, with one point of return: only the last `**`
/// can matter.
fn match_segments<T>(
    pattern: &[Segment],
    segments: impl Iterator<Item = T> + Clone,
    is_one: impl Fn(&Segment, T) -> bool,
) -> bool {
    let (mut patterns, mut rest) = (pattern, segments);
    let mut retry = None;
    loop {
        match patterns.split_first() {
            Some((Segment::Any, after)) => {
                patterns = after;
                retry = Some((after, rest.clone()));
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
        let Some((after, from)) = &mut retry else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        patterns = after;
        rest = from.clone();
    }
}

impl Segment {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == text,
            Self::Pattern(pattern) => wildcard(pattern.as_bytes(), text.as_bytes()),
        }
    }

    /// Whether whatever `other` stands for in a text, this stands for too.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (_, Self::Any) => false,
            (_, Self::Pattern(text) | Self::Exact(text)) => self.matches(text),
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
        wildcard(self.0.as_bytes(), text)
    }

    /// Without regard to the case of ASCII letters.
    pub(crate) fn matches_any_case(&self, text: &[u8]) -> bool {
        let pattern = self.0.to_ascii_lowercase();
        wildcard(pattern.as_bytes(), &text.to_ascii_lowercase())
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

/// `*` against any run of octets. Of another pattern in the place of the text its `*` is an octet too, that
/// only a `*` stands for: so this says as well whether one pattern covers another.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (pattern, text);
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (p.split_first(), t.split_first()) {
            (Some((b'*', after)), _) => {
                retry = Some((after, t));
                p = after;
                continue;
            }
            (Some((a, p_after)), Some((b, t_after))) if a == b => {
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
pub(crate) fn one_of(patterns: &[Wildcard], name: &str, allows: bool) -> bool {
    let name = name.as_bytes();
    patterns.iter().any(|pattern| {
        if allows {
            pattern.matches(name)
        } else {
            pattern.matches_any_case(name)
        }
    })
}

/// Whether patterns, of which none means any, are all of `others` and perhaps more. By spelling alone.
pub(crate) fn all_or_among(patterns: &[Wildcard], others: &[Wildcard]) -> bool {
    patterns.is_empty()
        || !others.is_empty() && others.iter().all(|pattern| patterns.contains(pattern))
}

#[cfg(test)]
mod tests {
    use super::{CgroupPattern, Glob, HostPattern, Ports};

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

    proptest::proptest! {
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
