//! Broken calls of language models and of tools, and broken answers: refused for one agent and passed as they came for
//! another, as the policy says; recorded for both; and the daemon's processes go on.

use agentguard_model::{Action, Decision, Layer, ReasonCode, Verdict};
use agentguard_tests::{Guard, Origin, Puppet, World, address};

use super::protocols::hex;
use super::{processes, puppet};

const SITE: &str = "api.example.com";
const BEDROCK: &str = "bedrock.example.com";

const POLICY: &str = "
version: 1
agents:
  - {name: coder}
  - {name: trial, not_understood: allow}
providers:
  - {name: ours, api: openai, hosts: [api.example.com]}
  - {name: aws, api: bedrock, hosts: [bedrock.example.com]}
tool_servers:
  - {name: files, api: mcp, hosts: [api.example.com], paths: [/mcp]}
  - {name: chain, api: json_rpc, hosts: [api.example.com], paths: [/rpc]}
  - {name: code, api: graphql, hosts: [api.example.com], paths: [/graphql]}
  - {name: planner, api: a2a, hosts: [api.example.com], paths: ['/planner/**']}
rules:
  - {id: all, match: {host: ['*.example.com'], port: [80]}, action: allow}
  - {id: shell, agents: [coder], match: {host: ['*.example.com'], llm: {tool_calls: [shell]}}, action: deny, reason: No shell.}
";

fn world(name: &str) -> World {
    let origin = Origin::at(&address::origin(0x10));
    let origin = origin.site(SITE).site(BEDROCK);
    World::new(name).origin(origin).start().unwrap()
}

fn why(action: &Action) -> Option<&str> {
    let of_call = action.llm.as_ref().map(|it| &it.not_understood);
    let of_tool = action.tool.as_ref().map(|it| &it.not_understood);
    of_call.or(of_tool)?.as_deref()
}

/// What was decided on requests.
fn requests(decisions: &[Decision]) -> Vec<Decision> {
    let requests = decisions.iter();
    let requests = requests.filter(|it| it.layer == Layer::Proxy);
    requests.cloned().collect()
}

/// How often that was.
fn attempts(decisions: &[Decision]) -> u64 {
    decisions.iter().map(|it| it.count).sum()
}

/// A client at work, and what it is told.
struct Client<'g> {
    guard: &'g Guard<'g>,
    puppet: Puppet,
}

impl<'g> Client<'g> {
    fn of(world: &World, guard: &'g Guard<'g>, agent: &str) -> Self {
        let puppet = puppet(world, guard, agent);
        Self { guard, puppet }
    }

    /// Sends bytes to a host, and gives what comes back, and what was decided meanwhile, once it is so many and each that
    /// was allowed has ended.
    fn talks(&mut self, host: &str, sent: &[u8], count: u64) -> (String, Vec<Decision>) {
        let found = self.puppet.ask(&format!("resolve('{host}', 4)")).unwrap();
        let dialled = found[0].as_str().unwrap().to_owned();
        let before = requests(&self.guard.verdicts().unwrap());
        let talk = format!("talk('{dialled}', 80, '{}')", hex(sent));
        let told = self.puppet.ask(&talk).unwrap();
        let told = told[0].as_str().unwrap().to_owned();
        let decided = self.guard.wait_verdicts("the decisions", |all| {
            let ended = |it: &Decision| it.verdict == Verdict::Deny || it.outcome.is_some();
            let all = requests(all);
            let enough = attempts(&all) >= attempts(&before) + count;
            (enough && all.iter().all(ended)).then_some(all)
        });
        let decided = decided.unwrap();
        assert_eq!(attempts(&decided), attempts(&before) + count, "{told}");
        let changed = decided.into_iter().filter(|it| {
            let old = before.iter().find(|old| old.id == it.id);
            old.is_none_or(|old| old.count != it.count)
        });
        (told, changed.collect())
    }
}

fn post(host: &str, path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{fields}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn calls_that_cannot_be_read_are_refused_or_passed_as_the_policy_says() {
    let world = world("bad-calls");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let running = processes(&guard);
    let nested = "[".repeat(200_000);
    let mut samples: Vec<(&str, Vec<u8>)> = Vec::new();
    for path in [
        "/v1/chat/completions",
        "/v1/responses",
        "/mcp",
        "/rpc",
        "/graphql",
        "/planner/",
    ] {
        let broken: [&[u8]; 6] = [
            b"{",
            b"",
            b"\xff\xfe\x00{}",
            b"{\"model\":\"a\",\"model\":\"b\",\"jsonrpc\":\"2.0\",\"method\":\"x\",\"query\":\"{a}\"}",
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xc3\x28\",\"model\":\"\xc3\x28\",\"query\":\"\xc3\x28\"}",
            nested.as_bytes(),
        ];
        samples.extend(broken.map(|body| (path, body.to_vec())));
    }
    let mut coder = Client::of(&world, &guard, "coder");
    let mut trial = Client::of(&world, &guard, "trial");
    let origin = world.origin(SITE).unwrap();
    for (path, body) in &samples {
        let what = format!("{path} {:.40}", String::from_utf8_lossy(body));
        let sent = post(SITE, path, "", body);
        let arrived = || origin.log().requests().unwrap().len();
        let before = arrived();
        let (told, decided) = coder.talks(SITE, &sent, 1);
        assert_eq!(decided[0].reason.code, ReasonCode::NotUnderstood, "{what}");
        assert!(decided[0].enforced, "{what}");
        assert!(why(&decided[0].action).is_some(), "{what}: {decided:#?}");
        assert!(told.contains(&decided[0].id.to_string()), "{what}: {told}");
        assert_eq!(arrived(), before, "{what}: it left");

        let (_, decided) = trial.talks(SITE, &sent, 1);
        assert_eq!(decided[0].verdict, Verdict::Allow, "{what}");
        assert!(why(&decided[0].action).is_some(), "{what}: {decided:#?}");
        let requests = origin.log().requests().unwrap();
        assert_eq!(requests.len(), before + 1, "{what}");
        assert_eq!(requests[before].body, body.len() as u64, "{what}");
    }
    assert_eq!(processes(&guard), running);
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn answers_that_cannot_be_read_are_refused_where_a_rule_looks_into_them() {
    let world = world("bad-answers");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let running = processes(&guard);
    let chat: (&str, &str) = (SITE, "/v1/chat/completions");
    let converse: (&str, &str) = (BEDROCK, "/model/m/converse-stream");
    let aws = "application/vnd.amazon.eventstream";
    let bytes = |text: &str| text.as_bytes().to_vec();
    // A message of AWS's has two lengths and a checksum at its beginning.
    let long = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let samples: [(&str, _, &str, Vec<u8>); 8] = [
        ("no JSON", chat, "application/json", bytes("{")),
        (
            "twice",
            chat,
            "application/json",
            bytes(r#"{"choices":[],"choices":[]}"#),
        ),
        (
            "bytes",
            chat,
            "application/json",
            vec![0xff, 0xfe, 0x00, 0x80],
        ),
        ("nested", chat, "application/json", bytes(&"[".repeat(3000))),
        (
            "no event",
            chat,
            "text/event-stream",
            bytes("data: {\"choices\":\n\n"),
        ),
        (
            "no line",
            chat,
            "text/event-stream",
            bytes("x\u{2028}data: {}\n\ndata\n: \n\n"),
        ),
        ("no message", converse, aws, long.to_vec()),
        (
            "a wrong checksum",
            converse,
            aws,
            vec![0, 0, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
    ];
    let mut coder = Client::of(&world, &guard, "coder");
    let mut trial = Client::of(&world, &guard, "trial");
    for (what, (host, path), kind, answer) in samples {
        let fields = format!("X-Answer: {kind} {}\r\n", hex(&answer));
        let sent = post(host, path, &fields, br#"{"model":"m","messages":[]}"#);
        // The call, and what its answer may ask for.
        let (_, decided) = coder.talks(host, &sent, 2);
        let denied = decided.iter().find(|it| it.verdict == Verdict::Deny);
        let denied = denied.unwrap_or_else(|| panic!("{what}: {decided:#?}"));
        assert_eq!(denied.reason.code, ReasonCode::RuleDeny, "{what}");
        assert!(denied.action.llm.as_ref().unwrap().asks_unread, "{what}");
        let call = decided.iter().find(|it| it.verdict == Verdict::Allow);
        let outcome = call.unwrap().outcome.as_ref().unwrap();
        assert!(
            outcome
                .error
                .as_deref()
                .unwrap()
                .starts_with("ended by decision "),
            "{what}"
        );

        let (told, decided) = trial.talks(host, &sent, 1);
        let content = told.split_once("\r\n\r\n").unwrap().1;
        // As the client's end shows them.
        assert!(
            content.contains(&*String::from_utf8_lossy(&answer)),
            "{what}: {told:?}"
        );
        let outcome = decided[0].outcome.as_ref().unwrap();
        let said = outcome.llm.as_ref().unwrap();
        assert!(said.not_understood.is_some(), "{what}: {outcome:#?}");
    }
    assert_eq!(processes(&guard), running);
    assert_eq!(world.canary().unwrap(), 0);
}
