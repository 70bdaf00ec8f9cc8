//! Which real clients this machine has, and what to do without.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// Finds a program, and says which it is.
///
/// Without it, the caller skips what needs it: `None`, after the skip was printed and noted for
/// the summary of `cargo xtask test`.
///
/// # Errors
/// It is not there, and `AGENTGUARD_REQUIRE_ALL` says that nothing may be skipped.
pub fn find(program: &str) -> Result<Option<PathBuf>> {
    let found = env::var_os("PATH").and_then(|path| {
        env::split_paths(&path)
            .map(|directory| directory.join(program))
            .find(|path| path.is_file())
    });
    let Some(path) = found else {
        skip(&format!("no {program}"))?;
        return Ok(None);
    };
    say(&format!(
        "client: {program} is {} ({})",
        path.display(),
        version(&path)
    ));
    Ok(Some(path))
}

/// The Python of the environment that `cargo xtask setup --tests` makes, with the packages of
/// `clients/requirements.txt`.
///
/// # Errors
/// As [`find`].
pub fn python() -> Result<Option<PathBuf>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/python/bin/python3");
    if !path.is_file() {
        skip("no Python environment with the clients' packages")?;
        return Ok(None);
    }
    Ok(Some(path))
}

/// A program of the Node packages that `cargo xtask setup --tests` installs, by its path below `node_modules`.
///
/// # Errors
/// As [`find`].
pub fn node_package(path: &str) -> Result<Option<PathBuf>> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/node/node_modules");
    let program = packages.join(path);
    if !program.is_file() {
        skip(&format!("no {path} among the clients' Node packages"))?;
        return Ok(None);
    }
    Ok(Some(program.canonicalize()?))
}

/// The Node packages of the clients, if they are there: where they are, and Node.
///
/// # Errors
/// As [`find`].
pub fn node_packages() -> Result<Option<(PathBuf, PathBuf)>> {
    let Some(node) = find("node")? else {
        return Ok(None);
    };
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/node/node_modules");
    if !packages.is_dir() {
        skip("no Node packages of the clients")?;
        return Ok(None);
    }
    Ok(Some((node, packages.canonicalize()?)))
}

/// Says that something of a test is not run.
///
/// # Errors
/// `AGENTGUARD_REQUIRE_ALL` says that nothing may be skipped.
pub fn skip(why: &str) -> Result<()> {
    if env::var_os("AGENTGUARD_REQUIRE_ALL").is_some() {
        bail!("{why}, and nothing may be skipped\nhint: run `cargo xtask setup --tests`");
    }
    say(&format!("skipped: {why}"));
    if let Some(file) = env::var_os("AGENTGUARD_SKIPPED") {
        let mut file = OpenOptions::new().create(true).append(true).open(file)?;
        writeln!(file, "{why}")?;
    }
    Ok(())
}

/// Past the test harness, which swallows what `print!` prints in a test that passes.
pub(crate) fn say(line: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The first line it prints when asked for its version.
fn version(program: &PathBuf) -> String {
    for question in ["--version", "-V", "-v", "--help"] {
        let Ok(output) = Command::new(program)
            .arg(question)
            .stdin(Stdio::null())
            .output()
        else {
            continue;
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if let (true, Some(line)) = (output.status.success(), text.lines().next()) {
            return line.trim().to_owned();
        }
    }
    "no version".to_owned()
}

/// Compiles the client of `clients/fetch.c` with musl, statically, into a directory.
///
/// # Errors
/// The compiler refuses it, or is not there and nothing may be skipped.
pub fn musl_fetch(directory: &Path) -> Result<Option<PathBuf>> {
    let Some(compiler) = find("musl-gcc")? else {
        return Ok(None);
    };
    let program = directory.join("fetch");
    let output = Command::new(compiler)
        .args(["-static", "-O1", "-o"])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/fetch.c"))
        .output()?;
    if !output.status.success() {
        bail!("musl-gcc: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(Some(program))
}
