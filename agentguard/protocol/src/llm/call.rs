//! What a request asks for.

use std::collections::HashSet;
use std::{fmt, mem};

use agentguard_model::Demand;

use super::converse_call::ConverseCall;
use super::demand::{DemandSink, Form};
use super::gemini_call::GeminiCall;
use super::names::{asks_for_more, in_another_case};
use super::noted::Noted;
use super::{Endpoint, InvokeForm, MAX_OFFERED, NotUnderstood, Retrieved, Word};
use crate::json::{Event, Kind, Part, Path, Scanner, Sink};

/// What a call asks for, in any of the forms.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Call {
    /// The model.
    pub model: Option<String>,
    /// Whether the answer is to come as a stream.
    pub stream: bool,
    /// The most tokens of the answer.
    pub max_output_tokens: Option<u64>,
    /// The names of the tools that are offered, and of servers (MCP) whose tools are; of those that the provider
    /// has itself, their types too.
    pub tools: Vec<String>,
    /// Whom it says that it is for. None where it says so in two ways, or in more than [`super::MAX_WORD`] bytes.
    pub user: Option<String>,
    /// A model that it names beside its own, which may answer in its place, or be called by it.
    pub beside: Option<String>,
    /// What it may have the model read and write.
    pub demand: Demand,
}

impl Call {
    /// Whether the model that is called is the only one.
    ///
    /// # Errors
    /// Another one is named beside, or several are by one name.
    pub fn names_one(&self, model: Option<&str>) -> Result<(), NotUnderstood> {
        // Some routers take each that stands between commas (LiteLLM).
        if model.is_some_and(|model| model.contains(',')) {
            return Err(NotUnderstood::Models);
        }
        match &self.beside {
            Some(beside) if Some(beside.as_str()) != model => Err(NotUnderstood::Models),
            _ => Ok(()),
        }
    }
}

/// Reads the content of a request.
#[derive(Debug)]
pub struct CallReader {
    scanner: Scanner,
    form: Box<dyn Asks>,
}

/// What a form makes of a request's content.
pub(super) trait Asks: Sink + fmt::Debug + Send {
    /// Why it is not understood, as far as it came.
    fn fault(&self) -> Option<&NotUnderstood>;

    /// What it asks for, once it is whole.
    fn finish(self: Box<Self>) -> Result<Call, NotUnderstood>;
}

/// Content of which nobody knows what it says.
#[derive(Debug)]
struct Unread;

impl Sink for Unread {
    fn take(&mut self, _: &Path, _: Event<'_>) {}
}

impl Asks for Unread {
    fn fault(&self) -> Option<&NotUnderstood> {
        Some(&NotUnderstood::Form)
    }

    fn finish(self: Box<Self>) -> Result<Call, NotUnderstood> {
        Err(NotUnderstood::Form)
    }
}

impl CallReader {
    /// For a request to this endpoint; to one where an answer is, for one that is no call.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        let form: Box<dyn Asks> = match endpoint {
            Endpoint::GenerateContent { .. } | Endpoint::ContentTokens | Endpoint::EmbedContent => {
                Box::new(GeminiCall::default())
            }
            Endpoint::Converse { .. } | Endpoint::BedrockTokens => {
                Box::new(ConverseCall::default())
            }
            Endpoint::Retrieved(Retrieved::Chat) => Box::new(Noted::default()),
            Endpoint::Retrieved(_) => Box::new(Unread),
            endpoint if endpoint.is_unread() => Box::new(Unread),
            endpoint => Box::new(CallSink::new(endpoint)),
        };
        Self {
            scanner: Scanner::default(),
            form,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// Why the call is not understood. Nothing more is to be read then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NotUnderstood> {
        self.scanner.push(bytes, &mut *self.form)?;
        self.form.fault().cloned().map_or(Ok(()), Err)
    }

    /// What it asks for, once it is whole.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(mut self) -> Result<Call, NotUnderstood> {
        self.scanner.finish(&mut *self.form)?;
        let mut call = self.form.finish()?;
        // Only on a connection that goes on there is anything to prepare.
        call.demand.silent = false;
        Ok(call)
    }
}

#[derive(Debug)]
pub(super) struct CallSink {
    endpoint: Endpoint,
    call: Call,
    demand: DemandSink,
    /// What a message has beside; none where the document has no such thing.
    message: Option<Envelope>,
    /// Whether the call of a batch that is being read has named its model.
    named: bool,
    /// Whether it says in two ways whom it is for.
    two_users: bool,
    /// Whether the fallback that is being read has named its model.
    falls_back: bool,
    /// The largest limit of a fallback.
    fallback_limit: Option<u64>,
    /// What is offered, once each: a conversation tells of its tools again.
    offered: HashSet<String>,
    /// Whether it asks for as many tokens as there are.
    endless: bool,
    word: Word,
    /// The tool that is being read; and the one that is being read inside of it.
    tool: Tool,
    nested: Tool,
    object: bool,
    fault: Option<NotUnderstood>,
}

/// What a message has that the content of a request has not.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    pub(super) kind: Option<String>,
    /// The lane that its answer comes in.
    pub(super) lane: Option<String>,
}

/// What names a tool.
#[derive(Debug, Default)]
struct Tool {
    name: Option<String>,
    kind: Option<String>,
    /// The model that it is.
    model: Option<String>,
}

/// What of a tool is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Of {
    Name,
    Kind,
    Model,
}

/// The members at the top that are looked at.
const KNOWN: [&str; 18] = [
    "input",
    "messages",
    "fallbacks",
    "plugins",
    "compound_custom",
    "model",
    "models",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "tools",
    "functions",
    "mcp_servers",
    "web_search_options",
    "data_sources",
    "search_parameters",
    "enable_search",
];

/// Members at the top in which a client of `LiteLLM`'s names models that answer in the place of its own, or what that
/// stands for: none of them may have anything in it.
const NAME_OTHERS: [&str; 6] = [
    "context_window_fallbacks",
    "context_window_fallback_dict",
    "content_policy_fallbacks",
    "model_list",
    "router_settings_override",
    "user_config",
];

/// Those that a message has beside.
const MESSAGE: [&str; 3] = ["type", "response", "stream_id"];

/// The members of a tool that are.
const TOOL: [&str; 7] = [
    "name",
    "model",
    "type",
    "function",
    "custom",
    "server_label",
    "tools",
];

impl CallSink {
    /// For a message that says itself what it is, and may be a call to this endpoint: see [`super::TurnReader`].
    pub(super) fn message(endpoint: Endpoint) -> Self {
        Self {
            message: Some(Envelope::default()),
            ..Self::new(endpoint)
        }
    }

    /// What a message has beside, once it is whole.
    pub(super) fn envelope(&mut self) -> Envelope {
        self.message.take().unwrap_or_default()
    }

    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            call: Call {
                // Ollama's streams are what is not said otherwise.
                stream: matches!(endpoint, Endpoint::OllamaChat | Endpoint::OllamaGenerate),
                ..Call::default()
            },
            demand: DemandSink::new(Form::of(endpoint)),
            message: None,
            named: false,
            two_users: false,
            falls_back: false,
            fallback_limit: None,
            offered: HashSet::new(),
            endless: false,
            word: Word::default(),
            tool: Tool::default(),
            nested: Tool::default(),
            object: false,
            fault: None,
        }
    }

    fn fail(&mut self, fault: NotUnderstood) {
        self.fault.get_or_insert(fault);
    }

    /// The limit that is asked for under this name, as far as the endpoint has it.
    fn is_limit(&self, name: &str) -> bool {
        match self.endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Invoke {
                form: InvokeForm::Chat,
                ..
            } => matches!(name, "max_tokens" | "max_completion_tokens"),
            Endpoint::Invoke {
                form: InvokeForm::Messages,
                ..
            } => name == "max_tokens",
            Endpoint::Completions
            | Endpoint::Messages
            | Endpoint::MessageBatches
            | Endpoint::PredictMessages { .. }
            | Endpoint::CohereChat
            | Endpoint::CohereGenerate => name == "max_tokens",
            Endpoint::Responses => name == "max_output_tokens",
            _ => false,
        }
    }

    /// A member of the top, whose value is met or begins.
    fn member(&mut self, name: &str, event: Event<'_>) {
        // Once: a text with many escapes comes in many pieces.
        if !matches!(event, Event::Text(_) | Event::End(_)) {
            self.spelt(name);
        }
        self.message_member(name, event);
        match (name, event) {
            ("connectors", event) if self.is_cohere() => match event {
                Event::Begin(Kind::Array) | Event::End(_) | Event::Null => {}
                _ => self.fail(NotUnderstood::Wrong("connectors")),
            },
            ("options", event) if self.is_ollama() => match event {
                Event::Begin(Kind::Object) | Event::End(_) | Event::Null => {}
                _ => self.fail(NotUnderstood::Wrong("options")),
            },
            // Routers take one of several, of their own choice.
            ("models", Event::Null) => {}
            ("models", _) => self.fail(NotUnderstood::Wrong("models")),
            ("model", Event::Begin(Kind::Text)) => self.word = Word::default(),
            ("model", Event::Text(piece)) => self.word.push(piece),
            ("model", Event::End(Kind::Text)) => {
                if self.word.long {
                    self.fail(NotUnderstood::Long("model"));
                }
                self.named = true;
                let model = self.word.take();
                // Those of a batch are decided as one.
                if self.call.model.is_some() && self.call.model != model {
                    self.fail(NotUnderstood::Wrong("model"));
                }
                self.call.model = model;
            }
            ("model", Event::Null) => {}
            // Those that a provider has for a model by itself go by `default`.
            ("fallbacks", Event::Begin(Kind::Text)) => self.word = Word::default(),
            ("fallbacks", Event::Text(piece)) => self.word.push(piece),
            ("fallbacks", Event::End(Kind::Text))
                if self.word.take().as_deref() == Some("default") => {}
            (
                "fallbacks",
                Event::End(Kind::Text)
                | Event::Bool(_)
                | Event::Number(_)
                | Event::Begin(Kind::Object),
            ) => self.fail(NotUnderstood::Wrong("fallbacks")),
            ("model", _) => self.fail(NotUnderstood::Wrong("model")),
            ("stream", Event::Bool(stream)) => self.call.stream = stream,
            ("stream", Event::Null) => {}
            ("stream", _) => self.fail(NotUnderstood::Wrong("stream")),
            // `LiteLLM` takes it for the model, whatever that is.
            ("deployment_id", Event::Bool(_) | Event::Number(_) | Event::Begin(_)) => {
                self.fail(NotUnderstood::Models);
            }
            // The search that Chat Completions have is offered by its options.
            ("web_search_options", Event::Begin(Kind::Object)) => {
                self.offer("web_search".to_owned());
            }
            // So are Azure's own data, xAI's live search and Qwen's search. `1` and `"true"` are true for some.
            ("data_sources" | "search_parameters", Event::Begin(_))
            | ("enable_search", Event::Bool(true) | Event::Number(_) | Event::Begin(_)) => {
                self.offer(name.to_owned());
            }
            ("tools" | "functions" | "mcp_servers", event) => match event {
                Event::Begin(Kind::Array) | Event::End(_) | Event::Null => {}
                _ => self.fail(NotUnderstood::Wrong("tools")),
            },
            (_, Event::Null) => {}
            (name, event) if self.is_limit(name) => self.limit(event),
            _ => {}
        }
    }

    /// Fails where the name of a member of the top is that of one that is known but for its case.
    fn spelt(&mut self, name: &str) {
        let known = in_another_case(&KNOWN, name)
            .or_else(|| {
                self.message
                    .as_ref()
                    .and_then(|_| in_another_case(&MESSAGE, name))
            })
            .or_else(|| in_another_case(&["options"], name).filter(|_| self.is_ollama()))
            .or_else(|| in_another_case(&["connectors"], name).filter(|_| self.is_cohere()));
        if let Some(known) = known {
            self.fail(NotUnderstood::Case(known));
        }
    }

    /// A member that messages alone have.
    fn message_member(&mut self, name: &str, event: Event<'_>) {
        let Some(message) = &mut self.message else {
            return;
        };
        match (name, event) {
            ("type" | "stream_id", Event::Begin(Kind::Text)) => self.word = Word::default(),
            ("type" | "stream_id", Event::Text(piece)) => self.word.push(piece),
            ("type", Event::End(Kind::Text)) => message.kind = self.word.take(),
            ("stream_id", Event::End(Kind::Text)) => {
                let long = self.word.is_long();
                message.lane = self.word.take();
                if long {
                    self.fail(NotUnderstood::Long("stream_id"));
                }
            }
            ("stream_id", Event::Null) => {}
            ("stream_id", _) => self.fail(NotUnderstood::Wrong("stream_id")),
            ("type", _) => self.fail(NotUnderstood::Wrong("type")),
            // Where another API over WebSocket has the call.
            ("response", Event::Null) => {}
            ("response", _) => self.fail(NotUnderstood::Wrong("response")),
            _ => {}
        }
    }

    /// A member of Ollama's `options`.
    fn option(&mut self, name: &str, event: Event<'_>) {
        if in_another_case(&["num_predict"], name).is_some() {
            self.fail(NotUnderstood::Case("num_predict"));
        }
        match (name, event) {
            ("num_predict", Event::Null) => {}
            // As many as there are.
            ("num_predict", Event::Number(number))
                if number.parse::<i64>().is_ok_and(|number| number < 0) => {}
            ("num_predict", event) => self.limit(event),
            _ => {}
        }
    }

    /// Whom it says that it is for.
    fn user(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(Kind::Text) => self.word = Word::default(),
            Event::Text(piece) => self.word.push(piece),
            Event::End(Kind::Text) => {
                let user = self.word.take();
                self.two_users |= self.call.user.is_some() && self.call.user != user;
                self.call.user = user.filter(|_| !self.two_users);
            }
            _ => {}
        }
    }

    /// What is around the calls of a batch.
    fn batch(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        match (steps, event) {
            ([Part::Key(name)], _) if in_another_case(&["requests"], name).is_some() => {
                self.fail(NotUnderstood::Case("requests"));
            }
            ([Part::Key("requests"), Part::Item(_), Part::Key(name)], _)
                if in_another_case(&["params"], name).is_some() =>
            {
                self.fail(NotUnderstood::Case("params"));
            }
            ([Part::Key("requests"), Part::Item(_), Part::Key("params")], event) => match event {
                Event::Begin(Kind::Object) => {
                    self.named = false;
                    self.demand.another();
                }
                Event::End(Kind::Object) if self.named => {}
                _ => self.fail(NotUnderstood::Wrong("model")),
            },
            _ => {}
        }
    }

    /// A part of another model that is asked where the first one declines: its name, or that with a limit of its own.
    fn fallback(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        match (steps, event) {
            ([Part::Key("max_tokens")], Event::Null) => {}
            ([Part::Key("max_tokens")], Event::Number(number)) => match number.parse::<u64>() {
                Ok(limit) => self.fallback_limit = self.fallback_limit.max(Some(limit)),
                Err(_) => self.fail(NotUnderstood::Wrong("max_tokens")),
            },
            ([] | [Part::Key("model")], Event::Begin(Kind::Text)) => self.word = Word::default(),
            ([] | [Part::Key("model")], Event::Text(piece)) => self.word.push(piece),
            ([] | [Part::Key("model")], Event::End(Kind::Text)) => {
                if self.word.long {
                    self.fail(NotUnderstood::Long("fallbacks"));
                }
                let model = self.word.take();
                self.falls_back = true;
                self.names(model);
            }
            ([], Event::Begin(Kind::Object)) => self.falls_back = false,
            ([], Event::End(Kind::Object)) if self.falls_back => {}
            // What else is said of one may be tools, a limit, or a model by its name.
            ([Part::Key("thinking" | "output_config" | "speed")], _) => {}
            ([] | [_], _) => self.fail(NotUnderstood::Wrong("fallbacks")),
            _ => {}
        }
    }

    /// Notes a model that is named beside the own one. Of two others neither can be it.
    fn names(&mut self, model: Option<String>) {
        let Some(model) = model else {
            return;
        };
        let before = self.call.beside.replace(model);
        if before.is_some() && before != self.call.beside {
            self.fail(NotUnderstood::Models);
        }
    }

    /// A part of a block of a message of Anthropic's: some bring tools with them (`tool_addition`, `mcp_tool_listing`, and
    /// the `tool_changes` of a `compaction`).
    fn block(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        match steps {
            [
                Part::Key("tool_changes"),
                Part::Item(_),
                Part::Key("tool"),
                Part::Key("definition"),
                rest @ ..,
            ]
            | [Part::Key("tool"), Part::Key("definition"), rest @ ..]
            | [Part::Key("tools"), Part::Item(_), rest @ ..] => self.either_tool(rest, event),
            _ => {}
        }
    }

    /// The name of something that the provider runs itself.
    fn run_by_provider(&mut self, event: Event<'_>) {
        match event {
            Event::Begin(Kind::Text) => self.word = Word::default(),
            Event::Text(piece) => self.word.push(piece),
            Event::End(Kind::Text) => match self.word.take() {
                Some(name) => self.offer(name),
                None => self.fail(NotUnderstood::Wrong("tools")),
            },
            _ => self.fail(NotUnderstood::Wrong("tools")),
        }
    }

    /// A part of an item of the input: some bring tools with them (`additional_tools`, `tool_search_output`).
    fn input(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        match steps {
            [Part::Key("tools"), Part::Item(_), rest @ ..] => self.either_tool(rest, event),
            [Part::Key(name)] if in_another_case(&["tools"], name).is_some() => {
                self.fail(NotUnderstood::Case("tools"));
            }
            _ => {}
        }
    }

    /// A part of a connector, which is a tool that the provider calls.
    fn connector(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        match (steps, event) {
            ([], Event::Begin(Kind::Object)) => self.tool = Tool::default(),
            ([], Event::End(Kind::Object)) => match mem::take(&mut self.tool).name {
                Some(id) => self.offer(id),
                None => self.fail(NotUnderstood::Wrong("connectors")),
            },
            ([Part::Key("id")], Event::Begin(Kind::Text)) => self.word = Word::default(),
            ([Part::Key("id")], Event::Text(piece)) => self.word.push(piece),
            ([Part::Key("id")], Event::End(Kind::Text)) => {
                if self.word.long {
                    self.fail(NotUnderstood::Long("connectors"));
                }
                self.tool.name = self.word.take();
            }
            ([] | [Part::Key("id")], _) => self.fail(NotUnderstood::Wrong("connectors")),
            ([Part::Key(name)], _) if in_another_case(&["id"], name).is_some() => {
                self.fail(NotUnderstood::Case("id"));
            }
            _ => {}
        }
    }

    /// A part of a tool, or of one that is offered inside of it under a name of its own.
    fn either_tool(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        match steps {
            [Part::Key("tools"), Part::Item(_), rest @ ..] => self.tool(true, rest, event),
            rest => self.tool(false, rest, event),
        }
    }

    /// Whether its content is a message of Anthropic's, or may be.
    fn is_messages(&self) -> bool {
        matches!(
            self.endpoint,
            Endpoint::Messages
                | Endpoint::MessagesTokens
                | Endpoint::MessageBatches
                | Endpoint::PredictMessages { .. }
                | Endpoint::Invoke {
                    form: InvokeForm::Messages,
                    ..
                }
        )
    }

    fn is_cohere(&self) -> bool {
        matches!(
            self.endpoint,
            Endpoint::CohereChat | Endpoint::CohereGenerate
        )
    }

    fn is_ollama(&self) -> bool {
        matches!(
            self.endpoint,
            Endpoint::OllamaChat | Endpoint::OllamaGenerate | Endpoint::OllamaEmbed
        )
    }

    fn limit(&mut self, event: Event<'_>) {
        let Event::Number(number) = event else {
            self.fail(NotUnderstood::Wrong("max_tokens"));
            return;
        };
        // As some servers have it (LM Studio, llama.cpp).
        if number.parse::<i64>().is_ok_and(|number| number < 0) {
            self.endless = true;
            return;
        }
        let Ok(number) = number.parse::<u64>() else {
            self.fail(NotUnderstood::Wrong("max_tokens"));
            return;
        };
        // Where there are two, what the server takes is at most the larger.
        let limit = &mut self.call.max_output_tokens;
        *limit = Some(limit.map_or(number, |other| other.max(number)));
    }

    /// A part of a tool that is offered: `steps` lead from the tool to it.
    fn tool(&mut self, nested: bool, steps: &[Part<'_>], event: Event<'_>) {
        let of = match steps {
            [Part::Key("name")]
            | [Part::Key("function" | "custom"), Part::Key("name")]
            // A server's tools (MCP), by the name that they have here.
            | [Part::Key("server_label")] => Of::Name,
            [Part::Key("type")] => Of::Kind,
            [Part::Key("model")] => Of::Model,
            [Part::Key("tools"), ..] if nested => {
                self.fail(NotUnderstood::Wrong("tools"));
                return;
            }
            [Part::Key(name)] | [Part::Key("function" | "custom"), Part::Key(name)] => {
                if let Some(known) = in_another_case(&TOOL, name) {
                    self.fail(NotUnderstood::Case(known));
                }
                return;
            }
            [] => {
                match event {
                    Event::Begin(Kind::Object) => *self.tool_at(nested) = Tool::default(),
                    Event::End(Kind::Object) => self.offered(nested),
                    _ => self.fail(NotUnderstood::Wrong("tools")),
                }
                return;
            }
            _ => return,
        };
        match event {
            Event::Begin(Kind::Text) => self.word = Word::default(),
            Event::Text(piece) => self.word.push(piece),
            Event::End(Kind::Text) => {
                if self.word.long {
                    self.fail(NotUnderstood::Long("tools"));
                }
                let word = self.word.take();
                let tool = self.tool_at(nested);
                let place = match of {
                    Of::Name => &mut tool.name,
                    Of::Kind => &mut tool.kind,
                    Of::Model => &mut tool.model,
                };
                let word = word.unwrap_or_default();
                // Which of two names is called is the server's to say.
                if place
                    .replace(word.clone())
                    .is_some_and(|other| other != word)
                {
                    self.fail(NotUnderstood::Wrong("tools"));
                }
            }
            Event::Null => {}
            _ => self.fail(NotUnderstood::Wrong("tools")),
        }
    }

    fn tool_at(&mut self, nested: bool) -> &mut Tool {
        if nested {
            &mut self.nested
        } else {
            &mut self.tool
        }
    }

    fn offered(&mut self, nested: bool) {
        let Tool { name, kind, model } = mem::take(self.tool_at(nested));
        // What makes pictures is known by its type.
        if kind.as_deref() != Some("image_generation") {
            self.names(model);
        }
        // One that the provider has itself is called by its type, whatever name is given to it. Servers (MCP) have `url`.
        let plain = ["function", "custom", "namespace", "url"];
        let kind = kind.filter(|kind| !plain.contains(&kind.as_str()));
        if name.is_none() && kind.is_none() {
            self.fail(NotUnderstood::Wrong("tools"));
        }
        for word in [name, kind].into_iter().flatten() {
            self.offer(word);
        }
    }

    fn offer(&mut self, tool: String) {
        if tool.is_empty() {
            self.fail(NotUnderstood::Wrong("tools"));
        } else if self.offered.contains(&tool) {
            // It was told before.
        } else if self.call.tools.len() >= MAX_OFFERED {
            self.fail(NotUnderstood::Offered);
        } else {
            self.offered.insert(tool.clone());
            self.call.tools.push(tool);
        }
    }
}

impl CallSink {
    /// What is met, at these steps within a request.
    pub(super) fn met(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        if self.fault.is_some() {
            return;
        }
        self.demand.met(steps, event);
        match steps {
            [] => self.object |= event == Event::Begin(Kind::Object),
            [Part::Key("user" | "safety_identifier")] if self.endpoint.is_openai() => {
                self.user(event);
            }
            [Part::Key("metadata"), Part::Key("user_id")] if !self.endpoint.is_openai() => {
                self.user(event);
            }
            [Part::Key(name)] => self.member(name, event),
            [Part::Key("options"), Part::Key(name)] if self.is_ollama() => {
                self.option(name, event);
            }
            [Part::Key("connectors"), Part::Item(_), rest @ ..] if self.is_cohere() => {
                self.connector(rest, event);
            }
            // What Google takes beside OpenAI's form, in the form of its own.
            [Part::Key("extra_body" | "google"), .., Part::Key(name)]
                if asks_for_more(name) && !matches!(event, Event::Text(_) | Event::End(_)) =>
            {
                self.fail(NotUnderstood::Wrong("extra_body"));
            }
            [
                Part::Key("tools" | "functions" | "mcp_servers"),
                Part::Item(_),
                rest @ ..,
            ] => self.either_tool(rest, event),
            [Part::Key(name), _, ..] if NAME_OTHERS.contains(name) => {
                self.fail(NotUnderstood::Models);
            }
            [Part::Key("fallbacks"), Part::Item(_), rest @ ..] => self.fallback(rest, event),
            [
                Part::Key("messages"),
                Part::Item(_),
                Part::Key("content"),
                Part::Item(_),
                rest @ ..,
            ] if self.is_messages() => self.block(rest, event),
            // What a provider runs itself, by its id (OpenRouter) or its name (Groq).
            [Part::Key("plugins"), Part::Item(_), Part::Key("id")]
            | [
                Part::Key("compound_custom"),
                Part::Key("tools"),
                Part::Key("enabled_tools"),
                Part::Item(_),
            ] => self.run_by_provider(event),
            [Part::Key("compound_custom"), Part::Key("models"), ..] if event != Event::Null => {
                self.fail(NotUnderstood::Wrong("models"));
            }
            [Part::Key("input"), Part::Item(_), rest @ ..]
                if matches!(
                    self.endpoint,
                    Endpoint::Responses | Endpoint::ResponsesTokens | Endpoint::Realtime
                ) =>
            {
                self.input(rest, event);
            }
            _ => {}
        }
    }

    /// What it asks for, unless something in it is not understood.
    pub(super) fn into_call(self) -> Result<Call, NotUnderstood> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // That of another model stands in for none of its own.
        let most = self.call.max_output_tokens.filter(|_| !self.endless);
        let most = most.max(most.and(self.fallback_limit));
        let mut demand = self.demand.finish();
        // A batch has a price of its own, which calls of it do not name, and a faster model's is dearer.
        let named = demand.tier.as_deref();
        if self.endpoint == Endpoint::MessageBatches
            && matches!(named, None | Some("auto" | "standard_only"))
        {
            demand.tier = Some("batch".to_owned());
        }
        Ok(Call {
            max_output_tokens: most,
            demand,
            ..self.call
        })
    }
}

impl Sink for CallSink {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        let parts = path.parts();
        let Some(steps) = parts.steps() else {
            return;
        };
        match steps {
            steps if self.endpoint != Endpoint::MessageBatches => self.met(steps, event),
            [] => self.met(&[], event),
            [
                Part::Key("requests"),
                Part::Item(_),
                Part::Key("params"),
                rest @ ..,
            ] if !rest.is_empty() => self.met(rest, event),
            steps if self.fault.is_none() => self.batch(steps, event),
            _ => {}
        }
    }
}

impl Asks for CallSink {
    fn fault(&self) -> Option<&NotUnderstood> {
        self.fault.as_ref()
    }

    fn finish(self: Box<Self>) -> Result<Call, NotUnderstood> {
        let object = self.object || self.fault.is_some();
        object
            .then_some(self)
            .ok_or(NotUnderstood::NoObject)?
            .into_call()
    }
}
