//! `getpeername(2)`: the agent sees the address it dialled.

use agentguard_common::address::Address;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::ALLOW;
use crate::connect::{
    V4, V6, destination4, destination6, rewrite, rewritten, socket_of, user_port,
};
use crate::maps::SOCKETS;

/// IPv4.
#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore::<V4>(&ctx, destination4(&ctx))
}

/// IPv6.
#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore::<V6>(&ctx, destination6(&ctx))
}

#[inline(always)]
fn restore<const FAMILY: u32>(ctx: &SockAddrContext, peer: Address) -> i32 {
    // SAFETY: the context's `sk` is a full socket in this program type.
    if let Some(entry) = unsafe { SOCKETS.get(socket_of(ctx)) }
        && entry.effective == peer
        && entry.effective_port == user_port(ctx)
        && rewritten(entry)
    {
        rewrite::<FAMILY>(ctx, entry.dialled, entry.dialled_port);
    }
    ALLOW
}
