//! The names of UNIX sockets that agents do not talk to, where the kernel runs LSM programs.

use std::collections::HashSet;

use agentguard_common::map::{UNIX_NAME, UnixNameKey, unix_name};
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;

use super::{Gate, GateError, ignore_absent, map_error};

/// Bits of the agent, which come before those of the name.
const AGENT_BITS: usize = 32;

/// Where `/var/run` leads, and what daemons that still say so bind to.
const RUN: (&str, &str) = ("/run/", "/var/run/");

impl Gate {
    /// Makes these the UNIX sockets that are refused to agents, unless they made them themselves.
    ///
    /// A pattern is a path as its daemon gives it to `bind(2)`, for the socket itself and everything
    /// below it, or with an `*` for all that begins with what is before it. Behind an `@` it is an
    /// abstract name. `/run/` and `/var/run/` are one. New lines are written before old ones go.
    ///
    /// # Errors
    /// [`GateError::Map`]; then old and new lines stand side by side, and the call can be repeated.
    pub fn refuse_unix<'a>(
        &mut self,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), GateError> {
        self.put_unix(0, patterns, unix_name::DENY)
    }

    /// Makes these the UNIX sockets that are open to one agent whatever is refused to all, abstract ones
    /// of other programs among them; patterns as for [`Self::refuse_unix`].
    ///
    /// # Errors
    /// As for [`Self::refuse_unix`].
    pub fn open_unix<'a>(
        &mut self,
        agent: u32,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), GateError> {
        self.put_unix(agent, patterns, unix_name::ALLOW)
    }

    /// Forgets what is open to agents other than these.
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn keep_open_unix(&mut self, agents: &[u32]) -> Result<(), GateError> {
        let agents: HashSet<u32> = agents.iter().copied().collect();
        self.forget_unix(|_, key| key.agent == 0 || agents.contains(&key.agent))
    }

    /// Whether a UNIX socket with this name, of somebody else, is refused to an agent; the name begins with a
    /// zero where it is abstract. As the LSM programs decide (`agentguard-ebpf`, `unix.rs`).
    ///
    /// # Errors
    /// [`GateError::Map`].
    pub fn refuses_unix(&self, agent: u32, name: &[u8]) -> Result<bool, GateError> {
        let is_abstract = name.first() == Some(&0);
        let Some(name) = padded(&[name]) else {
            return Ok(is_abstract);
        };
        let bits = u32::try_from(AGENT_BITS + 8 * UNIX_NAME).unwrap_or(u32::MAX);
        for agent in [agent, 0] {
            let key = Key::new(bits, UnixNameKey { agent, name });
            match self.unix_names.get(&key, 0) {
                Ok(verdict) => return Ok(verdict == unix_name::DENY),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(map_error("read", "UNIX_NAMES")(error)),
            }
        }
        Ok(is_abstract)
    }

    fn put_unix<'a>(
        &mut self,
        agent: u32,
        patterns: impl IntoIterator<Item = &'a str>,
        verdict: u32,
    ) -> Result<(), GateError> {
        let mut kept = HashSet::new();
        for pattern in patterns {
            for (length, name) in names(pattern) {
                let bits = u32::try_from(AGENT_BITS + 8 * length).unwrap_or(u32::MAX);
                let key = Key::new(bits, UnixNameKey { agent, name });
                self.patience
                    .write(|| self.unix_names.insert(&key, verdict, 0))
                    .map_err(map_error("write", "UNIX_NAMES"))?;
                kept.insert((bits, name));
            }
        }
        self.forget_unix(|bits, key| key.agent != agent || kept.contains(&(bits, key.name)))
    }

    fn forget_unix(&mut self, keep: impl Fn(u32, &UnixNameKey) -> bool) -> Result<(), GateError> {
        let present: Vec<Key<UnixNameKey>> = self
            .unix_names
            .keys()
            .collect::<Result<_, _>>()
            .map_err(map_error("read", "UNIX_NAMES"))?;
        for key in present {
            if !keep(key.prefix_len(), &key.data()) {
                ignore_absent(self.unix_names.remove(&key), "UNIX_NAMES")?;
            }
        }
        Ok(())
    }
}

/// The beginnings that a pattern stands for: how many bytes count, and the bytes. What is too long for
/// the name of a socket stands for none.
fn names(pattern: &str) -> Vec<(usize, [u8; UNIX_NAME])> {
    let (before, any) = match pattern.split_once('*') {
        Some((before, _)) => (before, true),
        None => (pattern.trim_end_matches('/'), false),
    };
    if let Some(name) = before.strip_prefix('@') {
        let Some(made) = padded(&[b"\0", name.as_bytes()]) else {
            return Vec::new();
        };
        let length = if any { name.len() + 1 } else { UNIX_NAME };
        return vec![(length, made)];
    }
    let spellings = match before.strip_prefix(RUN.1).or(before.strip_prefix(RUN.0)) {
        Some(rest) => vec![format!("{}{rest}", RUN.0), format!("{}{rest}", RUN.1)],
        None => vec![before.to_owned()],
    };
    let mut names = Vec::new();
    for path in spellings {
        let endings: &[&[u8]] = if any { &[b""] } else { &[b"\0", b"/"] };
        for ending in endings {
            let made = padded(&[path.as_bytes(), ending]);
            names.extend(made.map(|made| (path.len() + ending.len(), made)));
        }
    }
    names
}

fn padded(parts: &[&[u8]]) -> Option<[u8; UNIX_NAME]> {
    let mut name = [0; UNIX_NAME];
    let bytes = parts.concat();
    name.get_mut(..bytes.len())?.copy_from_slice(&bytes);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::names;

    fn shown(pattern: &str) -> Vec<String> {
        names(pattern)
            .iter()
            .map(|(length, name)| {
                let significant = name.get(..*length).unwrap();
                String::from_utf8_lossy(significant).replace('\0', "0")
            })
            .collect()
    }

    #[test]
    fn a_pattern_is_a_socket_and_what_is_below_it_or_a_beginning() {
        assert_eq!(
            shown("/run/dbus"),
            [
                "/run/dbus0",
                "/run/dbus/",
                "/var/run/dbus0",
                "/var/run/dbus/"
            ]
        );
        assert_eq!(shown("/var/run/dbus"), shown("/run/dbus"));
        assert_eq!(shown("/var/lib/x/"), ["/var/lib/x0", "/var/lib/x/"]);
        assert_eq!(
            shown("/run/docker*.sock"),
            ["/run/docker", "/var/run/docker"]
        );
        assert_eq!(shown("@containerd-shim/*"), ["0containerd-shim/"]);
        assert_eq!(shown("@a").concat().trim_end_matches('0'), "0a");
        assert_eq!(names("@a")[0].0, 108);
    }

    #[test]
    fn what_no_socket_can_be_called_stands_for_nothing() {
        assert_eq!(
            shown(&format!("/{}", "x".repeat(107))),
            Vec::<String>::new()
        );
        assert_eq!(shown(&format!("/{}", "x".repeat(106))).len(), 2);
        assert_eq!(
            shown(&format!("@{}", "x".repeat(108))),
            Vec::<String>::new()
        );
    }
}
