//! What cargo built: where the tests and programs are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::suites::{Built, Suite};
use crate::build::SELECTION;
use crate::exec;
use crate::workspace::Workspace;

/// The programs of one build: kind, directory of the package, and name of each.
#[derive(Debug)]
pub(super) struct Executables(BTreeMap<[String; 3], PathBuf>);

impl Executables {
    /// Builds what the suites need, in the one selection of packages that everything is built in.
    ///
    /// # Errors
    /// The compiler refuses the source.
    pub(super) fn build(workspace: &Workspace, suites: &[Suite]) -> Result<Self> {
        let mut cargo = workspace.cargo();
        cargo
            .arg("build")
            .args(SELECTION)
            .arg("--message-format=json-render-diagnostics")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        for suite in suites {
            cargo.args(["--test", suite.test]);
            for built in suite.built {
                match built {
                    Built::Program(name) => cargo.args(["--bin", name]),
                    Built::Example(name) => cargo.args(["--example", name]),
                };
            }
        }
        let output = cargo.output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("`{}` failed: {}", exec::line(&cargo), output.status);
        }
        Ok(Self::read(
            workspace.root(),
            &String::from_utf8_lossy(&output.stdout),
        ))
    }

    /// From what cargo prints, one JSON object in each line.
    fn read(root: &Path, messages: &str) -> Self {
        let mut found = BTreeMap::new();
        for line in messages.lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
            let (Some(path), Some(manifest), Some(name)) = (
                text("/executable"),
                text("/manifest_path"),
                text("/target/name"),
            ) else {
                continue;
            };
            let Some(directory) = Path::new(manifest)
                .parent()
                .and_then(|parent| parent.strip_prefix(root).ok())
            else {
                continue;
            };
            let kind = text("/target/kind/0").unwrap_or_default();
            // A program is known by its name: there is one of each in target/debug.
            let directory = match kind {
                "test" => directory.to_string_lossy().into_owned(),
                _ => String::new(),
            };
            found.insert([kind.to_owned(), directory, name.to_owned()], path.into());
        }
        Self(found)
    }

    /// The test itself.
    ///
    /// # Errors
    /// Cargo has not built it.
    pub(super) fn test(&self, suite: &Suite) -> Result<&Path> {
        self.path("test", suite.directory, suite.test)
    }

    /// A program of a suite.
    ///
    /// # Errors
    /// Cargo has not built it.
    pub(super) fn built(&self, built: Built) -> Result<&Path> {
        match built {
            Built::Program(name) => self.path("bin", "", name),
            Built::Example(name) => self.path("example", "", name),
        }
    }

    fn path(&self, kind: &str, directory: &str, name: &str) -> Result<&Path> {
        let key = [kind, directory, name].map(str::to_owned);
        let path = self.0.get(&key);
        path.map(PathBuf::as_path)
            .with_context(|| format!("cargo has built no {kind} {directory}:{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::suites::SUITES;
    use super::*;

    #[test]
    fn what_was_built_is_found_by_its_kind_and_package() {
        let message = |directory: &str, kind: &str, name: &str, path: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/{directory}/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"executable":{path}}}"#
            )
        };
        let messages = [
            message("agentguard/keeper", "test", "gate", r#""/w/target/gate-1""#),
            message("agentguard", "test", "gate", r#""/w/target/gate-2""#),
            message("agentguard/keeper", "lib", "agentguard_keeper", "null"),
            message(
                "agentguard",
                "bin",
                "agentguard",
                r#""/w/target/agentguard""#,
            ),
            message(
                "agentguard/keeper",
                "example",
                "run_client",
                r#""/w/target/x""#,
            ),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
            "no JSON".to_owned(),
        ];
        let found = Executables::read(Path::new("/w"), &messages.join("\n"));
        let [gate, run, ..] = SUITES;
        assert_eq!(found.test(&gate).unwrap(), Path::new("/w/target/gate-1"));
        let program = found.built(Built::Program("agentguard")).unwrap();
        assert_eq!(program, Path::new("/w/target/agentguard"));
        assert!(found.built(Built::Example("run_client")).is_ok());
        let error = found.test(&run).unwrap_err().to_string();
        assert_eq!(error, "cargo has built no test agentguard/keeper:run");
    }
}
