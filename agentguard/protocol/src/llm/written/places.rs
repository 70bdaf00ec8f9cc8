//! Where in the documents of each form the texts stand that a model has written.

use super::{Style, Told};
use crate::json::Part;

/// Whether an object at this place is the arguments of a tool call.
pub(super) fn is_arguments(style: Style, steps: &[Part<'_>]) -> bool {
    use Part::{Item, Key};
    matches!(
        (style, steps),
        (
            Style::Messages,
            [Key("content"), Item(_), Key("input")]
                | [Key("message"), Key("content"), Item(_), Key("input")],
        ) | (
            Style::Ollama,
            [
                Key("message"),
                Key("tool_calls"),
                Item(_),
                Key("function"),
                Key("arguments"),
            ],
        ) | (
            Style::Converse,
            [
                Key("output"),
                Key("message"),
                Key("content"),
                Item(_),
                Key("toolUse"),
                Key("input"),
            ],
        ) | (
            Style::Cohere,
            [Key("tool_calls"), Item(_), Key("parameters")]
        ) | (
            Style::Gemini,
            [.., Key("functionCall" | "function_call"), Key("args")]
        )
    )
}

pub(super) fn in_responses(steps: &[Part<'_>]) -> Option<Told> {
    use Part::{Item, Key};
    let (told, within) = match steps {
        [Key("delta")] => return Some(Told::Text),
        [Key("partial_image_b64")] => return Some(Told::Media),
        // A response that is one document has no pieces before it.
        [Key("output"), Item(_), within @ ..] => (Told::Text, within),
        [Key("item"), within @ ..] => (Told::Item, within),
        [Key("response"), Key("output"), Item(_), within @ ..] => (Told::Whole, within),
        _ => return None,
    };
    match within {
        [Key("arguments" | "input" | "code")]
        | [
            Key("content" | "summary"),
            Item(_),
            Key("text" | "refusal" | "transcript"),
        ]
        | [Key("action" | "operation"), ..] => Some(told),
        [Key("result")] if told == Told::Text => Some(Told::Media),
        _ => None,
    }
}

pub(super) fn in_messages(steps: &[Part<'_>]) -> Option<Told> {
    use Part::{Item, Key};
    matches!(
        steps,
        [Key("delta"), Key("text" | "partial_json" | "thinking")]
            | [Key("content_block"), Key("text" | "thinking")]
            | [Key("content"), Item(_), Key("text" | "thinking")]
            | [
                Key("message"),
                Key("content"),
                Item(_),
                Key("text" | "thinking")
            ]
    )
    .then_some(Told::Text)
}

pub(super) fn in_gemini(steps: &[Part<'_>]) -> Option<Told> {
    use Part::{Item, Key};
    let steps = match steps {
        [Item(_), rest @ ..] => rest,
        steps => steps,
    };
    let [
        Key("candidates"),
        Item(_),
        Key("content"),
        Key("parts"),
        Item(_),
        part @ ..,
    ] = steps
    else {
        return None;
    };
    match part {
        [Key("text")]
        | [Key("executableCode" | "executable_code"), Key("code")]
        | [
            Key("functionCall" | "function_call"),
            Key("partialArgs" | "partial_args"),
            Item(_),
            Key("stringValue" | "string_value"),
        ] => Some(Told::Text),
        [Key("inlineData" | "inline_data"), Key("data")] => Some(Told::Media),
        _ => None,
    }
}

pub(super) fn in_ollama(steps: &[Part<'_>]) -> Option<Told> {
    use Part::Key;
    matches!(
        steps,
        [Key("response" | "thinking")] | [Key("message"), Key("content" | "thinking")]
    )
    .then_some(Told::Text)
}

pub(super) fn in_converse(steps: &[Part<'_>]) -> Option<Told> {
    use Part::{Item, Key};
    let block = match steps {
        [Key("delta"), block @ ..]
        | [
            Key("output"),
            Key("message"),
            Key("content"),
            Item(_),
            block @ ..,
        ] => block,
        _ => return None,
    };
    matches!(
        block,
        [Key("text")]
            | [Key("toolUse"), Key("input")]
            | [Key("reasoningContent"), Key("text")]
            | [Key("reasoningContent"), Key("reasoningText"), Key("text")]
            | [
                Key("citationsContent"),
                Key("content"),
                Item(_),
                Key("text")
            ]
    )
    .then_some(Told::Text)
}

pub(super) fn in_cohere(steps: &[Part<'_>]) -> Option<Told> {
    use Part::{Item, Key};
    let message = match steps {
        [Key("text")]
        | [Key("generations"), Item(_), Key("text")]
        | [Key("tool_call_delta"), Key("parameters" | "text")] => return Some(Told::Text),
        [Key("delta"), Key("message"), message @ ..] | [Key("message"), message @ ..] => message,
        _ => return None,
    };
    matches!(
        message,
        [Key("tool_plan")]
            | [Key("content"), Key("text" | "thinking")]
            | [Key("content"), Item(_), Key("text" | "thinking")]
            | [Key("tool_calls"), Key("function"), Key("arguments")]
            | [
                Key("tool_calls"),
                Item(_),
                Key("function"),
                Key("arguments")
            ]
    )
    .then_some(Told::Text)
}
