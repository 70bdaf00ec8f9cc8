//! Every way out that we know, and what it needs.

/// Versions of IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Families {
    /// IPv4 alone.
    Four,
    /// IPv6 alone.
    Six,
    /// Each of both.
    Both,
}

/// Who has to try it, so that it succeeds where nobody is governed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Needs {
    /// Any user.
    User,
    /// Root, with the capabilities of a host's root.
    Root,
}

/// What becomes of a way under `agentguard run`, whoever the command runs as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Run {
    /// It is stopped, on every kernel.
    Closed,
    /// It is stopped where the kernel takes our LSM programs, and open elsewhere.
    Lsm,
    /// Landlock's scopes stop it, which come with Linux 6.12; before, only our LSM programs.
    Scoped,
    /// It has no meaning there.
    NotTried,
}

/// What becomes of a way of an agent that was adopted: root with every capability, under the gate alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Adopted {
    /// The gate stops it, on every kernel.
    Closed,
    /// It is stopped where the kernel takes our LSM programs, and open elsewhere.
    Lsm,
    /// Nothing stops it.
    Open,
    /// It has no meaning there.
    NotTried,
}

/// A way out: a program in `tests/escapes` of that name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) families: Families,
    pub(crate) needs: Needs,
    pub(crate) run: Run,
    pub(crate) adopted: Adopted,
    /// A part of the kernel that may be missing (`agentguard_tests::kernel`): without it there is no such way.
    pub(crate) part: Option<&'static str>,
    /// How many marks it leaves, where it is several of a kind: each has to get out, and not to.
    pub(crate) marks: usize,
}

impl Way {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            families: Families::Both,
            needs: Needs::User,
            run: Run::Closed,
            adopted: Adopted::Closed,
            part: None,
            marks: 1,
        }
    }

    const fn only(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    const fn root(mut self) -> Self {
        self.needs = Needs::Root;
        self
    }

    const fn adopted(mut self, adopted: Adopted) -> Self {
        self.adopted = adopted;
        self
    }

    const fn part(mut self, part: &'static str) -> Self {
        self.part = Some(part);
        self
    }

    const fn run(mut self, run: Run) -> Self {
        self.run = run;
        self
    }

    const fn marks(mut self, marks: usize) -> Self {
        self.marks = marks;
        self
    }
}

use Adopted::{Lsm, NotTried, Open};
use Families::{Four, Six};
use Run::Scoped;

/// Sockets of daemons that do what they are told, below /run.
pub(crate) const DAEMONS: [&str; 7] = [
    "docker.sock",
    "containerd/containerd.sock",
    "podman/podman.sock",
    "dbus/system_bus_socket",
    "systemd/private",
    "systemd/resolve/io.systemd.Resolve",
    "nscd/socket",
];

/// All of them. `docs/threat-model.md` has a row for each.
pub(crate) const WAYS: &[Way] = &[
    // TCP.
    Way::new("tcp"),
    Way::new("tcp-mapped").only(Four),
    Way::new("tcp-fast-open"),
    Way::new("tcp-fast-open-connect"),
    Way::new("mptcp").part("MPTCP"),
    // UDP.
    Way::new("udp-connected"),
    Way::new("udp-sendto"),
    Way::new("udp-sendmmsg"),
    Way::new("udp-elsewhere"),
    Way::new("udp-unspec").only(Four),
    Way::new("udp-other-family").only(Four),
    Way::new("udp-race"),
    Way::new("udp-corked"),
    Way::new("udp-segments"),
    Way::new("udp-fragments"),
    Way::new("udp-lite"),
    Way::new("udp-extension-headers").only(Six).root(),
    Way::new("udp-hop-by-hop").only(Six).root(),
    Way::new("mdns"),
    Way::new("llmnr"),
    Way::new("broadcast").only(Four),
    Way::new("join-group"),
    Way::new("join-source"),
    Way::new("device"),
    Way::new("source-route").only(Four).root(),
    Way::new("source-route-tcp").only(Four).root(),
    Way::new("routing-header").only(Six),
    Way::new("routing-header-message")
        .only(Six)
        .part("mobile IPv6"),
    Way::new("routing-header-tcp").only(Six),
    Way::new("forged-source").root(),
    Way::new("free-bind").only(Six),
    // Other protocols over IP.
    Way::new("sctp").part("SCTP"),
    Way::new("sctp-many").part("SCTP"),
    Way::new("dccp").part("DCCP"),
    Way::new("ping"),
    Way::new("icmp").root(),
    Way::new("raw").root(),
    Way::new("raw-fragment").root(),
    Way::new("raw-protocol").root(),
    // Past IP.
    Way::new("packet").root().adopted(Lsm),
    Way::new("packet-old").only(Four).root().adopted(Lsm),
    Way::new("xdp").root().adopted(Lsm).part("AF_XDP"),
    Way::new("vsock").adopted(Lsm).part("vsock over loopback"),
    Way::new("alg").only(Four).adopted(Lsm).part("AF_ALG"),
    Way::new("families").only(Four).root().adopted(Lsm),
    Way::new("tun").root().part("TUN"),
    // io_uring.
    Way::new("uring-connect").part("io_uring"),
    Way::new("uring-poll").part("io_uring"),
    Way::new("uring-send").part("io_uring"),
    Way::new("uring-sendmsg").part("io_uring"),
    Way::new("uring-send-zc").part("io_uring"),
    Way::new("uring-join").part("SOCKET_URING_OP_SETSOCKOPT"),
    Way::new("uring-socket")
        .root()
        .adopted(Lsm)
        .part("io_uring"),
    // Names.
    Way::new("dns"),
    Way::new("dns-tcp"),
    Way::new("dns-tls"),
    Way::new("dns-https"),
    Way::new("dns-https3"),
    Way::new("dns-quic"),
    Way::new("dns-tunnel"),
    Way::new("dns-tunnel-tcp"),
    // Other hosts that do an agent's bidding.
    Way::new("proxy-connect"),
    // Other processes.
    Way::new("loopback-tcp"),
    Way::new("loopback-any"),
    Way::new("loopback-udp"),
    Way::new("unix-daemons")
        .only(Four)
        .adopted(Lsm)
        .marks(DAEMONS.len()),
    Way::new("unix-abstract")
        .only(Four)
        .adopted(Lsm)
        .run(Scoped),
    Way::new("scm-rights").adopted(Lsm).run(Run::Lsm),
    Way::new("ptrace").only(Four).adopted(Lsm),
    Way::new("process-memory").only(Four).adopted(Lsm),
    Way::new("process-writev").only(Four).adopted(Lsm),
    Way::new("pidfd-getfd").only(Four).adopted(Lsm),
    // Out of the cgroup, or of the namespace.
    Way::new("cgroup-leave").root().adopted(Open),
    Way::new("clone-into-cgroup").root().adopted(Open),
    Way::new("setns").root(),
    Way::new("namespace").root(),
    Way::new("user-namespace").only(Four).adopted(Lsm),
    // Sent by the kernel, as who may change the network tells it.
    Way::new("forward").root().adopted(Lsm).part("nftables"),
    Way::new("tunnel").root().part("VXLAN"),
    Way::new("tunnel-gre")
        .only(Four)
        .root()
        .adopted(Open)
        .part("GRE"),
];

/// Ways that the suite tries in a manner of their own.
pub(crate) const OTHERS: &[Way] = &[
    Way::new("listen"),
    Way::new("listen-autobind"),
    Way::new("listen-udp"),
    Way::new("old-tcp").run(Run::NotTried),
    Way::new("old-udp").run(Run::NotTried),
    Way::new("old-ping").run(Run::NotTried),
    Way::new("old-raw").root().run(Run::NotTried),
    Way::new("old-packet")
        .root()
        .run(Run::NotTried)
        .adopted(Lsm),
    Way::new("old-vsock")
        .run(Run::NotTried)
        .adopted(Lsm)
        .part("vsock over loopback"),
    Way::new("old-tun")
        .only(Four)
        .root()
        .run(Run::NotTried)
        .adopted(Open),
    Way::new("moved").run(Run::NotTried).adopted(Lsm),
    Way::new("inherited").adopted(NotTried),
];
