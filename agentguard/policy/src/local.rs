//! Tools on the agent's own host: programs that it starts, and tools of its own. They have no place in the network, and
//! the agent's host asks the guard about each message itself.
//!
//! For rules they are at one place with a name that no resolver has (`invalid`, RFC 6761, 6.4), port 0. So a rule for
//! them alone is none for anything in the network ([`crate::load`], `local`), and one for any destination is for them
//! too.

use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};

use agentguard_model::HostName;

use crate::policy::Policy;
use crate::tool_servers::ToolServer;

/// The name of the place.
const PLACE: &str = "local-tools.invalid";

/// The port of [`place`].
pub const PORT: u16 = 0;

/// Where tools on the agent's own host are, for rules.
#[must_use]
pub fn place() -> &'static HostName {
    static NAME: OnceLock<HostName> = OnceLock::new();
    #[expect(
        clippy::expect_used,
        reason = "the name is a constant, and a test reads it"
    )]
    NAME.get_or_init(|| HostName::from_str(PLACE).expect("a name"))
}

impl Policy {
    /// The server of tools of this name, if it is one on the agent's own host.
    #[must_use]
    pub fn local_server(&self, name: &str) -> Option<&Arc<ToolServer>> {
        let mut servers = self.tool_servers().iter();
        servers.find(|it| it.api.is_local() && it.name == name)
    }
}
