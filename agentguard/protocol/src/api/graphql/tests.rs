//! What requests of GraphQL call.

use ::http::{HeaderMap, HeaderValue, header};
use serde_json::json;

use super::super::NotUnderstood;
use super::{CallReader, Fault, of_query};

fn read(content: &str) -> Result<Vec<String>, NotUnderstood> {
    let kind = HeaderValue::from_static("application/json");
    let fields = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    let mut reader = CallReader::new(&fields, 1 << 20);
    reader.push(content.as_bytes())?;
    let sent = reader.finish("api", &["/id", "/input/name"])?;
    let calls = sent.messages.iter().map(|tool| {
        let values = tool.values.iter();
        let values = values.map(|it| format!(" {}={}", it.pointer, it.values.join(",")));
        format!(
            "{}{}",
            tool.name.clone().unwrap_or_default(),
            values.collect::<String>()
        )
    });
    Ok(calls.collect())
}

fn query(text: &str) -> Result<Vec<String>, NotUnderstood> {
    read(&json!({ "query": text, "variables": {"id": 7, "i": {"name": "v"}} }).to_string())
}

#[test]
fn fields_at_the_top_are_calls_whatever_they_are_called_and_wherever_they_stand() {
    let cases: [(&str, &[&str]); 10] = [
        ("{a}", &["query.a"]),
        (
            "query Q { a { b { c } } d: e(id: 1) }",
            &["query.a", "query.e /id=1"],
        ),
        (
            "mutation { x: delete(id: \"a\\u0062\\n\") { ok } }",
            &["mutation.delete /id=ab\n"],
        ),
        ("subscription { s(id: A) }", &["subscription.s /id=A"]),
        (
            "mutation($id: ID!, $i: In = {name: \"d\"}) { m(id: $id, input: $i) }",
            &["mutation.m /id=7 /input/name=v"],
        ),
        (
            "query($x: In = {name: \"d\"}, $y: ID) { m(id: $y, input: $x) }",
            &["query.m /input/name=d"],
        ),
        (
            "query($id: ID) { m(id: [1 $id, null], input: {name: $id}) }",
            &["query.m /id=1,7,null /input/name=7"],
        ),
        (
            "{ ...F ... on Query @include(if: false) { b } ... { c } } fragment F on Query { a ...F ...G } fragment G on Query { d }",
            &["query.c", "query.b", "query.a", "query.d"],
        ),
        (
            "# {x}\n\u{feff}{a}".trim_start_matches("# {x}\n"),
            &["query.a"],
        ),
        (
            "{ a(id: \"\"\"\n    one\n      two \\\"\"\"\n  \"\"\") }",
            &["query.a /id=one\n  two \"\"\""],
        ),
    ];
    for (text, calls) in cases {
        assert_eq!(query(text).unwrap(), calls, "{text}");
    }
    let named = json!([
        { "query": "query A {a} mutation B {b}", "operationName": "B" },
        { "query": "{c}", "operationName": null, "extensions": {"clientLibrary": {"name": "@apollo/client", "version": "4.0.0"}} },
    ]);
    assert_eq!(read(&named.to_string()).unwrap(), ["mutation.b", "query.c"]);
}

#[test]
fn a_request_by_get_stands_in_the_target() {
    let read = |query: &str| {
        let sent = of_query(query, 1 << 20, "api", &["/id"])?;
        assert!(!sent.batch);
        let calls = sent.messages.iter().map(|tool| {
            let values = tool.values.iter().flat_map(|it| it.values.clone());
            let values: String = values.collect();
            format!("{}({values})", tool.name.clone().unwrap_or_default())
        });
        Ok(calls.collect::<Vec<_>>())
    };
    for (query, calls) in [
        ("query=%7Ba%7D", &["query.a()"][..]),
        ("query={a(id:7)+b}&operationName=", &[]),
        ("query={a(id:7)+b}", &["query.a(7)", "query.b()"]),
        (
            "operationName=B&query=query+A{a}+mutation+B($i:ID){b(id:$i)}&variables=%7B%22i%22:5%7D",
            &["mutation.b(5)"],
        ),
        ("query={a}&extensions={}", &["query.a()"]),
    ] {
        match calls {
            [] => assert_eq!(read(query), Err(Fault::Operation.into()), "{query}"),
            calls => assert_eq!(read(query).unwrap(), calls, "{query}"),
        }
    }
    for (query, why) in [
        ("", Fault::Request.into()),
        ("query={a}&id=1", Fault::Request.into()),
        ("query={a}&variables=[]", Fault::Request.into()),
        ("query={a}&query={b}", NotUnderstood::Twice),
        ("query={a};query={b}", NotUnderstood::Semicolon("the query")),
        (
            "query={a}&extensions={\"persistedQuery\":1}",
            Fault::Request.into(),
        ),
    ] {
        assert_eq!(read(query), Err(why), "{query}");
    }
    assert!(read("query={a}&variables={").is_err());
    assert!(read("query={a}&variables={\"a\":1,\"a\":2}").is_err());
}

#[test]
fn what_is_not_clear_is_not_understood() {
    let deep = format!("{}{}", "{a".repeat(100), "}".repeat(100));
    let list = format!("{{a(id:{}{})}}", "[".repeat(100), "]".repeat(100));
    let kind = format!("query($a:{}A{}){{a}}", "[".repeat(100), "]".repeat(100));
    let wide = format!("{{{}}}", "a ".repeat(65));
    let cases = [
        ("", Fault::Operation),
        ("{}", Fault::Syntax),
        ("{a", Fault::Syntax),
        ("{a}}", Fault::Syntax),
        ("{a(id: 1x)}", Fault::Syntax),
        ("{a(id: \"\n\")}", Fault::Syntax),
        ("{a(id: \"\\ud800\")}", Fault::Syntax),
        ("{a(id: 1 id: 2)}", Fault::Twice),
        ("{a(input: {name: 1 name: 2})}", Fault::Twice),
        ("{a} {b}", Fault::Twice),
        ("query A {a} query A {b}", Fault::Twice),
        ("query A {a} query B {b}", Fault::Operation),
        ("{...F}", Fault::Missing),
        ("{a(id: $id)}", Fault::Missing),
        ("query($z: ID = $id) {a(id: $z)}", Fault::Syntax),
        ("type A {a: B}", Fault::Syntax),
        (&deep, Fault::Bound),
        (&list, Fault::Bound),
        (&kind, Fault::Bound),
        (&wide, Fault::Bound),
    ];
    for (text, fault) in cases {
        assert_eq!(query(text), Err(NotUnderstood::GraphQl(fault)), "{text}");
    }
    let persisted = json!({"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "0"}}});
    let other = json!({"query": "{a}", "id": "0"});
    let named = json!({"query": "{a}", "operationName": ""});
    for (request, fault) in [
        (persisted, Fault::Request),
        (other, Fault::Request),
        (json!([]), Fault::Request),
        (json!({"query": "{a}", "variables": "{}"}), Fault::Request),
        (named, Fault::Operation),
    ] {
        let found = read(&request.to_string());
        assert_eq!(found, Err(NotUnderstood::GraphQl(fault)), "{request}");
    }
}

/// What a variable stands for is counted each time: a short document does not make much of it.
#[test]
fn variables_that_come_to_too_much_are_not_understood() {
    let arguments: String = (0..50).map(|n| format!("a{n}: $v ")).collect();
    let text = format!("query($v: A) {{ a({arguments}) }}");
    let long = "x".repeat(200_000);
    let request = json!({"query": text, "variables": {"v": long}});
    let found = read(&request.to_string());
    assert_eq!(found, Err(NotUnderstood::GraphQl(Fault::Bound)));
}
