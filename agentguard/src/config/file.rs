//! The file as written, and its check.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use agentguard_policy::yaml::{self, At, Place};
use agentguard_policy::{Diagnostic, Severity};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::ledger::{self, RawLedger};
use super::record::{self, RawRecord};
use super::telemetry::{self, RawTelemetry};
use super::upstreams::{self, RawUpstream};
use super::{Declared, Faults, Paths, Run};

/// Resolvers, at most. More is refused: later ones would never be asked in time.
const MAX_RESOLVERS: usize = 8;

/// Bytes of `runtime_dir`, at most: a unix socket's path holds 107, and we append a name to it.
const MAX_RUNTIME_DIR: usize = 80;

/// Entries of `masked_paths`, at most: each is looked for when a run begins.
const MAX_MASKED: usize = 64;

/// The configuration of the guard.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys of the configuration")]
#[schemars(title = "AgentGuard configuration", rename = "Config")]
pub(super) struct File {
    /// Directory for what outlives a restart: the record, virtual addresses, agents' numbers.
    /// Default: /var/lib/agentguard.
    #[schemars(default = "state_dir")]
    state_dir: Option<At<String>>,
    /// Directory for sockets, at most 80 bytes long. Default: /run/agentguard.
    #[schemars(default = "runtime_dir")]
    runtime_dir: Option<At<String>>,
    /// The topmost governed cgroup, below a cgroup v2 mount. Default: /sys/fs/cgroup/agentguard.
    #[schemars(default = "cgroup_root")]
    cgroup_root: Option<At<String>>,
    /// Directory for the gate's links and maps, below a bpf mount.
    /// Default: /sys/fs/bpf/agentguard.
    #[schemars(default = "bpffs")]
    bpffs: Option<At<String>>,
    /// The policy file, relative to the directory of this file. Default: policy.yaml.
    #[schemars(default = "policy")]
    policy: Option<At<String>>,
    /// A file of prices of language models, relative to the directory of this file, which comes
    /// before the prices that are built in. Default: none.
    prices: Option<At<String>>,
    /// The user that the worker runs as, by name or number; never root. Default: agentguard.
    #[schemars(default = "worker_user")]
    worker_user: Option<At<User>>,
    /// Where allowed names are resolved: addresses with ports. Default: the name servers of
    /// /etc/resolv.conf.
    #[schemars(length(min = 1, max = 8))]
    resolvers: Option<At<Vec<At<String>>>>,
    /// Upstreams that are reached or verified in another way than others: where they are, and, for
    /// TLS that is inspected, their authorities and names, and who the guard says it is.
    /// Default: none.
    #[schemars(length(max = 64))]
    upstreams: Option<At<Vec<At<RawUpstream>>>>,
    /// TCP port of the proxy on loopback, in each governed network namespace. Default: 15001.
    #[schemars(range(min = 1), default = "proxy_port")]
    proxy_port: Option<At<u16>>,
    /// UDP and TCP port of the resolver on loopback, in each governed network namespace.
    /// Default: 15053.
    #[schemars(range(min = 1), default = "resolver_port")]
    resolver_port: Option<At<u16>>,
    /// The sandbox of `agentguard run`. Default: it is not strict, and masks what it masks anyway.
    run: Option<RawRun>,
    /// What is told to outside, in figures and traces. Default: nothing.
    telemetry: Option<RawTelemetry>,
    /// Where it is kept what was used of budgets. Default: on this host, in `state_dir`.
    ledger: Option<RawLedger>,
    /// How much the record keeps. Default: 10 GiB, of each agent up to 512 MiB a day and 500 decisions a second.
    record: Option<RawRecord>,
}

/// The sandbox of `agentguard run`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "keys and values")]
#[schemars(rename = "Run")]
struct RawRun {
    /// Refuse to run where something of the sandbox cannot be applied on this host.
    /// Default: false, and `agentguard status` says what is missing.
    #[serde(default)]
    strict: Option<bool>,
    /// Files and directories, sockets of daemons above all, that agents do not see, beside those
    /// that are masked anyway. A `*` in the last part stands for any run of characters.
    /// Default: none.
    #[serde(default)]
    #[schemars(length(max = 64))]
    masked_paths: Option<At<Vec<At<String>>>>,
}

fn state_dir() -> String {
    "/var/lib/agentguard".into()
}
fn runtime_dir() -> String {
    "/run/agentguard".into()
}
fn cgroup_root() -> String {
    "/sys/fs/cgroup/agentguard".into()
}
fn bpffs() -> String {
    "/sys/fs/bpf/agentguard".into()
}
fn policy() -> String {
    "policy.yaml".into()
}
fn worker_user() -> User {
    User::Name("agentguard".into())
}
fn masked_path() -> String {
    "/run/docker.sock".into()
}
fn proxy_port() -> u16 {
    15001
}
fn resolver_port() -> u16 {
    15053
}

/// A user by name or number.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub(super) enum User {
    /// By name.
    Name(String),
    /// By number.
    Uid(u32),
}

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = User;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name or the number of a user")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<User, E> {
                Ok(text
                    .parse()
                    .map_or_else(|_| User::Name(text.to_owned()), User::Uid))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<User, E> {
                u32::try_from(number)
                    .map(User::Uid)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Uid(uid) => uid.fmt(f),
        }
    }
}

/// A value and where it stands; at [`Place::default`] if it does not stand in the file.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    place: Place,
}

impl<T> Located<T> {
    pub(super) fn of(field: Option<At<T>>, default: impl FnOnce() -> T) -> Self {
        match field {
            Some(At { value, place, .. }) => Self { value, place },
            None => Self {
                value: default(),
                place: Place::default(),
            },
        }
    }

    /// What stands in the file.
    pub(super) fn at(field: At<T>) -> Self {
        Self {
            value: field.value,
            place: field.place,
        }
    }

    /// Another value in the same place.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located {
            value: change(self.value),
            place: self.place,
        }
    }

    /// What is wrong with it.
    pub(super) fn fault(
        &self,
        file: &Path,
        message: String,
        hint: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            path: file.display().to_string(),
            line: self.place.line,
            column: self.place.column,
            message,
            hint: hint.into(),
        }
    }
}

/// The JSON Schema of the file.
pub(crate) fn schema() -> schemars::Schema {
    schemars::schema_for!(File)
}

impl Declared {
    /// Reads the text of a file. Relative paths count from the file's directory.
    ///
    /// # Errors
    /// Every fault at once; what can be told of the values comes after what can be told of the form.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        // Every key has a default, so a file in which all of them are commented out is whole.
        let nothing = text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let text = if nothing { "{}" } else { text };
        let file: File = yaml::parse_all(&path.display().to_string(), text)?;
        let mut check = Check {
            file: path,
            faults: Vec::new(),
        };
        let paths = Paths {
            state_dir: check.directory("state_dir", file.state_dir, state_dir),
            runtime_dir: check.runtime_dir(file.runtime_dir),
            cgroup_root: check.below_a_mount("cgroup_root", file.cgroup_root, cgroup_root),
            bpffs: check.below_a_mount("bpffs", file.bpffs, bpffs),
            policy: check.policy(file.policy),
            prices: file
                .prices
                .map(|it| check.beside("prices", it, "prices.yaml")),
        };
        let proxy_port = Located::of(file.proxy_port, proxy_port);
        let resolver_port = Located::of(file.resolver_port, resolver_port);
        check.ports(&proxy_port, &resolver_port);
        let resolvers = check.resolvers(file.resolvers, resolver_port.value);
        let run = check.run(file.run.unwrap_or_default());
        let upstreams = upstreams::check(path, file.upstreams, &mut check.faults);
        let telemetry = file.telemetry.unwrap_or_default();
        let telemetry = telemetry::check(path, telemetry, &mut check.faults);
        let ledger = file.ledger.unwrap_or_default();
        let ledger = ledger::check(path, ledger, &mut check.faults);
        let record = file.record.unwrap_or_default();
        let record = record::check(path, record, &mut check.faults);
        if check.faults.is_empty() {
            Ok(Self {
                file: path.to_owned(),
                paths,
                proxy_port: proxy_port.value,
                resolver_port: resolver_port.value,
                worker_user: Located::of(file.worker_user, worker_user),
                resolvers,
                upstreams,
                run,
                telemetry,
                ledger,
                record,
            })
        } else {
            Err(Faults::from(check.faults))
        }
    }
}

/// The faults found so far.
struct Check<'a> {
    file: &'a Path,
    faults: Vec<Diagnostic>,
}

impl Check<'_> {
    fn fault<T>(&mut self, at: &Located<T>, message: String, hint: impl Into<String>) {
        self.faults.push(at.fault(self.file, message, hint));
    }

    fn directory(
        &mut self,
        key: &str,
        field: Option<At<String>>,
        default: fn() -> String,
    ) -> PathBuf {
        let field = Located::of(field, default);
        self.absolute(key, &field, default)
    }

    fn absolute(&mut self, key: &str, field: &Located<String>, default: fn() -> String) -> PathBuf {
        let path = PathBuf::from(&field.value);
        if field.value.contains('\0') {
            self.fault(field, format!("`{key}` holds a NUL character"), "remove it");
        } else if !path.is_absolute() {
            self.fault(
                field,
                format!("`{key}` is not an absolute path"),
                format!("begin it with `/`, as in the default {}", default()),
            );
        } else if path.components().any(|part| part == Component::ParentDir) {
            self.fault(
                field,
                format!("`{key}` goes up with `..`"),
                "write the path it comes out at",
            );
        } else if path.parent().is_none() {
            self.fault(
                field,
                format!("`{key}` is the root directory"),
                format!(
                    "give it a directory of its own, as in the default {}",
                    default()
                ),
            );
        }
        path
    }

    fn runtime_dir(&mut self, field: Option<At<String>>) -> PathBuf {
        let field = Located::of(field, runtime_dir);
        let path = self.absolute("runtime_dir", &field, runtime_dir);
        if field.value.len() > MAX_RUNTIME_DIR {
            self.fault(
                &field,
                format!(
                    "`runtime_dir` is {} bytes long, and a socket's path has no room for more than {MAX_RUNTIME_DIR}",
                    field.value.len()
                ),
                "choose a shorter path, as in the default /run/agentguard",
            );
        }
        path
    }

    /// Directories that the guard makes below a mount, and removes again.
    fn below_a_mount(
        &mut self,
        key: &str,
        field: Option<At<String>>,
        default: fn() -> String,
    ) -> PathBuf {
        let field = Located::of(field, default);
        let path = self.absolute(key, &field, default);
        if [
            "/sys",
            "/sys/fs",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/sys/fs/bpf",
        ]
        .iter()
        .any(|mount| path == Path::new(mount))
        {
            self.fault(
                &field,
                format!("`{key}` is the mount itself, which belongs to all of the host"),
                format!("name a directory below it, as in the default {}", default()),
            );
        }
        path
    }

    fn run(&mut self, raw: RawRun) -> Run {
        let masked = raw.masked_paths.map(Located::at);
        if let Some(list) = &masked
            && list.value.len() > MAX_MASKED
        {
            let message = format!("`masked_paths` has more than {MAX_MASKED} entries");
            self.fault(
                list,
                message,
                "name directories, or use `*` in the last part",
            );
        }
        let masked = masked.map(|list| list.value).unwrap_or_default();
        Run {
            strict: raw.strict.unwrap_or_default(),
            masked_paths: masked
                .into_iter()
                .map(|path| self.absolute("masked_paths", &Located::at(path), masked_path))
                .collect(),
        }
    }

    fn policy(&mut self, field: Option<At<String>>) -> PathBuf {
        let field = Located::of(field, policy);
        if field.value.is_empty() || field.value.contains('\0') {
            self.fault(
                &field,
                "`policy` is not a path".into(),
                "name the policy file, as in the default policy.yaml",
            );
        }
        self.beside_it(&field.value)
    }

    /// A file that is named from the directory of the configuration.
    fn beside(&mut self, key: &str, field: At<String>, example: &str) -> PathBuf {
        let field = Located::at(field);
        if field.value.is_empty() || field.value.contains('\0') {
            let message = format!("`{key}` is not a path");
            let hint = format!("name the file, as {example}, or leave the key out");
            self.fault(&field, message, hint);
        }
        self.beside_it(&field.value)
    }

    fn beside_it(&self, path: &str) -> PathBuf {
        let base = self.file.parent().unwrap_or(Path::new("/"));
        // A relative name of the configuration itself counts from the working directory.
        std::path::absolute(base.join(path)).unwrap_or_else(|_| base.join(path))
    }

    fn ports(&mut self, proxy: &Located<u16>, resolver: &Located<u16>) {
        for (key, port, default) in [
            ("proxy_port", proxy, proxy_port()),
            ("resolver_port", resolver, resolver_port()),
        ] {
            if port.value == 0 {
                self.fault(
                    port,
                    format!("`{key}` is 0, which is no port"),
                    format!("choose one from 1 to 65535, as in the default {default}"),
                );
            }
        }
        if proxy.value == resolver.value && proxy.value != 0 {
            // The one that stands in the file is the one to change.
            let at = if resolver.place == Place::default() {
                proxy
            } else {
                resolver
            };
            self.fault(
                at,
                format!(
                    "`proxy_port` and `resolver_port` are both {}, and both listen on TCP",
                    proxy.value
                ),
                "choose two different ports",
            );
        }
    }

    fn resolvers(
        &mut self,
        field: Option<At<Vec<At<String>>>>,
        own_port: u16,
    ) -> Located<Option<Vec<SocketAddr>>> {
        let Some(field) = field else {
            return Located::of(None, || None);
        };
        let list = Located::of(Some(field), Vec::new);
        if list.value.is_empty() || list.value.len() > MAX_RESOLVERS {
            self.fault(
                &list,
                format!(
                    "`resolvers` has {} entries, and 1 to {MAX_RESOLVERS} make sense",
                    list.value.len()
                ),
                "leave the key out to use the host's own resolvers",
            );
        }
        let mut addresses = Vec::new();
        for entry in list.value.iter().take(MAX_RESOLVERS) {
            let entry = Located::of(Some(entry.clone()), String::new);
            match resolver(&entry.value, own_port) {
                Ok(address) => addresses.push(address),
                Err((message, hint)) => self.fault(&entry, message, hint),
            }
        }
        Located {
            value: Some(addresses),
            place: list.place,
        }
    }
}

/// An address with a port at which a resolver other than our own can be.
fn resolver(text: &str, own_port: u16) -> Result<SocketAddr, (String, String)> {
    let shown: String = text.chars().take(80).collect();
    let address: SocketAddr = text.parse().map_err(|_| {
        let hint = match text.parse() {
            Ok(ip) => format!("add the port: {}", SocketAddr::new(ip, 53)),
            Err(_) => "write an address and a port, as 192.0.2.53:53 or [2001:db8::53]:53".into(),
        };
        (format!("`{shown}` is not an address with a port"), hint)
    })?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err((
            format!("no resolver can be asked at {address}"),
            "write the address and the port it listens on, as 192.0.2.53:53".into(),
        ));
    }
    if address.ip().to_canonical().is_loopback() && address.port() == own_port {
        return Err((
            format!("{address} is the guard's own resolver, which would ask itself"),
            "name the resolver that the host itself uses, or change `resolver_port`".into(),
        ));
    }
    Ok(address)
}
