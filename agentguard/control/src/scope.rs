//! How much of what there is a peer is told.
//!
//! Root and whoever may read are told everything. A member of `agentguard-run` is told of the agents
//! whose `users` list it, as if there were no others: another agent, and a decision on it, are "not
//! there", by the same answer as what is not there at all. Who is listed is looked up for each answer and
//! for each line of a followed one, so that a changed policy counts at once.
//!
//! Where an agent has several users, each reads what it ran itself, and what nobody of the others ran.

use std::sync::Arc;

use agentguard_model::{AgentName, Decision, Layer, Users};
use agentguard_record::{Gap, Only, Query};
use tokio::sync::watch;

use crate::api::{AgentStatus, LeafStatus, LedgerStatus, Status};

/// How much a peer is told.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// What concerns the agents that it may run.
    Own(Own),
}

/// A user, and who may run what.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) uid: u32,
    pub(crate) users: watch::Receiver<Arc<Users>>,
}

impl Scope {
    /// Whether it is told of this agent.
    pub(crate) fn has_agent(&self, name: &AgentName) -> bool {
        match self {
            Self::All => true,
            Self::Own(own) => own.users.borrow().may_run(own.uid, name),
        }
    }

    /// Whether it is told of this decision.
    pub(crate) fn has(&self, decision: &Decision) -> bool {
        match self {
            Self::All => true,
            Self::Own(own) => own.has(decision),
        }
    }

    /// The agents that it is told of.
    pub(crate) fn agents(&self, agents: &[AgentStatus]) -> Vec<AgentStatus> {
        agents
            .iter()
            .filter(|agent| self.has_agent(&agent.name))
            .map(|agent| self.agent(agent))
            .collect()
    }

    /// What it is told of an agent that it is told of.
    pub(crate) fn agent(&self, agent: &AgentStatus) -> AgentStatus {
        let mut agent = agent.clone();
        if let (Self::Own(_), Some(quarantine)) = (self, &mut agent.quarantine) {
            // These are for operators.
            quarantine.reason = None;
            quarantine.uid = None;
        }
        if let Self::Own(_) = self {
            // It is of all runs together, others' too.
            agent.resources = None;
        }
        agent
    }

    /// A query of the record for what it is told of. `followed`: it goes on, and with it changes of who
    /// may run what.
    pub(crate) fn narrow(&self, mut query: Query, followed: bool) -> Query {
        if let Self::Own(own) = self {
            if query.agent.is_none() && !followed {
                // One agent is found by the index; whether it is still that one, the filter says.
                let users = own.users.borrow();
                let mut agents = users.agents_of(own.uid);
                if let (Some(only), None) = (agents.next(), agents.next()) {
                    query.agent = Some(only.clone());
                }
            }
            let own = own.clone();
            query.only = Some(Only::new(move |decision| own.has(decision)));
        }
        query
    }

    /// What it is told where something of the record is missing.
    pub(crate) fn gap(&self, gap: Gap) -> Gap {
        match self {
            Self::All => gap,
            Self::Own(_) => Gap {
                source: "record".to_owned(),
                lost: 0,
                from: None,
                to: None,
                time: gap.time,
                message: Some(
                    "something is missing here, of this or of other agents; whoever may read everything is told what"
                        .to_owned(),
                ),
            },
        }
    }

    /// What it is told of the guard's health.
    pub(crate) fn status(&self, mut status: Status) -> Status {
        if matches!(self, Self::All) {
            return status;
        }
        let guard = &mut status.guard;
        if guard.gate.attached.is_empty() {
            guard
                .degraded
                .push("the gate is attached to nothing, so nothing is governed".to_owned());
        }
        status.agents = self.agents(&status.agents);
        let own: Vec<&String> = status.agents.iter().flat_map(|it| &it.cgroups).collect();
        guard
            .gate
            .attached
            .retain(|top| own.iter().any(|cgroup| crate::peer::is_within(cgroup, top)));
        guard.gate.attached_more = 0;
        guard.listeners.clear();
        guard.leaves = LeafStatus::default();
        guard.telemetry = None;
        // Where it is and why it does not answer is for whoever operates it.
        let healthy = guard.ledger.healthy();
        guard.ledger = LedgerStatus::default();
        if !healthy {
            let told = "root, and whoever may read everything, is told what is wrong with the ledger of budgets";
            guard.ledger.problems.push(told.to_owned());
        }
        guard.switches.clear();
        if guard.policy.refused.is_some() {
            guard.policy.refused =
                Some("root, and whoever may read everything, is told why".to_owned());
        }
        status.record = agentguard_record::Status {
            entries: 0,
            segments: 0,
            bytes: 0,
            last_fsync_age_ms: None,
            degraded: status.record.degraded,
            refused: 0,
            refused_by_quota: 0,
            gaps: 0,
            lost: 0,
            contents_left_out: 0,
            damage: Vec::new(),
            index_lag: 0,
        };
        status.notices.clear();
        status.partial = true;
        status
    }
}

impl Own {
    fn has(&self, decision: &Decision) -> bool {
        // What operators did and why is theirs to know.
        let Some(agent) = decision.agent.as_ref() else {
            return false;
        };
        let users = self.users.borrow();
        if decision.layer == Layer::Operator || !users.may_run(self.uid, &agent.name) {
            return false;
        }
        // A run by another user than root has that user in its context, also when it is no longer one of the
        // agent's; the rest is told from the process, where the kernel saw it.
        if let Some(uid) = decision.context.uid() {
            return uid == self.uid;
        }
        let whose = match decision.context.user {
            // Root has called it something else.
            Some(_) => None,
            None => decision.process.as_ref().map(|process| process.uid),
        };
        match whose {
            Some(uid) => uid == self.uid || !users.may_run(uid, &agent.name),
            None => users.of(&agent.name).len() == 1,
        }
    }
}
