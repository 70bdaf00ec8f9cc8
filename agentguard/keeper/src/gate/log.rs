//! Debugging lines of the gate's programs, for who works on them.
//!
//! Off, the kernel drops them from the programs while it verifies. On, a thread reads them until
//! the gate is dropped; what does not fit in their ring buffer is lost. They are no record: events
//! are.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use log::{Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::PipeFlags;

use super::GateError;

/// The variable that switches the lines on.
const VARIABLE: &str = "AGENTGUARD_BPF_LOG";

/// Takes one line.
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// The highest level that the programs write, as their global has it.
pub(super) const fn level(on: bool) -> u8 {
    if on { Level::Debug as u8 } else { 0 }
}

/// Where lines go, if the environment asks for them.
///
/// # Errors
/// [`GateError::Log`]: the variable has another value than `debug` and `off`.
pub(super) fn from_environment() -> Result<Option<Sink>, GateError> {
    match std::env::var(VARIABLE).as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("" | "off") => Ok(None),
        Ok("debug") => Ok(Some(Box::new(
            |line| tracing::info!(target: "agentguard::bpf", "{line}"),
        ))),
        _ => Err(GateError::Log(VARIABLE)),
    }
}

/// The thread that reads. It ends when this is dropped.
pub(super) struct Reader(#[expect(dead_code, reason = "closing it is the message")] OwnedFd);

impl Reader {
    /// Starts one on the programs of a loaded object.
    ///
    /// # Errors
    /// [`GateError::Sys`].
    pub(super) fn start(ebpf: &mut Ebpf, sink: Sink) -> Result<Self, GateError> {
        let failed = |source| GateError::Sys {
            what: "read the gate's debugging lines",
            source,
        };
        let mut logger = EbpfLogger::init_with_logger(ebpf, Lines(sink))
            .map_err(|error| failed(io::Error::other(error)))?;
        let (ended, alive) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        std::thread::Builder::new()
            .name("bpf-log".to_owned())
            .spawn(move || {
                loop {
                    logger.flush();
                    let waited = {
                        let lines = logger.as_fd();
                        let mut fds = [
                            PollFd::from_borrowed_fd(lines, PollFlags::IN),
                            PollFd::new(&ended, PollFlags::IN),
                        ];
                        poll(&mut fds, None).map(|_| !fds[1].revents().is_empty())
                    };
                    match waited {
                        Ok(false) | Err(rustix::io::Errno::INTR) => {}
                        Ok(true) | Err(_) => break,
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self(alive))
    }
}

struct Lines(Sink);

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        (self.0)(&record.args().to_string());
    }

    fn flush(&self) {}
}
