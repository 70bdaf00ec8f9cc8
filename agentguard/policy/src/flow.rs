//! What was attempted, by a table test or by a recorded decision, as facts to decide on.

use std::net::IpAddr;

use agentguard_model::{HostName, Transport};

use crate::decide::Facts;
use crate::rule::Seen;

/// Where something goes, as it is written down.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Flow {
    pub(crate) host: Option<HostName>,
    /// As [`Facts::ip`].
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) transport: Transport,
}

impl Flow {
    /// The facts of the flow, or of a request on it. The one place where what is written down becomes
    /// what the engine decides on.
    pub(crate) fn facts<'a>(&'a self, request: Seen<'a>) -> Facts<'a> {
        Facts {
            host: self.host.as_ref(),
            ip: self.ip,
            port: self.port,
            transport: self.transport,
            request,
        }
    }
}
