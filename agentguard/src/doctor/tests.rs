//! One host in good order, and what each thing that goes wrong makes of it.

use agentguard_model::ledger::OnLoss;

use super::checks::all;
use super::facts::{Bpf, Configured, Facts, Port, Redis, Resources};
use super::{Check, Level, explanations, table};

fn good() -> Facts {
    Facts {
        uid: 0,
        kernel: "6.1.0-40-amd64".into(),
        bpf: Some(Bpf {
            cgroup_sock: Ok(true),
            cgroup_sock_addr: Ok(true),
            cgroup_skb: Ok(true),
            sock_ops: Ok(true),
            ring_buffer: Ok(true),
            sk_storage: Ok(true),
            lpm_trie: Ok(true),
            lsm: Ok(true),
        }),
        btf: true,
        lsm: Some("lockdown,capability,landlock,bpf".into()),
        landlock: 6,
        process_view: Ok(()),
        mounts: "sysfs /sys sysfs rw 0 0\n\
                 cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n\
                 bpf /sys/fs/bpf bpf rw 0 0\n"
            .into(),
        unprivileged_bpf_disabled: Some("2".into()),
        open_files: Some(1 << 20),
        ipv6: true,
        daemon_runs: false,
        clock: 1_800_000_000,
        config: Ok(configured()),
    }
}

fn configured() -> Configured {
    Configured {
        cgroup_root: "/sys/fs/cgroup/agentguard".into(),
        bpffs: "/sys/fs/bpf/agentguard".into(),
        worker: Ok("agentguard (uid 998, gid 998)".into()),
        policy: (
            "/etc/agentguard/policy.yaml".into(),
            Ok("0123456789ab".into()),
        ),
        resources: Resources {
            refused: vec!["coder".to_owned()],
            ..Resources::default()
        },
        exposed: Vec::new(),
        telemetry: (None, None),
        ledger: None,
        ports: vec![
            Port {
                what: "proxy",
                number: 15001,
                problem: None,
            },
            Port {
                what: "resolver",
                number: 15053,
                problem: None,
            },
        ],
    }
}

fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap()
}

#[test]
fn a_host_in_good_order_is_all_ok() {
    let checks = all(&good());
    assert!(checks.iter().all(|c| c.level == Level::Ok), "{checks:?}");
    assert_eq!(checks.len(), 19);
    assert_eq!(explanations(&checks), "");
}

#[test]
fn where_figures_go_is_told_where_they_go_somewhere() {
    let mut facts = good();
    let places = ("127.0.0.1:9464", "http://[::1]:4318");
    of(&mut facts).telemetry = (Some(places.0.to_owned()), Some(places.1.to_owned()));
    let checks = all(&facts);
    let told = find(&checks, "telemetry");
    assert_eq!(told.level, Level::Ok);
    assert!(told.found.contains(places.0) && told.found.contains(places.1));
}

fn redis(away: Option<&str>, in_the_clear: bool) -> Redis {
    Redis {
        address: "redis.example:6379".to_owned(),
        in_the_clear,
        away: away.map(str::to_owned),
        on_loss: OnLoss::Deny,
    }
}

#[test]
fn the_redis_that_hosts_share_is_told_where_there_is_one() {
    let mut facts = good();
    of(&mut facts).ledger = Some(redis(None, false));
    let checks = all(&facts);
    let told = find(&checks, "ledger");
    assert_eq!(told.level, Level::Ok);
    assert!(told.found.contains("redis.example:6379"));
}

/// The check that a fault spoils, to which level, a part of what it found, a part of what to do
/// about it, and the fault.
type Case = (
    &'static str,
    Level,
    &'static str,
    &'static str,
    fn(&mut Facts),
);

fn of(facts: &mut Facts) -> &mut Configured {
    facts.config.as_mut().unwrap()
}

fn bpf(facts: &mut Facts) -> &mut Bpf {
    facts.bpf.as_mut().unwrap()
}

#[test]
fn each_fault_spoils_one_check() {
    use Level::{Degraded, Missing};
    let cases: &[Case] = &[
        ("kernel", Missing, "5.15.0-generic", "6.1", |f| {
            f.kernel = "5.15.0-generic".into();
        }),
        (
            "resources",
            Degraded,
            "bound to v1",
            "boot otherwise",
            |f| {
                let lack = (
                    "`memory` is bound to v1".to_owned(),
                    "boot otherwise".to_owned(),
                );
                of(f).resources.lacks.push(lack);
            },
        ),
        ("ownership", Missing, "by everybody", "chmod", |f| {
            let what = "the policy /p can be written by everybody".to_owned();
            of(f).exposed.push((what, "chmod o-w /p".to_owned()));
        }),
        ("telemetry", Degraded, "at 0.0.0.0:9464", "127.0.0.1", |f| {
            of(f).telemetry.0 = Some("0.0.0.0:9464".to_owned());
        }),
        ("telemetry", Degraded, "to http://c", "https", |f| {
            of(f).telemetry.1 = Some("http://c.example:4318".to_owned());
        }),
        (
            "ledger",
            Degraded,
            "nobody answers: refused",
            "start it",
            |f| {
                of(f).ledger = Some(redis(Some("refused"), false));
            },
        ),
        ("ledger", Degraded, "at redis.example:6379", "tls", |f| {
            of(f).ledger = Some(redis(None, true));
        }),
        ("kernel", Degraded, "odd", "", |f| f.kernel = "odd".into()),
        ("bpf", Missing, "ring buffers", "CONFIG_CGROUP_BPF", |f| {
            bpf(f).ring_buffer = Ok(false);
        }),
        ("bpf", Missing, "socket storage (EPERM)", "CAP_BPF", |f| {
            bpf(f).sk_storage = Err("EPERM".into());
        }),
        ("landlock", Degraded, "before Linux 6.12", "--user", |f| {
            f.landlock = 5;
        }),
        ("landlock", Degraded, "switched off", "lsm=", |f| {
            f.landlock = 0;
        }),
        (
            "process_view",
            Degraded,
            "hidepid: EPERM",
            "CAP_SYS_ADMIN",
            |f| {
                f.process_view = Err("EPERM".into());
            },
        ),
        (
            "btf",
            Missing,
            "/sys/kernel/btf/vmlinux",
            "CONFIG_DEBUG_INFO_BTF",
            |f| f.btf = false,
        ),
        ("bpf_lsm", Degraded, "not among", "lsm=", |f| {
            f.lsm = Some("capability,bpfx".into());
        }),
        ("bpf_lsm", Degraded, "not accepted", "lsm=", |f| {
            bpf(f).lsm = Ok(false);
        }),
        ("bpf_lsm", Degraded, "cannot be read", "securityfs", |f| {
            f.lsm = None;
        }),
        ("unprivileged_bpf", Degraded, "any user", "sysctl", |f| {
            f.unprivileged_bpf_disabled = Some("0".into());
        }),
        ("open_files", Degraded, "1024", "LimitNOFILE", |f| {
            f.open_files = Some(1024);
        }),
        ("ipv6", Degraded, "off", "ipv6.disable", |f| f.ipv6 = false),
        (
            "clock",
            Degraded,
            "1970-01-01T00:00:07Z",
            "timedatectl",
            |f| f.clock = 7,
        ),
        ("config", Missing, "no such file", "--config", |f| {
            f.config = Err("no such file".into());
        }),
        (
            "cgroup",
            Missing,
            "not below",
            "cgroup_root: /sys/fs/cgroup/unified/agentguard",
            |f| {
                f.mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                        bpf /sys/fs/bpf bpf rw 0 0\n"
                    .into();
            },
        ),
        ("cgroup", Missing, "not below", "mount -t cgroup2", |f| {
            f.mounts = "bpf /sys/fs/bpf bpf rw 0 0\n".into();
        }),
        ("cgroup", Missing, "not below", "agentguard", |f| {
            f.mounts
                .push_str("tmpfs /sys/fs/cgroup/agentguard tmpfs rw 0 0\n");
        }),
        ("bpffs", Missing, "not below", "mount -t bpf", |f| {
            f.mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n".into();
        }),
        (
            "bpffs",
            Missing,
            "not below",
            "bpffs: /run/my bpf/agentguard",
            |f| {
                f.mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\
                        none /run/my\\040bpf bpf rw 0 0\n"
                    .into();
            },
        ),
        ("worker_user", Missing, "does not exist", "useradd", |f| {
            of(f).worker = Err(("user `x` does not exist".into(), "useradd x".into()));
        }),
        (
            "policy",
            Missing,
            "/etc/agentguard/policy.yaml",
            "3:7: no such key",
            |f| {
                of(f).policy.1 = Err("3:7: no such key".into());
            },
        ),
        (
            "ports",
            Missing,
            "proxy port 15001 (in use)",
            "ss -tulpn",
            |f| {
                of(f).ports[0].problem = Some("in use".into());
            },
        ),
    ];
    for (name, level, found, hint, spoil) in cases {
        let mut facts = good();
        spoil(&mut facts);
        let checks = all(&facts);
        let bad: Vec<_> = checks.iter().filter(|c| c.level != Level::Ok).collect();
        assert_eq!(bad.len(), 1, "{name}: {bad:?}");
        let check = find(&checks, name);
        assert_eq!(check.level, *level, "{check:?}");
        assert!(check.found.contains(found), "{check:?}");
        assert!(check.meaning.is_some(), "{check:?}");
        let told = check.hint.as_deref().unwrap_or_default();
        assert!(told.contains(hint), "{check:?}");
    }
}

/// The daemon pins there, too.
#[test]
fn the_bpf_mount_itself_will_do() {
    let mut facts = good();
    facts.mounts.push_str("bpf /x/guard bpf rw 0 0\n");
    of(&mut facts).bpffs = "/x/guard".into();
    let checks = all(&facts);
    assert_eq!(find(&checks, "bpffs").level, Level::Ok);
}

#[test]
fn the_usual_bpf_mount_is_named_first_and_another_can_be_made() {
    const OWN: &str =
        "or mount one on a directory of its own above /x/guard: mount -t bpf bpf DIRECTORY";
    const OTHER: &str = "none /run/other bpf rw 0 0\n";
    const USUAL: &str = "bpf /sys/fs/bpf bpf rw 0 0\n";
    for (mounts, hint) in [
        (
            format!("{OTHER}{USUAL}"),
            "set `bpffs: /sys/fs/bpf/agentguard`, ",
        ),
        (OTHER.into(), "set `bpffs: /run/other/agentguard`, "),
        (
            format!("{OTHER}tmpfs /run/other tmpfs rw 0 0\n"),
            "mount -t bpf bpf /sys/fs/bpf and set `bpffs: /sys/fs/bpf/agentguard`, ",
        ),
    ] {
        let mut facts = good();
        facts.mounts = mounts;
        of(&mut facts).bpffs = "/x/guard".into();
        let checks = all(&facts);
        assert_eq!(
            find(&checks, "bpffs").hint.as_deref(),
            Some(format!("{hint}{OWN}").as_str())
        );
    }
}

#[test]
fn what_is_open_without_lsm_programs_is_said() {
    let mut facts = good();
    assert_eq!(find(&all(&facts), "bpf_lsm").found, "active");
    facts.lsm = Some("capability".into());
    let checks = all(&facts);
    let meaning = find(&checks, "bpf_lsm").meaning.as_deref().unwrap();
    for open in ["AF_VSOCK", "Docker", "adopted"] {
        assert!(meaning.contains(open), "{meaning}");
    }
}

#[test]
fn without_root_the_kernel_is_not_asked_and_nothing_is_guessed() {
    let mut facts = good();
    facts.uid = 1000;
    facts.bpf = None;
    let checks = all(&facts);
    assert_eq!(find(&checks, "root").level, Level::Missing);
    assert_eq!(find(&checks, "bpf").level, Level::Missing);
    assert_eq!(find(&checks, "bpf_lsm").level, Level::Degraded);
}

#[test]
fn a_running_daemon_may_hold_its_own_ports() {
    let mut facts = good();
    facts.daemon_runs = true;
    facts.config.as_mut().unwrap().ports[1].problem = Some("in use".into());
    assert_eq!(find(&all(&facts), "ports").level, Level::Ok);
}

#[test]
fn what_people_read() {
    let mut facts = good();
    facts.ipv6 = false;
    facts.config = Err("cannot read x".into());
    let checks = all(&facts);
    let table = table(&checks).render(None);
    assert!(
        table.starts_with(
            "CHECK             LEVEL     FOUND\nroot              ok        this is root\n"
        ),
        "{table}"
    );
    assert_eq!(
        explanations(&checks),
        "\nipv6 is degraded: agents reach nothing over IPv6; IPv4 is not affected\n  \
         hint: boot without ipv6.disable=1, and sysctl -w net.ipv6.conf.lo.disable_ipv6=0\n\
         \nconfig is missing: nothing that depends on it could be looked at\n  \
         hint: mend the file, or name another with --config\n"
    );
}

#[test]
fn the_json_form_is_stable() {
    let mut facts = good();
    facts.btf = false;
    let checks = all(&facts);
    assert_eq!(
        serde_json::to_value(find(&checks, "btf")).unwrap(),
        serde_json::json!({
            "name": "btf",
            "level": "missing",
            "found": "there is no /sys/kernel/btf/vmlinux",
            "meaning": "the gate's socket storage needs type information of the kernel",
            "hint": "use a kernel with CONFIG_DEBUG_INFO_BTF=y, as Debian and Ubuntu ship it",
        })
    );
}
