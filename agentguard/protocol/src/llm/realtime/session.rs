//! What may be offered to the model of a session.

use agentguard_model::Demand;

use super::offer::{Given, Limit};
use crate::llm::{Call, MAX_OFFERED, NotUnderstood};

/// Tools, and a limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Offer {
    /// By name; none twice.
    pub tools: Vec<String>,
    /// The limit.
    pub limit: Limit,
}

impl Offer {
    /// Whether all that this offers is offered by `other`, too.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.limit <= other.limit && self.tools.iter().all(|tool| other.tools.contains(tool))
    }

    fn add(&mut self, other: &Self) {
        add(&mut self.tools, &other.tools);
        self.limit = self.limit.max(other.limit);
    }
}

fn add(tools: &mut Vec<String>, more: &[String]) {
    for tool in more {
        if !tools.contains(tool) {
            tools.push(tool.clone());
        }
    }
}

/// A session, by what was said of it. It is never thought to offer less than it may.
#[derive(Debug)]
pub struct Session {
    /// The model that was asked for: where the connection was opened, or in an update that was taken.
    model: Option<String>,
    /// The one that updates ask for that are not known to have been taken.
    named: Option<String>,
    /// What the server has said that it offers, or offers when it begins.
    known: Offer,
    /// What updates would have it offer that may have been taken, and what is offered beside.
    given: Option<Offer>,
    /// What items of the conversation bring.
    items: Vec<String>,
    /// Whether it was ever asked to reason, and offered tools that the provider runs.
    reasons: bool,
    serves_tools: bool,
    /// How many updates the server has not answered. One that it does not take stays so: which event an error is
    /// about is its client's word.
    unanswered: u64,
    /// How many of them an answer may come to yet.
    due: u64,
    /// Whether the server has said what it is when it begins.
    begun: bool,
    /// Why nobody knows what it offers.
    unknown: Option<NotUnderstood>,
}

impl Session {
    /// One that asks for this model, and offers nothing yet.
    #[must_use]
    pub const fn new(model: Option<String>) -> Self {
        Self {
            model,
            named: None,
            known: Offer {
                tools: Vec::new(),
                limit: Limit::Endless,
            },
            given: None,
            items: Vec::new(),
            reasons: false,
            serves_tools: false,
            unanswered: 0,
            due: 0,
            begun: false,
            unknown: None,
        }
    }

    /// All that it may offer now.
    #[must_use]
    pub fn offers(&self) -> Offer {
        let mut offer = self.known.clone();
        if let Some(given) = &self.given {
            offer.add(given);
        }
        add(&mut offer.tools, &self.items);
        offer
    }

    /// The call that a response is where this is given to it, or to its session.
    ///
    /// # Errors
    /// Nobody knows what is offered; or another model is named than that of the session, of which the API does not
    /// say that it is taken.
    pub fn call(&self, given: &Given) -> Result<Call, NotUnderstood> {
        if let Some(why) = &self.unknown {
            return Err(why.clone());
        }
        let asked = self.model.as_ref().or(self.named.as_ref());
        if let (Some(named), Some(model)) = (&given.model, asked)
            && named != model
        {
            return Err(NotUnderstood::Wrong("model"));
        }
        let offer = self.offer(given)?;
        let demand = Demand {
            reasons: given.demand.reasons.max(self.reasons.then_some(true)),
            told_in_openai_form: given.demand.told_in_openai_form,
            // Of those that stand in its conversation nobody says whose they are.
            serves_tools: given.demand.serves_tools || self.serves_tools || !self.items.is_empty(),
            // To the conversation, all of which is kept there.
            refers: true,
            parts: u32::try_from(offer.tools.len()).unwrap_or(u32::MAX),
            ..Demand::default()
        };
        Ok(Call {
            model: self.model.clone().or(given.model.clone()),
            stream: true,
            max_output_tokens: match offer.limit {
                Limit::Tokens(tokens) => Some(tokens),
                Limit::Endless => None,
            },
            tools: offer.tools,
            user: given.user.clone(),
            beside: None,
            demand,
        })
    }

    /// What is offered where this is given.
    ///
    /// # Errors
    /// More than [`MAX_OFFERED`] tools.
    pub fn offer(&self, given: &Given) -> Result<Offer, NotUnderstood> {
        let now = self.offers();
        let mut tools = Vec::new();
        if given.all {
            // What stands in the conversation is offered on.
            add(&mut tools, &given.tools);
            add(&mut tools, &self.items);
        } else {
            add(&mut tools, &now.tools);
            add(&mut tools, &given.tools);
        }
        if tools.len() > MAX_OFFERED {
            return Err(NotUnderstood::Offered);
        }
        Ok(Offer {
            tools,
            limit: given.limit.unwrap_or(now.limit),
        })
    }

    /// An update was sent.
    ///
    /// # Errors
    /// As [`Self::offer`], with all that may be in force. Then nobody knows what that is: [`Self::sent_unknown`].
    pub fn sent_update(&mut self, given: &Given) -> Result<(), NotUnderstood> {
        let mut offer = self.offer(given)?;
        if let Some(before) = &self.given {
            offer.add(before);
        }
        if offer.tools.len() > MAX_OFFERED {
            return Err(NotUnderstood::Offered);
        }
        self.given = Some(offer);
        self.demands(&given.demand);
        if self.model.is_none() {
            self.named = given.model.clone().or(self.named.take());
        }
        self.unanswered = self.unanswered.saturating_add(1);
        self.due = self.due.saturating_add(1);
        Ok(())
    }

    fn demands(&mut self, demand: &Demand) {
        self.reasons |= demand.reasons == Some(true);
        self.serves_tools |= demand.serves_tools;
    }

    /// An item was sent that brings tools.
    ///
    /// # Errors
    /// There are more than [`MAX_OFFERED`] of such.
    pub fn sent_item(&mut self, tools: &[String]) -> Result<(), NotUnderstood> {
        let mut items = self.items.clone();
        add(&mut items, tools);
        if items.len() > MAX_OFFERED {
            return Err(NotUnderstood::Offered);
        }
        self.items = items;
        Ok(())
    }

    /// Something was sent that may have given it anything.
    pub fn sent_unknown(&mut self, why: NotUnderstood) {
        self.unknown.get_or_insert(why);
    }

    /// The server says what the session is: after an update, or when it begins.
    pub fn told(&mut self, told: Result<Given, NotUnderstood>, updated: bool) {
        self.begun = true;
        if updated {
            self.due = self.due.saturating_sub(1);
        }
        let told = match told {
            Ok(told) => told,
            Err(why) => return self.sent_unknown(why),
        };
        self.demands(&told.demand);
        let before = self.offers();
        self.known = Offer {
            tools: if told.all { told.tools } else { before.tools },
            limit: told.limit.unwrap_or(before.limit),
        };
        if !updated {
            return;
        }
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.is_settled() {
            self.given = None;
            self.model = self.model.take().or(self.named.take());
        }
    }

    /// The server says that something is wrong, which may be an update.
    pub fn failed(&mut self) {
        self.due = self.due.saturating_sub(1);
    }

    /// Whether the server is about to say what it is: since it has not begun, or was sent an update.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        !self.begun || self.due > 0
    }

    /// What the server has said that it offers.
    #[must_use]
    pub const fn known(&self) -> &Offer {
        &self.known
    }

    /// Whether nobody knows what it offers.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        self.unknown.is_some()
    }

    /// Whether the server has answered all updates, so that what it said last is what is offered.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.unanswered == 0
    }
}
