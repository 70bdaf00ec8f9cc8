//! world
fn main() {}
