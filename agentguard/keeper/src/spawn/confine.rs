//! What a command may not do, whoever runs it: capabilities and system calls.

use std::io;

/// The capabilities that a command of root keeps: what root needs to manage files, users and its
/// own processes. Without them `su`, `chown`, `apt` or a web server on port 80 do not work.
///
/// All others are given up for good (bounding set): above all those with which a process leaves its
/// network namespace or cgroup, sends packets past the gate, loads code into the kernel or reads
/// other processes (`NET_ADMIN`, `NET_RAW`, `BPF`, `SYS_ADMIN`, `SYS_PTRACE`, `SYS_MODULE`,
/// `SYS_RAWIO`, `SYS_BOOT`, `PERFMON`, `MKNOD`, `DAC_READ_SEARCH`, which opens files by handle).
///
/// That is a fence against accidents, not against hostile code: what runs as root of the host owns
/// the guard's files and cgroups. An agent that is not trusted gets a user of its own (`--user`).
const OF_ROOT: [u32; 11] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    18, // SYS_CHROOT
    31, // SETFCAP
];

/// The capabilities that a command of this user may have, bit `n` for capability `n`.
pub(super) fn capabilities(uid: u32) -> u64 {
    if uid != 0 {
        return 0;
    }
    OF_ROOT.into_iter().fold(0, |set, number| set | 1 << number)
}

/// `RLIMIT_CORE`.
const CORE: u32 = 4;

/// Takes core dumps away: what is in the memory of a command is not for a handler of the host's. One
/// byte, and not none: with a limit of 0 the kernel still starts a handler that `core_pattern` pipes
/// to, and with 1 it does neither (`fs/coredump.c`).
pub(super) fn without_core_dumps(limits: &mut [(u32, libc::rlimit64)]) {
    for (_, limit) in limits.iter_mut().filter(|(number, _)| *number == CORE) {
        *limit = libc::rlimit64 {
            rlim_cur: 1,
            rlim_max: 1,
        };
    }
}

/// The instructions of one filter, at most (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction of classic BPF: `struct sock_filter`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if true.
    pub jump_true: u8,
    /// How many instructions to skip if false.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// A seccomp filter: a classic BPF program over `struct seccomp_data`, applied last before `execve`.
/// It must allow `execve`, `write` and `exit_group`.
pub struct SeccompFilter {
    program: Vec<libc::sock_filter>,
}

impl SeccompFilter {
    /// Takes a program; whether it is a valid one the kernel says when it is applied.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if it is empty or has more than 4096 instructions.
    pub fn new(instructions: &[Instruction]) -> io::Result<Self> {
        if !(1..=MAX_INSTRUCTIONS).contains(&instructions.len()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let program = instructions
            .iter()
            .map(|instruction| libc::sock_filter {
                code: instruction.code,
                jt: instruction.jump_true,
                jf: instruction.jump_false,
                k: instruction.operand,
            })
            .collect();
        Ok(Self { program })
    }

    /// For the `seccomp` system call; valid while `self` lives.
    pub(super) fn as_raw(&self) -> libc::sock_fprog {
        libc::sock_fprog {
            len: u16::try_from(self.program.len()).unwrap_or_default(),
            filter: self.program.as_ptr().cast_mut(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_but_root_keeps_a_capability_and_root_none_that_leads_out() {
        assert_eq!(capabilities(1000), 0);
        let root = capabilities(0);
        // DAC_READ_SEARCH, NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN,
        // SYS_BOOT, MKNOD, PERFMON, BPF, CHECKPOINT_RESTORE.
        for number in [2, 12, 13, 16, 17, 19, 21, 22, 27, 38, 39, 40] {
            assert_eq!(root & (1 << number), 0, "{number}");
        }
        assert_eq!(root & 0b1111_1011, 0b1111_1011);
    }

    #[test]
    fn a_filter_has_a_length_the_kernel_takes() {
        let allow = Instruction {
            code: 6,
            jump_true: 0,
            jump_false: 0,
            operand: 0x7fff_0000,
        };
        for (length, valid) in [(0, false), (1, true), (4096, true), (4097, false)] {
            let filter = SeccompFilter::new(&vec![allow; length]);
            assert_eq!(filter.is_ok(), valid, "{length}");
        }
    }
}
