use proptest::prelude::*;

use super::{Said, SaidReader};

/// What is told of a call that comes in pieces of so many bytes, one line each, texts as a whole.
fn told(body: &str, size: usize) -> Vec<String> {
    let (mut lines, mut text, mut aside) = (Vec::new(), String::new(), 0);
    let mut reader = SaidReader::default();
    let mut tell = |said: Said<'_>| {
        if let (1.., Said::Value(_)) = (aside, said) {
            lines.push(format!("{aside} bytes"));
            aside = 0;
        }
        match said {
            Said::Value(None) => lines.push("value".to_owned()),
            Said::Value(Some(name)) => lines.push(format!("value {name}")),
            Said::Text(piece) => text.push_str(piece),
            Said::End => lines.push(format!("text {}", std::mem::take(&mut text))),
            Said::Aside(bytes) => aside += bytes,
        }
    };
    for piece in body.as_bytes().chunks(size) {
        reader.push(piece, &mut tell).unwrap();
    }
    reader.finish(&mut tell).unwrap();
    if aside > 0 {
        lines.push(format!("{aside} bytes"));
    }
    lines
}

#[test]
fn each_value_is_told_with_its_name_and_without_its_escapes() {
    let body =
        r#"{"model":"m","n":12,"on":[true,null,false],"o":{"a\u0062":"x\n\"\u00e9\ud83d\ude42"}}"#;
    for size in [1, 3, 1000] {
        assert_eq!(
            told(body, size),
            [
                "value",
                "value model",
                "text m",
                "value n",
                "text 12",
                "value on",
                "value",
                "text true",
                "value",
                "text null",
                "value",
                "text false",
                "value o",
                "value ab",
                "text x\n\"é🙂",
            ],
            "{size}"
        );
    }
}

#[test]
fn what_may_be_a_picture_is_told_by_its_length() {
    for (body, expected) in [
        (
            r#"{"url":"data:image\/png;base64,AAAA"}"#,
            ["value", "value url", "26 bytes"],
        ),
        (
            r#"{"image_url":"AAAA"}"#,
            ["value", "value image_url", "4 bytes"],
        ),
        (
            r#"{"imageUrl":"AAAA"}"#,
            ["value", "value imageUrl", "4 bytes"],
        ),
        (r#"{"data":"é"}"#, ["value", "value data", "2 bytes"]),
        (r#"{"bytes":"AAAA"}"#, ["value", "value bytes", "4 bytes"]),
        // Of these a model reads what is in them.
        (r#"{"text":"AAAA"}"#, ["value", "value text", "text AAAA"]),
        (r#"{"data":1234}"#, ["value", "value data", "text 1234"]),
    ] {
        assert_eq!(told(body, 5), expected, "{body}");
    }
    assert_eq!(
        told(r#"{"url":{"description":"b"},"data":[["c"]]}"#, 5),
        [
            "value",
            "value url",
            "value description",
            "text b",
            "value data",
            "value",
            "value",
            "text c"
        ]
    );
}

#[test]
fn what_is_no_json_is_not_told_of_to_its_end() {
    let read = |body: &str| {
        let mut reader = SaidReader::default();
        reader.push(body.as_bytes(), &mut |_| {})?;
        reader.finish(&mut |_| {})
    };
    assert!(read(r#"{"a":"b"#).is_err());
    assert!(read(r#"{"a":"b"}}"#).is_err());
    assert!(read(r#"{"a":1,"a":2}"#).is_err());
    assert!(read(&"[".repeat(10_000)).is_err());
}

proptest! {
    #[test]
    fn no_text_is_left_out(texts in proptest::collection::vec(".{0,40}", 0..8), size in 1_usize..20) {
        let body = serde_json::to_string(&texts).unwrap();
        let found = told(&body, size).into_iter().filter_map(|it| it.strip_prefix("text ").map(str::to_owned));
        prop_assert_eq!(found.collect::<Vec<_>>(), texts);
    }
}
