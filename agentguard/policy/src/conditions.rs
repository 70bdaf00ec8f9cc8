//! What a rule says of more than the flow and its request: on whose behalf, when, in which share of the
//! sessions, and whatever an expression says.
//!
//! The kernel knows none of it. What a rule with such a condition matches goes through the proxy, and the
//! kernel's lines and the resolver take the rule as one that may match: see [`Conditions::is_empty`].

mod rollout;
mod times;
mod when;

use agentguard_model::{Context, Labels};
use jiff::Timestamp;

pub(crate) use rollout::Rollout;
pub(crate) use times::{Days, Times, hours};
pub(crate) use when::{Declared, When};

use crate::agent::AgentPolicy;
use crate::circumstances::Circumstances;
use crate::decide::Facts;
use crate::pattern::Wildcard;
use crate::steps::Steps;

/// What a rule says beside flow and request.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    /// All of these.
    pub(crate) context: Vec<(Part, Vec<Wildcard>)>,
    /// One of these.
    pub(crate) times: Option<Times>,
    pub(crate) when: Option<When>,
    /// In force for a part of the sessions, and on paper for the others.
    pub(crate) rollout: Option<Rollout>,
}

/// A part of the context.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    User,
    Session,
    Workflow,
    Purpose,
}

impl Part {
    /// Its key in a document.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Session => "session",
            Self::Workflow => "workflow",
            Self::Purpose => "purpose",
        }
    }

    /// What a context says; nothing, if it does not.
    pub(crate) fn of(self, context: &Context) -> &str {
        let value = match self {
            Self::User => &context.user,
            Self::Session => &context.session,
            Self::Workflow => &context.workflow,
            Self::Purpose => &context.purpose,
        };
        value.as_deref().unwrap_or_default()
    }
}

impl Conditions {
    /// Whether it says nothing, so that the kernel knows as much as anybody.
    pub(crate) fn is_empty(&self) -> bool {
        self.context.is_empty()
            && self.times.is_none()
            && self.when.is_none()
            && self.rollout.is_none()
    }

    /// Whether the context is one it names.
    pub(crate) fn context(&self, circumstances: &Circumstances<'_>) -> bool {
        self.context.iter().all(|(part, patterns)| {
            let value = part.of(circumstances.context);
            !value.is_empty() && patterns.iter().any(|it| it.matches(value.as_bytes()))
        })
    }

    /// Whether the time is one it names.
    pub(crate) fn times(&self, circumstances: &Circumstances<'_>) -> bool {
        let times = self.times.as_ref();
        times.is_none_or(|times| times.contain(circumstances.time))
    }

    /// A moment after `time` up to which the clock does not matter. `None`: it never does.
    pub(crate) fn next_change(&self, time: Timestamp) -> Option<Timestamp> {
        let times = self.times.as_ref().map(|times| times.next_change(time));
        let by_minute = self.when.as_ref().is_some_and(When::needs_clock);
        let minute = || {
            let next = (time.as_second().div_euclid(60) + 1).checked_mul(60)?;
            Timestamp::from_second(next).ok()
        };
        let when = by_minute.then(minute).flatten();
        times.into_iter().chain(when).min()
    }

    /// Whether a request has to be seen for it.
    pub(crate) fn needs_request(&self) -> bool {
        self.when.as_ref().is_some_and(When::needs_request)
    }

    /// Whether the expression holds: see [`When::holds`].
    ///
    /// # Errors
    /// It cannot be evaluated on these facts, or takes more than these steps: why.
    pub(crate) fn when(
        &self,
        agent: &AgentPolicy,
        facts: &Facts<'_>,
        steps: &Steps,
    ) -> Result<Option<bool>, String> {
        let when = self.when.as_ref();
        when.map_or(Ok(Some(true)), |when| when.holds(agent, facts, steps))
    }

    /// Whether this holds wherever `other` does. Expressions and times by their spelling alone.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let context = self.context.iter().all(|(part, patterns)| {
            let narrower = |others: &[Wildcard]| others.iter().all(|it| patterns.contains(it));
            let mut others = other.context.iter();
            others.any(|(of, others)| of == part && narrower(others))
        });
        context
            && (self.times.is_none() || self.times == other.times)
            && (self.when.is_none() || self.when == other.when)
            // Each rule has a sample of its own.
            && self.rollout.is_none()
    }
}

/// The labels of an agent as those of its run stand over them.
pub(crate) fn label<'a>(agent: &'a Labels, run: &'a Labels, key: &str) -> Option<&'a str> {
    run.get(key).or_else(|| agent.get(key)).map(String::as_str)
}
