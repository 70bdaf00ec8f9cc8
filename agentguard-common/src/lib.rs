//! The ABI between kernel and user space, and the pure flow verdict.
//!
//! - [`address`]: an IP address as both sides compare it.
//! - [`map`]: keys and values of every BPF map.
//! - [`device`]: devices that no agent gets.
//! - [`quota`]: what an agent may use of the network, in bytes and connections.
//! - [`event`]: what the kernel tells user space, and the reasons it gives.
//! - [`seal`]: seals on what several threads may write at once.
//! - [`verdict`]: what becomes of a flow, as a function of what the maps say.
//!
//! Everything here is `repr(C)` without implicit padding, and compiles for the kernel and for the
//! host. **Invariant:** no dependencies (aya's marker trait, behind the feature `user`, is the one
//! exception), no allocation, no panics, no loops that the verifier cannot bound.

#![no_std]

pub mod address;
pub mod device;
pub mod event;
pub mod map;
pub mod quota;
pub mod seal;
pub mod verdict;

/// Version of the layouts in this crate. It changes with every incompatible change to a map's key
/// or value, and stands in [`map::Settings`], so that a daemon never takes over maps it would misread.
/// [`map::AgentEntry`] does not change.
pub const ABI_VERSION: u32 = 3;

#[cfg(test)]
extern crate std;
