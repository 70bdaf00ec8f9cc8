use super::{ListFilter, MAX_LIST, may_list};

/// What is held of an answer in one piece: the definitions, a line each, or why it cannot be read.
fn listed(events: bool, answer: &str) -> Result<Vec<String>, String> {
    let mut held = ListFilter::new(events);
    held.push(answer.as_bytes());
    let mut list = held.finish().map_err(|why| why.to_string())?;
    let definitions = list.definitions().into_iter();
    Ok(definitions
        .map(|it| format!("{} {}", it.name, it.text))
        .collect())
}

#[test]
fn definitions_are_read_in_their_canonical_form_wherever_a_message_lists_them() {
    let read = r#"read {"description":"Reads.","name":"read"}"#;
    for (events, answer, expected) in [
        (false, "", &[][..]),
        (false, r#"{"id":1,"error":{"code":1}}"#, &[]),
        (
            false,
            r#"{"id":1,"result":{"tools":[{"name":"read", "description":"Re\u0061ds."},{"name":7}],"nextCursor":"2"}}"#,
            &[read, r#" {"name":7}"#],
        ),
        (
            false,
            r#"[{"result":{"tools":[{"name":"read","description":"Reads."}]}},{"Result":{"TOOLS":[{"name":"b"}]}}]"#,
            &[read, r#"b {"name":"b"}"#],
        ),
        (
            true,
            "data: {\"method\":\"notifications/progress\"}\n\nevent: message\ndata: {\"result\":{\"tools\":\ndata: [{\"description\":\"Reads.\",\"name\":\"read\"}]}}\n\nevent: other\ndata: {\"result\":{\"tools\":[{}]}}\n\n",
            &[read],
        ),
    ] {
        assert_eq!(listed(events, answer).unwrap(), expected, "{answer}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_or_does_not_fit_is_not_read() {
    for (events, answer, why) in [
        (
            false,
            r#"{"result":{"tools":[{"name":"a","description":"x","description":"y"}]}}"#.to_owned(),
            "the JSON has a member twice",
        ),
        (
            false,
            r#"{"result":{"tools":[{"name":"a""#.to_owned(),
            "the JSON ends in the middle",
        ),
        (true, "data: {\"result\":\n\n".to_owned(), "the JSON ends"),
        (
            false,
            format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_LIST)),
            "the JSON takes more memory",
        ),
        // Each of them fits alone.
        (
            true,
            format!("data: [{}0]\n\n", "0,".repeat(60_000)).repeat(3),
            "the JSON takes more memory",
        ),
    ] {
        let told = listed(events, &answer).unwrap_err();
        assert!(told.starts_with(why), "{told}");
    }
}

#[test]
fn what_is_not_shown_is_left_out_with_what_has_no_name_and_the_rest_is_written_anew() {
    let tools = r#"{"tools":[{"name":"a"},{"title":"x"},{"name":"b"}]}"#;
    let document = format!("{{\"result\":{tools},\"id\":1}}");
    let stream =
        format!(": ping\nid: 7\ndata: {{\"result\":{tools}}}\n\nevent: other\ndata: 1\n\n");
    for (events, answer, written) in [
        (
            false,
            document,
            r#"{"id":1,"result":{"tools":[{"name":"b"}]}}"#,
        ),
        (
            true,
            stream,
            "id: 7\ndata: {\"result\":{\"tools\":[{\"name\":\"b\"}]}}\n\nevent: other\nid: 7\ndata: 1\n\n",
        ),
    ] {
        let mut held = ListFilter::new(events);
        held.push(answer.as_bytes());
        let mut list = held.finish().unwrap();
        assert_eq!(list.leave_out(&[false, true, true]), ["a", ""]);
        assert_eq!(String::from_utf8(list.written()).unwrap(), written);
    }
}

#[test]
fn what_can_list_tools_is_known_by_the_name_however_it_is_written() {
    for (bytes, may) in [
        (r#"{"result":{"content":[]}}"#, false),
        (r#"{"result":{"text":"\u20ac"}}"#, false),
        (r#"{"result":{"tools":[]}}"#, true),
        (r#"{"result":{"Tools":[]}}"#, true),
        (r#"{"result":{"\u0074ools":[]}}"#, true),
    ] {
        assert_eq!(may_list(bytes.as_bytes()), may, "{bytes}");
    }
}
