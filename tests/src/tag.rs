//! The names of what a world makes.

use std::fmt;
use std::path::PathBuf;
use std::process;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

/// The prefix of directories and cgroups, and of the variable that marks processes.
pub(crate) const PREFIX: &str = "agentguard-test-";

/// The prefix of network namespaces: short, because device names are made of it by hand.
pub(crate) const NAMESPACE_PREFIX: &str = "ag-";

/// The variable that every process of a world is started with.
pub(crate) const VARIABLE: &str = "AGENTGUARD_TEST";

/// Process id and number of a world: `4711-2`. Unique among the worlds that live.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag {
    process: u32,
    number: u32,
}

impl Tag {
    /// The next one of this process.
    pub fn next() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        Self {
            process: process::id(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Whether the process that made it lives. A reused process id keeps a leftover alive for
    /// longer, but never takes away from the living.
    pub fn is_owned(self) -> bool {
        PathBuf::from(format!("/proc/{}", self.process)).exists()
    }

    /// The name of a network namespace.
    pub fn namespace(self, role: &str) -> String {
        format!("{NAMESPACE_PREFIX}{self}-{role}")
    }

    /// The tag in the name of a network namespace.
    pub(crate) fn of_namespace(name: &str) -> Option<Self> {
        name.strip_prefix(NAMESPACE_PREFIX)?
            .rsplit_once('-')?
            .0
            .parse()
            .ok()
    }

    /// The name of a directory or cgroup.
    pub fn directory(self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The first tag in a path or command line.
    pub(crate) fn within(text: &str) -> Option<Self> {
        let start = text.find(PREFIX)? + PREFIX.len();
        let rest = text.get(start..)?;
        let end = rest
            .find(|letter: char| letter != '-' && !letter.is_ascii_digit())
            .unwrap_or(rest.len());
        rest.get(..end)?.trim_end_matches('-').parse().ok()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.process, self.number)
    }
}

/// The text is not a tag.
#[derive(Debug)]
pub struct NoTag;

impl FromStr for Tag {
    type Err = NoTag;

    fn from_str(text: &str) -> Result<Self, NoTag> {
        let (process, number) = text.split_once('-').ok_or(NoTag)?;
        Ok(Self {
            process: process.parse().map_err(|_| NoTag)?,
            number: number.parse().map_err(|_| NoTag)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_every_name_made_of_it() {
        let tag = Tag::next();
        assert_ne!(tag, Tag::next());
        assert_eq!(Tag::of_namespace(&tag.namespace("host")), Some(tag));
        assert_eq!(Tag::within(&tag.directory()), Some(tag));
        let path = format!("/tmp/{}/guard-1/config.yaml", tag.directory());
        assert_eq!(Tag::within(&path), Some(tag));
        assert_eq!(Tag::within(&format!("{}-7/agent", tag.directory())), None);
        assert!(tag.is_owned());
    }

    #[test]
    fn a_strange_name_has_no_tag() {
        for name in ["ag-1", "ag-x-1-host", "eth0", "ag--host", "ag-1-2"] {
            assert_eq!(Tag::of_namespace(name), None, "{name}");
        }
        for name in ["agentguard-test-", "/tmp/agentguard-test-1", "agentguard"] {
            assert_eq!(Tag::within(name), None, "{name}");
        }
    }

    #[test]
    fn a_tag_of_a_process_that_is_gone_is_not_owned() {
        // The kernel gives no process this id: it is above the largest `pid_max`.
        let gone: Tag = "4194305-1".parse().unwrap();
        assert!(!gone.is_owned());
    }
}
