//! Runs, as the spawning half asks for them.

use std::sync::Arc;

use agentguard_control::peer::{Accepted, Rights};
use agentguard_keeper::groups::RUN;
use agentguard_keeper::packet::Peer;
use agentguard_keeper::spawn::{Admission, Host, Refusal, RunId, RunRequest};
use agentguard_model::{AgentName, Context, ResourceLimits};
use agentguard_policy::{OnMissing, SandboxPolicy};

use super::authorities::Authorities;
use super::sandbox::Sandbox;
use super::state::{Keeper, Prepared};
use super::trust::Trust;
use super::{Shared, clients, lock, resources, told};

/// The keeper's answer to one client's `run`.
pub(super) struct RunHost {
    pub(super) keeper: Shared,
    /// When the client came.
    pub(super) accepted: Accepted,
}

impl RunHost {
    /// Whether this peer may run this agent, and what of the keeper its run needs.
    fn authorise(
        &self,
        keeper: &Keeper,
        request: &RunRequest,
        peer: &Peer,
        uid: u32,
    ) -> Result<Needs, Refusal> {
        let rights = clients::rights(keeper, peer, self.accepted)
            .map_err(|refused| Refusal::new(refused.message).hint(refused.hint))?;
        if !rights.root {
            may_run(keeper, rights, request, uid)?;
        }
        let worker = keeper.worker_user();
        if uid == worker.uid {
            let message = format!("no agent runs as `{}`, the guard's own user", worker.name);
            return Err(Refusal::new(message).hint(
                "it could stop the worker and change the record: give the agent another user",
            ));
        }
        let Some(agent) = keeper.policy().agent(&request.agent) else {
            return Err(
                Refusal::new(format!("the policy has no agent {}", request.agent))
                    .hint("add it under `agents:` and reload, or see `agentguard agent list`"),
            );
        };
        if let Some(quarantined) = keeper.quarantine_of(&request.agent) {
            if !rights.read {
                // Who ordered it and why is for operators.
                return Err(Refusal::new(format!("{} is quarantined", request.agent))
                    .hint("ask whoever watches over the agents to release it"));
            }
            return Err(Refusal::new(quarantined).hint(format!(
                "`agentguard agent release {}` ends it",
                request.agent
            )));
        }
        let inspected = keeper.policy().inspects_anything(agent);
        Ok(Needs {
            ca: inspected.then(|| keeper.ca()),
            sandbox: keeper.sandbox(),
            policy: agent.sandbox.clone(),
            limits: (agent.limits(), agent.resources.missing),
            groups: keeper.groups().all().map(|(_, gid)| gid).collect(),
            user: (!rights.root).then(|| Context::user_of(rights.uid)),
            generation: keeper.generation(),
        })
    }
}

impl RunHost {
    /// Holds the agent's own cgroup to its limits, before anything of this run is in it. The lock is not held: what
    /// runs there may have to give memory back.
    fn hold_to_limits(
        &self,
        name: &AgentName,
        prepared: &Prepared,
        (limits, missing): &(ResourceLimits, OnMissing),
    ) -> Result<(), Refusal> {
        let Some(own) = prepared.cgroup.path.parent() else {
            return Ok(());
        };
        let (mount, root) = lock(&self.keeper).hierarchy();
        let lacks = resources::begin(&mount, &root, own, limits);
        let (Some(first), OnMissing::Refuse) = (lacks.first(), missing) else {
            // The next look tells of those that are let pass.
            return Ok(());
        };
        let what: Vec<&str> = lacks.iter().map(|lack| lack.what.as_str()).collect();
        let message = format!("{name} cannot be held to its limits: {}", what.join("; "));
        Err(Refusal::new(message).hint(format!(
            "{}; or `resources: {{missing: warn}}` for this agent in the policy, to have it run without them",
            first.hint
        )))
    }
}

/// Whether somebody who is not root may ask for this. Of an agent that is not there, and of another
/// user's, the same is said.
fn may_run(keeper: &Keeper, rights: Rights, request: &RunRequest, uid: u32) -> Result<(), Refusal> {
    if !rights.run {
        return Err(Refusal::new(format!(
            "only root and members of {RUN} may run agents, and this is user {}",
            rights.uid
        ))
        .hint(format!(
            "run this as root, or become a member of {RUN} and log in anew"
        )));
    }
    if uid != rights.uid {
        return Err(
            Refusal::new(format!("only root may run a command as user {uid}"))
                .hint("leave out --user to run it as yourself"),
        );
    }
    if !keeper.users().may_run(rights.uid, &request.agent) {
        return Err(Refusal::new(format!(
            "there is no agent {} that user {} may run",
            request.agent, rights.uid
        ))
        .hint("`agentguard agent list` lists those that are there; an agent's `users` in the policy say who may run it"));
    }
    // The record's readers go by the policy's labels.
    let labels = keeper.policy().agent(&request.agent).map(|it| &it.labels);
    let other = labels.and_then(|labels| {
        request
            .labels
            .iter()
            .find(|(key, value)| labels.get(*key).is_some_and(|policys| policys != *value))
    });
    if let Some((key, _)) = other {
        return Err(
            Refusal::new(format!("only root may change the policy's label `{key}`"))
                .hint("leave it out: the run has the policy's"),
        );
    }
    Ok(())
}

/// What of the keeper a run needs, to be used without the lock.
struct Needs {
    /// The authority that the agent has to trust, if any of its connections can be inspected.
    ca: Option<Arc<Authorities>>,
    sandbox: Arc<Sandbox>,
    /// What the policy leaves open to the agent.
    policy: SandboxPolicy,
    /// What of the host it may take, and what becomes of it where it cannot be held to that.
    limits: (ResourceLimits, OnMissing),
    /// The guard's own groups.
    groups: Vec<u32>,
    /// On whose behalf the run acts, for the record, where the kernel says so.
    user: Option<String>,
    /// The number of the policy that this is by.
    generation: u32,
}

fn refusal(error: &anyhow::Error) -> Refusal {
    let (message, hint) = told::in_words(error);
    let refusal = Refusal::new(message);
    match hint {
        Some(hint) => refusal.hint(hint),
        None => refusal,
    }
}

impl Host for RunHost {
    fn admit(&self, request: &RunRequest, peer: &Peer, uid: u32) -> Result<Admission, Refusal> {
        let needs = self.authorise(&lock(&self.keeper), request, peer, uid)?;
        // Files are read and written here, so without the lock.
        let trust = match needs.ca {
            Some(ca) => ca.trust().map_err(|error| refusal(&error))?,
            None => Trust::default(),
        };
        let confinement = needs.sandbox.confine(&needs.policy, uid)?;
        let mut overlays = trust.overlays;
        overlays.extend(confinement.overlays);
        let mut context = request.context.clone();
        if needs.user.is_some() {
            context.user = needs.user;
        }
        let prepared = {
            let mut keeper = lock(&self.keeper);
            // Meanwhile the agent may have been quarantined, or taken from this user.
            let now = self.authorise(&keeper, request, peer, uid)?;
            if now.generation != needs.generation {
                return Err(
                    Refusal::new("the policy changed while the run was prepared")
                        .hint("run it again"),
                );
            }
            let labels = request.labels.clone();
            keeper
                .prepare(&request.agent, context, labels, request.isolate)
                .map_err(|error| refusal(&error))?
        };
        let run = RunId(prepared.run.into());
        if let Err(refusal) = self.hold_to_limits(&request.agent, &prepared, &needs.limits) {
            self.finished(run);
            return Err(refusal);
        }
        match needs.sandbox.cgroups(&prepared.cgroup) {
            Ok(cgroups) => overlays.extend(cgroups),
            Err(error) => {
                self.finished(run);
                return Err(refusal(&error));
            }
        }
        Ok(Admission {
            run,
            cgroup: prepared.cgroup.directory.into(),
            network: prepared.netns,
            environment: Vec::new(),
            defaults: trust.variables,
            overlays,
            seccomp: Some(confinement.seccomp),
            domain: confinement.domain,
            without_groups: needs.groups,
        })
    }

    fn finished(&self, run: RunId) {
        // The number was a `u32` when it was given.
        if let Ok(run) = u32::try_from(run.0) {
            lock(&self.keeper).finished(run);
        }
    }
}
