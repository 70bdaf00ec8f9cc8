use flate2::{Compress, Compression, FlushCompress};
use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};
use proptest::prelude::*;

use super::extensions::{Agreed, NotExtensions, Offers};
use super::{Assembler, Ends, Head, Message, Opcode, Part, Reader, Side, Violation, close};

const MASK: [u8; 4] = [1, 2, 3, 4];

/// A frame whose payload is not masked by its writer: the first byte, and the payload.
fn frame(side: Side, first: u8, payload: &[u8]) -> Vec<u8> {
    let bit = if side == Side::Client { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(bit | u8::try_from(length).unwrap()),
        length @ 126..0x1_0000 => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    if side == Side::Client {
        bytes.extend_from_slice(&MASK);
        bytes.extend(
            payload
                .iter()
                .zip(MASK.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
    } else {
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// What was read: an opcode and what it carries, of each control frame and message.
type Read = Vec<(Opcode, Vec<u8>)>;

/// Reads pieces, and says with the fault how many bytes came before it.
fn read(reader: &mut Reader, bytes: &[u8], cut: usize) -> (Read, Result<usize, Violation>) {
    let (mut read, mut at, mut have) = (Vec::new(), 0, 0);
    let mut heads = Vec::new();
    let mut payload = Vec::new();
    loop {
        let part = match reader.next(&bytes[at..have]) {
            Ok(part) => part,
            Err(violation) => return (read, Err(violation)),
        };
        at += match part {
            None if have == bytes.len() => return (read, Ok(at)),
            None => {
                have = (have + cut).min(bytes.len());
                0
            }
            Some(Part::Ignored { used }) => used,
            Some(Part::Control { used, opcode, code }) => {
                let code = code.map(|code| code.to_be_bytes().to_vec());
                read.push((opcode, code.unwrap_or_default()));
                used
            }
            Some(Part::Head { used, head }) => {
                heads.push(head);
                used
            }
            Some(Part::Payload { used, plain, ends }) => {
                payload.extend_from_slice(plain);
                if ends == Ends::Message {
                    read.push((heads[0].opcode, std::mem::take(&mut payload)));
                    heads.clear();
                }
                used
            }
        };
    }
}

fn read_all(side: Side, bytes: &[u8]) -> (Read, Result<usize, Violation>) {
    let whole = read(&mut Reader::new(side, false), bytes, bytes.len().max(1));
    for cut in [1, 2, 7] {
        let parts = read(&mut Reader::new(side, false), bytes, cut);
        assert_eq!(parts, whole, "{cut}");
    }
    whole
}

#[test]
fn messages_of_every_length_rfc_6455_5_2() {
    for side in [Side::Client, Side::Server] {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![b'a'; length];
            let bytes = frame(side, 0x81, &payload);
            let read = read_all(side, &bytes);
            assert_eq!(read, (vec![(Opcode::Text, payload)], Ok(bytes.len())));
        }
    }
}

#[test]
fn a_message_in_fragments_with_a_ping_between_rfc_6455_5_4() {
    let side = Side::Client;
    let bytes = [
        frame(side, 0x02, b"one "),
        frame(side, 0x89, b"?"),
        frame(side, 0x00, b""),
        frame(side, 0x80, b"message"),
        frame(side, 0x88, b"\x03\xe8bye"),
        b"whatever".to_vec(),
    ]
    .concat();
    let (read, ended) = read_all(side, &bytes);
    assert_eq!(ended, Ok(bytes.len()));
    assert_eq!(
        read,
        [
            (Opcode::Ping, vec![]),
            (Opcode::Binary, b"one message".to_vec()),
            (Opcode::Close, 1000u16.to_be_bytes().to_vec()),
        ]
    );
}

#[test]
fn what_is_no_websocket() {
    use Side::{Client, Server};
    let f = frame;
    let long = |first, length: u64| [&[first, 127][..], &length.to_be_bytes()].concat();
    for (side, bytes, violation) in [
        (Server, f(Client, 0x81, b"a"), Violation::Masked),
        (Client, f(Server, 0x81, b"a"), Violation::NotMasked),
        (Server, f(Server, 0xc1, b"a"), Violation::ReservedBit),
        (Server, f(Server, 0xa1, b"a"), Violation::ReservedBit),
        (Server, f(Server, 0x91, b"a"), Violation::ReservedBit),
        (Server, f(Server, 0xc9, b"a"), Violation::ReservedBit),
        (Server, f(Server, 0x83, b""), Violation::Opcode(3)),
        (Server, f(Server, 0x8f, b""), Violation::Opcode(15)),
        (Server, vec![0x82, 126, 0, 125], Violation::LengthNotMinimal),
        (Server, long(0x82, 65_535), Violation::LengthNotMinimal),
        (Server, long(0x82, 1 << 63), Violation::LengthTooLong),
        (
            Server,
            f(Server, 0x89, &[0; 126]),
            Violation::ControlTooLong,
        ),
        (Server, f(Server, 0x09, b""), Violation::ControlFragmented),
        (Server, f(Server, 0x80, b""), Violation::NothingToContinue),
        (
            Server,
            f(Server, 0x01, b"").repeat(2),
            Violation::NotContinued,
        ),
        (Server, f(Server, 0x88, b"\x03"), Violation::CloseLength),
        (
            Server,
            f(Server, 0x88, b"\x03\xff"),
            Violation::CloseCode(1023),
        ),
        (
            Server,
            f(Server, 0x88, b"\x03\xed"),
            Violation::CloseCode(1005),
        ),
        (Client, f(Client, 0x88, b"\x03\xe8\xff"), Violation::NotUtf8),
        (Client, f(Client, 0x81, b"a\xff"), Violation::NotUtf8),
        (
            Server,
            f(Server, 0x81, "ü".as_bytes().split_last().unwrap().1),
            Violation::NotUtf8,
        ),
    ] {
        assert_eq!(read_all(side, &bytes).1, Err(violation), "{bytes:x?}");
    }
    // A length of 63 bits is one, and nobody waits for all of it.
    let mut reader = Reader::new(Server, false);
    let bytes = long(0x82, (1 << 63) - 1);
    assert!(matches!(
        reader.next(&bytes),
        Ok(Some(Part::Head { used: 10, .. }))
    ));
}

#[test]
fn a_character_may_be_cut_by_a_frame() {
    let text = "ein Zeichen: ü, und noch eines: 😀";
    for cut in 0..text.len() {
        let (one, two) = text.as_bytes().split_at(cut);
        let bytes = [
            frame(Side::Server, 0x01, one),
            frame(Side::Server, 0x80, two),
        ]
        .concat();
        let read = read_all(Side::Server, &bytes).0;
        assert_eq!(read, [(Opcode::Text, text.as_bytes().to_vec())]);
    }
}

#[test]
fn a_close_frame_keeps_what_must_not_be_cut() {
    for side in [Side::Client, Side::Server] {
        for (sentence, cut) in [("short".to_owned(), false), ("langäöü".repeat(30), true)] {
            let bytes = close::frame(side, close::POLICY_VIOLATION, &sentence, " (explain 1)");
            let read = read_all(side, &bytes);
            let code = close::POLICY_VIOLATION.to_be_bytes().to_vec();
            assert_eq!(read, (vec![(Opcode::Close, code)], Ok(bytes.len())));
            assert!(bytes.len() <= 2 + 4 + 125);
            if side == Side::Server {
                let reason = std::str::from_utf8(&bytes[4..]).unwrap();
                assert!(reason.ends_with(" (explain 1)"), "{reason}");
                assert_eq!(reason.contains('…'), cut);
            }
        }
    }
    assert_eq!(close::frame(Side::Server, 1001, "", ""), [0x88, 2, 3, 0xe9]);
}

/// Messages as RFC 7692, 7.2.1 has them.
struct Deflater(Compress);

impl Deflater {
    fn new() -> Self {
        Self(Compress::new(Compression::best(), false))
    }

    fn message(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 1024 + 2 * text.len()];
        let before = self.0.total_out();
        self.0
            .compress(text, &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(usize::try_from(self.0.total_out() - before).unwrap());
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
        out.truncate(out.len() - 4);
        out
    }
}

const fn deflated(opcode: Opcode) -> Head {
    Head {
        fin: true,
        deflated: true,
        opcode,
        mask: None,
        length: 0,
    }
}

fn assemble(assembler: &mut Assembler, head: &Head, pieces: &[&[u8]]) -> Result<(), Violation> {
    assembler.begin(head);
    for piece in pieces {
        assembler.push(piece)?;
    }
    assembler.end()
}

#[test]
fn deflated_messages_refer_to_those_before_them_or_do_not_rfc_7692_7_2_2() {
    const TEXT: &[u8] = b"a text that is long enough to be referred to";
    let head = deflated(Opcode::Text);
    let mut one = Deflater::new();
    let (first, second) = (one.message(TEXT), one.message(TEXT));
    assert!(second.len() < first.len() / 2);
    let mut takeover = Assembler::new(1024, true);
    let mut alone = Assembler::new(1024, false);
    for message in [&first, &second] {
        assert_eq!(assemble(&mut takeover, &head, &[message]), Ok(()));
        assert_eq!(takeover.message().content, Some(TEXT));
    }
    for _ in 0..2 {
        assert_eq!(assemble(&mut alone, &head, &[&first]), Ok(()));
        assert_eq!(alone.message().content, Some(TEXT));
    }
    let refers = assemble(&mut alone, &head, &[&second]);
    assert!(refers.is_err() || alone.message().content != Some(TEXT));
}

#[test]
fn the_examples_of_rfc_7692_7_2_3() {
    let head = deflated(Opcode::Text);
    let mut assembler = Assembler::new(1024, true);
    let mut is_hello = |bytes: &[u8]| {
        for cut in 0..=bytes.len() {
            let mut again = Assembler::new(1024, false);
            let (one, two) = bytes.split_at(cut);
            assert_eq!(
                assemble(&mut again, &head, &[one, two]),
                Ok(()),
                "{bytes:x?}"
            );
            assert_eq!(again.message().content, Some(&b"Hello"[..]));
        }
        assert_eq!(assemble(&mut assembler, &head, &[bytes]), Ok(()));
        assert_eq!(assembler.message().content, Some(&b"Hello"[..]));
    };
    // 7.2.3.1, 7.2.3.2 (which refers to it), 7.2.3.3, 7.2.3.4, 7.2.3.5.
    is_hello(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    is_hello(&[
        0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
    ]);
    is_hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00]);
    is_hello(&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]);
    is_hello(&[
        0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
    ]);
    let mut refers = Assembler::new(1024, true);
    for bytes in [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
        &[0xf2, 0x00, 0x11, 0x00, 0x00],
    ] {
        assert_eq!(assemble(&mut refers, &head, &[bytes]), Ok(()));
        assert_eq!(refers.message().content, Some(&b"Hello"[..]));
    }
}

#[test]
fn a_message_beyond_the_bound_is_counted_and_not_kept() {
    let head = deflated(Opcode::Binary);
    let bomb = Deflater::new().message(&vec![0; 8 << 20]);
    let mut assembler = Assembler::new(1024, false);
    assert_eq!(assemble(&mut assembler, &head, &[&bomb]), Ok(()));
    let counted = Message {
        text: false,
        size: 8 << 20,
        content: None,
    };
    assert_eq!(assembler.message(), counted);
    // The next one is another.
    assert_eq!(
        assemble(&mut assembler, &head, &[&Deflater::new().message(b"ok")]),
        Ok(())
    );
    assert_eq!(assembler.message().content, Some(&b"ok"[..]));
    assert_eq!(assembler.message().size, 2);
}

#[test]
fn a_deflated_text_is_utf_8_as_well() {
    let mut assembler = Assembler::new(1024, false);
    for (text, expected) in [
        ("ü".as_bytes(), Ok(())),
        (b"\xff", Err(Violation::NotUtf8)),
        (b"\xc3", Err(Violation::NotUtf8)),
    ] {
        let message = Deflater::new().message(text);
        let assembled = assemble(&mut assembler, &deflated(Opcode::Text), &[&message]);
        assert_eq!(assembled, expected, "{text:x?}");
    }
    let junk = assemble(&mut assembler, &deflated(Opcode::Text), &[&[0xff; 8]]);
    assert_eq!(junk, Err(Violation::NotDeflated));
}

proptest! {
    // Deflating takes its time, and each case is five messages.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_deflated_is_put_together_however_it_is_cut(
        messages in proptest::collection::vec(proptest::collection::vec(97..102u8, 0..40_000), 1..5),
        cut in 7..5000usize,
    ) {
        let mut deflater = Deflater::new();
        let mut assembler = Assembler::new(1 << 20, true);
        for message in messages {
            let deflated_message = deflater.message(&message);
            let pieces: Vec<&[u8]> = deflated_message.chunks(cut).collect();
            assemble(&mut assembler, &deflated(Opcode::Text), &pieces).unwrap();
            prop_assert_eq!(assembler.message().content, Some(&message[..]));
        }
    }
}

fn fields(value: &str) -> HeaderMap {
    let values = value.split('|').filter(|value| !value.is_empty());
    let field = |value| {
        (
            SEC_WEBSOCKET_EXTENSIONS,
            HeaderValue::from_str(value).unwrap(),
        )
    };
    values.map(field).collect()
}

fn offered(value: &str) -> Result<String, NotExtensions> {
    let mut fields = fields(value);
    Offers::read(&fields)?.write(&mut fields);
    let written = fields.get(SEC_WEBSOCKET_EXTENSIONS);
    Ok(written
        .map_or("", |value| value.to_str().unwrap())
        .to_owned())
}

#[test]
fn only_permessage_deflate_is_offered_on_rfc_6455_9_1() {
    const ALL: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
                       server_max_window_bits=8; client_max_window_bits=15";
    for (value, expected) in [
        ("", ""),
        ("permessage-deflate", "permessage-deflate"),
        (
            "Permessage-Deflate ;client_max_window_bits , x-webkit-deflate-frame",
            "permessage-deflate; client_max_window_bits",
        ),
        (ALL, ALL),
        ("mux; a=\"b\"|permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=\"1\\0\", permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ),
        // What a server has to decline.
        ("permessage-deflate; x", ""),
        ("permessage-deflate; server_max_window_bits", ""),
        ("permessage-deflate; server_max_window_bits=7", ""),
        ("permessage-deflate; server_max_window_bits=08", ""),
        ("permessage-deflate; client_max_window_bits=16", ""),
        ("permessage-deflate; client_no_context_takeover=1", ""),
        (
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "",
        ),
    ] {
        assert_eq!(offered(value).as_deref(), Ok(expected), "{value}");
    }
    for value in [
        ";",
        "permessage-deflate;",
        "permessage-deflate; a=",
        "a b",
        "a; b=\"",
        "a; b=\"\"",
        "a; b=\"c,d\"",
        "a=b",
    ] {
        assert_eq!(offered(value), Err(NotExtensions::Syntax), "{value}");
    }
    assert_eq!(offered(&"a,".repeat(33)), Err(NotExtensions::TooMany));
}

#[test]
fn an_answer_accepts_what_was_offered_rfc_7692_7_1() {
    let agreed = |deflate, client_takeover| {
        Ok(Agreed {
            deflate,
            client_takeover,
        })
    };
    const D: &str = "permessage-deflate";
    const BITS: &str = "permessage-deflate; client_max_window_bits";
    let not = || Err(NotExtensions::NotOffered);
    for (offer, answer, expected) in [
        ("", String::new(), agreed(false, false)),
        (D, String::new(), agreed(false, false)),
        (D, D.to_owned(), agreed(true, true)),
        (
            D,
            format!("{D}; client_no_context_takeover"),
            agreed(true, false),
        ),
        (
            D,
            format!("{D}; server_no_context_takeover"),
            agreed(true, true),
        ),
        (
            D,
            format!("{D}; server_max_window_bits=9"),
            agreed(true, true),
        ),
        (BITS, format!("{BITS}=9"), agreed(true, true)),
        ("", D.to_owned(), not()),
        ("mux", "mux".to_owned(), not()),
        (D, format!("{D}, {D}"), not()),
        (D, "x-webkit-deflate-frame".to_owned(), not()),
        (D, format!("{D}; x=1"), not()),
        (D, format!("{BITS}=9"), not()),
        (BITS, BITS.to_owned(), not()),
        (D, format!("{D}; server_max_window_bits"), not()),
    ] {
        let offers = Offers::read(&fields(offer)).unwrap();
        assert_eq!(
            offers.accepted(&fields(&answer)),
            expected,
            "{offer}: {answer}"
        );
    }
    let offer = format!("{D}; server_no_context_takeover; server_max_window_bits=10");
    let offers = Offers::read(&fields(&format!(
        "{BITS}=9; server_max_window_bits=9, {offer}"
    )))
    .unwrap();
    for (answer, fits) in [
        (
            "server_no_context_takeover; server_max_window_bits=10",
            true,
        ),
        (
            "server_no_context_takeover; server_max_window_bits=11",
            false,
        ),
        ("server_max_window_bits=10", false),
        ("server_no_context_takeover", false),
        ("server_max_window_bits=9; client_max_window_bits=9", true),
        ("server_max_window_bits=9; client_max_window_bits=10", false),
    ] {
        let accepted = offers.accepted(&fields(&format!("{D}; {answer}")));
        assert_eq!(accepted.is_ok(), fits, "{answer}");
    }
}
