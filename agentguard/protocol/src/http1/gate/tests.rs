use proptest::prelude::*;

use super::{Gate, Position};
use crate::HttpMalformed;
use crate::http1::{MAX_FIELDS, MAX_HEAD, MAX_TRAILERS};

struct Outcome {
    passed: Vec<u8>,
    refused: Option<HttpMalformed>,
    position: Position,
}

fn run<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut gate = Gate::default();
    let mut passed = Vec::new();
    for part in parts {
        gate.push(part);
        passed.extend_from_slice(&gate.passed().split());
        assert!(gate.held.len() <= MAX_HEAD + part.len());
    }
    Outcome {
        passed,
        refused: gate.refused().map(|r| r.why.clone()),
        position: gate.position(),
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn what_frames_in_one_way_passes_unchanged() {
    for stream in [
        GET.to_owned(),
        GET.repeat(3),
        "GET / HTTP/1.0\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{GET}"),
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n{GET}"),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
             5\r\nhello\r\n00a;x=\"y\"\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\n\r\n{GET}"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\nX-Sum: 1\r\n\r\n{GET}"
        ),
        "GET /\t HTTP/1.1".replace('\t', "") + "\r\nHost: a\r\nX: \tb \x09c\r\nY:\r\n\r\n",
    ] {
        let outcome = run([stream.as_bytes()]);
        assert_eq!(outcome.refused, None, "{stream:?}");
        assert_eq!(outcome.position, Position::BetweenRequests, "{stream:?}");
        assert_eq!(String::from_utf8(outcome.passed).unwrap(), stream);
    }
}

#[test]
fn empty_lines_before_a_request_are_dropped_rfc_9112_2_2() {
    let outcome = run([format!("\r\n\r\n{GET}\r\n{GET}").as_bytes()]);
    assert_eq!(outcome.passed, GET.repeat(2).as_bytes());
    let endless = run(["\r\n".repeat(1000).as_bytes()]);
    assert!(matches!(
        endless.refused,
        Some(HttpMalformed::RequestLine(_))
    ));
}

#[test]
fn smuggling_corpus() {
    use HttpMalformed as M;
    let field = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\nhello");
    let chunked = |body: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    };
    for (name, stream, matches) in [
        (
            "CL.TE",
            field("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            (|w| matches!(w, M::BothLengths)) as fn(&M) -> bool,
        ),
        (
            "TE.CL",
            field("Transfer-Encoding: chunked\r\nContent-Length: 5"),
            |w| matches!(w, M::BothLengths),
        ),
        (
            "differing lengths",
            field("Content-Length: 5\r\nContent-Length: 6"),
            |w| matches!(w, M::ContentLength),
        ),
        (
            "repeated length",
            field("Content-Length: 5\r\nContent-Length: 5"),
            |w| matches!(w, M::ContentLength),
        ),
        ("list of lengths", field("Content-Length: 5, 5"), |w| {
            matches!(w, M::ContentLength)
        }),
        ("signed length", field("Content-Length: +5"), |w| {
            matches!(w, M::ContentLength)
        }),
        ("negative length", field("Content-Length: -5"), |w| {
            matches!(w, M::ContentLength)
        }),
        ("hexadecimal length", field("Content-Length: 0x5"), |w| {
            matches!(w, M::ContentLength)
        }),
        ("empty length", field("Content-Length:"), |w| {
            matches!(w, M::ContentLength)
        }),
        (
            "length beyond 64 bits",
            field("Content-Length: 18446744073709551621"),
            |w| matches!(w, M::ContentLength),
        ),
        ("TE list", field("Transfer-Encoding: gzip, chunked"), |w| {
            matches!(w, M::TransferEncoding)
        }),
        ("TE identity", field("Transfer-Encoding: identity"), |w| {
            matches!(w, M::TransferEncoding)
        }),
        ("TE quoted", field("Transfer-Encoding: \"chunked\""), |w| {
            matches!(w, M::TransferEncoding)
        }),
        ("TE xchunked", field("Transfer-Encoding: xchunked"), |w| {
            matches!(w, M::TransferEncoding)
        }),
        (
            "TE twice",
            field("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
            |w| matches!(w, M::TransferEncoding),
        ),
        (
            "TE with a vertical tab",
            field("Transfer-Encoding: \x0bchunked"),
            |w| matches!(w, M::Control(0x0b)),
        ),
        (
            "TE in HTTP/1.0",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            |w| matches!(w, M::TransferEncoding),
        ),
        (
            "space before the colon",
            field("Transfer-Encoding : chunked"),
            |w| matches!(w, M::Field(_)),
        ),
        ("obs-fold", field("X: a\r\n b"), |w| {
            matches!(w, M::Field(_))
        }),
        (
            "fold in the first field",
            "GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::Field(_)),
        ),
        ("underscore for hyphen", field("Content_Length: 5"), |w| {
            matches!(w, M::AmbiguousField(_))
        }),
        ("empty name", field(": x"), |w| matches!(w, M::Field(_))),
        ("no colon", field("X"), |w| matches!(w, M::Field(_))),
        ("name with a space", field("Content Length: 5"), |w| {
            matches!(w, M::Field(_))
        }),
        ("name beyond ASCII", field("Hóst: b"), |w| {
            matches!(w, M::Field(_))
        }),
        (
            "bare LF at a line's end",
            "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::BareLf),
        ),
        ("bare LF in a value", field("X: a\nY: b"), |w| {
            matches!(w, M::BareLf)
        }),
        ("bare CR in a value", field("X: a\rY: b"), |w| {
            matches!(w, M::BareCr)
        }),
        ("CR CR LF", field("X: a\r\r\nY: b"), |w| {
            matches!(w, M::BareCr)
        }),
        ("NUL in a value", field("X: a\0b"), |w| {
            matches!(w, M::Control(0))
        }),
        (
            "two spaces in the request line",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::RequestLine(_)),
        ),
        (
            "tab in the request line",
            "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::RequestLine(_)),
        ),
        (
            "space in the target",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::RequestLine(_)),
        ),
        (
            "fragment in the target",
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::Target(_) | M::RequestLine(_)),
        ),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned(), |w| {
            matches!(w, M::RequestLine(_))
        }),
        (
            "HTTP/1.2",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::RequestLine(_)),
        ),
        (
            "HTTP/2.0",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
            |w| matches!(w, M::RequestLine(_)),
        ),
        ("chunk without a size", chunked("\r\nhello"), |w| {
            matches!(w, M::Chunk(_))
        }),
        (
            "chunk size with a prefix",
            chunked("0x5\r\nhello\r\n"),
            |w| matches!(w, M::Chunk(_)),
        ),
        ("chunk size with a sign", chunked("+5\r\nhello\r\n"), |w| {
            matches!(w, M::Chunk(_))
        }),
        ("chunk size with spaces", chunked("5 \r\nhello\r\n"), |w| {
            matches!(w, M::Chunk(_))
        }),
        (
            "chunk size beyond 64 bits",
            chunked("10000000000000005\r\nhello\r\n"),
            |w| matches!(w, M::Chunk(_)),
        ),
        ("chunk line ended by LF", chunked("5\nhello\r\n"), |w| {
            matches!(w, M::Chunk(_))
        }),
        ("LF in a chunk extension", chunked("5;a\nhello\r\n"), |w| {
            matches!(w, M::Chunk(_))
        }),
        ("CR without LF", chunked("5\rhello\r\n"), |w| {
            matches!(w, M::BareCr)
        }),
        (
            "data longer than its size",
            chunked("5\r\nhello!\r\n"),
            |w| matches!(w, M::Chunk(_)),
        ),
        ("data ended by LF", chunked("5\r\nhello\n"), |w| {
            matches!(w, M::Chunk(_))
        }),
        (
            "length in a trailer",
            chunked("0\r\nContent-Length: 5\r\n\r\n"),
            |w| matches!(w, M::Trailer(_)),
        ),
        ("trailers ended by LF", chunked("0\r\nX: a\n\n"), |w| {
            matches!(w, M::BareLf)
        }),
    ] {
        let mut smuggled = stream.into_bytes();
        smuggled.extend_from_slice(b"\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        for outcome in [run([&smuggled[..]]), run(smuggled.chunks(1))] {
            let why = outcome.refused.unwrap_or_else(|| panic!("{name} passed"));
            assert!(matches(&why), "{name}: {why:?}");
            assert_eq!(outcome.position, Position::Closed);
            let passed = String::from_utf8_lossy(&outcome.passed).into_owned();
            assert!(!passed.contains("smuggled"), "{name}: {passed:?}");
        }
    }
}

#[test]
fn bounds_refuse_with_431() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(MAX_HEAD));
    let many = format!(
        "GET / HTTP/1.1\r\n{}\r\n",
        "X: y\r\n".repeat(MAX_FIELDS + 1)
    );
    let trailers = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: {}",
        "x".repeat(MAX_TRAILERS)
    );
    let whole = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    for stream in [long, many, trailers, whole] {
        for size in [1, 1000, stream.len()] {
            let why = run(stream.as_bytes().chunks(size)).refused.unwrap();
            assert_eq!(why.status(), 431, "{why:?}");
        }
    }
    let most = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS));
    assert_eq!(run([most.as_bytes()]).refused, None);
}

#[test]
fn an_upgrade_waits_for_the_answer_rfc_9110_7_8() {
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for upgraded in [true, false] {
        let mut gate = Gate::default();
        gate.push(format!("{ask}GET \n").as_bytes());
        assert_eq!(gate.position(), Position::AwaitsUpgrade);
        assert_eq!(gate.passed().split(), ask);
        gate.answered(upgraded);
        if upgraded {
            assert_eq!(gate.passed().split(), "GET \n");
            assert_eq!(gate.position(), Position::Tunnel);
        } else {
            assert_eq!(gate.refused().unwrap().why, HttpMalformed::BareLf);
            assert!(gate.passed().is_empty());
        }
    }
}

#[test]
fn the_end_of_the_stream_inside_a_head_is_refused() {
    let mut gate = Gate::default();
    gate.push(b"GET / HT");
    gate.end();
    let refused = gate.refused().unwrap();
    assert_eq!(refused.why, HttpMalformed::Truncated);
    assert!(!refused.in_body);
    let mut gate = Gate::default();
    gate.push(GET.as_bytes());
    gate.end();
    assert_eq!(gate.refused(), None);
}

#[test]
fn a_broken_body_is_told_from_a_broken_head() {
    let mut gate = Gate::default();
    gate.push(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz");
    assert!(gate.refused().unwrap().in_body);
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        stream in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "(GET|POST) /[a-z]{0,3} HTTP/1.[01]\r\n(Host: a\r\n|Content-Length: [0-9]{1,2}\r\n|Transfer-Encoding: chunked\r\n|X:[ -~]{0,5}\r?\n){0,3}\r\n([0-9a-f]\r\n[a-z]{0,9}\r\n|0\r\n(X: y\r\n)?\r\n|GET / HTTP/1.1\r\n\r\n){0,4}"
                .prop_map(String::into_bytes),
        ],
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let whole = run([&stream[..]]);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let split = run(cuts.windows(2).map(|w| &stream[w[0]..w[1]]));
        prop_assert_eq!(&split.refused, &whole.refused);
        prop_assert_eq!(split.position, whole.position);
        if whole.refused.is_none() {
            prop_assert_eq!(split.passed, whole.passed);
        }
    }
}
