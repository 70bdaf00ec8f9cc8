//! Processes of agents that do what a test says (`client.py`). One interpreter is started and gives birth to
//! all of them: its start takes longer than most tests, and ten times so on an emulated processor.

use std::fs::File;
use std::io::{BufRead as _, BufReader, IoSlice, PipeWriter, Write as _, pipe};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::world::deadline;

/// The interpreter, and the socket that it is asked over.
pub(crate) struct Nursery {
    asked: OwnedFd,
    _interpreter: Child,
}

/// The one that there is. It stands in the namespaces that the tests began
/// in and not in a world's, which would not end with its thread; it ends with the tests.
pub(crate) fn nursery() -> &'static Mutex<Nursery> {
    static NURSERY: OnceLock<Mutex<Nursery>> = OnceLock::new();
    NURSERY.get_or_init(|| {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, its) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None).unwrap();
        let interpreter = Command::new("python3")
            // Without what only installed packages need: it starts in half the time.
            .args(["-I", "-S"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gate/client.py"))
            .current_dir("/")
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Mutex::new(Nursery {
            asked: ours,
            _interpreter: interpreter,
        })
    })
}

/// A process that does what a test says.
pub(crate) struct Client {
    pid: u32,
    process: OwnedFd,
    input: PipeWriter,
    answers: Receiver<String>,
}

impl Client {
    /// In this cgroup, and in the namespaces of the caller's thread.
    pub(crate) fn inside(cgroup: &Path) -> Self {
        let (its_input, input) = pipe().unwrap();
        let (output, its_output) = pipe().unwrap();
        let namespaces =
            ["net", "mnt"].map(|kind| File::open(format!("/proc/thread-self/ns/{kind}")).unwrap());
        let given = [
            its_input.as_fd(),
            its_output.as_fd(),
            namespaces[0].as_fd(),
            namespaces[1].as_fd(),
        ];
        let (pid, process) = born(cgroup, &given);
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut client = Self {
            pid,
            process,
            input,
            answers,
        };
        // It is where it should be from here on.
        client.does("pass");
        client
    }

    /// The process.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// The answer to one line of `client.py`.
    pub(crate) fn says(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.answers
            .recv_timeout(2 * deadline())
            .unwrap_or_else(|_| panic!("no answer to: {line}"))
    }

    /// Carries out a statement that succeeds.
    #[track_caller]
    pub(crate) fn does(&mut self, line: &str) {
        assert_eq!(self.says(&format!("do {line}")), "done", "{line}");
    }

    /// Carries out a line that the gate refuses.
    #[track_caller]
    pub(crate) fn is_refused(&mut self, line: &str) {
        assert_eq!(self.says(&format!("do {line}")), "EPERM", "{line}");
    }

    /// The value of an expression that is a number.
    #[track_caller]
    pub(crate) fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&mut self, line: &str) -> T {
        self.says(line).parse().unwrap()
    }

    /// Ends the process and waits until it is gone.
    pub(crate) fn ends(self) {
        drop(self);
    }
}

/// Has a process made: its number, and a descriptor of it.
fn born(cgroup: &Path, given: &[std::os::fd::BorrowedFd<'_>]) -> (u32, OwnedFd) {
    let nursery = nursery().lock().unwrap_or_else(PoisonError::into_inner);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(beside.push(SendAncillaryMessage::ScmRights(given)));
    let name = cgroup.to_str().unwrap().as_bytes();
    sendmsg(
        &nursery.asked,
        &[IoSlice::new(name)],
        &mut beside,
        SendFlags::empty(),
    )
    .unwrap();
    let mut answer = [0; 16];
    let (length, _) = recv(&nursery.asked, &mut answer, RecvFlags::empty()).unwrap();
    let pid: i32 = std::str::from_utf8(&answer[..length])
        .unwrap()
        .parse()
        .unwrap();
    let process = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    (pid.try_into().unwrap(), process)
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        // A descriptor of a process is readable once it has ended (pidfd_open(2)).
        let timeout = Timespec::try_from(deadline()).unwrap();
        let _ = poll(
            &mut [PollFd::new(&self.process, PollFlags::IN)],
            Some(&timeout),
        );
    }
}
