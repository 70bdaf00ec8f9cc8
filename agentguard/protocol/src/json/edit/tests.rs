use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Value {
    Value::read(text.as_bytes(), 1 << 20).unwrap()
}

fn at(text: &str) -> Pointer {
    Pointer::parse(text).unwrap()
}

fn apply(edits: &Edits, document: &str) -> Result<String, Impossible> {
    let mut document = read(document);
    edits.apply(&mut document).map(|()| document.written())
}

fn redact(places: &[&str], document: &str) -> String {
    let edits = Edits {
        redact: places.iter().map(|place| at(place)).collect(),
        ..Edits::default()
    };
    apply(&edits, document).unwrap()
}

fn clamp(place: &str, bounds: (&str, &str), document: &str) -> Result<String, Impossible> {
    let bound = |text: &str| (!text.is_empty()).then(|| text.into());
    let bounds = Bounds {
        least: bound(bounds.0),
        most: bound(bounds.1),
    };
    let edits = Edits {
        clamp: vec![(at(place), bounds)],
        ..Edits::default()
    };
    apply(&edits, document)
}

fn patch(operations: &[Operation], document: &str) -> Result<String, Impossible> {
    let edits = Edits {
        patch: operations.to_vec(),
        ..Edits::default()
    };
    apply(&edits, document)
}

#[test]
fn what_is_put_out_is_so_in_any_case_and_nothing_else_changes() {
    let document =
        r#"{"b":1.0,"User":"me","a":[{"user":{"id":7}},{"other":12345678901234567890123}]}"#;
    assert_eq!(
        redact(&["/user", "/a/0/user"], document),
        r#"{"b":1.0,"User":"[redacted]","a":[{"user":"[redacted]"},{"other":12345678901234567890123}]}"#
    );
    assert_eq!(
        redact(&["/a/*/user", "/a/*/*"], document),
        r#"{"b":1.0,"User":"me","a":[{"user":"[redacted]"},{"other":"[redacted]"}]}"#
    );
    for nowhere in ["/x", "/a/7", "/a/-", "/b/x", "/a/00/user"] {
        let same = redact(&[nowhere], document);
        assert_eq!(same, document, "{nowhere}");
    }
    // As servers see it that fold more than ASCII.
    assert_eq!(
        redact(
            &["/user", "/token"],
            "{\"u\u{17f}er\":1,\"to\u{212a}en\":2}"
        ),
        "{\"u\u{17f}er\":\"[redacted]\",\"to\u{212a}en\":\"[redacted]\"}"
    );
    // Both are there: whichever a server takes is put out.
    assert_eq!(
        redact(&["/user"], r#"{"user":1,"USER":2}"#),
        r#"{"user":"[redacted]","USER":"[redacted]"}"#
    );
}

#[test]
fn numbers_are_kept_within_their_bounds() {
    for (bounds, before, after) in [
        (("", "4096"), "4097", "4096"),
        (("", "4096"), "4096", "4096"),
        (("", "4096"), "1e400", "4096"),
        (("", "4096"), "4096.5", "4096"),
        (("", "4096"), "-1", "-1"),
        (("0", "4096"), "-1", "0"),
        (
            ("", "9007199254740992"),
            "9007199254740993",
            "9007199254740992",
        ),
        (
            ("", "4096"),
            "99999999999999999999999999999999999999999999",
            "4096",
        ),
        // However little is between them, and however it is written.
        (
            ("", "1000000000000000000"),
            "1.000000000000000001e18",
            "1000000000000000000",
        ),
        (
            ("", "123456789012345678901234567890"),
            "123456789012345678901234567890.1",
            "123456789012345678901234567890",
        ),
        (("", "0.1"), "0.10000000000000000001", "0.1"),
        (("", "1"), "1.0000000000000001", "1"),
        (("1", ""), "0.99999999999999999999", "1"),
        (("", "1"), "1e999999999999999999999999999999999", "1"),
        (
            ("", "1"),
            "1e-99999999999999999999",
            "1e-99999999999999999999",
        ),
        (("0.2", "0.8"), "0.5", "0.5"),
        (("0.2", "0.8"), "0.1", "0.2"),
        (("0.2", "0.8"), "2", "0.8"),
        (("", "4096"), "null", "null"),
    ] {
        let (before, after) = (format!("{{\"N\":{before}}}"), format!("{{\"N\":{after}}}"));
        assert_eq!(
            clamp("/n", bounds, &before).as_ref(),
            Ok(&after),
            "{before}"
        );
    }
    assert_eq!(clamp("/n", ("", "1"), "{}").as_deref(), Ok("{}"));
    for none in ["\"9\"", "[9]", "{}", "true"] {
        let document = format!("{{\"n\":{none}}}");
        let refused = clamp("/n", ("", "1"), &document);
        assert_eq!(refused, Err(Impossible::NoNumber(at("/n"))), "{none}");
    }
}

/// RFC 6902, appendix A.
#[test]
fn a_patch_is_what_the_rfc_says() {
    use Operation::{Add, Copy, Move, Remove, Replace, Test};
    let qux = || read("\"qux\"");
    let done: [(&str, &[Operation], &str); 13] = [
        (
            r#"{"foo":"bar"}"#,
            &[Add(at("/baz"), qux())],
            r#"{"foo":"bar","baz":"qux"}"#,
        ),
        (
            r#"{"foo":["bar","baz"]}"#,
            &[Add(at("/foo/1"), qux())],
            r#"{"foo":["bar","qux","baz"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            &[Remove(at("/baz"))],
            r#"{"foo":"bar"}"#,
        ),
        (
            r#"{"foo":["bar","qux","baz"]}"#,
            &[Remove(at("/foo/1"))],
            r#"{"foo":["bar","baz"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":"bar"}"#,
            &[Replace(at("/baz"), read("\"boo\""))],
            r#"{"baz":"boo","foo":"bar"}"#,
        ),
        (
            r#"{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}"#,
            &[Move(at("/foo/waldo"), at("/qux/thud"))],
            r#"{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}"#,
        ),
        (
            r#"{"foo":["all","grass","cows","eat"]}"#,
            &[Move(at("/foo/1"), at("/foo/3"))],
            r#"{"foo":["all","cows","eat","grass"]}"#,
        ),
        (
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
            &[Test(at("/baz"), qux()), Test(at("/foo/1"), read("2.0"))],
            r#"{"baz":"qux","foo":["a",2,"c"]}"#,
        ),
        (
            r#"{"foo":"bar"}"#,
            &[Add(at("/child"), read(r#"{"grandchild":{}}"#))],
            r#"{"foo":"bar","child":{"grandchild":{}}}"#,
        ),
        (
            r#"{"/":9,"~1":10}"#,
            &[Test(at("/~01"), read("10"))],
            r#"{"/":9,"~1":10}"#,
        ),
        (
            r#"{"foo":["bar"]}"#,
            &[Add(at("/foo/-"), read(r#"["abc","def"]"#))],
            r#"{"foo":["bar",["abc","def"]]}"#,
        ),
        (
            r#"{"a":{"b":[1]}}"#,
            &[Copy(at("/a/b"), at("/c")), Add(at("/a/b/0"), read("null"))],
            r#"{"a":{"b":[null,1]},"c":[1]}"#,
        ),
        (
            r#"{"a":{"x":1,"y":[1,{"z":2}]}}"#,
            &[Test(at("/a"), read(r#"{"y":[1,{"z":2}],"x":1}"#))],
            r#"{"a":{"x":1,"y":[1,{"z":2}]}}"#,
        ),
    ];
    for (document, operations, after) in done {
        assert_eq!(patch(operations, document).as_deref(), Ok(after));
    }
    let impossible: [(&str, Operation, Impossible); 10] = [
        (
            r#"{"a":0.10000000000000000001}"#,
            Test(at("/a"), read("0.1")),
            Impossible::Differs(at("/a")),
        ),
        (
            r#"{"baz":"qux"}"#,
            Test(at("/baz"), read("\"bar\"")),
            Impossible::Differs(at("/baz")),
        ),
        (
            r#"{"foo":"bar"}"#,
            Add(at("/baz/bat"), qux()),
            Impossible::NoPlace(at("/baz/bat")),
        ),
        (
            r#"{"/":9,"~1":10}"#,
            Test(at("/~01"), read("\"10\"")),
            Impossible::Differs(at("/~01")),
        ),
        (
            r#"{"a":[1]}"#,
            Add(at("/a/2"), qux()),
            Impossible::NoPlace(at("/a/2")),
        ),
        (
            r#"{"a":[1]}"#,
            Add(at("/a/b"), qux()),
            Impossible::NoPlace(at("/a/b")),
        ),
        ("{}", Remove(at("/a")), Impossible::Nothing(at("/a"))),
        (
            r#"{"a":[1]}"#,
            Remove(at("/a/-")),
            Impossible::Nothing(at("/a/-")),
        ),
        (
            r#"{"A":1}"#,
            Replace(at("/a"), qux()),
            Impossible::Nothing(at("/a")),
        ),
        (
            r#"{"a":{"b":1}}"#,
            Move(at("/a"), at("/a/b")),
            Impossible::NoPlace(at("/a/b")),
        ),
    ];
    for (document, operation, why) in impossible {
        assert_eq!(patch(&[operation], document), Err(why));
    }
}

/// A patch that copies what it copied makes no more than it may.
#[test]
fn what_is_added_is_bounded() {
    let twice = Operation::Copy(at("/a"), at("/a/-"));
    let refused = patch(&vec![twice; 64], r#"{"a":["0123456789"]}"#);
    assert_eq!(refused, Err(Impossible::Large));
    let deeper = [
        Operation::Copy(at("/a"), at("/b")),
        Operation::Move(at("/b"), at("/a/a")),
    ];
    let mut nested = String::from(r#"{"a":{}}"#);
    for _ in 2..MAX_DEPTH {
        nested = patch(&deeper, &nested).unwrap();
    }
    assert_eq!(depth(&read(&nested)), MAX_DEPTH);
    assert_eq!(patch(&deeper, &nested), Err(Impossible::Deep));
}

proptest! {
    /// What is put out is nowhere in what is sent, wherever it stood below the place.
    #[test]
    fn nothing_of_a_secret_is_left(names in prop::collection::vec("[a-z]{1,3}", 1..6), upper in prop::bool::ANY) {
        let mut document = "\"secret\"".to_owned();
        for name in names.iter().rev() {
            let name = if upper { name.to_uppercase() } else { name.clone() };
            document = format!("{{\"{name}\":[{document},1]}}");
        }
        let place: String = names.iter().enumerate().map(|(n, name)| match n {
            0 => format!("/{name}"),
            _ => format!("/0/{name}"),
        }).collect();
        prop_assert!(!redact(&[&place], &document).contains("secret"));
        let each: String = names.iter().map(|_| "/*/*".to_owned()).collect();
        prop_assert!(!redact(&[&each], &document).contains("secret"));
    }
}

/// Many calls in one are changed each, and share what may be added.
#[test]
fn what_stands_inside_is_changed_and_what_is_around_it_bounded() {
    let edits = Edits {
        redact: vec![at("/user")],
        clamp: vec![],
        patch: vec![Operation::Add(at("/store"), read("false"))],
    };
    let inside = [at("/requests/*/params"), at("/input/converse")];
    let apply = |document: &str| {
        let mut document = read(document);
        edits
            .apply_inside(&mut document, &inside, &mut MAX_ADDED.clone())
            .unwrap();
        document.written()
    };
    assert_eq!(
        apply(r#"{"user":1,"requests":[{"params":{"user":2}},{"id":3},{"params":{}}]}"#),
        r#"{"user":"[redacted]","requests":[{"params":{"user":"[redacted]","store":false}},{"id":3},{"params":{"store":false}}]}"#
    );
    assert_eq!(
        apply(r#"{"user":1}"#),
        r#"{"user":"[redacted]","store":false}"#
    );
    let large = Edits {
        patch: vec![Operation::Add(
            at("/x"),
            Value::Text("x".repeat(MAX_ADDED / 2).into()),
        )],
        ..Edits::default()
    };
    let mut many = read(r#"{"requests":[{"params":{}},{"params":{}},{"params":{}}]}"#);
    assert_eq!(
        large.apply_inside(&mut many, &inside, &mut MAX_ADDED.clone()),
        Err(Impossible::Large)
    );
}

/// Any document, not deep.
fn document() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("a"), Just("A"), Just("b/c"), Just("~"), Just("")];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i32>().prop_map(|it| Value::Number(it.to_string().into())),
        any::<f64>()
            .prop_filter("JSON has no others", |it| it.is_finite())
            .prop_map(|it| Value::Number(serde_json::json!(it).to_string().into())),
        ".{0,6}".prop_map(|it: String| Value::Text(it.into())),
    ];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        let member = (name.clone(), inner.clone());
        let members = prop::collection::vec(member, 0..4).prop_map(|members| {
            let mut once: Vec<(Box<str>, Value)> = Vec::new();
            for (name, value) in members {
                if once.iter().all(|(other, _)| **other != *name) {
                    once.push((name.into(), value));
                }
            }
            Value::Object(once)
        });
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::Array),
            members
        ]
    })
}

fn place() -> impl Strategy<Value = Pointer> {
    let token = prop_oneof![
        Just("/a"),
        Just("/A"),
        Just("/b~1c"),
        Just("/~0"),
        Just("/"),
        Just("/0"),
        Just("/1"),
        Just("/-"),
        Just("/*"),
    ];
    prop::collection::vec(token, 0..4).prop_map(|tokens| at(&tokens.concat()))
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (place(), document()).prop_map(|(at, value)| Operation::Add(at, value)),
        place().prop_map(Operation::Remove),
        (place(), document()).prop_map(|(at, value)| Operation::Replace(at, value)),
        (place(), place()).prop_map(|(from, to)| Operation::Move(from, to)),
        (place(), place()).prop_map(|(from, to)| Operation::Copy(from, to)),
        (place(), document()).prop_map(|(at, value)| Operation::Test(at, value)),
    ]
}

proptest! {
    /// Whatever is changed, what is written has one reading, which is what it is.
    #[test]
    fn what_is_written_is_read_as_it_is(
        document in document(),
        redact in prop::collection::vec(place(), 0..3),
        clamp in prop::collection::vec(place(), 0..2),
        patch in prop::collection::vec(operation(), 0..5),
    ) {
        let bounds = Bounds { least: Some("-5".into()), most: Some("5".into()) };
        let edits = Edits {
            redact,
            clamp: clamp.into_iter().map(|place| (place, bounds.clone())).collect(),
            patch,
        };
        let mut changed = document.clone();
        if edits.apply(&mut changed).is_ok() {
            prop_assert_eq!(&read(&changed.written()), &changed);
            prop_assert!(depth(&changed) <= MAX_DEPTH);
        }
        // What only puts out can always be done, and a second time changes nothing.
        let puts_out = Edits { clamp: Vec::new(), patch: Vec::new(), ..edits };
        let mut once = document;
        puts_out.apply(&mut once).unwrap();
        let mut twice = once.clone();
        puts_out.apply(&mut twice).unwrap();
        prop_assert_eq!(once, twice);
    }
}
