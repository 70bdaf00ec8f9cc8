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
    /// Whether only our LSM programs close it under `agentguard run`.
    pub(crate) by_lsm: bool,
    pub(crate) adopted: Adopted,
    /// Whether it is Landlock's scopes that close it there: before Linux 6.12 only our LSM programs do.
    pub(crate) scoped: bool,
    /// A part of the kernel that may be missing: without it there is no such way.
    pub(crate) part: Option<&'static str>,
    /// The first kernel that has that part.
    pub(crate) since: (u32, u32),
}

impl Way {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            families: Families::Both,
            needs: Needs::User,
            by_lsm: false,
            adopted: Adopted::Closed,
            scoped: false,
            part: None,
            since: (0, 0),
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

    const fn since(mut self, major: u32, minor: u32) -> Self {
        self.since = (major, minor);
        self
    }

    const fn scoped(mut self) -> Self {
        self.scoped = true;
        self
    }

    const fn by_lsm(mut self) -> Self {
        self.by_lsm = true;
        self
    }
}

use Adopted::{Lsm, NotTried, Open};
use Families::{Four, Six};

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
    Way::new("multicast"),
    Way::new("broadcast").only(Four),
    Way::new("join-group"),
    Way::new("join-source"),
    Way::new("device"),
    Way::new("source-route").only(Four).root(),
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
    Way::new("vsock").adopted(Lsm).part("AF_VSOCK"),
    Way::new("alg").only(Four).adopted(Lsm).part("AF_ALG"),
    Way::new("families").only(Four).root().adopted(Lsm),
    Way::new("tun").only(Four).root().part("TUN"),
    // io_uring.
    Way::new("uring-connect").part("io_uring"),
    Way::new("uring-poll").part("io_uring"),
    Way::new("uring-send").part("io_uring"),
    Way::new("uring-sendmsg").part("io_uring"),
    Way::new("uring-send-zc").part("io_uring"),
    Way::new("uring-join")
        .part("SOCKET_URING_OP_SETSOCKOPT")
        .since(6, 7),
    Way::new("uring-socket")
        .root()
        .adopted(Lsm)
        .part("io_uring"),
    // Names.
    Way::new("dns"),
    Way::new("dns-tls"),
    Way::new("dns-https"),
    Way::new("dns-quic"),
    Way::new("dns-tunnel"),
    Way::new("dns-tunnel-tcp"),
    // Other hosts that do an agent's bidding.
    Way::new("proxy-connect"),
    // Other processes.
    Way::new("loopback-tcp"),
    Way::new("loopback-any"),
    Way::new("loopback-udp"),
    Way::new("unix-daemons").only(Four).adopted(Lsm),
    Way::new("unix-abstract").only(Four).adopted(Lsm).scoped(),
    Way::new("scm-rights").adopted(Lsm).by_lsm(),
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
];

/// Ways that the suite tries in a manner of their own.
pub(crate) const OTHERS: &[Way] = &[
    Way::new("listen"),
    Way::new("listen-autobind"),
    Way::new("old-tcp"),
    Way::new("old-udp"),
    Way::new("old-ping"),
    Way::new("old-raw").root(),
    Way::new("old-packet").root().adopted(Lsm),
    Way::new("old-vsock").adopted(Lsm).part("AF_VSOCK"),
    Way::new("old-tun").only(Four).root().adopted(Open),
    Way::new("moved").adopted(Lsm),
    Way::new("inherited").adopted(NotTried),
];
