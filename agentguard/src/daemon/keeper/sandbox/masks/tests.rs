use super::*;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.directory.path()).unwrap().join(name)
    }

    fn masks(&self, patterns: &[&str], own: &[&str]) -> Masks {
        let masks = Masks {
            blank: self.path("blank"),
            patterns: patterns.iter().map(|name| self.path(name)).collect(),
            own: own.iter().map(|name| self.path(name)).collect(),
            temporary: self.path("tmp"),
        };
        masks.make_blanks().unwrap();
        masks
    }

    /// What is masked below the bench; the host has its own.
    fn targets(&self, masks: &Masks, holes: &[&str]) -> Vec<PathBuf> {
        let holes = holes.iter().map(|name| self.path(name)).collect();
        let targets = masks.targets(&holes, 1).unwrap();
        let here = self.path("");
        targets
            .into_keys()
            .filter(|path| path.starts_with(&here))
            .collect()
    }
}

#[test]
fn what_is_there_is_masked_where_it_really_lies() {
    let bench = Bench::new();
    fs::create_dir(bench.path("real")).unwrap();
    symlink(bench.path("real"), bench.path("link")).unwrap();
    symlink(bench.path("nowhere"), bench.path("dangling")).unwrap();
    let _sockets = ["a.sock", "ab.sock", "b"].map(|name| {
        let path = bench.path(name);
        UnixListener::bind(path).unwrap()
    });
    let masks = bench.masks(&["link", "dangling", "missing", "a*.sock", "none/*"], &[]);
    let expected = ["a.sock", "ab.sock", "real"].map(|name| bench.path(name));
    assert_eq!(bench.targets(&masks, &[]), expected);
}

#[test]
fn an_agent_sees_what_is_unmasked_for_it_and_never_what_is_the_guards() {
    let bench = Bench::new();
    for name in ["run", "run/daemon", "state"] {
        fs::create_dir(bench.path(name)).unwrap();
    }
    let _socket = UnixListener::bind(bench.path("run/daemon/socket")).unwrap();
    let masks = bench.masks(&["run/daemon"], &["state"]);
    let both = ["run/daemon", "state"].map(|name| bench.path(name));
    assert_eq!(bench.targets(&masks, &["run/daemon/socket"]), both);
    assert_eq!(bench.targets(&masks, &["run/daemon"]), both[1..]);
    assert_eq!(bench.targets(&masks, &["run", "state"]), both[1..]);
}

/// Everybody can make a link in `/tmp`, also to `/etc`.
#[test]
fn a_link_in_the_place_of_a_directory_in_tmp_covers_nothing() {
    let bench = Bench::new();
    for name in ["tmp", "tmp/.X11-unix", "tmp/tmux-2", "etc"] {
        fs::create_dir(bench.path(name)).unwrap();
    }
    symlink(bench.path("etc"), bench.path("tmp/tmux-1")).unwrap();
    let masks = bench.masks(&[], &[]);
    assert_eq!(bench.targets(&masks, &[]), [bench.path("tmp/.X11-unix")]);
    let of_another = masks.targets(&BTreeSet::new(), 2).unwrap();
    assert_eq!(of_another.get(&bench.path("tmp/tmux-2")), Some(&Cover::Own));
}

#[test]
fn a_star_stands_for_any_run_of_characters() {
    for (pattern, name, expected) in [
        ("docker*.sock", "docker.sock", true),
        ("docker*.sock", "docker-desktop.sock", true),
        ("docker*.sock", "docker.socket", false),
        ("io.systemd*", "io.systemd.Login", true),
        ("io.systemd*", "private", false),
        ("*", "x", true),
        ("a*b*c", "abc", true),
        ("a*b*c", "acb", false),
        ("ab*b", "ab", false),
    ] {
        assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn the_mounts_below_proc_are_found() {
    let mounts = "22 1 0:20 / /proc rw - proc proc rw\n\
        23 22 0:21 / /proc/sys/fs/binfmt_misc rw shared:2 - autofs systemd-1 rw\n\
        24 22 0:5 /null /proc/kcore rw - tmpfs tmpfs rw\n\
        25 22 0:44 / /proc/meminfo rw - fuse.lxcfs lxcfs rw\n\
        26 1 0:45 / /process rw - tmpfs tmpfs rw\n";
    let expected = ["/proc/kcore", "/proc/meminfo"].map(PathBuf::from);
    assert_eq!(places_below_proc(mounts), expected);
}
