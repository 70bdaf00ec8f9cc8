use super::{Fault, Head, MAX_HEADERS, Piece, Reader};

/// A message, with checksums.
fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let mut message = length(16 + headers.len() + payload.len()).to_vec();
    message.extend(length(headers.len()));
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend(headers);
    message.extend(payload);
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

fn text(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![u8::try_from(name.len()).unwrap()];
    header.extend(name.as_bytes());
    header.push(7);
    header.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    header.extend(value.as_bytes());
    header
}

/// What a stream tells, its pieces of one payload together.
fn read_in(size: usize, stream: &[u8]) -> (Vec<String>, Result<(), Fault>) {
    let mut reader = Reader::default();
    let mut told: Vec<String> = Vec::new();
    for piece in stream.chunks(size) {
        let pushed = reader.push(piece, &mut |piece| match piece {
            Piece::Head(head) => told.push(format!("{head:?}")),
            Piece::Payload(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                match told.last_mut() {
                    Some(last) if last.starts_with('=') => last.push_str(&text),
                    _ => told.push(format!("={text}")),
                }
            }
            Piece::End => told.push("end".to_owned()),
        });
        if pushed.is_err() {
            assert_eq!(reader.push(b"x", &mut |_| panic!("it was over")), pushed);
            return (told, pushed);
        }
    }
    (told, reader.finish())
}

fn read(stream: &[u8]) -> (Vec<String>, Result<(), Fault>) {
    let whole = read_in(usize::MAX, stream);
    for size in [1, 2, 3, 7, 64] {
        assert_eq!(read_in(size, stream), whole, "{size}");
    }
    whole
}

/// The vectors of the specification's reference implementation: no headers and no payload, a payload, and one
/// header of 32 bits.
#[test]
fn the_specification_s_vectors() {
    let empty = [
        0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff,
    ];
    let none = format!("{:?}", Head::default());
    assert_eq!(read(&empty), (vec![none.clone(), "end".to_owned()], Ok(())));
    let mut payload = vec![0, 0, 0, 0x1d, 0, 0, 0, 0, 0xfd, 0x52, 0x8c, 0x5a];
    payload.extend(b"{'foo':'bar'}");
    payload.extend([0xc3, 0x65, 0x39, 0x36]);
    let told = vec![none, "={'foo':'bar'}".to_owned(), "end".to_owned()];
    assert_eq!(read(&payload), (told.clone(), Ok(())));
    let mut header = vec![0, 0, 0, 0x2d, 0, 0, 0, 0x10, 0x41, 0xc4, 0x24, 0xb8];
    header.extend(b"\x0aevent-type\x04\x00\x00\xa0\x0c{'foo':'bar'}");
    header.extend([0x36, 0xf4, 0x80, 0xa0]);
    assert_eq!(read(&header), (told, Ok(())));
}

/// What is missing never reaches into the next message.
#[test]
fn a_stream_is_read_message_by_message() {
    let all = [
        message(b"", b""),
        message(&text(":event-type", "chunk"), b"{}"),
        message(b"", b"{}"),
        message(&text(":event-type", "chunk"), b""),
    ];
    for most in [1, 5, usize::MAX] {
        let (mut reader, mut ends) = (Reader::default(), Vec::new());
        let (stream, mut at) = (all.concat(), 0);
        while at < stream.len() {
            let count = reader.missing().unwrap().min(most);
            let mut over = false;
            let piece = &stream[at..at + count];
            reader
                .push(piece, &mut |piece| over |= piece == Piece::End)
                .unwrap();
            at += count;
            assert_eq!(reader.is_between(), over);
            ends.extend(over.then_some(at));
        }
        let expected = all.iter().scan(0, |end, message| {
            *end += message.len();
            Some(*end)
        });
        assert!(expected.eq(ends));
    }
    let mut reader = Reader::default();
    reader.push(&[b'x'; 12], &mut |_| {}).unwrap_err();
    assert!(!reader.is_between());
    assert_eq!(reader.missing(), None);
}

#[test]
fn messages_tell_what_they_are() {
    let mut headers = text(":event-type", "chunk");
    headers.extend(text(":content-type", "application/json"));
    for other in [
        &b"\x01t\x00"[..],
        b"\x01f\x01",
        b"\x01b\x02\x01",
        b"\x01s\x03\x01\x02",
        b"\x01l\x05\x01\x02\x03\x04\x05\x06\x07\x08",
        b"\x01B\x06\x00\x02ab",
        b"\x01T\x08\x01\x02\x03\x04\x05\x06\x07\x08",
        b"\x01U\x090123456789abcdef",
    ] {
        headers.extend(other);
    }
    headers.extend(text(":message-type", "event"));
    let mut stream = message(&headers, b"{}");
    let mut failed = text(":message-type", "exception");
    failed.extend(text(":exception-type", "throttlingException"));
    stream.extend(message(&failed, b""));
    let (told, ended) = read(&stream);
    let event = Head {
        message: Some("event"),
        event: Some("chunk"),
        ..Head::default()
    };
    let failed = Head {
        message: Some("exception"),
        exception: Some("throttlingException"),
        ..Head::default()
    };
    let expected = [
        &format!("{event:?}"),
        "={}",
        "end",
        &format!("{failed:?}"),
        "end",
    ];
    assert_eq!(told, expected);
    assert_eq!(ended, Ok(()));
    assert_eq!(read(&stream[..stream.len() - 1]).1, Err(Fault::Unfinished));
    assert_eq!(read(b"").1, Ok(()));
}

#[test]
fn what_is_wrong_is_told_before_anything_is_kept() {
    let good = message(&text(":event-type", "chunk"), b"{}");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // Headers are read before the checksum behind them comes.
        let fault = read(&bad).1.unwrap_err();
        let in_headers = (12..good.len() - 6).contains(&at) && fault == Fault::Header;
        assert!(in_headers || fault == Fault::Checksum, "{at} {fault}");
    }
    let declared = |total: u32, headers: u32| {
        let mut prelude = total.to_be_bytes().to_vec();
        prelude.extend(headers.to_be_bytes());
        prelude.extend(crc32fast::hash(&prelude).to_be_bytes());
        // Of what comes behind nothing is looked at.
        prelude.extend(vec![b'x'; 100]);
        let (told, ended) = read(&prelude);
        assert_eq!(told, Vec::<String>::new());
        ended
    };
    assert_eq!(declared(u32::MAX, 0), Err(Fault::Length));
    assert_eq!(declared(15, 0), Err(Fault::Length));
    assert_eq!(declared(0, 0), Err(Fault::Length));
    assert_eq!(declared(20, 5), Err(Fault::Length));
    assert_eq!(declared(20_000_000, MAX_HEADERS + 1), Err(Fault::Headers));
    let mut twice = text(":event-type", "a");
    twice.extend(text(":event-type", "b"));
    for headers in [
        &twice[..],
        b"\x01",
        b"\x05:a",
        b"\x01a",
        b"\x01a\x0a",
        b"\x01a\x07\x00\x05abcd",
        b"\x01a\x07\x00",
        // What it is is a text.
        b"\x0b:event-type\x00",
        b"\x0b:event-type\x07\x00\x01\xff",
    ] {
        assert_eq!(
            read(&message(headers, b"")).1,
            Err(Fault::Header),
            "{headers:?}"
        );
    }
}
