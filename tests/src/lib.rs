//! The world that the end-to-end tests live in.
//!
//! A [`World`] is two network namespaces joined by a veth link: `host`, where the daemon and the
//! agents run, and `internet`, with an authoritative name server, origin servers and a tap that
//! counts what arrives on the wire. Addresses are those reserved for documentation. A [`Guard`] is
//! the real daemon, started in `host` with a configuration of its own.
//!
//! Everything that is made carries the maker's process id in its name ([`Tag`]), is removed on
//! drop, also after a panic, and where the process was killed by the next world ([`leftover`]).
//!
//! **Invariant:** what a world makes is in its own namespaces, its own temporary directory and its
//! own cgroup; the machine's network, `/etc` and running services are never touched.

#![forbid(unsafe_code)]

pub mod bench;
mod ca;
pub mod client;
pub mod demo;
pub mod dns;
mod guard;
pub mod kernel;
pub mod leftover;
mod namespace;
pub mod origin;
mod process;
mod puppet;
mod tag;
mod wait;
mod wire;
mod world;

pub use ca::Ca;
pub use dns::Zone;
pub use guard::{Guard, GuardBuilder, decisions};
pub use namespace::{Namespace, Runtime};
pub use origin::Origin;
pub use process::{Invocation, Output, Process};
pub use puppet::Puppet;
pub use tag::Tag;
pub use wait::{patient, wait_until};
pub use wire::{Destination, MARK, Wire};
pub use world::{World, WorldBuilder, address};
