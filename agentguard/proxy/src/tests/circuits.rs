//! Circuits of upstreams: whose failure one is.

use agentguard_model::{ActionKind, Decision, ReasonCode, Verdict};
use agentguard_policy::{Document, compile};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::http::read_response;
use super::websocket::{frame, masked};
use super::{Rules, World, by_name, codes, read_until, turns, write};

/// One failure opens the circuit of the upstream, for an hour.
const POLICY: &str = "version: 1
providers: [{ name: ours, api: openai, hosts: [api.example] }]
tool_servers: [{ name: files, api: mcp, hosts: [api.example], paths: [/mcp] }]
agents: [{ name: tester }]
rules:
  - { id: all, action: allow, handling: inspect, resolved_ranges: [127.0.0.0/8], match: { host: [api.example] } }
breakers: [{ id: up, circuit: upstream, failures: 1, of: 1, wait: WAIT, probes: 1 }]
";

async fn world(wait: &str) -> World {
    let world = by_name(Rules::Inspect).build().await;
    let document = Document {
        path: "policy.yaml".to_owned(),
        text: POLICY.replace("WAIT", wait),
    };
    let policy = compile(&[document]).unwrap_or_else(|it| panic!("{it}"));
    world.policies.put(2, policy);
    world
}

const ALLOWED: (Verdict, ReasonCode) = (Verdict::Allow, ReasonCode::RuleAllow);
const OPEN: (Verdict, ReasonCode) = (Verdict::Deny, ReasonCode::CircuitOpen);

const GET: &str = "GET /ok HTTP/1.1\r\nHost: api.example\r\n\r\n";

/// Servers give up on who sends too slowly; agents could open a circuit for all with that.
#[tokio::test]
async fn a_client_that_sends_too_slowly_opens_no_circuit() {
    let world = world("1h").await;
    let begun = "POST /ok HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100\r\n\r\nbegun";
    for _ in 0..2 {
        let mut client = world.connect().await;
        write(&mut client, begun).await;
        let mut upstream = world.accept().await;
        read_until(&mut upstream, "begun").await;
        upstream.set_zero_linger().unwrap();
        drop(upstream);
        let (head, _) = read_response(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    }
    // Whose content has come as a whole is not waited for.
    let mut client = world.connect().await;
    write(&mut client, begun).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "begun").await;
    write(&mut client, "x".repeat(95)).await;
    read_until(&mut upstream, "x").await;
    drop(upstream);
    read_response(&mut client).await;
    let mut client = world.connect().await;
    write(&mut client, GET).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    drop(client);
    let codes = codes(&world.end().await);
    assert_eq!(codes, [ALLOWED, ALLOWED, ALLOWED, OPEN]);
}

#[tokio::test]
async fn a_client_that_breaks_off_what_it_sends_opens_no_circuit() {
    let world = world("1h").await;
    let mut client = world.connect().await;
    let begun = "POST /ok HTTP/1.1\r\nHost: api.example\r\nContent-Length: 100\r\n\r\nbegun";
    write(&mut client, begun).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "begun").await;
    client.shutdown().await.unwrap();
    world
        .until(|it| it.iter().all(|it| it.outcome.is_some()))
        .await;
    drop((client, upstream));
    let mut client = world.connect().await;
    write(&mut client, GET).await;
    let mut upstream = world.accept().await;
    read_until(&mut upstream, "\r\n\r\n").await;
    // One that breaks off without an answer does.
    drop(upstream);
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    drop(client);
    let mut client = world.connect().await;
    write(&mut client, GET).await;
    let (head, _) = read_response(&mut client).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    drop(client);
    assert_eq!(codes(&world.end().await), [ALLOWED, ALLOWED, OPEN]);
}

/// A server that ends a WebSocket in the middle of an answer has failed; a client that does has not.
#[tokio::test]
async fn a_server_that_breaks_off_a_turn_opens_its_circuit_and_a_client_that_leaves_does_not() {
    for parts in ["client", "client in words", "server", "server in words"] {
        let world = world("1h").await;
        let (mut client, mut upstream) = turns::open(&world).await;
        let call = turns::create("gpt-4o", "look");
        write(&mut client, &call).await;
        turns::passes(&mut upstream, &call).await;
        let created =
            json!({ "type": "response.created", "response": { "id": "r1", "model": "gpt" } });
        let created = turns::event(&created);
        write(&mut upstream, &created).await;
        turns::passes(&mut client, &created).await;
        match parts {
            "client in words" => write(&mut client, masked(0x88, [3, 0xe8])).await,
            "server in words" => write(&mut upstream, frame(0x88, [3, 0xe9])).await,
            _ => {}
        }
        let (first, second) = match parts.starts_with("client") {
            true => (client, upstream),
            false => (upstream, client),
        };
        drop(first);
        let over = |it: &[Decision]| {
            let mut calls = it.iter().filter(|it| it.action.kind == ActionKind::LlmCall);
            calls.all(|it| it.outcome.is_some())
        };
        super::settled().await;
        drop(second);
        world.until(over).await;
        let mut client = world.connect().await;
        write(&mut client, GET).await;
        if parts.starts_with("server") {
            let (head, _) = read_response(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{parts}: {head}");
            drop(client);
            assert_eq!(world.end().await.last().unwrap().reason.code, OPEN.1);
        } else {
            let mut upstream = world.accept().await;
            read_until(&mut upstream, "\r\n\r\n").await;
            drop((client, upstream));
            world.end().await;
        }
    }
}
