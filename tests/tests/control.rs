//! Who may ask the guard and who may change it, with the program's own commands run as other users.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where it cannot go on, helpers included"
)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::time::Duration;

use agentguard_model::{ActionKind, Decision};
use agentguard_tests::{Guard, Invocation, Output, World, wait_until};

/// No user and no group of any host.
const USER: u32 = 64_299;
/// Another one.
const OTHER: u32 = 64_298;
/// The guard's groups.
const RUNNERS: u32 = 64_300;
const READERS: u32 = 64_301;
const APPROVERS: u32 = 64_302;
/// A group that is none of the guard's.
const SOME: u32 = 64_305;

/// `coder` is one user's, `tester` another's, `hidden` nobody's but root's.
const POLICY: &str = "version: 1
agents:
  - name: coder
    users: [agentguard-alice]
    labels: {tenant: acme}
  - name: tester
    users: [64298]
  - name: hidden
switches: {freeze: false}
rules: []
";

/// A guard on a host that has these groups of the guard's, with nobody in them by the database, and
/// the user.
fn guard<'w>(world: &'w World, groups: &[(&str, u32)]) -> Guard<'w> {
    let mut text = fs::read_to_string("/etc/group").unwrap();
    for (name, gid) in groups {
        text += &format!("agentguard-{name}:x:{gid}:\n");
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let users = users + &format!("agentguard-alice:x:{USER}:{USER}::/:/bin/sh\n");
    let files = [("group", text), ("passwd", users)].map(|(name, text)| {
        let file = world.directory().join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        file
    });
    let [groups, users] = files;
    let guard = world.guard().policy(POLICY).cover(groups, "/etc/group");
    guard.cover(users, "/etc/passwd").start().unwrap()
}

/// The program, where another user can execute it.
fn program(world: &World) -> PathBuf {
    let program = std::env::var_os("AGENTGUARD_BIN").unwrap_or_else(|| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/debug/agentguard").into()
    });
    let copy = world.directory().join("agentguard");
    if !copy.exists() {
        fs::copy(program, &copy).unwrap();
    }
    copy
}

/// Somebody: a user, the group it runs in, and its other groups.
#[derive(Clone, Copy)]
struct Who(u32, u32, &'static [u32]);

impl Who {
    fn words(self) -> Vec<String> {
        let Self(uid, gid, groups) = self;
        let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
        vec![
            "--reuid".into(),
            uid.to_string(),
            "--regid".into(),
            gid.to_string(),
            if groups.is_empty() {
                "--clear-groups".into()
            } else {
                format!("--groups={}", groups.join(","))
            },
            "--".into(),
        ]
    }
}

/// A command of the program's, by somebody.
fn command<'g>(
    world: &'g World,
    guard: &'g Guard<'_>,
    who: Who,
    command: &[&str],
) -> Invocation<'g> {
    let call = world.host().command("setpriv").args(who.words());
    let call = call.arg(program(world)).arg("--config").arg(guard.config());
    call.args(command).current_dir("/")
}

fn ask(world: &World, guard: &Guard<'_>, who: Who, words: &[&str]) -> Output {
    command(world, guard, who, words).run().unwrap()
}

/// It is refused in these words, and told what to do.
#[track_caller]
fn refused(told: &Output, words: &str) {
    assert_eq!(told.code(), 1, "{told}");
    assert!(told.stderr.contains(words), "{told}");
    assert!(told.stderr.contains("hint: "), "{told}");
    assert_eq!(told.stdout, "", "{told}");
}

/// The decisions on connections that are printed.
fn connects(told: &Output) -> Vec<Decision> {
    assert_eq!(told.code(), 0, "{told}");
    let decisions = agentguard_tests::decisions(&told.stdout).unwrap();
    let connects = decisions.into_iter();
    connects
        .filter(|it| it.action.kind == ActionKind::Connect)
        .collect()
}

/// Has an agent attempt what no rule allows, and waits until that is recorded.
fn denied(guard: &Guard<'_>, agent: &str, run: Invocation<'_>) -> Decision {
    let told = run.run().unwrap();
    assert_ne!(told.code(), 0, "{told}");
    let found = |decisions: &[Decision]| {
        decisions
            .iter()
            .find(|it| {
                it.action.kind == ActionKind::Connect
                    && it
                        .agent
                        .as_ref()
                        .is_some_and(|it| it.name.as_str() == agent)
            })
            .cloned()
    };
    guard.wait_verdicts("a denied connection", found).unwrap()
}

const CONNECT: [&str; 5] = ["curl", "-sS", "--max-time", "5", "http://192.0.2.77/"];

#[test]
fn members_of_agentguard_run_run_their_own_agents_and_learn_of_no_others() {
    let world = World::new("runners").start().unwrap();
    let groups = [("run", RUNNERS), ("read", READERS), ("approve", APPROVERS)];
    let mut guard = guard(&world, &groups);
    for socket in ["control.sock", "keeper.sock"] {
        let socket = fs::metadata(guard.runtime_dir().join(socket)).unwrap();
        // With an access list; without one the group's bits were nobody's.
        assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, 0));
    }
    let alice = Who(USER, USER, &[SOME, RUNNERS]);
    let run = |agent: &'static str, words: &[&'static str]| {
        [&["run", "--agent", agent, "--"], words].concat()
    };

    // As itself, with what it has but the guard's groups; and the code is the command's.
    let id = ["sh", "-c", "id -u; id -g; id -G; exit 7"];
    let own = format!("{USER}\n{USER}\n{USER} {SOME}\n");
    for who in [
        alice,
        Who(USER, USER, &[APPROVERS, READERS, SOME, RUNNERS]),
        // The primary group that the database has takes the place of the guard's.
        Who(USER, RUNNERS, &[SOME, READERS]),
    ] {
        let told = ask(&world, &guard, who, &run("coder", &id));
        assert_eq!(
            (told.code(), told.stdout.as_str()),
            (7, own.as_str()),
            "{told}"
        );
    }
    // Itself by name is no other user.
    let words = [
        "run",
        "--agent",
        "coder",
        "--user",
        "agentguard-alice",
        "--",
        "id",
        "-u",
    ];
    assert_eq!(
        ask(&world, &guard, alice, &words).stdout,
        format!("{USER}\n")
    );

    // What it ran is its own to read; another's agent is not there.
    let others = denied(&guard, "tester", guard.cli().args(run("tester", &CONNECT)));
    let own = command(&world, &guard, alice, &run("coder", &CONNECT));
    let own = denied(&guard, "coder", own);
    assert_eq!(own.context.uid(), Some(USER));
    let told = ask(&world, &guard, alice, &["verdicts", "-o", "jsonl"]);
    let read = connects(&told);
    assert!(
        !read.is_empty() && !told.stdout.contains("tester"),
        "{told}"
    );
    assert!(read.iter().all(|it| it.context.user == own.context.user));
    let everything = connects(&guard.cli().args(["verdicts", "-o", "jsonl"]).run().unwrap());
    assert!(everything.iter().any(|it| it.id == others.id));
    let told = ask(&world, &guard, alice, &["explain", &own.id.to_string()]);
    assert_eq!(told.code(), 0, "{told}");
    let id = others.id.to_string();
    refused(
        &ask(&world, &guard, alice, &["explain", &id]),
        "there is no decision",
    );
    let told = ask(&world, &guard, alice, &["agent", "list", "-o", "json"]);
    assert!(told.stdout.contains("coder") && told.code() == 0, "{told}");
    assert!(
        !told.stdout.contains("tester") && !told.stdout.contains("hidden"),
        "{told}"
    );
    let told = ask(&world, &guard, alice, &["status"]);
    assert_eq!(told.code(), 0, "{told}");
    assert!(
        told.stdout.contains("coder") && !told.stdout.contains("tester"),
        "{told}"
    );
    for agent in ["tester", "hidden", "ghost"] {
        let missing = format!("there is no agent `{agent}`");
        for words in [
            &["agent", "show", agent][..],
            &["verdicts", "--agent", agent],
            &["verdicts", "--agent", agent, "--follow"],
        ] {
            refused(&ask(&world, &guard, alice, words), &missing);
        }
        let told = ask(
            &world,
            &guard,
            alice,
            &["run", "--agent", agent, "--", "true"],
        );
        refused(
            &told,
            &format!("there is no agent {agent} that user {USER} may run"),
        );
    }
    refused(
        &ask(&world, &guard, alice, &["policy", "show"]),
        "the policy speaks of all agents",
    );

    // Nothing else is a member's.
    for (words, why) in [
        (
            &["run", "--agent", "coder", "--user", "root", "--", "true"][..],
            "only root may run a command as `root`",
        ),
        (
            &[
                "run",
                "--agent",
                "coder",
                "--label",
                "tenant=other",
                "--",
                "true",
            ],
            "only root may change the policy's label `tenant`",
        ),
        (&["policy", "reload"], "only root may change the guard"),
        (&["ca", "export"], "only root may change the guard"),
        (&["ca", "rotate"], "only root may change the guard"),
        (
            &["agent", "add", "coder", "--cgroup", "/sys/fs/cgroup"],
            "only root may change the guard",
        ),
        (
            &["agent", "remove", "coder"],
            "only root may change the guard",
        ),
        (
            &["agent", "quarantine", "coder"],
            "only root and members of agentguard-approve may quarantine",
        ),
        (
            &["agent", "release", "coder"],
            "only root and members of agentguard-approve may quarantine",
        ),
        (
            &["policy", "switch", "freeze", "on"],
            "only root and members of agentguard-approve may set switches",
        ),
        (&["policy", "switch"], "the policy speaks of all agents"),
        (
            &["budget", "list"],
            "the accounts of budgets are those of all agents",
        ),
        (
            &["budget", "reset", "all"],
            "only root may change the guard",
        ),
    ] {
        refused(&ask(&world, &guard, alice, words), why);
    }

    // Who is listed and no member, and the other way round. What the database says of a running
    // process's groups changes nothing.
    let mut database = fs::read_to_string(world.directory().join("group")).unwrap();
    database = database.replace(
        &format!("agentguard-run:x:{RUNNERS}:\n"),
        &format!("agentguard-run:x:{RUNNERS}:agentguard-alice\n"),
    );
    fs::write(world.directory().join("group"), database).unwrap();
    let logged_in_before = Who(USER, USER, &[SOME]);
    for words in [run("coder", &["true"]), vec!["verdicts"]] {
        let told = ask(&world, &guard, logged_in_before, &words);
        let why = if words[0] == "run" {
            "you may not use the daemon"
        } else {
            "not allowed to open"
        };
        refused(&told, why);
    }
    let told = ask(
        &world,
        &guard,
        Who(USER - 7, USER, &[RUNNERS]),
        &run("coder", &["true"]),
    );
    refused(&told, "there is no agent coder that user");

    // Not as an agent, whatever its groups: neither in a cgroup nor in a run of its own.
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let groups = Who(USER, USER, &[RUNNERS, READERS, APPROVERS]);
    for words in [
        &["status"][..],
        &["verdicts", "--follow"],
        &["run", "--agent", "coder", "--", "true"],
        &["agent", "release", "coder"],
        &["policy", "switch", "freeze", "on"],
    ] {
        let call: Vec<std::ffi::OsString> = ["setpriv".into()]
            .into_iter()
            .chain(groups.words().into_iter().map(Into::into))
            .chain([
                program(&world).into(),
                "--config".into(),
                guard.config().into(),
            ])
            .chain(words.iter().map(Into::into))
            .collect();
        let told = guard.within(&cgroup, call).run().unwrap();
        assert_eq!(told.code(), 1, "{told}");
        assert!(
            told.stderr.contains("an agent may not ask its own guard"),
            "{words:?}: {told}"
        );
    }
    let inner = format!(
        "{} --config {} status",
        program(&world).display(),
        guard.config().display()
    );
    let told = ask(
        &world,
        &guard,
        alice,
        &["run", "--agent", "coder", "--", "sh", "-c", &inner],
    );
    assert_eq!((told.code(), told.stdout.as_str()), (1, ""), "{told}");

    // A policy that takes the agent away from its user counts at once, for reading too.
    let lost = POLICY.replace("agentguard-alice", "64298");
    fs::write(guard.policy(), lost).unwrap();
    let told = guard.cli().args(["policy", "reload"]).run().unwrap();
    assert_eq!(told.code(), 0, "{told}");
    refused(
        &ask(&world, &guard, alice, &run("coder", &["true"])),
        "there is no agent coder that user",
    );
    let own = own.id.to_string();
    refused(
        &ask(&world, &guard, alice, &["explain", &own]),
        "there is no decision",
    );
    // One that names nobody is not taken.
    let nobody = POLICY.replace("agentguard-alice", "agentguard-bob");
    fs::write(guard.policy(), nobody).unwrap();
    let told = guard.cli().args(["policy", "reload"]).run().unwrap();
    assert_eq!(told.code(), 2, "{told}");
    let says = ":4:13: error: there is no user `agentguard-bob` on this host";
    assert!(told.stderr.contains(says), "{told}");
    refused(
        &ask(&world, &guard, alice, &run("coder", &["true"])),
        "there is no agent coder that user",
    );
    // Nor does a daemon begin with it.
    guard.stop().unwrap();
    let error = guard.start().unwrap_err().to_string();
    assert!(
        error.contains("there is no user `agentguard-bob` on this host"),
        "{error}"
    );
}

#[test]
fn members_of_agentguard_approve_read_everything_and_quarantine_and_release() {
    let world = World::new("approvers").start().unwrap();
    let guard = guard(&world, &[("approve", APPROVERS), ("read", READERS)]);
    let member = Who(OTHER, OTHER, &[APPROVERS]);
    for words in [
        &["status"][..],
        &["policy", "show"],
        &["agent", "show", "hidden"],
        &["budget", "list"],
    ] {
        let told = ask(&world, &guard, member, words);
        assert_eq!(told.code(), 0, "{told}");
    }
    let told = ask(
        &world,
        &guard,
        member,
        &["agent", "quarantine", "coder", "--reason", "ticket 42"],
    );
    assert_eq!(told.code(), 0, "{told}");
    let told = ask(
        &world,
        &guard,
        member,
        &["agent", "show", "coder", "-o", "json"],
    );
    assert!(
        told.stdout.contains("ticket 42") && told.stdout.contains(&OTHER.to_string()),
        "{told}"
    );
    let told = guard.run("coder", ["true"]).unwrap();
    assert!(told.stderr.contains("coder is quarantined"), "{told}");
    let told = ask(&world, &guard, member, &["agent", "release", "coder"]);
    assert_eq!(told.code(), 0, "{told}");
    let words = ["policy", "switch", "freeze", "on"];
    let told = ask(&world, &guard, member, &words);
    assert_eq!(told.code(), 0, "{told}");
    let told = ask(&world, &guard, member, &["policy", "switch"]);
    let set = format!("freeze  on     off       uid {OTHER}");
    assert!(told.stdout.contains(&set), "{told}");
    assert_eq!(guard.run("coder", ["true"]).unwrap().code(), 0);
    let told = |decisions: &[Decision]| {
        let deeds = decisions
            .iter()
            .filter(|it| it.action.kind == ActionKind::Administration);
        let by: Vec<_> = deeds.map(|it| it.context.uid()).collect();
        (by == [Some(OTHER); 3]).then_some(())
    };
    guard
        .wait_verdicts("the deeds, and whose they are", told)
        .unwrap();

    for words in [
        &["policy", "reload"][..],
        &["ca", "show"],
        &["agent", "remove", "coder"],
        &["budget", "set", "all", "1"],
    ] {
        refused(
            &ask(&world, &guard, member, words),
            "only root may change the guard",
        );
    }
    // It is listed for this agent, and the group that runs is another.
    let told = ask(
        &world,
        &guard,
        member,
        &["run", "--agent", "tester", "--", "true"],
    );
    refused(
        &told,
        "only root and members of agentguard-run may run agents",
    );
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let call = ["setpriv".into()].into_iter().chain(member.words());
    let own =
        [program(&world), "--config".into(), guard.config()].map(|it| it.display().to_string());
    let call = call
        .chain(own)
        .chain(["agent", "release", "coder"].map(String::from));
    let told = guard.within(&cgroup, call).run().unwrap();
    refused(&told, "an agent may not ask its own guard");
}

#[test]
fn members_of_agentguard_read_ask_everything_and_change_nothing() {
    let world = World::new("readers").start().unwrap();
    let guard = guard(&world, &[("read", READERS)]);
    let socket = fs::metadata(guard.runtime_dir().join("control.sock")).unwrap();
    assert_eq!((socket.mode() & 0o777, socket.gid()), (0o660, READERS));

    let member = Who(USER, USER, &[READERS]);
    for command in [
        &["status"][..],
        &["verdicts"],
        &["agent", "list"],
        &["policy", "show"],
    ] {
        let told = ask(&world, &guard, member, command);
        assert_eq!(told.code(), 0, "{told}");
        let told = ask(&world, &guard, Who(USER, USER, &[]), command);
        refused(&told, "not allowed to open");
        assert!(told.stderr.contains("agentguard-read"), "{told}");
    }
    // To change something, or to run an agent, takes root.
    for command in [
        &["policy", "reload"][..],
        &["ca", "rotate"],
        &["agent", "remove", "coder"],
        &["agent", "quarantine", "coder"],
        &["run", "--agent", "coder", "--", "true"],
    ] {
        let told = ask(&world, &guard, member, command);
        let why = ["not allowed", "you may not use the daemon"];
        let said = why.iter().find(|why| told.stderr.contains(*why));
        refused(&told, said.unwrap_or(&why[0]));
    }
    // As an agent, the same user with the same group is nobody.
    let cgroup = guard.agent_cgroup("coder").unwrap();
    let call = ["setpriv".into()].into_iter().chain(member.words());
    let own =
        [program(&world), "--config".into(), guard.config()].map(|it| it.display().to_string());
    let call = call.chain(own).chain(["status".to_owned()]);
    let told = guard.within(&cgroup, call).run().unwrap();
    refused(&told, "an agent may not ask its own guard");
}

#[test]
fn without_the_groups_only_root_asks() {
    let world = World::new("no-readers").start().unwrap();
    let guard = guard(&world, &[]);
    for socket in ["control.sock", "keeper.sock"] {
        let socket = fs::metadata(guard.runtime_dir().join(socket)).unwrap();
        assert_eq!((socket.mode() & 0o777, socket.gid()), (0o600, 0));
    }
    let told = ask(
        &world,
        &guard,
        Who(USER, USER, &[READERS, RUNNERS]),
        &["status"],
    );
    refused(&told, "not allowed to open");
}

/// Opens so many connections to a socket and says nothing on them, tells when all but some are closed by
/// the other side, or after 4 s how many are, and keeps the rest.
const IDLE: &str = "
import resource, select, socket, sys, time
path, kind, count, places = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
poll = select.poll()
kept = {}
for _ in range(count):
    made = socket.socket(socket.AF_UNIX, kind)
    made.connect(path)
    kept[made.fileno()] = made
    poll.register(made, select.POLLIN)
closed = set()
until = time.monotonic() + 4
while len(closed) < count - places and time.monotonic() < until:
    for number, _ in poll.poll(100):
        closed.add(number)
        poll.unregister(number)
print(len(closed) >= count - places, flush=True)
sys.stdin.read()
";

/// Root in an agent's cgroup may connect and say nothing: it takes no place of the root that governs it.
#[test]
fn agents_that_are_root_keep_no_operator_from_quarantining_them() {
    let world = World::new("idle").start().unwrap();
    let guard = guard(&world, &[]);
    let cgroup = guard.agent_cgroup("coder").unwrap();
    // Kinds: stream, packets.
    let mut idle = Vec::new();
    for (name, kind, count, places) in [("control.sock", 1, 100, 16), ("keeper.sock", 5, 400, 256)]
    {
        let socket = guard.runtime_dir().join(name).display().to_string();
        let numbers = [kind, count, places].map(|number: u32| number.to_string());
        let words = [
            "sh",
            "-c",
            r#"sleep 600 | exec "$0" "$@""#,
            "python3",
            "-c",
            IDLE,
            &socket,
        ];
        let words = words.into_iter().map(str::to_owned).chain(numbers);
        let process = guard.within(&cgroup, words).spawn().unwrap();
        let told = wait_until("the others are closed", Duration::from_secs(60), || {
            let told = process.stdout();
            told.ends_with('\n').then_some(told)
        });
        assert_eq!(told.unwrap(), "True\n", "{name}: {}", process.stderr());
        idle.push(process);
    }
    for words in [&["status"][..], &["agent", "quarantine", "coder"]] {
        let told = guard.cli().args(words).run().unwrap();
        told.success().unwrap();
    }
}
