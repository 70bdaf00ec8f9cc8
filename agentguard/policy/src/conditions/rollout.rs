//! A rule that is in force for a part of the sessions.

use agentguard_model::AgentName;
use sha2::{Digest, Sha256};

use crate::circumstances::Circumstances;

/// The part of the sessions for which a rule is in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Rollout {
    /// From 0 to 100.
    percent: u8,
}

impl Rollout {
    /// A share in percent; `None` for more than all.
    pub(crate) fn percent(percent: u64) -> Option<Self> {
        let percent = u8::try_from(percent).ok().filter(|it| *it <= 100)?;
        Some(Self { percent })
    }

    /// The share in percent.
    pub(crate) const fn share(self) -> u8 {
        self.percent
    }

    /// Whether a session is among those for which `rule` is in force.
    ///
    /// The same one always is: neither a reload nor a restart changes it, and more percent only add to
    /// those that are. Which ones differs from rule to rule.
    pub(crate) fn includes(self, rule: &str, agent: &AgentName, of: &Circumstances<'_>) -> bool {
        let mut hash = Sha256::new();
        hash.update(rule.as_bytes());
        // What ends a text cannot be in one.
        hash.update([0xff]);
        hash.update(agent.as_str().as_bytes());
        hash.update([0xff]);
        match &of.context.session {
            Some(session) => hash.update(session.as_bytes()),
            None => {
                hash.update([0xff]);
                hash.update(of.run.to_be_bytes());
            }
        }
        let digest = hash.finalize();
        let first: [u8; 4] = [0, 1, 2, 3].map(|n| digest.get(n).copied().unwrap_or_default());
        u32::from_be_bytes(first) % 100 < u32::from(self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::Rollout;
    use crate::circumstances::Circumstances;
    use agentguard_model::{AgentName, Context};

    #[test]
    fn a_share_is_kept_and_only_grows() {
        let agent: AgentName = "coder".parse().unwrap();
        let within = |percent, session: &str, rule: &str| {
            let context = Context {
                session: Some(session.to_owned()),
                ..Context::default()
            };
            let circumstances = Circumstances {
                context: &context,
                ..Circumstances::NOBODY
            };
            let rollout = Rollout::percent(percent).unwrap();
            rollout.includes(rule, &agent, &circumstances)
        };
        let sessions: Vec<String> = (0..2_000).map(|n| format!("session-{n}")).collect();
        let count = |percent, rule| {
            let those = sessions.iter().filter(|it| within(percent, it, rule));
            those.count()
        };
        assert_eq!(count(0, "a"), 0);
        assert_eq!(count(100, "a"), 2_000);
        let tenth = count(10, "a");
        assert!((120..280).contains(&tenth), "{tenth}");
        for session in &sessions {
            assert!(!within(10, session, "a") || within(20, session, "a"));
        }
        // Not always the same ones are first.
        let both = sessions
            .iter()
            .filter(|it| within(10, it, "a") && within(10, it, "b"));
        assert!(both.count() < tenth / 2);
        assert_eq!(Rollout::percent(101), None);
    }
}
