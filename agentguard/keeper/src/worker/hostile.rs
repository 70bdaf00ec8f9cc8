//! What somebody would do who has taken the worker over. In debug builds only, for tests.
//!
//! [`VARIABLE`], in the daemon's environment, has the worker attempt what it names in place of its work,
//! say on standard error what became of each, and end. The attempts are separated by `;`, and some take
//! a word after `=`, in which `{keeper}` is the keeper's process id. With `free;` before them they are made by `agentguard worker` itself, by whoever
//! runs that: what the confinement refuses must be possible without it. With `once=PATH;` before them the worker that finds nothing at
//! that path makes a file there and attempts them; those that come after it do their work.

mod babble;

use std::ffi::CString;
use std::io::{self, Read as _};
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use agentguard_model::{AgentId, HostName};

use crate::message::{LeafSubject, ToKeeper, ToWorker};
use crate::packet::Packet;

/// The environment variable. Where it is not honoured its name is not in the program.
pub const VARIABLE: &str = "AGENTGUARD_TEST_WORKER";

/// What tells attempts outside the worker.
const FREE: &str = "free;";

/// What tells attempts that are made by the first worker alone.
const ONCE: &str = "once=";

/// What a worker has.
struct Worker<'a> {
    keeper: &'a Packet,
    descriptors: &'a [OwnedFd],
}

/// Attempts what the variable names, in a worker that has been told how to start. Whether it does.
#[must_use]
pub fn attempt(keeper: &Packet, descriptors: &[OwnedFd]) -> bool {
    let Ok(attempts) = std::env::var(VARIABLE) else {
        return false;
    };
    let mut attempts = attempts.as_str();
    if let Some((path, rest)) = attempts
        .strip_prefix(ONCE)
        .and_then(|rest| rest.split_once(';'))
    {
        match std::fs::File::create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return false,
            Err(error) => eprintln!("hostile {ONCE}{path}: refused: {error}"),
            Ok(_) => attempts = rest,
        }
    }
    let worker = Worker {
        keeper,
        descriptors,
    };
    all(attempts, Some(&worker));
    true
}

/// The same as the user who runs this, without any confinement.
#[must_use]
pub fn attempt_freely() -> bool {
    let attempts = std::env::var(VARIABLE).unwrap_or_default();
    let free = attempts.strip_prefix(FREE);
    if let Some(attempts) = free {
        all(attempts, None);
    }
    free.is_some()
}

fn all(attempts: &str, worker: Option<&Worker<'_>>) {
    let keeper = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let attempts = attempts.replace("{keeper}", &keeper.to_string());
    for attempt in attempts.split(';') {
        eprintln!("hostile {attempt}: tried");
        match one(attempt, worker) {
            Ok(()) => eprintln!("hostile {attempt}: done"),
            Err(error) => eprintln!("hostile {attempt}: refused: {error}"),
        }
    }
}

fn one(attempt: &str, worker: Option<&Worker<'_>>) -> io::Result<()> {
    let (what, word) = attempt.split_once('=').unwrap_or((attempt, ""));
    let path = CString::new(word)?;
    let no = 0 as libc::c_long;
    match what {
        "load-program" => load_program(),
        "pin" => get_pin(&path).map(drop),
        "update" => update(&get_pin(&path)?),
        "update-own" => update(own(worker)?.descriptors.get(2).ok_or_else(unknown)?),
        "setuid" => call(libc::SYS_setresuid, [no; 5]),
        "unshare" => call(libc::SYS_unshare, [libc::CLONE_NEWNET.into(), 0, 0, 0, 0]),
        "mount" => {
            let flags = libc::MS_BIND.cast_signed();
            let root = c"/".as_ptr().expose_provenance().cast_signed() as libc::c_long;
            let target = path.as_ptr().expose_provenance().cast_signed() as libc::c_long;
            call(libc::SYS_mount, [root, target, 0, flags as libc::c_long, 0])
        }
        "exec" => {
            let words = [path.as_ptr(), std::ptr::null()];
            // SAFETY: a C string and arrays of such that end with a null pointer.
            unsafe { libc::execv(path.as_ptr(), words.as_ptr()) };
            Err(io::Error::last_os_error())
        }
        "fork" => fork(),
        "x32" => call(libc::SYS_getpid | 0x4000_0000, [no; 5]),
        "nothing" => Ok(()),
        "ptrace" => {
            let pid = word.parse().map_err(|_| unknown())?;
            call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), pid, 0, 0, 0])
        }
        "signal" => {
            let pid = word.parse().map_err(|_| unknown())?;
            call(libc::SYS_kill, [pid, 0, 0, 0, 0])
        }
        "read" => std::fs::File::open(word)?.read(&mut [0]).map(drop),
        "write" => std::fs::File::options().append(true).open(word).map(drop),
        "create" => std::fs::File::create(word).map(drop),
        "look" => std::fs::read_dir(word)?
            .next()
            .ok_or_else(|| io::Error::other("it is empty"))?
            .map(drop),
        "connect" => std::os::unix::net::UnixStream::connect(word).map(drop),
        "listen" => std::net::TcpListener::bind(word).map(drop),
        "packets" => raw_socket(libc::AF_PACKET, 0),
        "raw" => raw_socket(libc::AF_INET, libc::IPPROTO_ICMP),
        "netlink" => raw_socket(libc::AF_NETLINK, 0),
        "code" => code(),
        "keys" => call(libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        "publish" => publish(own(worker)?, word),
        "sign" => sign(own(worker)?, word),
        "babble" => babble::babble(own(worker)?, word),
        "work" => work(),
        "abort" => std::process::abort(),
        _ => Err(unknown()),
    }
}

fn unknown() -> io::Error {
    io::Error::other("no such attempt")
}

fn own<'a>(worker: Option<&'a Worker<'a>>) -> io::Result<&'a Worker<'a>> {
    worker.ok_or_else(unknown)
}

fn call(number: libc::c_long, arguments: [libc::c_long; 5]) -> io::Result<()> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: numbers, or pointers to what lives in the caller.
    checked(unsafe { libc::syscall(number, a, b, c, d, e) }).map(drop)
}

/// Another process, which ends at once.
fn fork() -> io::Result<()> {
    // SAFETY: the new process has one thread, uses nothing, and ends.
    unsafe {
        let pid = checked(libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0))?;
        if pid == 0 {
            libc::_exit(0);
        }
    }
    Ok(())
}

fn checked(result: libc::c_long) -> io::Result<libc::c_int> {
    libc::c_int::try_from(result)
        .ok()
        .filter(|result| *result >= 0)
        .ok_or_else(io::Error::last_os_error)
}

fn raw_socket(family: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    let kind = libc::SOCK_RAW.into();
    call(
        libc::SYS_socket,
        [family.into(), kind, protocol.into(), 0, 0],
    )
}

/// `bpf(2)` with the head of its attributes.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are readable for their size, and what they point to lives in the caller.
    checked(unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) })
}

/// A socket filter that drops everything: `r0 = 0; exit`.
fn load_program() -> io::Result<()> {
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: *const u64,
        licence: *const libc::c_char,
    }
    let program = [0xb7u64, 0x95];
    let load = Load {
        kind: 1,
        length: 2,
        instructions: program.as_ptr(),
        licence: c"GPL".as_ptr(),
    };
    bpf(5, &load).map(drop)
}

fn get_pin(path: &std::ffi::CStr) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Get {
        path: *const libc::c_char,
        descriptor: u32,
        flags: u32,
    }
    let get = Get {
        path: path.as_ptr(),
        descriptor: 0,
        flags: 0,
    };
    let fd = bpf(7, &get)?;
    // SAFETY: the call made a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Writes an element; large enough for those of all maps.
fn update(map: &OwnedFd) -> io::Result<()> {
    #[repr(C)]
    struct Element {
        map: u64,
        key: *const u64,
        value: *const u64,
        flags: u64,
    }
    let (key, value) = ([0u64; 16], [0u64; 512]);
    let element = Element {
        map: u64::from(map.as_raw_fd().cast_unsigned()),
        key: key.as_ptr(),
        value: value.as_ptr(),
        flags: 0,
    };
    bpf(2, &element).map(drop)
}

/// Memory that can be executed.
fn code() -> io::Result<()> {
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping that nobody uses.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, kind, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What every program does and must go on to be able to: threads, memory, a panic that is caught with
/// its backtrace, files.
fn work() -> io::Result<()> {
    let threads: Vec<_> = (0..8u8)
        .map(|number| {
            std::thread::Builder::new()
                .name(format!("work-{number}"))
                .spawn(move || {
                    vec![number; 8 << 20]
                        .into_iter()
                        .map(u64::from)
                        .sum::<u64>()
                })
        })
        .collect::<io::Result<_>>()?;
    for thread in threads {
        thread
            .join()
            .map_err(|_| io::Error::other("a thread panicked"))?;
    }
    let caught = std::panic::catch_unwind(|| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        std::panic::resume_unwind(Box::new(backtrace.to_string()));
    });
    match caught {
        Err(panic)
            if panic
                .downcast_ref::<String>()
                .is_some_and(|text| !text.is_empty()) =>
        {
            Ok(())
        }
        _ => Err(io::Error::other("the panic was not caught")),
    }
}

/// Reads what the keeper says until something is an answer.
fn answer<T>(worker: &Worker<'_>, found: impl Fn(ToWorker) -> Option<T>) -> io::Result<T> {
    loop {
        let message = worker.keeper.recv::<ToWorker>().map_err(io::Error::other)?;
        let (message, _) = message.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(found) = found(message) {
            return Ok(found);
        }
    }
}

fn say(worker: &Worker<'_>, message: &ToKeeper) -> io::Result<()> {
    worker.keeper.send(message, &[]).map_err(io::Error::other)
}

/// `AGENT,NAME,VIRTUAL,REAL`
fn publish(worker: &Worker<'_>, words: &str) -> io::Result<()> {
    let mut words = words.split(',');
    let mut next = || words.next().ok_or_else(unknown);
    let agent = AgentId(next()?.parse().map_err(|_| unknown())?);
    let name: HostName = next()?.parse().map_err(|_| unknown())?;
    let mut address = || next()?.parse::<IpAddr>().map_err(|_| unknown());
    let message = ToKeeper::Publish {
        request: 1,
        agent,
        name,
        virtual_addresses: vec![address()?],
        real: vec![address()?],
        ttl: Duration::from_secs(60),
    };
    say(worker, &message)?;
    let refused = answer(worker, |message| match message {
        ToWorker::Published { refused, .. } => Some(refused),
        _ => None,
    })?;
    refused.map_or(Ok(()), |why| Err(io::Error::other(why)))
}

/// `AGENT,NAME`
fn sign(worker: &Worker<'_>, words: &str) -> io::Result<()> {
    use rcgen::PublicKeyData as _;
    let (agent, name) = words.split_once(',').ok_or_else(unknown)?;
    let key = rcgen::KeyPair::generate().map_err(io::Error::other)?;
    let message = ToKeeper::Sign {
        request: 1,
        agent: AgentId(agent.parse().map_err(|_| unknown())?),
        subject: LeafSubject::Name(name.parse().map_err(|_| unknown())?),
        public_key: key.subject_public_key_info(),
    };
    say(worker, &message)?;
    let leaf = answer(worker, |message| match message {
        ToWorker::Signed { leaf, .. } => Some(leaf),
        _ => None,
    })?;
    leaf.map(drop).map_err(io::Error::other)
}
