//! Container runtimes, `crun` and `podman`, with a root file system that the test makes.

use std::ffi::OsString;
use std::fs;

use agentguard_tests::{Namespace, World};
use serde_json::{Value, json};

/// The directories of the host's that a container sees, read-only: the programs, and what they need.
const SHARED: [&str; 8] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/root",
];

/// A runtime that is installed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Runtime {
    /// `crun`.
    Crun,
    /// `podman`, which has crun do it.
    Podman,
}

impl Runtime {
    /// Whether it is installed. If not, that is said.
    pub(crate) fn is_there(self) -> bool {
        let name = match self {
            Self::Crun => "crun",
            Self::Podman => "podman",
        };
        let found = std::process::Command::new(name).arg("--version").output();
        if found.is_ok_and(|output| output.status.success()) {
            return true;
        }
        assert!(
            std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
            "needs {name}, and nothing may be skipped"
        );
        println!("skipped: needs {name}; hint: cargo xtask setup --install");
        false
    }

    /// How these words are run in a container that has this network namespace, in the cgroup of whoever
    /// runs it.
    pub(crate) fn words(
        self,
        world: &World,
        namespace: &Namespace,
        words: &[OsString],
    ) -> Vec<OsString> {
        let bundle = world.directory().join("bundle");
        let root = bundle.join("root");
        for directory in SHARED
            .iter()
            .chain(&["/proc", "/dev", "/sys", "/tmp", "/run"])
        {
            fs::create_dir_all(root.join(directory.trim_start_matches('/'))).unwrap();
        }
        fs::write(root.join("root-of-the-test"), "").unwrap();
        let script = match self {
            Self::Crun => {
                let config = config(world, namespace, words);
                fs::write(bundle.join("config.json"), config.to_string()).unwrap();
                CRUN.to_owned()
            }
            Self::Podman => podman(world, namespace),
        };
        let name = world.tag().directory();
        let before: [OsString; 7] = [
            "unshare".into(),
            "--mount".into(),
            "sh".into(),
            "-c".into(),
            format!("{HIERARCHY} && {script}").into(),
            bundle.into(),
            name.into(),
        ];
        let own = match self {
            Self::Crun => &[],
            Self::Podman => words,
        };
        before.into_iter().chain(own.iter().cloned()).collect()
    }
}

/// crun takes no hierarchy that stands beside version 1: it sees version 2 alone, and leaves its cgroup as it
/// is. The test's files are below /tmp, which the container shares.
const HIERARCHY: &str = "mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup";

const CRUN: &str =
    r#"exec crun --cgroup-manager=disabled --root "$0/state" run --bundle "$0" "$1""#;

/// The same as [`config`], in podman's words, with the state of its own that it wants. The limits are none that
/// root without `CAP_SYS_RESOURCE` cannot set, and it makes no cgroup: crun raises another such limit for
/// the devices of one.
fn podman(world: &World, namespace: &Namespace) -> String {
    let mut script = r#"printf '[engine]\nevents_logger = "none"\n' >"$0/containers.conf" &&
        export CONTAINERS_CONF="$0/containers.conf" && bundle=$0 name=$1 && shift &&
        exec podman --root "$bundle/storage" --runroot "$bundle/run" --tmpdir "$bundle/tmp" \
            --runtime crun --cgroup-manager cgroupfs --storage-driver vfs run --rm --name "$name" \
            --cgroups=disabled --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 \
            --security-opt no-new-privileges --cap-drop all --volume /tmp:/tmp"#
        .to_owned();
    let files = SHARED
        .iter()
        .filter(|directory| fs::metadata(directory).is_ok())
        .chain(&[env!("CARGO_MANIFEST_DIR")]);
    for directory in files {
        script.push_str(&format!(" --volume {directory}:{directory}:ro"));
    }
    let path = std::env::var("PATH").unwrap();
    script.push_str(&format!(
        " --env PATH={path} --env LC_ALL=C.UTF-8 --network ns:/run/netns/{}",
        namespace.name()
    ));
    for (name, file) in world.trust() {
        script.push_str(&format!(" --env {name}={}", file.display()));
    }
    script.push_str(r#" --rootfs "$bundle/root" "$@""#);
    script
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
