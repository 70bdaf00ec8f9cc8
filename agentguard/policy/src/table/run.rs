//! What the policy says of a test, and whether it is what was expected.

use std::net::IpAddr;

use agentguard_model::{AmbiguousPath, Handling, Mode, Reason, ReasonCode, Source, Verdict};
use ipnet::IpNet;
use serde::Serialize;

use super::document::Expected;
use super::{Attempt, Sent, Table, Test};
use crate::agent::AgentPolicy;
use crate::decide::{Ruling, RulingOutcome};
use crate::explain::{Consideration, Considered};
use crate::flow::Flow;
use crate::policy::Policy;
use crate::request::Request;
use crate::rule::Seen;

/// How many rules a failing test lists.
const LISTED: usize = 5;

/// What is expected of a test. What is absent does not matter.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Expectation {
    /// The verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Expected>,
    /// Whether it is carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced: Option<bool>,
    /// How it is carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handling: Option<Handling>,
    /// The rule that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The code of the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonCode>,
}

/// What the policy says of a test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Got {
    /// The verdict, before modes.
    pub verdict: Expected,
    /// Whether it is carried out.
    pub enforced: bool,
    /// The mode under which it was taken.
    pub mode: Mode,
    /// How it is carried, if it goes on and is no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handling: Option<Handling>,
    /// The rule that decides, if one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Where that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Why.
    pub reason: Reason,
    /// That the request was not seen: it is sent inside TLS, and no allowance has that opened.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unopened: bool,
}

/// A rule that was considered.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Near {
    /// Its id.
    pub rule: String,
    /// Where it stands.
    pub source: Source,
    /// What it says.
    pub action: Verdict,
    /// Whether it matches, but for a request that was not seen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub needs_request: bool,
    /// Whether it matches, and one of a higher rank decides.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub overruled: bool,
    /// Its conditions that do not hold, with what it asks for; none if it matches.
    pub failed: Vec<String>,
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestResult {
    /// The test's name.
    pub name: String,
    /// The line where it begins.
    pub line: u32,
    /// Whether it passed.
    pub passed: bool,
    /// What was expected.
    pub expected: Expectation,
    /// What came.
    pub got: Got,
    /// If it failed: the rules that match, and those that nearly do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub near: Vec<Near>,
}

impl Table {
    /// Runs the tests against the policy that they were checked with. `closed`: why an address may not
    /// be behind a name, given the ranges that its rules open and whether the agent is only observed;
    /// which ones are closed is not the policy's.
    pub fn run(
        &self,
        policy: &Policy,
        closed: impl Fn(IpAddr, &[IpNet], bool) -> Option<Reason>,
    ) -> Vec<TestResult> {
        self.tests
            .iter()
            .filter_map(|test| {
                // Checked before: the policy has it.
                let agent = policy.agent(&test.agent)?;
                Some(test.run(policy, agent, &closed))
            })
            .collect()
    }
}

impl Test {
    fn run(
        &self,
        policy: &Policy,
        agent: &AgentPolicy,
        closed: impl Fn(IpAddr, &[IpNet], bool) -> Option<Reason>,
    ) -> TestResult {
        let got = self
            .behind(policy, agent, closed)
            .unwrap_or_else(|| self.attempt.decided(policy, agent));
        let passed = self.expect.met(&got);
        let near = match &self.attempt {
            _ if passed => Vec::new(),
            Attempt::Name(..) => Vec::new(),
            Attempt::Flow(flow) => near(policy, agent, flow, Seen::NotYet),
            Attempt::Opaque(flow) => near(policy, agent, flow, Seen::Never),
            Attempt::Request(flow, sent) => {
                let seen = sent.seen(policy, agent, flow).unwrap_or(Seen::NotYet);
                near(policy, agent, flow, seen)
            }
        };
        TestResult {
            name: self.name.clone(),
            line: self.line,
            passed,
            expected: self.expect.clone(),
            got,
            near,
        }
    }

    /// The denial of a name whose address is closed: it is not answered, and leads nowhere.
    fn behind(
        &self,
        policy: &Policy,
        agent: &AgentPolicy,
        closed: impl Fn(IpAddr, &[IpNet], bool) -> Option<Reason>,
    ) -> Option<Got> {
        let (name, ip) = match (&self.attempt, self.attempt.flow()) {
            (Attempt::Name(name, ip), _) => (name, (*ip)?),
            (_, flow) => (flow?.host.as_ref()?, flow?.ip?),
        };
        let ruling = policy.decide_name(agent, name);
        if !ruling.allowed {
            return None;
        }
        let reason = closed(ip, &ruling.ranges, agent.observes())?;
        Some(Got::refused(agent, reason))
    }
}

impl Attempt {
    /// The flow, unless a name is only resolved.
    pub(super) const fn flow(&self) -> Option<&Flow> {
        match self {
            Self::Name(..) => None,
            Self::Flow(flow) | Self::Opaque(flow) | Self::Request(flow, _) => Some(flow),
        }
    }

    fn decided(&self, policy: &Policy, agent: &AgentPolicy) -> Got {
        match self {
            Self::Name(name, _) => {
                let ruling = policy.decide_name(agent, name);
                let by = deciding(ruling.reason.code, &ruling.matched);
                Got {
                    verdict: said(ruling.verdict),
                    enforced: ruling.enforced,
                    mode: ruling.mode,
                    handling: None,
                    rule: by.map(|by| by.rule.clone()),
                    source: by.map(|by| by.source.clone()),
                    reason: ruling.reason,
                    unopened: false,
                }
            }
            Self::Flow(flow) | Self::Opaque(flow) | Self::Request(flow, _) => {
                self.decided_on(flow, policy, agent)
            }
        }
    }

    /// As if this were the flow.
    pub(super) fn decided_on(&self, flow: &Flow, policy: &Policy, agent: &AgentPolicy) -> Got {
        let seen = match self {
            Self::Name(..) | Self::Flow(_) => Seen::NotYet,
            Self::Opaque(_) => Seen::Never,
            Self::Request(_, sent) => match sent.seen(policy, agent, flow) {
                Ok(seen) => seen,
                Err(why) => {
                    let early = policy.decide(agent, &flow.facts(Seen::NotYet));
                    return match early.outcome {
                        RulingOutcome::Deny => Got::of(early, false),
                        RulingOutcome::Allow(_) | RulingOutcome::Undecided => {
                            Got::refused(agent, malformed(why))
                        }
                    };
                }
            },
        };
        let unopened = matches!(self, Self::Request(..)) && seen == Seen::Tls;
        let ruling = policy.decide(agent, &flow.facts(seen));
        Got::of(ruling, unopened)
    }
}

impl Sent {
    /// What rules see of it.
    ///
    /// # Errors
    /// The proxy sees its path, and refuses that.
    pub(super) fn seen<'a>(
        &'a self,
        policy: &Policy,
        agent: &AgentPolicy,
        flow: &Flow,
    ) -> Result<Seen<'a>, AmbiguousPath> {
        if self.secure && !policy.inspects(agent, &flow.facts(Seen::NotYet)) {
            return Ok(Seen::Tls);
        }
        let path = self.path.as_deref().map_err(|why| *why)?;
        Ok(Seen::Request(Request {
            query: self.query.as_ref(),
            fields: self.fields.as_ref(),
            body: self.body,
            websocket: self.websocket,
            llm: self.llm.as_ref(),
            opens_calls: self.opens_calls,
            tool: self.tool.as_ref(),
            ..Request::new(&self.method, path)
        }))
    }
}

/// What the proxy says of a path that it refuses.
fn malformed(why: AmbiguousPath) -> Reason {
    let message = format!("the path is ambiguous: {why}");
    Reason::new(ReasonCode::HttpMalformed, message)
}

impl Got {
    /// Of what no rule is asked about.
    fn refused(agent: &AgentPolicy, reason: Reason) -> Self {
        Self {
            verdict: Expected::Deny,
            enforced: true,
            mode: agent.mode,
            handling: None,
            rule: None,
            source: None,
            reason,
            unopened: false,
        }
    }

    fn of(ruling: Ruling, unopened: bool) -> Self {
        let by = deciding(ruling.reason.code, &ruling.matched);
        let (rule, source) = (by.map(|by| by.rule.clone()), by.map(|by| by.source.clone()));
        Self {
            verdict: match ruling.outcome {
                RulingOutcome::Undecided => Expected::NeedsRequest,
                RulingOutcome::Allow(_) | RulingOutcome::Deny => said(ruling.verdict),
            },
            enforced: ruling.enforced,
            mode: ruling.mode,
            handling: match ruling.outcome {
                RulingOutcome::Allow(handling) => Some(handling),
                RulingOutcome::Deny | RulingOutcome::Undecided => None,
            },
            rule,
            source,
            reason: ruling.reason,
            unopened,
        }
    }
}

fn said(verdict: Verdict) -> Expected {
    match verdict {
        Verdict::Allow => Expected::Allow,
        Verdict::Modify => Expected::Modify,
        Verdict::Deny | Verdict::Escalate => Expected::Deny,
    }
}

/// The rule that gave a verdict. What has another reason lists rules too, and none of them decided.
pub(crate) fn deciding(
    code: ReasonCode,
    matched: &[agentguard_model::Matched],
) -> Option<&agentguard_model::Matched> {
    let by_rule = matches!(
        code,
        ReasonCode::RuleAllow
            | ReasonCode::RuleModify
            | ReasonCode::RuleDeny
            | ReasonCode::EngineError
            | ReasonCode::NeedsInspection
    );
    matched.first().filter(|_| by_rule)
}

impl Got {
    /// Whether no expectation tells it from another.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let seen = |it: &Self| (it.verdict, it.enforced, it.handling, it.reason.code);
        seen(self) == seen(other) && self.rule == other.rule
    }
}

impl Expectation {
    fn met(&self, got: &Got) -> bool {
        self.verdict.is_none_or(|verdict| verdict == got.verdict)
            && self
                .enforced
                .is_none_or(|enforced| enforced == got.enforced)
            && (self.handling.is_none() || self.handling == got.handling)
            && (self.rule.is_none() || self.rule == got.rule)
            && self.reason.is_none_or(|reason| reason == got.reason.code)
    }
}

/// The rules that match, and those that nearly do.
fn near(policy: &Policy, agent: &AgentPolicy, flow: &Flow, seen: Seen<'_>) -> Vec<Near> {
    let considered = policy.explain(agent, &flow.facts(seen));
    considered
        .into_iter()
        .take(LISTED)
        .map(Near::from)
        .collect()
}

impl From<Considered<'_>> for Near {
    fn from(it: Considered<'_>) -> Self {
        Self {
            rule: it.rule.to_owned(),
            source: it.source.clone(),
            action: it.action.verdict(),
            needs_request: it.verdict == Consideration::NeedsRequest,
            overruled: it.verdict == Consideration::Overruled,
            failed: match &it.verdict {
                Consideration::Matched | Consideration::Overruled | Consideration::NeedsRequest => {
                    Vec::new()
                }
                Consideration::Obliges => {
                    vec!["its own spelling, without which it allows nothing; what it changes or keeps it does".to_owned()]
                }
                Consideration::Error(why) => vec![format!("when, which fails: {why}")],
                Consideration::Failed(conditions) => conditions
                    .iter()
                    .map(|failed| it.written(*failed))
                    .collect(),
            },
        }
    }
}
