//! What samples say of the parts of a program: each counts for one, so that their shares have a sum.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How a frame of the kernel ends (`inferno-collapse-perf --kernel`).
const KERNEL: &str = "_[k]";

/// What the kernel does, by a function that it is done below; the first that fits.
const CALLS: &[(&str, &[&str])] = &[
    (
        "the kernel: sending",
        &["sys_sendto", "sys_sendmsg", "sys_writev", "do_writev"],
    ),
    ("the kernel: receiving", &["sys_recvfrom", "sys_recvmsg"]),
    (
        "the kernel: passed on from socket to socket",
        &["sys_splice"],
    ),
    (
        "the kernel: files written and synchronised",
        &["sys_pwrite64", "sys_fdatasync", "sys_fsync"],
    ),
    (
        "the kernel: waiting and waking",
        &["sys_epoll", "sys_futex", "do_futex"],
    ),
    ("the kernel: programs verified", &["bpf_check"]),
    ("the kernel: other calls of BPF", &["sys_bpf"]),
    (
        "the kernel: programs begun, memory mapped",
        &["sys_execve", "exc_page_fault", "sys_mmap", "sys_munmap"],
    ),
];

/// All else of it.
const REST_OF_KERNEL: &str = "the kernel: the rest";

/// Whose a function is that is not the kernel's, by its crate, or by how a name of C begins.
const OWNERS: &[(&str, &[&str])] = &[
    (
        "what is decided",
        &[
            "agentguard_decision",
            "agentguard_policy",
            "agentguard_budget",
            "agentguard_model",
            "agentguard_protocol",
        ],
    ),
    (
        "the record",
        &["agentguard_record", "serde_json", "serde_core", "ulid"],
    ),
    ("the proxy", &["agentguard_proxy"]),
    ("names", &["agentguard_names"]),
    // Behind those that have a name of their own.
    ("the daemon's other parts", &["agentguard"]),
    ("hyper, http, httparse", &["hyper", "http", "httparse"]),
    ("h2", &["h2"]),
    ("hickory", &["hickory"]),
    ("TLS", &["rustls", "tokio_rustls", "aws_lc"]),
    ("tokio, mio, futures", &["tokio", "mio", "futures"]),
    ("aya", &["aya"]),
    (
        "memory taken and given back",
        &["_rjem", "do_rallocx", "malloc", "free"],
    ),
];

/// Of nobody who is known.
const OTHERS: &str = "others";

/// Shares of the parts, and of the threads, in percent and by size, of lines of a collapsed profile: a thread's name, frames from
/// the outermost on, each behind a `;`, and how often that was sampled, or for how long.
pub(super) fn tables(collapsed: &str) -> String {
    let (mut parts, mut threads) = (BTreeMap::new(), BTreeMap::new());
    for line in collapsed.lines() {
        let Some((stack, samples)) = line.rsplit_once(' ') else {
            continue;
        };
        let (thread, frames) = stack.split_once(';').unwrap_or((stack, ""));
        let samples: u64 = samples.parse().unwrap_or(0);
        *parts.entry(part(frames)).or_default() += samples;
        *threads.entry(thread).or_default() += samples;
    }
    table("part", parts) + "\n" + &table("thread", threads)
}

fn table(what: &str, shares: BTreeMap<&str, u64>) -> String {
    let all: u64 = shares.values().sum();
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    let mut text = format!("| {what} | share |\n| --- | ---: |\n");
    for (name, samples) in shares {
        // One that is named has samples, or nothing has.
        let thousandths = (samples * 1_000 + all / 2) / all.max(1);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {name} | {}.{} % |",
            thousandths / 10,
            thousandths % 10
        );
    }
    text
}

/// Which part a sample counts for: that of the innermost function whose owner is known. What the kernel does for a call counts
/// for the call.
fn part(frames: &str) -> &'static str {
    let kernel = frames
        .split(';')
        .filter_map(|frame| frame.strip_suffix(KERNEL));
    let below = |functions: &[&str]| {
        kernel
            .clone()
            .any(|frame| functions.iter().any(|it| frame.contains(it)))
    };
    if let Some((call, _)) = CALLS.iter().find(|(_, functions)| below(functions)) {
        return call;
    }
    if kernel.clone().next().is_some() {
        return REST_OF_KERNEL;
    }
    frames.rsplit(';').find_map(owner).unwrap_or(OTHERS)
}

fn owner(function: &str) -> Option<&'static str> {
    // `<h2::codec::Codec<T> as Stream>::poll_next` is `h2`'s.
    let path = function.trim_start_matches(['<', '&']);
    // `hickory` is `hickory_proto` as well, and `http` not `httparse`.
    let is = |prefix: &&str| {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'))
    };
    OWNERS
        .iter()
        .find(|(_, prefixes)| prefixes.iter().any(is))
        .map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::{owner, part, tables};

    #[test]
    fn a_sample_counts_for_the_call_or_for_the_innermost_owner() {
        for (frames, expected) in [
            (
                "main;agentguard_proxy::run;entry_SYSCALL_64_[k];__x64_sys_sendto_[k];tcp_ack_[k]",
                "the kernel: sending",
            ),
            (
                "main;aya::load;__x64_sys_bpf_[k];bpf_prog_load_[k];bpf_check_[k];kfree_[k]",
                "the kernel: programs verified",
            ),
            (
                "main;aya::load;__x64_sys_bpf_[k];map_create_[k]",
                "the kernel: other calls of BPF",
            ),
            ("main;asm_sysvec_reschedule_ipi_[k]", "the kernel: the rest"),
            (
                "main;hyper::proto::poll;agentguard_proxy::http::handle;core::ptr::drop",
                "the proxy",
            ),
            (
                "main;agentguard_proxy::run;<h2::codec::Codec<T> as Stream>::poll_next",
                "h2",
            ),
            (
                "main;agentguard_proxy::run;_rjem_malloc",
                "memory taken and given back",
            ),
            ("main;start_thread", "others"),
            ("", "others"),
        ] {
            assert_eq!(part(frames), expected, "{frames}");
        }
    }

    #[test]
    fn a_crate_is_not_one_whose_name_goes_on() {
        for (function, expected) in [
            ("agentguard::daemon::run", Some("the daemon's other parts")),
            ("agentguard_record::desk::Desk::write", Some("the record")),
            (
                "agentguard_keeper::gate::load",
                Some("the daemon's other parts"),
            ),
            ("http::header::map::hash", Some("hyper, http, httparse")),
            ("http_body_util::empty", Some("hyper, http, httparse")),
            ("hickory_proto::op::Message::read", Some("hickory")),
            ("h2load", None),
            ("core::ptr::drop_in_place<h2::share::RecvStream>", None),
        ] {
            assert_eq!(owner(function), expected, "{function}");
        }
    }

    #[test]
    fn shares_are_of_all_samples_and_the_largest_is_first() {
        let text = tables("worker;h2::poll 1\nevent-loop;__x64_sys_sendto_[k] 2\nnonsense\n");
        let expected = "| part | share |\n| --- | ---: |\n| the kernel: sending | 66.7 % |\n| h2 | 33.3 % |\n\n\
            | thread | share |\n| --- | ---: |\n| event-loop | 66.7 % |\n| worker | 33.3 % |\n";
        assert_eq!(text, expected);
        assert!(tables("").contains("| thread | share |"));
    }
}
