//! What the policy says of a name, at the addresses that it may lead to.

use std::borrow::Cow;
use std::net::IpAddr;

use agentguard_model::{HostName, Mode, Reason, ReasonCode, Verdict};
use agentguard_policy::{Policy, Ruling, RulingOutcome, Seen};

use crate::decider::Decider;
use crate::port::{Client, Recorder, Target};

impl<R: Recorder> Decider<R> {
    /// What a policy says of a target, and of which: where it is said of one of the addresses `behind` its name, the target
    /// with that. A denial at one of them counts for all, and in force before on paper. Pure.
    ///
    /// Which of them is dialled is not known yet, so what is changed has to be the same at all of them.
    pub(crate) fn rule_behind<'a>(
        &self,
        policy: &Policy,
        client: &Client,
        target: &'a Target,
        behind: &[IpAddr],
        seen: Seen<'_>,
    ) -> (Cow<'a, Target>, Ruling) {
        let says = |target: &Target| self.rule(policy, client, target, seen);
        let here = says(target);
        let agent = self.agent(policy, client.agent);
        // What is closed to it is open to an observed agent, and recorded as denied.
        let matters = agent.is_ok_and(|agent| agent.observes() || policy.looks_at_addresses(agent));
        let (Some(host), None, true) = (&target.host, target.ip, matters) else {
            return (Cow::Borrowed(target), here);
        };
        if here.outcome == RulingOutcome::Deny && !here.cuts {
            return (Cow::Borrowed(target), here);
        }
        // One that refuses an answer counts before one that has something cut out of it.
        let mut cuts: Option<(Target, Ruling)> = None;
        let mut found: Option<(Target, Ruling)> = None;
        let mut on_paper: Option<(Target, Ruling)> = None;
        for ip in behind {
            let there = target.at(*ip);
            let ruling = says(&there);
            if ruling.outcome == RulingOutcome::Deny {
                if !ruling.cuts {
                    return (Cow::Owned(there), ruling);
                }
                cuts.get_or_insert((there, ruling));
                continue;
            }
            let Some((_, before)) = &mut found else {
                found = Some((there, ruling));
                continue;
            };
            if before.changes != ruling.changes {
                return (Cow::Owned(there), differs(host, ruling));
            }
            // On paper alone: what is in force at the other addresses counts before it.
            if before.on_paper != ruling.on_paper && on_paper.is_none() {
                on_paper = Some((there.clone(), differs_on_paper(host, ruling.clone())));
            }
            let captures = before.captures || ruling.captures;
            // A denial on paper at one of them must not hide behind what is said of the others.
            if ruling.verdict == Verdict::Deny && before.verdict != Verdict::Deny {
                found = Some((there, Ruling { captures, ..ruling }));
            } else {
                before.captures = captures;
            }
        }
        if here.outcome == RulingOutcome::Deny {
            return (Cow::Borrowed(target), here);
        }
        if let Some((there, ruling)) = cuts {
            return (Cow::Owned(there), ruling);
        }
        if let (Some((there, ruling)), Some((_, before))) = (on_paper, &found)
            && before.verdict != Verdict::Deny
        {
            let captures = before.captures;
            return (Cow::Owned(there), Ruling { captures, ..ruling });
        }
        match found {
            Some((there, ruling)) if !is_same(&here, &ruling) => (Cow::Owned(there), ruling),
            _ => (Cow::Borrowed(target), here),
        }
    }
}

/// Whether two rulings say the same, for the same reason.
fn is_same(one: &Ruling, other: &Ruling) -> bool {
    let what = |it: &Ruling| (it.outcome, it.verdict, it.enforced, it.captures);
    what(one) == what(other)
        && one.reason.code == other.reason.code
        && one.matched == other.matched
        && one.changes == other.changes
        && one.on_paper == other.on_paper
}

/// Rules change one thing at an address of a name, and another one at the next.
fn differs(host: &HostName, ruling: Ruling) -> Ruling {
    let message = format!(
        "Rules change different things in this at the addresses that {host} leads to, so that it goes to none of them."
    );
    Ruling {
        outcome: RulingOutcome::Deny,
        verdict: Verdict::Deny,
        enforced: true,
        mode: Mode::Enforce,
        reason: Reason::new(ReasonCode::NotChanged, message),
        changes: Vec::new(),
        on_paper: Vec::new(),
        captures: false,
        cuts: false,
        ..ruling
    }
}

/// The same of rules that are on paper.
fn differs_on_paper(host: &HostName, ruling: Ruling) -> Ruling {
    let message = format!(
        "Rules on paper change different things in this at the addresses that {host} leads to. In force they would let it go to none of them."
    );
    Ruling {
        verdict: Verdict::Deny,
        enforced: false,
        mode: match ruling.mode {
            Mode::Enforce => Mode::Shadow,
            mode => mode,
        },
        reason: Reason::new(ReasonCode::NotChanged, message),
        on_paper: Vec::new(),
        ..ruling
    }
}
