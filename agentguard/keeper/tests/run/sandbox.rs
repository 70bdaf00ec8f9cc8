//! The sandbox of a run: each way out is gone by without it, and closed with it; and what honest
//! programs need is there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

use agentguard_keeper::spawn::{Domain, Overlay, Profile, SeccompFilter, Source, landlock, mounts};

use crate::world::{Gives, Keeper, Person};

fn filter() -> SeccompFilter {
    let profile = Profile {
        trace: true,
        ..Profile::default()
    };
    profile.filter().unwrap()
}

/// As of a kernel without Landlock.
fn filter_alone() -> SeccompFilter {
    Profile::default().filter().unwrap()
}

fn filter_with_namespaces() -> SeccompFilter {
    let profile = Profile {
        user_namespaces: true,
        trace: true,
    };
    profile.filter().unwrap()
}

fn processes() -> Overlay {
    Overlay {
        source: Source::Mount(mounts::processes().unwrap()),
        target: "/proc".into(),
        optional: false,
    }
}

/// All of the sandbox that is for every run.
fn whole() -> Gives {
    Gives {
        seccomp: Some(filter),
        mounts: vec![processes],
        domain: Domain::best(landlock::abi(), false),
        ..Gives::default()
    }
}

/// A process of user `daemon` that the guard knows nothing of, with an abstract socket.
struct Victim {
    process: Child,
    socket: String,
}

impl Victim {
    fn new(name: &str) -> Self {
        let socket = format!("agentguard-test-{}-{name}", std::process::id());
        let script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind('\\0' + sys.argv[1]); s.listen(); print('ready', flush=True); sys.stdin.read()";
        let mut process = as_daemon(&["/usr/bin/python3", "-c", script, &socket])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert_eq!(ready, "ready\n");
        Self { process, socket }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A command of user `daemon` without a guard.
fn as_daemon(words: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=1", "--regid=1", "--clear-groups"])
        .args(words)
        .current_dir("/");
    command
}

/// Where user `daemon` can read it.
fn script(keeper: &Keeper) -> String {
    let path = keeper.directory().join("ways.py");
    fs::write(&path, include_str!("ways.py")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn told(output: &str) -> BTreeMap<&str, &str> {
    output
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect()
}

/// Tries all ways without a guard and in this run; gives both, the first without those that this
/// kernel or its settings close to everybody.
fn ways(name: &str, gives: Gives) -> Option<(String, String)> {
    let keeper = Keeper::new(name, gives)?;
    let script = script(&keeper);
    let victim = Victim::new(name);
    let pid = victim.process.id().to_string();
    let words = ["/usr/bin/python3", &script, &pid, &victim.socket];
    let free = as_daemon(&words).output().unwrap();
    let free = String::from_utf8(free.stdout).unwrap();
    let (_, held, err) = keeper.output(&["--user", "daemon"], &words);
    assert_eq!(err, "");
    Some((free, held))
}

/// What each way comes to: with all of it, and with the filter alone.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("vsock", "EAFNOSUPPORT", "EAFNOSUPPORT"),
    ("sock-diag", "EPROTONOSUPPORT", "EPROTONOSUPPORT"),
    ("generic-netlink", "EPROTONOSUPPORT", "EPROTONOSUPPORT"),
    ("user-namespace", "EPERM", "EPERM"),
    ("clone-user", "EPERM", "EPERM"),
    ("clone3", "ENOSYS", "ENOSYS"),
    ("mount", "EPERM", "EPERM"),
    ("io-uring", "ENOSYS", "ENOSYS"),
    ("name-to-handle", "EPERM", "EPERM"),
    ("userfaultfd", "EPERM", "EPERM"),
    ("key", "EPERM", "EPERM"),
    ("perf", "EPERM", "EPERM"),
    ("personality", "EPERM", "EPERM"),
    ("terminal-input", "EPERM", "EPERM"),
    ("ptrace", "EPERM", "EPERM"),
    ("read-memory", "EPERM", "EPERM"),
    ("pidfd-getfd", "EPERM", "EPERM"),
    ("kcmp", "EPERM", "EPERM"),
    ("memory-file", "ENOENT", "done"),
    ("environment", "ENOENT", "done"),
    ("root", "ENOENT", "done"),
    ("command-line", "ENOENT", "done"),
    ("process-1", "ENOENT", "done"),
    ("signal", "EPERM", "done"),
    ("abstract", "EPERM", "done"),
];

/// Ways that a setting of the host may close to everybody.
const CLOSED_ELSEWHERE: [&str; 5] = [
    "vsock",
    "userfaultfd",
    "perf",
    "terminal-input",
    "user-namespace",
];

#[test]
fn every_way_is_open_without_a_run_and_closed_in_one() {
    let Some((free, held)) = ways("ways", whole()) else {
        return;
    };
    let (free, held) = (told(&free), told(&held));
    assert_eq!(free.len(), EXPECTED.len());
    for (way, closed, _) in EXPECTED {
        if CLOSED_ELSEWHERE.contains(way) && free[way] != "done" {
            println!("{way} is closed to all on this host: {}", free[way]);
        } else {
            assert_eq!(free[way], "done", "{way}");
        }
        if landlock::abi() < 6 && ["signal", "abstract"].contains(way) {
            continue;
        }
        assert_eq!(held[way], *closed, "{way}");
    }
}

/// On a kernel without Landlock, and where `/proc` cannot be mounted: what is then open is what
/// `status` says.
#[test]
fn without_landlock_the_filter_closes_what_it_can() {
    let gives = Gives {
        seccomp: Some(filter_alone),
        ..Gives::default()
    };
    let Some((_, held)) = ways("ways-alone", gives) else {
        return;
    };
    let held = told(&held);
    for (way, _, expected) in EXPECTED {
        assert_eq!(held[way], *expected, "{way}");
    }
}

/// The form of Landlock before Linux 6.12, which this kernel knows too.
#[test]
fn an_older_landlock_closes_processes_and_lets_files_be_moved() {
    let gives = Gives {
        seccomp: Some(filter),
        domain: Domain::Trace,
        ..Gives::default()
    };
    if landlock::abi() < 2 {
        return;
    }
    let Some((_, held)) = ways("ways-older", gives) else {
        return;
    };
    let held = told(&held);
    for (way, expected) in [
        ("ptrace", "EPERM"),
        ("read-memory", "EPERM"),
        ("pidfd-getfd", "EPERM"),
        ("kcmp", "EPERM"),
        ("memory-file", "EACCES"),
        ("environment", "EACCES"),
        ("root", "EACCES"),
        ("signal", "done"),
        ("abstract", "done"),
    ] {
        assert_eq!(held[way], expected, "{way}");
    }
    let gives = Gives {
        domain: Domain::Trace,
        ..Gives::default()
    };
    let keeper = Keeper::new("moves", gives).unwrap();
    let directory = keeper.directory().display();
    let script = format!(
        "cd {directory} && mkdir a b && echo x > a/f && mv a/f b/f && ln b/f a/g && mv b /tmp/agentguard-moved-$$ && rm -r /tmp/agentguard-moved-$$ && cat a/g"
    );
    let (code, out, err) = keeper.output(&[], &["sh", "-c", &script]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "x\n", ""));
}

#[test]
fn a_program_of_another_abi_is_ended() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let Some(keeper) = Keeper::new("abi", whole()) else {
        return;
    };
    // exit(7) of i386 and of x32, out of a page of one's own.
    for (code, free, held) in [
        // mov eax, 1; mov ebx, 7; int 0x80
        (
            "b801000000bb07000000cd80",
            Some(7),
            // The client ends by the same signal.
            None,
        ),
        // mov eax, 0x40000027 (getpid of x32); syscall; neg eax; mov edi, eax; mov eax, 60; syscall
        (
            "b8270000400f05f7d889c7b83c0000000f05",
            Some(libc::ENOSYS),
            Some(libc::ENOSYS),
        ),
    ] {
        let script = format!(
            "import mmap, ctypes; m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('{code}')); ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"
        );
        let words = ["/usr/bin/python3", "-c", &script];
        let without = as_daemon(&words).status().unwrap();
        // A kernel without these ABIs answers the same.
        if without.code() != free {
            println!("this kernel has no such calls: {without}");
        }
        let (found, _, _) = keeper.output(&["--user", "daemon"], &words);
        assert_eq!(found, held, "{code}");
    }
}

#[test]
fn honest_programs_do_their_work() {
    let Some(keeper) = Keeper::new("honest", whole()) else {
        return;
    };
    let directory = keeper.directory().join("work");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(
        directory.join("threads.py"),
        "import threading, subprocess, socket, multiprocessing, os\n\
         def work(q): q.put(os.getpid() != parent)\n\
         parent = os.getpid()\n\
         q = multiprocessing.Queue()\n\
         p = multiprocessing.Process(target=work, args=(q,)); p.start(); assert q.get(); p.join()\n\
         found = []\n\
         ts = [threading.Thread(target=found.append, args=(n,)) for n in range(20)]\n\
         [t.start() for t in ts]; [t.join() for t in ts]\n\
         assert sorted(found) == list(range(20))\n\
         assert subprocess.run(['true']).returncode == 0\n\
         a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'\n\
         s = socket.socket(socket.AF_UNIX); s.bind('\\0agentguard-test-own'); s.listen()\n\
         socket.socket(socket.AF_UNIX).connect('\\0agentguard-test-own')\n\
         assert 'lo' in [name for _, name in socket.if_nameindex()]\n\
         child = subprocess.Popen(['sleep', '100']); os.kill(child.pid, 9); child.wait()\n\
         print('done')\n",
    )
    .unwrap();
    let cases: [(&str, &str); 8] = [
        ("/usr/bin/python3 threads.py", "done\n"),
        (
            "git init -q r 2>/dev/null && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --format=%s",
            "x\n",
        ),
        (
            "node -e \"const w = new (require('worker_threads').Worker)('require(\\\"worker_threads\\\").parentPort.postMessage(1)', {eval: true}); w.on('message', m => { require('child_process').execSync('true'); console.log(m, 'lo' in require('os').networkInterfaces()); })\"",
            "1 true\n",
        ),
        ("strace -e trace=none -o /dev/null echo traced", "traced\n"),
        (
            "gdb -q -batch -ex 'set startup-with-shell off' -ex run --args /bin/echo debugged 2>/dev/null | grep -o ^debugged",
            "debugged\n",
        ),
        // Its own children it sees, and nobody else.
        (
            "sleep 100 & ls /proc | grep -c '^[0-9]*$' | sed 's/^[2-9]$/few/'; test -d /proc/$! && echo seen; kill $!",
            "few\nseen\n",
        ),
        ("kill -0 $$ && echo alive", "alive\n"),
        (
            "ulimit -c; setarch -R true && echo personal",
            "0\npersonal\n",
        ),
    ];
    for (command, expected) in cases {
        let program = command.split(' ').next().unwrap();
        if Command::new("which")
            .arg(program)
            .output()
            .unwrap()
            .stdout
            .is_empty()
            && ["git", "node", "strace", "gdb"].contains(&program)
        {
            println!("there is no {program}");
            continue;
        }
        let output = keeper
            .client(&["--user", "daemon"], &["bash", "-c", command])
            .env("HOME", &directory)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(out, expected, "{command}: {err}");
    }
}

#[test]
fn an_agent_that_may_makes_namespaces_and_mounts_in_them() {
    let gives = Gives {
        seccomp: Some(filter_with_namespaces),
        domain: Domain::best(landlock::abi(), true),
        mounts: vec![processes],
        ..Gives::default()
    };
    let Some(keeper) = Keeper::new("namespaces", gives) else {
        return;
    };
    let script =
        "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs x /mnt && echo mounted'";
    if !as_daemon(&["sh", "-c", script])
        .output()
        .unwrap()
        .stdout
        .starts_with(b"mounted")
    {
        println!("user namespaces are closed to all on this host");
        return;
    }
    let (_, out, err) = keeper.output(&["--user", "daemon"], &["sh", "-c", script]);
    assert_eq!(out, "mounted\n", "{err}");
    // Nor does that open what is closed by family, whatever capability it has in there.
    let packet = "import socket; socket.socket(17, 3)";
    let script = format!("unshare --user --map-root-user --net /usr/bin/python3 -c '{packet}'");
    assert!(
        as_daemon(&["sh", "-c", &script])
            .output()
            .unwrap()
            .status
            .success()
    );
    let (code, _, err) = keeper.output(&["--user", "daemon"], &["sh", "-c", &script]);
    assert_eq!(code, Some(1));
    assert!(err.contains("Address family not supported"), "{err}");
}

/// A daemon's socket, and a file and a directory in the places of it and of its directory.
fn masked(keeper_directory: &std::path::Path) -> (UnixListener, String) {
    let hidden = keeper_directory.join("hidden");
    fs::create_dir(&hidden).unwrap();
    let socket = hidden.join("daemon.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    (listener, socket.to_str().unwrap().to_owned())
}

const CONNECT: &str =
    "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1]); print('connected')";

#[test]
fn what_is_masked_is_not_reached_by_the_current_directory_either() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (_listener, socket) = masked(directory.path());
    let blank = directory.path().join("blank");
    fs::create_dir(&blank).unwrap();
    let gives = Gives {
        overlays: vec![(blank, directory.path().join("hidden"))],
        ..whole()
    };
    let Some(keeper) = Keeper::new("masked", gives) else {
        return;
    };
    let relative = format!("hidden{}", &socket[socket.rfind('/').unwrap()..]);
    for path in [
        socket.as_str(),
        relative.as_str(),
        &format!("/proc/self/cwd/{relative}"),
    ] {
        let words = ["/usr/bin/python3", "-c", CONNECT, path];
        let free = as_daemon(&words)
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert_eq!(free.stdout, b"connected\n", "{path}");
        let output = keeper
            .client(&["--user", "daemon"], &words)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"", "{path}");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains("No such file or directory"), "{err}");
    }
    // From a directory that is itself masked, no command starts.
    let output = keeper
        .client(&[], &["true"])
        .current_dir(directory.path().join("hidden"))
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("cannot enter the current directory"), "{err}");
}

#[test]
fn no_core_is_dumped() {
    let Some(keeper) = Keeper::new("core", whole()) else {
        return;
    };
    let directory = keeper.directory();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    let script = format!(
        "cd {}; ulimit -c unlimited; sh -c 'kill -SEGV $$'; ls",
        directory.display()
    );
    let words = ["bash", "-c", &script];
    let free = as_daemon(&words).output().unwrap();
    let free = String::from_utf8_lossy(&free.stdout).into_owned();
    let dumped = |out: &str| out.lines().any(|line| line.starts_with("core"));
    if dumped(&free) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("core") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    } else {
        println!("this host dumps no core here");
    }
    let output = keeper
        .client(&["--user", "daemon"], &words)
        .output()
        .unwrap();
    let held = String::from_utf8_lossy(&output.stdout);
    assert!(!dumped(&held), "{held}");
}

#[test]
fn job_control_is_as_before() {
    let Some(keeper) = Keeper::new("jobs", whole()) else {
        return;
    };
    let mut person = Person::at_bash();
    person.types(&format!("{} -- bash --norc --noprofile -i\n", keeper.run()));
    person.types("PS1='ins''ide> '\n");
    person.sees("inside> ");
    person.types("sleep 100\n");
    keeper.wait_running("sleep");
    person.types("\x1a");
    person.sees("Stopped");
    person.sees("inside> ");
    person.types("kill %1; fg; echo ov''er\n");
    person.sees("over");
    person.types("exit\n");
    person.sees("ready> ");
}
