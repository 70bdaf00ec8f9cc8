//! How many allocations a decision makes, exactly: it depends on what is told, and not on how many rules
//! there are.
//!
//! To find the rules costs none, but where one looks into a query, which is read then, at a header field, or has an expression. The
//! others are the decision's sentence, as it grows, and the rules that it lists, each with its engine, its id and its
//! file. A number here that goes up is a loss of speed that nobody would feel otherwise; one that goes down is
//! written down as well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write as _;

use agentguard_model::{HostName, Transport};
use agentguard_policy::{
    Circumstances, Document, Facts, Policy, Query, Request, Ruling, RulingOutcome, Seen, compile,
};
use http::{HeaderMap, HeaderValue};

/// The system's, counting what each thread asks of it.
struct Counting;

thread_local! {
    /// Without a destructor, so that it can be used as long as its thread lives.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    ASKED.with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: everything is handed on as it came to the system's allocator, which keeps the contract; counting
// touches no memory but a number of this thread's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: our caller keeps what `alloc` asks of its callers.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: our caller keeps what `alloc_zeroed` asks of its callers.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: our caller keeps what `realloc` asks of its callers, and the pointer is the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: our caller keeps what `dealloc` asks of its callers, and the pointer is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the cases are about: as many further rules as are wanted come behind.
const RULES: &str = "\
version: 1
agents: [{name: coder}, {name: newcomer, mode: shadow}]
rules:
  - {id: site, match: {host: [site.example.com], port: [443]}, action: allow}
  - {id: tree, match: {host: [\"*.tree.example.com\"]}, action: allow}
  - {id: database, match: {cidr: [192.0.2.0/24], port: [5432]}, action: allow, handling: direct}
  - {id: read, match: {host: [api.example.com], port: [443], method: [GET], path: [/v1/**]},
     action: allow, handling: inspect}
  - id: search
    match: {host: [api.example.com], port: [443], method: [POST], path: [/v1/search],
            query: {kind: [\"web*\"]}, header: {content-type: [application/json]}}
    action: allow
    handling: inspect
  - {id: admin, match: {host: [api.example.com], path: [/v1/admin/**]}, action: deny}
  - {id: expressed, match: {host: [cel.example.com], port: [443]}, action: allow, handling: inspect,
     when: \"request.method == 'GET' && request.path.startsWith('/v1/')\"}
  - {id: weekends, match: {host: [cel.example.com], method: [GET], time: {days: [sat-sun]}}, action: deny}
  - {id: closed, match: {host: [\"*.paste.example.net\"]}, action: deny, reason: \"Paste sites are closed.\"}
";
/// How many rules that text has.
const WRITTEN: usize = 9;

fn policy(rules: usize) -> Policy {
    let mut text = RULES.to_owned();
    for n in WRITTEN..rules {
        let line = match n % 4 {
            0 => format!("match: {{host: [svc-{n}.example.org], port: [443]}}, action: allow"),
            1 => format!("match: {{host: [\"*.svc-{n}.example.org\"]}}, action: allow"),
            2 => format!(
                "match: {{host: [svc-{n}.example.org], method: [GET]}}, action: allow, handling: inspect"
            ),
            _ => format!(
                "match: {{cidr: [10.{}.{}.0/24]}}, action: deny",
                n / 256,
                n % 256
            ),
        };
        writeln!(text, "  - {{id: r{n}, {line}}}").unwrap();
    }
    let document = Document {
        path: "p.yaml".to_owned(),
        text,
    };
    let policy = compile(&[document]).unwrap();
    assert_eq!(policy.rules().len(), rules);
    policy
}

struct Case {
    name: &'static str,
    agent: &'static str,
    host: Option<&'static str>,
    ip: Option<&'static str>,
    port: u16,
    request: Option<(&'static str, &'static str, &'static str)>,
    never: bool,
    outcome: Outcome,
    allocations: usize,
}

#[derive(Debug, Eq, PartialEq)]
enum Outcome {
    Allow,
    Deny,
    Undecided,
}

const FLOW: Case = Case {
    name: "",
    agent: "coder",
    host: None,
    ip: None,
    port: 443,
    request: None,
    never: false,
    outcome: Outcome::Deny,
    allocations: 0,
};

const CASES: &[Case] = &[
    Case {
        name: "a name that a rule allows",
        host: Some("site.example.com"),
        outcome: Outcome::Allow,
        allocations: 7,
        ..FLOW
    },
    Case {
        name: "the same, with its address",
        host: Some("site.example.com"),
        ip: Some("203.0.113.7"),
        outcome: Outcome::Allow,
        allocations: 7,
        ..FLOW
    },
    Case {
        name: "a name below one that a rule allows",
        host: Some("a.b.tree.example.com"),
        outcome: Outcome::Allow,
        allocations: 7,
        ..FLOW
    },
    Case {
        name: "an address that a rule allows",
        ip: Some("192.0.2.9"),
        port: 5432,
        outcome: Outcome::Allow,
        allocations: 7,
        ..FLOW
    },
    Case {
        name: "a request that a rule allows",
        host: Some("api.example.com"),
        request: Some(("GET", "/v1/things/7", "")),
        outcome: Outcome::Allow,
        allocations: 9,
        ..FLOW
    },
    Case {
        name: "a request that a rule allows by its query and a field",
        host: Some("api.example.com"),
        request: Some(("POST", "/v1/search", "kind=web-pages&q=a")),
        outcome: Outcome::Allow,
        allocations: 41,
        ..FLOW
    },
    Case {
        name: "a request that an expression allows, and the time does not deny",
        host: Some("cel.example.com"),
        request: Some(("GET", "/v1/things/7", "")),
        outcome: Outcome::Allow,
        allocations: 17,
        ..FLOW
    },
    Case {
        name: "a request that an expression does not allow",
        host: Some("cel.example.com"),
        request: Some(("GET", "/v2/things/7", "")),
        allocations: 12,
        ..FLOW
    },
    Case {
        name: "a request that one rule allows and another denies",
        host: Some("api.example.com"),
        request: Some(("GET", "/v1/admin/users", "")),
        allocations: 12,
        ..FLOW
    },
    Case {
        name: "a name that a rule denies in words of its own",
        host: Some("www.paste.example.net"),
        allocations: 5,
        ..FLOW
    },
    Case {
        name: "a name without a rule",
        host: Some("example.test"),
        allocations: 2,
        ..FLOW
    },
    Case {
        name: "a port without a rule",
        host: Some("site.example.com"),
        port: 22,
        allocations: 2,
        ..FLOW
    },
    Case {
        name: "an address without a rule",
        ip: Some("203.0.113.7"),
        allocations: 2,
        ..FLOW
    },
    Case {
        name: "a request without a rule",
        host: Some("api.example.com"),
        request: Some(("DELETE", "/v1/things/7", "")),
        allocations: 4,
        ..FLOW
    },
    Case {
        name: "a flow that depends on its requests",
        host: Some("api.example.com"),
        outcome: Outcome::Undecided,
        allocations: 11,
        ..FLOW
    },
    Case {
        name: "a flow that depends on requests and shows none",
        host: Some("api.example.com"),
        never: true,
        allocations: 5,
        ..FLOW
    },
    Case {
        name: "a metadata service",
        ip: Some("169.254.169.254"),
        port: 80,
        allocations: 2,
        ..FLOW
    },
    Case {
        name: "a name without a rule, in shadow mode",
        agent: "newcomer",
        host: Some("example.test"),
        outcome: Outcome::Allow,
        allocations: 2,
        ..FLOW
    },
];

/// Decides one case and counts.
fn decided(policy: &Policy, case: &Case) -> (Ruling, usize) {
    let agent = policy.agent(&case.agent.parse().unwrap()).unwrap();
    let host: Option<HostName> = case.host.map(|host| host.parse().unwrap());
    let ip = case.ip.map(|ip| ip.parse().unwrap());
    let mut fields = HeaderMap::new();
    fields.insert("accept", HeaderValue::from_static("*/*"));
    fields.insert("content-type", HeaderValue::from_static("application/json"));
    let query = case.request.map(|(_, _, query)| Query::new(query));
    let request = match case.request {
        Some((method, path, _)) => Seen::Request(Request {
            query: query.as_ref(),
            fields: Some(&fields),
            ..Request::new(method, path)
        }),
        None if case.never => Seen::Never,
        None => Seen::NotYet,
    };
    let facts = Facts {
        host: host.as_ref(),
        ip,
        port: case.port,
        transport: Transport::Tcp,
        request,
        circumstances: Circumstances::NOBODY,
    };
    let before = ASKED.get();
    let ruling = policy.decide(agent, &facts);
    let asked = ASKED.get() - before;
    (ruling, asked)
}

#[test]
fn a_decision_allocates_what_it_did_whatever_the_number_of_rules() {
    let mut wrong = String::new();
    for rules in [10, 1_000] {
        let policy = policy(rules);
        for case in CASES {
            let (ruling, asked) = decided(&policy, case);
            let outcome = match ruling.outcome {
                RulingOutcome::Allow(_) => Outcome::Allow,
                RulingOutcome::Deny => Outcome::Deny,
                RulingOutcome::Undecided => Outcome::Undecided,
            };
            assert_eq!(outcome, case.outcome, "{}: {ruling:?}", case.name);
            if asked != case.allocations {
                let (name, known) = (case.name, case.allocations);
                writeln!(wrong, "{rules} rules, {name}: {asked}, not {known}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "allocations of a decision:\n{wrong}");
}

#[test]
fn what_is_allocated_is_counted() {
    let before = ASKED.get();
    let text = std::hint::black_box("seven".to_owned());
    let mut list = std::hint::black_box(vec![text]);
    list.reserve_exact(100);
    assert_eq!(ASKED.get() - before, 3);
}
