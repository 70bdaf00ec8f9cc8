//! Targets of what knows calls by their paths: nothing stops it, and spellings that some server takes for one are one.

use std::time::Duration;

use agentguard_model::LlmApi;
use agentguard_protocol::api::grpc;
use agentguard_protocol::llm::Route;
use http::{HeaderMap, HeaderValue, Method, header};

/// How long each target runs under `cargo test`.
const MOMENT: Duration = Duration::from_secs(2);

const APIS: [LlmApi; 6] = [
    LlmApi::Openai,
    LlmApi::Anthropic,
    LlmApi::Gemini,
    LlmApi::Ollama,
    LlmApi::Bedrock,
    LlmApi::Cohere,
];

#[test]
fn llm_path() {
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let path = String::from_utf8_lossy(input);
            for api in APIS {
                let route = Route::of(api, &path);
                for spelling in [
                    path.replace('/', "//"),
                    path.replace('/', "%2F"),
                    path.replace('/', "%2f"),
                    format!("{path}/"),
                    format!("{path};v=1"),
                ] {
                    assert_eq!(Route::of(api, &spelling), route, "{api:?} {spelling}");
                }
                // Which is known also where the letters of what is called are others.
                let small = Route::of(api, &path.to_ascii_lowercase());
                let endpoint = route.as_ref().map(|it| it.endpoint);
                if api != LlmApi::Bedrock {
                    assert_eq!(small.map(|it| it.endpoint), endpoint, "{api:?} {path}");
                }
                let Some(route) = route else {
                    continue;
                };
                let named = route.model(None);
                if let Ok(named @ Some(_)) = &named {
                    assert_eq!(route.model(named.clone()).as_ref(), Ok(named), "{path}");
                }
                for method in [Method::GET, Method::HEAD, Method::DELETE, Method::POST] {
                    let called = |overridden| route.clone().called(&method, false, overridden);
                    // What may be another method is a call at Google, and nobody else takes one.
                    let overridden = called(true);
                    match api {
                        LlmApi::Gemini => assert_eq!(overridden.as_ref(), Some(&route)),
                        _ => assert_eq!(overridden, called(false)),
                    }
                }
            }
        });
}

#[test]
fn grpc_call() {
    let kind = HeaderValue::from_static("application/grpc+proto");
    let fields = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    bolero::check!()
        .with_test_time(MOMENT)
        .for_each(|input: &[u8]| {
            let path = String::from_utf8_lossy(input);
            let called = grpc::call("server", &Method::POST, &path, &fields);
            if let Ok(tool) = called {
                // The path is the name, so that two paths are never one method.
                let name = tool.name.unwrap();
                assert_eq!(format!("/{name}"), path);
                assert_eq!(name.matches('/').count(), 1, "{name}");
                assert!(!name.contains(|it: char| it == '%' || it.is_control()));
            }
            let other = grpc::call("server", &Method::GET, &path, &fields);
            assert!(other.is_err());
            let plain = grpc::call("server", &Method::POST, &path, &HeaderMap::new());
            assert!(plain.is_err());
        });
}
