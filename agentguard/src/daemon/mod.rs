//! The daemon: wires the rooms together, in two processes.
//!
//! [`keeper`] is root and small: it owns the gate, the cgroups and namespaces, spawns agents, and
//! starts the [`worker`], which has no rights and does everything that touches an agent's bytes.

pub(crate) mod keeper;
pub(crate) mod worker;
