//! Runs every tier of tests that this machine can run, and checks that nothing is left behind.
//!
//! - **pure**: unit, property and in-process tests of every package.
//! - **world**: `tests/tests/*.rs`: root, network namespaces made by the test, the real programs.
//! - **vm**: the tests of gate and containment on other kernels, under QEMU ([`vm`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build::SELECTION;
use crate::workspace::Workspace;
use crate::{bpf, build, exec, setup, vm};

/// How a tier ended.
#[derive(Debug, Eq, PartialEq)]
enum Tier {
    Ok,
    /// It ran, but these of its parts did not.
    Partly(Vec<String>),
    /// It did not run, and why.
    Skipped(String),
    Failed,
}

/// Runs the tests whose name contains one of `filter` (all, where there is none).
///
/// # Errors
/// A test failed, something is left behind, or with `require_all` something was skipped.
pub(crate) fn run(workspace: &Workspace, require_all: bool, filter: &[String]) -> Result<()> {
    setup::run(workspace, true)?;
    bpf::build(workspace)?;
    build::everything(workspace)?;

    let world = workspace.program("world");
    // What a killed run left behind is removed; what cannot be removed fails this run.
    exec::run(Command::new(&world).arg("sweep"))?;
    let tiers = [
        ("pure", pure(workspace, require_all, filter)?),
        ("world", world_tier(workspace, &world, require_all, filter)?),
        ("vm", vm_tier(workspace, require_all, filter)?),
    ];
    let clean = exec::run(Command::new(&world).arg("leftovers"));

    println!("{}", summary(&tiers));
    clean?;
    judge(&tiers, require_all)
}

fn pure(workspace: &Workspace, require_all: bool, filter: &[String]) -> Result<Tier> {
    let skips = Skips::new(workspace)?;
    let mut units = workspace.cargo();
    units.arg("test").args(SELECTION);
    skips.tell(&mut units, require_all);
    units.args(["--no-fail-fast", "--lib", "--bins"]);
    for name in integration_tests(&workspace.root().join("agentguard"))? {
        units.args(["--test", &name]);
    }
    let mut documentation = workspace.cargo();
    documentation.arg("test").args(SELECTION).arg("--doc");
    let units = test(&mut units, filter);
    let documentation = test(&mut documentation, filter);
    if units && documentation {
        skips.judge()
    } else {
        Ok(Tier::Failed)
    }
}

fn world_tier(
    workspace: &Workspace,
    world: &Path,
    require_all: bool,
    filter: &[String],
) -> Result<Tier> {
    let check = Command::new(world)
        .arg("check")
        .output()
        .with_context(|| format!("cannot run {}", world.display()))?;
    if !check.status.success() {
        let why = String::from_utf8_lossy(&check.stderr).trim().to_owned();
        return Ok(Tier::Skipped(why));
    }
    let skips = Skips::new(workspace)?;
    let mut tests = workspace.cargo();
    tests
        .arg("test")
        .args(SELECTION)
        .arg("--no-fail-fast")
        .env("AGENTGUARD_BIN", workspace.program("agentguard"));
    skips.tell(&mut tests, require_all);
    for name in tests_in(&workspace.root().join("tests/tests"))? {
        tests.args(["--test", &name]);
    }
    if !test(&mut tests, filter) {
        return Ok(Tier::Failed);
    }
    skips.judge()
}

fn vm_tier(workspace: &Workspace, require_all: bool, filter: &[String]) -> Result<Tier> {
    let request = vm::Request {
        filter,
        require_all,
        ..vm::Request::default()
    };
    Ok(match vm::tier(workspace, &request)? {
        vm::Outcome::Ok => Tier::Ok,
        vm::Outcome::Skipped(why) => Tier::Skipped(why),
        vm::Outcome::Failed => Tier::Failed,
    })
}

/// Where tests write what they did not run.
struct Skips(PathBuf);

impl Skips {
    fn new(workspace: &Workspace) -> Result<Self> {
        let path = workspace.target().join("skipped-tests.txt");
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// Tells the tests where, and whether they may.
    fn tell(&self, cargo: &mut Command, require_all: bool) {
        cargo.env("AGENTGUARD_SKIPPED", &self.0);
        if require_all {
            cargo.env("AGENTGUARD_REQUIRE_ALL", "1");
        } else {
            cargo.env_remove("AGENTGUARD_REQUIRE_ALL");
        }
    }

    fn judge(&self) -> Result<Tier> {
        let mut skipped: Vec<String> = fs::read_to_string(&self.0)
            .with_context(|| format!("cannot read {}", self.0.display()))?
            .lines()
            .map(str::to_owned)
            .collect();
        skipped.sort();
        skipped.dedup();
        Ok(if skipped.is_empty() {
            Tier::Ok
        } else {
            Tier::Partly(skipped)
        })
    }
}

fn test(cargo: &mut Command, filter: &[String]) -> bool {
    if !filter.is_empty() {
        cargo.arg("--").args(filter);
    }
    match exec::run(cargo) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{error:#}");
            false
        }
    }
}

/// The integration tests of every package below a directory.
fn integration_tests(packages: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for package in directories(packages)?
        .iter()
        .map(PathBuf::as_path)
        .chain([packages])
    {
        names.extend(tests_in(&package.join("tests"))?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(parent).with_context(|| format!("cannot list {}", parent.display()))?;
    Ok(entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .collect())
}

fn tests_in(directory: &Path) -> Result<Vec<String>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").is_file()
        })
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn summary(tiers: &[(&str, Tier)]) -> String {
    let words: Vec<String> = tiers
        .iter()
        .map(|(name, tier)| match tier {
            Tier::Ok => format!("{name} ok"),
            Tier::Partly(skipped) => format!("{name} ok but skipped ({})", skipped.join("; ")),
            Tier::Skipped(why) => format!("{name} skipped ({why})"),
            Tier::Failed => format!("{name} FAILED"),
        })
        .collect();
    format!("tiers: {}", words.join(", "))
}

fn judge(tiers: &[(&str, Tier)], require_all: bool) -> Result<()> {
    for (name, tier) in tiers {
        match tier {
            Tier::Ok => {}
            Tier::Failed => bail!("tests of the {name} tier failed"),
            Tier::Partly(_) | Tier::Skipped(_) if require_all => {
                bail!("tests of the {name} tier were skipped, and --require-all is given");
            }
            Tier::Partly(_) | Tier::Skipped(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_every_tier_and_why_it_was_skipped() {
        let tiers = [
            ("pure", Tier::Ok),
            ("world", Tier::Skipped("not root".into())),
        ];
        assert_eq!(summary(&tiers), "tiers: pure ok, world skipped (not root)");
        let tiers = [("world", Tier::Partly(vec!["no node".into()]))];
        assert_eq!(summary(&tiers), "tiers: world ok but skipped (no node)");
    }

    #[test]
    fn a_skip_fails_only_where_all_is_required() {
        let skipped = || [("world", Tier::Skipped("not root".into()))];
        assert!(judge(&skipped(), false).is_ok());
        assert!(judge(&skipped(), true).is_err());
        assert!(judge(&[("world", Tier::Partly(vec!["no node".into()]))], true).is_err());
        assert!(judge(&[("pure", Tier::Failed)], false).is_err());
        assert!(judge(&[("pure", Tier::Ok)], true).is_ok());
    }

    #[test]
    fn the_world_tests_are_found_by_their_files() {
        let workspace = Workspace::find().unwrap();
        let found = tests_in(&workspace.root().join("tests/tests")).unwrap();
        assert!(found.iter().any(|name| name == "world"), "{found:?}");

        let directory = std::env::temp_dir().join(format!("xtask-test-{}", std::process::id()));
        for path in ["tests/large", "tests/data"] {
            fs::create_dir_all(directory.join(path)).unwrap();
        }
        for path in [
            "tests/small.rs",
            "tests/large/main.rs",
            "tests/data/input.json",
        ] {
            fs::write(directory.join(path), "").unwrap();
        }
        assert_eq!(
            tests_in(&directory.join("tests")).unwrap(),
            ["large", "small"]
        );
        assert!(tests_in(&directory.join("none")).unwrap().is_empty());
        fs::remove_dir_all(&directory).unwrap();
    }
}
