//! Calls of language models: what rules say of them, and what is refused.

mod fetched;
mod providers;
mod tables;

use agentguard_model::{Llm, LlmOperation, ReasonCode, Transport};

use super::{agent, document, host, llm_call, policy};
use crate::{
    Circumstances, Condition, Consideration, Facts, NotUnderstood, Policy, Query, Request,
    RulingOutcome, Seen, compile,
};

fn chat(model: &str, tools: &[&str]) -> Llm {
    Llm {
        max_output_tokens: Some(100),
        tools: tools.iter().map(|&tool| tool.to_owned()).collect(),
        ..llm_call("openai", Some(model))
    }
}

fn unread() -> Llm {
    Llm {
        model: None,
        max_output_tokens: None,
        not_understood: Some("no JSON".to_owned()),
        ..chat("", &[])
    }
}

/// Rules for an agent on one host of a provider.
fn rules(text: &str) -> Policy {
    policy(&format!(
        "version: 1\nagents: [{{name: coder, not_understood: allow}}]\nrules:\n{text}"
    ))
}

fn code(policy: &Policy, llm: Option<&Llm>) -> ReasonCode {
    let name = host("api.openai.com");
    let facts = facts(&name, llm);
    policy.decide(agent(policy, "coder"), &facts).reason.code
}

fn facts<'a>(name: &'a agentguard_model::HostName, llm: Option<&'a Llm>) -> Facts<'a> {
    Facts {
        host: Some(name),
        ip: None,
        port: 443,
        transport: Transport::Tcp,
        request: Seen::Request(Request {
            llm,
            ..Request::new("POST", "/v1/chat/completions")
        }),
        circumstances: Circumstances::NOBODY,
    }
}

const ALLOW: ReasonCode = ReasonCode::RuleAllow;
const DENY: ReasonCode = ReasonCode::RuleDeny;
const NONE: ReasonCode = ReasonCode::NoRule;
const ERROR: ReasonCode = ReasonCode::EngineError;

#[test]
fn an_allowance_is_for_calls_that_are_all_it_asks_for() {
    let embeddings = Llm {
        operation: LlmOperation::Embeddings,
        ..chat("gpt-4o", &[])
    };
    let unnamed = Llm {
        model: None,
        ..chat("", &[])
    };
    for (says, calls) in [
        (
            "{}",
            &[
                (Some(chat("x", &[])), ALLOW),
                (Some(unread()), ALLOW),
                (None, NONE),
            ][..],
        ),
        (
            "{model: [\"gpt-4*\", o3]}",
            &[
                (Some(chat("gpt-4o", &["bash"])), ALLOW),
                (Some(chat("o3", &[])), ALLOW),
                (Some(chat("o3-mini", &[])), NONE),
                // Some servers would take it for another.
                (Some(chat("GPT-4o", &[])), NONE),
                (Some(unnamed), NONE),
                (Some(unread()), NONE),
                (None, NONE),
            ],
        ),
        (
            "{provider: [open*], operation: [chat]}",
            &[
                (Some(chat("x", &[])), ALLOW),
                (Some(unread()), ALLOW),
                (Some(embeddings), NONE),
            ],
        ),
        ("{provider: [mistral]}", &[(Some(chat("x", &[])), NONE)]),
        (
            "{tools: [\"read_*\", search]}",
            &[
                (Some(chat("x", &[])), ALLOW),
                (Some(chat("x", &["read_file", "search"])), ALLOW),
                (Some(chat("x", &["read_file", "bash"])), NONE),
                (Some(chat("x", &["Read_file"])), NONE),
                (Some(unread()), NONE),
            ],
        ),
    ] {
        let policy = rules(&format!(
            "  - {{id: a, match: {{host: [api.openai.com], llm: {says}}}, action: allow, handling: inspect}}\n"
        ));
        for (llm, expected) in calls {
            assert_eq!(code(&policy, llm.as_ref()), *expected, "{says} {llm:?}");
        }
    }
}

/// The call was decided when it was made, and neither its model nor its tools are known any more.
#[test]
fn an_answer_that_is_fetched_is_asked_about_for_what_it_asks_for() {
    let fetched = |asks: &[&str]| Llm {
        operation: LlmOperation::Retrieval,
        model: None,
        max_output_tokens: None,
        asks: asks.iter().map(|&tool| tool.to_owned()).collect(),
        ..chat("", &[])
    };
    let allow = "  - {id: a, match: {host: [api.openai.com]}, action: allow, handling: inspect}\n";
    for (denial, asks, expected) in [
        ("{}", &[][..], DENY),
        ("{operation: [retrieval]}", &[], DENY),
        ("{operation: [chat]}", &[], ALLOW),
        ("{model: [x]}", &[], ALLOW),
        ("{tools: [bash]}", &[], ALLOW),
        ("{max_output_over: 1}", &[], ALLOW),
        ("{tool_calls: [bash]}", &[], ALLOW),
        ("{tool_calls: [bash]}", &["bash"], DENY),
        (
            "{model: [x], tools: [y], tool_calls: [bash]}",
            &["bash"],
            DENY,
        ),
        ("{operation: [chat], tool_calls: [bash]}", &["bash"], ALLOW),
    ] {
        let policy = rules(&format!(
            "{allow}  - {{id: d, match: {{llm: {denial}}}, action: deny}}\n"
        ));
        assert_eq!(
            code(&policy, Some(&fetched(asks))),
            expected,
            "{denial} {asks:?}"
        );
    }
    // An expression on what was called is not about it, either.
    for (denial, asks, expected) in [
        ("when: llm.model == ''", &[][..], ALLOW),
        ("when: llm.provider == 'openai'", &[], DENY),
        // What decides by itself does.
        (
            "when: llm.provider == 'openai' || llm.model == 'x'",
            &[],
            DENY,
        ),
        (
            "when: request.method == 'GET' && llm.model == 'x'",
            &["bash"],
            ALLOW,
        ),
        (
            "match: {llm: {tool_calls: [bash]}}, when: llm.model == 'x'",
            &["bash"],
            DENY,
        ),
    ] {
        let policy = rules(&format!("{allow}  - {{id: d, {denial}, action: deny}}\n"));
        assert_eq!(code(&policy, Some(&fetched(asks))), expected, "{denial}");
    }
    let unless = "  - {id: a, match: {host: [api.openai.com], llm: {}}, when: \"llm.model != 'x'\", action: allow, handling: inspect}\n";
    assert_eq!(code(&rules(unless), Some(&fetched(&[]))), NONE);
    for (allowance, expected) in [
        ("{}", ALLOW),
        ("{operation: [retrieval]}", ALLOW),
        ("{operation: [chat]}", NONE),
        ("{model: [x]}", NONE),
        ("{tools: [bash]}", NONE),
    ] {
        let policy = rules(&format!(
            "  - {{id: a, match: {{host: [api.openai.com], llm: {allowance}}}, action: allow, handling: inspect}}\n"
        ));
        assert_eq!(code(&policy, Some(&fetched(&[]))), expected, "{allowance}");
    }
}

#[test]
fn a_denial_is_for_calls_that_may_be_what_it_names() {
    let unlimited = Llm {
        max_output_tokens: None,
        ..chat("x", &[])
    };
    let embeddings = Llm {
        operation: LlmOperation::Embeddings,
        ..unlimited.clone()
    };
    let unnamed = Llm {
        model: None,
        ..chat("", &[])
    };
    for (says, calls) in [
        (
            "{model: [\"gpt-5*\"]}",
            &[
                (Some(chat("gpt-5", &[])), DENY),
                (Some(chat("GPT-5", &[])), DENY),
                (Some(chat("gpt-4", &[])), ALLOW),
                // The server chooses.
                (Some(unnamed), DENY),
                (Some(unread()), DENY),
                (None, ALLOW),
            ][..],
        ),
        (
            "{tools: [bash, \"write_*\"]}",
            &[
                (Some(chat("x", &["search", "Bash"])), DENY),
                (Some(chat("x", &["search"])), ALLOW),
                (Some(chat("x", &[])), ALLOW),
                (Some(unread()), DENY),
                (None, ALLOW),
            ],
        ),
        (
            "{max_output_over: 100}",
            &[
                (Some(chat("x", &[])), ALLOW),
                (
                    Some(Llm {
                        max_output_tokens: Some(101),
                        ..chat("x", &[])
                    }),
                    DENY,
                ),
                (Some(unlimited), DENY),
                (Some(embeddings), ALLOW),
                (Some(unread()), DENY),
                (None, ALLOW),
            ],
        ),
        // What it is for is known of one that could not be read.
        (
            "{operation: [embeddings], model: [x]}",
            &[(Some(unread()), ALLOW)],
        ),
        ("{}", &[(Some(unread()), DENY), (None, ALLOW)]),
    ] {
        let policy = rules(&format!(
            "  - {{id: a, match: {{host: [api.openai.com]}}, action: allow, handling: inspect}}\n  - {{id: d, match: {{host: [api.openai.com], llm: {says}}}, action: deny}}\n"
        ));
        for (llm, expected) in calls {
            assert_eq!(code(&policy, llm.as_ref()), *expected, "{says} {llm:?}");
        }
    }
}

#[test]
fn expressions_look_at_calls() {
    for (says, calls) in [
        (
            "llm.provider == 'openai' && llm.model.startsWith('gpt-4') && llm.max_output_tokens <= 100",
            &[
                (Some(chat("gpt-4o", &[])), ALLOW),
                (Some(chat("o3", &[])), NONE),
                (Some(unread()), ERROR),
                (None, NONE),
            ][..],
        ),
        (
            "llm.provider == '' && llm.operation == '' && llm.model == '' && !llm.stream && llm.max_output_tokens == 0 && size(llm.tools) == 0",
            &[(None, ALLOW), (Some(chat("x", &[])), NONE)],
        ),
        (
            "!('bash' in llm.tools) && llm.tools.all(t, t.startsWith('read'))",
            &[
                (Some(chat("x", &["read"])), ALLOW),
                (Some(chat("x", &["read", "write"])), NONE),
                (Some(chat("x", &["bash"])), NONE),
                (Some(chat("x", &["read"; 1025])), ERROR),
                (None, ALLOW),
            ],
        ),
        (
            "llm.tools.exists_one(t, t.startsWith('read'))",
            &[
                (Some(chat("x", &["read", "write"])), ALLOW),
                (Some(chat("x", &["read", "read_all"])), NONE),
                (Some(chat("x", &["write"])), NONE),
                (None, NONE),
            ],
        ),
        // What is known of every call.
        (
            "llm.operation == 'chat' && llm.provider == 'openai'",
            &[(Some(unread()), ALLOW)],
        ),
    ] {
        let policy = rules(&format!(
            "  - id: a\n    match: {{host: [api.openai.com]}}\n    action: allow\n    handling: inspect\n    when: \"{says}\"\n"
        ));
        for (llm, expected) in calls {
            assert_eq!(code(&policy, llm.as_ref()), *expected, "{says} {llm:?}");
        }
    }
}

#[test]
fn a_denial_is_for_answers_that_ask_for_what_it_names() {
    let policy = rules(
        "  - {id: a, match: {host: [api.openai.com], llm: {}}, action: allow}\n  - {id: d, match: {llm: {tool_calls: [bash, \"computer*\"]}}, action: deny}",
    );
    let asks = |asks: &[&str]| Llm {
        asks: asks.iter().map(|&it| it.to_owned()).collect(),
        ..chat("x", &["bash"])
    };
    for (llm, expected) in [
        // It is not known yet what the model asks for.
        (asks(&[]), ALLOW),
        (unread(), ALLOW),
        (asks(&["ls"]), ALLOW),
        (asks(&["ls", "bash"]), DENY),
        (asks(&["Bash"]), DENY),
        (asks(&["computer_use"]), DENY),
        (
            Llm {
                asks_unread: true,
                ..asks(&[])
            },
            DENY,
        ),
    ] {
        assert_eq!(code(&policy, Some(&llm)), expected, "{llm:?}");
    }
    assert!(policy.looks_at_tool_calls());
    let without = rules("  - {id: a, match: {host: [api.openai.com], llm: {}}, action: allow}");
    assert!(!without.looks_at_tool_calls());
}

/// Where each of the rules that deny it has what is asked for cut out of the answer.
#[test]
fn calls_are_cut_out_where_no_rule_refuses_the_answer() {
    let cut = "{id: c, match: {llm: {tool_calls: [bash, ls]}}, action: deny, answer: cut}";
    let refuse = "{id: r, match: {llm: {tool_calls: [ls]}}, action: deny, answer: refuse}";
    let fails = "{id: f, match: {transport: [tcp], llm: {tool_calls: [ls]}}, action: deny, answer: cut, when: \"1 / llm.max_output_tokens > 5\"}";
    let paper = "{id: p, match: {llm: {tool_calls: [ls]}}, action: deny, mode: shadow}";
    let allow = "{id: a, match: {host: [api.openai.com], llm: {}}, action: allow}";
    for (more, tool, cuts) in [
        ("", "bash", true),
        (refuse, "bash", true),
        (refuse, "ls", false),
        (paper, "ls", true),
        // Nobody knows what it would say.
        (fails, "ls", false),
    ] {
        let more = if more.is_empty() {
            String::new()
        } else {
            format!("\n  - {more}")
        };
        let policy = rules(&format!("  - {allow}\n  - {cut}{more}"));
        assert!(policy.cuts_tool_calls());
        let llm = Llm {
            asks: vec![tool.to_owned()],
            max_output_tokens: Some(0),
            ..chat("x", &[])
        };
        let name = host("api.openai.com");
        let ruling = policy.decide(agent(&policy, "coder"), &facts(&name, Some(&llm)));
        assert_eq!(
            (ruling.outcome, ruling.cuts),
            (RulingOutcome::Deny, cuts),
            "{more} {tool}"
        );
    }
    let without = rules(&format!("  - {allow}\n  - {refuse}"));
    assert!(!without.cuts_tool_calls());
}

#[test]
fn a_connection_for_calls_is_opened_where_one_may_be_allowed() {
    let opening = Llm {
        max_output_tokens: None,
        model: None,
        ..chat("", &[])
    };
    let name = host("api.openai.com");
    for (says, expected) in [
        // What only a call shows turns out for it.
        (
            "{id: a, action: allow, match: {llm: {model: [x], tools: [ls]}}}",
            ALLOW,
        ),
        ("{id: a, action: allow, when: \"llm.model == 'x'\"}", ALLOW),
        (
            "{id: a, action: allow}\n  - {id: d, action: deny, match: {llm: {max_output_over: 5}}}",
            ALLOW,
        ),
        (
            "{id: a, action: allow}\n  - {id: d, action: deny, match: {llm: {}}}",
            DENY,
        ),
        (
            "{id: a, action: allow}\n  - {id: d, action: deny, when: \"llm.model != 'x'\", match: {transport: [tcp]}}",
            ALLOW,
        ),
        // What else it shows does not.
        (
            "{id: a, action: allow, match: {llm: {provider: [anthropic]}}}",
            NONE,
        ),
        (
            "{id: a, action: allow, match: {llm: {operation: [embeddings]}}}",
            NONE,
        ),
        (
            "{id: a, action: allow, match: {method: [POST], llm: {}}}",
            NONE,
        ),
        (
            "{id: a, action: allow}\n  - {id: d, action: deny, match: {protocol: [websocket]}}",
            DENY,
        ),
    ] {
        let says = says.replacen("match: {", "match: {host: [api.openai.com], ", 1);
        let says = match says.contains("match") {
            true => says,
            false => says.replacen("allow", "allow, match: {host: [api.openai.com]}", 1),
        };
        let policy = rules(&format!("  - {says}"));
        let mut facts = facts(&name, Some(&opening));
        facts.request = Seen::Request(Request {
            llm: Some(&opening),
            opens_calls: true,
            websocket: true,
            ..Request::new("GET", "/v1/responses")
        });
        let ruling = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(ruling.reason.code, expected, "{says}");
    }
}

/// Of a session in real time the model is known when it is opened, and what it is given is not.
#[test]
fn a_connection_for_calls_of_one_model_is_opened_where_that_may_be_called() {
    let name = host("api.openai.com");
    let opening = Llm {
        operation: LlmOperation::Realtime,
        max_output_tokens: None,
        ..chat("gpt-realtime", &[])
    };
    let allowed = "{id: a, action: allow, match: {host: [api.openai.com]}}\n  - ";
    for (says, expected) in [
        (
            "{id: a, action: allow, match: {host: [api.openai.com], llm: {model: [gpt-realtime*], tools: [look]}}}",
            ReasonCode::RuleAllow,
        ),
        (
            "{id: a, action: allow, match: {host: [api.openai.com], llm: {model: [gpt-5*]}}}",
            ReasonCode::NoRule,
        ),
        (
            "{id: a, action: allow, match: {host: [api.openai.com], llm: {operation: [chat]}}}",
            ReasonCode::NoRule,
        ),
        (
            &format!("{allowed}{{id: d, action: deny, match: {{llm: {{model: [GPT-Realtime]}}}}}}"),
            ReasonCode::RuleDeny,
        ),
        (
            &format!("{allowed}{{id: d, action: deny, match: {{llm: {{operation: [realtime]}}}}}}"),
            ReasonCode::RuleDeny,
        ),
        (
            &format!("{allowed}{{id: d, action: deny, match: {{llm: {{model: [gpt-5]}}}}}}"),
            ReasonCode::RuleAllow,
        ),
        (
            &format!(
                "{allowed}{{id: d, action: deny, match: {{llm: {{model: [gpt-realtime], tools: [shell]}}}}}}"
            ),
            ReasonCode::RuleAllow,
        ),
        (
            &format!("{allowed}{{id: d, action: deny, match: {{llm: {{max_output_over: 10}}}}}}"),
            ReasonCode::RuleAllow,
        ),
    ] {
        let policy = rules(&format!("  - {says}"));
        let mut facts = facts(&name, Some(&opening));
        facts.request = Seen::Request(Request {
            llm: Some(&opening),
            opens_calls: true,
            websocket: true,
            ..Request::new("GET", "/v1/realtime")
        });
        let ruling = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(ruling.reason.code, expected, "{says}");
    }
}

#[test]
fn what_no_request_was_seen_of_may_be_a_call() {
    let policy = rules(
        "  - {id: a, match: {host: [api.openai.com], llm: {model: [x]}}, action: allow, handling: inspect}\n",
    );
    let name = host("api.openai.com");
    for (request, expected) in [
        (Seen::NotYet, ReasonCode::NeedsInspection),
        (Seen::Tls, ReasonCode::NeedsInspection),
        (Seen::Never, ReasonCode::NeedsInspection),
    ] {
        let facts = Facts {
            request,
            ..facts(&name, None)
        };
        let coder = agent(&policy, "coder");
        assert!(policy.inspects(coder, &facts));
        assert_eq!(policy.decide(coder, &facts).reason.code, expected);
    }
}

#[test]
fn a_near_miss_says_what_the_rule_asks_of_a_call() {
    let policy = rules(
        "  - {id: a, match: {host: [api.openai.com], llm: {operation: [chat, embeddings], model: [\"gpt-4*\"], tools: [search]}}, action: allow, handling: inspect}\n",
    );
    let name = host("api.openai.com");
    let llm = chat("o3", &["bash"]);
    for (llm, conditions, written) in [
        (None, vec![Condition::Llm], "llm"),
        (
            Some(&llm),
            vec![Condition::Model, Condition::Tools],
            "model [gpt-4*]",
        ),
    ] {
        let facts = facts(&name, llm);
        let considered = policy.explain(agent(&policy, "coder"), &facts);
        assert_eq!(
            considered[0].verdict,
            Consideration::Failed(conditions.clone())
        );
        assert_eq!(considered[0].written(conditions[0]), written);
        assert_eq!(
            considered[0].written(Condition::Operation),
            "operation [chat, embeddings]"
        );
    }
}

#[test]
fn what_is_wrong_with_calls_and_providers_is_told() {
    let head = "version: 1\nagents: [{name: coder}]\n";
    for (text, told) in [
        (
            "rules: [{id: a, action: allow, match: {llm: {max_output_over: 5}}}]",
            "`max_output_over` is for a rule that denies",
        ),
        (
            "rules: [{id: a, action: deny, match: {llm: {operation: [chats]}}}]",
            "`chats` is no operation of a language model\n  hint: did you mean `chat`?",
        ),
        (
            "rules: [{id: a, action: deny, match: {llm: {operation: [\"*\"]}}}]",
            "hint: one of chat, text_completion, embeddings, count_tokens, realtime, transcription, retrieval",
        ),
        (
            "rules: [{id: a, action: deny, match: {llm: {modell: [x]}}}]",
            "unknown key `modell`\n  hint: did you mean `model`?",
        ),
        (
            "rules: [{id: a, action: deny, match: {llm: {model: []}}}]",
            "`model` is empty",
        ),
        (
            "rules: [{id: a, action: deny, match: {llm: {model: [\"\"]}}}]",
            "a pattern has 1 to 1024 bytes",
        ),
        (
            "rules: [{id: a, action: deny, match: {llm: {provider: [api.openai.com/v1]}}}]",
            "its hosts stand under `providers`",
        ),
        (
            "rules: [{id: a, action: deny, match: {protocol: [tls], llm: {}}}]",
            "shows no `llm`",
        ),
        (
            "rules: [{id: a, action: deny, match: {protocol: [websocket], llm: {}}}]",
            "opens no `websocket`",
        ),
        (
            "rules: [{id: a, action: deny, match: {transport: [udp], llm: {}}}]",
            "a rule over `udp` cannot look at requests",
        ),
        (
            "rules: [{id: a, action: allow, match: {llm: {}}, handling: direct}]",
            "`direct` cannot go with what looks at requests",
        ),
        (
            "providers: [{name: Mine, api: openai, hosts: [a.example]}]",
            "`Mine` is not a provider's name",
        ),
        (
            "providers: [{name: mine, api: palm, hosts: [a.example]}]",
            "palm",
        ),
        (
            "providers: [{name: mine, api: openai, hosts: []}]",
            "`hosts` is empty",
        ),
        (
            "providers: [{name: mine, api: openai, hosts: [\"a.*\"]}]",
            "is not a host name",
        ),
        (
            "providers: [{name: a, api: openai, hosts: [a.example]}, {name: b, api: openai, hosts: [a.example]}]",
            "`a.example` has a provider already\n  hint: it is one of `a`",
        ),
        (
            "providers: [{name: a, api: openai, hosts: [a.example]}, {name: a, api: openai, hosts: [b.example]}]",
            "a second provider `a`",
        ),
        (
            "defaults: {not_understood: maybe}",
            "not_understood: unknown value",
        ),
    ] {
        let text = format!("{head}{text}\n");
        let found = compile(&[document(&text)]).expect_err(&text).to_string();
        if told.starts_with("not_understood") {
            assert!(found.contains("maybe"), "{found}");
        } else {
            assert!(found.contains(told), "{text}{found}");
        }
    }
}

#[test]
fn what_was_probably_not_meant_is_warned_of() {
    for (rule, told) in [
        (
            "{id: a, action: deny, match: {llm: {provider: [opennai]}}}",
            "no provider is called `opennai`\n  hint: did you mean `openai`?",
        ),
        (
            "{id: a, action: deny, match: {llm: {provider: [min]}}}",
            "no provider is called `min`\n  hint: did you mean `mine`?",
        ),
        (
            "{id: a, action: deny, match: {host: [other.example], llm: {}}}",
            "no provider answers where this rule is for",
        ),
        (
            "{id: a, action: allow, match: {cidr: [192.0.2.1/32], llm: {}}}",
            "no provider answers where this rule is for",
        ),
    ] {
        let text = format!(
            "version: 1\nagents: [{{name: coder}}]\nproviders: [{{name: mine, api: openai, hosts: [a.mine.example]}}]\nrules: [{rule}]\n"
        );
        let policy = compile(&[document(&text)]).unwrap();
        let warnings: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        assert!(
            warnings.iter().any(|it| it.contains(told)),
            "{rule} {warnings:?}"
        );
    }
    for host in [
        "a.mine.example",
        "\"*.mine.example\"",
        "api.openai.com",
        "\"*.openai.azure.com\"",
    ] {
        let text = format!(
            "version: 1\nagents: [{{name: coder}}]\nproviders: [{{name: mine, api: openai, hosts: [a.mine.example]}}]\nrules: [{{id: a, action: deny, match: {{host: [{host}], llm: {{}}}}}}]\n"
        );
        let policy = compile(&[document(&text)]).unwrap();
        assert_eq!(policy.warnings(), [], "{host}");
    }
    // Two that say the same of tools do not match the same: one that offers none is denied by neither.
    let policy = rules(
        "  - {id: a, match: {host: [api.openai.com], llm: {tools: [x]}}, action: allow, handling: inspect}\n  - {id: d, match: {host: [api.openai.com], llm: {tools: [x]}}, action: deny}\n",
    );
    assert_eq!(policy.warnings(), []);
    let policy = rules(
        "  - {id: a, match: {host: [api.openai.com], llm: {model: [x]}}, action: allow, handling: inspect}\n  - {id: d, match: {host: [api.openai.com], llm: {}}, action: deny}\n",
    );
    assert_eq!(policy.warnings().len(), 1);
}

/// Of a form that is not read the path may name the model: rules for models have that, and all others nothing.
#[test]
fn a_call_of_which_the_model_alone_is_known() {
    let known = Llm {
        model: Some("meta.llama-x".to_owned()),
        ..unread()
    };
    for (says, allowed, denied) in [
        ("{model: [\"meta.*\"]}", Some(ALLOW), DENY),
        ("{model: [\"anthropic.*\"]}", Some(NONE), ALLOW),
        ("{tools: [look]}", Some(NONE), DENY),
        ("{max_output_over: 5}", None, DENY),
    ] {
        if let Some(allowed) = allowed {
            let policy = rules(&format!(
                "  - {{id: a, match: {{host: [api.openai.com], llm: {says}}}, action: allow, handling: inspect}}\n"
            ));
            assert_eq!(code(&policy, Some(&known)), allowed, "{says}");
        }
        let policy = rules(&format!(
            "  - {{id: a, match: {{host: [api.openai.com]}}, action: allow, handling: inspect}}\n  - {{id: d, match: {{host: [api.openai.com], llm: {says}}}, action: deny}}\n"
        ));
        assert_eq!(code(&policy, Some(&known)), denied, "{says}");
    }
}

#[test]
fn what_becomes_of_calls_that_cannot_be_read_is_loaded() {
    let policy = policy(
        "version: 1\ndefaults: {not_understood: allow}\nagents: [{name: coder}, {name: strict, not_understood: deny}]\n",
    );
    let of = |name| agent(&policy, name).not_understood;
    assert_eq!(of("coder"), NotUnderstood::Allow);
    assert_eq!(of("strict"), NotUnderstood::Deny);
    let silent = super::policy("version: 1\nagents: [{name: coder}]\n");
    assert_eq!(agent(&silent, "coder").not_understood, NotUnderstood::Deny);
}

#[test]
fn whom_a_request_says_that_it_is_for_counts_where_the_agent_is_trusted_with_that() {
    use agentguard_model::{Claim, ClaimSource, Context};
    let claim = |source, user: &str, session: Option<&str>| Claim {
        source,
        context: Context {
            user: Some(user.to_owned()),
            session: session.map(str::to_owned),
            ..Context::default()
        },
        trusted: false,
    };
    let claims = [
        claim(ClaimSource::Baggage, "bob", Some("s-1")),
        claim(ClaimSource::Llm, "ann", None),
    ];
    let name = host("api.openai.com");
    let llm = chat("x", &[]);
    for (trusts, run, rule, expected) in [
        // Nobody is believed who need not be.
        ("", None, "user: [ann]", NONE),
        ("", None, "user: [bob]", NONE),
        ("trusts: [llm], ", None, "user: [ann]", ALLOW),
        ("trusts: [llm], ", None, "session: [s-1]", NONE),
        // The first that says so.
        (
            "trusts: [llm, baggage], ",
            None,
            "user: [ann], session: [s-1]",
            ALLOW,
        ),
        ("trusts: [baggage, llm], ", None, "user: [bob]", ALLOW),
        // What the run says stands.
        ("trusts: [llm], ", Some("eve"), "user: [ann]", NONE),
        ("trusts: [llm], ", Some("eve"), "user: [eve]", ALLOW),
    ] {
        let policy = policy(&format!(
            "version: 1\nagents: [{{{trusts}name: coder}}]\nrules:\n  - {{id: a, match: {{host: [api.openai.com], {rule}}}, action: allow}}"
        ));
        let context = Context {
            user: run.map(str::to_owned),
            ..Context::default()
        };
        let mut facts = facts(&name, Some(&llm));
        facts.circumstances.context = &context;
        let Seen::Request(request) = facts.request else {
            panic!("a request");
        };
        facts.request = Seen::Request(Request {
            claims: &claims,
            ..request
        });
        let ruling = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(ruling.reason.code, expected, "{trusts} {rule}");
    }
}

/// What is sent in the place of an answer is as any other call that cannot be read.
#[test]
fn an_expression_on_a_call_in_the_place_of_an_answer_cannot_be_evaluated() {
    let allow = "  - {id: a, match: {host: [api.openai.com]}, action: allow, handling: inspect}\n";
    let sent = Llm {
        operation: LlmOperation::Retrieval,
        ..unread()
    };
    for denial in ["llm.model == 'x'", "'bash' in llm.tools"] {
        let policy = rules(&format!(
            "{allow}  - {{id: d, when: \"{denial}\", action: deny}}\n"
        ));
        assert_eq!(code(&policy, Some(&unread())), ERROR, "{denial}");
        assert_eq!(code(&policy, Some(&sent)), ERROR, "{denial}");
    }
}

/// Of an answer that is fetched, what can be read in two ways is no more read than of another call.
#[test]
fn an_expression_on_an_answer_that_is_fetched_in_two_readings_denies() {
    let allow = "  - {id: a, match: {host: [api.openai.com]}, action: allow, handling: inspect}\n";
    let fetched = Llm {
        operation: LlmOperation::Retrieval,
        model: None,
        max_output_tokens: None,
        ..chat("", &[])
    };
    for (denial, path, query, expected) in [
        (
            "request.query['stream'] == 'true' || llm.stream",
            "/v1/responses/r",
            "stream=true",
            DENY,
        ),
        (
            "request.query['stream'] == 'true' || llm.stream",
            "/v1/responses/r",
            "stream=true&stream=true",
            ERROR,
        ),
        (
            "request.path.startsWith('/secret/') || llm.model == 'x'",
            "/secret/v1/responses/r",
            "",
            DENY,
        ),
        (
            "request.path.startsWith('/secret/') || llm.model == 'x'",
            "/secret%2Fv1/responses/r",
            "",
            ERROR,
        ),
    ] {
        let policy = rules(&format!(
            "{allow}  - {{id: d, when: \"{denial}\", action: deny}}\n"
        ));
        let (name, query) = (host("api.openai.com"), Query::new(query));
        let facts = Facts {
            request: Seen::Request(Request {
                llm: Some(&fetched),
                query: Some(&query),
                ..Request::new("GET", path)
            }),
            ..facts(&name, Some(&fetched))
        };
        let decided = policy.decide(agent(&policy, "coder"), &facts);
        assert_eq!(decided.reason.code, expected, "{denial} {path}");
    }
}
