//! What is missing, and what would install it. Pure.

use std::fmt;

use anyhow::{Result, bail};

use super::facts::{Facts, Linker};

/// The distribution's compiler: not in `PATH` before rustup's, so always by its path.
pub(crate) const SYSTEM_RUSTC: &str = "/usr/bin/rustc";

/// rustup's nightly where the distribution has no compiler with `core` for BPF. Its LLVM is
/// [`LLVM`], and it is no newer than what the pinned aya crates were written for.
pub(crate) const NIGHTLY: &str = "nightly-2026-04-15";

/// The major version of LLVM that compiler and linker must share: the linker reads the compiler's
/// bitcode.
const LLVM: u32 = 22;

/// The oldest compiler that the workspace builds with: `rust-version` in `Cargo.toml`.
const RUSTC_MINOR: u32 = 95;

const LINKER_VERSION: &str = "0.13.0";
const DENY_VERSION: &str = "0.20.2";

/// Debian's compiler and its `core` for BPF.
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// What bpf-linker is compiled and linked with.
const DEBIAN_LLVM: [&str; 5] = [
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "libxml2-dev",
];

/// Programs that a build or a test calls, and the package that has each (the same on Debian 12 and
/// Ubuntu 24.04).
const BUILD_PROGRAMS: [(&str, &str); 2] = [("cc", "build-essential"), ("make", "build-essential")];
const TEST_PROGRAMS: [(&str, &str); 29] = [
    ("ip", "iproute2"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("crun", "crun"),
    ("podman", "podman"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("git", "git"),
    ("dig", "bind9-dnsutils"),
    ("musl-gcc", "musl-tools"),
    ("busybox", "busybox"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("socat", "socat"),
    ("nc", "netcat-openbsd"),
    ("tinyproxy", "tinyproxy-bin"),
    ("openssl", "openssl"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("python3", "python3"),
    ("javac", "default-jdk-headless"),
    ("promtool", "prometheus"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("squid", "squid-openssl"),
    ("h2load", "nghttp2-client"),
    ("redis-server", "redis-server"),
    ("unbound", "unbound"),
    ("dnsperf", "dnsperf"),
    ("valgrind", "valgrind"),
];

/// As [`TEST_PROGRAMS`], where the package has the program: Ubuntu's would install a snap, which sees
/// neither the tests' files nor what a run covers.
const DEBIAN_TEST_PROGRAMS: [(&str, &str); 1] = [("chromium", "chromium")];

/// The Python packages that the tests' clients need: all of them, those that others need included, as
/// `pip freeze` prints them.
const PYTHON_PACKAGES: &str = include_str!("../../../tests/clients/requirements.txt");

/// The Python packages of mitmproxy, as [`PYTHON_PACKAGES`].
const MITMPROXY_PACKAGES: &str = include_str!("../../../tests/clients/mitmproxy.txt");

/// The Node packages that the tests' clients need, with all that those need.
pub(super) const NODE_PACKAGES: &str =
    include_str!("../../../tests/clients/node/package-lock.json");

/// Without this module, which Debian has in [`VENV_PACKAGE`], Python makes no environments.
pub(super) const VENV_MODULE: &str = "ensurepip";
const VENV_PACKAGE: &str = "python3-venv";

/// Every package whose state matters.
pub(super) fn packages() -> impl Iterator<Item = &'static str> {
    DEBIAN_COMPILER.into_iter().chain(DEBIAN_LLVM)
}

/// Every program whose presence matters.
pub(super) fn programs() -> impl Iterator<Item = &'static str> {
    BUILD_PROGRAMS
        .into_iter()
        .chain(TEST_PROGRAMS)
        .chain(DEBIAN_TEST_PROGRAMS)
        .map(|(program, _)| program)
}

/// How the gate is compiled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BpfToolchain {
    /// The distribution's rustc with its prebuilt `core`.
    System,
    /// rustup's pinned nightly, which compiles `core` itself.
    Nightly,
}

/// One installation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Packages of the distribution.
    Apt(Vec<&'static str>),
    /// A program from the Rust registry.
    CargoInstall {
        /// Package.
        name: &'static str,
        /// Exact version.
        version: &'static str,
        /// Further arguments.
        arguments: &'static [&'static str],
        /// Variables to set.
        environment: &'static [(&'static str, &'static str)],
    },
    /// The pinned nightly with rust-src.
    Nightly,
    /// The Python environment of the tests' clients, made anew.
    PythonEnvironment,
    /// mitmproxy's Python environment, made anew.
    MitmproxyEnvironment,
    /// The Node packages of the tests' clients, installed anew.
    NodePackages,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt(packages) => write!(f, "packages {}", packages.join(" ")),
            Self::CargoInstall { name, version, .. } => {
                write!(f, "{name} {version} (cargo install)")
            }
            Self::Nightly => write!(f, "{NIGHTLY} with rust-src (rustup)"),
            Self::MitmproxyEnvironment => write!(f, "mitmproxy (venv, pip)"),
            Self::NodePackages => write!(f, "Node packages of the tests' clients (npm)"),
            Self::PythonEnvironment => {
                let packages = pinned(PYTHON_PACKAGES).count();
                write!(
                    f,
                    "{packages} Python packages of the tests' clients (venv, pip)"
                )
            }
        }
    }
}

/// What there is to do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) toolchain: BpfToolchain,
    pub(super) steps: Vec<Step>,
    /// What the person should know about this path.
    pub(super) remark: Option<&'static str>,
}

impl Plan {
    /// # Errors
    /// Something is missing that we cannot install on this system, or may not.
    pub(super) fn new(facts: &Facts, tests: bool) -> Result<Self> {
        let system_works = facts
            .system_rustc
            .as_ref()
            .is_some_and(|rustc| rustc.minor >= RUSTC_MINOR && rustc.llvm == LLVM)
            && facts.system_bpf_core;
        let linker_works = facts.linker.as_ref().is_some_and(linker_works);
        let mut apt = Vec::new();
        let mut steps = Vec::new();
        let mut remark = None;

        let toolchain = match (facts.os.as_str(), facts.os_version.as_str()) {
            ("debian", "12") => {
                if !system_works {
                    apt.extend(DEBIAN_COMPILER);
                }
                if !linker_works {
                    let missing = |package: &&str| !facts.packages.contains(*package);
                    apt.extend(DEBIAN_LLVM.into_iter().filter(missing));
                }
                BpfToolchain::System
            }
            ("ubuntu", "24.04") => {
                remark = Some(
                    "Ubuntu 24.04 is untested: no run of it has been shown yet; its chromium is a \
                     snap, so tests with a browser are skipped where no other is in PATH",
                );
                if facts
                    .nightly
                    .as_ref()
                    .is_none_or(|rustc| rustc.llvm != LLVM)
                {
                    steps.push(Step::Nightly);
                }
                if !linker_works && !llvm_installed(facts) {
                    bail!(
                        "bpf-linker {LINKER_VERSION} needs the LLVM {LLVM} development packages, which \
                         this system's archive lacks\nhint: install llvm-{LLVM}-dev and \
                         libpolly-{LLVM}-dev, then run `cargo xtask setup` again"
                    );
                }
                BpfToolchain::Nightly
            }
            _ if system_works && linker_works => BpfToolchain::System,
            _ if facts.nightly.is_some() && linker_works => BpfToolchain::Nightly,
            (os, version) => {
                let mut missing = Vec::new();
                if !system_works && facts.nightly.is_none() {
                    missing.push(format!(
                        "a compiler for BPF: rustup's {NIGHTLY} with rust-src, or {SYSTEM_RUSTC} \
                         1.{RUSTC_MINOR} or newer with LLVM {LLVM} and core for bpfel-unknown-none"
                    ));
                }
                if !linker_works {
                    missing.push(format!("bpf-linker {LINKER_VERSION} with LLVM {LLVM}"));
                }
                bail!(
                    "missing on `{os} {version}`, where setup does not know how to install it: {}\n\
                     hint: install it, then run `cargo xtask setup` again",
                    missing.join("; and ")
                )
            }
        };

        let for_tests: &[_] = if tests { &TEST_PROGRAMS } else { &[] };
        let on_debian: &[_] = if tests && facts.os != "ubuntu" {
            &DEBIAN_TEST_PROGRAMS
        } else {
            &[]
        };
        apt.extend(
            BUILD_PROGRAMS
                .iter()
                .chain(for_tests)
                .chain(on_debian)
                .filter(|(program, _)| !facts.programs.contains(*program))
                .map(|(_, package)| *package),
        );
        apt.dedup();
        if tests && !facts.python_venv {
            apt.push(VENV_PACKAGE);
        }
        if !linker_works {
            steps.push(Step::CargoInstall {
                name: "bpf-linker",
                version: LINKER_VERSION,
                arguments: &["--no-default-features", "--features", "llvm-22"],
                environment: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
            });
        }
        if tests && facts.cargo_deny.as_deref() != Some(DENY_VERSION) {
            steps.push(Step::CargoInstall {
                name: "cargo-deny",
                version: DENY_VERSION,
                arguments: &[],
                environment: &[],
            });
        }
        let has =
            |packages, found: &[String]| pinned(packages).eq(found.iter().map(String::as_str));
        if tests && !has(PYTHON_PACKAGES, &facts.python_packages) {
            steps.push(Step::PythonEnvironment);
        }
        if tests && !has(MITMPROXY_PACKAGES, &facts.mitmproxy_packages) {
            steps.push(Step::MitmproxyEnvironment);
        }
        if tests && facts.node_packages != NODE_PACKAGES {
            steps.push(Step::NodePackages);
        }
        if !apt.is_empty() {
            if !matches!(facts.os.as_str(), "debian" | "ubuntu") {
                bail!(
                    "missing, and no known way to install it on `{}`: the Debian packages {}",
                    facts.os,
                    apt.join(" ")
                );
            }
            if !facts.root {
                bail!(
                    "missing: {}\nhint: only root may install packages: run `cargo xtask setup` as \
                     root, or `apt-get install {}`",
                    Step::Apt(apt.clone()),
                    apt.join(" ")
                );
            }
            steps.insert(0, Step::Apt(apt));
        }
        Ok(Self {
            toolchain,
            steps,
            remark,
        })
    }
}

/// What a list of packages pins.
fn pinned(packages: &'static str) -> impl Iterator<Item = &'static str> {
    packages.lines().filter(|line| !line.starts_with('#'))
}

/// An LLVM that we cannot see is linked in statically: then the link itself will tell.
fn linker_works(linker: &Linker) -> bool {
    linker.version == LINKER_VERSION && linker.llvm.is_none_or(|llvm| llvm == LLVM)
}

fn llvm_installed(facts: &Facts) -> bool {
    facts.packages.contains("llvm-22-dev")
}

#[cfg(test)]
mod tests {
    use super::super::facts::Rustc;
    use super::*;

    fn complete() -> Facts {
        Facts {
            os: "debian".into(),
            os_version: "12".into(),
            root: true,
            system_rustc: Some(Rustc {
                minor: 96,
                llvm: 22,
            }),
            system_bpf_core: true,
            nightly: None,
            linker: Some(Linker {
                version: LINKER_VERSION.into(),
                llvm: Some(22),
            }),
            cargo_deny: Some(DENY_VERSION.into()),
            packages: packages().map(str::to_owned).collect(),
            programs: programs().map(str::to_owned).collect(),
            python_venv: true,
            python_packages: pinned(PYTHON_PACKAGES).map(str::to_owned).collect(),
            mitmproxy_packages: pinned(MITMPROXY_PACKAGES).map(str::to_owned).collect(),
            node_packages: NODE_PACKAGES.to_owned(),
        }
    }

    fn names(facts: &Facts, tests: bool) -> Vec<String> {
        Plan::new(facts, tests)
            .unwrap()
            .steps
            .iter()
            .map(Step::to_string)
            .collect()
    }

    #[test]
    fn nothing_is_done_where_everything_is_there() {
        assert!(names(&complete(), true).is_empty());
        assert_eq!(
            Plan::new(&complete(), true).unwrap().toolchain,
            BpfToolchain::System
        );
    }

    #[test]
    fn a_fresh_debian_gets_all_of_it_packages_first() {
        let facts = Facts {
            os: "debian".into(),
            os_version: "12".into(),
            root: true,
            ..Facts::default()
        };
        assert_eq!(
            names(&facts, false),
            [
                "packages rustc-web libstd-rust-web-dev-bpf llvm-22-dev libpolly-22-dev \
                 libzstd-dev zlib1g-dev libxml2-dev build-essential",
                "bpf-linker 0.13.0 (cargo install)",
            ]
        );
        let all = names(&facts, true);
        assert!(
            all[0].ends_with(
                "npm python3 default-jdk-headless prometheus haproxy nginx-light \
                 squid-openssl nghttp2-client redis-server unbound dnsperf valgrind chromium \
                 python3-venv"
            ),
            "{all:?}"
        );
        assert_eq!(all[2], "cargo-deny 0.20.2 (cargo install)");
        assert!(all[3].ends_with("tests' clients (venv, pip)"), "{all:?}");
        assert_eq!(all[4], "mitmproxy (venv, pip)");
    }

    #[test]
    fn a_browser_is_installed_on_debian_and_is_no_matter_on_ubuntu() {
        let mut facts = complete();
        facts.programs.remove("chromium");
        assert!(names(&facts, false).is_empty());
        assert_eq!(names(&facts, true), ["packages chromium"]);
        (facts.os, facts.os_version) = ("ubuntu".into(), "24.04".into());
        facts.nightly = Some(Rustc {
            minor: 97,
            llvm: 22,
        });
        let plan = Plan::new(&facts, true).unwrap();
        assert!(plan.steps.is_empty(), "{:?}", plan.steps);
        assert!(plan.remark.unwrap().contains("chromium is a snap"));
    }

    #[test]
    fn an_old_system_compiler_is_replaced() {
        let mut facts = complete();
        facts.system_rustc = Some(Rustc {
            minor: 63,
            llvm: 14,
        });
        facts.packages.remove("rustc-web");
        facts.packages.remove("libstd-rust-web-dev-bpf");
        assert_eq!(
            names(&facts, false),
            ["packages rustc-web libstd-rust-web-dev-bpf"]
        );
    }

    #[test]
    fn a_linker_of_another_llvm_is_replaced() {
        for linker in [
            None,
            Some(Linker {
                version: LINKER_VERSION.into(),
                llvm: Some(21),
            }),
            Some(Linker {
                version: "0.9.15".into(),
                llvm: Some(22),
            }),
        ] {
            let facts = Facts {
                linker,
                ..complete()
            };
            assert_eq!(names(&facts, false), ["bpf-linker 0.13.0 (cargo install)"]);
        }
    }

    #[test]
    fn a_missing_client_matters_only_to_tests() {
        let mut facts = complete();
        facts.programs.remove("dig");
        facts.programs.remove("squid");
        assert!(names(&facts, false).is_empty());
        assert_eq!(
            names(&facts, true),
            ["packages bind9-dnsutils squid-openssl"]
        );
    }

    #[test]
    fn python_gets_its_environment_where_it_has_not_exactly_what_is_pinned() {
        let pinned = complete().python_packages;
        assert!(pinned.iter().all(|line| line.contains("==")), "{pinned:?}");
        let mut older = pinned.clone();
        older[0] = "anyio==1.0.0".into();
        let more = [&pinned[..], &["zope==1.0".into()]].concat();
        for python_packages in [Vec::new(), older, more] {
            let facts = Facts {
                python_packages,
                ..complete()
            };
            assert!(names(&facts, false).is_empty());
            assert_eq!(
                Plan::new(&facts, true).unwrap().steps,
                [Step::PythonEnvironment]
            );
        }
    }

    #[test]
    fn mitmproxy_gets_an_environment_of_its_own_where_that_has_not_exactly_what_is_pinned() {
        let pinned = complete().mitmproxy_packages;
        assert!(pinned.iter().all(|line| line.contains("==")), "{pinned:?}");
        assert!(pinned.iter().any(|line| line.starts_with("mitmproxy==")));
        for mitmproxy_packages in [Vec::new(), complete().python_packages] {
            let facts = Facts {
                mitmproxy_packages,
                ..complete()
            };
            assert!(names(&facts, false).is_empty());
            assert_eq!(names(&facts, true), ["mitmproxy (venv, pip)"]);
        }
    }

    #[test]
    fn node_gets_its_packages_where_it_has_not_exactly_what_is_pinned() {
        let facts = Facts {
            node_packages: String::new(),
            ..complete()
        };
        assert!(names(&facts, false).is_empty());
        assert_eq!(Plan::new(&facts, true).unwrap().steps, [Step::NodePackages]);
    }

    #[test]
    fn without_root_it_says_what_to_install() {
        let mut facts = complete();
        facts.root = false;
        assert!(Plan::new(&facts, true).unwrap().steps.is_empty());
        facts.programs.remove("curl");
        let error = Plan::new(&facts, true).unwrap_err().to_string();
        assert!(error.contains("apt-get install curl"), "{error}");
    }

    #[test]
    fn ubuntu_takes_the_nightly_and_says_that_it_is_untested() {
        let mut facts = complete();
        facts.os = "ubuntu".into();
        facts.os_version = "24.04".into();
        facts.system_rustc = None;
        facts.system_bpf_core = false;
        let plan = Plan::new(&facts, false).unwrap();
        assert_eq!(plan.toolchain, BpfToolchain::Nightly);
        assert_eq!(plan.steps, [Step::Nightly]);
        assert!(plan.remark.unwrap().contains("untested"));

        facts.linker = None;
        facts.packages.clear();
        let error = Plan::new(&facts, false).unwrap_err().to_string();
        assert!(error.contains("llvm-22-dev"), "{error}");
    }

    #[test]
    fn another_system_builds_if_it_has_the_pieces_and_else_says_which() {
        let mut facts = complete();
        facts.os = "fedora".into();
        facts.os_version = "44".into();
        assert!(names(&facts, true).is_empty());

        facts.programs.remove("curl");
        let error = Plan::new(&facts, true).unwrap_err().to_string();
        assert!(
            error.contains("curl") && error.contains("fedora"),
            "{error}"
        );

        // What is missing, and nothing else.
        for (core, linker, missing) in [
            (false, true, [true, false]),
            (true, false, [false, true]),
            (false, false, [true, true]),
        ] {
            let mut facts = complete();
            (facts.os, facts.os_version) = ("fedora".into(), "44".into());
            facts.nightly = None;
            facts.system_bpf_core = core;
            facts.linker = facts.linker.filter(|_| linker);
            let error = Plan::new(&facts, false).unwrap_err().to_string();
            assert!(error.contains("fedora 44"), "{error}");
            let named = ["bpfel-unknown-none", "bpf-linker"].map(|piece| error.contains(piece));
            assert_eq!(named, missing, "{error}");
        }
    }
}
