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
        let segments = self.segments.iter().map(|segment| match segment {
            Segment::Any => "**",
            Segment::Pattern(text) | Segment::Exact(text) => text,
        });
        segments.collect::<Vec<_>>().join("/")
    }

    /// Whether it matches everything.
    pub(crate) fn is_anything(&self) -> bool {
        self.segments
            .iter()
            .all(|segment| matches!(segment, Segment::Any))
            && !self.segments.is_empty()
    }

    /// Whether it matches one text alone.
    pub(crate) fn is_exact(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.all(|segment| matches!(segment, Segment::Exact(_)))
    }

    /// Whether it matches a text without its leading `/`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        // Greedy, with one point of return: only the last `**` can matter.
        let mut patterns = self.segments.as_slice();
        let mut rest = Some(text);
        let mut retry: Option<(&[Segment], Option<&str>)> = None;
        loop {
            match (patterns.split_first(), rest) {
                (Some((Segment::Any, after)), _) => {
                    patterns = after;
                    retry = Some((after, rest));
                    continue;
                }
                (Some((pattern, after)), Some(text)) => {
                    let (segment, following) = split(text);
                    if pattern.matches(segment) {
                        patterns = after;
                        rest = following;
                        continue;
                    }
                }
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => {}
            }
            match retry {
                Some((after, Some(text))) => {
                    let (_, following) = split(text);
                    patterns = after;
                    rest = following;
                    retry = Some((after, following));
                }
                Some((_, None)) | None => return false,
            }
        }
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (text, None),
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
}

/// `*` against any run of octets.
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

    pub(crate) fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(first, last)| self.0.iter().any(|(from, to)| from <= first && last <= to))
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
