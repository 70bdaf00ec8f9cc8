//! The root that the suites run in: an archive of the very files that are here, under their paths.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::built::Executables;
use super::cpio::Archive;
use super::kernels::Kernel;
use super::suites::{PROGRAMS, Sources, Suite};
use super::{PATIENCE, modules};
use crate::exec;
use crate::workspace::Workspace;

/// Where the distribution's programs are.
const SYSTEM: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What of Python's own library no test needs.
const UNUSED: [&str; 12] = [
    "config-",
    "dist-packages",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tkinter",
    "turtledemo",
    "venv",
];

/// The users that tests become.
const FILES: [(&str, &str); 5] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\n\
         daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n\
         user:x:1000:1000:user:/home/user:/bin/bash\n",
    ),
    (
        "/etc/group",
        "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\nuser:x:1000:\n",
    ),
    (
        "/etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("/etc/resolv.conf", "nameserver 127.0.0.1\n"),
];

/// Writes the archive for a kernel. Of each suite the tests whose names contain one of its words will run,
/// or all.
///
/// # Errors
/// A program is missing, or a file cannot be read or written.
pub(super) fn write(
    workspace: &Workspace,
    kernel: &Kernel,
    suites: &[(Suite, Vec<String>)],
    executables: &Executables,
    target: &Path,
) -> Result<()> {
    let mut root = Archive::new();
    for (path, mode) in [
        ("/proc", 0o555),
        ("/sys", 0o555),
        ("/dev", 0o755),
        ("/run", 0o755),
        ("/tmp", 0o1777),
        ("/var/tmp", 0o1777),
        ("/root", 0o700),
        ("/home/user", 0o755),
        ("/mnt", 0o755),
        ("/opt", 0o755),
        ("/srv", 0o755),
        ("/usr/libexec/busybox", 0o755),
        ("/vm", 0o755),
    ] {
        root.directory(path, mode);
    }
    root.link("/var/run", "/run");
    for (path, content) in FILES {
        root.file(path, 0o644, 0, content.as_bytes());
    }
    root.file("/init", 0o755, 0, include_bytes!("init.sh"));
    let script = script(workspace.root(), suites, executables)?;
    root.file("/vm/suites", 0o644, 0, script.as_bytes());

    let mut order = String::new();
    for module in modules::wanted(&kernel.modules)? {
        let path = format!("/vm/modules/{}.ko", module.name);
        root.file(&path, 0o644, 0, &module.content);
        order.push_str(&module.name);
        order.push('\n');
    }
    root.file("/vm/modules/order", 0o644, 0, order.as_bytes());

    let mut loaded = Vec::new();
    for program in ["busybox"].iter().chain(&PROGRAMS) {
        let path = system_program(program)?;
        add(&mut root, &path)?;
        loaded.push(path);
    }
    let python = fs::canonicalize(system_program("python3")?)?;
    loaded.extend(add_python(&mut root, &python)?);
    for (suite, _) in suites {
        let mut executed = vec![executables.test(suite)?];
        for built in suite.built {
            executed.push(executables.built(*built)?);
        }
        for program in executed {
            add_stripped(&mut root, program, target)?;
            loaded.push(program.to_owned());
        }
        for file in suite.files {
            add(&mut root, &workspace.root().join(file))?;
        }
        if let Some(sources) = suite.sources {
            for (_, program) in programs(workspace, sources)? {
                add(&mut root, &program)?;
                loaded.push(program);
            }
        }
        // Tests look for files beside their sources by way of directories that are there.
        root.directory(&text(&workspace.root().join(suite.directory))?, 0o755);
    }
    for library in libraries(&loaded)? {
        add(&mut root, &library)?;
    }
    fs::write(target, root.finish()).with_context(|| format!("cannot write {}", target.display()))
}

/// What init runs: each suite between two lines that say so. Behind a pipe: a client that had the console
/// for its output would take that for its user's terminal.
fn script(
    workspace: &Path,
    suites: &[(Suite, Vec<String>)],
    executables: &Executables,
) -> Result<String> {
    let mut script = format!(
        "export AGENTGUARD_REQUIRE_ALL=1 AGENTGUARD_PATIENCE={PATIENCE}\n\
         export AGENTGUARD_BIN={}\n",
        exec::quote(&text(&workspace.join("target/debug/agentguard"))?)
    );
    for (suite, words) in suites {
        let filter: String = words
            .iter()
            .map(|word| format!(" {}", exec::quote(word)))
            .collect();
        let name = suite.name();
        let left_out: String = suite
            .left_out
            .iter()
            .map(|test| format!(" --skip {}", exec::quote(test)))
            .collect();
        let directory = exec::quote(&text(&workspace.join(suite.directory))?);
        let program = exec::quote(&text(executables.test(suite)?)?);
        let mut variables = String::new();
        if let Some(sources) = suite.sources {
            let programs = workspace.join(sources.programs);
            variables.push_str(&format!(
                "{}={} ",
                sources.variable,
                exec::quote(&text(&programs)?)
            ));
        }
        script.push_str(&format!(
            "say begin {name} \"$(now)\"\n\
             {{ (cd {directory} && {variables}exec {program} --show-output{left_out}{filter})\n\
             say end {name} $? \"$(now)\"; }} </dev/null 2>&1 | cat\n"
        ));
    }
    Ok(script)
}

/// A file with what it is now, under its own path.
fn add(root: &mut Archive, path: &Path) -> Result<()> {
    let name = text(path)?;
    if root.has(&name) {
        return Ok(());
    }
    let failed = || format!("cannot read {}", path.display());
    let metadata = fs::metadata(path).with_context(failed)?;
    let content = fs::read(path).with_context(failed)?;
    let modified = u32::try_from(metadata.mtime()).unwrap_or_default();
    root.file(&name, metadata.mode() & 0o7777, modified, &content);
    Ok(())
}

/// A program without what only a debugger reads, which is most of it.
fn add_stripped(root: &mut Archive, program: &Path, target: &Path) -> Result<()> {
    let name = text(program)?;
    if root.has(&name) {
        return Ok(());
    }
    let draft = target.with_extension("stripped");
    exec::run(Command::new("strip").arg("-o").arg(&draft).arg(program))?;
    let content = fs::read(&draft);
    let _ = fs::remove_file(&draft);
    root.file(&name, 0o755, 0, &content?);
    Ok(())
}

/// Python's own library with its compiled files, and gives those that load others.
fn add_python(root: &mut Archive, python: &Path) -> Result<Vec<PathBuf>> {
    let name = python.file_name().context("a program without a name")?;
    let library = Path::new("/usr/lib").join(name);
    if !library.is_dir() {
        bail!(
            "{} has no library at {}",
            python.display(),
            library.display()
        );
    }
    let mut left = vec![library];
    let mut loaded = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if UNUSED.iter().any(|unused| name.starts_with(unused)) {
                continue;
            }
            if path.is_dir() {
                left.push(path);
                continue;
            }
            add(root, &path)?;
            if name.ends_with(".so") {
                loaded.push(path);
            }
        }
    }
    Ok(loaded)
}

/// Compiles the programs of the suites' sources in C: once, before any machine's root is written.
///
/// # Errors
/// A source cannot be read or compiled.
pub(super) fn compile(workspace: &Workspace, suites: &[Suite]) -> Result<()> {
    for sources in suites.iter().filter_map(|suite| suite.sources) {
        let target = workspace.root().join(sources.programs);
        fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
        for (source, program) in programs(workspace, sources)? {
            exec::run(
                Command::new("cc")
                    // An emulated processor takes as long to load libraries as for all the rest of one.
                    .args(["-std=gnu17", "-O1", "-static", "-o"])
                    .args([&program, &source]),
            )?;
        }
    }
    Ok(())
}

/// Each source in C and the program that it becomes.
fn programs(workspace: &Workspace, sources: Sources) -> Result<Vec<(PathBuf, PathBuf)>> {
    let target = workspace.root().join(sources.programs);
    let mut programs = Vec::new();
    for entry in fs::read_dir(workspace.root().join(sources.directory))? {
        let source = entry?.path();
        if source.extension().is_some_and(|extension| extension == "c") {
            let program = target.join(source.file_stem().unwrap_or_default());
            programs.push((source, program));
        }
    }
    Ok(programs)
}

fn system_program(name: &str) -> Result<PathBuf> {
    SYSTEM
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!(
                "no {name} in {}\nhint: run `cargo xtask setup --tests`",
                SYSTEM.join(", ")
            )
        })
}

/// What the dynamic linker loads for these, itself included.
fn libraries(programs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .args(programs)
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .context("cannot run ldd")?;
    // It ends with 1 where one of them needs no linker: what it prints is right all the same.
    let told = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = told.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", line.trim());
    }
    Ok(loaded(&told))
}

/// The paths in what ldd prints: `libc.so.6 => /lib/libc.so.6 (0x7f…)`, `/lib64/ld-linux-x86-64.so.2 (0x7f…)`.
fn loaded(ldd: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = ldd
        .lines()
        .filter_map(|line| {
            let (path, _) = line.trim().rsplit_once(" (0x")?;
            let path = path.rsplit_once(" => ").map_or(path, |(_, path)| path);
            path.starts_with('/').then(|| path.into())
        })
        .collect();
    paths.sort();
    paths.dedup();
    paths
}

fn text(path: &Path) -> Result<String> {
    path.to_str()
        .map(str::to_owned)
        .with_context(|| format!("{} is no text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_load_is_read_from_ldd() {
        let told = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\
                    /usr/bin/b:\n\tstatically linked\n\
                    /usr/bin/c:\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007e)\n";
        assert_eq!(
            loaded(told),
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn the_users_that_tests_become_are_there() {
        let [(_, passwd), ..] = FILES;
        for (name, uid) in [
            ("root", "0"),
            ("daemon", "1"),
            ("nobody", "65534"),
            ("user", "1000"),
        ] {
            let line = format!("{name}:x:{uid}:");
            assert!(passwd.lines().any(|user| user.starts_with(&line)), "{name}");
        }
    }
}
