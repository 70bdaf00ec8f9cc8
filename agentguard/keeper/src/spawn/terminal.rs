//! Terminals: the pty that a command gets, and what is carried over to it from the user's own.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

/// A window's size in characters and pixels, as `TIOCGWINSZ` has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
    /// Width in pixels, or 0.
    pub width: u16,
    /// Height in pixels, or 0.
    pub height: u16,
}

impl Size {
    /// The size of this terminal.
    ///
    /// # Errors
    /// `ENOTTY`.
    pub fn of(terminal: impl AsFd) -> io::Result<Self> {
        let size = rustix::termios::tcgetwinsize(terminal)?;
        Ok(Self {
            rows: size.ws_row,
            columns: size.ws_col,
            width: size.ws_xpixel,
            height: size.ws_ypixel,
        })
    }

    /// Gives a terminal this size; if it differs, its foreground gets `SIGWINCH`.
    ///
    /// # Errors
    /// `ENOTTY`.
    pub fn apply(self, terminal: impl AsFd) -> io::Result<()> {
        let size = Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: self.width,
            ws_ypixel: self.height,
        };
        Ok(rustix::termios::tcsetwinsize(terminal, size)?)
    }
}

/// A terminal's modes and special characters: `struct termios` as the kernel knows it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Modes {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    characters: [u8; 19],
}

impl Modes {
    /// The modes of this terminal.
    ///
    /// # Errors
    /// `ENOTTY`.
    pub fn of(terminal: impl AsFd) -> io::Result<Self> {
        let raw = attributes(&terminal)?;
        let mut characters = [0; 19];
        for (to, from) in characters.iter_mut().zip(raw.c_cc) {
            *to = from;
        }
        Ok(Self {
            input: raw.c_iflag,
            output: raw.c_oflag,
            control: raw.c_cflag,
            local: raw.c_lflag,
            characters,
        })
    }

    /// Gives a terminal these modes at once. What was written keeps its form, which it got when it was
    /// written; and to wait until it has left would be to wait for ourselves where we hold the master.
    ///
    /// # Errors
    /// `ENOTTY`; `EIO` for a background process in an orphaned process group.
    pub fn apply(&self, terminal: impl AsFd) -> io::Result<()> {
        let mut raw = attributes(&terminal)?;
        raw.c_iflag = self.input;
        raw.c_oflag = self.output;
        raw.c_cflag = self.control;
        raw.c_lflag = self.local;
        for (to, from) in raw.c_cc.iter_mut().zip(self.characters) {
            *to = from;
        }
        // SAFETY: `raw` is a whole `termios` that the system has filled.
        let result = unsafe { libc::tcsetattr(terminal.as_fd().as_raw_fd(), libc::TCSANOW, &raw) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// The same modes with every byte passed on as it is (`cfmakeraw`).
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.input &= !(libc::IGNBRK
            | libc::BRKINT
            | libc::PARMRK
            | libc::ISTRIP
            | libc::INLCR
            | libc::IGNCR
            | libc::ICRNL
            | libc::IXON);
        self.output &= !libc::OPOST;
        self.local &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
        self.control &= !(libc::CSIZE | libc::PARENB);
        self.control |= libc::CS8;
        for (index, value) in [(libc::VMIN, 1), (libc::VTIME, 0)] {
            if let Some(character) = self.characters.get_mut(index) {
                *character = value;
            }
        }
        self
    }

    /// The same modes, line by line and with echo and signals, as a shell gives them to a command.
    #[must_use]
    pub fn line_by_line(mut self) -> Self {
        self.input &= !(libc::INLCR | libc::IGNCR);
        self.input |= libc::ICRNL | libc::IXON;
        self.output |= libc::OPOST | libc::ONLCR;
        self.local |= libc::ICANON | libc::ECHO | libc::ECHOE | libc::ISIG | libc::IEXTEN;
        self
    }

    /// The same modes with output processing (a line feed becomes carriage return and line feed) on
    /// or off: it must happen once between the command and the user's eyes.
    #[must_use]
    pub fn with_output_processing(mut self, on: bool) -> Self {
        self.output = if on {
            self.output | libc::OPOST
        } else {
            self.output & !libc::OPOST
        };
        self
    }

    /// Whether these keys, typed, make the terminal send `SIGINT` or `SIGQUIT`.
    #[must_use]
    pub fn interrupts(&self, typed: &[u8]) -> bool {
        [libc::VINTR, libc::VQUIT]
            .into_iter()
            .filter_map(|index| self.characters.get(index))
            .any(|key| *key != 0 && typed.contains(key))
    }
}

fn attributes(terminal: impl AsFd) -> io::Result<libc::termios> {
    let mut raw = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: `raw` is writable for one `termios`.
    let result = unsafe { libc::tcgetattr(terminal.as_fd().as_raw_fd(), raw.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: integers, valid with any bits, and it began with zeros.
    Ok(unsafe { raw.assume_init() })
}

/// A new pseudo-terminal.
pub(super) struct Pty {
    /// The side of the user's terminal. Non-blocking, and nobody else holds it.
    pub(super) master: OwnedFd,
    /// The side of the command.
    pub(super) slave: OwnedFd,
}

impl Pty {
    /// Makes one whose slave belongs to `owner`, so that the command can open it by name. The slave
    /// comes from the master itself (`TIOCGPTPEER`), never from a path that could be another's.
    pub(super) fn open(owner: u32, size: Size, modes: &Modes) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        let status = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, status | rustix::fs::OFlags::NONBLOCK)?;
        rustix::fs::fchown(&slave, Some(rustix::process::Uid::from_raw(owner)), None)?;
        size.apply(&slave)?;
        modes.apply(&slave)?;
        Ok(Self { master, slave })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_modes_are_carried_over() {
        let size = Size {
            rows: 33,
            columns: 77,
            width: 5,
            height: 6,
        };
        let owner = rustix::process::getuid().as_raw();
        let first = Pty::open(owner, size, &default_modes()).unwrap();
        assert_eq!(Size::of(&first.slave).unwrap(), size);
        let raw = Modes::of(&first.slave).unwrap().raw();
        let second = Pty::open(owner, size, &raw).unwrap();
        assert_eq!(Modes::of(&second.slave).unwrap(), raw);
        assert_ne!(Modes::of(&first.slave).unwrap(), raw);
    }

    fn default_modes() -> Modes {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        Modes::of(rustix::pty::openpt(flags).unwrap()).unwrap()
    }

    #[test]
    fn what_a_line_editor_changes_is_undone() {
        let modes = default_modes();
        let mut editor = modes;
        editor.input = (editor.input | libc::INLCR | libc::IGNCR) & !(libc::ICRNL | libc::IXON);
        editor.local &= !(libc::ICANON | libc::ECHO | libc::ISIG);
        assert_eq!(editor.line_by_line(), modes);
        assert_eq!(modes.line_by_line(), modes);
    }

    #[test]
    fn only_the_terminals_own_keys_interrupt() {
        let modes = default_modes();
        for (typed, interrupts) in [
            (&b"ls\r"[..], false),
            (b"\x03", true),
            (b"abc\x1c", true),
            (b"\0", false),
        ] {
            assert_eq!(modes.interrupts(typed), interrupts, "{typed:?}");
        }
    }
}
