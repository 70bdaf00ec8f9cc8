//! While the command runs: its terminal, its signals, its stops and its end.
//!
//! Signals go the way they would without us. With the terminal in raw mode, Ctrl-C and Ctrl-Z are
//! bytes; the command's own terminal makes signals of them. Without it, the user's terminal signals
//! our process group, us included, and we pass it on. In both cases we stop and end after the
//! command, by the same signal.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use agentguard_keeper::packet::Packet;
use agentguard_keeper::spawn::NO_MORE;
use agentguard_keeper::spawn::message::{Ending, FromClient, RELAYED, Stage, ToClient};
use agentguard_keeper::spawn::signals::{self, Reach, Signals};
use agentguard_keeper::spawn::terminal::Modes;
use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::Signal;

use super::terminal::Terminal;

/// What is shown of the command's last words after it has ended: more than a pty can hold (640 KiB),
/// so that nothing of the command is lost, while a process that it left behind cannot keep us.
const LAST_WORDS: usize = 1024 * 1024;

/// How long the daemon may still take to answer once the user has lost patience (Ctrl-C, SIGTERM).
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// Waits until the daemon has answered. Gives the signals that arrived meanwhile, for the command; if
/// one of them is meant to end it and no answer comes, it ends this process.
pub(super) fn wait_for_answer(
    connection: &Packet,
    signals: &mut Signals,
) -> anyhow::Result<Vec<i32>> {
    let mut early = Vec::new();
    loop {
        let ends = |signal: &i32| ![SIGCONT, SIGWINCH, SIGTSTP].contains(signal);
        let ending = early.iter().copied().find(ends);
        let mut ready = [
            PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut ready, ending.map(|_| &PATIENCE)) {
            Err(Errno::INTR) => continue,
            result => result.context("cannot wait")?,
        };
        let [answered, signalled] = ready.map(|fd| !fd.revents().is_empty());
        if answered {
            return Ok(early);
        }
        match (signalled, ending) {
            // Each kind waits at most once, as the system has it.
            (true, _) => {
                while let Some(signal) = signals.take() {
                    if !early.contains(&signal) {
                        early.push(signal);
                    }
                }
            }
            (false, Some(signal)) => signals::die(signal, Reach::Own),
            (false, None) => {}
        }
    }
}

/// Stays with a command that was started, until its end.
pub(super) fn attend(
    connection: Packet,
    fds: Vec<OwnedFd>,
    terminal: Option<Terminal>,
    signals: Signals,
    early: &[i32],
    program: &OsStr,
) -> anyhow::Result<ExitCode> {
    let mut fds = fds.into_iter();
    let monitor = fds.next().context("the daemon sent no process")?;
    let screen = match (terminal, fds.next()) {
        (Some(terminal), Some(master)) => Some(Screen::new(terminal, master)?),
        (None, None) => None,
        _ => anyhow::bail!("the daemon sent no terminal, or one too many"),
    };
    let mut session = Session {
        connection: Some(connection),
        monitor,
        signals,
        screen,
        failure: None,
    };
    for signal in early {
        if let Some(over) = session.signalled(*signal)? {
            return Ok(session.end(over, program));
        }
    }
    let over = loop {
        if let Some(over) = session.turn()? {
            break over;
        }
    };
    Ok(session.end(over, program))
}

const SIGHUP: i32 = Signal::HUP.as_raw();
const SIGINT: i32 = Signal::INT.as_raw();
const SIGQUIT: i32 = Signal::QUIT.as_raw();
const SIGCONT: i32 = Signal::CONT.as_raw();
const SIGSTOP: i32 = Signal::STOP.as_raw();
const SIGTSTP: i32 = Signal::TSTP.as_raw();
const SIGTTIN: i32 = Signal::TTIN.as_raw();
const SIGTTOU: i32 = Signal::TTOU.as_raw();
const SIGWINCH: i32 = Signal::WINCH.as_raw();

struct Session {
    /// `None` once the keeper is gone; the command then goes on without stops and signals.
    connection: Option<Packet>,
    monitor: OwnedFd,
    signals: Signals,
    screen: Option<Screen>,
    /// Why the command could not be run.
    failure: Option<(Stage, i32)>,
}

/// Why we stop attending.
enum Over {
    Ended(Ending),
    /// The keeper went away, and later the command.
    Unknown,
    /// We were told to go, and there is no keeper to pass it on.
    Signal(i32),
}

impl Session {
    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> anyhow::Result<Option<Over>> {
        let keeper = match &self.connection {
            Some(connection) => connection.as_fd(),
            None => self.monitor.as_fd(),
        };
        let mut ready = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(keeper, PollFlags::IN),
        ];
        if let Some(screen) = &self.screen {
            screen.watch(&mut ready);
        }
        match rustix::event::poll(&mut ready, None) {
            Err(Errno::INTR) => return Ok(None),
            result => result.context("cannot wait")?,
        };
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is_ready = |index| ready.get(index).copied().unwrap_or(false);
        let (signal, keeper) = (is_ready(0), is_ready(1));
        if let Some(screen) = &mut self.screen
            && !screen.relay(is_ready(2), is_ready(3))
        {
            self.hang_up();
        }
        if signal {
            while let Some(signal) = self.signals.take() {
                if let Some(over) = self.signalled(signal)? {
                    return Ok(Some(over));
                }
            }
        }
        if keeper {
            return self.heard();
        }
        Ok(None)
    }

    /// The keeper has something to say, or the keeper or, without it, the monitor is gone.
    fn heard(&mut self) -> anyhow::Result<Option<Over>> {
        let Some(connection) = &self.connection else {
            return Ok(Some(Over::Unknown));
        };
        match connection.recv::<ToClient>() {
            Ok(Some((ToClient::Exited(ending), _))) => return Ok(Some(Over::Ended(ending))),
            Ok(Some((ToClient::Stopped(signal), _))) => self.stopped(signal)?,
            Ok(Some((ToClient::Failed { stage, errno }, _))) => self.failure = Some((stage, errno)),
            Ok(Some(_)) => anyhow::bail!("the daemon said something out of turn"),
            Ok(None) | Err(_) => self.connection = None,
        }
        Ok(None)
    }

    fn signalled(&mut self, signal: i32) -> anyhow::Result<Option<Over>> {
        match signal {
            SIGWINCH => {
                if !self.screen.as_ref().is_some_and(Screen::resize) {
                    self.say(FromClient::Signal(SIGWINCH));
                }
            }
            SIGCONT => self.resume()?,
            _ if RELAYED.contains(&signal) && self.connection.is_some() => {
                self.say(FromClient::Signal(signal));
            }
            _ => return Ok(Some(Over::Signal(signal))),
        }
        Ok(None)
    }

    /// The command was stopped: so are we, unless it only wants the terminal and may have it.
    fn stopped(&mut self, signal: i32) -> anyhow::Result<()> {
        let wants_terminal = signal == SIGTTIN || signal == SIGTTOU;
        let mut reach = if wants_terminal {
            Reach::Group
        } else {
            Reach::Own
        };
        if let Some(screen) = &mut self.screen {
            if wants_terminal && screen.terminal.in_foreground() {
                screen.granted = true;
                return self.resume();
            }
            // The command's terminal stopped the command's group. Ours would have stopped our group.
            if screen.terminal.is_raw() && signal != SIGSTOP {
                reach = Reach::Group;
            }
            screen.leave();
        }
        signals::stop(signal, reach).context("cannot stop")?;
        self.resume()
    }

    /// We go on: so does the command, in the foreground if we are there.
    fn resume(&mut self) -> anyhow::Result<()> {
        let foreground = match &mut self.screen {
            Some(screen) => screen.enter().context("cannot set the terminal")?,
            None => false,
        };
        self.say(FromClient::Resume { foreground });
        Ok(())
    }

    /// The user's terminal is gone: the command's goes too, and it is told as a shell would tell it.
    fn hang_up(&mut self) {
        self.screen = None;
        self.say(FromClient::Signal(SIGHUP));
    }

    fn say(&self, message: FromClient) {
        if let Some(connection) = &self.connection {
            // If the keeper is gone, the next turn will see it.
            let _ = connection.send(&message, &[]);
        }
    }

    /// Gives the terminal back, says what the user must know, and ends as the command did.
    fn end(mut self, over: Over, program: &OsStr) -> ExitCode {
        let mut reach = Reach::Own;
        if let Some(mut screen) = self.screen.take() {
            if screen.interrupted && screen.terminal.is_raw() {
                reach = Reach::Group;
            }
            screen.leave();
        }
        match (over, self.failure) {
            (Over::Ended(Ending::Lost), _) => super::fail(
                "the command's monitor was killed, and the command with it",
                None,
            ),
            (Over::Ended(_), Some((stage, errno))) => not_run(stage, errno, program),
            (Over::Ended(Ending::Code(code)), None) => ExitCode::from(code),
            (Over::Ended(Ending::Signal(signal)), None) => {
                // Ctrl-C would have reached our whole group, a script that called us included.
                let typed = signal == SIGINT || signal == SIGQUIT;
                die(signal, if typed { reach } else { Reach::Own })
            }
            (Over::Signal(signal), _) => die(signal, Reach::Own),
            (Over::Unknown, _) => super::fail(
                "the daemon went away while the command ran: how it ended is not known",
                None,
            ),
        }
    }
}

fn die(signal: i32, reach: Reach) -> ExitCode {
    signals::die(signal, reach);
    // A signal that does not end a process here.
    ExitCode::from(u8::try_from(signal).unwrap_or(127).saturating_add(128))
}

fn not_run(stage: Stage, errno: i32, program: &OsStr) -> ExitCode {
    let reason = super::text(&io::Error::from_raw_os_error(errno));
    match stage {
        Stage::Execute => {
            let program = program.to_string_lossy();
            super::fail(
                &format!("cannot run `{}`: {reason}", program.escape_debug()),
                None,
            );
            let missing = errno == Errno::NOENT.raw_os_error();
            ExitCode::from(if missing { 127 } else { 126 })
        }
        Stage::Directory => super::fail(
            &format!("cannot {stage}: {reason}"),
            Some("run it from a directory that the command's user may enter"),
        ),
        _ => {
            let full = errno == Errno::AGAIN.raw_os_error();
            super::fail(
                &format!("cannot {stage}: {reason}"),
                full.then_some(NO_MORE),
            )
        }
    }
}

/// The user's terminal joined to the command's.
struct Screen {
    terminal: Terminal,
    master: OwnedFd,
    /// Whether the command may have the keyboard when we are in the foreground.
    granted: bool,
    /// Typed, and not yet taken by the command. While there is some, no more is read.
    pending: Vec<u8>,
    /// The user's modes.
    modes: Modes,
    /// Whether the command's terminal has been given the user's modes.
    settled: bool,
    /// Whether the last thing typed was the key that interrupts.
    interrupted: bool,
}

impl Screen {
    fn new(terminal: Terminal, master: OwnedFd) -> anyhow::Result<Self> {
        let mut screen = Self {
            granted: terminal.is_whole(),
            modes: Modes::of(&terminal)?,
            settled: terminal.began_in_foreground(),
            terminal,
            master,
            pending: Vec::new(),
            interrupted: false,
        };
        screen.enter().context("cannot set the terminal")?;
        Ok(screen)
    }

    /// Connects the keyboard, if the command may have it and we are in the foreground.
    fn enter(&mut self) -> io::Result<bool> {
        if !self.terminal.in_foreground() {
            return Ok(false);
        }
        if !self.settled {
            self.settle()?;
        }
        if !self.granted {
            return Ok(false);
        }
        if !self.terminal.is_raw() {
            self.modes = self.terminal.make_raw()?;
            self.process_output(true);
        }
        self.resize();
        Ok(true)
    }

    /// Gives the command's terminal the user's modes. If we began in the background, they are known
    /// only now: the shell has put them back before it gave us the foreground. Only once: from then
    /// on the modes of the command's terminal are the command's own.
    fn settle(&mut self) -> io::Result<()> {
        let modes = Modes::of(&self.terminal)?.with_output_processing(false);
        // It fails only if the command's terminal is gone, and then the command's end is on its way.
        let _ = modes.apply(&self.master);
        self.settled = true;
        Ok(())
    }

    /// Shows what is left to show and gives the user's terminal back.
    fn leave(&mut self) {
        let mut left = LAST_WORDS;
        while let Ok(length @ 1..) = self.show_some() {
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
        if self.terminal.is_raw() {
            self.terminal.restore();
            self.process_output(false);
        }
    }

    /// Output is processed once: by the command's terminal while ours is raw, else by ours.
    fn process_output(&self, on: bool) {
        if let Ok(modes) = Modes::of(&self.master) {
            let _ = modes.with_output_processing(on).apply(&self.master);
        }
    }

    /// Hands the size on; the command's terminal then signals its foreground. False if the command
    /// is not there to be signalled.
    fn resize(&self) -> bool {
        if let Ok(size) = self.terminal.size() {
            let _ = size.apply(&self.master);
        }
        self.terminal.is_raw()
    }

    fn watch<'a>(&'a self, ready: &mut Vec<PollFd<'a>>) {
        let mut master = PollFlags::IN;
        if !self.pending.is_empty() {
            master |= PollFlags::OUT;
        }
        ready.push(PollFd::from_borrowed_fd(self.master.as_fd(), master));
        if self.terminal.is_raw() && self.pending.is_empty() {
            let keyboard: BorrowedFd<'a> = self.terminal.as_fd();
            ready.push(PollFd::from_borrowed_fd(keyboard, PollFlags::IN));
        }
    }

    /// Passes bytes both ways; false once the user's terminal is gone.
    fn relay(&mut self, master: bool, keyboard: bool) -> bool {
        if master {
            if self.show_some().is_err() {
                return false;
            }
            self.type_some();
        }
        if keyboard {
            let mut buffer = [0; 4096];
            match self.terminal.typed(&mut buffer) {
                Ok([]) => return false,
                Ok(typed) => {
                    self.interrupted = self.modes.interrupts(typed);
                    self.pending.extend_from_slice(typed);
                    self.type_some();
                }
                Err(error) if is_transient(&error) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Shows what the command's terminal has now. 0: nothing, or its last holder has closed it.
    fn show_some(&self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(length) => {
                self.terminal
                    .show(buffer.get(..length).unwrap_or_default())?;
                Ok(length)
            }
            Err(_) => Ok(0),
        }
    }

    /// Gives the command's terminal what it takes of what was typed.
    fn type_some(&mut self) {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.master, &self.pending) {
                Ok(length) => drop(self.pending.drain(..length.min(self.pending.len()))),
                Err(Errno::AGAIN | Errno::INTR) => break,
                // Closed on the other side: the end of the command is on its way.
                Err(_) => self.pending.clear(),
            }
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}
