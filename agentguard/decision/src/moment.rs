//! On whose behalf a client acts, and what holds while it is decided on.

use std::sync::Arc;

use agentguard_model::Transport;
use agentguard_policy::{Circumstances, Facts, Seen, Switches};
use jiff::Timestamp;

use crate::directory::Run;
use crate::port::Target;

/// What a decision is taken on beside action and agent.
#[derive(Debug)]
pub(crate) struct Moment {
    /// Absent for what is no run's.
    run: Option<Arc<Run>>,
    number: u32,
    time: Timestamp,
    switches: Arc<Switches>,
}

impl Moment {
    /// Now.
    pub(crate) fn new(run: Option<Arc<Run>>, number: u32, switches: Arc<Switches>) -> Self {
        Self {
            run,
            number,
            time: Timestamp::now(),
            switches,
        }
    }

    fn circumstances(&self) -> Circumstances<'_> {
        let circumstances = Circumstances {
            run: self.number,
            time: self.time,
            switches: &self.switches,
            ..Circumstances::NOBODY
        };
        match &self.run {
            Some(run) => Circumstances {
                context: &run.context,
                labels: &run.labels,
                ..circumstances
            },
            None => circumstances,
        }
    }

    /// What a policy sees of a TCP flow, or of a request on it.
    pub(crate) fn facts<'a>(&'a self, target: &'a Target, request: Seen<'a>) -> Facts<'a> {
        Facts {
            host: target.host.as_ref(),
            ip: target.ip,
            port: target.port,
            transport: Transport::Tcp,
            request,
            circumstances: self.circumstances(),
        }
    }
}
