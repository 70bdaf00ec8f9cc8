//! The gate on the running kernel.

use agentguard_keeper::gate::Gate;

#[test]
fn loads() {
    let dir = std::path::Path::new("/tmp/bpffs-test");
    std::fs::create_dir_all(dir).unwrap();
    rustix::mount::mount("bpf", dir, "bpf", rustix::mount::MountFlags::empty(), None).unwrap();
    let result = Gate::load(&dir.join("ag"));
    let mut gate = match result {
        Ok(g) => g,
        Err(e) => {
            let mut s: Option<&dyn std::error::Error> = Some(&e);
            while let Some(e) = s {
                eprintln!("{e}");
                s = e.source();
            }
            rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH).unwrap();
            panic!()
        }
    };
    for p in gate.programs() {
        eprintln!("{p:?}");
    }
    eprintln!("{:?}", gate.executables_unknown());
    let cg = std::path::Path::new("/sys/fs/cgroup/unified/agtest");
    std::fs::create_dir_all(cg).unwrap();
    let a = gate.attach(cg);
    eprintln!("{a:?}");
    let a = gate.attach(cg);
    eprintln!("{a:?}");
    drop(gate);
    rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    std::fs::remove_dir(cg).unwrap();
}
