//! What a call may have a model read and write, as far as it says.
//!
//! Budgets reserve by it, so that what is not known is taken for the larger: a part of a message of a type that nobody
//! knows for a picture, a tool of one for the provider's own. Names of members are compared as the most lenient of servers
//! would, and of a member that is there twice the one counts that asks for more.

mod kinds;
mod pictures;
#[cfg(test)]
mod tests;
mod vendors;

use agentguard_model::Demand;

use self::kinds::{ITEMS, Whose, is_text, whose};
use self::pictures::{Caches, Picture};
use super::names::bare_in;
use super::{Endpoint, InvokeForm, MAX_WORD};
use crate::json::{Event, Kind, Part};

/// Whose form a call has: which of its members say that nothing is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Chat,
    Completions,
    Responses,
    Anthropic,
    Cohere,
    Ollama,
    Other,
}

impl Form {
    pub(super) const fn of(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::ChatCompletions
            | Endpoint::Invoke {
                form: InvokeForm::Chat,
                ..
            } => Self::Chat,
            Endpoint::Completions => Self::Completions,
            Endpoint::Responses | Endpoint::ResponsesTokens | Endpoint::Realtime => Self::Responses,
            Endpoint::Messages
            | Endpoint::MessagesTokens
            | Endpoint::MessageBatches
            | Endpoint::PredictMessages { .. }
            | Endpoint::Invoke {
                form: InvokeForm::Messages,
                ..
            } => Self::Anthropic,
            Endpoint::CohereChat | Endpoint::CohereGenerate => Self::Cohere,
            Endpoint::OllamaChat | Endpoint::OllamaGenerate => Self::Ollama,
            _ => Self::Other,
        }
    }
}

/// Gathers it from what is met in a call.
#[derive(Debug)]
pub(super) struct DemandSink {
    form: Form,
    demand: Demand,
    /// Of how many calls it is that stand in one content, and of how many texts that are carried on.
    calls: u32,
    prompts: u32,
    reading: Option<Field>,
    word: Prefix,
    /// Whether the tool that is being read is one that client or provider may have, and whether it says that its client has it.
    either: bool,
    clients: bool,
    /// Whether the item of the input that is being read says what it is.
    told: bool,
    /// Whether it says that something is to be written.
    loud: bool,
    /// The part that is being read, which may be a picture.
    picture: Option<Picture>,
    /// How many bytes the text has that is being read, as far as it was read.
    length: u64,
    caches: Caches,
}

/// The beginning of a text, which is all that is looked at.
#[derive(Debug, Default)]
struct Prefix(String);

impl Prefix {
    fn push(&mut self, piece: &str) {
        let room = MAX_WORD.saturating_sub(self.0.len());
        let cut = piece.floor_char_boundary(room);
        // What does not fit ends it, so that nothing stands behind a gap.
        let fits = piece.get(..cut).unwrap_or_default();
        self.0.push_str(fits);
    }
}

/// A text that is being read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    /// A number that is written as a text.
    Answers,
    /// `none`, or how much. Whether the form has it, so that `none` counts.
    Effort(bool),
    /// Likewise: `disabled`, or how.
    Thinking(bool),
    /// Mistral's `prompt_mode`.
    Mode,
    Tier,
    /// What is faster, and has a price of its own.
    Speed,
    Tool {
        nested: bool,
    },
    /// Where a tool is run, and who runs it.
    Environment,
    Execution,
    Item,
    /// Whether it is that of the part that may be a picture.
    Part {
        own: bool,
    },
    Source,
    Url,
    /// A picture's own address, which may have it in itself.
    Picture,
    /// Its bytes, its type, and in which detail it is looked at.
    Bytes,
    Mime,
    Detail,
    /// For how long a cache is kept.
    Kept,
    /// What becomes of a context that is too long.
    Edit,
    /// Where it is to be served.
    Region,
}

impl DemandSink {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            demand: Demand::default(),
            calls: 0,
            prompts: 0,
            reading: None,
            word: Prefix::default(),
            either: false,
            clients: false,
            told: false,
            loud: false,
            picture: None,
            length: 0,
            caches: Caches::default(),
        }
    }

    /// Another call of several begins.
    pub(super) const fn another(&mut self) {
        self.calls = self.calls.saturating_add(1);
    }

    pub(super) fn finish(self) -> Demand {
        let mut demand = self.demand;
        demand.short_caches = self.caches.are_short() && !demand.serves_tools;
        for times in [self.calls, self.prompts] {
            if times > 1 {
                demand.answers = demand.answers.max(1).saturating_mul(times);
            }
        }
        demand
    }

    /// What is met in a request of most forms, at these steps within it.
    pub(super) fn met(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        self.cached(steps, event);
        self.part_of_content(steps, event);
        if self.text(event) {
            return;
        }
        if event == Event::End(Kind::Object) {
            return self.object_ends(steps);
        }
        let [Part::Key(first), rest @ ..] = steps else {
            return;
        };
        let mut name = [0; _];
        match bare_in(first, &mut name) {
            "messages" => self.message(rest, event),
            "input" if self.form == Form::Responses => self.input(rest, event),
            "system" | "instructions" | "chathistory" | "toolresults" | "documents" => {
                let alone = matches!((rest, event), ([], Event::Begin(Kind::Text)));
                let one = matches!((rest, event), ([Part::Item(_)], Event::Begin(_)));
                if alone || one {
                    self.part();
                }
                self.content(rest, event);
            }
            "tools" | "functions" => self.tool(rest, event),
            "images" if matches!(rest, [Part::Item(_)]) => self.medium(),
            // It asks for less, so that what a server might not know it by is none.
            "generate" if self.form == Form::Responses => {
                let silent = event == Event::Bool(false) && &**first == "generate";
                self.loud |= !(silent && rest.is_empty());
                self.demand.silent = !self.loud;
            }
            name => self.setting(name, rest, event),
        }
    }

    /// A member of the top that says how it is to be answered, by its bare name.
    fn setting(&mut self, name: &str, rest: &[Part<'_>], event: Event<'_>) {
        let mut place = [0; _];
        let inner = match rest {
            [.., Part::Key(inner)] => bare_in(inner, &mut place),
            _ => "",
        };
        let form = self.form;
        match (name, inner) {
            ("n" | "bestof" | "numgenerations" | "candidatecount", "") => self.answers(event),
            ("prompt", "") if form == Form::Responses => self.demand.refers = true,
            ("background", "") => match event {
                Event::Bool(false) | Event::Null | Event::End(_) => {}
                _ => self.demand.background = true,
            },
            ("prompt", "") if form == Form::Completions => {
                let one = matches!(event, Event::Begin(Kind::Text | Kind::Array));
                if one && matches!(rest, [Part::Item(_)]) {
                    self.prompts = self.prompts.saturating_add(1);
                }
            }
            ("reasoningeffort", "") => self.effort(form == Form::Chat, event),
            ("reasoning", "effort") => self.effort(form == Form::Responses, event),
            ("think", "") => self.effort(form == Form::Ollama, event),
            ("thinking" | "reasoningconfig", "type") => {
                let has = matches!(form, Form::Anthropic | Form::Cohere);
                self.thinking(has, event);
            }
            ("thinking" | "reasoning" | "enablethinking", "")
            | ("reasoning", "enabled" | "maxtokens")
            | ("thinkingbudget" | "thinkingtokenbudget", "")
            | ("chattemplatekwargs", "enablethinking" | "thinking") => self.effort(false, event),
            ("extrabody" | "google", "thinkingbudget" | "thinkinglevel" | "includethoughts") => {
                self.effort(false, event);
            }
            ("promptmode", "") => self.begin(Field::Mode, event),
            ("servicetier", "" | "type") => self.begin(Field::Tier, event),
            ("speed", "") | ("performanceconfig", "latency") => self.begin(Field::Speed, event),
            ("inferencegeo", "") => self.begin(Field::Region, event),
            ("mcpservers" | "plugins" | "connectors" | "datasources", "") => {
                if matches!(rest, [Part::Item(_)]) {
                    self.demand.serves_tools = true;
                    self.demand.refers |= name == "datasources";
                }
            }
            ("websearchoptions" | "searchparameters" | "compoundcustom", "")
            | ("enablesearch", "")
                if event != Event::Bool(false) =>
            {
                self.demand.serves_tools = true;
            }
            // What was stored before, and of an agent its tools, too.
            ("agentid", "") => {
                self.demand.refers = true;
                self.demand.serves_tools = true;
            }
            (
                "previousresponseid"
                | "previousinteractionid"
                | "conversation"
                | "conversationid"
                | "container"
                | "cachedcontent"
                | "preset"
                | "promptvariables",
                "",
            )
            | ("extrabody" | "google", "cachedcontent") => self.demand.refers = true,
            ("contextmanagement", "type") => self.begin(Field::Edit, event),
            _ => {}
        }
    }

    /// A part of the messages of a conversation.
    fn message(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        match (steps, event) {
            ([Item(_)] | [Item(_), Key("content" | "tool_calls"), Item(_)], Event::Begin(_)) => {
                self.part();
            }
            ([Item(_), Key("images"), Item(_)], Event::Begin(_)) => self.medium(),
            // What the model has said aloud before.
            ([Item(_), Key("audio")], Event::Begin(_)) => self.demand.refers = true,
            _ => self.content(steps, event),
        }
    }

    /// A part of what a response is asked of.
    fn input(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        match (steps, event) {
            ([] | [Item(_)], Event::Begin(kind)) if kind != Kind::Array => {
                self.told = false;
                self.part();
            }
            ([Item(_), Key("role")], Event::Begin(_)) => self.told = true,
            ([Item(_), Key("type")], Event::Begin(_)) => self.begin(Field::Item, event),
            ([Item(_), Key("tools"), rest @ ..], event) => self.tool(rest, event),
            _ => self.content(steps, event),
        }
    }

    /// A part of content, wherever it stands: what is a picture in it, and what stands elsewhere.
    fn content(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        if !matches!(event, Event::Begin(Kind::Text)) {
            return;
        }
        let (before, last) = match steps {
            [before @ .., Key(last)] => (before, *last),
            _ => return,
        };
        let mut name = [0; _];
        match (bare_in(last, &mut name), before) {
            ("type", [.., Key("source")]) => self.begin(Field::Source, event),
            (
                "type",
                [.., Key("content" | "output"), Item(_)]
                | [.., Key("content" | "output")]
                // Of a list that is a prompt of the system.
                | [Item(_)],
            ) => {
                let own = self.is_at(before.len() + 1);
                self.begin(Field::Part { own }, event);
            }
            ("fileid", _) => self.demand.refers = true,
            _ if self.of_picture(steps) => {}
            ("imageurl" | "documenturl" | "videourl" | "audiourl" | "fileurl", _) => {
                self.begin(Field::Url, event);
            }
            ("url", [.., Key(around)]) => {
                let mut name = [0; _];
                if matches!(
                    bare_in(around, &mut name),
                    "imageurl" | "documenturl" | "videourl" | "audiourl" | "file" | "source"
                ) {
                    self.begin(Field::Url, event);
                }
            }
            _ => {}
        }
    }

    /// A part of the tools that are offered, or of what has more of them.
    fn tool(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        match (steps, event) {
            ([Item(_)], Event::Begin(Kind::Object)) => {
                (self.either, self.clients) = (false, false);
                self.part();
            }
            ([Item(_), Key("tools"), Item(_)], Event::Begin(Kind::Object)) => self.part(),
            ([Item(_), Key("type")], event) => self.begin(Field::Tool { nested: false }, event),
            ([Item(_), Key("tools"), Item(_), Key("type")], event) => {
                self.begin(Field::Tool { nested: true }, event);
            }
            ([Item(_), Key("environment"), Key("type")], event) => {
                self.begin(Field::Environment, event);
            }
            ([Item(_), Key("execution")], event) => self.begin(Field::Execution, event),
            _ => {}
        }
    }

    /// An object is over: a tool, or an item of the input.
    fn object_ends(&mut self, steps: &[Part<'_>]) {
        use Part::{Item, Key};
        match steps {
            [Key("tools" | "functions"), Item(_)]
            | [Key("input"), Item(_), Key("tools"), Item(_)] => {
                let (either, clients) = (self.either, self.clients);
                (self.either, self.clients) = (false, false);
                self.demand.serves_tools |= either && !clients;
            }
            [Key("input"), Item(_)] if self.form == Form::Responses => {
                // An id alone is that of one that is kept there.
                self.demand.refers |= !self.told;
            }
            _ => {}
        }
    }

    /// Takes what another part of the same call asks for.
    pub(super) fn and(&mut self, other: Demand) {
        let own = &mut self.demand;
        own.answers = own.answers.max(other.answers);
        own.reasons = either(own.reasons, other.reasons);
        own.told_in_openai_form |= other.told_in_openai_form;
        own.serves_tools |= other.serves_tools;
        own.media = own.media.saturating_add(other.media);
        own.pictures = own.pictures.saturating_add(other.pictures);
        own.plain_pictures = own.plain_pictures.saturating_add(other.plain_pictures);
        own.picture_bytes = own.picture_bytes.saturating_add(other.picture_bytes);
        own.refers |= other.refers;
        own.regional |= other.regional;
        own.parts = own.parts.saturating_add(other.parts);
        own.tier = other.tier.or(own.tier.take());
    }

    const fn part(&mut self) {
        self.demand.parts = self.demand.parts.saturating_add(1);
    }

    const fn medium(&mut self) {
        self.demand.media = self.demand.media.saturating_add(1);
    }

    /// A number of answers. Some servers take one that is written as a text, or with a fraction of zero.
    fn answers(&mut self, event: Event<'_>) {
        match event {
            Event::Number(number) => self.answered(number),
            event => self.begin(Field::Answers, event),
        }
    }

    fn answered(&mut self, number: &str) {
        self.demand.answers = self.demand.answers.max(count(number));
    }

    /// How much it is to reason. `has`: the form has this member, so that a model does not where it says so.
    fn effort(&mut self, has: bool, event: Event<'_>) {
        match event {
            Event::Bool(reasons) => self.reasons(reasons, has),
            Event::Number(number) => self.reasons(number.parse() != Ok(0_u64), has),
            event => self.begin(Field::Effort(has), event),
        }
    }

    fn thinking(&mut self, has: bool, event: Event<'_>) {
        self.begin(Field::Thinking(has), event);
    }

    fn reasons(&mut self, reasons: bool, has: bool) {
        let told = (reasons || has).then_some(reasons);
        self.demand.reasons = either(self.demand.reasons, told);
        self.demand.told_in_openai_form |=
            told == Some(false) && matches!(self.form, Form::Chat | Form::Responses);
    }

    fn begin(&mut self, field: Field, event: Event<'_>) {
        if event == Event::Begin(Kind::Text) {
            self.reading = Some(field);
            self.word.0.clear();
            self.length = 0;
        }
    }

    /// Reads on in a text. Whether it is one, or nothing.
    fn text(&mut self, event: Event<'_>) -> bool {
        match event {
            Event::Text(piece) => {
                if self.reading.is_some() {
                    self.length = self.length.saturating_add(piece.len() as u64);
                    self.word.push(piece);
                }
                true
            }
            Event::End(Kind::Text) => {
                if let Some(field) = self.reading.take() {
                    let word = std::mem::take(&mut self.word.0);
                    self.told_in(field, &word);
                    self.word.0 = word;
                }
                true
            }
            Event::Null => true,
            _ => false,
        }
    }

    fn told_in(&mut self, field: Field, word: &str) {
        match field {
            Field::Answers => self.answered(word),
            Field::Effort(has) => self.reasons(!matches!(word, "none" | "off"), has),
            Field::Thinking(has) => self.reasons(word != "disabled", has),
            Field::Mode => self.reasons(word == "reasoning", false),
            Field::Tier => {
                self.demand.tier.get_or_insert_with(|| word.to_owned());
            }
            // It costs more than any tier does.
            Field::Speed if word != "standard" => self.demand.tier = Some(word.to_owned()),
            Field::Speed => {}
            Field::Tool { nested } => match whose(word) {
                Whose::Client => {}
                Whose::Either if !nested => self.either = true,
                Whose::Either | Whose::Provider => self.demand.serves_tools = true,
            },
            Field::Environment => self.clients |= word == "local",
            Field::Execution => self.clients |= word == "client",
            Field::Item => {
                self.told = true;
                if word == "image_generation_call" {
                    self.medium();
                }
                self.demand.refers |= !ITEMS.contains(&word);
            }
            Field::Part { .. } if word == "container_upload" => self.demand.refers = true,
            Field::Part { .. } if is_text(word) => {}
            Field::Part { own } => {
                self.medium();
                if own {
                    self.kind(word);
                }
            }
            Field::Source => self.demand.refers |= !matches!(word, "base64" | "text" | "content"),
            Field::Url => {
                let scheme = word.get(..5).unwrap_or_default();
                self.demand.refers |= !scheme.eq_ignore_ascii_case("data:");
            }
            Field::Picture => match word.starts_with("data:image/") {
                true => self.bytes(),
                false => self.told_in(Field::Url, word),
            },
            Field::Bytes => self.bytes(),
            Field::Mime => self.mime(word),
            Field::Detail => self.detail(word),
            Field::Kept => self.caches.kept(word),
            Field::Region => self.demand.regional |= word != "global",
            // Other edits take something away; to put it in fewer words a model is asked.
            Field::Edit => self.demand.serves_tools |= !word.starts_with("clear_"),
        }
    }
}

/// What two members say together: that it reasons where one does.
fn either(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    one.max(other)
}

/// A number of answers, however it is written: the next whole one, and as many as there are where it is none.
fn count(number: &str) -> u32 {
    match number.trim().parse::<f64>() {
        Ok(number) if number.is_nan() || number > f64::from(u32::MAX) => u32::MAX,
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is within the bounds, and has no fraction"
        )]
        Ok(number) => number.max(0.0).ceil() as u32,
        Err(_) => u32::MAX,
    }
}
