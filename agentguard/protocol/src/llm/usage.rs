//! Usage that a stream of Chat Completions tells of only where its call asks for that: asked for on behalf of who counts it,
//! and taken out of the answer again, since its client did not ask.

use super::Endpoint;
use super::cut::set;
use crate::json::Value;
use crate::sse::Parser;

/// The first version of Azure's API that takes `stream_options`.
const AZURE_SINCE: &str = "2024-09-01";

/// Whether a provider's stream tells its usage where a call asks for it in `stream_options`, and refuses none for that.
/// `provider`: as the record names it. Others that speak Chat Completions may not know the member: some of them refuse what
/// they do not know.
#[must_use]
pub fn is_told_if_asked(endpoint: Endpoint, provider: &str, path: &str, query: &str) -> bool {
    if !matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions) {
        return false;
    }
    match provider {
        "openai" => true,
        "azure_openai" => {
            let mut versions = query.split('&').filter_map(|it| {
                let (name, value) = it.split_once('=')?;
                name.eq_ignore_ascii_case("api-version").then_some(value)
            });
            match (versions.next(), versions.next()) {
                (None, _) => path.starts_with("/openai/v1/"),
                (Some("v1" | "preview" | "latest"), None) => true,
                (Some(version), None) => {
                    let is_day = version.get(..10).is_some_and(is_day);
                    is_day && version.get(..10) >= Some(AZURE_SINCE)
                }
                (Some(_), Some(_)) => false,
            }
        }
        _ => false,
    }
}

fn is_day(text: &str) -> bool {
    let mut bytes = text.bytes().enumerate();
    bytes.all(|(place, byte)| match place {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    })
}

/// Has a call ask for its usage, and says whether it did not before. What Azure does not tell it with stays as it is: pictures
/// and data of its own.
pub fn ask(provider: &str, document: &mut Value) -> bool {
    if !matches!(document.get("stream"), Some(Value::Bool(true))) {
        return false;
    }
    if provider == "azure_openai" && !is_plain(document) {
        return false;
    }
    let asks = Value::Bool(true);
    match document.get_mut("stream_options") {
        Some(options @ Value::Object(_)) => {
            if options.get("include_usage") == Some(&asks) {
                return false;
            }
            set(options, "include_usage", asks);
        }
        None | Some(Value::Null) => {
            let options = Value::Object(vec![("include_usage".into(), asks)]);
            set(document, "stream_options", options);
        }
        // Its provider says what is wrong with it.
        Some(_) => return false,
    }
    true
}

/// Whether there is nothing but text in its messages.
fn is_plain(document: &Value) -> bool {
    let no_data = document.get("data_sources").is_none() && document.get("dataSources").is_none();
    let is_text = |part: &Value| part.get("type").and_then(Value::text) == Some("text");
    let is_plain = |message: &Value| match message.get("content") {
        Some(Value::Array(parts)) => parts.iter().all(is_text),
        _ => true,
    };
    let messages = match document.get("messages") {
        Some(Value::Array(messages)) => messages.as_slice(),
        _ => &[],
    };
    no_data && messages.iter().all(is_plain)
}

/// Whether an event of such a stream, whole, is the one that tells of usage and of nothing else.
#[must_use]
pub fn is_alone(event: &[u8]) -> bool {
    // No answer in it, and no longer than numbers are.
    if event.len() > 16 * 1024 {
        return false;
    }
    let mut data = Vec::new();
    let mut parser = Parser::new(event.len().saturating_add(1));
    parser.push(event, &mut |it: crate::sse::Event<'_>| {
        data.push(it.data.unwrap_or_default().to_owned());
    });
    let [data] = data.as_slice() else {
        return false;
    };
    let Ok(document) = Value::read(data, 64 * 1024) else {
        return false;
    };
    let no_choice = matches!(document.get("choices"), Some(Value::Array(it)) if it.is_empty());
    no_choice && matches!(document.get("usage"), Some(Value::Object(_)))
}

#[cfg(test)]
mod tests {
    use super::{ask, is_alone, is_told_if_asked};
    use crate::json::Value;
    use crate::llm::Endpoint;

    fn asked(provider: &str, call: &str) -> Option<String> {
        let mut document = Value::read(call.as_bytes(), 1 << 20).unwrap();
        ask(provider, &mut document).then(|| document.written())
    }

    #[test]
    fn a_stream_is_asked_for_its_usage_where_it_is_not() {
        let written = |call| asked("openai", call);
        assert_eq!(
            written(r#"{"stream":true,"n":1.50}"#).unwrap(),
            r#"{"stream":true,"n":1.50,"stream_options":{"include_usage":true}}"#
        );
        assert_eq!(
            written(r#"{"stream":true,"stream_options":{"include_usage":false,"x":1}}"#).unwrap(),
            r#"{"stream":true,"stream_options":{"include_usage":true,"x":1}}"#
        );
        for call in [
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":true,"stream_options":"all"}"#,
            r#"{"stream":false}"#,
            r#"{}"#,
        ] {
            assert_eq!(written(call), None, "{call}");
        }
    }

    #[test]
    fn azure_is_asked_for_what_it_tells() {
        let told =
            |path, query| is_told_if_asked(Endpoint::ChatCompletions, "azure_openai", path, query);
        let old = "/openai/deployments/d/chat/completions";
        assert!(told("/openai/v1/chat/completions", ""));
        assert!(told(old, "api-version=2024-10-21"));
        assert!(told(old, "x=y&api-version=2024-09-01-preview"));
        for query in [
            "",
            "api-version=2024-06-01",
            "api-version=2024-06-01&api-version=2024-10-21",
            "api-version=zzzz-01-01",
        ] {
            assert!(!told(old, query), "{query}");
        }
        let picture = r#"{"stream":true,"messages":[{"content":[{"type":"image_url"}]}]}"#;
        assert_eq!(asked("azure_openai", picture), None);
        let text = r#"{"stream":true,"messages":[{"content":[{"type":"text","text":"x"}]}]}"#;
        assert!(asked("azure_openai", text).is_some());
        let data = r#"{"stream":true,"data_sources":[]}"#;
        assert_eq!(asked("azure_openai", data), None);
        assert!(!is_told_if_asked(Endpoint::ChatCompletions, "ours", "", ""));
        assert!(!is_told_if_asked(Endpoint::Responses, "openai", "", ""));
    }

    #[test]
    fn an_event_that_tells_of_usage_alone_is_known() {
        assert!(is_alone(
            b"data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\n"
        ));
        for event in [
            "data: {\"choices\":[{}],\"usage\":{\"total_tokens\":3}}\n\n",
            "data: {\"choices\":[],\"usage\":null}\n\n",
            "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
            "data: {\"usage\":{}}\n\n",
            "data: [DONE]\n\n",
            ": comment\n\n",
        ] {
            assert!(!is_alone(event.as_bytes()), "{event}");
        }
    }
}
