//! What a call of a language model asked for, and what came of it, in words.

use agentguard_model::{Llm, LlmAnswer, LlmOperation};

/// The most names that are listed.
const LISTED: usize = 12;

/// What a call asked for beside its model.
pub(super) fn asked(llm: &Llm) -> String {
    let mut words = operation(llm.operation).to_owned();
    if let Some(why) = &llm.not_understood {
        return format!("{words}; it could not be read: {why}");
    }
    if llm.stream {
        words.push_str(", as a stream");
    }
    let writes = matches!(
        llm.operation,
        LlmOperation::Chat | LlmOperation::TextCompletion | LlmOperation::Realtime
    );
    match llm.max_output_tokens {
        Some(tokens) => words.push_str(&format!(", of {tokens} tokens at the most")),
        None if writes => words.push_str(", of any length"),
        None => {}
    }
    if !llm.tools.is_empty() {
        let offered = listed(llm.tools.iter().map(String::as_str));
        words.push_str(&format!("; offers {offered}"));
    }
    if llm.asks_unread {
        words.push_str("; its answer could not be read, and may ask for any tool");
    }
    if !llm.asks.is_empty() {
        let asks = listed(llm.asks.iter().map(String::as_str));
        words.push_str(&format!("; its answer asks for {asks}"));
    }
    words
}

/// What came of it.
pub(super) fn answered(answer: &LlmAnswer) -> String {
    let mut words = match &answer.model {
        Some(model) => format!("by {model}"),
        None => "by a model that did not say which".to_owned(),
    };
    if let Some(usage) = &answer.usage {
        let of = |all: Option<u64>, what: &str, parts: &[(Option<u64>, &str)]| {
            let all = all?;
            let parts = parts.iter();
            let parts: Vec<String> = parts
                .filter_map(|(count, what)| Some(format!("{} {what}", (*count)?)))
                .collect();
            Some(match parts.is_empty() {
                true => format!("{all} tokens {what}"),
                false => format!("{all} tokens {what} ({})", parts.join(", ")),
            })
        };
        let read = [
            (usage.cache_read_tokens, "from a cache"),
            (usage.cache_write_tokens, "put into one"),
            (usage.audio_input_tokens, "heard"),
        ];
        let written = [
            (usage.reasoning_tokens, "of reasoning"),
            (usage.audio_output_tokens, "said aloud"),
        ];
        let both = [
            of(usage.input_tokens, "read", &read),
            of(usage.output_tokens, "written", &written),
        ];
        for part in both.into_iter().flatten() {
            words.push_str(&format!(", {part}"));
        }
    }
    if !answer.tool_calls.is_empty() {
        let asked = listed(answer.tool_calls.iter().map(|call| call.name.as_str()));
        words.push_str(&format!("; asked for {asked}"));
    }
    if !answer.cut.is_empty() {
        let cut = listed(answer.cut.iter().map(String::as_str));
        words.push_str(&format!("; without {cut}, which was cut out"));
    }
    if let Some(reason) = &answer.finish_reason {
        words.push_str(&format!("; stopped by {reason}"));
    }
    if let Some(error) = &answer.error {
        words.push_str(&format!("; error {error}"));
    }
    if let Some(why) = &answer.not_understood {
        words.push_str(&format!("; not read to its end: {why}"));
    }
    words
}

const fn operation(of: LlmOperation) -> &'static str {
    match of {
        LlmOperation::Chat => "a chat",
        LlmOperation::TextCompletion => "a text to be carried on",
        LlmOperation::Embeddings => "vectors of texts",
        LlmOperation::CountTokens => "a count of tokens",
        LlmOperation::Realtime => "a session in real time",
        LlmOperation::Transcription => "what is heard, written down",
        LlmOperation::Retrieval => "the answer to a call that was made before",
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let some: Vec<&str> = names.iter().take(LISTED).copied().collect();
    match names.len().saturating_sub(some.len()) {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use agentguard_model::{AskedTool, Llm, LlmAnswer, LlmOperation, Usage};

    use super::{answered, asked};

    fn chat() -> Llm {
        Llm {
            provider: "openai".to_owned(),
            operation: LlmOperation::Chat,
            model: Some("m".to_owned()),
            stream: true,
            max_output_tokens: None,
            tools: Vec::new(),
            asks: Vec::new(),
            asks_unread: false,
            not_understood: None,
        }
    }

    #[test]
    fn a_call_is_told_in_words() {
        let tools = (0..14).map(|nth| format!("t{nth}")).collect();
        for (llm, words) in [
            (chat(), "a chat, as a stream, of any length"),
            (
                Llm {
                    stream: false,
                    max_output_tokens: Some(9),
                    tools,
                    ..chat()
                },
                "a chat, of 9 tokens at the most; offers t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11 and 2 more",
            ),
            (
                Llm {
                    operation: LlmOperation::Embeddings,
                    stream: false,
                    ..chat()
                },
                "vectors of texts",
            ),
            (
                Llm {
                    asks: vec!["bash".to_owned()],
                    ..chat()
                },
                "a chat, as a stream, of any length; its answer asks for bash",
            ),
            (
                Llm {
                    not_understood: Some("it is no JSON object".to_owned()),
                    ..chat()
                },
                "a chat; it could not be read: it is no JSON object",
            ),
        ] {
            assert_eq!(asked(&llm), words);
        }
    }

    #[test]
    fn an_answer_is_told_in_words() {
        let answer = LlmAnswer {
            model: Some("m-1".to_owned()),
            usage: Some(Usage {
                input_tokens: Some(120),
                cache_read_tokens: Some(100),
                output_tokens: Some(9),
                ..Usage::default()
            }),
            tool_calls: vec![AskedTool {
                name: "bash".to_owned(),
                id: None,
                arguments: None,
            }],
            finish_reason: Some("tool_use".to_owned()),
            ..LlmAnswer::default()
        };
        assert_eq!(
            answered(&answer),
            "by m-1, 120 tokens read (100 from a cache), 9 tokens written; asked for bash; stopped by tool_use"
        );
        let cut = LlmAnswer {
            cut: vec!["bash".to_owned()],
            usage: None,
            ..answer
        };
        assert_eq!(
            answered(&cut),
            "by m-1; asked for bash; without bash, which was cut out; stopped by tool_use"
        );
        let failed = LlmAnswer {
            error: Some("overloaded_error".to_owned()),
            ..LlmAnswer::default()
        };
        assert_eq!(
            answered(&failed),
            "by a model that did not say which; error overloaded_error"
        );
    }
}
