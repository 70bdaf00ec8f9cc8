//! An archive that the kernel unpacks as its first root: "newc" of cpio,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Directories that are names of others on a Debian since 12: a file is put where it really is.
const MERGED: [(&str, &str); 4] = [
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
];

/// The archive as far as it goes. Paths are absolute; what is missing above a path is made.
#[derive(Debug)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    /// What is in it, as absolute paths.
    names: BTreeSet<String>,
}

impl Archive {
    /// One with nothing but the merged directories.
    pub(super) fn new() -> Self {
        let mut archive = Self {
            bytes: Vec::new(),
            names: BTreeSet::new(),
        };
        for (name, target) in MERGED {
            archive.directory(&format!("/{target}"), 0o755);
            archive.link(name, target);
        }
        archive
    }

    /// Whether it has this path already.
    pub(super) fn has(&self, path: &str) -> bool {
        self.names.contains(&merged(path))
    }

    /// A directory, unless it is there.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.put(path, DIRECTORY | mode, 0, &[]);
    }

    /// A symbolic link, unless there is something of this name.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.put(path, LINK | 0o777, 0, target.as_bytes());
    }

    /// A file, unless there is something of this name. `modified` is in seconds since 1970: Python
    /// compares it with that in its compiled files.
    pub(super) fn file(&mut self, path: &str, mode: u32, modified: u32, content: &[u8]) {
        self.put(path, FILE | mode, modified, content);
    }

    fn put(&mut self, path: &str, mode: u32, modified: u32, content: &[u8]) {
        let path = merged(path);
        if path == "/" || self.names.contains(&path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(if parent.is_empty() { "/" } else { parent }, 0o755);
        }
        self.entry(path.trim_start_matches('/'), mode, modified, content);
        self.names.insert(path);
    }

    fn entry(&mut self, name: &str, mode: u32, modified: u32, content: &[u8]) {
        // Inode, mode, owner, group, links, time, size, four numbers of devices, length of the name with
        // its end, checksum. Files of root; a number of its own each, so that none is taken for another.
        let fields = [
            self.names.len() + 1,
            mode as usize,
            0,
            0,
            1,
            modified as usize,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }

    /// All of it, ended.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, &[]);
        self.bytes
    }
}

/// Where a path leads on a system with merged directories.
fn merged(path: &str) -> String {
    for (name, target) in MERGED {
        if let Some(rest) = path.strip_prefix(name)
            && rest.starts_with('/')
        {
            return format!("/{target}{rest}");
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_file_is_where_the_merged_directories_lead_and_what_is_above_it_is_made() {
        let mut archive = Archive::new();
        archive.file("/bin/sh", 0o755, 0, b"shell");
        archive.file("/a/b/c", 0o644, 0, b"");
        for path in ["/bin/sh", "/usr/bin/sh", "/a", "/a/b", "/a/b/c"] {
            assert!(archive.has(path), "{path}");
        }
        assert!(!archive.has("/binary"));
        assert_eq!(merged("/lib64/ld.so"), "/usr/lib64/ld.so");
        assert_eq!(merged("/library"), "/library");
    }

    #[test]
    fn what_is_there_stays() {
        let mut archive = Archive::new();
        archive.file("/etc/passwd", 0o644, 0, b"first");
        let before = archive.bytes.len();
        archive.file("/etc/passwd", 0o644, 0, b"second");
        archive.directory("/etc", 0o700);
        assert_eq!(archive.bytes.len(), before);
    }

    #[test]
    fn another_program_reads_it() {
        let Ok(mut busybox) = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return;
        };
        let mut archive = Archive::new();
        archive.file("/sbin/tool", 0o755, 0, b"12345");
        archive.link("/etc/link", "/proc/mounts");
        let mut input = busybox.stdin.take().unwrap();
        input.write_all(&archive.finish()).unwrap();
        drop(input);
        let told = busybox.wait_with_output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let has = |start: &str, end: &str| {
            told.lines()
                .any(|line| line.starts_with(start) && line.ends_with(end))
        };
        assert!(has("-rwxr-xr-x", " usr/sbin/tool"), "{told}");
        assert!(has("lrwxrwxrwx", " etc/link -> /proc/mounts"), "{told}");
        assert!(has("drwxr-xr-x", " usr/bin"), "{told}");
    }
}
