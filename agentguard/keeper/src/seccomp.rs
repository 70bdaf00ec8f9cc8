//! Builds system call filters: classic BPF over `struct seccomp_data` (`linux/seccomp.h`).
//!
//! A filter is a list of rules that is walked from its head: a number, conditions on the arguments, and
//! what is to become of the call. What no rule names becomes what the filter says last. The walk costs
//! nothing for calls that are allowed whatever their arguments are: the kernel finds those out once and
//! keeps them in a bitmap (`seccomp_cache_prepare`, Linux 5.11).
//!
//! **Invariant:** calls by another architecture's numbers end the process, those of the x32 ABI too:
//! the rules say nothing of them.

use std::io;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// `linux/audit.h`: what the numbers of the rules mean.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

/// `__X32_SYSCALL_BIT`: the same architecture by its number, and another ABI. No number of the others
/// is as high.
const X32: u32 = 0x4000_0000;

/// Instructions: the class, the size, the mode.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    /// It is made.
    Allow,
    /// It is not made, and fails with this error number.
    Refuse(i32),
    /// It is not made, and the process ends as by `SIGSYS`, which the kernel logs.
    Kill,
}

impl Fate {
    /// `SECCOMP_RET_*`.
    fn value(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Refuse(errno) => 0x0005_0000 | (errno.cast_unsigned() & 0xffff),
            Self::Kill => 0x8000_0000,
        }
    }
}

/// A half of an argument, and what it has to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Condition {
    offset: u32,
    mask: u32,
    value: u32,
}

/// The lower half of an argument, counted from 0, is this value. For arguments that the kernel takes
/// for an `int`: it does not look at the upper half either.
pub(crate) const fn is(argument: u32, value: u32) -> Condition {
    masked(argument, u32::MAX, value)
}

/// As [`is`], of these bits only.
pub(crate) const fn masked(argument: u32, mask: u32, value: u32) -> Condition {
    Condition {
        // Both architectures are little-endian.
        offset: ARGUMENTS + 8 * argument,
        mask,
        value,
    }
}

/// An argument as wide as a pointer is zero.
pub(crate) const fn is_zero(argument: u32) -> [Condition; 2] {
    let low = is(argument, 0);
    let high = Condition {
        offset: low.offset + 4,
        ..low
    };
    [low, high]
}

/// A filter that is being written.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// A block for each rule. It begins with the call's number in the accumulator and ends so, or
    /// with the call's fate.
    blocks: Vec<libc::sock_filter>,
}

impl Rules {
    /// What becomes of all calls of these numbers that no earlier rule meets.
    pub(crate) fn on(mut self, numbers: &[libc::c_long], fate: Fate) -> Self {
        for number in numbers {
            self.blocks.push(jump(JUMP_EQUAL, call(*number), 0, 1));
            self.blocks.push(plain(RETURN, fate.value()));
        }
        self
    }

    /// What becomes of calls of a number that no earlier rule meets if all conditions hold. Of at most
    /// 63 conditions: jumps are short.
    pub(crate) fn when(
        mut self,
        number: libc::c_long,
        conditions: &[Condition],
        fate: Fate,
    ) -> Self {
        // Past the conditions, the fate and the load behind it.
        let conditions = conditions.get(..63).unwrap_or(conditions);
        let mut left = u8::try_from(3 * conditions.len() + 2).unwrap_or(u8::MAX);
        self.blocks.push(jump(JUMP_EQUAL, call(number), 0, left));
        for condition in conditions {
            left -= 3;
            self.blocks.push(plain(LOAD, condition.offset));
            self.blocks.push(plain(AND, condition.mask));
            // To the load, which restores the number for the next block.
            self.blocks.push(jump(
                JUMP_EQUAL,
                condition.value & condition.mask,
                0,
                left - 1,
            ));
        }
        self.blocks.push(plain(RETURN, fate.value()));
        self.blocks.push(plain(LOAD, NUMBER));
        self
    }

    /// The filter; `otherwise` is the fate of what no rule meets.
    pub(crate) fn filter(self, otherwise: Fate) -> Filter {
        let mut program = vec![
            plain(LOAD, ARCHITECTURE),
            jump(JUMP_EQUAL, NATIVE, 1, 0),
            plain(RETURN, Fate::Kill.value()),
            plain(LOAD, NUMBER),
            jump(JUMP_AT_LEAST, X32, 0, 1),
            plain(RETURN, Fate::Kill.value()),
        ];
        program.extend(self.blocks);
        program.push(plain(RETURN, otherwise.value()));
        Filter { program }
    }
}

/// A whole filter.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Vec<libc::sock_filter>,
}

impl Filter {
    /// Puts every thread of this process, and all that they start, under it, for good. The process
    /// must have given up gaining privileges (`no_new_privs`).
    ///
    /// # Errors
    /// The system call's; [`io::ErrorKind::Other`] if a thread has a filter of its own.
    pub(crate) fn apply(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            // The kernel refuses one that has no or more than 4096 instructions.
            len: u16::try_from(self.program.len()).unwrap_or(0),
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which is valid for its length, and writes nothing.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const program,
            )
        };
        match result {
            0 => Ok(()),
            -1 => Err(io::Error::last_os_error()),
            thread => Err(io::Error::other(format!(
                "thread {thread} has a filter of its own"
            ))),
        }
    }
}

/// A call's number as the kernel compares it.
fn call(number: libc::c_long) -> u32 {
    // No call has a number that is not a small positive one; none is made under the highest.
    u32::try_from(number).unwrap_or(u32::MAX)
}

const fn plain(code: u16, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel does.
    fn fate(filter: &Filter, architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCHITECTURE => architecture,
            _ => {
                let argument = arguments[((offset - ARGUMENTS) / 8) as usize];
                u32::try_from((argument >> (8 * (offset % 8))) & u64::from(u32::MAX)).unwrap()
            }
        };
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let instruction = filter.program[at];
            at += 1;
            let jump = |holds| {
                usize::from(if holds {
                    instruction.jt
                } else {
                    instruction.jf
                })
            };
            match instruction.code {
                LOAD => accumulator = load(instruction.k),
                AND => accumulator &= instruction.k,
                JUMP_EQUAL => at += jump(accumulator == instruction.k),
                JUMP_AT_LEAST => at += jump(accumulator >= instruction.k),
                RETURN => return instruction.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_first_rule_that_a_call_meets_is_its_fate() {
        let filter = Rules::default()
            .when(7, &[is(0, 3), masked(2, 0xf0, 0x20)], Fate::Allow)
            .when(7, &is_zero(1), Fate::Refuse(5))
            .on(&[8, 9], Fate::Allow)
            .on(&[7, 9], Fate::Kill)
            .filter(Fate::Refuse(1));
        let (allow, kill) = (Fate::Allow.value(), Fate::Kill.value());
        for (number, arguments, expected) in [
            (7, [3, 1, 0x2f, 0, 0, 0], allow),
            // What the kernel does not look at is not looked at.
            (7, [0xffff_ffff_0000_0003, 1, 0xff_002f, 0, 0, 0], allow),
            (7, [3, 0, 0x3f, 0, 0, 0], 0x0005_0005),
            (7, [3, 1 << 32, 0x3f, 0, 0, 0], kill),
            (7, [2, 1, 0x2f, 0, 0, 0], kill),
            (8, [0; 6], allow),
            (9, [0; 6], allow),
            (10, [0; 6], 0x0005_0001),
            (X32 | 8, [0; 6], kill),
        ] {
            let found = fate(&filter, NATIVE, number, arguments);
            assert_eq!(found, expected, "{number} {arguments:?}");
        }
        assert_eq!(fate(&filter, 0x4000_0003, 8, [0; 6]), kill);
    }
}
