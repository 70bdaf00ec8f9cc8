//! Reading back through the record, for what is asked of all decisions since some time.

use agentguard_control::Client;
use agentguard_control::api::{PolicyView, VerdictQuery};
use agentguard_model::{AgentName, Decision, DecisionId};
use clap::Args;
use jiff::Timestamp;
use tokio::task::yield_now;

use crate::cli::failure::Failure;
use crate::cli::output::say;
use crate::cli::since::Since;
use crate::cli::verdicts::moment;

/// How many decisions are asked for at once.
const PAGE: u32 = 2000;

/// The most decisions that are looked at. Of more, the newest; the answer says that there are others.
const MOST: u64 = 1_000_000;

/// Which of the past.
#[derive(Args, Debug)]
pub(in crate::cli) struct Past {
    /// Not older than this: 90s, 10m, 3h, 2d, 1w, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    since: Since,
    /// Of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
}

/// What was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    /// Since when.
    pub(super) since: Timestamp,
    /// Whether that was all.
    pub(super) complete: bool,
    /// Whether there was anything.
    any: bool,
}

impl Past {
    /// Shows each decision, from the newest to the oldest. What is recorded meanwhile is not among them.
    pub(super) async fn each(
        &self,
        client: &mut Client,
        mut show: impl FnMut(&Decision),
    ) -> Result<Looked, Failure> {
        let since = self.since.resolve(Timestamp::now());
        let mut before: Option<DecisionId> = None;
        let mut looked: u64 = 0;
        let mut page = self.page(client, since, before).await?;
        loop {
            looked += page.len() as u64;
            let oldest = page.first().map(|decision| decision.id);
            let last = oldest.is_none() || page.len() < PAGE as usize;
            // What answers is not trusted: it has to come to an end.
            let stuck = before.is_some() && oldest >= before;
            if last || stuck || looked >= MOST {
                page.iter().rev().for_each(&mut show);
                return Ok(Looked {
                    since,
                    complete: last,
                    any: looked > 0,
                });
            }
            before = oldest;
            // The daemon reads the next one while this one is shown.
            let (next, ()) = tokio::join!(biased; self.page(client, since, before), async {
                // The request leaves before: its connection has a task that takes it and one that writes it.
                for _ in 0..3 {
                    yield_now().await;
                }
                page.iter().rev().for_each(&mut show);
            });
            page = next?;
        }
    }

    /// Those of the past that come before one.
    async fn page(
        &self,
        client: &mut Client,
        since: Timestamp,
        before: Option<DecisionId>,
    ) -> Result<Vec<Decision>, Failure> {
        let query = VerdictQuery {
            agent: self.agent.clone(),
            since: Some(since),
            before,
            limit: Some(PAGE),
            ..VerdictQuery::default()
        };
        Ok(client.verdicts(&query).await?)
    }

    /// Says that nothing was found since nobody knows the agent: its name may be misspelt.
    pub(super) fn say_unknown(&self, looked: Looked, in_force: Option<&PolicyView>) {
        let (Some(agent), Some(policy), false) = (&self.agent, in_force, looked.any) else {
            return;
        };
        if policy.agents.iter().all(|known| known.name != *agent) {
            say(&format!(
                "the policy in force has no agent {agent}, and the record nothing of one; `agentguard policy show` lists the agents"
            ));
        }
    }
}

impl Looked {
    /// Says that there is more than what was looked at.
    pub(super) fn say(self, oldest: Option<Timestamp>) {
        if let (false, Some(oldest)) = (self.complete, oldest) {
            say(&format!(
                "only the newest {MOST} decisions were looked at, back to {}; a shorter --since or --agent narrows",
                moment(oldest)
            ));
        }
    }
}
