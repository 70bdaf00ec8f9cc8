//! UNIX sockets: an agent does not talk to daemons that would do for it what it may not do itself.
//!
//! What a program connects to is known by the *peer*: the socket that listens there, however the path
//! to it was written, through whatever link or mount. The peer's name is what its owner gave to
//! `bind(2)`. Abstract names have no permissions that anybody could have set: those of programs outside
//! the agent are refused.
//!
//! The kernel's structures are read at offsets that the loader takes from the running kernel's BTF.

use agentguard_common::event::reason;
use agentguard_common::map::{UNIX_NAME, UnixNameKey, mode, unix_name};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel as probe_read;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use core::ffi::c_void;

use crate::lsm::{AF_UNIX, PASS, REFUSE, refusal};
use crate::maps::{UNIX_NAMES, UNIX_OWNERS};
use crate::{agent, event};

/// Offset of `sk` in `struct socket`, set by the loader.
#[unsafe(no_mangle)]
pub(crate) static SOCKET_SK: u64 = 24;
/// Offset of `addr` in `struct unix_sock`.
#[unsafe(no_mangle)]
static UNIX_SOCK_ADDR: u64 = 784;
/// Offset of `len` in `struct unix_address`: bytes of the `sockaddr_un` at its end.
#[unsafe(no_mangle)]
static UNIX_ADDRESS_LEN: u64 = 4;
/// Offset of `name` in `struct unix_address`: a `sockaddr_un`.
#[unsafe(no_mangle)]
static UNIX_ADDRESS_NAME: u64 = 8;

/// Bytes before `sun_path` in `sockaddr_un` (`linux/un.h`).
const SUN_PATH: u64 = 2;
/// The key of a whole name in `UNIX_NAMES`.
#[expect(clippy::cast_possible_truncation, reason = "a thousand at most")]
const NAME_KEY_BITS: u32 = 32 + 8 * UNIX_NAME as u32;

/// `linux/net.h`.
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;

/// A socket was made: notes whose it is. Arguments: the `struct socket`, family, type, protocol, whether
/// the kernel makes it for itself.
#[lsm(hook = "socket_post_create")]
fn lsm_unix_create(ctx: LsmContext) -> i32 {
    if ctx.arg::<u32>(1) != AF_UNIX || ctx.arg::<u32>(4) != 0 {
        return PASS;
    }
    let Some(found) = agent::of_task() else {
        return PASS;
    };
    // SAFETY: the argument is a socket that was just made.
    let sock = unsafe { sock_of(ctx.arg(0)) };
    // Without memory for the note, the agent is refused to itself where that matters.
    // SAFETY: the kernel's `sk` of that socket.
    if let Some(owner) = unsafe { UNIX_OWNERS.create(sock) } {
        owner.agent = found.entry.agent;
    }
    PASS
}

/// `connect(2)` of a stream or of packets in sequence. Arguments: the `struct sock` that connects, the
/// one that listens, the one that will be accepted.
#[lsm(hook = "unix_stream_connect")]
fn lsm_unix_connect(ctx: LsmContext) -> i32 {
    let Some(found) = agent::of_task() else {
        return PASS;
    };
    // SAFETY: the argument is a socket that the kernel holds while it asks.
    unsafe { judge(&found, ctx.arg(1), SOCK_STREAM) }
}

/// A datagram is sent, or `connect(2)` of a socket for datagrams. Arguments: the `struct socket` that
/// sends and the one that receives.
#[lsm(hook = "unix_may_send")]
fn lsm_unix_send(ctx: LsmContext) -> i32 {
    let Some(found) = agent::of_task() else {
        return PASS;
    };
    // SAFETY: as above.
    unsafe { judge(&found, sock_of(ctx.arg(1)), SOCK_DGRAM) }
}

/// Whether an agent may talk to a socket.
///
/// # Safety
/// `peer` is a `struct sock` of the kernel, of AF_UNIX, or null.
#[inline(always)]
unsafe fn judge(found: &agent::Found, peer: *mut c_void, socket_type: u32) -> i32 {
    // SAFETY: upheld by the caller.
    let owner = unsafe { UNIX_OWNERS.get(peer) }.map_or(0, |owner| owner.agent);
    if owner == found.entry.agent {
        return PASS;
    }
    let mut key = Key::new(
        NAME_KEY_BITS,
        UnixNameKey {
            agent: found.entry.agent,
            name: [0; UNIX_NAME],
        },
    );
    // SAFETY: upheld by the caller.
    let Some(length) = (unsafe { read_name(peer, &raw mut key.data.name) }) else {
        // One of a pair, which somebody passed on.
        return PASS;
    };
    let verdict = match UNIX_NAMES.get(&key) {
        Some(own) => *own,
        None => {
            key.data.agent = 0;
            let all = UNIX_NAMES.get(&key).copied();
            let abstract_name = key.data.name[0] == 0;
            all.unwrap_or(if abstract_name {
                unix_name::DENY
            } else {
                unix_name::ALLOW
            })
        }
    };
    if verdict == unix_name::ALLOW {
        return PASS;
    }
    let enforced = found.entry.mode == mode::ENFORCE;
    let told = refusal(
        found,
        reason::UNIX_SOCKET,
        AF_UNIX,
        socket_type,
        0,
        enforced,
    );
    event::emit_unix(told, &key.data.name, length);
    if enforced { REFUSE } else { PASS }
}

/// Reads the name that a socket is bound to into zeroes, and gives its length; `None`: it has none. What
/// cannot be read stays empty, and is treated as an abstract name that nobody allowed.
///
/// # Safety
/// `peer` is a `struct unix_sock` of the kernel, whose first member is its `struct sock`, or null, and
/// `name` can be written to.
#[inline(always)]
unsafe fn read_name(peer: *mut c_void, name: *mut [u8; UNIX_NAME]) -> Option<u32> {
    // SAFETY: the helper checks the addresses, here and below.
    let address: *const u8 = unsafe {
        let field = peer
            .cast::<u8>()
            .wrapping_add(at(&raw const UNIX_SOCK_ADDR));
        match bpf_probe_read_kernel(field.cast::<*const u8>()) {
            Ok(address) if address.is_null() => return None,
            Ok(address) => address,
            Err(_) => return Some(0),
        }
    };
    // SAFETY: as above.
    let length: u32 = unsafe {
        let field = address.wrapping_add(at(&raw const UNIX_ADDRESS_LEN));
        bpf_probe_read_kernel(field.cast::<u32>()).unwrap_or_default()
    };
    let mut length = u64::from(length).saturating_sub(SUN_PATH);
    // A path of that length is stored with a zero behind it.
    if length > UNIX_NAME as u64 {
        length = UNIX_NAME as u64;
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the target has 64-bit pointers, and the length is bounded"
    )]
    let (offset, bytes) = (
        at(&raw const UNIX_ADDRESS_NAME) + SUN_PATH as usize,
        length as u32,
    );
    // SAFETY: the name has room for as many bytes. What the helper cannot read it leaves zero.
    unsafe { probe_read(name.cast(), bytes, address.wrapping_add(offset).cast()) };
    Some(bytes)
}

/// The `struct sock` of a `struct socket`.
///
/// # Safety
/// The verifier knows the pointer for a `struct socket`.
#[inline(always)]
unsafe fn sock_of(socket: *mut c_void) -> *mut c_void {
    let field = socket
        .cast::<u8>()
        .wrapping_add(at(&raw const SOCKET_SK))
        .cast::<*mut c_void>();
    // SAFETY: the verifier checks that this is the field; upheld by the caller. Volatile, so that the
    // offset stays an addition of what it knows when it looks.
    unsafe { field.read_volatile() }
}

/// An offset that the loader wrote.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the target has 64-bit pointers"
)]
pub(crate) fn at(offset: *const u64) -> usize {
    // SAFETY: a static that only the loader writes.
    unsafe { offset.read_volatile() as usize }
}
