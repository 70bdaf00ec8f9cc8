//! Requests to an HTTP API whose tools and their types come of the API's own document: `agentguard policy openapi` makes a
//! policy of it, by which curl's requests are decided inside inspected TLS.

use std::process::Command;

use agentguard_model::{Decision, Verdict};
use agentguard_tests::World;
use anyhow::{Context as _, Result, ensure};

use crate::apis::{calls, send, status};
use crate::room::{Program, Room, SITE, world};
use crate::serving::trusting;

const API: &str = "
openapi: 3.1.0
info: { title: Shop, version: '1' }
servers: [{ url: 'https://api.example.com/echo' }]
components:
  schemas:
    page: { type: [integer, 'null'] }
    order: { properties: { price: { type: number }, note: { type: string } } }
paths:
  /items:
    get:
      operationId: search
      parameters:
        - { name: page, in: query, schema: { $ref: '#/components/schemas/page' } }
        - { name: all, in: query, schema: { type: boolean } }
        - { name: 'ids[]', in: query, schema: { type: array, items: { type: integer } } }
      responses: { '200': { description: OK } }
  /items/{item}/orders:
    post:
      operationId: order
      parameters:
        - { name: item, in: path, required: true, schema: { type: integer } }
      requestBody:
        content:
          application/x-www-form-urlencoded: { schema: { $ref: '#/components/schemas/order' } }
          multipart/form-data: { schema: { properties: { price: { type: number }, note: { type: string } } } }
          application/json: { schema: { properties: { price: { type: number }, note: { type: string } } } }
      responses: { '201': { description: made } }
";

const RULES: &str = "
agents:
  - name: coder
rules:
  - id: first-pages
    match: { host: [api.example.com], port: [443], tool: { server: [shop], name: [search] } }
    when: tool.arguments['/page'] <= 10
    action: allow
    handling: inspect
  - id: nobody-takes-all
    match: { host: [api.example.com], tool: { server: [shop], name: [search] } }
    when: \"'/all' in tool.arguments && tool.arguments['/all']\"
    action: deny
  - id: no-item-of-the-fives
    match: { host: [api.example.com], tool: { server: [shop], arguments: { /ids: ['5*'] } } }
    action: deny
  - id: small-orders
    match: { host: [api.example.com], port: [443], tool: { server: [shop], name: [order] } }
    when: tool.arguments['/item'] != 13 && tool.arguments['/price'] < 9.5
    action: allow
    handling: inspect
";

/// A world whose policy is made of the API's document by the guard's own command.
fn open(world: &World) -> Result<Room<'_>> {
    let file = world.directory().join("api.yaml");
    std::fs::write(&file, API).context("no document")?;
    let guard = world.guard().prepare()?;
    let mut command = Command::new(guard.program());
    let made = command
        .args(["policy", "openapi"])
        .arg(&file)
        .args(["--name", "shop"])
        .output()
        .context("no guard")?;
    drop(guard);
    let told = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "{told}");
    let servers = String::from_utf8(made.stdout).context("no text")?;
    ensure!(servers.contains("types: {\"all\": boolean"), "{servers}");
    trusting(world, SITE, &format!("{servers}{RULES}"))
}

/// What a call was and what became of it, with why it cannot be read where it cannot.
fn told(decision: &Decision) -> String {
    let tool = decision.action.tool.clone().unwrap_or_default();
    let code = decision.reason.code;
    if let Some(why) = tool.not_understood {
        let why = why.split(", as").next().unwrap_or_default().to_owned();
        return format!("{} {code} {why}", decision.verdict);
    }
    let mut values: Vec<_> = tool
        .values
        .iter()
        .map(|it| format!(" {}={}", it.pointer, it.values.join(",")))
        .collect();
    values.sort_unstable();
    format!(
        "{} {code} {}{}",
        decision.verdict,
        tool.name.unwrap_or_default(),
        values.concat()
    )
}

#[test]
fn arguments_have_the_types_that_the_api_s_own_document_gives_them() {
    let Some(curl) = Program::find("curl").unwrap() else {
        return;
    };
    let world = world("apis-typed").start().unwrap();
    let room = open(&world).unwrap();
    let items = |query: &str| vec![format!("https://api.example.com/echo/items?{query}")];
    let order = |item: &str, words: &[&str]| {
        let words = words.iter().map(|&it| it.to_owned());
        let url = format!("https://api.example.com/echo/items/{item}/orders");
        words.chain([url]).collect::<Vec<_>>()
    };
    let json = "Content-Type: application/json";
    let unread = |name: &str, kind: &str| {
        format!("deny not_understood the argument `{name}` is no `{kind}`")
    };
    let denied = |what: &str| format!("deny no_rule {what}");
    let allowed = |what: &str| format!("allow rule_allow {what}");
    let cases = [
        (items("page=10"), allowed("search /page=10")),
        (items("page=-1"), allowed("search /page=-1")),
        (items("page=11"), denied("search /page=11")),
        // As a text `9` is after `10`, and `100` before.
        (items("page=9"), allowed("search /page=9")),
        (items("page=100"), denied("search /page=100")),
        (
            items("page=9223372036854775807"),
            denied("search /page=9223372036854775807"),
        ),
        (items("page=9223372036854775808"), unread("page", "integer")),
        (items("page=abc"), unread("page", "integer")),
        (items("page="), unread("page", "integer")),
        (items("page=+5"), unread("page", "integer")),
        (items("page=%2B5"), unread("page", "integer")),
        (items("page=05"), unread("page", "integer")),
        (items("page=0x5"), unread("page", "integer")),
        (items("page=5.0"), unread("page", "integer")),
        (items("page=1e400"), unread("page", "integer")),
        (items("Page=abc"), unread("page", "integer")),
        (
            items("page=5&all=false"),
            allowed("search /all=false /page=5"),
        ),
        (
            items("page=5&all=true"),
            "deny rule_deny search /all=true /page=5".to_owned(),
        ),
        (items("page=5&all=TRUE"), unread("all", "boolean")),
        (
            items("page=5&ids%5B%5D=1&ids%5B%5D=2"),
            allowed("search /ids=1,2 /page=5"),
        ),
        (
            items("page=5&ids%5B%5D=1&ids%5B%5D=55"),
            "deny rule_deny search /ids=1,55 /page=5".to_owned(),
        ),
        (
            items("page=5&ids%5B%5D=1&ids%5B%5D=055"),
            unread("ids", "integer"),
        ),
        (
            order("7", &["-d", "price=9.49&note=5"]),
            allowed("order /item=7 /price=9.49"),
        ),
        (
            order("7", &["-d", "price=9.50"]),
            denied("order /item=7 /price=9.50"),
        ),
        (order("7", &["-d", "price=1e0"]), unread("price", "number")),
        (
            order("7", &["-F", "price=9"]),
            allowed("order /item=7 /price=9"),
        ),
        (
            order("7", &["-F", "price=10"]),
            denied("order /item=7 /price=10"),
        ),
        (order("7", &["-F", "price=nine"]), unread("price", "number")),
        (
            order("7", &["-H", json, "-d", r#"{"price":9}"#]),
            allowed("order /item=7 /price=9"),
        ),
        (
            order("7", &["-H", json, "-d", r#"{"price":"9"}"#]),
            unread("price", "number"),
        ),
        (
            order("13", &["-d", "price=9"]),
            denied("order /item=13 /price=9"),
        ),
        (
            order("%31%33", &["-d", "price=9"]),
            denied("order /item=13 /price=9"),
        ),
        (order("013", &["-d", "price=9"]), unread("item", "integer")),
    ];
    let words: Vec<Vec<&str>> = cases
        .iter()
        .map(|(words, _)| {
            ["-g"]
                .into_iter()
                .chain(words.iter().map(String::as_str))
                .collect()
        })
        .collect();
    let words: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
    let outputs = send(&world, &room, &curl, &words).unwrap();
    let decisions = calls(&room, cases.len()).unwrap();
    for ((decision, output), (words, expected)) in decisions.iter().zip(&outputs).zip(&cases) {
        assert_eq!(told(decision), *expected, "{words:?} {output}");
        let allowed = decision.verdict == Verdict::Allow;
        assert_eq!(status(output), if allowed { "200" } else { "403" });
        // Who is refused is told which argument, and what it is to be.
        if let Some((_, argument)) = expected.split_once("not_understood ") {
            assert!(output.stdout.contains(argument), "{output}");
        }
    }
}
