//! What comes of responses.

use std::collections::VecDeque;

use agentguard_model::{AskedTool, LlmAnswer, Usage};

use super::Given;
use crate::llm::answer::{Answer, add, sum};
use crate::llm::tools::Tools;
use crate::llm::{NotUnderstood, Progress};

/// The most responses that are told of at a time. Of one that was begun before no more is read.
const MAX_OPEN: usize = 16;

/// What an event of the server's says.
#[derive(Debug)]
pub enum Heard {
    /// What the session is.
    Session {
        /// What it offers and may, and the model that it has.
        told: Result<Given, NotUnderstood>,
        /// Whether it says so because of an update.
        updated: bool,
    },
    /// Something of a response.
    Reply(Box<Reply>),
    /// Speech was written down: what that took.
    Transcribed(Option<Usage>),
    /// Something went wrong.
    Error {
        /// With the client's event of this id, where it names one.
        event: Option<String>,
        /// Its code, or type, or message.
        error: String,
    },
    /// Anything else.
    Other,
}

/// What an event says of a response.
#[derive(Debug)]
pub struct Reply {
    /// Its id; empty where the server gives it none.
    pub id: String,
    /// Whether it begins or ends with that.
    pub progress: Progress,
    pub(super) said: Said,
}

/// What is told of a response.
#[derive(Debug)]
pub(super) enum Said {
    /// An item of its output begins: it is a call of this tool.
    Calls(u64, AskedTool),
    /// It is over.
    Called(u64, AskedTool),
    /// The arguments of one are whole.
    Arguments(u64, String),
    /// The response is over.
    Done(Box<Done>),
    /// Nothing that is looked at.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) finish_reason: Option<String>,
    pub(super) error: Option<String>,
    pub(super) usage: Option<Usage>,
    /// What it has put out.
    pub(super) output: Tools,
}

/// What came of the responses that a call was answered with: of one that a client asks for there is one, and of a
/// session as many as the server makes by itself, whose tokens and tool calls are told together.
#[derive(Debug, Default)]
pub struct Replies {
    told: LlmAnswer,
    open: VecDeque<(String, Answer)>,
    fault: Option<NotUnderstood>,
}

impl Replies {
    /// Takes what an event says of one of them. `model`: what the session has.
    pub fn hear(&mut self, reply: Reply, model: Option<&str>) {
        let heard = self.take(reply, model);
        if let Err(fault) = heard {
            self.give_up(fault);
        }
    }

    fn take(&mut self, reply: Reply, model: Option<&str>) -> Result<(), NotUnderstood> {
        let Reply { id, progress, said } = reply;
        if !self.open.iter().any(|(of, _)| *of == id) {
            self.open.push_back((id.clone(), Answer::default()));
            self.bound();
        }
        let Some(at) = self.open.iter().position(|(of, _)| *of == id) else {
            return Ok(());
        };
        let Some((_, answer)) = self.open.get_mut(at) else {
            return Ok(());
        };
        answer.told.model = model.map(str::to_owned).or(answer.told.model.take());
        match said {
            Said::Calls(index, asked) => {
                answer.tools.named((0, index), Some(asked.name), asked.id)?;
            }
            Said::Called(index, asked) => answer.tools.put((0, index), asked)?,
            Said::Arguments(index, digest) => answer.tools.argued((0, index), digest),
            Said::Done(done) => {
                let Done {
                    finish_reason,
                    error,
                    usage,
                    output,
                } = *done;
                // Of an item that nobody told of, the response does.
                answer.tools.told_whole(output)?;
                answer.told.finish_reason = finish_reason;
                answer.told.usage = usage;
                let [kind, ..] = &mut answer.error;
                *kind = error;
            }
            Said::Other => {}
        }
        if progress == Progress::Over
            && let Some((_, answer)) = self.open.remove(at)
        {
            self.add(answer.finish());
        }
        Ok(())
    }

    /// Of too many under way the first are over.
    fn bound(&mut self) {
        while self.open.len() > MAX_OPEN
            && let Some((_, first)) = self.open.pop_front()
        {
            self.add(first.finish());
        }
    }

    /// Takes those of another decision's that are under way: they go on as these do.
    pub fn take_over(&mut self, other: &mut Self) {
        self.open.append(&mut other.open);
        self.bound();
    }

    /// Whether this one is under way.
    #[must_use]
    pub fn is_under_way(&self, id: &str) -> bool {
        self.open.iter().any(|(of, _)| of == id)
    }

    /// Whether nothing was told of any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.fault.is_none() && self.told == LlmAnswer::default()
    }

    /// Whether any is under way.
    #[must_use]
    pub fn any_under_way(&self) -> bool {
        !self.open.is_empty()
    }

    /// The tokens of those that are over, if any were told. As an error where they may not be all.
    #[must_use]
    pub fn usage(&self) -> Option<Result<&Usage, &Usage>> {
        let usage = self.told.usage.as_ref()?;
        Some(match self.fault {
            None => Ok(usage),
            Some(_) => Err(usage),
        })
    }

    /// What writing down has taken.
    pub fn transcribed(&mut self, usage: Option<Usage>) {
        self.told.usage = sum(self.told.usage, usage);
    }

    /// It is answered with an error.
    pub fn fail(&mut self, error: String) {
        self.told.error = Some(error);
    }

    /// The rest cannot be read.
    pub fn give_up(&mut self, why: NotUnderstood) {
        self.fault.get_or_insert(why);
    }

    /// The tools that the model asks to call, in those that are under way.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn asks(&self) -> Result<Vec<String>, NotUnderstood> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let tools = self.open.iter().map(|(_, answer)| &answer.tools);
        Ok(tools.flat_map(Tools::names).map(str::to_owned).collect())
    }

    /// Adds what came of one.
    fn add(&mut self, answer: LlmAnswer) {
        if let Err(fault) = add(&mut self.told, answer) {
            self.give_up(fault);
        }
    }

    /// What came of all of them.
    #[must_use]
    pub fn finish(mut self) -> LlmAnswer {
        for (_, answer) in std::mem::take(&mut self.open) {
            self.add(answer.finish());
        }
        self.told.not_understood = self.fault.map(|fault| fault.to_string());
        self.told
    }
}
