use proptest::prelude::*;
use serde_json::Value;

use super::{Event, Fault, Kind, MAX_DEPTH, MAX_NAME, MAX_NAMES, Part, Path, Place, Scanner, Sink};

/// Writes a document down again, and keeps the bytes of what is at `raw`.
#[derive(Default)]
struct Written {
    text: String,
    string: String,
    raw_at: Option<&'static str>,
    raw: Vec<u8>,
}

impl Written {
    fn before(&mut self, path: &Path) {
        if matches!(self.text.chars().last(), Some(c) if !"[{:".contains(c)) {
            self.text.push(',');
        }
        let parts = path.parts();
        if let Some(Some(Part::Key(name))) = parts.steps().map(<[_]>::last) {
            self.text.push_str(&Value::from(*name).to_string());
            self.text.push(':');
        }
    }
}

impl Sink for Written {
    fn take(&mut self, path: &Path, event: Event<'_>) {
        match event {
            Event::Begin(Kind::Text) => self.string.clear(),
            Event::Text(piece) => self.string.push_str(piece),
            Event::End(Kind::Text) => {
                self.before(path);
                let text = std::mem::take(&mut self.string);
                self.text.push_str(&Value::from(text).to_string());
            }
            Event::Begin(kind) => {
                self.before(path);
                self.text.push(if kind == Kind::Object { '{' } else { '[' });
            }
            Event::End(kind) => self.text.push(if kind == Kind::Object { '}' } else { ']' }),
            Event::Number(number) => {
                self.before(path);
                self.text.push_str(number);
            }
            Event::Bool(yes) => {
                self.before(path);
                self.text.push_str(if yes { "true" } else { "false" });
            }
            Event::Null => {
                self.before(path);
                self.text.push_str("null");
            }
        }
    }

    fn wants_raw(&mut self, path: &Path) -> bool {
        let parts = path.parts();
        let wanted = self.raw_at.map(Part::Key);
        wanted.is_some() && parts.steps().and_then(<[_]>::last) == wanted.as_ref()
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }
}

fn read_in(pieces: usize, text: &[u8]) -> Result<String, Fault> {
    let mut scanner = Scanner::default();
    let mut written = Written::default();
    for piece in text.chunks(pieces) {
        scanner.push(piece, &mut written)?;
    }
    scanner.finish(&mut written)?;
    Ok(written.text)
}

/// Reads in pieces of every size, which makes no difference but in where a fault is told.
fn read(text: &[u8]) -> Result<String, Fault> {
    let whole = read_in(usize::MAX, text);
    for pieces in 1..8 {
        let split = read_in(pieces, text);
        assert_eq!(
            split.is_ok(),
            whole.is_ok(),
            "{:?}",
            String::from_utf8_lossy(text)
        );
        if whole.is_ok() {
            assert_eq!(split, whole);
        }
    }
    whole
}

#[test]
fn what_json_is_rfc_8259() {
    for text in [
        "null",
        "true",
        " false\r\n\t",
        "0",
        "-0.5e+10",
        "1E9",
        "\"\"",
        r#""a\"\\\/\b\f\n\r\t\u0041\u20ac\ud83d\ude00""#,
        "\"\u{1f600}é\"",
        "[]",
        "{}",
        "[[],{},[1,2,{\"a\":[]}],\"x\"]",
        r#"{"a":{"b":[1,{"c":null}]},"":0,"\u0062":true}"#,
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        let read = read(text.as_bytes()).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&read).unwrap(),
            value,
            "{text}"
        );
    }
}

#[test]
fn what_json_is_not() {
    for text in [
        "",
        " ",
        "nul",
        "truee",
        "True",
        "NaN",
        "Infinity",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "0x1",
        "[",
        "]",
        "[1",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{",
        "{}}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "{1:1}",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u00g0\"",
        "\"\n\"",
        "\"\u{0}\"",
        "1 1",
        "{\"a\":1]",
        "[1}",
        "\u{feff}1",
        "// x\n1",
        "1//",
    ] {
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text:?}");
        assert!(read(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn what_parsers_read_in_two_ways_is_not_read() {
    assert_eq!(read(br#"{"a":1,"a":2}"#), Err(Fault::Twice(8)));
    // However it is written.
    assert!(matches!(
        read(br#"{"a":1,"\u0061":2}"#),
        Err(Fault::Twice(_))
    ));
    assert!(matches!(
        read(br#"[{"x":{"b":1,"c":{},"b":1}}]"#),
        Err(Fault::Twice(_))
    ));
    // In two objects it is no member twice.
    assert!(read(br#"[{"a":{"a":1}},{"a":2}]"#).is_ok());
    for lone in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800x""#,
        r#""\ud800\u0041""#,
        r#""\ud800\n""#,
    ] {
        assert!(
            matches!(read(lone.as_bytes()), Err(Fault::Text(_))),
            "{lone}"
        );
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"\"\xc3\"",
        b"\"\xc3\\n\"",
        b"\"\xed\xa0\x80\"",
        b"\"\xc0\xaf\"",
    ] {
        assert!(matches!(read(bytes), Err(Fault::Text(_))), "{bytes:?}");
    }
}

#[test]
fn what_is_read_is_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(read(nested(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(read(nested(MAX_DEPTH + 1).as_bytes()), Err(Fault::Depth));
    let named = |length: usize| format!("{{\"{}\":1}}", "x".repeat(length));
    assert!(read(named(MAX_NAME).as_bytes()).is_ok());
    assert!(matches!(
        read(named(MAX_NAME + 1).as_bytes()),
        Err(Fault::Bound(_))
    ));
    assert!(matches!(
        read("1".repeat(513).as_bytes()),
        Err(Fault::Bound(_))
    ));
    let names = (0..=MAX_NAMES)
        .map(|n| format!("\"{n}\":0"))
        .collect::<Vec<_>>()
        .join(",");
    let read = read_in(usize::MAX, format!("{{{names}}}").as_bytes());
    assert!(matches!(read, Err(Fault::Bound(_))));
}

#[test]
fn a_scanner_is_used_again() {
    let mut scanner = Scanner::default();
    for (text, whole) in [
        (r#"{"a":[{"a":"#, false),
        (r#"{"a":1}"#, true),
        ("{\"b", false),
        (r#"{"b":2}"#, true),
    ] {
        let mut written = Written::default();
        scanner.push(text.as_bytes(), &mut written).unwrap();
        assert_eq!(scanner.finish(&mut written).is_ok(), whole);
        if whole {
            assert_eq!(written.text, text);
        }
        scanner.begin_again();
    }
}

#[test]
fn the_bytes_of_a_value_as_they_are_written() {
    let text = br#"{"x":1, "input" : {"a": [1, "\u0041}"] } ,"y":{"input":[ ]}}"#;
    for pieces in 1..text.len() {
        let mut scanner = Scanner::default();
        let mut written = Written {
            raw_at: Some("input"),
            ..Written::default()
        };
        for piece in text.chunks(pieces) {
            scanner.push(piece, &mut written).unwrap();
        }
        scanner.finish(&mut written).unwrap();
        assert_eq!(
            String::from_utf8(written.raw).unwrap(),
            r#"{"a": [1, "\u0041}"] }[ ]"#
        );
        assert_eq!(
            written.text,
            r#"{"x":1,"input":{"a":[1,"A}"]},"y":{"input":[]}}"#
        );
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(".{0,6}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_value_is_read_as_it_was_written(value in value(), pretty: bool, pieces in 1_usize..9) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        let read = read_in(pieces, text.as_bytes()).unwrap();
        prop_assert_eq!(serde_json::from_str::<Value>(&read).unwrap(), value);
    }

    #[test]
    fn nothing_is_read_that_others_do_not_read(bytes in prop::collection::vec(
        prop::sample::select(&b"[]{}\",:\\u0019e-.tfnrual \xc3\xa9"[..]), 0..24,
    ), pieces in 1_usize..9) {
        let whole = read_in(usize::MAX, &bytes);
        prop_assert_eq!(read_in(pieces, &bytes).is_ok(), whole.is_ok());
        let theirs = serde_json::from_slice::<Value>(&bytes);
        if let Ok(text) = &whole {
            prop_assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), &theirs.unwrap());
        } else if !matches!(whole, Err(Fault::Twice(_))) {
            prop_assert!(theirs.is_err(), "{:?}", theirs);
        }
    }
}

fn kept(text: &str, limit: usize, pieces: usize) -> Result<super::Value, Fault> {
    let mut reader = super::Reader::new(limit);
    for piece in text.as_bytes().chunks(pieces) {
        reader.push(piece)?;
    }
    reader.finish()
}

#[test]
fn what_is_kept_is_written_in_one_way() {
    for (text, canonical) in [
        ("{}", "{}"),
        (" [ 1.0 , -0, 1e2, null ] ", "[1.0,-0,1e2,null]"),
        (
            r#"{"b":{"d":1,"c":[{}]},"a":"x"}"#,
            r#"{"a":"x","b":{"c":[{}],"d":1}}"#,
        ),
        (
            r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#,
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}",
        ),
        (
            r#""\u001f\u0008\t\n\f\r\"\\\/\u007f""#,
            "\"\\u001f\\b\\t\\n\\f\\r\\\"\\\\/\u{7f}\"",
        ),
        (r#""""#, r#""""#),
    ] {
        for pieces in [1, 3, 1000] {
            assert_eq!(kept(text, 4096, pieces).unwrap().canonical(), canonical);
        }
    }
    // Deeper than a path is told.
    let deep = "{\"a\":".repeat(20) + "1" + &"}".repeat(20);
    assert_eq!(kept(&deep, 8192, 7).unwrap().canonical(), deep);
}

#[test]
fn no_more_is_kept_than_there_is_room_for() {
    let many = format!("[{}0]", "0,".repeat(1000));
    assert_eq!(kept(&many, 50_000, 64), Err(Fault::Large));
    assert!(kept(&many, 200_000, 64).is_ok());
    let long = format!("\"{}\"", "x".repeat(1000));
    assert_eq!(kept(&long, 1000, 64), Err(Fault::Large));
    assert!(kept(&long, 1100, 64).is_ok());
    let named = format!("{{\"{}\":{{}}}}", "x".repeat(1000));
    assert_eq!(kept(&named, 1000, 64), Err(Fault::Large));
}

/// Wherever a list stands between its items it can be ended there, and nowhere else.
#[test]
fn a_list_that_comes_can_be_ended_between_its_items() {
    let text = r#" [ {"a":[{}, "]},{["]} ,1, [[]] , "x" , null , {} ] "#;
    let mut scanner = Scanner::default();
    let mut places = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        scanner.push(&[byte], &mut Written::default()).unwrap();
        let before = &text[..=at];
        let Some(place) = scanner.place() else {
            continue;
        };
        let ended = [before.as_bytes(), &place.ends_with(b"{\"last\":1}")].concat();
        let ended: Value = serde_json::from_slice(&ended).unwrap();
        let items = ended.as_array().unwrap();
        if place == Place::Over {
            assert_eq!(*items, *serde_json::from_str::<Vec<Value>>(text).unwrap());
        } else {
            assert_eq!(items.last().unwrap()["last"], 1, "{before}");
        }
        if places.last() != Some(&place) {
            places.push(place);
        }
    }
    // A number ends with what stands behind it.
    let item = [Place::Behind, Place::Next];
    let expected = [
        &[Place::Before, Place::Opened][..],
        &item.repeat(4),
        &[Place::Behind, Place::Over],
    ];
    assert_eq!(places, expected.concat());
    // What is no list has no places but its ends.
    let mut scanner = Scanner::default();
    let object = br#"{"a":[1,2]}"#;
    for byte in &object[..object.len() - 1] {
        scanner.push(&[*byte], &mut Written::default()).unwrap();
        assert_eq!(scanner.place(), None);
    }
    scanner.push(b"}", &mut Written::default()).unwrap();
    assert_eq!(scanner.place(), Some(Place::Over));
}
