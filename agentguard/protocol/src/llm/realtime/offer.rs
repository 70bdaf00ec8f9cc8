//! What a session or a response is given, as both sides write it.

use agentguard_model::Demand;

use crate::json::{Event, Kind, Part};
use crate::llm::call::{Asks as _, CallSink};
use crate::llm::names::in_another_case;
use crate::llm::{Endpoint, NotUnderstood};

/// How long a response may be.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Limit {
    /// So many tokens.
    Tokens(u64),
    /// As many as there are.
    Endless,
}

/// What an event gives.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Given {
    /// The model that it names.
    pub model: Option<String>,
    /// The tools that it offers, by the names that a [`crate::llm::Call`] has.
    pub tools: Vec<String>,
    /// Whether these are all that are offered; otherwise they are offered beside others.
    pub all: bool,
    /// The limit, where it has one.
    pub limit: Option<Limit>,
    /// Whom it says that it is for.
    pub user: Option<String>,
    /// What it may have the model read and write.
    pub demand: Demand,
}

/// The names of the limit: that of the beta comes last.
const LIMITS: [&str; 2] = ["max_output_tokens", "max_response_output_tokens"];

/// Reads it.
#[derive(Debug)]
pub(super) struct OfferSink {
    asks: Box<CallSink>,
    all: bool,
    limit: Option<Limit>,
    word: String,
    fault: Option<NotUnderstood>,
}

impl Default for OfferSink {
    fn default() -> Self {
        Self {
            asks: Box::new(CallSink::new(Endpoint::Realtime)),
            all: false,
            limit: None,
            word: String::new(),
            fault: None,
        }
    }
}

impl OfferSink {
    /// What is met, at these steps within a session or a response.
    pub(super) fn met(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        if let [Part::Key(name)] = steps {
            let begins = !matches!(event, Event::Text(_) | Event::End(_));
            if begins && let Some(known) = in_another_case(&LIMITS, name) {
                self.fault.get_or_insert(NotUnderstood::Case(known));
            }
            if LIMITS.contains(name) {
                self.limit(event);
            }
            self.all |= *name == "tools" && event == Event::Begin(Kind::Array);
        }
        self.asks.met(steps, event);
    }

    /// The same within an item of the conversation.
    pub(super) fn met_in_item(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        if !matches!(steps, [Part::Key(_)] | [Part::Key("tools"), ..]) {
            return;
        }
        let mut within = vec![Part::Key("input"), Part::Item(0)];
        within.extend_from_slice(steps);
        self.asks.met(&within, event);
    }

    fn limit(&mut self, event: Event<'_>) {
        let limit = match event {
            // To clear what was there.
            Event::Null => Some(Limit::Endless),
            Event::Number(number) => number.parse().ok().map(Limit::Tokens),
            Event::Begin(Kind::Text) => {
                self.word.clear();
                return;
            }
            Event::Text(piece) => {
                if self.word.len() < "inf".len() + 1 {
                    self.word.push_str(piece);
                }
                return;
            }
            Event::End(Kind::Text) if self.word == "inf" => Some(Limit::Endless),
            _ => None,
        };
        if limit.is_none() {
            let wrong = NotUnderstood::Wrong("max_output_tokens");
            self.fault.get_or_insert(wrong);
        }
        // Where there are two, what the server takes is at most the larger.
        self.limit = self.limit.max(limit);
    }

    /// Why it is not understood, as far as it came.
    pub(super) fn fault(&self) -> Option<&NotUnderstood> {
        self.fault.as_ref().or(self.asks.fault())
    }

    /// What it gives, once it is whole.
    pub(super) fn finish(self) -> Result<Given, NotUnderstood> {
        if let Some(fault) = self.fault() {
            return Err(fault.clone());
        }
        let call = self.asks.into_call()?;
        call.names_one(call.model.as_deref())?;
        Ok(Given {
            model: call.model,
            tools: call.tools,
            all: self.all,
            limit: self.limit,
            user: call.user,
            demand: call.demand,
        })
    }
}
