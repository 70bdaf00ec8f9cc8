//! The tools that one answer asks for: what the policy says of them, and what is cut out of the answer for it.

use std::collections::VecDeque;
use std::sync::Arc;

use agentguard_decision::{Asked, Decided, Recorder};
use agentguard_protocol::llm::{Cutter, Uncut};
use agentguard_protocol::refusal::Refusal;
use http::StatusCode;

use crate::Port;
use crate::connection::Flow;
use crate::http::growth::{Asking, Judge};
use crate::http::metered::Meter;
use crate::http::says::Answering;

/// Asks about the tools of one answer, as they come to be known.
pub(crate) struct Checks {
    judge: Arc<dyn Judge>,
    asked: Arc<Asked>,
    /// Those that were heard of.
    known: Vec<String>,
    /// What is to be asked about next: some of them, or nobody knows which.
    next: VecDeque<Option<Vec<String>>>,
    /// What was asked about last.
    about: Option<Vec<String>>,
    /// Whether something of it could not be read.
    unread: bool,
    /// Cuts out what is denied; none where no rule would have that, or the answer cannot be read any more.
    cutter: Option<Box<Cutter>>,
    /// The last denial for which something was cut out.
    cut: Option<Decided>,
    /// The tools whose calls are cut out.
    tools: Vec<String>,
    /// Counts what is written; none where all of it is reserved.
    meter: Option<Meter>,
}

/// How a part of an answer goes on.
#[derive(Debug)]
pub(crate) enum Goes<T> {
    AsItCame,
    Instead(T),
}

impl<R: Recorder, P: Port> Flow<R, P> {
    /// Of the answer to a call on this connection.
    pub(crate) fn checks(
        self: &Arc<Self>,
        asked: Arc<Asked>,
        answering: Option<Answering>,
    ) -> Checks {
        let cutter = match answering {
            Some(Answering::Llm(endpoint)) if self.guard.decider.cuts_tool_calls() => {
                Some(Cutter::new(endpoint))
            }
            _ => None,
        };
        Checks::new(self.clone(), asked, cutter)
    }
}

impl Checks {
    /// Of the answer to this call. `cutter`: where a rule may have something cut out of it.
    pub(super) fn new(judge: Arc<dyn Judge>, asked: Arc<Asked>, cutter: Option<Cutter>) -> Self {
        Self {
            judge,
            asked,
            known: Vec::new(),
            next: VecDeque::new(),
            about: None,
            unread: false,
            cutter: cutter.map(Box::new),
            cut: None,
            tools: Vec::new(),
            meter: None,
        }
    }

    /// The same, which asks for more of its budgets as it is written, too.
    pub(crate) fn metered(self, meter: Option<Meter>) -> Self {
        Self { meter, ..self }
    }

    /// Whether what is written is counted.
    pub(crate) const fn counts(&self) -> bool {
        self.meter.is_some()
    }

    /// Notes what the model has written, where that is counted.
    pub(crate) fn hear_written(&mut self, hear: impl FnOnce(&mut Meter)) {
        if let Some(meter) = &mut self.meter {
            hear(meter);
        }
    }

    /// Notes the tools that the answer is known to ask for now. None: nobody knows which.
    pub(crate) fn hear(&mut self, asks: Option<Vec<String>>) {
        let Some(asks) = asks else {
            if !std::mem::replace(&mut self.unread, true) {
                self.next.push_back(None);
            }
            return;
        };
        if asks == self.known {
            return;
        }
        if asks.is_empty() {
            // Of what is asked for after that nothing was known before.
            self.known.clear();
            return;
        }
        if self.cutter.is_none() {
            self.next.push_back(Some(asks.clone()));
        } else {
            // One by one: each may be cut out for itself.
            let mut before = std::mem::take(&mut self.known);
            for tool in &asks {
                match before.iter().position(|known| known == tool) {
                    Some(known) => _ = before.swap_remove(known),
                    None => self.next.push_back(Some(vec![tool.clone()])),
                }
            }
        }
        self.known = asks;
    }

    /// Asks about what is to be asked about next. [`Self::ruled`] takes the answer.
    pub(crate) fn next(&mut self) -> Option<Asking> {
        if let Some((held, tokens)) = self.meter.as_mut().and_then(Meter::next) {
            self.about = None;
            let (judge, asked) = (Arc::clone(&self.judge), Arc::clone(&self.asked));
            return Some(judge.written(asked, held, tokens));
        }
        loop {
            let asks = self.next.pop_front()?;
            let cuts = |tool: &String| self.cuts().any(|it| it == tool);
            if asks.iter().flatten().any(cuts) {
                continue;
            }
            self.about.clone_from(&asks);
            let answered = Arc::new(self.asked.answered(asks)?);
            return Some(Arc::clone(&self.judge).ask(answered, None));
        }
    }

    /// What was decided on what was asked about last.
    ///
    /// # Errors
    /// The answer is denied.
    pub(crate) fn ruled(&mut self, decided: Option<Decided>) -> Result<(), Decided> {
        let decided = match decided {
            Some(decided) if !decided.allowed => decided,
            _ => return Ok(()),
        };
        match (&mut self.cutter, self.about.take().as_deref()) {
            (Some(cutter), Some([tool])) if decided.cuts => {
                let sentence = Refusal {
                    status: StatusCode::FORBIDDEN,
                    reason: &decided.reason,
                    decision: decided.id,
                    spent: decided.spent(),
                    retry_after: decided.retry_after(),
                };
                cutter.cut(tool.clone(), sentence.message());
                self.tools.push(tool.clone());
                self.cut = Some(decided);
                Ok(())
            }
            _ => Err(decided),
        }
    }

    /// As [`Self::hear`], to the end.
    ///
    /// # Errors
    /// The answer is denied.
    pub(crate) async fn check(&mut self, asks: Option<Vec<String>>) -> Result<(), Decided> {
        self.hear(asks);
        while let Some(asking) = self.next() {
            let decided = asking.await;
            self.ruled(decided)?;
        }
        Ok(())
    }

    /// Writes a part of the answer that was asked about without what is cut out. None: there is more to ask about first.
    ///
    /// # Errors
    /// What is to be cut out of it cannot be, so that the answer is denied.
    pub(crate) fn written<T>(
        &mut self,
        write: impl FnOnce(&mut Cutter) -> Result<Option<T>, Uncut>,
    ) -> Result<Option<Goes<T>>, Decided> {
        let written = match &mut self.cutter {
            None => return Ok(Some(Goes::AsItCame)),
            Some(_) if self.unread => Err("it cannot be read".to_owned()),
            Some(cutter) => write(cutter).map_err(|why| why.to_string()),
        };
        match written {
            Ok(None) => Ok(Some(Goes::AsItCame)),
            Ok(Some(instead)) => Ok(Some(Goes::Instead(instead))),
            Err(why) => {
                self.cutter = None;
                if let Some(mut denied) = self.cut.take() {
                    let more = format!(" It cannot be cut out of the answer: {why}.");
                    denied.reason.message.push_str(&more);
                    return Err(denied);
                }
                // Nothing was denied yet. What comes now may ask for any tool.
                self.hear(None);
                Ok(None)
            }
        }
    }

    /// As [`Self::written`], to the end.
    ///
    /// # Errors
    /// As there, or the answer is denied.
    pub(crate) async fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Cutter) -> Result<Option<T>, Uncut>,
    ) -> Result<Goes<T>, Decided> {
        match self.written(write)? {
            Some(goes) => Ok(goes),
            None => self.check(None).await.map(|()| Goes::AsItCame),
        }
    }

    /// Whether something may be cut out of the answer, so that its length is not known before.
    pub(crate) const fn may_cut(&self) -> bool {
        self.cutter.is_some()
    }

    /// The tools whose calls are cut out, also where the rest was denied behind them.
    pub(crate) fn cuts(&self) -> impl Iterator<Item = &str> {
        self.tools.iter().map(String::as_str)
    }
}
