//! The verdict on a name: whether it is answered.

use agentguard_model::{HostName, Matched, Mode, Reason, ReasonCode, Verdict};
use ipnet::IpNet;

use crate::agent::AgentPolicy;
use crate::document::Addresses;
use crate::found::Few;
use crate::policy::Policy;
use crate::sentence::{self, Resolution};
use crate::sweep::{TRANSPORTS, sweep};

/// The verdict on a name.
#[derive(Clone, Debug)]
pub struct NameRuling {
    /// Whether to answer it, after modes.
    pub allowed: bool,
    /// What the policy says, before modes: [`Verdict::Allow`] or [`Verdict::Deny`].
    pub verdict: Verdict,
    /// As [`Ruling::enforced`](crate::Ruling::enforced).
    pub enforced: bool,
    /// The mode under which it was taken.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
    /// The rules that match, at most eight of each kind.
    pub matched: Vec<Matched>,
    /// What it is answered with.
    pub addresses: Addresses,
    /// Special ranges into which the rules for this name let it resolve. One opens only the
    /// special range that it lies inside of.
    pub ranges: Vec<IpNet>,
}

impl Policy {
    /// Decides whether an agent may resolve a name: it may where at least one port of it can be
    /// reached.
    #[must_use]
    pub fn decide_name(&self, agent: &AgentPolicy, name: &HostName) -> NameRuling {
        let mut candidates = self.name_candidates(agent, name, None);
        candidates.retain(|candidate| !candidate.possible);
        let mut allowances = Few::default();
        let mut denials = Few::default();
        let mut paper_denials = Few::default();
        let mut paper_allowances = Few::default();
        let mut virtual_wanted = false;
        let mut real_wanted = false;
        let mut ranges = Vec::new();
        for candidate in &candidates {
            let rule = candidate.rule;
            let kind = match (rule.allows(), rule.info.in_force()) {
                (true, true) => {
                    virtual_wanted |= rule.addresses == Some(Addresses::Virtual);
                    real_wanted |= rule.addresses == Some(Addresses::Real);
                    ranges.extend(&rule.ranges);
                    &mut allowances
                }
                (true, false) => &mut paper_allowances,
                // A denial of some requests leaves the name to the others.
                (false, _) if !rule.is_static() => continue,
                (false, true) => &mut denials,
                (false, false) => &mut paper_denials,
            };
            kind.add(candidate.position);
            kind.on_paper = !rule.info.in_force();
        }
        ranges.sort_unstable();
        ranges.dedup();

        // Whether a port is left after the denials in force, and after those on paper too.
        let (mut reachable, mut reachable_on_paper) = (false, false);
        let ranks = self.strategy().ranks();
        if !allowances.is_empty() {
            for transport in TRANSPORTS {
                sweep(&candidates, transport, ranks, |_, _, active| {
                    let open = active.may_be_allowed() && active.denial().is_none();
                    reachable |= open;
                    reachable_on_paper |= open && active.paper_denials.is_empty();
                });
            }
        }
        let observes = agent.observes();
        let verdict = if reachable_on_paper {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        let allowed = observes || reachable;
        let attempt = Resolution {
            agent: &agent.name,
            name,
        };
        let denied_everywhere = candidates.iter().any(|candidate| {
            let rule = candidate.rule;
            !rule.allows() && rule.is_static() && rule.ports.covers(&crate::pattern::Ports::all())
        });
        let mut matched = Vec::new();
        let mut mode = agent.mode;
        let reason = if verdict == Verdict::Allow {
            self.list(&mut matched, &[&allowances, &paper_allowances]);
            let message = sentence::allowed(&attempt, self.first(&allowances));
            Reason::new(ReasonCode::RuleAllow, message)
        } else if !allowances.is_empty() || denied_everywhere {
            let (first, second) = if reachable {
                (&paper_denials, &denials)
            } else {
                (&denials, &paper_denials)
            };
            self.list(&mut matched, &[first, second, &allowances]);
            let rule = self.first(first).or_else(|| self.first(second));
            if reachable && !observes {
                mode = rule.map_or(mode, |rule| rule.mode);
            }
            Reason::new(ReasonCode::RuleDeny, sentence::denied(&attempt, rule))
        } else {
            self.list(&mut matched, &[&paper_allowances]);
            let paper = self.first(&paper_allowances);
            Reason::new(ReasonCode::NoRule, sentence::no_rule(&attempt, paper))
        };
        NameRuling {
            allowed,
            verdict,
            enforced: !observes && (verdict == Verdict::Allow) == allowed,
            mode,
            reason,
            matched,
            addresses: if real_wanted && !virtual_wanted {
                Addresses::Real
            } else {
                Addresses::Virtual
            },
            ranges,
        }
    }
}
