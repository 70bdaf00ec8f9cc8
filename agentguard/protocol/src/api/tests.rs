//! Calls over HTTP, gRPC and JSON-RPC, and what is none.

use ::http::{HeaderMap, HeaderValue, Method, header};
use agentguard_model::{ArgumentType, Tool};

use super::http::{ContentReader, Place};
use super::{MAX_FIELDS, NotUnderstood, grpc, json_rpc};
use crate::{json, jsonrpc};

const POINTERS: [&str; 7] = ["/id", "/q", "/a", "/b", "/list", "/file/name", "/file/size"];

fn fields(kind: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if !kind.is_empty() {
        let kind = HeaderValue::from_str(kind).unwrap();
        fields.insert(header::CONTENT_TYPE, kind);
    }
    fields
}

fn read(
    fields: &HeaderMap,
    query: &str,
    pieces: &[&[u8]],
    limit: usize,
) -> Result<Tool, NotUnderstood> {
    let mut reader = ContentReader::new(fields, limit);
    for piece in pieces {
        reader.push(piece)?;
    }
    assert!(reader.used() <= limit);
    let place = Place {
        server: "files",
        name: "read",
        parameters: &[("id".to_owned(), "7".to_owned())],
        query: Some(query),
        lists: &["list".to_owned(), "b[]".to_owned()],
        types: &[],
    };
    reader.finish(place, &POINTERS)
}

/// A call with the path's argument `id` and these types: its arguments, and their digest.
fn of_types(
    id: &str,
    query: &str,
    kind: &str,
    content: &str,
) -> Result<(String, String), NotUnderstood> {
    let types = [
        ("id", ArgumentType::Integer),
        ("price", ArgumentType::Number),
        ("flag", ArgumentType::Boolean),
        ("name", ArgumentType::String),
        ("list", ArgumentType::Integer),
    ];
    let types = types.map(|(name, kind)| (name.to_owned(), kind));
    let mut reader = ContentReader::new(&fields(kind), 64 * 1024);
    reader.push(content.as_bytes())?;
    let place = Place {
        server: "files",
        name: "read",
        parameters: &[("id".to_owned(), id.to_owned())],
        query: Some(query),
        lists: &["list[]".to_owned(), "other".to_owned()],
        types: &types,
    };
    let pointers = ["/id", "/price", "/flag", "/name", "/list", "/other", "/q"];
    let tool = reader.finish(place, &pointers)?;
    let values = tool.values.iter();
    let values = values.map(|it| format!("{}={}", it.pointer, it.values.join(",")));
    let values: Vec<_> = values.collect();
    Ok((values.join(" "), tool.arguments.unwrap_or_default()))
}

#[test]
fn an_argument_with_a_type_is_the_value_of_json_that_it_is() {
    let json = "application/json";
    let part = |name: &str, value: &str| {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts = [
        part("price", "12.50"),
        part("flag", "true"),
        "--b--\r\n".to_owned(),
    ]
    .concat();
    let digest_of = |text: &str| crate::arguments::digest(text);
    let whole = r#"{"flag":true,"id":7,"price":12.50}"#;
    for (query, kind, content) in [
        ("price=12.50&flag=true", "", ""),
        ("", FORM, "price=12.50&flag=true"),
        ("flag=tru%65", FORM, "price=12%2E50"),
        ("", "multipart/form-data; boundary=b", &parts),
        ("", json, r#"{"price":12.50,"flag":true}"#),
    ] {
        let (values, digest) = of_types("7", query, kind, content).unwrap();
        assert_eq!(values, "/id=7 /price=12.50 /flag=true", "{query} {content}");
        assert_eq!(digest, digest_of(whole), "{query} {content}");
    }
    // Of a list each entry has the type; what has none, or is a string, stays a text.
    let (values, digest) = of_types("-7", "list[]=1&other=5&list[]=2&q=5&name=5", "", "").unwrap();
    assert_eq!(values, "/id=-7 /name=5 /list=1,2 /other=5 /q=5");
    let whole = r#"{"id":-7,"list":[1,2],"name":"5","other":["5"],"q":"5"}"#;
    assert_eq!(digest, digest_of(whole));
    let (values, _) = of_types("7", "", json, r#"{"list":[1,2],"name":"x"}"#).unwrap();
    assert_eq!(values, "/id=7 /name=x /list=1,2");
}

/// As Python, Go and JavaScript write them.
#[test]
fn numbers_of_json_with_an_exponent_are_told_without() {
    for (sent, told) in [
        ("1e-05", Some("0.00001")),
        ("1e-7", Some("0.0000001")),
        ("-1.5e-9", Some("-0.0000000015")),
        ("1e+16", Some("10000000000000000")),
        ("1.5E3", Some("1500")),
        ("12.5e2", Some("1250")),
        ("0.05e1", Some("0.5")),
        ("2.5e0", Some("2.5")),
        ("1e20", Some("100000000000000000000")),
        // Few bytes that would make hundreds of each.
        ("1e308", None),
        ("1e64", None),
        ("-5e-324", None),
        // Another one in 64 bits, or none.
        ("10000000000000000001e-18", None),
        ("1.0000000000000000001e1", None),
        ("1e400", None),
        ("1e-400", None),
        ("0e0", None),
        ("-0e1", None),
        ("1e99999999999999999999", None),
    ] {
        let content = format!("{{\"price\":{sent}}}");
        let found = of_types("7", "", "application/json", &content);
        let values = found.as_ref().map(|(values, _)| values.as_str());
        let expected = told.map(|told| format!("/id=7 /price={told}"));
        assert_eq!(values.ok(), expected.as_deref(), "{sent}");
    }
}

#[test]
fn an_argument_that_is_not_of_its_type_is_not_understood() {
    let json = "application/json";
    let file = "--b\r\nContent-Disposition: form-data; name=\"NAME\"; filename=\"5\"\r\n\r\n5\r\n--b--\r\n";
    let cases = [
        ("x", "", "", "", "id"),
        ("07", "", "", "", "id"),
        ("7", "price=abc", "", "", "price"),
        ("7", "price=", "", "", "price"),
        ("7", "price", "", "", "price"),
        ("7", "price=1e400", "", "", "price"),
        // `+` is a space in a query, and itself where it is escaped.
        ("7", "price=+5", "", "", "price"),
        ("7", "price=%2B5", "", "", "price"),
        ("7", "flag=TRUE", "", "", "flag"),
        ("7", "flag=1", "", "", "flag"),
        // Rails takes this one for true, and who compares with `true` that one for false.
        ("7", "flag=False", "", "", "flag"),
        ("7", "", FORM, "flag=True", "flag"),
        ("7", "list[]=1&list[]=x", "", "", "list"),
        ("7", "list[]=9223372036854775808", "", "", "list"),
        // Some servers do not look at the case of a name.
        ("7", "PRICE=abc", "", "", "price"),
        ("7", "", FORM, "price=0x5", "price"),
        (
            "7",
            "",
            "multipart/form-data; boundary=b",
            &file.replace("NAME", "price"),
            "price",
        ),
        (
            "7",
            "",
            "multipart/form-data; boundary=b",
            &file.replace("NAME", "name"),
            "name",
        ),
        // What comes in JSON has a type already.
        ("7", "", json, r#"{"price":"5"}"#, "price"),
        ("7", "", json, r#"{"price":1e400}"#, "price"),
        ("7", "", json, r#"{"price":null}"#, "price"),
        ("7", "", json, r#"{"price":[5]}"#, "price"),
        ("7", "", json, r#"{"price":{"a":5}}"#, "price"),
        ("7", "", json, r#"{"Price":"5"}"#, "price"),
        ("7", "", json, r#"{"flag":"true"}"#, "flag"),
        ("7", "", json, r#"{"flag":1}"#, "flag"),
        ("7", "", json, r#"{"name":5}"#, "name"),
        ("7", "", json, r#"{"list":[1,"2"]}"#, "list"),
        ("7", "", json, r#"{"list":[[1]]}"#, "list"),
        ("7", "", json, r#"{"list":[1.0]}"#, "list"),
    ];
    for (id, query, kind, content, name) in cases {
        let found = of_types(id, query, kind, content);
        let is_told =
            matches!(&found, Err(NotUnderstood::Mistyped { name: it, .. }) if **it == *name);
        assert!(is_told, "{id} {query} {content}: {found:?}");
    }
    let told = of_types("x", "", "", "").unwrap_err().to_string();
    assert_eq!(
        told,
        "the argument `id` is no `integer`, as `types` of its tool has it: decimal digits of at most 64 bits, without `+`, spaces, fractions and zeros in front"
    );
}

/// The same in one piece, in two, and byte by byte.
fn one(kind: &str, query: &str, content: &[u8]) -> Result<String, NotUnderstood> {
    let fields = fields(kind);
    let told = |pieces: &[&[u8]]| {
        read(&fields, query, pieces, 64 * 1024).map(|tool| {
            assert_eq!(tool.method.as_deref(), Some("tools/call"));
            let values = tool.values.iter();
            let values: Vec<_> = values
                .map(|it| format!("{}={}", it.pointer, it.values.join(",")))
                .collect();
            values.join(" ")
        })
    };
    let whole = told(&[content]);
    for at in 0..content.len() {
        let (one, two) = content.split_at(at);
        assert_eq!(told(&[one, two]).ok(), whole.clone().ok(), "at {at}");
    }
    let bytes: Vec<&[u8]> = content.chunks(1).collect();
    assert_eq!(told(&bytes).ok(), whole.clone().ok());
    whole
}

const FORM: &str = "application/x-www-form-urlencoded";

const PARTS: &str = "multipart/form-data; boundary=xx";

#[test]
fn path_query_and_content_are_the_arguments() {
    let cases: [(&str, &str, &str, &str); 14] = [
        ("", "", "", "/id=7"),
        ("", "q=a+b%26&&flag", "", "/id=7 /q=a b&"),
        (
            "application/json",
            "q=1",
            r#"{"a":[1,"x"],"b":{"c":null}}"#,
            "/id=7 /q=1 /a=1,x /b={\"c\":null}",
        ),
        ("application/ld+json; charset=\"utf-8\"", "", "{}", "/id=7"),
        (FORM, "", "a=%C3%A9&b=", "/id=7 /a=é /b="),
        (
            PARTS,
            "",
            "--xx\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n\r\n--x\r\n--xx\r\ncontent-disposition: form-data; name=b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\r\n--xx--\r\n",
            "/id=7 /a=one\r\n\r\n--x /b=",
        ),
        (
            PARTS,
            "",
            "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\n12345\r\n--xx--",
            "/id=7 /file/name=a.txt /file/size=5",
        ),
        (
            PARTS,
            "",
            "--xx\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\"\r\n\r\n\r\n--xx--",
            "/id=7 /file/name= /file/size=0",
        ),
        (PARTS, "", "--xx--\r\n", "/id=7"),
        // What is a list is one, also where it is there once, and in which way it is written.
        ("", "list=1&q=x&list=2", "", "/id=7 /q=x /list=1,2"),
        ("", "list=1", "", "/id=7 /list=1"),
        ("", "b[]=1&b%5B%5D=2", "", "/id=7 /b=1,2"),
        (FORM, "list=1", "b[]=&b[]=2", "/id=7 /b=,2 /list=1"),
        (
            PARTS,
            "",
            "--xx\r\nContent-Disposition: form-data; name=\"b[]\"\r\n\r\n1\r\n--xx\r\nContent-Disposition: form-data; name=\"b[]\"\r\n\r\n2\r\n--xx--",
            "/id=7 /b=1,2",
        ),
    ];
    for (kind, query, content, expected) in cases {
        let read = one(kind, query, content.as_bytes());
        assert_eq!(read.as_deref(), Ok(expected), "{kind} {content}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_not_understood() {
    use NotUnderstood as N;
    let cases: [(&str, &str, &[u8], NotUnderstood); 33] = [
        ("", "q=1&q=2", b"", N::Twice),
        ("", "id=8", b"", N::Twice),
        (FORM, "a=1", b"a=1", N::Twice),
        (FORM, "", b"id=8", N::Twice),
        ("application/json", "", br#"{"id":"8"}"#, N::Twice),
        ("application/json", "", br#"{"a":1,"a":1}"#, N::Json(json::Fault::Twice(8))),
        ("application/json", "", b"[1]", N::NoObject),
        ("application/json; charset=utf-16", "", b"{}", N::Charset),
        ("", "q[]=1", b"", N::Name("the query")),
        ("", "list[]=1", b"", N::Name("the query")),
        ("", "b[][]=1", b"", N::Name("the query")),
        // As its list, and by itself.
        ("", "b[]=1&b=2", b"", N::Twice),
        (FORM, "list=1", b"list=2", N::Twice),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Disposition: form-data; name=\"q[]\"\r\n\r\n1\r\n--xx--",
            N::Name("the form"),
        ),
        ("", "=1", b"", N::Name("the query")),
        ("", "q%20=1", b"", N::Name("the query")),
        ("", "q=%ff", b"", N::NotUtf8("the query")),
        ("", "q=%f", b"", N::Escape("the query")),
        ("", "q=1;id=8", b"", N::Semicolon("the query")),
        ("", "_Method=DELETE", b"", N::Override("_method")),
        ("", "", b"a=1", N::Type),
        ("text/plain", "", b"{}", N::Type),
        (PARTS, "", b"x\r\n--xx--", N::Parts("it does not begin with its boundary")),
        (PARTS, "", b"--xx--\r\nmore", N::Parts("something stands behind its last part")),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Disposition: form-data; name=a\r\n\r\n1\n--xx\r\n",
            N::Parts("its boundary stands where no part begins or ends"),
        ),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--xxy\r\n",
            N::Parts("its boundary stands where no part begins or ends"),
        ),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Disposition: form-data; name=a; filename=\"\"\r\n\r\n1\r\n--xx--",
            N::Parts("a part is a file without a name"),
        ),
        (FORM, "", b"{\"a\":\"b\"}", N::Name("the form")),
        (FORM, "", b"<a>&b=1", N::Name("the form")),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Disposition: form-data; name=a; filename*=utf-8''a\r\n\r\n1\r\n--xx--",
            N::Parts("a part's name can be read in two ways"),
        ),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Disposition: form-data; name=\"a\\\"b\"\r\n\r\n1\r\n--xx--",
            N::Parts("a part's name can be read in two ways"),
        ),
        (
            PARTS,
            "",
            b"--xx\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--xx--",
            N::Parts("a part has a field that is not read"),
        ),
        (PARTS, "", b"--xx\r\nContent-Disposition: form-data; name=a\r\n\r\n1", N::Parts("it ends in the middle")),
    ];
    for (kind, query, content, expected) in cases {
        let told = String::from_utf8_lossy(content);
        assert_eq!(
            one(kind, query, content),
            Err(expected),
            "{kind} {query} {told}"
        );
    }
}

#[test]
fn what_overrides_a_method_and_what_is_too_large_is_not_understood() {
    let mut fields = fields(FORM);
    let large = "a=".to_owned() + &"x".repeat(100);
    let pieces: &[&[u8]] = &[large.as_bytes()];
    assert!(read(&fields, "", pieces, 102).is_ok());
    assert_eq!(read(&fields, "", pieces, 101), Err(NotUnderstood::Large));
    let many = (0..=MAX_FIELDS).fold(String::new(), |all, n| format!("{all}{n}&"));
    assert_eq!(read(&fields, &many, &[], 0), Err(NotUnderstood::Fields));
    fields.append(header::CONTENT_TYPE, HeaderValue::from_static(FORM));
    assert_eq!(read(&fields, "", pieces, 1024), Err(NotUnderstood::Type));
    fields.insert("x-http-method-override", HeaderValue::from_static("DELETE"));
    let overridden = Err(NotUnderstood::Override("x-http-method-override"));
    assert_eq!(read(&fields, "", &[], 1024), overridden);
    fields.remove("x-http-method-override");
    fields.insert("x_http_method-override", HeaderValue::from_static("DELETE"));
    assert_eq!(read(&fields, "", &[], 1024), overridden);
}

/// In a query, in a form, or in JSON.
#[test]
fn what_overrides_a_method_as_an_argument_is_not_understood() {
    for (name, told) in [
        ("$httpMethod", "$httpMethod"),
        ("%24HTTPmethod", "$httpMethod"),
        ("$httpHeaders", "$httpMethod"),
        ("$req", "$req"),
        ("$ct", "$ct"),
        ("_Method", "_method"),
        ("X_Http-Method-Override", "x-http-method-override"),
    ] {
        let overridden = Err(NotUnderstood::Override(told));
        let form = format!("a=1&{name}=DELETE");
        for query in [&form, &form.replace('&', ";")] {
            assert_eq!(read(&fields(FORM), query, &[], 1024), overridden, "{query}");
        }
        let pieces: &[&[u8]] = &[form.as_bytes()];
        assert_eq!(read(&fields(FORM), "", pieces, 1024), overridden, "{form}");
        let json = format!("{{\"{}\":\"DELETE\"}}", name.replace("%24", "$"));
        let pieces: &[&[u8]] = &[json.as_bytes()];
        let fields = fields("application/json");
        assert_eq!(read(&fields, "", pieces, 1024), overridden, "{json}");
    }
    let charset = read(&fields(FORM), "", &[b"_charset_=utf-7&a=b"], 1024);
    assert_eq!(charset, Err(NotUnderstood::Charset));
}

#[test]
fn a_call_of_grpc_is_its_service_and_method() {
    let grpc_fields = fields("application/grpc+proto");
    let name = |method: Method, path: &str, fields: &HeaderMap| {
        let tool = grpc::call("echo", &method, path, fields).ok()?;
        assert_eq!(tool.arguments, None);
        tool.name
    };
    let called = name(Method::POST, "/test.Echo/Unary", &grpc_fields);
    assert_eq!(called.as_deref(), Some("test.Echo/Unary"));
    for path in ["/", "/a", "/a/", "//b", "/a/b/c", "/a%2Fb/c", "*"] {
        assert_eq!(name(Method::POST, path, &grpc_fields), None, "{path}");
    }
    assert_eq!(name(Method::GET, "/a/b", &grpc_fields), None);
    assert_eq!(
        name(Method::POST, "/a/b", &fields("application/json")),
        None
    );
}

fn rpc(kind: &str, content: &str) -> Result<(Vec<String>, bool), NotUnderstood> {
    let mut reader = json_rpc::CallReader::new(&fields(kind), 64 * 1024);
    reader.push(content.as_bytes())?;
    let sent = reader.finish("node", &["/0", "/to"])?;
    let told = sent.messages.iter().map(|tool| {
        let values = tool.values.iter();
        let values: Vec<_> = values.map(|it| it.values.join(",")).collect();
        let name = tool.name.clone().unwrap_or_default();
        let id = tool.id.clone().unwrap_or_default();
        format!("{id} {name} {}", values.join(" "))
    });
    Ok((told.collect(), sent.batch))
}

#[test]
fn requests_of_json_rpc_are_calls_with_their_parameters() {
    let one = r#"{"jsonrpc":"2.0","id":1,"method":"send","params":["0xab",{"x":1}]}"#;
    let told = (vec!["1 send 0xab".to_owned()], false);
    assert_eq!(rpc("application/json", one), Ok(told));
    let batch = format!(r#"[{one},{{"jsonrpc":"2.0","method":"ping","params":{{"to":"b"}}}}]"#);
    let told = (vec!["1 send 0xab".to_owned(), " ping b".to_owned()], true);
    assert_eq!(rpc("", &batch), Ok(told));
    let wrong = |content| rpc(FORM, content).unwrap_err();
    assert_eq!(
        wrong(r#"{"jsonrpc":"2.0","id":1,"result":1}"#),
        NotUnderstood::Answer
    );
    assert_eq!(
        wrong(r#"{"id":1,"method":"send"}"#),
        NotUnderstood::JsonRpc(jsonrpc::Fault::Version)
    );
    assert_eq!(
        wrong(r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#),
        NotUnderstood::Json(json::Fault::Twice(38))
    );
    let utf7 = rpc("application/json; charset=utf-7", one);
    assert_eq!(utf7, Err(NotUnderstood::Charset));
}
