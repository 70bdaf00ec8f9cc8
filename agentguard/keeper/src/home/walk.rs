//! The threads in cgroups and below them, one by one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::is_over;

/// Bytes of a line in `cgroup.threads`: a number below `PID_MAX_LIMIT` (2^22) and its end.
const LINE: usize = 8;

/// How much a walk takes in.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Cgroups that are looked through.
    pub cgroups: usize,
    /// Threads that are looked at.
    pub threads: usize,
}

impl Default for Bounds {
    /// Those of one agent.
    fn default() -> Self {
        Self {
            cgroups: 4096,
            threads: 65_536,
        }
    }
}

/// Something that a walk comes by.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A cgroup, before its threads.
    Cgroup(&'a Path),
    /// The number of a thread.
    Thread(u32),
}

/// A walk through cgroups, which can be stopped and gone on with.
#[derive(Debug)]
pub struct Walk {
    bounds: Bounds,
    /// At most so many as may still be looked through.
    waiting: Vec<PathBuf>,
    threads: std::vec::IntoIter<u32>,
    cgroups_left: usize,
    threads_left: usize,
    omitted: BTreeSet<String>,
}

impl Walk {
    /// One that begins with these cgroups.
    #[must_use]
    pub fn new(tops: Vec<PathBuf>, bounds: Bounds) -> Self {
        let mut walk = Self {
            bounds,
            waiting: Vec::new(),
            threads: Vec::new().into_iter(),
            cgroups_left: bounds.cgroups,
            threads_left: bounds.threads,
            omitted: BTreeSet::new(),
        };
        for top in tops {
            walk.wait(top);
        }
        walk
    }

    /// Calls `each` with what it comes by, until there is no more or the time is over; a step is always
    /// taken. `true`: it is at its end.
    pub fn advance(&mut self, until: Instant, mut each: impl FnMut(Step<'_>)) -> bool {
        loop {
            if let Some(thread) = self.threads.next() {
                each(Step::Thread(thread));
            } else if let Some(path) = self.waiting.pop() {
                each(Step::Cgroup(&path));
                self.enter(&path);
            } else {
                return true;
            }
            if Instant::now() >= until {
                return self.waiting.is_empty() && self.threads.len() == 0;
            }
        }
    }

    /// What it left out, a reason each.
    #[must_use]
    pub fn omitted(&self) -> &BTreeSet<String> {
        &self.omitted
    }

    /// Takes in a cgroup. One that is gone has neither threads nor children.
    fn enter(&mut self, path: &Path) {
        match self.threads_of(path) {
            Ok(threads) => self.threads = threads.into_iter(),
            Err(error) if is_over(&error) => return,
            Err(error) => self.omit(format!("a cgroup's threads cannot be listed: {error}")),
        }
        let children = match std::fs::read_dir(path) {
            Ok(children) => children,
            Err(error) if is_over(&error) => return,
            Err(error) => {
                self.omit(format!("a cgroup's children cannot be listed: {error}"));
                return;
            }
        };
        for child in children {
            match child.and_then(|child| Ok((child.file_type()?, child.path()))) {
                Ok((kind, path)) if kind.is_dir() => {
                    if !self.wait(path) {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) if is_over(&error) => {}
                Err(error) => self.omit(format!("a cgroup's children cannot be listed: {error}")),
            }
        }
    }

    fn threads_of(&mut self, path: &Path) -> io::Result<Vec<u32>> {
        let file = File::open(path.join("cgroup.threads"))?;
        let most = self.threads_left.saturating_mul(LINE).saturating_add(1);
        let mut list = Vec::new();
        file.take(u64::try_from(most).unwrap_or(u64::MAX))
            .read_to_end(&mut list)?;
        let mut threads = Vec::new();
        for line in list.split_inclusive(|byte| *byte == b'\n') {
            // The last may be half a number.
            let Some(line) = line.strip_suffix(b"\n") else {
                self.omit_threads();
                break;
            };
            // 0: one of another PID namespace's, that we have no name for.
            let number = std::str::from_utf8(line)
                .ok()
                .and_then(|it| it.parse().ok());
            let Some(thread) = number.filter(|number| *number != 0) else {
                self.omit("threads of a PID namespace beside ours".to_owned());
                continue;
            };
            if self.threads_left == 0 {
                self.omit_threads();
                break;
            }
            self.threads_left -= 1;
            threads.push(thread);
        }
        Ok(threads)
    }

    /// Notes a cgroup for later. `false`: there are too many.
    fn wait(&mut self, path: PathBuf) -> bool {
        if self.cgroups_left == 0 {
            self.omit(format!("more than {} cgroups", self.bounds.cgroups));
            return false;
        }
        self.cgroups_left -= 1;
        self.waiting.push(path);
        true
    }

    fn omit_threads(&mut self) {
        self.omit(format!("more than {} threads", self.bounds.threads));
    }

    fn omit(&mut self, what: String) {
        // Reasons are few: they hold no name that an agent gave.
        self.omitted.insert(what);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::{Bounds, Step, Walk};

    /// Directories with lists, as cgroups are.
    fn tree() -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        for (path, list) in [("", "1\n2\n"), ("a", "3\n"), ("a/b", ""), ("c", "4\n5\n")] {
            let path = top.path().join(path);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.threads"), list).unwrap();
        }
        top
    }

    /// The threads, in how many goes, and what was left out.
    fn walk(top: &Path, bounds: Bounds, time: Duration) -> (Vec<u32>, usize, Vec<String>) {
        let mut walk = Walk::new(vec![top.to_owned()], bounds);
        let mut threads = Vec::new();
        let mut goes = 1;
        while !walk.advance(Instant::now() + time, |step| {
            if let Step::Thread(thread) = step {
                threads.push(thread);
            }
        }) {
            goes += 1;
        }
        threads.sort_unstable();
        (threads, goes, walk.omitted().iter().cloned().collect())
    }

    #[test]
    fn a_walk_that_is_stopped_goes_on_where_it_was_and_misses_nothing() {
        let top = tree();
        let all = vec![1, 2, 3, 4, 5];
        let long = Duration::from_secs(60);
        let whole = walk(top.path(), Bounds::default(), long);
        assert_eq!(whole, (all.clone(), 1, Vec::new()));
        // Four cgroups and five threads.
        let stopped = walk(top.path(), Bounds::default(), Duration::ZERO);
        assert_eq!(stopped, (all, 9, Vec::new()));
    }

    #[test]
    fn what_is_beyond_a_bound_is_left_out_and_told() {
        let top = tree();
        let told = |cgroups, threads| {
            let bounds = Bounds { cgroups, threads };
            let (seen, _, omitted) = walk(top.path(), bounds, Duration::from_secs(60));
            (seen.len(), omitted.join("; "))
        };
        assert_eq!(told(4, 5), (5, String::new()));
        assert_eq!(told(3, 5).1, "more than 3 cgroups");
        assert_eq!(told(4, 4), (4, "more than 4 threads".to_owned()));
        assert_eq!(
            told(1, 1),
            (1, "more than 1 cgroups; more than 1 threads".to_owned())
        );
        let gone = walk(&top.path().join("gone"), Bounds::default(), Duration::ZERO);
        assert_eq!(gone, (Vec::new(), 1, Vec::new()));
        // What cannot be read is not taken for empty.
        fs::remove_file(top.path().join("c/cgroup.threads")).unwrap();
        fs::create_dir(top.path().join("c/cgroup.threads")).unwrap();
        let (seen, omitted) = told(9, 9);
        assert_eq!(seen, 3);
        assert!(
            omitted.starts_with("a cgroup's threads cannot be listed: "),
            "{omitted}"
        );
    }
}
