//! The kernels that are tested on, and what one of them is known to lack.

use std::env;

use anyhow::{Result, bail};

use crate::client;

/// Those of `docs/kernels.md`: Debian's two, as `cargo xtask vm-test` starts them, and that of the machines on
/// which the other tests run.
pub const KERNELS: [&str; 3] = ["6.1", "6.12", "6.18"];

/// A part of the kernel that some of [`KERNELS`] are known to lack, and why.
struct Absent {
    part: &'static str,
    kernels: &'static [&'static str],
    why: &'static str,
}

/// Everything that may be missing though nothing may be skipped.
const ABSENT: &[Absent] = &[
    Absent {
        part: "SCTP",
        kernels: &["6.18"],
        why: "that kernel is built without it",
    },
    Absent {
        part: "DCCP",
        kernels: &["6.18"],
        why: "Linux 6.16 has removed it",
    },
    Absent {
        part: "vsock over loopback",
        kernels: &["6.18"],
        why: "that kernel is built without it",
    },
    Absent {
        part: "AF_ALG",
        kernels: &["6.18"],
        why: "that kernel is built without it",
    },
    Absent {
        part: "mobile IPv6",
        kernels: &["6.18"],
        why: "that kernel is built without it",
    },
    Absent {
        part: "GRE",
        kernels: &["6.18"],
        why: "that kernel is built without it",
    },
    Absent {
        part: "controllers in cgroup v2",
        kernels: &["6.18"],
        why: "its hosts have them in cgroup v1",
    },
    Absent {
        part: "disk that may be read and written by tests",
        kernels: &["6.18"],
        why: "its hosts' disks are theirs; the machines of `cargo xtask vm-test` have one",
    },
    Absent {
        part: "SOCKET_URING_OP_SETSOCKOPT",
        kernels: &["6.1"],
        why: "it came with Linux 6.7",
    },
];

/// Why a kernel has no such part, if that is known.
#[must_use]
pub fn lacks(kernel: &str, part: &str) -> Option<&'static str> {
    let mut known = ABSENT.iter();
    let found = known.find(|absent| absent.part == part && absent.kernels.contains(&kernel));
    found.map(|absent| absent.why)
}

/// The running kernel's version: the first two numbers of its release.
#[must_use]
pub fn version() -> String {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let numbers: Vec<&str> = release.split(['.', '-', '+']).take(2).collect();
    numbers.join(".")
}

/// Notes that a test leaves something out because the running kernel lacks a part. Where nothing may be skipped
/// (`AGENTGUARD_REQUIRE_ALL`) what is known of that kernel is told, and no skip: there is nothing to be had.
///
/// # Errors
/// Nothing may be skipped, and of this kernel it is not known.
pub fn absent(test: &str, part: &str) -> Result<()> {
    let kernel = version();
    let missing = format!("{test}: no {part} on Linux {kernel}");
    let whole = env::var_os("AGENTGUARD_REQUIRE_ALL").is_some();
    match lacks(&kernel, part) {
        Some(why) if whole => {
            client::say(&format!("{missing}: {why}"));
            Ok(())
        }
        Some(why) => client::skip(&format!("{missing}: {why}")),
        None if whole => bail!(
            "{missing}, and nothing may be skipped\n\
             hint: load the module, or say in tests/src/kernel.rs why that kernel has none"
        ),
        None => client::skip(&missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_to_be_missing_is_missing_of_a_kernel_that_is_tested() {
        for absent in ABSENT {
            assert!(!absent.kernels.is_empty() && absent.kernels.len() < KERNELS.len());
            assert!(absent.kernels.iter().all(|kernel| KERNELS.contains(kernel)));
        }
        assert!(lacks("6.18", "DCCP").is_some());
        assert!(lacks("6.1", "DCCP").is_none());
        assert!(lacks("6.18", "TUN").is_none());
    }
}
