//! Who reads what an answer says, and what it comes to.

use agentguard_model::{LlmAnswer, ToolAnswer};
use agentguard_protocol::api::a2a;
use agentguard_protocol::content::Undecodable;
use agentguard_protocol::eventstream;
use agentguard_protocol::json::Place;
use agentguard_protocol::llm::{self, Endpoint, NotUnderstood};
use agentguard_protocol::mcp;
use http::HeaderMap;

/// Of whom an answer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answering {
    /// A language model.
    Llm(Endpoint),
    /// A server of tools.
    Tools,
    /// An agent.
    Agent(a2a::Answered),
}

/// What an answer has said.
pub(crate) enum Said {
    Llm(LlmAnswer),
    Tools(ToolAnswer),
}

impl Said {
    /// The same, of which the calls of these tools were cut out before it was passed on.
    pub(crate) fn without<'a>(&mut self, tools: impl Iterator<Item = &'a str>) {
        if let Self::Llm(answer) = self {
            answer.cut = tools.map(str::to_owned).collect();
        }
    }
}

impl Answering {
    /// Whether what is JSON is a list whose items come one by one.
    pub(super) const fn lists(self) -> bool {
        matches!(self, Self::Llm(endpoint) if endpoint.streams_list())
    }

    /// An answer of which nothing is known, for this reason.
    pub(crate) fn unread(self, why: String) -> Said {
        let why = Some(why);
        match self {
            Self::Llm(_) => Said::Llm(LlmAnswer {
                not_understood: why,
                ..LlmAnswer::default()
            }),
            Self::Tools | Self::Agent(_) => Said::Tools(ToolAnswer {
                not_understood: why,
                ..ToolAnswer::default()
            }),
        }
    }
}

/// Who reads what is said.
pub(super) enum Says {
    Llm(Box<llm::AnswerReader>, Endpoint),
    Tools(Box<mcp::AnswerReader>),
    Agent(Box<a2a::AnswerReader>),
}

impl Says {
    /// For an answer with these fields.
    pub(super) fn of(answering: Answering, fields: &HeaderMap) -> Self {
        match answering {
            Answering::Llm(endpoint) => {
                let mut reader = llm::AnswerReader::new(endpoint);
                reader.fields(fields);
                Self::Llm(Box::new(reader), endpoint)
            }
            Answering::Tools => Self::Tools(Box::default()),
            Answering::Agent(answered) => Self::Agent(Box::new(a2a::AnswerReader::new(answered))),
        }
    }

    pub(super) fn whole(&mut self, bytes: &[u8]) {
        match self {
            Self::Llm(reader, _) => reader.whole(bytes),
            Self::Tools(reader) => reader.whole(bytes),
            Self::Agent(reader) => reader.whole(bytes),
        }
    }

    pub(super) fn data(&mut self, bytes: &[u8]) {
        match self {
            Self::Llm(reader, _) => reader.data(bytes),
            Self::Tools(reader) => reader.data(bytes),
            Self::Agent(reader) => reader.data(bytes),
        }
    }

    /// An event of AWS's event stream begins.
    pub(super) fn event_begins(&mut self, head: &eventstream::Head<'_>) {
        if let Self::Llm(reader, _) = self {
            reader.event_begins(head);
        }
    }

    pub(super) fn event_ends(&mut self, kind: &[u8]) {
        match self {
            Self::Llm(reader, _) => reader.event_ends(kind),
            Self::Tools(reader) => reader.event_ends(kind),
            Self::Agent(reader) => reader.event_ends(),
        }
    }

    /// A piece of a stream of lines. Servers of tools, and agents, have none.
    pub(super) fn lines(&mut self, bytes: &[u8]) {
        match self {
            Self::Llm(reader, _) => reader.lines(bytes),
            Self::Tools(reader) => reader.whole(bytes),
            Self::Agent(reader) => reader.whole(bytes),
        }
    }

    /// The one document is over, or with `stream` what is in hand of one.
    pub(super) fn ends(&mut self, stream: bool) {
        match self {
            Self::Llm(reader, _) if stream => reader.event_ends(&[]),
            Self::Llm(reader, _) => reader.whole_ends(),
            Self::Tools(_) | Self::Agent(_) => {}
        }
    }

    pub(super) fn give_up(&mut self, why: Undecodable) {
        match self {
            Self::Llm(reader, _) => reader.give_up(why.into()),
            Self::Tools(reader) => reader.give_up(why.into()),
            Self::Agent(reader) => reader.give_up(&why),
        }
    }

    /// The stream cannot be read.
    pub(super) fn malformed(&mut self, why: NotUnderstood) {
        if let Self::Llm(reader, _) = self {
            reader.give_up(why);
        }
    }

    /// Where the one document stands, which is a list, if that is between its items; and whether it cannot be read any more.
    pub(super) fn place(&self) -> (Option<Place>, bool) {
        match self {
            Self::Llm(reader, _) => (reader.place(), reader.is_lost()),
            Self::Tools(_) | Self::Agent(_) => (None, true),
        }
    }

    /// The tools that a language model has asked to call so far. None where that is not known.
    pub(super) fn asks(&self) -> Option<Vec<String>> {
        match self {
            Self::Llm(reader, _) => reader.asks().ok(),
            Self::Tools(_) | Self::Agent(_) => None,
        }
    }

    pub(super) fn finish(self) -> Said {
        match self {
            Self::Llm(reader, _) => Said::Llm(reader.finish()),
            Self::Tools(reader) => {
                let content = reader.content();
                Said::Tools(ToolAnswer {
                    content,
                    ..reader.finish()
                })
            }
            Self::Agent(reader) => Said::Tools(reader.finish()),
        }
    }
}
