//! What is on the machine.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::plan;
use crate::exec;

/// What we looked for, and found. Gathering takes well under a second and changes nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// `ID` of os-release.
    pub(crate) os: String,
    /// `VERSION_ID` of os-release.
    pub(crate) os_version: String,
    /// Whether we may install packages.
    pub(crate) root: bool,
    /// The rustc of the distribution.
    pub(crate) system_rustc: Option<Rustc>,
    /// Whether the distribution's rustc has `core` for BPF.
    pub(crate) system_bpf_core: bool,
    /// The pinned nightly of rustup, where it has rust-src too.
    pub(crate) nightly: Option<Rustc>,
    /// bpf-linker, where it runs.
    pub(crate) linker: Option<Linker>,
    /// The version of cargo-deny.
    pub(crate) cargo_deny: Option<String>,
    /// Those of [`plan::packages`] that are installed.
    pub(crate) packages: BTreeSet<String>,
    /// Those of [`plan::programs`] that are in `PATH`.
    pub(crate) programs: BTreeSet<String>,
    /// Whether Python can make an environment that has pip.
    pub(crate) python_venv: bool,
    /// What is in the Python environment of the tests' clients, as `pip freeze` prints it.
    pub(crate) python_packages: Vec<String>,
    /// What is in mitmproxy's, likewise.
    pub(crate) mitmproxy_packages: Vec<String>,
    /// What Node packages of the tests' clients there are, as npm's lock file says it.
    pub(crate) node_packages: String,
}

/// A compiler.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Rustc {
    /// Minor version: 96 in 1.96.0.
    pub(crate) minor: u32,
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

/// A bpf-linker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Linker {
    /// Its version.
    pub(crate) version: String,
    /// Major version of the LLVM that it loads; none where that is linked in statically.
    pub(crate) llvm: Option<u32>,
}

impl Facts {
    /// With the Python environments (the clients', mitmproxy's) and the Node packages of the tests, if they matter.
    pub(crate) fn gather(python: Option<[&Path; 2]>, node: Option<&Path>) -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let nightly = env::var_os("HOME").and_then(|_| {
            let sysroot = exec::ask(
                "rustc",
                &[&format!("+{}", plan::NIGHTLY), "--print", "sysroot"],
            )?;
            let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
            core.is_dir().then_some(())?;
            Rustc::parse(&exec::ask(
                "rustc",
                &[&format!("+{}", plan::NIGHTLY), "-vV"],
            )?)
        });
        Self {
            os: os_release(&release, "ID"),
            os_version: os_release(&release, "VERSION_ID"),
            root: exec::ask("id", &["-u"]).is_some_and(|uid| uid.trim() == "0"),
            system_rustc: exec::ask(plan::SYSTEM_RUSTC, &["-vV"])
                .and_then(|text| Rustc::parse(&text)),
            system_bpf_core: system_bpf_core(),
            nightly,
            linker: linker(),
            cargo_deny: exec::ask("cargo-deny", &["--version"]).and_then(|text| second_word(&text)),
            packages: installed(plan::packages()),
            programs: plan::programs()
                .filter(|program| in_path(program).is_some())
                .map(str::to_owned)
                .collect(),
            python_venv: exec::ask("python3", &["-c", &format!("import {}", plan::VENV_MODULE)])
                .is_some(),
            python_packages: python.map_or_else(Vec::new, |[clients, _]| frozen(clients)),
            mitmproxy_packages: python.map_or_else(Vec::new, |[_, mitmproxy]| frozen(mitmproxy)),
            node_packages: node.and_then(node_packages).unwrap_or_default(),
        }
    }
}

/// What is in a Python environment; nothing where there is none.
fn frozen(environment: &Path) -> Vec<String> {
    let packages = exec::ask(environment.join("bin/python3"), &["-m", "pip", "freeze"]);
    let packages = packages.unwrap_or_default();
    packages.lines().map(str::to_owned).collect()
}

/// The lock file of a directory, where npm has installed all that it says: it writes another one then.
fn node_packages(directory: &Path) -> Option<String> {
    let installed = directory.join("node_modules/.package-lock.json");
    installed.is_file().then_some(())?;
    fs::read_to_string(directory.join("package-lock.json")).ok()
}

impl Rustc {
    /// Reads `rustc -vV`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let mut release = field("release: ")?.split('.').skip(1);
        Some(Self {
            minor: release.next()?.parse().ok()?,
            llvm: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
        })
    }
}

fn os_release(text: &str, field: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| *name == field)
        .map(|(_, value)| value.trim_matches('"').to_owned())
        .unwrap_or_default()
}

fn system_bpf_core() -> bool {
    exec::ask(plan::SYSTEM_RUSTC, &["--print", "sysroot"]).is_some_and(|sysroot| {
        let libraries = Path::new(sysroot.trim()).join("lib/rustlib/bpfel-unknown-none/lib");
        fs::read_dir(libraries).is_ok_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
            })
        })
    })
}

fn linker() -> Option<Linker> {
    let version = second_word(&exec::ask("bpf-linker", &["--version"])?)?;
    let libraries = exec::ask("ldd", &[in_path("bpf-linker")?.to_str()?]).unwrap_or_default();
    Some(Linker {
        version,
        llvm: llvm_of(&libraries),
    })
}

/// The major version in `libLLVM.so.22.1 => …` or `libLLVM-17.so.1 => …`.
pub(crate) fn llvm_of(ldd: &str) -> Option<u32> {
    ldd.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix("libLLVM")?;
        let digits: String = rest
            .chars()
            .skip_while(|letter| !letter.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    })
}

fn second_word(text: &str) -> Option<String> {
    text.split_whitespace().nth(1).map(str::to_owned)
}

fn installed(packages: impl Iterator<Item = &'static str>) -> BTreeSet<String> {
    let mut arguments = vec!["-W", "-f", "${db:Status-Status} ${Package}\n"];
    arguments.extend(packages);
    // It ends with 1 when it does not know one of them: what it prints is right all the same.
    let Ok(output) = std::process::Command::new("dpkg-query")
        .args(arguments)
        .output()
    else {
        return BTreeSet::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .map(str::to_owned)
        .collect()
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_is_read_from_its_version() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                    binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n\
                    LLVM version: 22.1.8\n";
        assert_eq!(
            Rustc::parse(text),
            Some(Rustc {
                minor: 96,
                llvm: 22
            })
        );
        let nightly = "release: 1.97.0-nightly\nLLVM version: 22.1.2\n";
        assert_eq!(Rustc::parse(nightly).map(|rustc| rustc.minor), Some(97));
        assert_eq!(Rustc::parse("rustc 1.63.0\n"), None);
    }

    #[test]
    fn the_llvm_of_the_linker_is_read_from_what_it_loads() {
        let ldd = "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/x (0x0)\n";
        assert_eq!(llvm_of(ldd), Some(22));
        assert_eq!(llvm_of("\tlibLLVM-17.so.1 => /usr/lib/x (0x0)\n"), Some(17));
        assert_eq!(llvm_of("\tlibc.so.6 => /lib/libc.so.6\n"), None);
    }

    #[test]
    fn a_quoted_field_of_os_release_is_read() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(os_release(text, "ID"), "debian");
        assert_eq!(os_release(text, "VERSION_ID"), "12");
        assert_eq!(os_release(text, "ID_LIKE"), "");
    }
}
