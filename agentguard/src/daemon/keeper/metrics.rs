//! Where figures are asked for. The worker, who answers, can bind neither ports nor sockets.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use agentguard_keeper::groups::READ;
use anyhow::{Context as _, bail};

use super::open_to;
use crate::config::{Config, exposed};

/// Listens where the configuration says, if it does. A port that somebody else has is no reason to leave agents without
/// a guard: then there is a sentence for `status`, and no listener. `read`: the group that may ask, beside root.
pub(super) fn listen(config: &Config, read: Option<u32>) -> (Option<OwnedFd>, Option<String>) {
    let Some(place) = &config.telemetry.prometheus else {
        return (None, None);
    };
    let listening = match Path::new(place).is_absolute() {
        true => at_path(Path::new(place), read),
        false => at_address(place).map(|listener| (listener, None)),
    };
    match listening {
        Ok((listener, lack)) => (Some(listener), lack),
        Err(error) => {
            let lack = format!(
                "nobody answers at {place} (`telemetry`): {error:#}; mend that, or name another place, and restart the daemon"
            );
            tracing::error!("{lack}");
            (None, Some(lack))
        }
    }
}

fn at_address(address: &str) -> anyhow::Result<OwnedFd> {
    let listener = TcpListener::bind(address).context("cannot listen there")?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

/// A socket of root's, which members of a group may connect to. One that an earlier daemon left is replaced; nothing
/// else is.
fn at_path(path: &Path, read: Option<u32>) -> anyhow::Result<(OwnedFd, Option<String>)> {
    let directory = path.parent().context("it is in no directory")?;
    exposed::directory("telemetry", directory)?;
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => {
            fs::remove_file(path).context("cannot remove the socket that is there")?;
        }
        Ok(_) => bail!("something else than a socket is there"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot look whether a socket is there"),
    }
    let listener = UnixListener::bind(path).context("cannot listen there")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("cannot close it")?;
    let lack = open_to(path, &[(READ, read)])?;
    listener.set_nonblocking(true)?;
    Ok((listener.into(), lack))
}
