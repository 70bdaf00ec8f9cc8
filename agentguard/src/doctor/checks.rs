//! What the facts mean.

use std::net::SocketAddr;

use agentguard_model::ledger::OnLoss;

use super::facts::{Bpf, Configured, Facts, Probe, Resources};
use super::{Check, Level};

/// The oldest kernel that the gate is tested on.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Files that a worker with a full house of connections holds open.
const OPEN_FILES: u64 = 65_536;

/// Where systems mount the bpf file system.
const BPF_MOUNT: &str = "/sys/fs/bpf";

/// 2026-01-01: a clock that shows less has not been set.
const CLOCK_FLOOR: i64 = 1_767_225_600;

/// Every check, in the order in which one would mend things.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        root(facts),
        kernel(&facts.kernel),
        bpf(facts.bpf.as_ref()),
        btf(facts.btf),
        bpf_lsm(facts),
        landlock(facts.landlock),
        process_view(&facts.process_view),
        unprivileged_bpf(facts.unprivileged_bpf_disabled.as_deref()),
        open_files(facts.open_files),
        ipv6(facts.ipv6),
        clock(facts.clock),
    ];
    match &facts.config {
        Err(error) => checks.push(
            missing("config", error.clone())
                .means("nothing that depends on it could be looked at")
                .how("mend the file, or name another with --config"),
        ),
        Ok(config) => {
            checks.push(ok("config", "it can be read"));
            checks.push(ownership(config));
            checks.push(cgroup(config, &facts.mounts));
            checks.push(bpffs(config, &facts.mounts));
            checks.push(worker(config));
            checks.push(policy(config));
            checks.push(resources(&config.resources));
            checks.push(ports(config, facts.daemon_runs));
            checks.extend(telemetry(config));
            checks.extend(ledger(config));
        }
    }
    checks
}

fn root(facts: &Facts) -> Check {
    if facts.uid == 0 {
        ok("root", "this is root")
    } else {
        missing("root", format!("this is user {}", facts.uid))
            .means("the daemon loads BPF programs and governs cgroups, and the kernel's BPF features cannot be asked for either")
            .how("run it as root: sudo agentguard doctor")
    }
}

fn kernel(release: &str) -> Check {
    let (major, minor) = OLDEST_KERNEL;
    match version(release) {
        Some(found) if found >= OLDEST_KERNEL => ok("kernel", release),
        Some(_) => missing("kernel", release)
            .means(format!("the gate needs Linux {major}.{minor} or newer: it relies on hooks and helpers that older ones do not have"))
            .how(format!("install a kernel from {major}.{minor} on, as Debian 12 and Ubuntu 24.04 have it")),
        None => degraded("kernel", release)
            .means("its version cannot be read, so nobody has tried the gate on it"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn bpf(bpf: Option<&Bpf>) -> Check {
    let Some(bpf) = bpf else {
        return missing("bpf", "only root can ask the kernel")
            .means("it is not known whether the gate would load")
            .how("run it as root: sudo agentguard doctor");
    };
    let needed: [(&str, &Probe); 7] = [
        ("cgroup/sock programs", &bpf.cgroup_sock),
        ("cgroup/sock_addr programs", &bpf.cgroup_sock_addr),
        ("cgroup/skb programs", &bpf.cgroup_skb),
        ("sock_ops programs", &bpf.sock_ops),
        ("ring buffers", &bpf.ring_buffer),
        ("socket storage", &bpf.sk_storage),
        ("prefix tries", &bpf.lpm_trie),
    ];
    let absent: Vec<String> = needed
        .iter()
        .filter_map(|(what, probe)| match probe {
            Ok(true) => None,
            Ok(false) => Some((*what).to_owned()),
            Err(why) => Some(format!("{what} ({why})")),
        })
        .collect();
    if absent.is_empty() {
        ok("bpf", "every program and map type that the gate is made of")
    } else {
        missing("bpf", format!("not available: {}", absent.join(", ")))
            .means("the gate cannot be loaded, so no agent can be governed")
            .how("use a kernel with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUP_BPF=y, and a container with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN")
    }
}

fn btf(present: bool) -> Check {
    if present {
        ok("btf", "/sys/kernel/btf/vmlinux")
    } else {
        missing("btf", "there is no /sys/kernel/btf/vmlinux")
            .means("the gate's socket storage needs type information of the kernel")
            .how("use a kernel with CONFIG_DEBUG_INFO_BTF=y, as Debian and Ubuntu ship it")
    }
}

fn bpf_lsm(facts: &Facts) -> Check {
    let listed = facts
        .lsm
        .as_deref()
        .is_some_and(|list| list.split(',').any(|module| module == "bpf"));
    let loads = matches!(facts.bpf, Some(Bpf { lsm: Ok(true), .. }));
    if listed && loads {
        return ok("bpf_lsm", "active");
    }
    let found = match (&facts.lsm, listed) {
        (None, _) => "the list of security modules cannot be read",
        (Some(_), false) => "`bpf` is not among the active security modules",
        (Some(_), true) => "`bpf` is active, and its programs are not accepted",
    };
    degraded("bpf_lsm", found)
        .means("in cgroups that are adopted, agents can make sockets that are neither IP nor UNIX (AF_VSOCK, AF_ALG, AF_PACKET for root), and reach UNIX sockets of the host's daemons (Docker, D-Bus) as far as permissions let them. What `run` starts is held by its sandbox, but for sockets that another process hands it over a path or descriptor that both have: `run: {strict: true}` starts nothing here")
        .how(if facts.lsm.is_none() {
            "mount -t securityfs securityfs /sys/kernel/security, and look again"
        } else {
            "add `bpf` to the kernel's lsm= parameter and boot again, for instance lsm=landlock,lockdown,yama,integrity,apparmor,bpf"
        })
}

/// The version that confines signals and abstract sockets too: Linux 6.12.
const WHOLE_LANDLOCK: u32 = 6;

/// The oldest that is of use to `run`: Linux 5.19.
const USEFUL_LANDLOCK: u32 = 2;

fn landlock(version: u32) -> Check {
    match version {
        WHOLE_LANDLOCK.. => ok("landlock", format!("version {version}")),
        USEFUL_LANDLOCK.. => degraded("landlock", format!("version {version}, from before Linux 6.12"))
            .means("what `run` starts can send signals to other processes of its user, and connect to abstract UNIX sockets; an agent with `user_namespaces: allow` can also look into those processes by /proc")
            .how("give each agent a user of its own (--user), or run Linux 6.12 or newer"),
        _ => degraded("landlock", "the kernel has none, or it is switched off")
            .means("what `run` starts can look into other processes of its user by /proc, send signals to them, and connect to abstract UNIX sockets; ptrace is closed to it altogether, so debuggers do not work")
            .how("give each agent a user of its own (--user), or add `landlock` to the kernel's lsm= parameter and boot again"),
    }
}

fn process_view(view: &Result<(), String>) -> Check {
    match view {
        Ok(()) => ok("process_view", "/proc can be mounted so that it hides others' processes"),
        Err(error) => degraded("process_view", format!("/proc cannot be mounted with hidepid: {error}"))
            .means("what `run` starts sees the command lines of all processes of the host")
            .how("in a container, let the daemon mount: it needs CAP_SYS_ADMIN, and a /proc of which nothing is hidden from itself"),
    }
}

fn unprivileged_bpf(value: Option<&str>) -> Check {
    match value {
        Some("1" | "2") => ok("unprivileged_bpf", "off"),
        found => degraded(
            "unprivileged_bpf",
            match found {
                Some(_) => "any user may load BPF programs",
                None => "/proc/sys/kernel/unprivileged_bpf_disabled cannot be read",
            },
        )
        .means("agents can use a large part of the kernel that has had many holes")
        .how("sysctl -w kernel.unprivileged_bpf_disabled=2, and the same line in /etc/sysctl.d"),
    }
}

fn open_files(limit: Option<u64>) -> Check {
    match limit {
        None => ok("open_files", "no limit"),
        Some(limit) if limit >= OPEN_FILES => ok("open_files", limit.to_string()),
        Some(limit) => degraded("open_files", limit.to_string())
            .means("with many connections at once new ones wait or are refused")
            .how(format!(
                "set LimitNOFILE={OPEN_FILES} in the service, or ulimit -n {OPEN_FILES} in the shell that starts the daemon"
            )),
    }
}

fn ipv6(present: bool) -> Check {
    if present {
        ok("ipv6", "on")
    } else {
        degraded("ipv6", "off on this host")
            .means("agents reach nothing over IPv6; IPv4 is not affected")
            .how("boot without ipv6.disable=1, and sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    }
}

fn clock(seconds: i64) -> Check {
    let shown = jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string());
    if seconds >= CLOCK_FLOOR {
        ok("clock", shown)
    } else {
        degraded("clock", shown)
            .means("decisions are recorded under a wrong time, and certificates are not yet valid")
            .how("set the clock: timedatectl set-ntp true")
    }
}

fn cgroup(config: &Configured, mounts: &str) -> Check {
    let path = &config.cgroup_root;
    let v2: Vec<String> = mount_points(mounts, "cgroup2");
    if let Some(mount) = v2.iter().find(|mount| is_below(path, mount)) {
        // Something else may be mounted on top of a part of it.
        if deepest(mounts, path).is_some_and(|(kind, _)| kind == "cgroup2") {
            return ok(
                "cgroup",
                format!("{path} is below the cgroup v2 mount {mount}"),
            );
        }
    }
    let check = missing("cgroup", format!("{path} is not below a cgroup v2 mount"))
        .means("there is nothing to attach the gate to");
    match v2.first() {
        Some(mount) => check.how(format!("set `cgroup_root: {mount}/agentguard`")),
        None => check.how(
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

fn bpffs(config: &Configured, mounts: &str) -> Check {
    let path = &config.bpffs;
    let check = match deepest(mounts, path) {
        Some((kind, mount)) if kind == "bpf" => {
            return ok("bpffs", format!("{path} is on the bpf mount {mount}"));
        }
        _ => missing("bpffs", format!("{path} is not below a bpf mount")).means(
            "the gate could not outlive the daemon, so a daemon that dies would free its agents",
        ),
    };
    let own =
        format!("or mount one on a directory of its own above {path}: mount -t bpf bpf DIRECTORY");
    let usual = format!("mount -t bpf bpf {BPF_MOUNT}");
    check.how(match bpf_mount(mounts) {
        Some(mount) => format!("set `bpffs: {mount}/agentguard`, {own}"),
        None if is_below(path, BPF_MOUNT) => usual,
        None => format!("{usual} and set `bpffs: {BPF_MOUNT}/agentguard`, {own}"),
    })
}

/// A bpf mount that nothing is mounted over: the usual one, if it is there.
fn bpf_mount(mounts: &str) -> Option<String> {
    let mut usable: Vec<String> = mount_points(mounts, "bpf")
        .into_iter()
        .filter(|mount| deepest(mounts, mount).is_some_and(|(kind, _)| kind == "bpf"))
        .collect();
    usable.sort_by_key(|mount| mount != BPF_MOUNT);
    usable.into_iter().next()
}

fn ownership(config: &Configured) -> Check {
    if config.exposed.is_empty() {
        return ok(
            "ownership",
            "only root can change configuration, policy and directories",
        );
    }
    let list = |each: fn(&(String, String)) -> &str, between| {
        let all: Vec<&str> = config.exposed.iter().map(each).collect();
        all.join(between)
    };
    missing("ownership", list(|(what, _)| what, "; "))
        .means("the daemon does not start, nor take such a policy: whoever can write there decides what agents may do, or what the guard's sockets are")
        .how(list(|(_, how)| how, "\n"))
}

fn worker(config: &Configured) -> Check {
    match &config.worker {
        Ok(worker) => ok("worker_user", worker.clone()),
        Err((message, hint)) => {
            let check = missing("worker_user", message.clone())
                .means("the half of the daemon that reads hostile bytes has no user to run as");
            check.how(hint.clone())
        }
    }
}

fn policy(config: &Configured) -> Check {
    let (file, result) = &config.policy;
    match result {
        Ok(version) => ok("policy", format!("{file}, version {version}")),
        Err(why) => missing("policy", format!("{file} cannot be used"))
            .means("the daemon does not start without a policy")
            .how(format!("agentguard policy check {file}\n{why}")),
    }
}

/// Agents that are named, at most.
const NAMED: usize = 8;

fn resources(resources: &Resources) -> Check {
    let all = resources.refused.len() + resources.warned.len();
    if resources.lacks.is_empty() {
        return match all {
            0 => ok("resources", "no agent in force has `resources`"),
            1 => ok("resources", "1 agent can be held to its limits"),
            all => ok(
                "resources",
                format!("{all} agents can be held to their limits"),
            ),
        };
    }
    let named = |agents: &[String]| {
        let shown: Vec<&str> = agents.iter().take(NAMED).map(String::as_str).collect();
        let more = if agents.len() > NAMED { ", …" } else { "" };
        format!("{}{more}", shown.join(", "))
    };
    let mut means = Vec::new();
    if !resources.refused.is_empty() {
        means.push(format!("nothing is run as {}", named(&resources.refused)));
    }
    if !resources.warned.is_empty() {
        means.push(format!(
            "{} run without these limits",
            named(&resources.warned)
        ));
    }
    let found: Vec<&str> = resources
        .lacks
        .iter()
        .map(|(what, _)| what.as_str())
        .collect();
    let mut how: Vec<&str> = resources
        .lacks
        .iter()
        .map(|(_, how)| how.as_str())
        .collect();
    how.dedup();
    degraded("resources", found.join("; "))
        .means(means.join("; "))
        .how(how.join("\n"))
}

fn ports(config: &Configured, daemon_runs: bool) -> Check {
    let taken: Vec<String> = config
        .ports
        .iter()
        .filter_map(|port| {
            let problem = port.problem.as_ref()?;
            Some(format!("{} port {} ({problem})", port.what, port.number))
        })
        .collect();
    let all: Vec<String> = config
        .ports
        .iter()
        .map(|port| format!("{} {}", port.what, port.number))
        .collect();
    if taken.is_empty() {
        ok("ports", format!("{} are free", all.join(", ")))
    } else if daemon_runs {
        ok(
            "ports",
            format!("{} are held by the running daemon", all.join(", ")),
        )
    } else {
        missing("ports", format!("not free: {}", taken.join(", ")))
            .means("the proxy or the resolver could not listen")
            .how("set `proxy_port` and `resolver_port` to free ports, or find who has them: ss -tulpn")
    }
}

/// What is told to outside, if something is. Whoever reaches an address can read what is there.
fn telemetry(config: &Configured) -> Option<Check> {
    let (listens, sends) = &config.telemetry;
    let listens_at = listens
        .as_ref()
        .map(|place| format!("figures for Prometheus at {place}"));
    let sends_to = sends
        .as_ref()
        .map(|place| format!("figures and spans to {place}"));
    let told: Vec<String> = listens_at.into_iter().chain(sends_to).collect();
    if told.is_empty() {
        return None;
    }
    let told = told.join("; ");
    let address = listens
        .as_ref()
        .and_then(|place| place.parse::<SocketAddr>().ok());
    if address.is_some_and(|address| !address.ip().is_loopback()) {
        let check = degraded("telemetry", told)
            .means("everybody who reaches this host can read how many decisions there are, agents' names and models")
            .how("listen on 127.0.0.1 or at a socket's path, or let the host's firewall choose who asks");
        return Some(check);
    }
    let own = ["127.", "[::1]", "localhost:"];
    let leaves = |place: &String| {
        let place = place.strip_prefix("http://");
        place.is_some_and(|place| !own.iter().any(|own| place.starts_with(own)))
    };
    if sends.as_ref().is_some_and(leaves) {
        let check = degraded("telemetry", told)
            .means("figures and spans go in the clear, and so do the header fields with them")
            .how("name a collector by `https://`, unless it is on this host");
        return Some(check);
    }
    Some(ok("telemetry", told))
}

/// The Redis that hosts share, if there is one.
fn ledger(config: &Configured) -> Option<Check> {
    let redis = config.ledger.as_ref()?;
    let found = format!("budgets are charged in the Redis at {}", redis.address);
    let check = match (&redis.away, redis.in_the_clear) {
        (Some(why), _) => degraded("ledger", format!("{found}, where nobody answers: {why}"))
            .means(match redis.on_loss {
                OnLoss::Deny => "calls that a budget counts are refused",
                OnLoss::Lease(_) => "calls that a budget counts go on with what the daemon has drawn in advance, if it has",
            })
            .how("start it, or mend the way to it; the daemon tries it again by itself"),
        (None, true) => degraded("ledger", found)
            .means("its password goes there in the clear, and whoever is on the way can change what was used")
            .how("set `tls: true`, unless only hosts that are trusted are on the way"),
        (None, false) => ok("ledger", found),
    };
    Some(check)
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        name,
        level: Level::Ok,
        found: found.into(),
        meaning: None,
        hint: None,
    }
}

fn degraded(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        level: Level::Degraded,
        ..ok(name, found)
    }
}

fn missing(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        level: Level::Missing,
        ..ok(name, found)
    }
}

impl Check {
    fn means(mut self, text: impl Into<String>) -> Self {
        self.meaning = Some(text.into());
        self
    }

    fn how(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }
}

/// Where file systems of a kind are mounted, in the order of `/proc/mounts`.
fn mount_points(mounts: &str, kind: &str) -> Vec<String> {
    lines(mounts)
        .filter(|(found, _)| found == kind)
        .map(|(_, mount)| mount)
        .collect()
}

/// The mount that a path lies on: the last one of the longest mount points above it.
fn deepest(mounts: &str, path: &str) -> Option<(String, String)> {
    lines(mounts)
        .filter(|(_, mount)| path == mount || is_below(path, mount))
        .max_by_key(|(_, mount)| mount.len())
}

/// Kind and mount point of each line: `device mountpoint type options 0 0`.
fn lines(mounts: &str) -> impl Iterator<Item = (String, String)> + '_ {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let mount = fields.nth(1)?;
        let kind = fields.next()?;
        Some((kind.to_owned(), unescaped(mount)))
    })
}

/// The kernel writes blanks, tabs, line ends and backslashes of a mount point as octal escapes.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn is_below(path: &str, mount: &str) -> bool {
    path.strip_prefix(mount.trim_end_matches('/'))
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}
