//! Limits, on directories that look like cgroups.

use std::fs;
use std::path::{Path, PathBuf};

use agentguard_model::{BlockDevice, IoLimit, MilliCpus, ResourceLimits};
use rustix::fs::XattrFlags;

use super::super::controllers::Tree;
use super::{hold, lacks, release, stricter};

/// A hierarchy with a root of all agents, an agent's cgroup and one of somebody else's.
struct Fake {
    _dir: tempfile::TempDir,
    tree: Tree,
    own: PathBuf,
    service: PathBuf,
}

impl Fake {
    /// `None`, and said so: attributes that only root writes cannot be written here.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if let Err(error) =
            rustix::fs::setxattr(dir.path(), "trusted.test", b"1", XattrFlags::empty())
        {
            eprintln!("skipped: no trusted attributes here: {error}");
            return None;
        }
        let mount = dir.path().to_owned();
        let root = mount.join("agentguard");
        let (own, service) = (root.join("coder"), mount.join("my.service"));
        for (path, files) in [
            (&mount, false),
            (&root, false),
            (&own, true),
            (&service, true),
        ] {
            fs::create_dir_all(path).unwrap();
            fs::write(path.join("cgroup.controllers"), "cpu io memory pids\n").unwrap();
            fs::write(path.join("cgroup.subtree_control"), "cpu io memory pids\n").unwrap();
            for (file, text) in [
                ("cpu.max", "max 100000"),
                ("memory.max", "max"),
                ("memory.high", "max"),
                ("pids.max", "max"),
                ("io.max", ""),
            ] {
                if files {
                    fs::write(path.join(file), format!("{text}\n")).unwrap();
                }
            }
        }
        let tree = Tree {
            mount: mount.clone(),
            root,
            top: mount,
            managed: false,
            mounts: String::new(),
        };
        Some(Self {
            _dir: dir,
            tree,
            own,
            service,
        })
    }

    fn set(&self, cgroup: &Path, limits: &ResourceLimits) -> Vec<String> {
        let held = hold(&self.tree, cgroup, limits);
        assert_eq!(held.lacks, []);
        held.put_back
    }
}

fn shown(cgroup: &Path, file: &str) -> String {
    fs::read_to_string(cgroup.join(file))
        .unwrap()
        .trim()
        .to_owned()
}

fn limits() -> ResourceLimits {
    ResourceLimits {
        cpu: Some(MilliCpus(1500)),
        memory: Some((2 << 20) + 1),
        memory_high: Some(1 << 20),
        pids: Some(200),
        io: vec![IoLimit {
            device: BlockDevice::Number {
                major: 4242,
                minor: 7,
            },
            read: Some(10 << 20),
            write: None,
            read_ops: None,
            write_ops: Some(5),
        }],
    }
}

#[test]
fn limits_are_set_changed_and_taken_back() {
    let Some(fake) = Fake::new() else { return };
    let own = &fake.own;
    assert_eq!(fake.set(own, &limits()), Vec::<String>::new());
    assert_eq!(shown(own, "cpu.max"), "150000 100000");
    assert_eq!(shown(own, "memory.max"), "2097152");
    assert_eq!(shown(own, "memory.high"), "1048576");
    assert_eq!(shown(own, "pids.max"), "200");
    assert_eq!(
        shown(own, "io.max"),
        "4242:7 rbps=10485760 wbps=max riops=max wiops=5"
    );

    // More is given again, and what is not limited any more is as it was before.
    let more = ResourceLimits {
        pids: Some(300),
        ..ResourceLimits::default()
    };
    fake.set(own, &more);
    assert_eq!(shown(own, "pids.max"), "300");
    assert_eq!(shown(own, "cpu.max"), "max");
    assert_eq!(
        (shown(own, "memory.max"), shown(own, "memory.high")),
        ("max".into(), "max".into())
    );
    assert_eq!(
        shown(own, "io.max"),
        "4242:7 rbps=max wbps=max riops=max wiops=max"
    );
    assert_eq!(release(&fake.tree, own).lacks, []);
    assert_eq!(shown(own, "pids.max"), "max");
}

#[test]
fn what_somebody_else_opens_is_closed_again_and_told() {
    let Some(fake) = Fake::new() else { return };
    let own = &fake.own;
    fake.set(own, &limits());
    fs::write(own.join("memory.max"), "max\n").unwrap();
    let put_back = fake.set(own, &limits());
    assert_eq!(put_back.len(), 1, "{put_back:?}");
    assert!(
        put_back[0].contains("was set to `max` by somebody else, and is `2097152` again"),
        "{put_back:?}"
    );
    assert_eq!(shown(own, "memory.max"), "2097152");
    assert_eq!(fake.set(own, &limits()), Vec::<String>::new());
}

#[test]
fn of_an_adopted_cgroup_what_its_owner_has_set_counts_where_it_is_less_and_comes_back() {
    let Some(fake) = Fake::new() else { return };
    let service = &fake.service;
    fs::write(service.join("pids.max"), "50\n").unwrap();
    fs::write(service.join("cpu.max"), "400000 100000\n").unwrap();
    fake.set(service, &limits());
    assert_eq!(shown(service, "pids.max"), "50");
    assert_eq!(shown(service, "cpu.max"), "150000 100000");
    // Its owner sets one anew, higher than the policy's and then lower.
    fs::write(service.join("pids.max"), "900\n").unwrap();
    fs::write(service.join("memory.max"), "1048576\n").unwrap();
    fake.set(service, &limits());
    assert_eq!(shown(service, "pids.max"), "200");
    assert_eq!(shown(service, "memory.max"), "1048576");
    assert_eq!(release(&fake.tree, service).lacks, []);
    assert_eq!(shown(service, "pids.max"), "900");
    assert_eq!(shown(service, "cpu.max"), "400000 100000");
    assert_eq!(shown(service, "memory.max"), "1048576");
}

#[test]
fn what_cannot_be_set_is_told_and_the_rest_is_set() {
    let Some(fake) = Fake::new() else { return };
    let own = &fake.own;
    fs::remove_file(own.join("cpu.max")).unwrap();
    let mut limits = limits();
    limits.io[0].device = BlockDevice::Node("/dev/null".into());
    let held = hold(&fake.tree, own, &limits);
    let told: Vec<&str> = held.lacks.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("/dev/null is no block device"), "{told:?}");
    assert!(
        told[1].contains("has no cpu.max, though it has the controller `cpu`"),
        "{told:?}"
    );
    assert_eq!(
        (shown(own, "pids.max"), shown(own, "memory.max")),
        ("200".into(), "2097152".into())
    );

    // Somebody else's, without the controllers: nothing is changed.
    for file in ["cpu.max", "memory.max", "memory.high", "pids.max", "io.max"] {
        fs::remove_file(fake.service.join(file)).unwrap();
    }
    for path in [&fake.service, &fake.tree.mount] {
        fs::write(path.join("cgroup.controllers"), "cpu\n").unwrap();
    }
    let told = lacks(
        &fake.tree,
        &fake.service,
        &super::super::limits::tests::limits(),
    );
    let named =
        ["`memory`", "`pids`", "`io`"].map(|it| told.iter().any(|lack| lack.what.contains(it)));
    assert_eq!(named, [true; 3], "{told:?}");
}

#[test]
fn the_stricter_of_two_limits_is_found_in_every_form() {
    for (one, other, expected) in [
        ("200", "max", "200"),
        ("200", "100", "100"),
        ("150000 100000", "max 100000", "150000 100000"),
        ("150000 100000", "10000 5000", "150000 100000"),
        ("250000 100000", "10000 5000", "10000 5000"),
        (
            "rbps=10 wbps=max riops=max wiops=5",
            "rbps=20 wbps=7 riops=max wiops=max",
            "rbps=10 wbps=7 riops=max wiops=5",
        ),
    ] {
        assert_eq!(stricter(one, other), expected, "{one} {other}");
    }
}
