//! The privileged half: BPF, cgroups, namespaces, spawning.

pub mod packet;
