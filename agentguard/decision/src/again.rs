//! Deciding again on what is under way: when the policy changes, when its agent is quarantined, when a
//! request grows.

use std::future::pending;
use std::net::IpAddr;
use std::time::Instant;

use agentguard_model::{Action, ActionKind, Layer, Reason, ReasonCode, Transport, Verdict};
use agentguard_policy::{Request, RulingOutcome, Seen};
use tokio::sync::watch;

use crate::asked::{Asked, Spoken};
use crate::decider::{Decider, Draft, action};
use crate::port::{Client, Decided, Recorder, Target};

/// Notices that the policy changed after this was made. Make it before the decision that it is
/// to be about.
#[derive(Clone, Debug)]
pub struct Changes(watch::Receiver<u32>);

impl Changes {
    pub(crate) fn new(generations: watch::Receiver<u32>) -> Self {
        Self(generations)
    }

    /// Whether there was one already.
    #[must_use]
    pub fn came(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }

    /// Waits for the next change.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // There are no policies any more: the program ends.
            pending::<()>().await;
        }
    }
}

impl<R: Recorder> Decider<R> {
    /// Notices changes from now on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.policies().changes()
    }

    /// Notices from now on when it is to be looked up again where connections go.
    #[must_use]
    pub fn ways(&self) -> Changes {
        self.policies().ways()
    }

    /// Waits until the policy denies what it allowed before: a connection or a
    /// request. Then records that denial and gives it; never before. `targets` is
    /// asked with each change, as a connection may have been opened to another address since, and so
    /// is `closed`: why such an address may not be used any more, whatever the rules say. There is one target at least. `ruled` is told of
    /// the denial before it is recorded, so that nothing moves meanwhile.
    ///
    /// # Cancel safety
    /// A dropped future may have recorded the denial.
    pub async fn revoked(
        &self,
        mut changes: Changes,
        client: &Client,
        targets: impl Fn() -> Vec<Target>,
        closed: impl Fn() -> Option<Reason>,
        spoken: Spoken<'_>,
        ruled: impl Fn() -> bool,
    ) -> Decided {
        loop {
            changes.next().await;
            let started = Instant::now();
            let policy = self.policies().current();
            let targets = targets();
            // Of several messages, and at several addresses, one that is denied denies all.
            let mut decided = None;
            'all: for target in &targets {
                for seen in spoken.each() {
                    let ruling = self.rule(&policy, client, target, seen);
                    let denies = !matches!(ruling.outcome, RulingOutcome::Allow(_));
                    if denies || decided.is_none() {
                        decided = Some((target, seen, ruling));
                    }
                    if denies {
                        break 'all;
                    }
                }
            }
            let Some((target, seen, mut ruling)) = decided else {
                continue;
            };
            if matches!(ruling.outcome, RulingOutcome::Allow(_)) {
                let Some(reason) = closed() else {
                    continue;
                };
                ruling.outcome = RulingOutcome::Deny;
                ruling.verdict = Verdict::Deny;
                ruling.enforced = true;
                ruling.reason = reason;
                ruling.matched.clear();
            }
            if !ruled() {
                return pending().await;
            }
            let since = match ruling.reason.code {
                ReasonCode::Quarantined => " (this was under way)",
                _ => " (the policy changed while this was under way, or what it depends on did)",
            };
            ruling.reason.message.push_str(since);
            // Waited for with each request, and denied hardly ever.
            let concluded = self.conclude_ruling(&policy, client, target, seen, ruling, started);
            return Box::pin(concluded).await;
        }
    }

    /// Records a direct flow that the policy has come to deny, and that was ended. `udp`: over UDP, else over
    /// TCP. `closed`: why its address may not be used, whatever the rules say.
    pub async fn ended(&self, client: &Client, target: &Target, udp: bool, closed: Option<Reason>) {
        let started = Instant::now();
        let policy = self.policies().current();
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let mut ruling = self.rule_over(transport, &policy, client, target, Seen::NotYet);
        match (ruling.outcome, closed) {
            (RulingOutcome::Allow(_), Some(reason)) => {
                ruling.reason = reason;
                ruling.matched.clear();
            }
            // It is to be looked into now, or the policy has changed once more.
            (RulingOutcome::Allow(_), None) => {
                ruling.reason = Reason::new(
                    ReasonCode::PolicyChanged,
                    "The policy changed, and this direct flow was ended: a new one is decided anew.",
                );
            }
            (RulingOutcome::Deny | RulingOutcome::Undecided, _) => {}
        }
        if ruling.reason.code != ReasonCode::PolicyChanged {
            let since = " (the policy changed while this was under way)";
            ruling.reason.message.push_str(since);
        }
        let kind = if udp {
            ActionKind::Datagram
        } else {
            ActionKind::Connect
        };
        let draft = Draft {
            client: Some(client),
            layer: Layer::Kernel,
            action: Action {
                transport: Some(transport),
                ..action(kind, target)
            },
            verdict: Verdict::Deny,
            enforced: true,
            mode: ruling.mode,
            reason: ruling.reason,
            matched: ruling.matched,
            count: 1,
            started,
        };
        let decision = self.decision(&policy, draft);
        if let Err(refused) = self.recorder().write(decision).await {
            tracing::warn!(%refused, "a flow that was ended is not recorded");
        }
    }

    /// How much content a request may have until [`Self::grown`] has to be asked. `behind` as for
    /// [`Self::request`]. Pure.
    #[must_use]
    pub fn body_limit(
        &self,
        client: &Client,
        target: &Target,
        behind: &[IpAddr],
        asked: &Asked,
    ) -> Option<u64> {
        let policy = self.policies().current();
        let agent = self.agent(&policy, client.agent).ok()?;
        let seen = Seen::Request(asked.seen());
        let moment = self.moment(client);
        let limit = |target: &Target| policy.body_limit(agent, &moment.facts(target, seen));
        let behind = behind.iter().filter(|_| target.ip.is_none());
        let behind = behind.filter_map(|ip| limit(&target.at(*ip)));
        limit(target).into_iter().chain(behind).min()
    }

    /// Decides again on a request that has more content than when it was allowed. What this allows
    /// as before is not recorded anew; a denial is, also one on paper, with which it goes on.
    /// `unmeasured`: why nobody knows how much content it has. Then it counts as more than any size.
    pub async fn grown(
        &self,
        client: &Client,
        target: &Target,
        behind: &[IpAddr],
        asked: &Asked,
        unmeasured: Option<&str>,
    ) -> Option<Decided> {
        let started = Instant::now();
        let policy = self.policies().current();
        let seen = asked.seen();
        let body = if unmeasured.is_some() {
            u64::MAX
        } else {
            seen.body
        };
        let most = Seen::Request(Request { body, ..seen });
        let (target, mut ruling) = self.rule_behind(&policy, client, target, behind, most);
        if ruling.verdict != Verdict::Deny {
            return None;
        }
        if let Some(why) = unmeasured {
            let rule = ruling.matched.first().map_or("", |matched| &matched.rule);
            let message = format!(
                "Rule {rule} has to see how much content the request has, and cannot: {why}."
            );
            ruling.reason = Reason::new(ReasonCode::NeedsInspection, message);
        }
        let seen = Seen::Request(seen);
        let concluded = self.conclude_ruling(&policy, client, &target, seen, ruling, started);
        Some(concluded.await)
    }
}
