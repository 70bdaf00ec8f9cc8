//! A container runtime, `crun`, with a root file system that the test makes.

use std::ffi::OsString;
use std::fs;

use agentguard_tests::{Namespace, World};
use serde_json::{Value, json};

/// The directories of the host's that a container sees, read-only: the programs, and what they need.
const SHARED: [&str; 8] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/root",
];

/// `crun`.
pub(crate) struct Runtime;

impl Runtime {
    /// `None`: it is not installed, which is said.
    pub(crate) fn find() -> Option<Self> {
        let found = std::process::Command::new("crun").arg("--version").output();
        if found.is_ok_and(|output| output.status.success()) {
            return Some(Self);
        }
        assert!(
            std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
            "needs crun, and nothing may be skipped"
        );
        println!("skipped: needs crun; hint: cargo xtask setup --install");
        None
    }

    /// How these words are run in a container that has this network namespace, in the cgroup of whoever
    /// runs it.
    pub(crate) fn words(
        &self,
        world: &World,
        namespace: &Namespace,
        words: &[OsString],
    ) -> Vec<OsString> {
        let bundle = world.directory().join("bundle");
        let root = bundle.join("root");
        for directory in SHARED.iter().chain(&["/proc", "/dev", "/sys", "/tmp"]) {
            fs::create_dir_all(root.join(directory.trim_start_matches('/'))).unwrap();
        }
        fs::write(root.join("root-of-the-test"), "").unwrap();
        let config = config(world, namespace, words);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        // crun takes no hierarchy that stands beside version 1: it sees version 2 alone, and leaves its
        // cgroup as it is. The test's files are below /tmp, which the container shares.
        let script = r#"mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup &&
            exec crun --cgroup-manager=disabled --root "$0/state" run --bundle "$0" "$1""#;
        let name = world.tag().directory();
        let words: [OsString; 7] = [
            "unshare".into(),
            "--mount".into(),
            "sh".into(),
            "-c".into(),
            script.into(),
            bundle.into(),
            name.into(),
        ];
        words.to_vec()
    }
}

/// The bundle's configuration, as the runtime specification has it.
fn config(world: &World, namespace: &Namespace, words: &[OsString]) -> Value {
    let shared = SHARED
        .iter()
        .filter(|directory| fs::metadata(directory).is_ok())
        .map(|directory| bind(directory, "ro"));
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
        bind("/tmp", "rw"),
    ];
    mounts.extend(shared);
    // This file's package has the clients.
    mounts.push(bind(env!("CARGO_MANIFEST_DIR"), "ro"));
    let mut environment = vec![
        format!("PATH={}", std::env::var("PATH").unwrap()),
        "LC_ALL=C.UTF-8".to_owned(),
    ];
    let trust = world.trust().into_iter();
    environment.extend(trust.map(|(name, file)| format!("{name}={}", file.display())));
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
    json!({
        "ociVersion": "1.0.0",
        "root": {"path": "root", "readonly": false},
        "process": {
            "cwd": "/",
            "args": words,
            "env": environment,
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
        },
        "mounts": mounts,
        "linux": {"namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "network", "path": format!("/run/netns/{}", namespace.name())},
        ]},
    })
}

fn bind(directory: &str, mode: &str) -> Value {
    json!({
        "destination": directory,
        "type": "bind",
        "source": directory,
        "options": ["rbind", mode],
    })
}
