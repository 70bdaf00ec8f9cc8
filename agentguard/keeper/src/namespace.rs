//! Network namespaces: where the guard listens, and those it makes for isolated agents.
//!
//! A namespace is entered on a thread of its own which ends there, so that no other thread ever
//! stands in the wrong one.

mod address6;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The address of an isolated namespace in the virtual IPv4 range, and in the virtual IPv6 prefix.
/// With loopback alone `getaddrinfo` with `AI_ADDRCONFIG` finds no name.
const OWN4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd41, 0x6775, 0x6172, 0x6400, 0, 0, 0, 1);

/// Connections that wait for the proxy; the kernel refuses further ones until it accepts. The
/// bound of the queue is also a bound on how long an original destination must be kept.
const BACKLOG: i32 = 1024;

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A port is taken, or may not be used.
    #[error("cannot listen on {address}; hint: another program has this port, or set `{key}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The configuration's key for the port.
        key: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `lo` is down, so nothing reaches `127.0.0.1`.
    #[error("its loopback device is down; hint: ip link set lo up, inside it")]
    LoopbackDown,
    /// A system call failed.
    #[error("cannot {what}")]
    Sys {
        /// The operation.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The ports that the guard listens on in every namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    /// The proxy, TCP.
    pub proxy: u16,
    /// The resolver, UDP and TCP.
    pub resolver: u16,
}

/// Listening sockets of one namespace, non-blocking.
#[derive(Debug)]
pub struct Listening {
    /// The namespace's cookie.
    pub netns: u64,
    /// On `127.0.0.1`.
    pub v4: Trio,
    /// On `::1`, where the namespace has IPv6.
    pub v6: Option<Trio>,
}

/// The sockets of one address family.
#[derive(Debug)]
pub struct Trio {
    /// The proxy.
    pub proxy: OwnedFd,
    /// The resolver over UDP.
    pub resolver_udp: OwnedFd,
    /// The resolver over TCP.
    pub resolver_tcp: OwnedFd,
}

impl Listening {
    /// Descriptors in the order of [`Self::from_descriptors`].
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        [Some(&self.v4), self.v6.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|trio| [&trio.proxy, &trio.resolver_udp, &trio.resolver_tcp])
            .map(AsFd::as_fd)
            .collect()
    }

    /// The sockets, from a message that brought them. `None` if there are not three or six.
    #[must_use]
    pub fn from_descriptors(netns: u64, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut trio = || {
            Some(Trio {
                proxy: descriptors.next()?,
                resolver_udp: descriptors.next()?,
                resolver_tcp: descriptors.next()?,
            })
        };
        Some(Self {
            netns,
            v4: trio()?,
            v6: trio(),
        })
    }

    /// Listens in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NamespaceError`]. A namespace without IPv6 is none.
    pub fn here(ports: Ports) -> Result<Self, NamespaceError> {
        let v4 = trio(IpAddr::V4(Ipv4Addr::LOCALHOST), ports)?;
        let v6 = match trio(IpAddr::V6(Ipv6Addr::LOCALHOST), ports) {
            Ok(trio) => Some(trio),
            Err(NamespaceError::Listen { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
                ) =>
            {
                None
            }
            Err(error) => return Err(error),
        };
        let netns = cookie(v4.proxy.as_fd())?;
        Ok(Self { netns, v4, v6 })
    }
}

fn trio(ip: IpAddr, ports: Ports) -> Result<Trio, NamespaceError> {
    let proxy = SocketAddr::new(ip, ports.proxy);
    let resolver = SocketAddr::new(ip, ports.resolver);
    Ok(Trio {
        proxy: listen_tcp(proxy).map_err(failed(proxy, "proxy_port"))?,
        resolver_udp: bind_udp(resolver).map_err(failed(resolver, "resolver_port"))?,
        resolver_tcp: listen_tcp(resolver).map_err(failed(resolver, "resolver_port"))?,
    })
}

fn failed(address: SocketAddr, key: &'static str) -> impl Fn(rustix::io::Errno) -> NamespaceError {
    move |source| NamespaceError::Listen {
        address,
        key,
        source: source.into(),
    }
}

fn open(address: SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let (family, protocol) = match (address, kind) {
        (SocketAddr::V4(_), SocketType::STREAM) => (AddressFamily::INET, ipproto::TCP),
        (SocketAddr::V4(_), _) => (AddressFamily::INET, ipproto::UDP),
        (SocketAddr::V6(_), SocketType::STREAM) => (AddressFamily::INET6, ipproto::TCP),
        (SocketAddr::V6(_), _) => (AddressFamily::INET6, ipproto::UDP),
    };
    let socket = socket_with(
        family,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(protocol),
    )?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn listen_tcp(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = open(address, SocketType::STREAM)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// What may wait to be read by the resolver, in bytes of the kernel's memory: what 25 agents may send at
/// once, see [`agentguard_common::map::pending::ASKED_BYTES`]. The kernel doubles what it is asked for.
const RESOLVER_BUFFER: usize = 25 * 512 * 1280 / 2;

fn bind_udp(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = open(address, SocketType::DGRAM)?;
    if let Err(error) = sockopt::set_socket_recv_buffer_size_force(&socket, RESOLVER_BUFFER) {
        tracing::warn!(%error, %address, "the resolver's buffer is small: queries may be lost");
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// The cookie of a socket's network namespace: what the kernel's helpers call it.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> Result<u64, NamespaceError> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut value = 0u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the option is 8 bytes long, and the pointers are to live variables.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(NamespaceError::Sys {
            what: "read the cookie of a network namespace (SO_NETNS_COOKIE, Linux 5.14)",
            source: io::Error::last_os_error(),
        });
    }
    Ok(value)
}

/// A network namespace that the guard made: its only device is `lo`, and no route leads out.
#[derive(Debug)]
pub struct Isolated {
    /// Keeps the namespace alive, and enters it.
    pub handle: OwnedFd,
    /// The listeners inside.
    pub listening: Listening,
}

impl Isolated {
    /// Makes one, with the guard listening inside.
    ///
    /// # Errors
    /// [`NamespaceError`].
    pub fn new(ports: Ports) -> Result<Self, NamespaceError> {
        on_a_thread(|| {
            // SAFETY: only this thread's network namespace is left; no descriptor table changes.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(sys("make a network namespace"))?;
            raise_loopback()?;
            let handle = rustix::fs::open(
                "/proc/thread-self/ns/net",
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .map_err(sys("open the new network namespace"))?;
            let listening = Listening::here(ports)?;
            Ok(Self { handle, listening })
        })
    }
}

/// Listens inside a network namespace. Its devices are left as they are: who made it may have had
/// reasons.
///
/// # Errors
/// [`NamespaceError`].
pub fn listen_inside(netns: BorrowedFd<'_>, ports: Ports) -> Result<Listening, NamespaceError> {
    inside(netns, || {
        if !loopback_is_up()? {
            return Err(NamespaceError::LoopbackDown);
        }
        Listening::here(ports)
    })?
}

/// Whether `lo` is up in the calling thread's namespace.
fn loopback_is_up() -> Result<bool, NamespaceError> {
    let socket = open(
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketType::DGRAM,
    )
    .map_err(sys("open a socket"))?;
    let mut request = interface_request("lo");
    // SAFETY: `SIOCGIFFLAGS` reads the name in an `ifreq` and writes its flags; nothing else holds it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if result < 0 {
        let failed = failed_ioctl("read the state of the loopback device");
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the kernel has written the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(flags & IFF_UP != 0)
}

/// Does something inside a network namespace, on a thread of its own.
///
/// # Errors
/// [`NamespaceError::Sys`]: it cannot be entered.
pub fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    run: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    on_a_thread(|| {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .map_err(sys("enter a network namespace"))?;
        Ok(run())
    })
}

/// Does something on a thread of its own. Where agents use up what there is, none can be made.
fn on_a_thread<T: Send>(
    run: impl FnOnce() -> Result<T, NamespaceError> + Send,
) -> Result<T, NamespaceError> {
    let failed = |what| move |source| NamespaceError::Sys { what, source };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("inside".into())
            .spawn_scoped(scope, run)
            .map_err(failed("start a thread for a network namespace"))?;
        // What it panicked over was said by then; who asked goes on without it.
        let panicked = |_| io::Error::other("its thread panicked");
        let ended = thread.join().map_err(panicked);
        ended.map_err(failed("finish in a network namespace"))?
    })
}

fn sys(what: &'static str) -> impl Fn(rustix::io::Errno) -> NamespaceError {
    move |source| NamespaceError::Sys {
        what,
        source: source.into(),
    }
}

/// Brings `lo` up, which gives it `127.0.0.1` and `::1`, and adds the two addresses of its own.
fn raise_loopback() -> Result<(), NamespaceError> {
    let v4 = open(
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketType::DGRAM,
    )
    .map_err(sys("open a socket"))?;
    let mut up = interface_request("lo");
    up.ifr_ifru.ifru_flags = IFF_UP;
    // SAFETY: `SIOCSIFFLAGS` reads an `ifreq` with flags.
    unsafe { ioctl(v4.as_fd(), libc::SIOCSIFFLAGS, &raw const up) }
        .map_err(failed_ioctl("bring up the loopback device"))?;
    let mut own4 = interface_request("lo:1");
    own4.ifr_ifru.ifru_addr = socket_address(OWN4);
    // SAFETY: `SIOCSIFADDR` reads an `ifreq` with an address.
    unsafe { ioctl(v4.as_fd(), libc::SIOCSIFADDR, &raw const own4) }
        .map_err(failed_ioctl("give the loopback device an address"))?;
    let mut mask = interface_request("lo:1");
    mask.ifr_ifru.ifru_addr = socket_address(Ipv4Addr::BROADCAST);
    // SAFETY: `SIOCSIFNETMASK` reads an `ifreq` with an address.
    unsafe { ioctl(v4.as_fd(), libc::SIOCSIFNETMASK, &raw const mask) }
        .map_err(failed_ioctl("set the mask of the loopback device"))?;
    match address6::add(OWN6, LOOPBACK) {
        // A kernel without IPv6 needs no address of it, nor do namespaces in which it is off.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
            ) =>
        {
            Ok(())
        }
        result => result.map_err(failed_ioctl("give the loopback device an IPv6 address")),
    }
}

/// The index of `lo` in every network namespace (`LOOPBACK_IFINDEX` of `net/flow.h`).
const LOOPBACK: u32 = 1;

/// `IFF_UP` as the field of `ifreq` holds it.
const IFF_UP: libc::c_short = 1;

fn failed_ioctl(what: &'static str) -> impl Fn(io::Error) -> NamespaceError {
    move |source| NamespaceError::Sys { what, source }
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is integers and unions of them; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn socket_address(ip: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: `sockaddr` is integers only; all zeroes is a value of it.
    let mut address: libc::sockaddr = unsafe { std::mem::zeroed() };
    address.sa_family = 2;
    // `sockaddr_in`: two octets of port, then the address.
    for (to, from) in address.sa_data.iter_mut().skip(2).zip(ip.octets()) {
        *to = from.cast_signed();
    }
    address
}

/// # Safety
/// The request reads a `T`.
unsafe fn ioctl<T>(
    socket: BorrowedFd<'_>,
    request: libc::Ioctl,
    argument: *const T,
) -> io::Result<()> {
    // SAFETY: upheld by the caller.
    if unsafe { libc::ioctl(socket.as_raw_fd(), request, argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Isolated, Listening, NamespaceError, OWN4, OWN6, Ports, listen_inside};
    use std::net::{TcpStream, UdpSocket};
    use std::os::fd::AsFd as _;

    const PORTS: Ports = Ports {
        proxy: 15001,
        resolver: 15053,
    };

    /// Whether namespaces can be made; where nothing may be skipped they must.
    fn root() -> bool {
        let root = rustix::process::geteuid().is_root();
        assert!(
            root || std::env::var_os("AGENTGUARD_REQUIRE_ALL").is_none(),
            "needs root, and nothing may be skipped"
        );
        root
    }

    #[test]
    fn an_isolated_namespace_has_loopback_and_no_way_out() {
        if !root() {
            println!("skipped: needs root");
            return;
        }
        let isolated = Isolated::new(PORTS).unwrap();
        assert!(isolated.listening.v6.is_some());
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    rustix::thread::move_into_link_name_space(
                        isolated.handle.as_fd(),
                        Some(rustix::thread::LinkNameSpaceType::Network),
                    )
                    .unwrap();
                    TcpStream::connect(("127.0.0.1", PORTS.proxy)).unwrap();
                    TcpStream::connect(("::1", PORTS.resolver)).unwrap();
                    let error = TcpStream::connect(("192.0.2.1", 80)).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
                    // What AI_ADDRCONFIG looks for.
                    UdpSocket::bind((OWN4, 0)).unwrap();
                    UdpSocket::bind((OWN6, 0)).unwrap();
                })
                .join()
                .unwrap();
        });
    }

    #[test]
    fn where_no_thread_can_be_made_an_error_says_so_and_the_caller_goes_on() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        if !root() {
            println!("skipped: needs root");
            return;
        }
        let here = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let limited = || {
            // Of this thread alone. The limit is the process's, and does not hold for root, as whom the
            // others run.
            let nobody = rustix::thread::Uid::from_raw(64_243);
            rustix::thread::set_thread_uid(nobody).unwrap();
            let before = getrlimit(Resource::Nproc);
            let none = Rlimit {
                current: Some(0),
                ..before
            };
            setrlimit(Resource::Nproc, none).unwrap();
            let error = super::inside(here.as_fd(), || ()).unwrap_err();
            setrlimit(Resource::Nproc, before).unwrap();
            error
        };
        let error = std::thread::scope(|scope| scope.spawn(limited).join().unwrap());
        let NamespaceError::Sys { what, source } = error else {
            panic!("{error}");
        };
        assert_eq!(what, "start a thread for a network namespace");
        assert_eq!(source.raw_os_error(), Some(libc::EAGAIN));
        let error = super::inside(here.as_fd(), || panic!("on purpose")).unwrap_err();
        assert_eq!(error.to_string(), "cannot finish in a network namespace");
        assert!(super::inside(here.as_fd(), || ()).is_ok());
    }

    #[test]
    fn descriptors_survive_their_journey() {
        if !root() {
            println!("skipped: needs root");
            return;
        }
        let isolated = Isolated::new(PORTS).unwrap();
        let again = listen_inside(
            isolated.handle.as_fd(),
            Ports {
                proxy: 15002,
                resolver: 15054,
            },
        )
        .unwrap();
        assert_eq!(again.netns, isolated.listening.netns);
        let copies: Vec<_> = again
            .descriptors()
            .into_iter()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        assert_eq!(copies.len(), 6);
        let back = Listening::from_descriptors(again.netns, copies).unwrap();
        assert!(back.v6.is_some());
        assert!(Listening::from_descriptors(1, Vec::new()).is_none());
    }
}
