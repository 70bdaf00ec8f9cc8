//! Where providers of language models are.

use agentguard_model::LlmApi;

use super::super::{document, host};
use super::rules;
use crate::{Document, compile};

#[test]
fn too_many_providers_and_hosts_are_refused() {
    let providers = |count, hosts: usize| {
        let one = |n| {
            let hosts: Vec<_> = (0..hosts).map(|h| format!("h{h}.p{n}.example")).collect();
            format!(
                "  - {{name: p{n}, api: openai, hosts: [{}]}}\n",
                hosts.join(", ")
            )
        };
        let all: String = (0..count).map(one).collect();
        document(&format!("version: 1\nproviders:\n{all}"))
    };
    assert!(compile(&[providers(64, 4)]).is_ok());
    let found = compile(&[providers(65, 1)]).unwrap_err().to_string();
    assert!(found.contains("more than 64 providers"), "{found}");
    let found = compile(&[providers(64, 5)]).unwrap_err().to_string();
    assert!(found.contains("more than 256 hosts"), "{found}");
}

#[test]
fn providers_are_found_by_host() {
    let second = Document {
        path: "q.yaml".to_owned(),
        text: "version: 1\nlists: {ours: [models.corp.example, \"*.gpu.corp.example\"]}\nproviders: [{name: ours, api: openai, hosts: [\"@ours\"]}]\n".to_owned(),
    };
    let first = "version: 1\nproviders:\n  - {name: gateway, api: anthropic, hosts: [\"*.corp.example\", \"*.openai.com\"]}\n";
    let policy = compile(&[document(first), second]).unwrap();
    for (name, expected) in [
        ("api.anthropic.com", Some(("anthropic", LlmApi::Anthropic))),
        ("x.api.anthropic.com", None),
        (
            "us.openai.azure.com",
            Some(("azure_openai", LlmApi::Openai)),
        ),
        ("openai.azure.com", None),
        ("openrouter.ai", Some(("openrouter", LlmApi::Openai))),
        // The document's come first.
        ("api.openai.com", Some(("gateway", LlmApi::Anthropic))),
        ("x.corp.example", Some(("gateway", LlmApi::Anthropic))),
        ("corp.example", None),
        ("models.corp.example", Some(("ours", LlmApi::Openai))),
        ("a.b.gpu.corp.example", Some(("ours", LlmApi::Openai))),
        ("example.org", None),
        (
            "generativelanguage.googleapis.com",
            Some(("gemini", LlmApi::Gemini)),
        ),
        (
            "aiplatform.googleapis.com",
            Some(("vertex", LlmApi::Gemini)),
        ),
        (
            "us-central1-aiplatform.googleapis.com",
            Some(("vertex", LlmApi::Gemini)),
        ),
        (
            "aiplatform.eu.rep.googleapis.com",
            Some(("vertex", LlmApi::Gemini)),
        ),
        (
            "bedrock-runtime.us-east-1.amazonaws.com",
            Some(("bedrock", LlmApi::Bedrock)),
        ),
        (
            "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
            Some(("bedrock", LlmApi::Bedrock)),
        ),
        (
            "bedrock-mantle.eu-west-1.api.aws",
            Some(("bedrock", LlmApi::Bedrock)),
        ),
        (
            "claude.googleapis.com",
            Some(("anthropic", LlmApi::Anthropic)),
        ),
        (
            "aws-external-anthropic.us-east-1.api.aws",
            Some(("anthropic", LlmApi::Anthropic)),
        ),
        ("api.cohere.com", Some(("cohere", LlmApi::Cohere))),
        ("bedrock-runtime.amazonaws.com", None),
        ("bedrock.us-east-1.amazonaws.com", None),
        ("x.us-central1-aiplatform.googleapis.com", None),
        ("us-central1-aiplatform.googleapis.com.example.org", None),
        ("storage.googleapis.com", None),
    ] {
        let found = policy.provider(&host(name));
        let found = found.map(|it| (it.name.as_str(), it.api));
        assert_eq!(found, expected, "{name}");
    }
}

/// What is sent to a host of a region is a call, and not any request.
#[test]
fn hosts_of_a_region_are_their_provider_s() {
    let policy = compile(&[document("version: 1\nagents: [{name: coder}]\n")]).unwrap();
    for (name, expected) in [
        ("us.api.openai.com", Some("openai")),
        ("eu.api.openai.com", Some("openai")),
        ("au.api.openai.com", Some("openai")),
        ("in.api.openai.com", Some("openai")),
        ("jp.api.openai.com", Some("openai")),
        ("us.api.x.ai", Some("xai")),
        ("eu-west-1.api.x.ai", Some("xai")),
        ("a.us.api.openai.com", None),
        ("us.api.openai.com.example.org", None),
        ("platform.openai.com", None),
        ("docs.x.ai", None),
    ] {
        let found = policy.provider(&host(name)).map(|it| it.name.as_str());
        assert_eq!(found, expected, "{name}");
    }
}

/// A rule for calls where no provider can be is warned of: there may be one below a name of which there is one for
/// each region.
#[test]
fn providers_of_a_region_are_met_by_patterns() {
    for (hosts, met) in [
        ("us-central1-aiplatform.googleapis.com", true),
        ("*.googleapis.com", true),
        ("*.rep.googleapis.com", true),
        ("*.us-central1-aiplatform.googleapis.com", false),
        ("*.eu-west-1.amazonaws.com", true),
        ("*.amazonaws.com", true),
        ("s3.eu-west-1.amazonaws.com", false),
        ("storage.googleapis.com", false),
    ] {
        let policy = rules(&format!(
            "  - {{id: a, match: {{host: [\"{hosts}\"], llm: {{}}}}, action: allow, handling: inspect}}\n"
        ));
        let warned = policy
            .warnings()
            .iter()
            .any(|it| it.to_string().contains("no provider answers"));
        assert_eq!(warned, !met, "{hosts}");
    }
}
