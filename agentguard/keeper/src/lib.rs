//! The privileged half: BPF, cgroups, namespaces, spawning.

pub mod gate;
pub mod packet;
