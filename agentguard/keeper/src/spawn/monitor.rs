//! The monitor: the parent of a command, in the agent's cgroup, with the command's credentials.
//!
//! It exists because the kernel gives job control only to a process group whose parent is in the
//! same session: without it the command's group would be orphaned and ignore Ctrl-Z. It tells the
//! keeper when the command stops and ends, and passes signals on, which only the parent can do
//! without hitting a stranger that got the same pid.
//!
//! It began as a copy of the keeper, so its first act is to forget: everything that could hold a
//! secret of the keeper is unmapped. What remains is the program's code and initialised data, and the
//! upper end of this thread's stack. A command that kills or stops its monitor loses its terminal, no more.
//!
//! The rules of [`super::child`] hold here too.

use std::os::fd::RawFd;
use std::ptr;

use super::child::{WIRE, exit, report, sys};
use super::wire::{LENGTH, Record};

/// Watches the command until it ends, then ends with it.
///
/// # Safety
/// Only as the last act of [`super::child::become_monitor`].
pub(super) unsafe fn watch(
    pid: libc::pid_t,
    signals: RawFd,
    maps: RawFd,
    stack_top: usize,
    terminal: Option<RawFd>,
) -> ! {
    // SAFETY: from here on nothing but our own arguments and variables is used, which lie on the
    // stack that `forget` keeps.
    unsafe {
        forget(maps, stack_top);
        let _ = sys!(libc::SYS_close, maps);
        let _ = sys!(libc::SYS_chdir, c"/".as_ptr());
        let mut keeper = WIRE;
        loop {
            let mut ready = [
                libc::pollfd {
                    fd: signals,
                    events: libc::POLLIN,
                    revents: 0,
                },
                libc::pollfd {
                    fd: keeper,
                    events: libc::POLLIN,
                    revents: 0,
                },
            ];
            let none = ptr::null::<u8>();
            let _ = sys!(
                libc::SYS_ppoll,
                ready.as_mut_ptr(),
                ready.len(),
                none,
                none,
                0
            );
            let [child, request] = ready;
            if child.revents != 0 {
                let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
                while sys!(libc::SYS_read, signals, buffer.as_mut_ptr(), buffer.len()).is_ok() {}
                reap(pid, keeper < 0, terminal);
            }
            if request.revents != 0 && !obey(pid, terminal) {
                // The keeper is gone: nobody can stop or continue the command any more.
                keeper = -1;
                signal(pid, libc::SIGCONT);
            }
        }
    }
}

/// Tells what has become of the command.
unsafe fn reap(pid: libc::pid_t, alone: bool, terminal: Option<RawFd>) {
    loop {
        // SAFETY: integers; zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG;
        let usage = ptr::null_mut::<libc::rusage>();
        // SAFETY: `info` is writable; the fields read are those that `waitid` fills.
        let (code, status) = unsafe {
            let waited = sys!(
                libc::SYS_waitid,
                libc::P_PID,
                pid,
                &raw mut info,
                flags,
                usage
            );
            if waited.is_err() || info.si_pid() == 0 {
                return;
            }
            (info.si_code, info.si_status())
        };
        // SAFETY: only numbers are passed on.
        unsafe {
            match code {
                libc::CLD_STOPPED if alone => signal(pid, libc::SIGCONT),
                libc::CLD_STOPPED => report(WIRE, Record::Stopped(status)),
                libc::CLD_EXITED => end(Record::Exited(status), terminal),
                libc::CLD_KILLED | libc::CLD_DUMPED => end(Record::Killed(status), terminal),
                _ => {}
            }
        }
    }
}

/// The command is over. As session leader we take the terminal's foreground with us: our end sends
/// SIGHUP to it, and what the command left running in the background must not get that.
unsafe fn end(record: Record, terminal: Option<RawFd>) -> ! {
    // SAFETY: plain numbers.
    unsafe {
        if let Some(terminal) = terminal {
            foreground(terminal, own_group());
        }
        report(WIRE, record);
        exit(0)
    }
}

/// Does what the keeper asks; false once there is no keeper.
unsafe fn obey(pid: libc::pid_t, terminal: Option<RawFd>) -> bool {
    let mut bytes = [0_u8; LENGTH];
    let (none, flags) = (ptr::null_mut::<u8>(), libc::MSG_DONTWAIT);
    // SAFETY: `bytes` is writable for its length.
    let received = unsafe {
        sys!(
            libc::SYS_recvfrom,
            WIRE,
            bytes.as_mut_ptr(),
            bytes.len(),
            flags,
            none,
            none
        )
    };
    match received {
        Ok(0) => return false,
        Ok(_) => {}
        Err(errno) => return matches!(errno, libc::EAGAIN | libc::EINTR),
    }
    // SAFETY: only numbers are passed on.
    unsafe {
        match Record::decode(bytes) {
            Some(Record::Signal(number)) => signal(pid, number),
            Some(Record::Resume(to_foreground)) => {
                if let Some(terminal) = terminal {
                    let own = own_group();
                    let mut current: libc::pid_t = 0;
                    let _ = sys!(libc::SYS_ioctl, terminal, libc::TIOCGPGRP, &raw mut current);
                    // A shell inside may have given it to one of its jobs: that is its affair.
                    if to_foreground && current == own {
                        foreground(terminal, pid);
                    } else if !to_foreground && current == pid {
                        foreground(terminal, own);
                    }
                }
                signal(pid, libc::SIGCONT);
            }
            _ => {}
        }
    }
    true
}

/// Signals the command: its whole group, as a terminal or a shell would; but the two whose meaning
/// the program itself defines (`SIGUSR1`, `SIGUSR2`) go to it alone, for they would kill the others.
unsafe fn signal(command: libc::pid_t, number: libc::c_int) {
    let target = match number {
        libc::SIGUSR1 | libc::SIGUSR2 => command,
        _ => -command,
    };
    // SAFETY: the command has not been reaped, so its pid and group are no one else's.
    let _ = unsafe { sys!(libc::SYS_kill, target, number) };
}

unsafe fn foreground(terminal: RawFd, group: libc::pid_t) {
    // SAFETY: `group` is readable. SIGTTOU, which this may raise, is blocked.
    let _ = unsafe { sys!(libc::SYS_ioctl, terminal, libc::TIOCSPGRP, &raw const group) };
}

/// Our own process group: as session leaders we are it.
unsafe fn own_group() -> libc::pid_t {
    // SAFETY: a plain call.
    let pid = unsafe { sys!(libc::SYS_getpid) };
    pid.ok()
        .and_then(|pid| libc::pid_t::try_from(pid).ok())
        .unwrap_or(0)
}

/// How much of the stack below the current frame stays: room for our calls.
const STACK_LEFT: usize = 64 * 1024;

/// A multiple of every page size.
const PAGE: usize = 64 * 1024;

/// Unmaps whatever is not the program itself or this thread's stack, from the current frame upwards.
///
/// Kept are private mappings of files (the program and its libraries; not their zero-initialised
/// data, which nothing here uses), the kernel's own (`[vdso]`), and libc's thread block, wherever it
/// lies. A mapping's bounds say nothing of what it is for: the kernel joins neighbours, and the heap
/// may be the stack's.
///
/// # Safety
/// Afterwards no pointer into the heap, another thread's stack, a shared mapping, a static variable
/// or a page lower on the stack may be used. `stack_top` must be the end of this thread's stack.
unsafe fn forget(maps: RawFd, stack_top: usize) {
    let frame = 0_u8;
    let stack = (&raw const frame).addr();
    let kept = (stack.saturating_sub(STACK_LEFT) & !(PAGE - 1))..stack_top;
    // SAFETY: always valid for this thread.
    let errno = unsafe { libc::__errno_location() }.addr();
    let mut buffer = [0_u8; 1024];
    let mut line = Line::default();
    loop {
        // SAFETY: `buffer` is writable for its length.
        let read = unsafe { sys!(libc::SYS_read, maps, buffer.as_mut_ptr(), buffer.len()) };
        let length = match read.map(usize::try_from) {
            Ok(Ok(length)) if length > 0 => length,
            Err(libc::EINTR) => continue,
            _ => return,
        };
        for byte in buffer.iter().take(length) {
            if *byte != b'\n' {
                line.take(*byte);
                continue;
            }
            let mapping = std::mem::take(&mut line);
            let is_thread = (mapping.start..mapping.end).contains(&errno) && !kept.contains(&errno);
            if (mapping.has_file && !mapping.shared) || mapping.is_kernels || is_thread {
                continue;
            }
            // What lies before the stack, and what lies behind it.
            for (start, end) in [
                (mapping.start, mapping.end.min(kept.start)),
                (mapping.start.max(kept.end), mapping.end),
            ] {
                if let Some(length) = end.checked_sub(start).filter(|length| *length > 0) {
                    // SAFETY: nothing in there is used any more, as promised to us.
                    let _ = unsafe { sys!(libc::SYS_munmap, start, length) };
                }
            }
        }
    }
}

/// One line of `/proc/self/maps`, read byte by byte:
/// `start-end perms offset device inode            name`.
#[derive(Default)]
struct Line {
    field: u8,
    blank: bool,
    start: usize,
    end: usize,
    shared: bool,
    has_file: bool,
    name: [u8; 2],
    name_length: u8,
    is_kernels: bool,
}

impl Line {
    fn take(&mut self, byte: u8) {
        if byte == b' ' {
            self.blank = true;
            return;
        }
        if self.blank {
            self.blank = false;
            self.field = self.field.saturating_add(1);
        }
        match self.field {
            0 if byte == b'-' => self.field = 1,
            0 => self.start = hex(self.start, byte),
            1 => self.end = hex(self.end, byte),
            2 => self.shared |= byte == b's',
            5 => self.has_file |= byte != b'0',
            6 => {
                // `[heap]`, `[vdso]`, `[vvar]`, `[vvar_vclock]`, `[stack]`, `[anon:...]`.
                let [first, second] = &mut self.name;
                match self.name_length {
                    0 => *first = byte,
                    1 => *second = byte,
                    _ => {}
                }
                self.name_length = self.name_length.saturating_add(1);
                self.is_kernels = self.name == *b"[v";
            }
            _ => {}
        }
    }
}

fn hex(value: usize, byte: u8) -> usize {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => return value,
    };
    (value << 4) | usize::from(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_memory_map_are_read_as_they_are_written() {
        // Line, file, shared, kernel's.
        for (text, has_file, shared, is_kernels) in [
            (
                "7f00-7f80 r-xp 00000000 fe:00 1234                       /usr/lib/x y.so",
                true,
                false,
                false,
            ),
            ("7f00-7f80 rw-p 00000000 00:00 0 ", false, false, false),
            (
                "7f00-7f80 rw-p 00000000 00:00 0                          [heap]",
                false,
                false,
                false,
            ),
            (
                "7f00-7f80 rw-s 00000000 00:0e 10                         anon_inode:bpf-map",
                true,
                true,
                false,
            ),
            (
                "7f00-7f80 r--p 00000000 00:00 0                          [vvar]",
                false,
                false,
                true,
            ),
        ] {
            let mut line = Line::default();
            text.bytes().for_each(|byte| line.take(byte));
            assert_eq!((line.start, line.end), (0x7f00, 0x7f80), "{text}");
            assert_eq!(
                (line.has_file, line.shared, line.is_kernels),
                (has_file, shared, is_kernels),
                "{text}"
            );
        }
    }
}
