//! The filter against an interpreter of its own: what each call is answered, and in how many steps.

use super::*;

/// `struct seccomp_data`, as words.
struct Call {
    arch: u32,
    number: u32,
    arguments: [u64; 3],
}

fn call(number: libc::c_long, arguments: [u64; 3]) -> Call {
    Call {
        arch: AUDIT_ARCH.unwrap(),
        number: u32::try_from(number).unwrap(),
        arguments,
    }
}

/// The answer, and after how many instructions.
fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.arch,
        16 | 24 | 32 => {
            let index = usize::try_from((offset - 16) / 8).unwrap();
            u32::try_from(call.arguments[index] & 0xffff_ffff).unwrap()
        }
        _ => panic!("reads at {offset}"),
    };
    let (mut at, mut value, mut steps) = (0, 0, 0);
    loop {
        let instruction = program[at];
        steps += 1;
        at += 1;
        let operand = instruction.operand;
        let jump = |holds: bool| {
            usize::from(if holds {
                instruction.jump_true
            } else {
                instruction.jump_false
            })
        };
        match instruction.code {
            0x20 => value = word(operand),
            0x54 => value &= operand,
            0x05 => at += usize::try_from(operand).unwrap(),
            0x06 => return (operand, steps),
            EQUAL => at += jump(value == operand),
            GREATER => at += jump(value > operand),
            AT_LEAST => at += jump(value >= operand),
            ANY_BIT => at += jump(value & operand != 0),
            code => panic!("{code:#x}"),
        }
    }
}

fn profile(user_namespaces: bool, trace: bool) -> Vec<Instruction> {
    Profile {
        user_namespaces,
        trace,
    }
    .instructions()
    .unwrap()
}

const fn denied(error: i32) -> u32 {
    ERRNO | error.unsigned_abs()
}

#[test]
fn every_entry_is_found_and_every_other_number_is_allowed() {
    for (user_namespaces, trace) in [(false, false), (false, true), (true, false), (true, true)] {
        let wanted = Profile {
            user_namespaces,
            trace,
        };
        let program = wanted.instructions().unwrap();
        let entries = wanted.entries();
        for number in 0..=LAST_KNOWN {
            let (answer, steps) = run(&program, &call(number.into(), [0; 3]));
            match entries.iter().find(|(entry, _)| *entry == number) {
                // What depends on arguments is another test's.
                Some((_, then)) if then.len() > 1 => {}
                Some((_, then)) => assert_eq!(answer, then[0].operand, "{number}"),
                None => assert_eq!(answer, ALLOW, "{number}"),
            }
            assert!(steps <= 24, "{number} takes {steps}");
        }
        let mut numbers: Vec<u32> = entries.iter().map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        let all = numbers.len();
        numbers.dedup();
        assert_eq!(numbers.len(), all, "an entry twice");
    }
}

#[test]
fn other_abis_and_what_is_newer_than_the_table_are_refused() {
    let program = profile(true, true);
    let of = |arch, number| {
        let arguments = [0; 3];
        run(
            &program,
            &Call {
                arch,
                number,
                arguments,
            },
        )
        .0
    };
    // i386, ARM, and 64-bit PowerPC.
    for arch in [0x4000_0003, 0x4000_0028, 0x8000_0015] {
        assert_eq!(of(arch, 1), KILL_PROCESS);
    }
    let own = AUDIT_ARCH.unwrap();
    // `socket` of x32, and what comes after the last known one.
    for number in [0x4000_0000 | 41, LAST_KNOWN + 1, u32::MAX] {
        assert_eq!(of(own, number), denied(libc::ENOSYS));
    }
}

#[test]
fn sockets_are_unix_ip_and_routing() {
    let program = profile(false, true);
    let (cloexec, stream, datagram, raw) = (0x80000, 1, 2, 3);
    let cases = [
        ([1, stream, 0], ALLOW),
        ([1, raw, 0], ALLOW),
        ([2, stream | cloexec, 6], ALLOW),
        ([10, datagram, 17], ALLOW),
        // The gate's business, which records them.
        ([2, stream, 262], ALLOW),
        ([2, datagram, 1], ALLOW),
        ([2, raw | cloexec, 1], denied(libc::EPERM)),
        ([10, raw, 58], denied(libc::EPERM)),
        ([2, 10, 0x300], denied(libc::EPERM)),
        ([16, raw | cloexec, 0], ALLOW),
        // Sockets of all users, the netfilter, generic netlink.
        ([16, raw, 4], denied(libc::EPROTONOSUPPORT)),
        ([16, raw, 12], denied(libc::EPROTONOSUPPORT)),
        ([16, raw, 16], denied(libc::EPROTONOSUPPORT)),
        // The upper half does not reach the kernel's `int`.
        ([(7 << 32) | 2, stream, 0], ALLOW),
        ([(1 << 32) | 17, raw, 0], denied(libc::EAFNOSUPPORT)),
    ];
    for (arguments, answer) in cases {
        let found = run(&program, &call(libc::SYS_socket, arguments)).0;
        assert_eq!(found, answer, "{arguments:?}");
    }
    // All other families up to AF_MCTP.
    for family in (0..=46).filter(|family| ![1, 2, 10, 16].contains(family)) {
        let found = run(&program, &call(libc::SYS_socket, [family, stream, 0])).0;
        assert_eq!(found, denied(libc::EAFNOSUPPORT), "{family}");
    }
    for (family, answer) in [(1, ALLOW), (2, denied(libc::EAFNOSUPPORT))] {
        let found = run(&program, &call(libc::SYS_socketpair, [family, 1, 0])).0;
        assert_eq!(found, answer);
    }
}

#[test]
fn namespaces_are_for_those_that_are_allowed_them() {
    let closed = profile(false, true);
    let open = profile(true, true);
    let cases = [
        (libc::SYS_clone, 0x1100_0011, true),
        (libc::SYS_clone, 0x4000_0011, true),
        // A thread, and a fork with a strange exit signal.
        (libc::SYS_clone, 0x003d_0f00, false),
        (libc::SYS_clone, 0x91, false),
        (libc::SYS_unshare, 0x1000_0000, true),
        (libc::SYS_unshare, 0x80, true),
        (libc::SYS_unshare, 0x600, false),
    ];
    for (number, flags, refused) in cases {
        let found = run(&closed, &call(number, [flags, 0, 0])).0;
        let expected = if refused { denied(libc::EPERM) } else { ALLOW };
        assert_eq!(found, expected, "{number} {flags:#x}");
        assert_eq!(run(&open, &call(number, [flags, 0, 0])).0, ALLOW);
    }
    for number in MOUNT {
        let found = run(&closed, &call(*number, [0; 3])).0;
        assert_eq!(found, denied(libc::EPERM));
        assert_eq!(run(&open, &call(*number, [0; 3])).0, ALLOW);
    }
    // Its flags cannot be seen in either.
    for program in [closed, open] {
        let found = run(&program, &call(libc::SYS_clone3, [0; 3])).0;
        assert_eq!(found, denied(libc::ENOSYS));
    }
}

#[test]
fn processes_are_looked_into_where_something_else_keeps_it_to_its_own() {
    for (trace, answer) in [(true, ALLOW), (false, denied(libc::EPERM))] {
        for number in TRACE {
            let found = run(&profile(false, trace), &call(*number, [0; 3])).0;
            assert_eq!(found, answer, "{number}");
        }
    }
}

#[test]
fn terminals_take_no_input_from_inside_and_personalities_are_few() {
    let program = profile(false, true);
    for (request, answer) in [
        (0x5401, ALLOW),
        (0x5413, ALLOW),
        (0x5412, denied(libc::EPERM)),
        // The kernel takes 32 bits of it.
        (0x1_0000_5412, denied(libc::EPERM)),
        (0x541c, denied(libc::EPERM)),
    ] {
        let found = run(&program, &call(libc::SYS_ioctl, [0, request, 0])).0;
        assert_eq!(found, answer, "{request:#x}");
    }
    for (wanted, answer) in [
        (0, ALLOW),
        (8, ALLOW),
        (0xffff_ffff, ALLOW),
        (0x0004_0000, ALLOW),
        // READ_IMPLIES_EXEC, ADDR_COMPAT_LAYOUT, MMAP_PAGE_ZERO.
        (0x0040_0000, denied(libc::EPERM)),
        (0x0020_0000, denied(libc::EPERM)),
        (0x0010_0000, denied(libc::EPERM)),
    ] {
        let found = run(&program, &call(libc::SYS_personality, [wanted, 0, 0])).0;
        assert_eq!(found, answer, "{wanted:#x}");
    }
}

#[test]
fn a_jump_over_more_than_255_instructions_is_taken() {
    let entries: Vec<_> = (0..400)
        .map(|number| (number * 2, vec![errno(libc::EPERM)]))
        .collect();
    let mut program = vec![load(NUMBER)];
    program.extend(search(&entries));
    for number in 0..800 {
        let answer = if number % 2 == 0 {
            denied(libc::EPERM)
        } else {
            ALLOW
        };
        assert_eq!(run(&program, &call(number, [0; 3])).0, answer, "{number}");
    }
}
