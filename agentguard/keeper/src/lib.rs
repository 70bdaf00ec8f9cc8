//! The privileged half: BPF, cgroups, namespaces, spawning.
//!
//! - [`gate`]: the kernel programs and their maps.
//! - [`namespace`], [`cgroup`]: where agents live and where the guard listens.
//! - [`resources`]: what agents may take of the host, and what they take.
//! - [`home`]: in which namespaces agents live.
//! - [`sockets`]: ending what an agent has open.
//! - [`packet`], [`message`], [`documents`]: how the keeper is spoken to.
//! - [`groups`]: who besides root is let in.
//! - [`spawn`]: running a command as an agent.
//! - [`ca`]: the certificate authority behind inspection.
//! - [`worker`], [`signals`]: the other half's process, and its supervision.
//!
//! **Invariant:** the keeper parses nothing but typed messages and its own policy, and grants the
//! worker nothing that this policy does not. `unsafe` stands here and in the gate only.

pub mod ca;
pub mod cgroup;
pub mod documents;
pub mod gate;
pub mod groups;
pub mod home;
pub mod limits;
pub mod message;
pub mod namespace;
pub mod packet;
pub mod resources;
mod seccomp;
pub mod signals;
pub mod sockets;
pub mod spawn;
pub mod worker;
