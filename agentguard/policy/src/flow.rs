//! What was attempted, by a table test or by a recorded decision, as facts to decide on.

use std::net::IpAddr;

use agentguard_model::{Context, HostName, Labels, Transport};
use jiff::Timestamp;

use crate::circumstances::{Circumstances, Switches};
use crate::decide::Facts;
use crate::rule::Seen;

/// Where something goes, as it is written down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Flow {
    pub(crate) host: Option<HostName>,
    /// As [`Facts::ip`].
    pub(crate) ip: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) transport: Transport,
    pub(crate) around: Around,
}

/// On whose behalf, and when, as it is written down.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Around {
    pub(crate) context: Context,
    pub(crate) labels: Labels,
    pub(crate) time: Timestamp,
    pub(crate) switches: Switches,
}

impl Flow {
    /// The facts of the flow, or of a request on it. The one place where what is written down becomes
    /// what the engine decides on.
    pub(crate) fn facts<'a>(&'a self, request: Seen<'a>) -> Facts<'a> {
        self.facts_with(request, None)
    }

    /// As [`Self::facts`], where switches and the number of the run are not written down.
    pub(crate) fn facts_with<'a>(
        &'a self,
        request: Seen<'a>,
        in_favour: Option<bool>,
    ) -> Facts<'a> {
        Facts {
            host: self.host.as_ref(),
            ip: self.ip,
            port: self.port,
            transport: self.transport,
            request,
            circumstances: Circumstances {
                context: &self.around.context,
                labels: &self.around.labels,
                run: 0,
                time: self.around.time,
                switches: &self.around.switches,
                in_favour,
            },
        }
    }
}
