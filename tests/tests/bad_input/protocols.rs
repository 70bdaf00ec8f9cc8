//! Malformed DNS, TLS and HTTP from an agent: refused or closed, one decision each, and the next
//! request works.

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_tests::{Guard, Puppet, address};
use serde_json::json;

use super::{SITE, processes, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: api
    match: {host: [api.example.com], port: [80], method: [GET, POST]}
    action: allow
  - id: tls
    match: {host: [api.example.com], port: [443]}
    action: allow
";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Waits for exactly one more attempt in the record, and gives its decision: a new one, or one that
/// stands for many of its kind and has counted it.
fn one_more(guard: &Guard<'_>, before: &[Decision], what: &str) -> Decision {
    let attempts =
        |decisions: &[Decision]| -> u64 { decisions.iter().map(|decision| decision.count).sum() };
    let after = guard
        .wait_verdicts(what, |decisions| {
            (attempts(decisions) > attempts(before)).then(|| decisions.to_vec())
        })
        .unwrap();
    assert_eq!(attempts(&after), attempts(before) + 1, "{what}: {after:#?}");
    let changed = after.iter().find(|decision| {
        let old = before.iter().find(|old| old.id == decision.id);
        old.is_none_or(|old| old.count != decision.count)
    });
    let changed = changed.unwrap();
    assert_eq!(changed.verdict, Verdict::Deny, "{what}: {changed:#?}");
    assert!(changed.enforced, "{what}: {changed:#?}");
    changed.clone()
}

fn address_of(client: &mut Puppet) -> String {
    let found = client.ask(&format!("resolve('{SITE}', 4)")).unwrap();
    found[0].as_str().unwrap().to_owned()
}

#[test]
fn http_that_two_readers_could_read_differently_is_refused() {
    let world = world("smuggling");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let dialled = address_of(&mut client);
    let running = processes(&guard);
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: {SITE}\r\n\r\n");
    let post = |fields: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: {SITE}\r\n{fields}\r\n\r\n{body}{hidden}")
    };
    let with = |start: &str, fields: &str| format!("{start} HTTP/1.1\r\n{fields}\r\n\r\n");
    use ReasonCode::{HttpMalformed, NameMismatch};
    let samples = [
        (
            "both lengths",
            post(
                "Content-Length: 4\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
            HttpMalformed,
        ),
        (
            "two lengths",
            post("Content-Length: 0\r\nContent-Length: 9", ""),
            HttpMalformed,
        ),
        (
            "a list of lengths",
            post("Content-Length: 0, 9", ""),
            HttpMalformed,
        ),
        (
            "a signed length",
            post("Content-Length: +0", ""),
            HttpMalformed,
        ),
        (
            "a negative length",
            post("Content-Length: -1", ""),
            HttpMalformed,
        ),
        (
            "a hexadecimal length",
            post("Content-Length: 0x0", ""),
            HttpMalformed,
        ),
        (
            "an unknown coding",
            post("Transfer-Encoding: xchunked", "0\r\n\r\n"),
            HttpMalformed,
        ),
        (
            "chunked, and then another",
            post("Transfer-Encoding: chunked, identity", "0\r\n\r\n"),
            HttpMalformed,
        ),
        (
            "a space before the colon",
            post("Content-Length : 0", ""),
            HttpMalformed,
        ),
        (
            "a folded line",
            post("X: a\r\n Content-Length: 9", ""),
            HttpMalformed,
        ),
        (
            "a bare CR",
            post("X: a\rContent-Length: 9", ""),
            HttpMalformed,
        ),
        ("a NUL", post("X: a\0b", ""), HttpMalformed),
        ("a name that is none", post("X(Y): a", ""), HttpMalformed),
        (
            "two hosts",
            with("GET /", &format!("Host: {SITE}\r\nHost: www.other.example")),
            HttpMalformed,
        ),
        ("no host", with("GET /", "X: y"), HttpMalformed),
        (
            "another host",
            with("GET /", "Host: www.other.example\r\nConnection: close"),
            NameMismatch,
        ),
        (
            "two hosts, one of them in the target",
            with(
                "GET http://www.other.example/",
                &format!("Host: {SITE}\r\nConnection: close"),
            ),
            HttpMalformed,
        ),
        (
            "HTTP/2 in the clear, and then something else",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n".to_owned(),
            HttpMalformed,
        ),
        (
            "a head without end",
            with(
                "GET /",
                &format!("Host: {SITE}\r\nX: {}", "x".repeat(70_000)),
            ),
            HttpMalformed,
        ),
    ];
    for (what, text, code) in samples {
        let before = guard.verdicts().unwrap();
        let told = client
            .ask(&format!(
                "talk('{dialled}', 80, '{}')",
                hex(text.as_bytes())
            ))
            .unwrap();
        assert!(told.is_array(), "{what}: {told}");
        let answer = told[0].as_str().unwrap();
        assert!(!answer.contains(" 200 "), "{what}: {told}");
        // HTTP/2 says it in a frame of its own.
        let in_words = !text.starts_with("PRI ");
        if in_words {
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(["400", "421", "431"].contains(&status), "{what}: {told}");
        }
        let decision = one_more(&guard, &before, what);
        assert_eq!(decision.reason.code, code, "{what}: {decision:#?}");
        if in_words {
            assert!(answer.contains(&decision.id.to_string()), "{what}: {told}");
        }
    }
    let origin = world.origin(SITE).unwrap();
    assert_eq!(origin.log().requests().unwrap(), []);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    assert_eq!(processes(&guard), running);
    assert_eq!(world.canary().unwrap(), 0);
}

#[test]
fn a_client_hello_that_is_none_is_refused_and_one_in_pieces_is_read() {
    let world = world("hello");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let dialled = address_of(&mut client);
    let running = processes(&guard);
    let hello = client
        .ask(&format!("client_hello('{SITE}').hex()"))
        .unwrap();
    let hello = hello.as_str().unwrap();
    let half = &hello[..hello.len() / 4 * 2];
    let other = client
        .ask("client_hello('www.other.example').hex()")
        .unwrap();
    let other = other.as_str().unwrap();
    use ReasonCode::{NameMismatch, TlsMalformed};
    for (what, sent, finish, code) in [
        (
            "a body that is too short",
            "16030100050100000100",
            false,
            TlsMalformed,
        ),
        (
            "a record of 64 KiB",
            "160301ffff0100fffb",
            false,
            TlsMalformed,
        ),
        (
            "an empty record",
            "1603010000160301000401000000",
            false,
            TlsMalformed,
        ),
        (
            "a server's hello",
            "160301000602000002ffff",
            false,
            TlsMalformed,
        ),
        ("a hello that ends in the middle", half, true, TlsMalformed),
        ("another name", other, false, NameMismatch),
    ] {
        let before = guard.verdicts().unwrap();
        let finish = if finish { "True" } else { "False" };
        client
            .ask(&format!("talk('{dialled}', 443, '{sent}', {finish})"))
            .unwrap();
        let decision = one_more(&guard, &before, what);
        assert_eq!(decision.reason.code, code, "{what}: {decision:#?}");
        assert_eq!(decision.action.kind, ActionKind::Connect, "{what}");
    }
    let origin = world.origin(SITE).unwrap();
    assert_eq!(origin.log().connections().unwrap(), []);

    // Each byte in a packet of its own: no reader may count on one read.
    client.gives(
        &format!("tcp('c', '{dialled}', 443)"),
        json!([dialled, 443]),
    );
    client.gives(&format!("piecemeal('c', bytes.fromhex('{hello}'))"), "sent");
    client.gives("of('c').recv(1)[0]", 0x16);
    let log = origin.log().connections().unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].received, u64::try_from(hello.len() / 2).unwrap());
    assert_eq!(processes(&guard), running);
}

#[test]
fn dns_that_is_none_is_refused_and_the_next_question_answered() {
    let world = world("dns");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    let running = processes(&guard);
    let server = address::NAME_SERVER[0];
    let header = |flags: &str, questions: &str| format!("1234{flags}{questions}000000000000");
    let name = "03617069076578616d706c6503636f6d00";
    use ReasonCode::{DnsMalformed, DnsNotSupported};
    let samples = [
        ("one byte", "00".to_owned(), DnsMalformed),
        ("half a header", "12340100".to_owned(), DnsMalformed),
        ("no question in it", header("0100", "0000"), DnsMalformed),
        ("65535 questions", header("0100", "ffff"), DnsMalformed),
        (
            "two questions",
            header("0100", "0002") + name + "00010001" + name + "001c0001",
            DnsMalformed,
        ),
        (
            "a name that points at itself",
            header("0100", "0001") + "c00c00010001",
            DnsMalformed,
        ),
        (
            "a label that is cut off",
            header("0100", "0001") + "3f6161",
            DnsMalformed,
        ),
        (
            "another class",
            header("0100", "0001") + name + "00010003",
            DnsNotSupported,
        ),
        (
            "another opcode",
            header("2000", "0001") + name + "00060001",
            DnsNotSupported,
        ),
        (
            "a zone transfer",
            header("0100", "0001") + name + "00fc0001",
            DnsNotSupported,
        ),
    ];
    client.gives(&format!("udp('u', '{server}')"), "made");
    client.gives("of('u').settimeout(1)", json!(null));
    for (what, message, code) in &samples {
        let before = guard.verdicts().unwrap();
        let send = format!("of('u').sendto(bytes.fromhex('{message}'), ('{server}', 53))");
        client.gives(&send, message.len() / 2);
        let decision = one_more(&guard, &before, what);
        assert_eq!(decision.reason.code, *code, "{what}: {decision:#?}");
        assert_eq!(decision.action.kind, ActionKind::DnsQuery, "{what}");
        // An answer is an error, and nothing more.
        let answer = client.ask("hear_from('u')").unwrap();
        if answer != json!({"error": "timeout"}) {
            assert_eq!(answer[1], server.to_string(), "{what}: {answer}");
        }

        let before = guard.verdicts().unwrap();
        let framed = format!("{:04x}{message}", message.len() / 2);
        let talk = format!("talk('{server}', 53, '{framed}', True)");
        client.ask(&talk).unwrap();
        let decision = one_more(&guard, &before, &format!("{what} over TCP"));
        assert_eq!(decision.reason.code, *code, "{what}: {decision:#?}");
    }
    // A length that promises more than comes.
    let told = client.ask(&format!("talk('{server}', 53, 'ffff12', True)"));
    assert_eq!(told.unwrap()[0], "");
    assert_eq!(world.dns().queries().unwrap(), []);
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    assert_eq!(processes(&guard), running);
}
