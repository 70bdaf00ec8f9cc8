use super::{Fault, Kind, MAX_BATCH, messages};
use crate::json::Value;

fn value(text: &str) -> Value {
    Value::read(text.as_bytes(), 1 << 20).unwrap()
}

#[test]
fn what_a_message_says() {
    let document = value(r#"{"jsonrpc":"2.0","id":"\u0061\"","method":"m","params":{"a":1}}"#);
    let (read, batch) = messages(&document).unwrap();
    assert!(!batch);
    assert_eq!(read[0].id.as_deref(), Some(r#""a\"""#));
    let params = document.get("params");
    assert_eq!(
        read[0].kind,
        Kind::Call {
            method: "m",
            params
        }
    );

    let document = value(
        r#"[{"jsonrpc":"2.0","method":"n"},{"jsonrpc":"2.0","id":7,"result":null},
            {"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}]"#,
    );
    let (read, batch) = messages(&document).unwrap();
    assert!(batch);
    let ids: Vec<_> = read.iter().map(|it| it.id.as_deref()).collect();
    assert_eq!(ids, [None, Some("7"), None]);
    assert_eq!(read[1].kind, Kind::Result(&Value::Null));
    assert_eq!(read[2].kind, Kind::Error);
}

#[test]
fn what_is_no_message() {
    let many = format!("[{}]", vec!["{}"; MAX_BATCH + 1].join(","));
    let long = format!(
        r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#,
        "x".repeat(300)
    );
    for (text, fault) in [
        ("7", Fault::NoMessage),
        ("[7]", Fault::NoMessage),
        ("[]", Fault::EmptyBatch),
        (many.as_str(), Fault::LongBatch),
        (r#"{"id":1,"method":"m"}"#, Fault::Version),
        (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, Fault::Version),
        (r#"{"jsonrpc":"2.0","id":1}"#, Fault::Ambiguous),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#,
            Fault::Ambiguous,
        ),
        (
            r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#,
            Fault::Wrong("id"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#,
            Fault::Wrong("id"),
        ),
        (long.as_str(), Fault::Wrong("id")),
        (r#"{"jsonrpc":"2.0","result":{}}"#, Fault::Wrong("id")),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
            Fault::Wrong("method"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"a\nb"}"#,
            Fault::Wrong("method"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":"x"}"#,
            Fault::Wrong("params"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":"x"}"#,
            Fault::Wrong("error"),
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"Method":"m","method":"n"}"#,
            Fault::Case("method"),
        ),
    ] {
        assert_eq!(messages(&value(text)), Err(fault), "{text}");
    }
}
