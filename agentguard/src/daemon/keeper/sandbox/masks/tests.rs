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
        let targets = masks.targets(&holes, &[], 1).unwrap();
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
    let masks = bench.masks(&["run/daemon"], &["state", "run/daemon/own"]);
    fs::create_dir(bench.path("run/daemon/own")).unwrap();
    let daemon = [bench.path("run/daemon")];
    assert_eq!(bench.targets(&masks, &["run/daemon/socket"]), daemon);
    assert!(bench.targets(&masks, &["run/daemon"]).is_empty());
    let own = ["state", "run/daemon/own"].map(|name| bench.path(name));
    for unmasked in [
        vec![],
        vec![bench.path("run/daemon")],
        vec![bench.path("run/daemon/own")],
        vec![bench.path("run"), bench.path("state")],
    ] {
        let overlays = masks.overlays(&unmasked, &[], 1).unwrap();
        let targets: Vec<_> = overlays.iter().map(|overlay| &overlay.target).collect();
        assert!(targets.ends_with(&own.each_ref()), "{targets:?}");
    }
}

#[test]
fn what_mounts_the_hosts_that_it_is_asked_for_is_masked_unless_the_policy_says_otherwise() {
    let bench = Bench::new();
    fs::create_dir(bench.path("net")).unwrap();
    let masks = bench.masks(&[], &[]);
    let on_demand = [bench.path("net"), bench.path("gone")];
    let targets = |holes: &[PathBuf]| {
        let holes = holes.iter().cloned().collect();
        let targets = masks.targets(&holes, &on_demand, 1).unwrap();
        targets.contains_key(&bench.path("net"))
    };
    assert!(targets(&[]));
    assert!(!targets(&[bench.path("net")]));
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
    let of_another = masks.targets(&BTreeSet::new(), &[], 2).unwrap();
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
