//! The system calls that no command of a run makes, as a seccomp filter.
//!
//! A list of denials over all that this table knows, and a bound: what the kernel has beyond the
//! table answers ENOSYS, as on an older kernel, so that a new way out is not open until somebody has
//! looked at it. What Docker, systemd and Flatpak refuse is the model. A denial answers with an
//! errno, never with a signal: EPERM, or what makes clients fall back (ENOSYS, EAFNOSUPPORT).
//!
//! A call that is not listed is allowed by its number alone. The kernel (5.11 on) finds that out when
//! the filter is installed, keeps it in a bitmap and runs no filter for it (`seccomp_cache_prepare`);
//! the others find their place by binary search.

use std::io;

use super::confine::{Instruction, SeccompFilter};

/// What differs between runs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Profile {
    /// It may make namespaces, and mount in them: for programs with a sandbox of their own.
    pub user_namespaces: bool,
    /// It may look into processes, because something else (Landlock) holds it to its own.
    pub trace: bool,
}

impl Profile {
    /// The filter for this machine.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] on an architecture without a table.
    pub fn filter(self) -> io::Result<SeccompFilter> {
        SeccompFilter::new(&self.instructions()?)
    }

    fn instructions(self) -> io::Result<Vec<Instruction>> {
        let mut entries = self.entries();
        entries.sort_by_key(|(number, _)| *number);
        let search = search(&entries);
        // Another ABI has other numbers: int 0x80 on x86-64, AArch32. There is nothing to answer that
        // such a program could make sense of.
        let mut program = vec![load(ARCH)];
        program.extend(unless(EQUAL, AUDIT_ARCH.ok_or(io::ErrorKind::Unsupported)?));
        program.push(answer(KILL_PROCESS));
        program.push(load(NUMBER));
        // x32 numbers, which are x86-64's with bit 30, lie above too.
        program.extend(when(GREATER, LAST_KNOWN, vec![errno(libc::ENOSYS)]));
        program.extend(search);
        Ok(program)
    }

    /// What becomes of each call that is not simply allowed.
    fn entries(self) -> Vec<(u32, Vec<Instruction>)> {
        let mut entries = Vec::new();
        let mut deny = |numbers: &[libc::c_long], error: i32| {
            let numbers = numbers.iter().filter_map(|n| u32::try_from(*n).ok());
            entries.extend(numbers.map(|number| (number, vec![errno(error)])));
        };
        deny(NEVER, libc::EPERM);
        deny(ABSENT, libc::ENOSYS);
        if !self.trace {
            deny(TRACE, libc::EPERM);
        }
        if !self.user_namespaces {
            deny(MOUNT, libc::EPERM);
        }
        let mut check = |number: libc::c_long, program: Vec<Instruction>| {
            entries.extend(u32::try_from(number).ok().map(|number| (number, program)));
        };
        if !self.user_namespaces {
            check(libc::SYS_unshare, no_flags(NAMESPACES | CLONE_NEWTIME));
            // There, the bit of CLONE_NEWTIME belongs to the exit signal.
            check(libc::SYS_clone, no_flags(NAMESPACES));
        }
        check(libc::SYS_socket, sockets());
        check(libc::SYS_socketpair, socket_pairs());
        check(libc::SYS_ioctl, terminal_injection());
        check(libc::SYS_personality, personalities());
        entries
    }
}

/// Out of the network, past the gate, or into the kernel. Most need a capability that no run has;
/// which of them do is another thing in each kernel, and none is an agent's business.
const NEVER: &[libc::c_long] = &[
    // Kernel code.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    // A file without its path: what is masked by mounts is open again.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Keys are the user's or the session's, and not the agent's alone.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Makes races in the kernel winnable.
    libc::SYS_userfaultfd,
    // The machine's.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Those with which clients do without, if the kernel seems not to have them.
const ABSENT: &[libc::c_long] = &[
    // Its flags are in memory, where no filter can look. libc falls back to clone.
    libc::SYS_clone3,
    // IORING_OP_SOCKET and others are system calls that no filter sees. A ring that was made outside
    // and came over a socket is of no use either.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Into other processes.
const TRACE: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
];

/// Into other namespaces, and changing what files are where.
const MOUNT: &[libc::c_long] = &[
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
];

/// Linux 6.15.
const OPEN_TREE_ATTR: libc::c_long = 467;

/// `file_setattr` of Linux 6.17: the last call that somebody has looked at. From 424 on, numbers are
/// the same on all architectures.
const LAST_KNOWN: u32 = 469;

/// `linux/audit.h`: the machine, 64 bits, little endian.
const AUDIT_ARCH: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
    Some(0xc000_00b7)
} else {
    None
};

/// `linux/sched.h`: mount, cgroup, UTS, IPC, user, PID and network.
const NAMESPACES: u32 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
const CLONE_NEWTIME: u32 = 0x80;

/// `linux/socket.h`.
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
/// The type without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const SOCK_TYPE_MASK: u32 = 0xf;
const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;
const NETLINK_ROUTE: u32 = 0;

/// `asm-generic/ioctls.h`.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// IP and UNIX. IP's other protocols (ICMP, MPTCP, SCTP) are left to the gate, which records them.
/// Of netlink, what `getifaddrs` asks (glibc, Go, Node, Chromium): links, addresses and routes.
fn sockets() -> Vec<Instruction> {
    // What the kernel says to those without `CAP_NET_RAW`.
    let ip = [
        vec![load(argument(1)), keep_bits(SOCK_TYPE_MASK)],
        when(EQUAL, SOCK_RAW, vec![errno(libc::EPERM)]),
        when(EQUAL, SOCK_PACKET, vec![errno(libc::EPERM)]),
        vec![answer(ALLOW)],
    ]
    .concat();
    let netlink = [
        vec![load(argument(2))],
        when(EQUAL, NETLINK_ROUTE, vec![answer(ALLOW)]),
        vec![errno(libc::EPROTONOSUPPORT)],
    ]
    .concat();
    [
        vec![load(argument(0))],
        when(EQUAL, AF_UNIX, vec![answer(ALLOW)]),
        when(EQUAL, AF_INET, ip.clone()),
        when(EQUAL, AF_INET6, ip),
        when(EQUAL, AF_NETLINK, netlink),
        vec![errno(libc::EAFNOSUPPORT)],
    ]
    .concat()
}

fn socket_pairs() -> Vec<Instruction> {
    [
        vec![load(argument(0))],
        when(EQUAL, AF_UNIX, vec![answer(ALLOW)]),
        vec![errno(libc::EAFNOSUPPORT)],
    ]
    .concat()
}

/// The terminal of a run is its own, but the caller's may come with descriptors 0 to 2.
fn terminal_injection() -> Vec<Instruction> {
    [
        vec![load(argument(1))],
        when(EQUAL, TIOCSTI, vec![errno(libc::EPERM)]),
        when(EQUAL, TIOCLINUX, vec![errno(libc::EPERM)]),
        vec![answer(ALLOW)],
    ]
    .concat()
}

/// As Docker: Linux, UNAME26, PER_LINUX32 and the question which it is; and ADDR_NO_RANDOMIZE, which
/// debuggers and sanitizers set for their own children. Others bring back holes of old systems.
fn personalities() -> Vec<Instruction> {
    const QUESTION: u32 = 0xffff_ffff;
    const ALLOWED: u32 = 0x0002_0000 | 0x0000_0008 | 0x0004_0000;
    [
        vec![load(argument(0))],
        when(EQUAL, QUESTION, vec![answer(ALLOW)]),
        when(ANY_BIT, !ALLOWED, vec![errno(libc::EPERM)]),
        vec![answer(ALLOW)],
    ]
    .concat()
}

fn no_flags(flags: u32) -> Vec<Instruction> {
    [
        vec![load(argument(0))],
        when(ANY_BIT, flags, vec![errno(libc::EPERM)]),
        vec![answer(ALLOW)],
    ]
    .concat()
}

/// `linux/seccomp.h`.
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// The lower half of an argument: all that are looked at here are 32 bits wide in the kernel.
const fn argument(number: u32) -> u32 {
    16 + 8 * number
}

/// Conditions of classic BPF, against a constant: `BPF_JMP | BPF_JEQ`, `BPF_JGT`, `BPF_JGE`, `BPF_JSET`.
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;

const fn instruction(code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

const fn load(offset: u32) -> Instruction {
    instruction(0x20, 0, 0, offset)
}

const fn keep_bits(mask: u32) -> Instruction {
    instruction(0x54, 0, 0, mask)
}

const fn answer(action: u32) -> Instruction {
    instruction(0x06, 0, 0, action)
}

const fn errno(error: i32) -> Instruction {
    answer(ERRNO | error.unsigned_abs())
}

/// Skips the next instruction if the condition holds.
fn unless(condition: u16, operand: u32) -> Vec<Instruction> {
    vec![instruction(condition, 1, 0, operand)]
}

/// Runs `then`, which ends in an answer, if the condition holds, and goes on behind it if not.
fn when(condition: u16, operand: u32, then: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = match u8::try_from(then.len()) {
        Ok(length) => vec![instruction(condition, 0, length, operand)],
        Err(_) => far(condition, operand, &then),
    };
    program.extend(then);
    program
}

/// As the jump of [`when`], where it is too far for a conditional one.
fn far(condition: u16, operand: u32, then: &[Instruction]) -> Vec<Instruction> {
    let length = u32::try_from(then.len()).unwrap_or(u32::MAX);
    vec![
        instruction(condition, 1, 0, operand),
        instruction(0x05, 0, 0, length),
    ]
}

/// Entries of one leaf of the search.
const LEAF: usize = 3;

/// Finds the entry of a number, which is loaded; allows where there is none. Sorted by number.
fn search(entries: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    let (left, right) = entries.split_at(entries.len() / 2);
    match right.first() {
        Some((middle, _)) if entries.len() > LEAF => {
            let mut program = when(AT_LEAST, *middle, search(right));
            program.extend(search(left));
            program
        }
        _ => {
            let mut program: Vec<_> = entries
                .iter()
                .flat_map(|(number, then)| when(EQUAL, *number, then.clone()))
                .collect();
            program.push(answer(ALLOW));
            program
        }
    }
}

#[cfg(test)]
mod tests;
