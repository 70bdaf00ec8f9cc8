//! What the forms of Gemini and Converse ask for, whose members have other places.

use super::{DemandSink, Field, bare_in};
use crate::json::{Event, Kind, Part};

impl DemandSink {
    /// What is met in a request of Gemini's, at these steps within it.
    pub(in crate::llm) fn met_in_gemini(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        if event == Event::End(Kind::Object) {
            self.picture_ends(steps);
        }
        if self.text(event) || matches!(event, Event::End(_)) {
            return;
        }
        let whole = steps;
        let steps = match steps {
            [
                Key("generateContentRequest" | "generate_content_request"),
                rest @ ..,
            ]
            | [Key("requests"), Item(_), rest @ ..] => rest,
            steps => steps,
        };
        let [Key(first), rest @ ..] = steps else {
            return;
        };
        let (mut name, mut place) = ([0; _], [0; _]);
        let inner = match rest {
            [.., Key(inner)] => bare_in(inner, &mut place),
            _ => "",
        };
        let begins = matches!(event, Event::Begin(_));
        match (bare_in(first, &mut name), rest, inner) {
            ("contents", [Item(_)], _)
            | ("contents", [Item(_), Key(_), Item(_)], _)
            | ("systeminstruction" | "content", [], _)
            | ("tools", [Item(_)] | [Item(_), Key(_), Item(_)], _)
                if begins =>
            {
                self.part();
            }
            ("contents" | "systeminstruction" | "content", _, "inlinedata") if begins => {
                self.medium();
                // Not in what was given to a tool, which is read as text.
                if matches!(rest, [Item(_), Key("parts"), Item(_), Key(_)]) {
                    self.picture_begins(whole);
                }
            }
            (
                "contents" | "systeminstruction" | "content",
                [.., Key(_), Key(_)],
                "mimetype" | "data",
            ) if event == Event::Begin(Kind::Text) && self.is_at(whole.len().saturating_sub(1)) => {
                let field = match inner {
                    "data" => Field::Bytes,
                    _ => Field::Mime,
                };
                self.begin(field, event);
            }
            ("contents" | "systeminstruction" | "content", _, "filedata") if begins => {
                self.medium();
                self.demand.refers = true;
            }
            ("tools", [Item(_), Key(_)], own) => {
                self.demand.serves_tools |= !matches!(own, "functiondeclarations" | "computeruse");
            }
            ("cachedcontent", [], _) => self.demand.refers = true,
            ("servicetier", [], _) => self.begin(Field::Tier, event),
            ("generationconfig", [Key(_)], "candidatecount") => self.answers(event),
            (
                "generationconfig",
                [Key(_), Key(_)],
                "thinkingbudget" | "thinkinglevel" | "includethoughts",
            ) => {
                self.effort(inner == "thinkingbudget", event);
            }
            _ => {}
        }
    }

    /// What is met in a request of Converse's, at these steps within it. What it passes on is of another form.
    pub(in crate::llm) fn met_in_converse(&mut self, steps: &[Part<'_>], event: Event<'_>) {
        use Part::{Item, Key};
        if event == Event::End(Kind::Object) {
            self.picture_ends(steps);
        }
        if self.text(event) || matches!(event, Event::End(_)) {
            return;
        }
        let begins = matches!(event, Event::Begin(_));
        match steps {
            [Key("messages" | "system"), Item(_)]
            | [Key("messages"), Item(_), Key("content"), Item(_)]
            | [Key("toolConfig"), Key("tools"), Item(_)]
                if begins =>
            {
                self.part();
            }
            [Key("toolConfig"), Key("tools"), Item(_), Key(kind)] if event != Event::Null => {
                self.demand.serves_tools |= !matches!(*kind, "toolSpec" | "cachePoint");
            }
            [Key("promptVariables")] if begins => self.demand.refers = true,
            [Key("serviceTier"), Key("type")] => self.begin(Field::Tier, event),
            [Key("performanceConfig"), Key("latency")] => self.begin(Field::Speed, event),
            [Key("messages" | "system"), .., Key("s3Location")] if begins => {
                self.demand.refers = true;
            }
            [Key("messages"), .., Key("guardContent"), Key("image")] if begins => self.medium(),
            [Key("messages"), .., Key("content"), Item(_), Key(kind)] if begins => {
                let known = [
                    "text",
                    "json",
                    "toolUse",
                    "toolResult",
                    "cachePoint",
                    "guardContent",
                    "reasoningContent",
                    "citationsContent",
                    "searchResult",
                ];
                if !known.contains(kind) {
                    self.medium();
                }
                // Not in what was given to a tool, which is read as text.
                let is_part = match steps {
                    [_, Item(_), _, Item(_), rest @ ..] => {
                        matches!(rest, [_] | [Key("toolResult"), Key("content"), Item(_), _])
                    }
                    _ => false,
                };
                if *kind == "image" && is_part {
                    self.picture_begins(steps);
                    self.is_picture();
                }
            }
            [
                Key("messages"),
                ..,
                Key("image"),
                Key("source"),
                Key("bytes"),
            ] if self.is_at(steps.len().saturating_sub(2)) => {
                self.begin(Field::Bytes, event);
            }
            _ => {}
        }
    }
}
