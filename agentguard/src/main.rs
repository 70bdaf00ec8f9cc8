//! The guard: daemon and command line.
fn main() {}
