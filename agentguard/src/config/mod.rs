//! The configuration: one YAML file that says where things are. What agents may do is in the policy.
//!
//! [`File`] is the file as written; [`Declared`] is what it says, checked as far as the text allows;
//! [`Config`] is what the daemon runs on, with the worker's user and the resolvers looked up on this
//! host. Clients and `doctor` need the paths only and stop at [`Declared`], so that they also work
//! on a host where the daemon could not start.
//!
//! **Invariant:** every path in a [`Config`] is absolute and without `..`, every port is usable and
//! distinct, the worker is not root, and there is at least one resolver that is not our own.

mod credentials;
pub(crate) mod exposed;
mod file;
mod host;
mod ledger;
mod record;
pub(crate) mod sources;
mod telemetry;
pub(crate) mod text;
mod upstreams;

pub(crate) use file::schema;
pub(crate) use host::Host;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use agentguard_model::ledger::SharedLedger;
use agentguard_model::record::RecordLimits;
use agentguard_model::{Telemetry, UpstreamEntry};
use agentguard_policy::{Diagnostic, Diagnostics, Severity};

use crate::cli::failure::chain;
use text::Written;

/// Where the configuration is looked for when nothing else is said.
pub(crate) const DEFAULT_FILE: &str = "/etc/agentguard/config.yaml";

/// What the daemon runs on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Config {
    /// The file it was read from.
    pub(crate) file: PathBuf,
    /// Where things are.
    pub(crate) paths: Paths,
    /// TCP port of the proxy on loopback, in each governed network namespace.
    pub(crate) proxy_port: u16,
    /// UDP and TCP port of the resolver on loopback, in each governed network namespace.
    pub(crate) resolver_port: u16,
    /// The user that the worker runs as; never root.
    pub(crate) worker: Worker,
    /// Where allowed names are resolved, in the order of preference; never empty.
    pub(crate) resolvers: Vec<SocketAddr>,
    /// Upstreams that are reached or verified in another way than others.
    pub(crate) upstreams: Vec<UpstreamEntry>,
    /// The sandbox of `agentguard run`.
    pub(crate) run: Run,
    /// What is told to outside.
    pub(crate) telemetry: Telemetry,
    /// Where budgets are kept, if not on this host.
    pub(crate) ledger: Option<SharedLedger>,
    /// How much the record keeps.
    pub(crate) record: RecordLimits,
}

/// The sandbox of `agentguard run`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Run {
    /// Whether it has to be whole.
    pub(crate) strict: bool,
    /// What is masked beside the built-in list. Absolute; a `*` may stand in the last part.
    pub(crate) masked_paths: Vec<PathBuf>,
}

/// Where things are. All absolute.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Paths {
    /// What outlives a restart: the record, virtual addresses, agents' numbers.
    pub(crate) state_dir: PathBuf,
    /// What does not: sockets.
    pub(crate) runtime_dir: PathBuf,
    /// The topmost governed cgroup, below a cgroup v2 mount.
    pub(crate) cgroup_root: PathBuf,
    /// Where links and maps are pinned, below a bpf mount.
    pub(crate) bpffs: PathBuf,
    /// The policy.
    pub(crate) policy: PathBuf,
    /// The operator's prices of language models.
    pub(crate) prices: Option<PathBuf>,
}

/// A user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Worker {
    /// Its name, or its number where it has none.
    pub(crate) name: String,
    /// Its number, not 0.
    pub(crate) uid: u32,
    /// Its primary group, not 0.
    pub(crate) gid: u32,
}

/// What the file says, checked as far as the text allows.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    file: PathBuf,
    pub(crate) paths: Paths,
    pub(crate) proxy_port: u16,
    pub(crate) resolver_port: u16,
    worker_user: file::Located<file::User>,
    resolvers: file::Located<Option<Vec<SocketAddr>>>,
    upstreams: Vec<upstreams::Declared>,
    run: Run,
    pub(crate) telemetry: telemetry::Declared,
    ledger: Option<ledger::Declared>,
    record: RecordLimits,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the {what} {path}")]
    Unreadable {
        what: Written,
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("{0}")]
    Wrong(Faults),
}

impl ConfigError {
    /// What to do about a file that cannot be read. `named`: it was named where the command was given, and not in
    /// the configuration.
    pub(crate) fn hint(&self, named: bool) -> Option<&'static str> {
        let Self::Unreadable { what, source, .. } = self else {
            return None;
        };
        let example = match what {
            Written::Policy if !named => {
                "docs/policy.md has an example; the configuration's `policy` names the file"
            }
            Written::Policy | Written::Tests | Written::OpenApi => "docs/policy.md has an example",
            Written::Prices if !named => {
                "docs/budgets.md has an example; the configuration's `prices` names the file"
            }
            Written::Prices | Written::PriceList => "docs/budgets.md has an example",
            Written::Configuration => {
                "docs/configuration.md has an example; name another file with --config or AGENTGUARD_CONFIG"
            }
        };
        Some(text::hint(source).unwrap_or(example))
    }

    /// The same, one fault of a file after the other. One of a file that cannot be read is without a place in it.
    pub(crate) fn faults(&self, named: bool) -> Vec<Diagnostic> {
        match self {
            Self::Wrong(Faults(faults)) => faults.clone(),
            Self::Unreadable { what, path, source } => vec![Diagnostic {
                severity: Severity::Error,
                path: path.clone(),
                line: 0,
                column: 0,
                message: format!("cannot read the {what}: {}", chain(source)),
                hint: self.hint(named).unwrap_or_default().to_owned(),
            }],
        }
    }
}

/// Everything that is wrong with a file, in the words and the form of the policy's compiler.
#[derive(Debug)]
pub(crate) struct Faults(pub(crate) Vec<Diagnostic>);

impl From<Vec<Diagnostic>> for Faults {
    fn from(mut faults: Vec<Diagnostic>) -> Self {
        faults.sort_by_key(|fault| (fault.line, fault.column));
        Self(faults)
    }
}

impl From<Diagnostics> for Faults {
    fn from(faults: Diagnostics) -> Self {
        Self(faults.into_iter().collect())
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl Paths {
    /// The socket that reads are asked on.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.runtime_dir.join("control.sock")
    }

    /// The socket that agents ask on about tools on their own host.
    pub(crate) fn agents_socket(&self) -> PathBuf {
        self.runtime_dir.join("agents.sock")
    }

    /// The socket that changes are asked on.
    pub(crate) fn keeper_socket(&self) -> PathBuf {
        self.runtime_dir.join("keeper.sock")
    }
}

impl Declared {
    /// The Redis that hosts share, if one is named: without what is in files.
    pub(crate) fn ledger(&self) -> Option<&SharedLedger> {
        self.ledger.as_ref().map(ledger::Declared::ledger)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`], with every fault of the text at once.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = text::read(Written::Configuration, path)?;
        Self::parse(path, &text).map_err(ConfigError::Wrong)
    }

    /// As [`Self::read`], but where nobody named a file and the default one does not exist, the
    /// defaults hold.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_or_default(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        match path {
            Some(path) => Self::read(path),
            None if default.exists() => Self::read(default),
            None => Self::parse(default, "{}").map_err(ConfigError::Wrong),
        }
    }

    /// The file itself, whether or not it is there.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Looks up on this host what the file only names.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`]: no such user, a user that is root, no resolver.
    pub(crate) fn resolve(self, host: &Host) -> Result<Config, ConfigError> {
        let (worker, resolvers, upstreams, telemetry, ledger) = host
            .look_up(&self)
            .map_err(|faults| ConfigError::Wrong(Faults::from(faults)))?;
        Ok(Config {
            file: self.file,
            paths: self.paths,
            proxy_port: self.proxy_port,
            resolver_port: self.resolver_port,
            worker,
            resolvers,
            upstreams,
            run: self.run,
            telemetry,
            ledger,
            record: self.record,
        })
    }
}

#[cfg(test)]
mod tests;
