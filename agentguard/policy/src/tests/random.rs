//! Rules, flows and circumstances by chance, valid whatever the numbers.

use std::fmt::Write;
use std::sync::LazyLock;

use agentguard_model::{Argument, Context, Labels, Llm, LlmOperation, Tool, Transport};
use jiff::Timestamp;
use proptest::prelude::*;

use super::{llm_call, policy};
use crate::{Circumstances, Policy, Switches};

const HOSTS: [&str; 5] = [
    "a.example",
    "*.example",
    "b.a.example",
    "*.a.example",
    "c.test",
];
pub(super) const NAMES: [&str; 4] = ["a.example", "b.a.example", "c.test", "d.test"];
const NETS: [&str; 11] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "0.0.0.0/0",
    "::/0",
    "127.0.0.1/32",
    "127.0.0.0/8",
    "169.254.169.254/32",
    "169.254.0.0/16",
    "64:ff9b::/96",
    "2001:db8::/32",
];
pub(super) const ADDRESSES: [&str; 14] = [
    "64:ff9b::10.1.2.3",
    "2002:a01:203::1",
    "10.1.2.3",
    "10.9.9.9",
    "192.0.2.1",
    "127.0.0.1",
    "127.0.0.2",
    "0.0.0.0",
    "169.254.169.254",
    "64:ff9b::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "::1",
    "2001:db8::1",
    "::ffff:10.1.2.3",
];
const PORTS: [&str; 6] = ["80", "443", "80-443", "8000-8100", "1-65535", "444"];
pub(super) const TRIED_PORTS: [u16; 8] = [1, 79, 80, 443, 444, 445, 8050, 65535];
pub(super) const MODES: [&str; 3] = ["observe", "shadow", "enforce"];
/// What the kernel does not know. The last one cannot be evaluated.
pub(super) const CONDITIONS: [&str; 11] = [
    "    when: request.method == 'GET'\n",
    "    when: switches.lever && agent.name == 'coder'\n",
    "    when: context.user == 'alice' || request.path == '/a/b'\n",
    "    rollout: {percent: 50}\n",
    "      user: [al*]\n",
    "      time: {hours: [\"08:00-18:00\"]}\n",
    "    when: llm.provider != '' && (llm.model == 'm1' || 'a' in llm.tools)\n",
    "    when: llm.operation == 'chat' || request.method == 'GET'\n",
    "    when: tool.name == 't1' || tool.method == 'resources/read'\n",
    "    when: tool.method == 'tools/call' && '/p' in tool.arguments && tool.arguments['/p'] == 'x'\n",
    "    when: agent.labels.none == 'a' || request.headers.none == 'a'\n",
];
const PROTOCOLS: [&str; 6] = [
    "[http]",
    "[websocket]",
    "[http, websocket]",
    "[tls]",
    "[tls, other]",
    "[other]",
];
/// What rules say of calls; the last one is for denials.
const CALLS: [&str; 6] = [
    "{}",
    "{provider: [ours]}",
    "{operation: [chat]}",
    "{model: [\"m*\"]}",
    "{tools: [a, b]}",
    "{max_output_over: 10}",
];
/// What rules say of messages to servers of tools.
const MESSAGES: [&str; 7] = [
    "{}",
    "{server: [files]}",
    "{name: [\"t*\"]}",
    "{name: [t1], arguments: {/p: [\"x*\"]}}",
    "{arguments: {/q: [y]}}",
    "{method: [\"resources/*\"]}",
    "{method: [\"tools/*\", \"sampling/*\"], name: [t1]}",
];
pub(super) const STRATEGIES: [&str; 3] = [
    "deny_overrides",
    "priority_first_match",
    "most_specific_wins",
];

/// A rule as text, valid whatever the numbers.
fn any_rule() -> impl Strategy<Value = String> {
    let pick = |from: &'static [&'static str], most| prop::sample::subsequence(from, 0..=most);
    (
        pick(&HOSTS, 2),
        pick(&NETS, 3),
        pick(&PORTS, 2),
        0u8..3,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.6),
        prop::sample::select(&["splice", "direct", "inspect"][..]),
        prop_oneof![1 => Just("observe"), 1 => Just("shadow"), 4 => Just("enforce")],
        prop::option::weighted(0.2, Just(["127.0.0.0/8", "169.254.169.254/32"])),
        (
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
            -1i32..3,
            prop::option::weighted(0.3, prop::sample::select(&CONDITIONS[..])),
            prop::bool::weighted(0.15),
            prop::option::weighted(0.2, prop::sample::select(&PROTOCOLS[..])),
            prop::option::weighted(0.2, prop::sample::select(&CALLS[..])),
            prop::option::weighted(0.2, prop::sample::select(&MESSAGES[..])),
        ),
    )
        .prop_map(
            |(hosts, nets, ports, transport, method, path, allow, handling, mode, ranges, more)| {
                let (query, over) = (more.0, more.1 && !allow);
                let call = more.6.filter(|it| !allow || !it.contains("over"));
                let parts = method || path || query || over || call.is_some() || more.7.is_some();
                let changes = more.4 && allow;
                let looks = parts || changes || more.3.is_some() || allow && handling == "inspect";
                // What shows no request is for rules that look at none.
                let plain = call.is_none() && more.7.is_none();
                let protocol = more.5.filter(|it| plain || !it.contains("websocket"));
                let protocol = protocol.filter(|it| !looks || !it.contains("tls") && !it.contains("other"));
                let request = parts || changes || more.3.is_some() || protocol.is_some();
                let transport = match transport {
                    _ if request || allow && handling == "inspect" => "tcp",
                    0 => "udp",
                    1 if !allow || handling == "direct" => "tcp, udp",
                    _ => "tcp",
                };
                let mut text = format!(
                    "    priority: {}\n    mode: {mode}\n    match:\n      transport: [{transport}]\n",
                    more.2
                );
                for (key, list) in [("host", &hosts), ("cidr", &nets), ("port", &ports)] {
                    if !list.is_empty() {
                        let list: Vec<_> = list.iter().map(|entry| format!("{entry:?}")).collect();
                        writeln!(text, "      {key}: [{}]", list.join(", ")).unwrap();
                    }
                }
                if let Some(protocol) = protocol {
                    writeln!(text, "      protocol: {protocol}").unwrap();
                }
                if let Some(time) = more.3.filter(|it| it.starts_with("      ")) {
                    text.push_str(time);
                }
                if method {
                    text.push_str("      method: [GET]\n");
                }
                if path {
                    text.push_str("      path: [\"/a/**\"]\n");
                }
                if query {
                    text.push_str("      query: {a: [b, \"c*\"]}\n");
                }
                if let Some(call) = call {
                    writeln!(text, "      llm: {call}").unwrap();
                }
                if let Some(message) = more.7 {
                    writeln!(text, "      tool: {message}").unwrap();
                }
                if over {
                    text.push_str("      body_over: 10\n");
                }
                if let Some(condition) = more.3.filter(|it| !it.starts_with("      ")) {
                    text.push_str(condition);
                }
                if !allow {
                    text.push_str("    action: deny\n");
                    return text;
                }
                if more.4 {
                    text.push_str("    action: modify\n    modify: {headers: {drop: [cookie]}}\n");
                } else {
                    text.push_str("    action: allow\n");
                }
                // What is absent means `splice`, or `direct` for datagrams.
                if handling == "inspect" || handling == "direct" && !request {
                    writeln!(text, "    handling: {handling}").unwrap();
                }
                if let (Some(ranges), true) = (ranges, nets.is_empty() || !hosts.is_empty()) {
                    writeln!(text, "    resolved_ranges: [{}]", ranges.join(", ")).unwrap();
                }
                text
            },
        )
}

pub(super) fn any_rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any_rule(), 0..7)
}

/// A policy of numbered rules. The second half of them is for the agent by name.
pub(super) fn compiled(rules: &[(usize, &String)], mode: &str) -> Policy {
    compiled_with(rules, mode, "deny_overrides")
}

pub(super) fn compiled_with(rules: &[(usize, &String)], mode: &str, strategy: &str) -> Policy {
    let mut text = format!(
        "version: 1\nstrategy: {strategy}\nswitches: {{lever: false}}\nagents:\n  - {{name: coder, mode: {mode}, not_understood: allow}}\nrules:\n"
    );
    for (n, rule) in rules {
        writeln!(text, "  - id: r{n}").unwrap();
        if n % 2 == 1 {
            text.push_str("    agents: [coder]\n");
        }
        for line in rule.lines() {
            if strategy == "priority_first_match" || !line.contains("priority") {
                writeln!(text, "{line}").unwrap();
            }
        }
    }
    if rules.is_empty() {
        text.push_str("  []\n");
    }
    policy(&text)
}

pub(super) fn numbered(rules: &[String]) -> Vec<(usize, &String)> {
    rules.iter().enumerate().collect()
}

/// On whose behalf and when: a few that make a difference.
pub(super) fn circumstances() -> impl Strategy<Value = Circumstances<'static>> {
    static CONTEXTS: LazyLock<[Context; 3]> = LazyLock::new(|| {
        [None, Some("alice"), Some("bob")].map(|user| Context {
            user: user.map(str::to_owned),
            ..Context::default()
        })
    });
    static SWITCHES: LazyLock<Switches> = LazyLock::new(|| {
        let mut switches = Switches::default();
        switches.set("lever", true);
        switches
    });
    static LABELS: LazyLock<[Labels; 3]> = LazyLock::new(|| {
        [None, Some("ops"), Some("web")].map(|team| {
            let team = team.map(|team| ("team".to_owned(), team.to_owned()));
            team.into_iter().collect()
        })
    });
    let numbers = (0usize..3, any::<bool>(), 0i64..24, 0u32..4, 0usize..3);
    numbers.prop_map(|(user, lever, hour, run, team)| {
        let circumstances = Circumstances {
            context: &CONTEXTS[user],
            labels: &LABELS[team],
            run,
            time: Timestamp::from_second(hour * 3600).unwrap(),
            ..Circumstances::NOBODY
        };
        match lever {
            true => Circumstances {
                switches: &SWITCHES,
                ..circumstances
            },
            false => circumstances,
        }
    })
}

/// A call of a language model, or none.
pub(super) fn call() -> impl Strategy<Value = Option<&'static Llm>> {
    static CALLS: LazyLock<[Llm; 6]> = LazyLock::new(|| {
        let chat = |model: &str, most, tools: &[&str]| Llm {
            max_output_tokens: most,
            tools: tools.iter().map(|&tool| tool.to_owned()).collect(),
            ..llm_call("ours", Some(model))
        };
        let unread = |operation| Llm {
            operation,
            model: None,
            not_understood: Some("cut".to_owned()),
            ..chat("", None, &[])
        };
        [
            chat("m1", Some(5), &["a"]),
            chat("M2", Some(20), &["a", "c"]),
            chat("x", None, &[]),
            Llm {
                operation: LlmOperation::Embeddings,
                ..chat("m1", None, &[])
            },
            unread(LlmOperation::Chat),
            unread(LlmOperation::Embeddings),
        ]
    });
    prop::option::weighted(0.7, 0usize..6).prop_map(|n| n.map(|n| &CALLS[n]))
}

/// A message to a server of tools, or none.
pub(super) fn message() -> impl Strategy<Value = Option<&'static Tool>> {
    static MESSAGES: LazyLock<[Tool; 7]> = LazyLock::new(|| {
        let asks = |method: &str| Tool {
            server: "files".to_owned(),
            method: Some(method.to_owned()),
            ..Tool::default()
        };
        let call = |name: &str, values: &[(&str, &str)]| Tool {
            name: Some(name.to_owned()),
            values: values
                .iter()
                .map(|(pointer, value)| Argument {
                    pointer: (*pointer).to_owned(),
                    values: vec![(*value).to_owned()],
                })
                .collect(),
            ..asks("tools/call")
        };
        [
            call("t1", &[("/p", "x1"), ("/q", "y")]),
            call("T1", &[("/P", "X")]),
            call("t2", &[("/p", "x"), ("/P", "z")]),
            asks("initialize"),
            asks("resources/read"),
            Tool {
                method: None,
                answers: vec!["sampling/createMessage".to_owned()],
                ..asks("")
            },
            Tool {
                method: None,
                not_understood: Some("cut".to_owned()),
                ..asks("")
            },
        ]
    });
    prop::option::weighted(0.7, 0usize..7).prop_map(|n| n.map(|n| &MESSAGES[n]))
}

pub(super) fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)]
}
