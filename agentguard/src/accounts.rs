//! The users that a policy names, as this host knows them.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use agentguard_model::Users;
use agentguard_policy::{Diagnostics, Policy};

/// How long the host's databases may take for all names together. Whoever loads a policy may hold up
/// others meanwhile, and a directory service that is away would keep it for minutes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who may run the agents of a policy besides root, each name looked up in the host's databases.
///
/// # Errors
/// A name is no user's, or the databases fail or do not answer in time: with its place in the policy.
pub(crate) fn users(policy: &Policy) -> Result<Users, Diagnostics> {
    let mut known = look_up(policy.user_names());
    policy.users(|name| {
        known.remove(name).unwrap_or_else(|| {
            Err(format!(
                "the user database does not answer within {} s",
                PATIENCE.as_secs()
            ))
        })
    })
}

/// What the databases say of each name, as far as they do in time.
fn look_up(names: Vec<String>) -> HashMap<String, Result<Option<u32>, String>> {
    let mut known = HashMap::new();
    if names.is_empty() {
        return known;
    }
    let (tell, told) = mpsc::channel();
    // Nothing can break a look-up off, so it is left to itself where it takes too long.
    let asking = std::thread::Builder::new()
        .name("users".into())
        .spawn(move || {
            for name in names {
                let found =
                    agentguard_keeper::spawn::user(&name).map_err(|error| error.to_string());
                if tell.send((name, found)).is_err() {
                    return;
                }
            }
        });
    if asking.is_err() {
        return known;
    }
    let until = Instant::now() + PATIENCE;
    while let Ok((name, found)) = told.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        known.insert(name, found);
    }
    known
}
