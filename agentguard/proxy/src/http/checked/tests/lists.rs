//! Google's list, item by item.

use agentguard_protocol::json::Place;
use agentguard_protocol::llm::Endpoint;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::{MAX_EVENT, Passing};

const LIST: Endpoint = Endpoint::GenerateContent { stream: true };

fn passing(cuts: bool) -> Passing {
    Passing::of(LIST, "application/json; charset=UTF-8", cuts)
}

fn item(part: &Value) -> Value {
    json!({ "candidates": [{ "content": { "parts": [part] } }] })
}

fn calls(tool: &str) -> Value {
    item(&json!({ "functionCall": { "name": tool, "args": { "a": ["}]", {}] } } }))
}

/// A list of these items as Google's servers write it, each with what stands before it, and its end.
fn list(items: &[Value]) -> Vec<String> {
    let begins = |at| if at == 0 { "[" } else { ",\r\n" };
    let items = items.iter().enumerate();
    let mut list: Vec<String> = items
        .map(|(at, item)| format!("{}{item:#}", begins(at)))
        .collect();
    list.push("\n]".to_owned());
    list.push("\n".to_owned());
    list
}

/// A text, a call of this tool, and another text.
fn said(tool: &str) -> Vec<String> {
    let text = |text: &str| item(&json!({ "text": text }));
    list(&[text("x}],{[\"\\"), calls(tool), text("y")])
}

fn went(passing: &Passing) -> Value {
    serde_json::from_slice(&passing.went).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_item_of_a_list_goes_on_as_soon_as_it_is_whole(
        sizes in vec(1_usize..300, 1..20),
        cuts in any::<bool>(),
    ) {
        let events = said("look");
        let all = events.concat();
        let ends = events.iter().scan(0, |end, event| {
            *end += event.len();
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        let (mut passing, mut came) = (passing(cuts), 0);
        for size in sizes.iter().cycle() {
            let piece = &all[came..all.len().min(came + size)];
            if piece.is_empty() {
                break;
            }
            prop_assert!(passing.take(piece.as_bytes()));
            came += piece.len();
            let whole = ends.iter().rfind(|end| **end <= came).copied().unwrap_or_default();
            let went = std::str::from_utf8(&passing.went).unwrap();
            // Space behind an item goes on with what it comes with.
            prop_assert!(all.starts_with(went));
            prop_assert_eq!(went.trim_end(), all[..whole].trim_end());
        }
        prop_assert_eq!(passing.checked.size(), 0);
        prop_assert_eq!(passing.checked.gone(), Some(Place::Over));
    }

    #[test]
    fn a_list_ends_before_the_item_that_asks(sizes in vec(1_usize..300, 1..20)) {
        let events = said("shell");
        let mut passing = passing(false);
        prop_assert!(!passing.all(events.concat().as_bytes(), &sizes));
        prop_assert_eq!(&passing.went, events[0].as_bytes());
        prop_assert_eq!(passing.checked.gone(), Some(Place::Behind));
    }

    #[test]
    fn a_call_is_cut_out_of_a_list_in_pieces(
        sizes in vec(1_usize..300, 1..20),
        items in vec(0_usize..4, 1..6),
    ) {
        let (more, text) = (json!({ "functionCall": { "partialArgs": [] } }), json!({ "text": "x" }));
        // What is more of a call that is cut out leaves no item, and with it no comma.
        let made = [calls("shell"), item(&more), item(&text), calls("look")];
        let items: Vec<Value> = items.iter().map(|which| made[*which].clone()).collect();
        let mut passing = passing(true);
        prop_assert!(passing.all(list(&items).concat().as_bytes(), &sizes));
        let went = went(&passing);
        let mut expected = Vec::new();
        let mut cut = false;
        for came in &items {
            if *came == made[0] {
                expected.push(item(&json!({ "text": "No shell." })));
                cut = true;
            } else if *came != made[1] || !cut {
                expected.push(came.clone());
                cut &= *came != made[3];
            }
        }
        prop_assert_eq!(went, Value::Array(expected));
        prop_assert_eq!(passing.checked.gone(), Some(Place::Over));
    }
}

/// Where a call is more of one before the list, no item is left of the first ones.
#[test]
fn a_list_may_begin_with_an_item_that_is_left_out() {
    let text = item(&json!({ "text": "x" }));
    let mut cutter = agentguard_protocol::llm::Cutter::new(LIST);
    cutter.cut("shell".to_owned(), "No shell.".to_owned());
    let more = item(&json!({ "functionCall": { "partialArgs": [] } }));
    // The cutter is told of the call by itself, so that what comes is more of it.
    let call = calls("shell").to_string();
    cutter.message(call.as_bytes()).unwrap().unwrap();
    let [first, second, end] = [format!("[{more}"), format!(",{text}"), "\n]".to_owned()];
    let (written, gone) = cutter
        .list(first.as_bytes(), Place::Before, false)
        .unwrap()
        .unwrap();
    assert_eq!((written.as_slice(), gone), (&b"["[..], Place::Opened));
    let (written, gone) = cutter
        .list(second.as_bytes(), gone, false)
        .unwrap()
        .unwrap();
    assert_eq!(
        (written, gone),
        (text.to_string().into_bytes(), Place::Behind)
    );
    assert_eq!(cutter.list(end.as_bytes(), gone, true), Ok(None));
    // All at once, and none at all.
    let all = [first, second, end].concat();
    let (written, gone) = cutter
        .list(all.as_bytes(), Place::Before, true)
        .unwrap()
        .unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!((written, gone), (json!([text]), Place::Over));
    let none = cutter.list(format!("[{more}]").as_bytes(), Place::Before, true);
    assert_eq!(none, Ok(Some((b"[]".to_vec(), Place::Over))));
}

/// What cannot be read may ask for any tool: in the middle of the list, and where a name is too long to be told.
#[test]
fn an_item_that_cannot_be_read_does_not_go_on() {
    let first = said("look").swap_remove(0);
    for (second, goes) in [
        (format!(",{}", calls("look")), true),
        (format!(",{}", calls(&"l".repeat(300))), false),
        (r#",{"candidates":[],"candidates":[]}"#.to_owned(), false),
        (",}".to_owned(), false),
        ("]]".to_owned(), false),
    ] {
        let mut passing = passing(false);
        assert!(passing.all(first.as_bytes(), &[7]));
        assert_eq!(passing.take(second.as_bytes()), goes, "{second}");
        let expected = match goes {
            true => first.len() + second.len(),
            // What ends the list is no item.
            false if second == "]]" => first.len() + 1,
            false => first.len(),
        };
        assert_eq!(passing.went.len(), expected, "{second}");
    }
    // It breaks off.
    let mut passing = passing(false);
    assert!(!passing.all(&said("look").concat().as_bytes()[..first.len() + 9], &[7]));
    assert_eq!(passing.went, first.as_bytes());
}

/// A document that is no list goes on as one.
#[test]
fn a_document_in_the_place_of_a_list_is_decided_as_a_whole() {
    for (tool, cuts, goes) in [
        ("look", false, true),
        ("shell", false, false),
        ("shell", true, true),
    ] {
        let mut passing = passing(cuts);
        assert_eq!(passing.all(calls(tool).to_string().as_bytes(), &[5]), goes);
        if !goes {
            assert_eq!(
                (passing.went.as_slice(), passing.checked.gone()),
                (&b""[..], Some(Place::Before))
            );
        } else {
            let expected = match cuts {
                true => item(&json!({ "text": "No shell." })),
                false => calls(tool),
            };
            assert_eq!(went(&passing), expected);
            assert_eq!(passing.checked.gone(), Some(Place::Over));
        }
    }
}

#[test]
fn an_item_is_held_up_to_a_bound() {
    let padded = |pad: usize| format!(",{}", item(&json!({ "text": "x".repeat(pad) })));
    let beside = padded(0).len();
    for (size, goes) in [(MAX_EVENT, true), (MAX_EVENT + 1, false)] {
        let mut events = said("look");
        events.insert(1, padded(size - beside));
        let all = events.concat();
        for piece in [16 * 1024, all.len()] {
            let mut passing = passing(false);
            assert_eq!(passing.all(all.as_bytes(), &[piece]), goes);
            let expected = if goes { &all } else { &events[0] };
            assert!(passing.went == expected.as_bytes(), "{size} {piece}");
        }
    }
}
