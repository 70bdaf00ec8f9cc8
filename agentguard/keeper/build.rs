//! Finds the gate's object, or says how to build it.

use std::path::Path;

fn main() {
    let Some(manifest) = std::env::var_os("CARGO_MANIFEST_DIR") else {
        println!("cargo::error=CARGO_MANIFEST_DIR is not set: build with cargo");
        return;
    };
    let object = Path::new(&manifest).join("../../target/bpf/agentguard.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!(
            "cargo::rustc-env=AGENTGUARD_BPF_OBJECT={}",
            object.display()
        );
    } else {
        println!(
            "cargo::error=the kernel part is not built ({} is missing): run `cargo xtask build-ebpf` first",
            object.display()
        );
    }
}
