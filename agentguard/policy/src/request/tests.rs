use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::{Query, Request, RequestMatch};
use crate::pattern::{Glob, Wildcard};
use crate::steps::Steps;

fn patterns(texts: &[&str]) -> Vec<Wildcard> {
    texts.iter().map(|text| Wildcard::new(text)).collect()
}

fn with_query<'a>(query: &'a Query) -> Request<'a> {
    Request {
        query: Some(query),
        ..Request::new("GET", "/")
    }
}

#[test]
fn a_parameter_that_servers_read_in_two_ways_is_denied_in_either_and_allowed_in_both() {
    let says = RequestMatch {
        query: vec![("action".to_owned(), patterns(&["read", "list-*"]))],
        ..RequestMatch::default()
    };
    for (query, allowed, denied) in [
        ("action=read", true, true),
        ("x=1&action=list-all&y", true, true),
        ("action=%72ead", true, true),
        ("%61ction=read", true, true),
        ("action=write", false, false),
        ("action", false, false),
        ("", false, false),
        ("x=action=read", false, false),
        ("Action=read", false, false),
        // Which one counts is the server's to say.
        ("action=read&action=write", false, true),
        ("action=write&action=read", false, true),
        // `;` separates, or it does not.
        ("x=1;action=read", false, true),
        ("action=read;x=1", false, true),
        ("action=list-a;b", true, true),
        // `+` is a space, or it is not.
        ("action=list-a+b", true, true),
    ] {
        let text = Query::new(query);
        let request = with_query(&text);
        assert_eq!(matches(&says, &request, true), allowed, "allow {query}");
        assert_eq!(matches(&says, &request, false), denied, "deny {query}");
    }
    assert!(!matches(&says, &Request::new("GET", "/"), true));
    assert!(!matches(&says, &Request::new("GET", "/"), false));
}

#[test]
fn a_plus_is_a_space_or_itself() {
    let says = |pattern| RequestMatch {
        query: vec![("q".to_owned(), patterns(&[pattern]))],
        ..RequestMatch::default()
    };
    let query = Query::new("q=a+b");
    let both = Query::new("x=1;q=a+b");
    for pattern in ["a b", "a+b"] {
        assert!(
            matches(&says(pattern), &with_query(&both), false),
            "{pattern}"
        );
        assert!(
            !matches(&says(pattern), &with_query(&query), true),
            "{pattern}"
        );
        assert!(
            matches(&says(pattern), &with_query(&query), false),
            "{pattern}"
        );
    }
}

#[test]
fn fields_are_allowed_as_they_stand_and_denied_however_they_are_read() {
    let says = RequestMatch {
        fields: vec![(
            HeaderName::from_static("content-type"),
            patterns(&["application/json*"]),
        )],
        ..RequestMatch::default()
    };
    for (values, allowed, denied) in [
        (&["application/json"][..], true, true),
        (&["application/json; charset=utf-8"], true, true),
        (&["Application/JSON"], false, true),
        (&["text/html"], false, false),
        (&["application/json", "text/html"], false, true),
        (&["text/html", "application/json"], false, true),
        (&[], false, false),
    ] {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append("content-type", HeaderValue::from_static(value));
        }
        let request = Request {
            fields: Some(&fields),
            ..Request::new("POST", "/")
        };
        assert_eq!(matches(&says, &request, true), allowed, "allow {values:?}");
        assert_eq!(matches(&says, &request, false), denied, "deny {values:?}");
    }
    assert!(!matches(&says, &Request::new("POST", "/"), false));
}

#[test]
fn a_field_that_is_split_is_denied_as_it_is_read_when_joined() {
    let says = RequestMatch {
        fields: vec![(
            HeaderName::from_static("x-scope"),
            patterns(&["*admin, all*"]),
        )],
        ..RequestMatch::default()
    };
    let mut fields = HeaderMap::new();
    for value in ["admin", "all"] {
        fields.append("x-scope", HeaderValue::from_static(value));
    }
    let request = Request {
        fields: Some(&fields),
        ..Request::new("POST", "/")
    };
    assert!(matches(&says, &request, false));
    assert!(!matches(&says, &request, true));
}

#[test]
fn a_cookie_in_pieces_is_one_rfc_9113_8_2_3() {
    let says = |pattern| RequestMatch {
        fields: vec![(HeaderName::from_static("cookie"), patterns(&[pattern]))],
        ..RequestMatch::default()
    };
    let mut fields = HeaderMap::new();
    for value in ["a=1", "b=2"] {
        fields.append("cookie", HeaderValue::from_static(value));
    }
    let request = Request {
        fields: Some(&fields),
        ..Request::new("GET", "/")
    };
    for allows in [true, false] {
        assert!(matches(&says("a=1; b=2"), &request, allows));
        assert!(matches(&says("*; b=2"), &request, allows));
        assert!(!matches(&says("a=1, b=2"), &request, allows));
    }
    assert!(!matches(&says("a=1"), &request, true));
    assert!(matches(&says("a=1"), &request, false));
}

#[test]
fn a_request_is_over_a_size_from_one_byte_more() {
    let says = RequestMatch {
        body_over: Some(10),
        ..RequestMatch::default()
    };
    for (body, over) in [(0, false), (10, false), (11, true)] {
        let request = Request {
            body,
            ..Request::new("POST", "/")
        };
        assert_eq!(matches(&says, &request, false), over, "{body}");
        assert!(says.but_for_size(&request, false, &Steps::new()).unwrap());
    }
}

#[test]
fn only_what_a_rule_looks_at_is_shown_of_a_query() {
    for (query, shown) in [
        ("action=read&token=s3cret", "action=read&token=…"),
        ("%61ction=read", "%61ction=read"),
        ("action=read;token=s3cret", "action=…;…"),
        ("flag&action", "flag&action"),
        ("0123456789abcdef0", "…"),
        ("", ""),
        ("s3cret;x=1", "…"),
        ("token=", "token"),
    ] {
        let got = Query::new(query).redacted(|name| name == "action");
        assert_eq!(got, shown, "{query}");
    }
}

fn matches(says: &RequestMatch, request: &Request<'_>, allows: bool) -> bool {
    says.matches(request, allows, &Steps::new()).unwrap()
}

#[test]
fn an_encoded_slash_stays_one_where_another_character_is_escaped() {
    let says = RequestMatch {
        paths: vec![Glob::new("a%2Fb:c").unwrap()],
        ..RequestMatch::default()
    };
    for path in ["/a%2Fb:c", "/a%2Fb%3Ac"] {
        assert!(matches(&says, &Request::new("GET", path), false), "{path}");
    }
    for path in ["/a/b:c", "/a%252Fb:c"] {
        assert!(!matches(&says, &Request::new("GET", path), false), "{path}");
    }
}

/// An agent says how many values there are: once the steps are spent, none is tried any more.
#[test]
fn what_cannot_be_told_any_more_is_not_tried() {
    let query = Query::new("b=a&".repeat(7_000));
    let mut fields = HeaderMap::new();
    for _ in 0..7_000 {
        fields.append(http::header::ACCEPT, HeaderValue::from_static("a"));
    }
    let request = Request {
        fields: Some(&fields),
        ..with_query(&query)
    };
    let by_query = RequestMatch {
        query: vec![("b".to_owned(), patterns(&["x*y*z"]))],
        ..RequestMatch::default()
    };
    let by_field = RequestMatch {
        fields: vec![(http::header::ACCEPT, patterns(&["x*y*z"]))],
        ..RequestMatch::default()
    };
    for says in [by_query, by_field] {
        let steps = Steps::new();
        while says.matches(&request, false, &steps).is_some() {}
        let before = steps.refused();
        for _ in 0..10 {
            assert_eq!(says.matches(&request, false, &steps), None);
        }
        assert_eq!(steps.refused(), before + 10);
        // What is decided by something else still is.
        let put = RequestMatch {
            methods: vec!["PUT".to_owned()],
            ..says
        };
        assert_eq!(put.matches(&request, false, &steps), Some(false));
    }
}
