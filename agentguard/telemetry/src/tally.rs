//! Counts what is noted, and makes spans of calls.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentguard_model::{DecisionId, Llm, Outcome};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::catalogue::Id;
use crate::models::Models;
use crate::otlp::spans::{Span, span};
use crate::watched::{Decided, Note};
use crate::{Figures, Lost};

/// Calls that are under way, at most. Of more than that the oldest are forgotten, and told as lost.
const CALLS: usize = 4096;

/// A word of ours, as the record has it.
pub(crate) struct Word<T>(pub(crate) T);

impl<T: Serialize> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.serialize(f)
    }
}

/// Owned by the task that counts.
pub(crate) struct Tally {
    figures: Figures,
    lost: Arc<Lost>,
    spans: Option<mpsc::Sender<Span>>,
    models: Models,
    calls: Calls,
}

/// Calls that are under way, in the order in which they began.
#[derive(Debug, Default)]
struct Calls {
    open: HashMap<DecisionId, (u64, Decided)>,
    order: BTreeMap<u64, DecisionId>,
    next: u64,
}

impl Calls {
    /// One has begun. Gives how many were forgotten for it.
    fn begin(&mut self, id: DecisionId, decided: Decided) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some((before, _)) = self.open.insert(id, (number, decided)) {
            self.order.remove(&before);
        }
        self.order.insert(number, id);
        let mut forgotten = 0;
        while self.open.len() > CALLS {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            self.open.remove(&oldest);
            forgotten += 1;
        }
        forgotten
    }

    fn end(&mut self, id: DecisionId) -> Option<Decided> {
        let (number, decided) = self.open.remove(&id)?;
        self.order.remove(&number);
        Some(decided)
    }
}

impl Tally {
    pub(crate) fn new(figures: Figures, spans: Option<mpsc::Sender<Span>>) -> Self {
        Self {
            lost: Arc::clone(&figures.0.lost),
            figures,
            spans,
            models: Models::default(),
            calls: Calls::default(),
        }
    }

    pub(crate) fn take(&mut self, note: Note) {
        match note {
            Note::Decided(decided) => self.decided(*decided),
            Note::Ended(id, outcome) => self.ended(id, &outcome),
        }
    }

    fn decided(&mut self, decided: Decided) {
        let word = |word: &dyn fmt::Display| word.to_string();
        let layer = word(&Word(decided.layer));
        let kind = word(&Word(decided.kind));
        let verdict = word(&Word(decided.verdict));
        let reason = word(&Word(decided.reason));
        let enforced = word(&decided.enforced);
        let agent = decided.agent.as_ref().map_or("", |name| name.as_str());
        self.figures.with(|store| {
            let count = decided.count;
            store.add(
                Id::Decisions,
                &[&layer, &kind, &verdict, &enforced, &reason],
                count,
            );
            store.add(Id::AgentDecisions, &[agent, &verdict, &enforced], count);
            if let Some(budget) = decided.budget.as_deref().filter(|_| decided.enforced) {
                store.add(Id::BudgetRefusals, &[budget], count);
            }
            if let Some(limit) = decided.limit.as_deref().filter(|_| decided.enforced) {
                store.add(Id::LimitRefusals, &[limit], count);
            }
            store.observe(
                Id::DecisionDuration,
                &[&layer],
                decided.latency.as_secs_f64(),
                1,
            );
            store.observe(
                Id::RecordWriteDuration,
                &[],
                decided.written.as_secs_f64(),
                1,
            );
        });
        if decided.call.is_none() {
            return;
        }
        match decided.recorded {
            Some(id) if decided.goes_on() => {
                let forgotten = self.calls.begin(id, decided);
                self.lost.calls.fetch_add(forgotten, Ordering::Relaxed);
            }
            _ => self.tell(&decided, None),
        }
    }

    fn ended(&mut self, id: DecisionId, outcome: &Outcome) {
        self.figures.with(|store| {
            store.add(Id::Bytes, &["sent"], outcome.bytes.sent);
            store.add(Id::Bytes, &["received"], outcome.bytes.received);
        });
        let Some(decided) = self.calls.end(id) else {
            return;
        };
        if let Some(llm) = decided.call.as_ref().and_then(|call| call.llm.as_ref()) {
            self.called(&decided, llm, outcome);
        }
        self.tell(&decided, Some(outcome));
    }

    /// A call of a language model has ended.
    fn called(&mut self, decided: &Decided, llm: &Llm, outcome: &Outcome) {
        let agent = decided.agent.as_ref();
        let answer = outcome.llm.as_ref();
        let operation = Word(llm.operation).to_string();
        let provider = provider(&llm.provider);
        let asked = self
            .models
            .name(agent, llm.model.as_deref().unwrap_or_default());
        let answered = answer.and_then(|answer| answer.model.as_deref());
        let answered = self.models.name(agent, answered.unwrap_or_default());
        let error = error_type(outcome).unwrap_or_default();
        let seconds = Duration::from_millis(outcome.duration_ms).as_secs_f64();
        let usage = answer.and_then(|answer| answer.usage).unwrap_or_default();
        let agent = agent.map_or("", |name| name.as_str());
        self.figures.with(|store| {
            let labels = [operation.as_str(), provider, &asked, &answered, &error];
            store.observe(Id::OperationDuration, &labels, seconds, 1);
            for (kind, tokens) in [
                ("input", usage.input_tokens),
                ("output", usage.output_tokens),
            ] {
                let Some(tokens) = tokens else {
                    continue;
                };
                let labels = [kind, operation.as_str(), provider, &asked, &answered];
                store.observe(Id::Tokens, &labels, float(tokens), 1);
                store.add(Id::AgentTokens, &[agent, kind], tokens);
            }
        });
    }

    fn tell(&self, decided: &Decided, outcome: Option<&Outcome>) {
        let Some(spans) = &self.spans else {
            return;
        };
        if let Some(span) = span(decided, outcome)
            && spans.try_send(span).is_err()
        {
            self.lost.spans.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A provider as the conventions call it (`gen_ai.provider.name`), where the policy's word is another.
pub(crate) fn provider(name: &str) -> &str {
    match name {
        "azure_openai" => "azure.ai.openai",
        "mistral" => "mistral_ai",
        "xai" => "x_ai",
        "bedrock" | "aws_bedrock" => "aws.bedrock",
        "gemini" => "gcp.gemini",
        "vertex" | "vertex_ai" => "gcp.vertex_ai",
        other => other,
    }
}

/// Why an allowed call failed (`error.type`), in few words: the status, that it broke off, or that its provider or its tool
/// says so. Not by which code: whoever answers would make up as many as it likes.
pub(crate) fn error_type(outcome: &Outcome) -> Option<String> {
    match outcome.status {
        Some(status) if status >= 400 => Some(status.to_string()),
        _ if outcome.error.is_some() => Some("interrupted".to_owned()),
        _ if outcome
            .llm
            .as_ref()
            .is_some_and(|answer| answer.error.is_some()) =>
        {
            Some("provider".to_owned())
        }
        // As the conventions for MCP have it.
        _ if outcome.tool.as_ref().is_some_and(|answer| {
            let mut results = answer.results.iter();
            results.any(|it| it.is_error || it.error.is_some())
        }) =>
        {
            Some("tool_error".to_owned())
        }
        _ => None,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures, whose last digits nobody sees"
)]
pub(crate) const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
pub(crate) mod tests;
