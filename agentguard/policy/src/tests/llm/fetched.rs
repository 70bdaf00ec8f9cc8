//! Expressions on answers that are fetched: what was called is not known any more.

use agentguard_model::{Llm, LlmOperation, ReasonCode};
use http::HeaderMap;
use http::header::HeaderValue;

use super::{ALLOW, DENY, ERROR, chat, facts, rules, unread};
use crate::tests::{agent, host};
use crate::{Condition, Consideration, Facts, Policy, Query, Request, Seen};

fn fetched(asks: &[&str]) -> Llm {
    Llm {
        operation: LlmOperation::Retrieval,
        model: None,
        max_output_tokens: None,
        asks: asks.iter().map(|&tool| tool.to_owned()).collect(),
        ..chat("", &[])
    }
}

/// A request for an answer.
struct Scene {
    llm: Llm,
    fields: &'static [(&'static str, &'static str)],
    query: &'static str,
}

impl Scene {
    fn new() -> Self {
        Self {
            llm: fetched(&[]),
            fields: &[],
            query: "a=1",
        }
    }

    fn with<T>(&self, then: impl Fn(&Facts<'_>) -> T) -> T {
        let (name, query) = (host("api.openai.com"), Query::new(self.query));
        let pairs = self.fields.iter();
        let fields: HeaderMap = pairs
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        let request = Request {
            llm: Some(&self.llm),
            query: Some(&query),
            fields: Some(&fields),
            ..Request::new("GET", "/v1/responses/r")
        };
        let facts = Facts {
            request: Seen::Request(request),
            ..facts(&name, Some(&self.llm))
        };
        then(&facts)
    }

    fn code(&self, policy: &Policy) -> ReasonCode {
        self.with(|facts| policy.decide(agent(policy, "coder"), facts).reason.code)
    }

    /// What is said of the rule `d`.
    fn considered(&self, policy: &Policy) -> Consideration {
        self.with(|facts| {
            let considered = policy.explain(agent(policy, "coder"), facts);
            let mut considered = considered.into_iter();
            considered.find(|it| it.rule == "d").unwrap().verdict
        })
    }
}

fn denial(says: &str) -> Policy {
    rules(&format!(
        "  - {{id: a, match: {{host: [api.openai.com]}}, action: allow, handling: inspect}}\n  - {{id: d, {says}, action: deny}}\n"
    ))
}

/// What decides by itself, on either side, is known, and what fails by itself fails. `x-team` is not there.
#[test]
fn an_expression_is_about_an_answer_as_far_as_it_depends_on_nothing_else() {
    for (says, expected) in [
        ("llm.model == 'x'", ALLOW),
        ("llm.model == 'x' || request.query.a == '1'", DENY),
        ("request.query.a == '1' || llm.model == 'x'", DENY),
        ("llm.stream && request.query.a == '2'", ALLOW),
        ("!(llm.stream && request.query.a == '2')", DENY),
        ("!(request.query.a == '2' && llm.stream)", DENY),
        ("!llm.stream", ALLOW),
        ("(llm.stream || request.query.a == '1') == true", DENY),
        ("request.query.a == '1' ? !llm.stream : true", ALLOW),
        ("request.query.a == '2' ? llm.stream : true", DENY),
        (
            "llm.stream ? request.query.a == '1' : request.query.a != '2'",
            DENY,
        ),
        (
            "llm.stream ? request.query.a == '1' : request.query.a == '2'",
            ALLOW,
        ),
        (
            "['2', '1'].exists(n, llm.model == n || request.query.a == n)",
            DENY,
        ),
        (
            "['1', '2'].all(n, llm.model == n || request.query.a == n)",
            ALLOW,
        ),
        (
            "!['1', '2'].all(n, llm.stream && request.query.a == n)",
            DENY,
        ),
        ("[llm.model, '1'].exists(n, request.query.a == n)", DENY),
        ("![llm.model, '1'].exists(n, request.query.a == n)", ALLOW),
        ("[llm.model, '2'].exists(n, request.query.a == n)", ALLOW),
        (
            "['1', '1'].exists_one(n, request.query.a == n || llm.stream)",
            ALLOW,
        ),
        ("llm.tools.all(t, t == request.query.a)", ALLOW),
        ("'1' in llm.tools", ALLOW),
        // It is not there.
        (
            "request.headers['x-team'] == 'a' || llm.model == 'x'",
            ERROR,
        ),
        (
            "llm.model == 'x' || request.headers['x-team'] == 'a'",
            ERROR,
        ),
        (
            "llm.model == 'x' && request.headers['x-team'] == 'a'",
            ERROR,
        ),
        ("llm.model == request.headers['x-team']", ERROR),
        ("request.headers['x-team'] in llm.tools", ERROR),
        (
            "llm.stream ? request.headers['x-team'] == 'a' : true",
            ERROR,
        ),
        (
            "['1'].exists(n, llm.model == n || request.headers['x-team'] == n)",
            ERROR,
        ),
        (
            "['2', '1'].exists(n, request.query.a == n || n == '2' && llm.model == request.headers['x-team'])",
            DENY,
        ),
        (
            "'x-team' in request.headers && request.headers['x-team'] == 'a' || llm.model == 'x'",
            ALLOW,
        ),
        (
            "request.headers['x-team'] == 'a' && request.query.a == '2' || llm.model == 'x'",
            ALLOW,
        ),
        ("llm.max_output_tokens > int(request.query.b)", ERROR),
    ] {
        let policy = denial(&format!("when: \"{says}\""));
        let scene = Scene::new();
        assert_eq!(scene.code(&policy), expected, "{says}");
        // What is explained is what is decided.
        let considered = scene.considered(&policy);
        let told = match considered {
            Consideration::Matched => DENY,
            Consideration::Error(_) => ERROR,
            Consideration::Failed(of) if of == [Condition::When] => ALLOW,
            other => panic!("{says} {other:?}"),
        };
        assert_eq!(told, expected, "{says}");
    }
}

/// What takes too many steps denies, of an answer as of a call.
#[test]
fn an_expression_on_an_answer_that_takes_too_long_denies() {
    let query: &'static str = String::leak(format!("a={}", "b".repeat(120_000)));
    let says = "request.query.a.matches('[ab].{20}c0') || llm.stream";
    let policy = denial(&format!("when: \"{says}\""));
    let scene = Scene {
        query,
        ..Scene::new()
    };
    assert_eq!(scene.code(&policy), ERROR);
    assert_eq!(Scene::new().code(&policy), ALLOW);
}

/// A denial of what an answer asks for is about each answer whose call is not known.
#[test]
fn an_expression_that_depends_on_what_was_called_is_about_what_the_answer_asks_for() {
    let policy = denial("match: {llm: {tool_calls: [bash]}}, when: llm.model == 'x'");
    for (asks, expected) in [(&["bash"][..], DENY), (&["ls"], ALLOW)] {
        let scene = Scene {
            llm: fetched(asks),
            ..Scene::new()
        };
        assert_eq!(scene.code(&policy), expected, "{asks:?}");
        let matches = scene.considered(&policy) == Consideration::Matched;
        assert_eq!(matches, expected == DENY, "{asks:?}");
    }
}

/// What may oblige does so where it cannot be told, and not where it depends on what was called.
#[test]
fn what_an_expression_on_an_answer_has_kept() {
    for (says, obliges) in [
        ("request.headers['x-team'] == 'a' || llm.model == 'x'", true),
        ("llm.model == 'x'", false),
    ] {
        let policy = rules(&format!(
            "  - {{id: a, match: {{host: [api.openai.com]}}, action: allow, handling: inspect}}\n  - {{id: d, match: {{host: [api.openai.com], header: {{x-else: [b]}}}}, action: allow, handling: inspect, obligations: {{capture_body: true}}, when: \"{says}\"}}\n"
        ));
        // In one reading it is what the rule says.
        let scene = Scene {
            fields: &[("x-else", "b"), ("x-else", "c")],
            ..Scene::new()
        };
        let considered = scene.considered(&policy);
        assert_eq!(considered == Consideration::Obliges, obliges, "{says}");
    }
}

/// What cannot be read is no answer that is fetched: models and tools are asked about as of any call.
#[test]
fn what_cannot_be_read_is_asked_about_as_a_call() {
    let sent = Llm {
        operation: LlmOperation::Retrieval,
        ..unread()
    };
    for says in ["model: [x]", "tools: [y]"] {
        let policy = denial(&format!("match: {{llm: {{{says}}}}}"));
        let scene = Scene {
            llm: sent.clone(),
            ..Scene::new()
        };
        assert_eq!(scene.code(&policy), DENY, "{says}");
        assert_eq!(scene.considered(&policy), Consideration::Matched, "{says}");
    }
}
