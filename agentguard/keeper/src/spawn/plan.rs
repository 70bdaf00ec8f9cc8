//! From a hostile request to a plan that can be carried out: all checks are here, before anything is
//! done for the caller.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::net::AddressFamily;

use super::account::{self, Credentials};
use super::confine;
use super::inherit::{self, Inherited};
use super::message::{Refusal, RunRequest, Terminal};
use super::strings;
use crate::packet::Peer;

/// Labels of one run, at most; more are refused.
const MAX_LABELS: usize = 32;

/// The bytes of a label's key, at most; longer ones are refused.
const MAX_KEY: usize = 63;

/// The bytes of a label's value or a context's field, at most; longer ones are refused.
const MAX_TEXT: usize = 255;

/// The entries of `PATH` that are searched; further ones are not.
const MAX_SEARCHED: usize = 256;

/// The bytes of a path with its NUL (`PATH_MAX`); longer candidates are not tried, as the kernel
/// would refuse them.
const MAX_PATH: usize = 4096;

/// Where a program is searched if the environment has no `PATH`, as execvp(3) does.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The signals that a command may begin with ignored: the classic ones that can be ignored, less
/// `SIGPIPE`, which Rust programs ignore on their own account.
const IGNORABLE: u64 =
    0x7fff_ffff & !(bit(libc::SIGKILL) | bit(libc::SIGSTOP) | bit(libc::SIGPIPE));

/// What is to be run, checked.
#[derive(Debug)]
pub(super) struct SpawnPlan {
    /// The descriptors 0, 1 and 2; `None`: the new terminal.
    pub(super) stdio: [Option<OwnedFd>; 3],
    /// The current directory.
    pub(super) directory: OwnedFd,
    /// The arguments, at least the program's name.
    pub(super) arguments: Vec<CString>,
    /// The environment.
    pub(super) environment: Vec<CString>,
    /// As whom.
    pub(super) credentials: Credentials,
    /// What a child inherits.
    pub(super) inherited: Inherited,
    /// The umask.
    pub(super) umask: u32,
    /// Signals to ignore.
    pub(super) ignored: u64,
    /// The terminal to make.
    pub(super) terminal: Option<Terminal>,
}

impl SpawnPlan {
    /// Checks a request and what came with it.
    pub(super) fn read(
        request: &RunRequest,
        fds: Vec<OwnedFd>,
        peer: &Peer,
    ) -> Result<Self, Refusal> {
        check_texts(request)?;
        let umask = request.umask;
        if umask > 0o777 {
            return Err(malformed("its umask is not one"));
        }
        let slots = request.terminal.as_ref().map_or([false; 3], |t| t.slots);
        if request.terminal.is_some() && slots == [false; 3] {
            return Err(malformed("its terminal stands for no descriptor"));
        }
        let mut fds = fds.into_iter();
        let mut stdio = [None, None, None];
        for ((number, slot), is_terminal) in stdio.iter_mut().enumerate().zip(slots) {
            if !is_terminal {
                let fd = fds
                    .next()
                    .ok_or_else(|| malformed("a descriptor is missing"))?;
                check_stdio(number, &fd)?;
                *slot = Some(fd);
            }
        }
        let (Some(directory), Some(sealed), None) = (fds.next(), fds.next(), fds.next()) else {
            return Err(malformed("it has too few or too many descriptors"));
        };
        let kind = rustix::fs::fstat(&directory).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::Directory) {
            return Err(malformed("its current directory is not a directory"));
        }
        let (mut arguments, environment) = read_strings(request, sealed)?;
        let credentials = account::credentials(peer, request.user.as_deref())?;
        arguments.shrink_to_fit();
        let mut plan = Self {
            stdio,
            directory,
            arguments,
            environment,
            inherited: inherit::of(peer)?,
            umask,
            ignored: request.ignored & IGNORABLE,
            terminal: request.terminal.clone(),
            credentials,
        };
        let variables = std::mem::take(&mut plan.credentials.variables);
        if !variables.is_empty() {
            // It names a directory of the caller, which another user cannot enter.
            plan.unset("XDG_RUNTIME_DIR");
        }
        confine::without_core_dumps(&mut plan.inherited.limits);
        for (name, value) in variables {
            plan.set(name, value.to_bytes());
        }
        Ok(plan)
    }

    /// Sets an environment variable; a value with a NUL inside is ignored, for there is none.
    pub(super) fn set(&mut self, name: &str, value: &[u8]) {
        self.unset(name);
        if let Ok(entry) = CString::new([name.as_bytes(), b"=", value].concat()) {
            self.environment.push(entry);
        }
    }

    /// The value of an environment variable.
    pub(super) fn variable(&self, name: &str) -> Option<&[u8]> {
        self.environment
            .iter()
            .find_map(|entry| value_of(entry, name))
    }

    fn unset(&mut self, name: &str) {
        self.environment
            .retain(|entry| value_of(entry, name).is_none());
    }

    /// The paths to try, in this order, as execvp(3) would with the command's own `PATH`.
    pub(super) fn candidates(&self) -> Vec<CString> {
        let Some(program) = self.arguments.first() else {
            return Vec::new();
        };
        let name = program.to_bytes();
        if name.is_empty() || name.contains(&b'/') {
            return vec![program.clone()];
        }
        let path = self.variable("PATH").unwrap_or(DEFAULT_PATH);
        path.split(|byte| *byte == b':')
            .take(MAX_SEARCHED)
            .filter(|directory| directory.len() + name.len() + 2 <= MAX_PATH)
            .filter_map(|directory| {
                let separator: &[u8] = if directory.is_empty() { b"" } else { b"/" };
                CString::new([directory, separator, name].concat()).ok()
            })
            .collect()
    }
}

/// The bit of a signal in a mask.
pub(super) const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

fn value_of<'a>(entry: &'a CStr, name: &str) -> Option<&'a [u8]> {
    entry
        .to_bytes()
        .strip_prefix(name.as_bytes())?
        .strip_prefix(b"=")
}

fn malformed(what: &str) -> Refusal {
    Refusal::new(format!("the request is malformed: {what}"))
        .hint("use the client of the same version as the daemon")
}

type Strings = (Vec<CString>, Vec<CString>);

fn read_strings(request: &RunRequest, sealed: OwnedFd) -> Result<Strings, Refusal> {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let (arguments, variables) = (count(request.arguments), count(request.variables));
    if arguments == 0 {
        return Err(malformed("it has no command"));
    }
    let mut strings = strings::unseal(sealed, arguments.saturating_add(variables))
        .map_err(|error| Refusal::new(error.to_string()))?;
    let environment = strings.split_off(arguments);
    Ok((strings, environment))
}

/// What a command may have as its standard descriptors.
///
/// A network socket was made outside the agent's cgroup, so the gate would not see its traffic.
/// Descriptors that are no files (io_uring, eventfd, another process) are no one's standard input.
fn check_stdio(number: usize, fd: &OwnedFd) -> Result<(), Refusal> {
    let refused = |what: &str| {
        Refusal::new(format!("descriptor {number} is {what}"))
            .hint("redirect it to a file, a pipe or a terminal")
    };
    let stat = rustix::fs::fstat(fd).map_err(|_| refused("not usable"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile
        | FileType::CharacterDevice
        | FileType::Fifo
        | FileType::BlockDevice => Ok(()),
        // It lies in the caller's mounts, in which nothing is masked.
        FileType::Directory => Err(refused(
            "a directory, from which the command would reach what it must not see",
        )),
        FileType::Socket => match rustix::net::sockopt::socket_domain(fd) {
            Ok(AddressFamily::UNIX) => Ok(()),
            _ => Err(refused("a network socket, which the gate would not govern")),
        },
        _ => Err(refused(
            "neither a file nor a pipe, terminal or unix socket",
        )),
    }
}

fn check_texts(request: &RunRequest) -> Result<(), Refusal> {
    let is_text = |text: &str| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    let is_key = |key: &str| {
        (1..=MAX_KEY).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
    };
    if request.labels.len() > MAX_LABELS {
        let message = format!("there are more than {MAX_LABELS} labels");
        return Err(Refusal::new(message));
    }
    for (key, value) in &request.labels {
        if !is_key(key) || !is_text(value) {
            let key: String = key.escape_default().take(80).collect();
            return Err(Refusal::new(format!("the label `{key}` is not one")).hint(format!(
                "a key has 1 to {MAX_KEY} characters A-Z a-z 0-9 . _ / -, a value at most {MAX_TEXT} bytes without control characters"
            )));
        }
    }
    let context = &request.context;
    for (name, text) in [
        ("--user", &request.user),
        ("the context's user", &context.user),
        ("the context's session", &context.session),
        ("the context's workflow", &context.workflow),
        ("the context's purpose", &context.purpose),
    ] {
        if text
            .as_deref()
            .is_some_and(|text| text.is_empty() || !is_text(text))
        {
            return Err(Refusal::new(format!(
                "{name} is empty, has control characters or more than {MAX_TEXT} bytes"
            )));
        }
    }
    let is_trace = |id: &str| {
        id.len() == 32
            && id
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if context.trace_id.as_deref().is_some_and(|id| !is_trace(id)) {
        return Err(Refusal::new("a trace id has 32 hexadecimal digits"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::message::RunContext;
    use crate::spawn::terminal::{Modes, Size};
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, SealFlags};
    use std::ffi::OsString;
    use std::io::Write as _;
    use std::os::unix::ffi::OsStringExt;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn root() -> OwnedFd {
        std::fs::File::open("/").unwrap().into()
    }

    fn sealed(strings: &[&str]) -> OwnedFd {
        strings::seal(strings.iter().map(OsString::from)).unwrap()
    }

    fn request() -> RunRequest {
        RunRequest {
            agent: "coder".parse().unwrap(),
            user: None,
            context: RunContext::default(),
            labels: [("team".to_owned(), "a b".to_owned())].into(),
            isolate: false,
            arguments: 2,
            variables: 2,
            umask: 0o022,
            ignored: u64::MAX,
            terminal: None,
        }
    }

    const STRINGS: [&str; 4] = ["ls", "-l", "PATH=/bin::/usr/bin", "A=b"];

    fn read(request: &RunRequest, fds: Vec<OwnedFd>) -> Result<SpawnPlan, Refusal> {
        let (a, _b) = crate::packet::pair().unwrap();
        SpawnPlan::read(request, fds, &a.peer().unwrap())
    }

    #[test]
    fn a_good_request_becomes_its_plan() {
        let fds = vec![null(), null(), null(), root(), sealed(&STRINGS)];
        let mut plan = read(&request(), fds).unwrap();
        assert_eq!(plan.arguments, [c"ls".to_owned(), c"-l".to_owned()]);
        assert_eq!(plan.ignored & bit(libc::SIGPIPE), 0);
        assert_ne!(plan.ignored & bit(libc::SIGHUP), 0);
        let candidates = plan.candidates();
        assert_eq!(
            candidates,
            [c"/bin/ls", c"ls", c"/usr/bin/ls"].map(CStr::to_owned)
        );
        plan.set("A", b"c");
        assert_eq!(plan.environment.last().unwrap().as_c_str(), c"A=c");
        assert_eq!(plan.environment.len(), 2);
    }

    #[test]
    fn a_terminal_replaces_descriptors() {
        let terminal = Terminal {
            slots: [true, true, false],
            foreground: true,
            size: Size::default(),
            modes: Modes::default(),
        };
        let request = RunRequest {
            terminal: Some(terminal),
            ..request()
        };
        let plan = read(&request, vec![null(), root(), sealed(&STRINGS)]).unwrap();
        assert!(plan.stdio[0].is_none() && plan.stdio[1].is_none() && plan.stdio[2].is_some());
        let surplus = vec![null(), null(), null(), root(), sealed(&STRINGS)];
        assert!(read(&request, surplus).is_err());
    }

    #[test]
    fn hostile_requests_are_refused_with_the_reason() {
        type Change = fn(&mut RunRequest);
        let cases: [(Change, &str); 14] = [
            (|r| r.arguments = 0, "it has no command"),
            (|r| r.arguments = 1, "number of strings"),
            (|r| r.variables = u32::MAX, "number of strings"),
            (|r| r.umask = 0o1000, "umask"),
            (|r| r.user = Some(String::new()), "--user is empty"),
            (|r| r.user = Some("no-such-user".into()), "there is no user"),
            (|r| r.user = Some("a\n".into()), "--user is empty"),
            (|r| r.context.workflow = Some("x".repeat(256)), "workflow"),
            (|r| r.context.trace_id = Some("0".repeat(31)), "trace id"),
            (
                |r| r.labels = [(String::new(), String::new())].into(),
                "the label ``",
            ),
            (
                |r| r.labels = [("a\x1b".into(), String::new())].into(),
                "the label `a\\u{1b}`",
            ),
            (
                |r| r.labels = [("a".into(), "\n".into())].into(),
                "the label `a`",
            ),
            (
                |r| r.labels = (0..33).map(|n| (n.to_string(), String::new())).collect(),
                "more than 32",
            ),
            (
                |r| {
                    r.terminal = Some(Terminal {
                        slots: [false; 3],
                        foreground: true,
                        size: Size::default(),
                        modes: Modes::default(),
                    });
                },
                "no descriptor",
            ),
        ];
        for (change, reason) in cases {
            let mut request = request();
            change(&mut request);
            let fds = vec![null(), null(), null(), root(), sealed(&STRINGS)];
            let refusal = read(&request, fds).expect_err(reason);
            assert!(refusal.message.contains(reason), "{refusal} / {reason}");
        }
    }

    #[test]
    fn hostile_descriptors_are_refused_with_the_reason() {
        let tcp: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let strings = || sealed(&STRINGS);
        let cases: [(Vec<OwnedFd>, Option<&str>); 9] = [
            (vec![], Some("a descriptor is missing")),
            (vec![null(), null(), null(), root()], Some("too few")),
            (
                vec![null(), null(), null(), root(), strings(), null()],
                Some("too many"),
            ),
            (
                vec![null(), null(), null(), null(), strings()],
                Some("not a directory"),
            ),
            (
                vec![null(), null(), null(), root(), null()],
                Some("not in a sealed memory file"),
            ),
            (
                vec![tcp, null(), null(), root(), strings()],
                Some("descriptor 0 is a network socket"),
            ),
            (
                vec![null(), event, null(), root(), strings()],
                Some("descriptor 1 is neither"),
            ),
            (
                vec![root(), null(), null(), root(), strings()],
                Some("descriptor 0 is a directory"),
            ),
            (vec![unix.into(), null(), null(), root(), strings()], None),
        ];
        for (fds, reason) in cases {
            match (read(&request(), fds), reason) {
                (Ok(_), None) => {}
                (Err(refusal), Some(reason)) => {
                    assert!(refusal.message.contains(reason), "{refusal} / {reason}");
                }
                (result, reason) => panic!("{result:?} / {reason:?}"),
            }
        }
    }

    #[test]
    fn a_search_cannot_be_made_to_explode() {
        let path = format!("PATH={}", ":/x".repeat(40_000));
        let strings = ["x", "y", &path, "A=b"];
        let plan = read(
            &request(),
            vec![null(), null(), null(), root(), sealed(&strings)],
        );
        assert_eq!(plan.unwrap().candidates().len(), MAX_SEARCHED);
        let long = "x".repeat(100_000);
        let strings = [&long, "y", "PATH=/bin:/usr/bin", "A=b"];
        let fds = vec![null(), null(), null(), root(), sealed(&strings)];
        assert!(read(&request(), fds).unwrap().candidates().is_empty());
        let raw = OsString::from_vec(b"\xff/\xfe".to_vec());
        let request = RunRequest {
            arguments: 1,
            variables: 0,
            ..request()
        };
        let fds = vec![
            null(),
            null(),
            null(),
            root(),
            strings::seal([raw]).unwrap(),
        ];
        assert_eq!(read(&request, fds).unwrap().candidates().len(), 1);
    }

    /// A memory file as a stranger makes one.
    fn memory(bytes: &[u8], seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = std::fs::File::from(rustix::fs::memfd_create("x", flags).unwrap());
        file.write_all(bytes).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    fn descriptor(kind: u8, bytes: &[u8]) -> OwnedFd {
        let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        match kind {
            0 => null(),
            1 => root(),
            2 => std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            3 => rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
            4 => memory(bytes, SealFlags::SHRINK),
            5 => std::io::pipe().unwrap().0.into(),
            _ => memory(bytes, all),
        }
    }

    fn requests() -> impl Strategy<Value = RunRequest> {
        let text = || proptest::option::weighted(0.2, ".{0,300}");
        let context = (text(), text(), text(), text());
        let trace = proptest::option::weighted(0.2, "[0-9a-fA-F]{30,33}");
        let labels = proptest::collection::btree_map(".{0,70}|[a-z]{1,8}", ".{0,12}", 0..3);
        let slots = proptest::option::of(proptest::array::uniform3(proptest::bool::ANY));
        let numbers = (
            0_u32..4,
            0_u32..4,
            prop_oneof![0..0o2000_u32, Just(u32::MAX)],
        );
        let terminal = |slots| Terminal {
            slots,
            foreground: true,
            size: Size::default(),
            modes: Modes::default(),
        };
        (
            context,
            trace,
            labels,
            slots,
            numbers,
            proptest::num::u64::ANY,
        )
            .prop_map(
                move |(
                    (user, session, workflow, purpose),
                    trace_id,
                    labels,
                    slots,
                    numbers,
                    ignored,
                )| {
                    RunRequest {
                        context: RunContext {
                            user,
                            session,
                            workflow,
                            purpose,
                            trace_id,
                        },
                        labels,
                        arguments: numbers.0,
                        variables: numbers.1,
                        umask: numbers.2,
                        ignored,
                        terminal: slots.map(terminal),
                        ..request()
                    }
                },
            )
    }

    proptest! {
        /// What is taken is what may be carried out, whatever was asked and sent along.
        #[test]
        fn any_request_is_refused_or_becomes_a_plan_within_bounds(
            request in requests(),
            kinds in prop_oneof![
                Just(vec![0, 0, 0, 1, 6]),
                Just(vec![0, 5, 1, 6]),
                proptest::collection::vec(0_u8..8, 0..7),
            ],
            strings in prop_oneof![
                proptest::collection::vec(proptest::num::u8::ANY, 0..64),
                "((PATH|A|)=?[a-z:/]{0,9}\\x00){1,6}".prop_map(String::into_bytes),
            ],
        ) {
            let fds = kinds.iter().map(|kind| descriptor(*kind, &strings)).collect();
            let Ok(plan) = read(&request, fds) else {
                return Ok(());
            };
            prop_assert!(plan.umask <= 0o777);
            prop_assert_eq!(plan.ignored & !IGNORABLE, 0);
            prop_assert_eq!(plan.arguments.len(), request.arguments as usize);
            prop_assert!(!plan.arguments.is_empty());
            prop_assert_eq!(plan.environment.len(), request.variables as usize);
            let terminal = request.terminal.as_ref().map_or([false; 3], |it| it.slots);
            prop_assert_eq!(plan.stdio.each_ref().map(Option::is_none), terminal);
            for (number, fd) in plan.stdio.iter().enumerate() {
                prop_assert!(fd.as_ref().is_none_or(|fd| check_stdio(number, fd).is_ok()));
            }
            prop_assert!(std::fs::File::from(plan.directory.try_clone().unwrap()).metadata().unwrap().is_dir());
            let candidates = plan.candidates();
            prop_assert!(candidates.len() <= MAX_SEARCHED);
            let limit = plan.inherited.limits.iter().find(|(number, _)| *number == libc::RLIMIT_CORE);
            prop_assert!(limit.is_some_and(|(_, limit)| limit.rlim_cur <= 1));
            prop_assert!(check_texts(&request).is_ok());
        }
    }
}
