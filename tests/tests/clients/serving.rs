//! Real servers at a site of the world, and a guard that trusts them.

use std::fs;
use std::path::PathBuf;

use agentguard_tests::{Invocation, Process, World, wait_until};
use anyhow::{Result, anyhow};
use serde_json::json;

use crate::room::{LATE, Room};

/// Files with a certificate for `host`, by the world's authority, and with its key.
pub(crate) fn certified(world: &World, host: &str) -> Result<[PathBuf; 2]> {
    let (certificate, key) = world.ca().certify_pem(&[host.to_owned()])?;
    let [certificate_file, key_file] = ["server.pem", "server-key.pem"];
    let file = |name: &str, text: String| {
        let path = world.directory().join(name);
        fs::write(&path, text).map(|()| path)
    };
    Ok([file(certificate_file, certificate)?, file(key_file, key)?])
}

/// Starts a server that says `serving` once it does.
pub(crate) fn serving(server: Invocation<'_>) -> Result<Process> {
    let mut server = server.spawn()?;
    wait_until("the server", LATE, || {
        match server.ended() {
            Ok(None) => {}
            ended => return Some(Err(anyhow!("{ended:?}: {}", server.stderr()))),
        }
        server.stdout().contains("serving").then_some(Ok(()))
    })??;
    Ok(server)
}

/// A guard with this policy that trusts the world's authority for `host`.
pub(crate) fn trusting<'w>(world: &'w World, host: &str, policy: &str) -> Result<Room<'w>> {
    let upstreams = json!([{ "host": [host], "ca": world.ca_file() }]);
    let guard = world.guard().policy(policy);
    Ok(Room::of(
        world,
        guard.setting("upstreams", upstreams).start()?,
    ))
}
