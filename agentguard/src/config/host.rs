//! What the configuration only names, looked up on this host.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use agentguard_policy::Diagnostic;

use super::file::User;
use agentguard_model::ledger::SharedLedger;
use agentguard_model::{Telemetry, UpstreamEntry};

use super::{Declared, Worker, ledger, telemetry, upstreams};

/// Where this host keeps its users and its resolvers.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// passwd(5).
    pub(crate) passwd: PathBuf,
    /// resolv.conf(5).
    pub(crate) resolv_conf: PathBuf,
}

/// See [`Host::look_up`].
pub(super) type LookedUp = (
    Worker,
    Vec<SocketAddr>,
    Vec<UpstreamEntry>,
    Telemetry,
    Option<SharedLedger>,
);

impl Default for Host {
    fn default() -> Self {
        Self {
            passwd: "/etc/passwd".into(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}

impl Host {
    /// The worker's user, the resolvers, the upstreams' authorities and what telemetry and ledger need, or
    /// everything that is wrong with them.
    pub(super) fn look_up(&self, declared: &Declared) -> Result<LookedUp, Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let upstreams = upstreams::look_up(&declared.file, &declared.upstreams, &mut faults);
        let telemetry = telemetry::look_up(&declared.file, &declared.telemetry, &mut faults);
        let ledger = declared.ledger.as_ref();
        let ledger = ledger.map(|it| ledger::look_up(&declared.file, it, &mut faults));
        match (self.worker(declared), self.resolvers(declared)) {
            (Ok(worker), Ok(resolvers)) if faults.is_empty() => {
                Ok((worker, resolvers, upstreams, telemetry, ledger))
            }
            (worker, resolvers) => {
                faults.extend(worker.err().into_iter().chain(resolvers.err()));
                Err(faults)
            }
        }
    }

    /// The user that the worker runs as. One given by a number that has no entry gets the group of
    /// the same number.
    pub(crate) fn worker(&self, declared: &Declared) -> Result<Worker, Diagnostic> {
        let user = &declared.worker_user;
        let fault = |message: String, hint: String| user.fault(&declared.file, message, hint);
        let passwd = std::fs::read_to_string(&self.passwd).map_err(|error| {
            fault(
                format!("cannot read {}: {error}", self.passwd.display()),
                "the worker's user is looked up there".into(),
            )
        })?;
        let worker = match (find(&passwd, &user.value), &user.value) {
            (Some(worker), _) => worker,
            (None, User::Uid(uid)) => Worker {
                name: uid.to_string(),
                uid: *uid,
                gid: *uid,
            },
            (None, User::Name(name)) => {
                return Err(fault(
                    format!(
                        "the worker's user `{}` does not exist",
                        name.chars().take(80).collect::<String>()
                    ),
                    create(name),
                ));
            }
        };
        // setresuid(2) takes the highest number for "as it is".
        if worker.uid == u32::MAX || worker.gid == u32::MAX {
            return Err(fault(
                format!("`{}` is no user: its number stands for none", user.value),
                create("agentguard"),
            ));
        }
        if worker.uid == 0 || worker.gid == 0 {
            return Err(fault(
                format!(
                    "the worker's user `{}` is root or in root's group",
                    user.value
                ),
                format!(
                    "the worker reads hostile bytes and must own nothing; {}",
                    create("agentguard")
                ),
            ));
        }
        Ok(worker)
    }

    /// Where allowed names are resolved.
    fn resolvers(&self, declared: &Declared) -> Result<Vec<SocketAddr>, Diagnostic> {
        if let Some(resolvers) = &declared.resolvers.value {
            return Ok(resolvers.clone());
        }
        let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        let found = name_servers(&text);
        if found.is_empty() {
            return Err(declared.resolvers.fault(
                &declared.file,
                format!("{} names no resolver", self.resolv_conf.display()),
                "say where names are resolved: `resolvers: [\"192.0.2.53:53\"]`",
            ));
        }
        Ok(found)
    }
}

/// The command that creates a user, if its name can be put into a command.
fn create(name: &str) -> String {
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && !name.starts_with('-');
    let name = if plain { name } else { "agentguard" };
    format!(
        "create a user for it: useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {name}"
    )
}

/// An entry of passwd(5): name, password, uid, gid, …
fn find(passwd: &str, user: &User) -> Option<Worker> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        let wanted = match user {
            User::Name(wanted) => wanted == name,
            User::Uid(wanted) => *wanted == uid,
        };
        wanted.then(|| Worker {
            name: name.to_owned(),
            uid,
            gid,
        })
    })
}

/// The name servers of resolv.conf(5), which speak on port 53. One with a scope (`fe80::1%eth0`) is
/// left out: it means something else in another namespace.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            words.next()?.parse::<IpAddr>().ok()
        })
        .filter(|ip| !ip.is_unspecified())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{create, name_servers};

    #[test]
    fn name_servers_as_real_files_have_them() {
        let text = "# made by hand\nsearch example\nnameserver 192.0.2.53\nnameserver\t2001:db8::53\n\
                    nameserver fe80::1%eth0\nnameserver\n;nameserver 192.0.2.1\noptions edns0\n";
        let found: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.53:53", "[2001:db8::53]:53"]);
    }

    #[test]
    fn a_hostile_name_does_not_become_a_command() {
        assert!(create("worker").ends_with(" worker"));
        assert!(create("x; rm -rf /").ends_with(" agentguard"));
        assert!(create("-o").ends_with(" agentguard"));
    }
}
