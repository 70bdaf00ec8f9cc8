//! The user's terminal, and the one that the command gets instead.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use agentguard_keeper::spawn::message;
use agentguard_keeper::spawn::terminal::{Modes, Size};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios;

/// The terminal that this process has among its descriptors 0, 1 and 2. On drop its modes are what
/// they were.
pub(super) struct Terminal {
    fd: OwnedFd,
    slots: [bool; 3],
    /// Whether we began in its foreground. If not, its modes may have been those of the shell's line
    /// editor.
    began_in_foreground: bool,
    /// The user's modes, if they are not in force now.
    cooked: Option<Modes>,
}

impl Terminal {
    /// Finds it: the controlling terminal if it is among the descriptors, else the first that is one.
    /// Any of the three counts, stderr too: a descriptor of the user's terminal lets its holder read
    /// what the user types.
    pub(super) fn find() -> io::Result<Option<Self>> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        // Only of the controlling terminal may one ask who is in its foreground.
        let controlling = stdio.map(|fd| termios::tcgetpgrp(fd).is_ok());
        let (slots, fd) = if controlling.contains(&true) {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            let found = rustix::fs::open("/dev/tty", flags, Mode::empty()).map_err(io::Error::from);
            (
                controlling,
                found.or_else(|error| first(stdio, controlling, error))?,
            )
        } else {
            let devices = stdio.map(|fd| {
                termios::isatty(fd)
                    .then(|| rustix::fs::fstat(fd).map(|stat| stat.st_rdev).ok())
                    .flatten()
            });
            let Some(device) = devices.into_iter().flatten().next() else {
                return Ok(None);
            };
            let slots = devices.map(|found| found == Some(device));
            (slots, first(stdio, slots, Errno::NOTTY.into())?)
        };
        let mut terminal = Self {
            fd,
            slots,
            began_in_foreground: false,
            cooked: None,
        };
        terminal.began_in_foreground = terminal.in_foreground();
        Ok(Some(terminal))
    }

    /// Which of the descriptors 0, 1 and 2 it stands for.
    pub(super) fn slots(&self) -> [bool; 3] {
        self.slots
    }

    /// Whether the command has it for input and output, as a program that talks to a person. Where
    /// it is part of a pipeline it gets the keyboard only once it asks for it, because another
    /// program of the pipeline may be the one that talks.
    pub(super) fn is_whole(&self) -> bool {
        let [input, output, _] = self.slots;
        input && output
    }

    /// What to ask the keeper for.
    pub(super) fn wanted(&self) -> io::Result<message::Terminal> {
        let foreground = self.is_whole() && self.began_in_foreground;
        let modes = Modes::of(&self.fd)?;
        let modes = if self.began_in_foreground {
            modes
        } else {
            // Until we come to the foreground: the command may save them to set them again later.
            modes.line_by_line()
        };
        Ok(message::Terminal {
            slots: self.slots,
            foreground,
            size: self.size()?,
            modes: modes.with_output_processing(foreground),
        })
    }

    /// Whether what the keeper was asked for has the user's modes.
    pub(super) fn began_in_foreground(&self) -> bool {
        self.began_in_foreground
    }

    /// Its size.
    pub(super) fn size(&self) -> io::Result<Size> {
        Size::of(&self.fd)
    }

    /// Whether this process is in its foreground. One that does not control us has none.
    pub(super) fn in_foreground(&self) -> bool {
        termios::tcgetpgrp(&self.fd).map_or(true, |group| group == rustix::process::getpgrp())
    }

    /// Whether bytes pass it as they are.
    pub(super) fn is_raw(&self) -> bool {
        self.cooked.is_some()
    }

    /// Lets bytes pass as they are. Gives the user's modes.
    pub(super) fn make_raw(&mut self) -> io::Result<Modes> {
        if let Some(cooked) = self.cooked {
            return Ok(cooked);
        }
        let cooked = Modes::of(&self.fd)?;
        self.cooked = Some(cooked);
        cooked.raw().apply(&self.fd)?;
        Ok(cooked)
    }

    /// Gives it back as it was. In the background it is no longer ours to change: the shell has done it.
    pub(super) fn restore(&mut self) {
        if let Some(cooked) = self.cooked.take()
            && self.in_foreground()
        {
            let _ = cooked.apply(&self.fd);
        }
    }

    /// Shows what the command wrote; waits while the user has stopped the output.
    pub(super) fn show(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                // Someone else of the job has made it non-blocking.
                Err(Errno::AGAIN) => {
                    let mut ready = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::OUT)];
                    rustix::io::retry_on_intr(|| rustix::event::poll(&mut ready, None))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What the user has typed.
    pub(super) fn typed<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = rustix::io::read(&self.fd, &mut *buffer)?;
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}

fn first(stdio: [BorrowedFd<'_>; 3], slots: [bool; 3], error: io::Error) -> io::Result<OwnedFd> {
    stdio
        .into_iter()
        .zip(slots)
        .find_map(|(fd, is_terminal)| is_terminal.then_some(fd))
        .ok_or(error)?
        .try_clone_to_owned()
}
