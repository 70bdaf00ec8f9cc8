//! The ways in which the escapes of a path can be read.
//!
//! A canonical path keeps an encoded slash, which some servers take for a slash, and what is escaped without need is
//! to most of them what it stands for (RFC 3986, 6.2.2).

use percent_encoding::percent_decode_str;

/// How else than as it is written a path can be read, each way once. None where it has no escapes.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    /// With an encoded slash as a slash.
    slashes: Vec<String>,
    /// Beside that without escapes.
    unescaped: Vec<String>,
}

impl Readings {
    pub(crate) fn of(path: &str) -> Self {
        let mut readings = Self::default();
        if !path.contains('%') {
            return readings;
        }
        let mut known = vec![path.to_owned()];
        let mut add = |to: &mut Vec<String>, reading: String| {
            if !known.contains(&reading) {
                known.push(reading.clone());
                to.push(reading);
            }
        };
        let with_slashes = path.replace("%2F", "/");
        let merged = merged(&with_slashes);
        let kept: Vec<_> = path.split("%2F").map(unescaped).collect();
        let (kept, all) = (kept.join("%2F"), unescaped(&merged));
        add(&mut readings.slashes, with_slashes);
        add(&mut readings.slashes, merged);
        add(&mut readings.unescaped, kept);
        add(&mut readings.unescaped, all);
        readings
    }

    /// Those with slashes in the place of encoded ones.
    pub(crate) fn slashes(&self) -> impl Iterator<Item = &str> {
        self.slashes.iter().map(String::as_str)
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.slashes()
            .chain(self.unescaped.iter().map(String::as_str))
    }
}

/// A path without empty segments but the last.
pub(crate) fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// A path without escapes, but for `%25`: what that stands for is no escape of its own.
fn unescaped(path: &str) -> String {
    let path = path.replace("%25", "%2525");
    percent_decode_str(&path).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::Readings;

    #[test]
    fn each_way_is_there_once() {
        for (path, slashes, all) in [
            ("/a/b", &[][..], &[][..]),
            ("/a%2Fb", &["/a/b"], &["/a/b"]),
            ("/a%2F%2Fb", &["/a//b", "/a/b"], &["/a//b", "/a/b"]),
            ("/%7Eb", &[], &["/~b"]),
            ("/%7E%252Fb", &[], &["/~%252Fb"]),
            ("/%3Ab%2Fc", &["/%3Ab/c"], &["/%3Ab/c", "/:b%2Fc", "/:b/c"]),
            ("/a%252Fb", &[], &[]),
        ] {
            let readings = Readings::of(path);
            assert_eq!(readings.slashes().collect::<Vec<_>>(), slashes, "{path}");
            assert_eq!(readings.all().collect::<Vec<_>>(), all, "{path}");
        }
    }
}
