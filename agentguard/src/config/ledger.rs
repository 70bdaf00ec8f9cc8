//! Where budgets are kept.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agentguard_model::ledger::{OnLoss, Password, SharedLedger};
use agentguard_policy::Diagnostic;
use agentguard_policy::yaml::At;
use agentguard_protocol::authority::{Authority, Host};
use agentguard_proxy::check_authority;
use schemars::JsonSchema;
use serde::Deserialize;

use super::credentials;
use super::file::Located;
use super::upstreams::certificates;

/// Bytes of certificates, at most: they go to the worker in one message.
const MAX_BYTES: usize = 16 * 1024;
/// Bytes of the prefix and of the user, at most.
const MAX_WORD: usize = 64;
/// The port of Redis.
const PORT: u16 = 6379;
/// Milliseconds that an answer is waited for: the least, where nothing is said, and the most.
const TIMEOUT: (u64, u64, u64) = (10, 250, 5000);
/// Percent of a limit that is drawn in advance, where nothing is said, and at most.
const LEASE: (u8, u8) = (OnLoss::PERCENT, 50);

const ADDRESS_HINT: &str = "write a host and a port, as \"redis.example.com:6379\"";
const PASSWORD_HINT: &str =
    "put the password, one line, into a file of root's with mode 0600, and name that";

/// Where it is kept what was used of budgets. Default: on this host, in `state_dir`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`redis`")]
#[schemars(rename = "Ledger")]
pub(super) struct RawLedger {
    /// A Redis in which several hosts share their budgets.
    #[serde(default)]
    redis: Option<RawRedis>,
}

/// A Redis in which several hosts share their budgets.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "`address`, and `prefix`, `username`, `password_file`, `tls`, `ca`, `timeout_ms`, `on_loss` or `lease_percent`"
)]
#[schemars(rename = "Redis")]
struct RawRedis {
    /// Where it is: host and port (6379, if none is said). Of a cluster any node.
    address: At<String>,
    /// What all keys begin with, within braces: `{agentguard:PREFIX}`. Hosts with the same share their budgets.
    /// Default: default.
    #[serde(default)]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    prefix: Option<At<String>>,
    /// As whom the guard says it comes, where Redis has more users than one. Default: nobody in particular.
    #[serde(default)]
    username: Option<At<String>>,
    /// A file with the password in one line, that only root can read. The worker gets it.
    #[serde(default)]
    password_file: Option<At<String>>,
    /// Whether TLS is spoken. It is always verified. Default: false.
    #[serde(default)]
    tls: Option<At<bool>>,
    /// A file with the certificates of its authorities in PEM. They are trusted in addition to the system's.
    #[serde(default)]
    ca: Option<At<String>>,
    /// How long an answer is waited for, in milliseconds. Default: 250.
    #[serde(default)]
    #[schemars(range(min = 10, max = 5000))]
    timeout_ms: Option<At<u64>>,
    /// What becomes of calls that a budget counts while Redis is away. Default: deny.
    #[serde(default)]
    on_loss: Option<At<RawOnLoss>>,
    /// With `on_loss: lease`: how much of each account's limit is drawn in advance, in percent. Default: 5.
    #[serde(default)]
    #[schemars(range(min = 1, max = 50))]
    lease_percent: Option<At<u64>>,
}

/// What becomes of calls while Redis is away.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OnLedgerLoss")]
enum RawOnLoss {
    /// They are refused.
    #[default]
    Deny,
    /// They go on with what each host has drawn in advance, until that is used up.
    Lease,
}

/// The same, checked as far as the text allows.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    /// Without what is in files.
    ledger: SharedLedger,
    password: Option<Located<PathBuf>>,
    ca: Option<Located<PathBuf>>,
}

impl Declared {
    /// Without what is in files.
    pub(crate) const fn ledger(&self) -> &SharedLedger {
        &self.ledger
    }
}

/// Reads the key's value.
pub(super) fn check(file: &Path, raw: RawLedger, faults: &mut Vec<Diagnostic>) -> Option<Declared> {
    let mut check = Check { file, faults };
    check.redis(raw.redis?)
}

struct Check<'a> {
    file: &'a Path,
    faults: &'a mut Vec<Diagnostic>,
}

impl Check<'_> {
    fn fault<T>(&mut self, at: &Located<T>, message: impl Into<String>, hint: &str) {
        self.faults.push(at.fault(self.file, message.into(), hint));
    }

    fn redis(&mut self, raw: RawRedis) -> Option<Declared> {
        let prefix = self.prefix(raw.prefix);
        let username = raw.username.and_then(|name| self.username(name));
        let password = raw.password_file;
        let password = password.and_then(|path| self.path("password_file", path));
        let ca = raw.ca.and_then(|path| self.path("ca", path));
        let tls = raw.tls.is_some_and(|tls| tls.value);
        if let (Some(ca), false) = (&ca, tls) {
            let message = "`ca` is for TLS, and there is no `tls: true`";
            self.fault(ca, message, "add `tls: true`, or leave `ca` out");
        }
        let timeout = self.timeout(raw.timeout_ms);
        let on_loss = self.on_loss(raw.on_loss, raw.lease_percent);
        let address = Located::at(raw.address);
        let Some((host, port)) = read_address(&address.value) else {
            // It may have a password in it.
            self.fault(&address, "`address` is not that of a Redis", ADDRESS_HINT);
            return None;
        };
        if let (Some(name), None) = (&username, &password) {
            let message = "`username` is nothing without a password";
            self.fault(name, message, "add `password_file`, or leave it out");
        }
        let ledger = SharedLedger {
            host,
            port,
            prefix,
            username: username.map(|it| it.value),
            password: None,
            tls,
            certificates: Vec::new(),
            timeout,
            on_loss,
        };
        Some(Declared {
            ledger,
            password,
            ca,
        })
    }

    fn prefix(&mut self, raw: Option<At<String>>) -> String {
        let prefix = Located::of(raw, || "default".to_owned());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let text = &prefix.value;
        if text.is_empty() || text.len() > MAX_WORD || !text.bytes().all(plain) {
            let message =
                "`prefix` is empty, too long, or has something in it that may not be in keys";
            let hint = "write up to 64 letters, digits, `.`, `_` and `-`, as `production`";
            self.fault(&prefix, message, hint);
        }
        prefix.value
    }

    fn username(&mut self, raw: At<String>) -> Option<Located<String>> {
        let name = Located::at(raw);
        let text = &name.value;
        if text.is_empty() || text.len() > MAX_WORD || text.chars().any(char::is_control) {
            let message = "`username` is empty, too long, or has a control character in it";
            self.fault(&name, message, "write the name of a user of Redis");
            return None;
        }
        Some(name)
    }

    fn timeout(&mut self, raw: Option<At<u64>>) -> Duration {
        let (least, default, most) = TIMEOUT;
        let timeout = Located::of(raw, || default);
        if !(least..=most).contains(&timeout.value) {
            let message = format!("`timeout_ms` is {}", timeout.value);
            let hint = format!("choose {least} to {most}, or leave it out for {default}");
            self.fault(&timeout, message, &hint);
        }
        Duration::from_millis(timeout.value)
    }

    fn on_loss(&mut self, raw: Option<At<RawOnLoss>>, percent: Option<At<u64>>) -> OnLoss {
        let leases = raw.is_some_and(|it| it.value == RawOnLoss::Lease);
        let said = percent.is_some();
        let (default, most) = LEASE;
        let percent = Located::of(percent, || u64::from(default));
        let fits = u8::try_from(percent.value).ok();
        let fits = fits.filter(|it| (1..=most).contains(it));
        if said && !leases {
            let message = "`lease_percent` is for `on_loss: lease`";
            self.fault(&percent, message, "add that, or leave it out");
        } else if fits.is_none() {
            let message = format!("`lease_percent` is {}", percent.value);
            let hint = format!("choose 1 to {most}, or leave it out for {default}");
            self.fault(&percent, message, &hint);
        }
        match fits {
            Some(percent) if leases => OnLoss::Lease(percent),
            _ => OnLoss::Deny,
        }
    }

    fn path(&mut self, key: &str, path: At<String>) -> Option<Located<PathBuf>> {
        let at = Located::at(path);
        if at.value.is_empty() || at.value.contains('\0') {
            self.fault(&at, format!("`{key}` is not a path"), "name a file");
            return None;
        }
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        Some(at.map(|path| directory.join(path)))
    }
}

fn read_address(text: &str) -> Option<(String, u16)> {
    if text.contains(['@', '/']) {
        return None;
    }
    let authority = Authority::parse(text).ok()?;
    let host = match authority.host {
        Host::Name(name) => name.to_string(),
        Host::Ip(ip) if ip.is_unspecified() || ip.is_multicast() => return None,
        Host::Ip(ip) => ip.to_string(),
    };
    match authority.port.unwrap_or(PORT) {
        0 => None,
        port => Some((host, port)),
    }
}

/// Reads the files that it names.
pub(super) fn look_up(
    file: &Path,
    declared: &Declared,
    faults: &mut Vec<Diagnostic>,
) -> SharedLedger {
    let mut ledger = declared.ledger.clone();
    if let Some(path) = &declared.password {
        match credentials::text(&path.value).and_then(|text| read_password(&text)) {
            Ok(password) => ledger.password = Some(password),
            Err(why) => {
                let message = format!(
                    "cannot take the password from {}: {why}",
                    path.value.display()
                );
                faults.push(path.fault(file, message, PASSWORD_HINT));
            }
        }
    }
    if let Some(path) = &declared.ca {
        let found = certificates(&path.value).and_then(|found| {
            found.iter().try_for_each(|one| check_authority(one))?;
            match found.iter().map(Vec::len).sum::<usize>() <= MAX_BYTES {
                true => Ok(found),
                false => Err(format!("they have more than {MAX_BYTES} bytes together")),
            }
        });
        match found {
            Ok(found) => ledger.certificates = found,
            Err(why) => {
                let message = format!(
                    "cannot read authorities from {}: {why}",
                    path.value.display()
                );
                let hint = "name a PEM file with at least one CERTIFICATE";
                faults.push(path.fault(file, message, hint));
            }
        }
    }
    ledger
}

/// One line, which no fault repeats.
fn read_password(text: &str) -> Result<Password, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    match line {
        "" => Err("it is empty".to_owned()),
        line if line.chars().any(char::is_control) => {
            Err("it has more than one line, or control characters".to_owned())
        }
        line => Ok(Password(line.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{read_address, read_password};

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let cases = [
            ("redis.example.com", Some(("redis.example.com", 6379))),
            ("Redis.Example:7000", Some(("redis.example", 7000))),
            ("192.0.2.7:1", Some(("192.0.2.7", 1))),
            ("[2001:db8::7]:6380", Some(("2001:db8::7", 6380))),
            ("redis://redis.example.com:6379", None),
            ("me:secret@redis.example.com:6379", None),
            ("redis.example.com:0", None),
            ("0.0.0.0:6379", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let wanted = wanted.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(read_address(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_password_is_one_line() {
        assert_eq!(read_password("open sesame\n").unwrap().0, "open sesame");
        for text in ["", "\n", "secret\nsecret", "sec\tret"] {
            let why = read_password(text).unwrap_err();
            assert!(!why.contains("sec"), "{why}");
        }
    }
}
