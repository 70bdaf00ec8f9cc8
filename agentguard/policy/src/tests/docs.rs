//! The operator's page and the example policies run through the real compiler.

use std::path::{Path, PathBuf};

use agentguard_model::{Handling, ReasonCode, Transport};

use super::{agent, host};
use crate::{
    Circumstances, Document, Facts, Policy, Query, Request, RulingOutcome, Seen, Sources, compile,
};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn compiled(path: &str, text: &str) -> Policy {
    let document = Document {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    match compile(&[document]) {
        Ok(policy) => policy,
        Err(found) => panic!("{found}\nin:\n{text}"),
    }
}

/// The examples of a page. One whose first line is `# FILE.yaml` is a file, and belongs to the one
/// before it that includes.
fn examples(page: &str) -> Vec<Vec<(&str, &str)>> {
    let mut examples: Vec<Vec<(&str, &str)>> = Vec::new();
    for part in page.split("```yaml\n").skip(1) {
        let (text, _) = part.split_once("```").unwrap();
        let first = text.lines().next().unwrap_or_default();
        let file = first.strip_prefix("# ").filter(|it| it.ends_with(".yaml"));
        match (file, examples.last_mut()) {
            (Some(file), Some(last)) if !text.contains("\ninclude:") => last.push((file, text)),
            (file, _) => examples.push(vec![(file.unwrap_or("policy.md"), text)]),
        }
    }
    examples
}

#[test]
fn the_examples_of_the_page_compile_without_a_warning() {
    let page = std::fs::read_to_string(docs().join("policy.md")).unwrap();
    let examples = examples(&page);
    for example in &examples {
        let (path, text) = example[0];
        let first = Document {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let mut read = Vec::new();
        let sources = Sources::read(first, |path| {
            let (path, text) = example.iter().find(|(it, _)| path == *it).unwrap();
            read.push(*path);
            Ok((*text).to_owned())
        });
        let policy = match sources.compile() {
            Ok(policy) => policy,
            Err(found) => panic!("{found}\nin:\n{text}"),
        };
        assert!(policy.rules().len() > 0);
        assert_eq!(policy.warnings(), [], "{text}");
        let others: Vec<&str> = example[1..].iter().map(|(path, _)| *path).collect();
        assert_eq!(read, others, "{text}");
    }
    // None is missed for being fenced in another way.
    let first = |it: &&Vec<(&str, &str)>| it[0].1.contains("version: 1\n");
    assert_eq!(examples.iter().filter(first).count(), examples.len());
}

#[test]
fn the_example_policies_compile_with_the_warnings_that_they_name() {
    let files = std::fs::read_dir(docs().join("policies")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let is_policy = |path: &PathBuf| {
        let name = path.to_str().unwrap();
        name.ends_with(".yaml") && !name.ends_with(".test.yaml")
    };
    let policies: Vec<PathBuf> = paths.filter(is_policy).collect();
    assert!(policies.len() > 5, "{policies:?}");
    for path in policies {
        let text = std::fs::read_to_string(&path).unwrap();
        let policy = compiled(path.to_str().unwrap(), &text);
        let told = policy.warnings().iter().map(|it| it.message.as_str());
        let named = text
            .lines()
            .filter_map(|line| line.strip_prefix("# warns: "));
        assert_eq!(told.collect::<Vec<_>>(), Vec::from_iter(named), "{path:?}");
    }
}

#[test]
fn the_newcomers_policy_compiles_without_a_warning() {
    let page = std::fs::read_to_string(docs().join("../README.md")).unwrap();
    let policies: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .filter(|text| text.contains("version: 1"))
        .collect();
    assert_eq!(policies.len(), 1);
    assert_eq!(compiled("README.md", policies[0]).warnings(), []);
}

#[test]
fn the_page_names_every_key() {
    let page = std::fs::read_to_string(docs().join("policy.md")).unwrap();
    let schema = crate::schema();
    for kind in [
        "Policy",
        "Defaults",
        "RuleDefaults",
        "Agent",
        "Group",
        "Sandbox",
        "Rule",
        "Match",
        "Budget",
        "ChargedCalls",
        "ChargedTools",
        "SoftLimit",
        "Limit",
        "CallRate",
        "CallsWithin",
        "FailuresWithin",
        "ChainDepth",
        "Breaker",
        "LlmMatch",
        "Provider",
        "ToolMatch",
        "ToolServer",
    ] {
        let of_kind = match kind {
            "Policy" => &schema,
            _ => &schema["$defs"][kind],
        };
        let properties = of_kind["properties"].as_object().unwrap();
        assert!(!properties.is_empty());
        for key in properties.keys() {
            assert!(page.contains(&format!("`{key}`")), "{kind}: {key}");
        }
    }
}

#[test]
fn the_coders_policy_does_what_its_comments_say() {
    let path = docs().join("policies/coder.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let policy = compiled("coder.yaml", &text);
    assert_eq!(policy.warnings(), []);
    let coder = agent(&policy, "coder");
    let request = |method, path| Seen::Request(Request::new(method, path));
    for (name, port, request, outcome, code) in [
        (
            "git.example.com",
            443,
            Seen::Never,
            RulingOutcome::Allow(Handling::Splice),
            ReasonCode::RuleAllow,
        ),
        (
            "rust.packages.example.com",
            443,
            Seen::NotYet,
            RulingOutcome::Allow(Handling::Splice),
            ReasonCode::RuleAllow,
        ),
        (
            "mirror.example.com",
            80,
            request("GET", "/pub/a/b"),
            RulingOutcome::Allow(Handling::Splice),
            ReasonCode::RuleAllow,
        ),
        (
            "mirror.example.com",
            80,
            request("POST", "/pub/a/b"),
            RulingOutcome::Deny,
            ReasonCode::NoRule,
        ),
        (
            "x.paste.example.net",
            443,
            Seen::NotYet,
            RulingOutcome::Deny,
            ReasonCode::RuleDeny,
        ),
        (
            "example.org",
            443,
            Seen::NotYet,
            RulingOutcome::Deny,
            ReasonCode::NoRule,
        ),
    ] {
        let name = host(name);
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port,
            transport: Transport::Tcp,
            request,
            circumstances: Circumstances::NOBODY,
        };
        let ruling = policy.decide(coder, &facts);
        assert_eq!(
            (ruling.outcome, ruling.reason.code),
            (outcome, code),
            "{facts:?}"
        );
    }
    assert!(!policy.decide_name(coder, &host("example.org")).allowed);
}

#[test]
fn the_example_of_inspection_does_what_the_page_says() {
    let page = std::fs::read_to_string(docs().join("policy.md")).unwrap();
    let text = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .find(|text| text.contains("id: docs-read"))
        .unwrap();
    let policy = compiled("policy.md", text);
    let coder = agent(&policy, "coder");
    let request = |method, path| Seen::Request(Request::new(method, path));
    for (name, request, code) in [
        (
            "docs.example.com",
            request("GET", "/public/a"),
            ReasonCode::RuleAllow,
        ),
        (
            "docs.example.com",
            request("GET", "/private"),
            ReasonCode::NoRule,
        ),
        (
            "docs.example.com",
            request("POST", "/public/a"),
            ReasonCode::NoRule,
        ),
        (
            "api.example.com",
            request("POST", "/v1/x"),
            ReasonCode::RuleAllow,
        ),
        (
            "api.example.com",
            request("DELETE", "/v1/x"),
            ReasonCode::RuleDeny,
        ),
        ("api.example.com", Seen::Never, ReasonCode::NeedsInspection),
    ] {
        let name = host(name);
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request,
            circumstances: Circumstances::NOBODY,
        };
        assert!(policy.inspects(coder, &facts), "{facts:?}");
        assert_eq!(policy.decide(coder, &facts).reason.code, code, "{facts:?}");
    }
}

#[test]
fn the_example_of_queries_and_sizes_does_what_the_page_says() {
    let page = std::fs::read_to_string(docs().join("policy.md")).unwrap();
    let text = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .find(|text| text.contains("body_over"))
        .unwrap();
    let policy = compiled("policy.md", text);
    let coder = agent(&policy, "coder");
    let name = host("api.example.com");
    for (query, content, body, code, limit) in [
        (
            "Action=GetItem",
            "application/json",
            10,
            ReasonCode::RuleAllow,
            Some(65536),
        ),
        (
            "Action=PutItem",
            "application/json",
            10,
            ReasonCode::NoRule,
            Some(65536),
        ),
        (
            "Action=GetItem",
            "text/plain",
            10,
            ReasonCode::NoRule,
            Some(65536),
        ),
        (
            "Action=GetItem",
            "application/json",
            65537,
            ReasonCode::RuleDeny,
            None,
        ),
    ] {
        let query = Query::new(query);
        let mut fields = http::HeaderMap::new();
        fields.insert("content-type", http::HeaderValue::from_static(content));
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Request(Request {
                query: Some(&query),
                fields: Some(&fields),
                body,
                ..Request::new("POST", "/")
            }),
            circumstances: Circumstances::NOBODY,
        };
        assert_eq!(policy.decide(coder, &facts).reason.code, code, "{facts:?}");
        assert_eq!(policy.body_limit(coder, &facts), limit, "{facts:?}");
        let recorded = policy.recorded_fields(&fields);
        assert_eq!(recorded["content-type"], content);
    }
    let query = Query::new("Action=GetItem&Signature=abc");
    assert_eq!(policy.recorded_query(&query), "Action=GetItem&Signature=…");
}

#[test]
fn the_example_of_repositories_does_what_the_page_says() {
    let page = std::fs::read_to_string(docs().join("policy.md")).unwrap();
    let mut examples = page
        .split("```yaml\n")
        .skip(1)
        .filter_map(|part| part.split("```").next());
    let text = examples.find(|text| text.contains("git-receive-pack"));
    let policy = compiled("policy.md", text.unwrap());
    let coder = agent(&policy, "coder");
    let name = host("git.example.com");
    let (allow, deny) = (ReasonCode::RuleAllow, ReasonCode::RuleDeny);
    for (method, path, query, code) in [
        (
            "GET",
            "/a/b.git/info/refs",
            "service=git-upload-pack",
            allow,
        ),
        ("POST", "/a/b.git/git-upload-pack", "", allow),
        ("GET", "/a/b.git/objects/info/packs", "", allow),
        (
            "GET",
            "/a/b.git/info/refs",
            "service=git-receive-pack",
            deny,
        ),
        ("GET", "/info/refs", "a=b&service=git-receive-pack", deny),
        ("POST", "/a/b.git/git-receive-pack", "", deny),
        // The way to push before there was a smart protocol.
        ("PUT", "/a/b.git/refs/heads/main", "", ReasonCode::NoRule),
    ] {
        let query = Query::new(query);
        let facts = Facts {
            host: Some(&name),
            ip: None,
            port: 443,
            transport: Transport::Tcp,
            request: Seen::Request(Request {
                query: Some(&query),
                ..Request::new(method, path)
            }),
            circumstances: Circumstances::NOBODY,
        };
        assert_eq!(policy.decide(coder, &facts).reason.code, code, "{facts:?}");
    }
}

#[test]
fn the_page_on_local_tools_compiles_without_a_warning() {
    let page = std::fs::read_to_string(docs().join("local-tools.md")).unwrap();
    let examples = examples(&page);
    assert!(!examples.is_empty());
    for (name, text) in examples.into_iter().flatten() {
        let policy = compiled(name, text);
        assert!(policy.warnings().is_empty(), "{:?}", policy.warnings());
    }
}
