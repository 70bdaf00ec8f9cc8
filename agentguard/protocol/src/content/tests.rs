use std::io::Write as _;
use std::ops::ControlFlow;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::header::{self, HeaderMap, HeaderValue};
use proptest::prelude::*;
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::{Coding, Codings, Decoder, MAX_CODINGS, Meter, NotCodings, PIECE, Undecodable, WORK};

const ALL: [Coding; 4] = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];

/// A text in a coding, flushed after each of its parts, and where each part's bytes end.
fn parts(coding: Coding, texts: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
    fn write<W: std::io::Write>(
        mut writer: W,
        texts: &[&[u8]],
        written: impl Fn(&W) -> usize,
    ) -> (W, Vec<usize>) {
        let ends = texts.iter().map(|text| {
            writer.write_all(text).unwrap();
            writer.flush().unwrap();
            written(&writer)
        });
        let ends = ends.collect();
        (writer, ends)
    }
    match coding {
        Coding::Gzip => {
            let encoder = GzEncoder::new(Vec::new(), Compression::default());
            let (encoder, ends) = write(encoder, texts, |encoder| encoder.get_ref().len());
            (encoder.finish().unwrap(), ends)
        }
        Coding::Deflate => {
            let encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            let (encoder, ends) = write(encoder, texts, |encoder| encoder.get_ref().len());
            (encoder.finish().unwrap(), ends)
        }
        Coding::Brotli => {
            let encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 4, 20);
            let (encoder, ends) = write(encoder, texts, |encoder| encoder.get_ref().len());
            (encoder.into_inner(), ends)
        }
        Coding::Zstd => {
            let mut encoder = CCtx::create();
            let mut coded = vec![0; 1024 + 2 * texts.concat().len()];
            let mut to = OutBuffer::around(coded.as_mut_slice());
            let ends = texts.iter().map(|text| {
                let mut from = InBuffer::around(text);
                while from.pos() < text.len() {
                    encoder.compress_stream(&mut to, &mut from).unwrap();
                }
                assert_eq!(encoder.flush_stream(&mut to), Ok(0));
                to.pos()
            });
            let ends = ends.collect();
            assert_eq!(encoder.end_stream(&mut to), Ok(0));
            let length = to.pos();
            coded.truncate(length);
            (coded, ends)
        }
    }
}

fn encode(coding: Coding, text: &[u8]) -> Vec<u8> {
    parts(coding, &[text]).0
}

fn encode_all(codings: &Codings, text: &[u8]) -> Vec<u8> {
    codings
        .iter()
        .fold(text.to_vec(), |text, coding| encode(coding, &text))
}

fn decode<'a>(
    codings: &Codings,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Undecodable> {
    let mut decoder = Decoder::new(codings, u64::MAX);
    let mut text = Vec::new();
    for piece in pieces {
        let flow = decoder.push(piece, &mut |piece| {
            assert!((1..=PIECE).contains(&piece.len()));
            text.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        assert!(flow.is_continue());
    }
    decoder.finish()?;
    Ok(text)
}

fn only(coding: Coding) -> Codings {
    [coding].into_iter().collect()
}

fn decode_one(coding: Coding, bytes: &[u8]) -> Result<Vec<u8>, Undecodable> {
    let whole = decode(&only(coding), [bytes]);
    assert_eq!(
        decode(&only(coding), bytes.chunks(1)).is_ok(),
        whole.is_ok()
    );
    whole
}

fn read(values: &[&str]) -> Result<Vec<Coding>, NotCodings> {
    let value = |value: &&str| {
        (
            header::CONTENT_ENCODING,
            HeaderValue::from_str(value).unwrap(),
        )
    };
    let fields: HeaderMap = values.iter().map(value).collect();
    Codings::read(&fields).map(|codings| codings.iter().collect())
}

#[test]
fn content_encoding_is_a_list_in_the_order_of_application_rfc_9110_8_4() {
    use Coding::{Brotli, Deflate, Gzip, Zstd};
    for (values, codings) in [
        (&[][..], &[][..]),
        (&["identity"], &[]),
        (&["gzip"], &[Gzip]),
        (&["X-GZip"], &[Gzip]),
        (&[" br ,, zstd\t"], &[Brotli, Zstd]),
        (&["deflate", "identity, Gzip"], &[Deflate, Gzip]),
        (&["gzip, gzip, gzip, gzip"], &[Gzip; MAX_CODINGS]),
    ] {
        assert_eq!(read(values).as_deref(), Ok(codings), "{values:?}");
    }
    let unknown = |name: &str| Err(NotCodings::Unknown(name.to_owned()));
    assert_eq!(read(&["gzip, compress"]), unknown("compress"));
    assert_eq!(read(&["gz ip"]), unknown("gz ip"));
    assert_eq!(read(&["\u{fc}"]), unknown("\\xc3\\xbc"));
    assert_eq!(read(&[&"x".repeat(1000)]), unknown(&"x".repeat(40)));
    assert_eq!(
        read(&["gzip", "br, br, br, br"]),
        Err(NotCodings::TooMany(4))
    );
    for (most, told) in [
        (1, "the content is coded more than once"),
        (4, "the content is coded more than 4 times"),
    ] {
        assert_eq!(NotCodings::TooMany(most).to_string(), told);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn what_was_coded_comes_out_however_it_is_cut(
        text in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..2000),
            proptest::collection::vec(97..100u8, 0..100_000),
        ],
        codings in proptest::collection::vec(proptest::sample::select(&ALL[..]), 0..=3),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..5),
    ) {
        let codings: Codings = codings.into_iter().collect();
        let coded = encode_all(&codings, &text);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(coded.len() + 1)).collect();
        at.extend([0, coded.len()]);
        at.sort_unstable();
        let pieces = at.windows(2).map(|ends| &coded[ends[0]..ends[1]]);
        let decoded = decode(&codings, pieces);
        prop_assert_eq!(decoded.as_ref(), Ok(&text));
        // What is cut off at the end is missed, whatever was cut off.
        if !codings.is_identity() {
            let part = &coded[..cuts.first().map_or(1, |cut| cut.index(coded.len()))];
            let decoded = decode(&codings, [part]);
            prop_assert!(part.is_empty() || matches!(decoded, Err(Undecodable::Truncated(_))));
        }
    }
}

#[test]
fn what_a_server_has_flushed_comes_out_at_once() {
    let texts: [&[u8]; 3] = [b"data: one\n\n", b"data: two\n\n", b"data: three\n\n"];
    for coding in ALL {
        let (coded, ends) = parts(coding, &texts);
        let mut decoder = Decoder::new(&only(coding), u64::MAX);
        let mut begun = 0;
        for (text, end) in texts.iter().zip(ends) {
            let mut got = Vec::new();
            let mut take = |piece: &[u8]| {
                got.extend_from_slice(piece);
                ControlFlow::Continue(())
            };
            for byte in coded[begun..end].chunks(1) {
                assert!(decoder.push(byte, &mut take).unwrap().is_continue());
            }
            assert_eq!(got, *text, "{coding}");
            begun = end;
            // Nothing is expected of nothing, however often.
            for _ in 0..100 {
                let nothing = decoder.push(&[], &mut |_| panic!("{coding}"));
                assert_eq!(nothing, Ok(ControlFlow::Continue(())));
            }
        }
        assert_eq!(decoder.finish(), Err(Undecodable::Truncated(coding)));
    }
}

#[test]
fn deflate_is_met_with_and_without_zlib_s_header() {
    for text in [&b""[..], b"a", b"some text, some text", &[7; 70_000]] {
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::best());
        raw.write_all(text).unwrap();
        let raw = raw.finish().unwrap();
        assert_eq!(decode_one(Coding::Deflate, &raw).as_deref(), Ok(text));
        let zlib = encode(Coding::Deflate, text);
        assert_eq!(decode_one(Coding::Deflate, &zlib).as_deref(), Ok(text));
        // A checksum is there to be wrong.
        let mut wrong = zlib;
        *wrong.last_mut().unwrap() ^= 1;
        let corrupt = decode_one(Coding::Deflate, &wrong);
        assert!(matches!(
            corrupt,
            Err(Undecodable::Corrupt(Coding::Deflate, _))
        ));
    }
}

/// A member of gzip with the flags and what they announce.
fn member(flags: u8, fields: &[u8]) -> Vec<u8> {
    let plain = encode(Coding::Gzip, b"text");
    let mut head = plain[..10].to_vec();
    head[3] = flags;
    head.extend_from_slice(fields);
    if flags & 2 != 0 {
        let mut crc = flate2::Crc::new();
        crc.update(&head);
        head.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
    }
    [&head, &plain[10..]].concat()
}

#[test]
fn every_header_of_gzip_rfc_1952_2_3() {
    for (flags, fields) in [
        (0, &b""[..]),
        (1, b""),
        (4, b"\0\0"),
        (4, b"\x03\0abc"),
        (8, b"name\0"),
        (16, b"comment\0"),
        (2, b""),
        (31, b"\x01\0xname\0comment\0"),
    ] {
        let coded = member(flags, fields);
        assert_eq!(
            decode_one(Coding::Gzip, &coded).as_deref(),
            Ok(&b"text"[..]),
            "{flags}"
        );
    }
    let mut wrong = member(31, b"\x01\0xname\0comment\0");
    wrong[12] ^= 1;
    let what = "its header's checksum is wrong";
    let corrupt = |what| Err(Undecodable::Corrupt(Coding::Gzip, what));
    assert_eq!(decode_one(Coding::Gzip, &wrong), corrupt(what));
    let what = "it does not begin as gzip does";
    assert_eq!(decode_one(Coding::Gzip, &member(32, b"")), corrupt(what));
    assert_eq!(decode_one(Coding::Gzip, b"text"), corrupt(what));
    for back in [1, 5] {
        let mut wrong = member(0, b"");
        let at = wrong.len() - back;
        wrong[at] ^= 1;
        let what = "its checksum is wrong";
        assert_eq!(decode_one(Coding::Gzip, &wrong), corrupt(what));
    }
}

#[test]
fn members_and_frames_follow_each_other_and_nothing_else_does() {
    let text = b"some text";
    for coding in ALL {
        let coded = encode(coding, text);
        let twice = decode_one(coding, &[&coded[..], &coded].concat());
        let junk = decode_one(coding, &[&coded[..], b"junk"].concat());
        match coding {
            // RFC 1952, 2.2; RFC 8878, 3.
            Coding::Gzip | Coding::Zstd => assert_eq!(twice.as_deref(), Ok(&text.repeat(2)[..])),
            Coding::Deflate | Coding::Brotli => {
                assert_eq!(twice, Err(Undecodable::Trailing(coding)));
            }
        }
        match coding {
            Coding::Zstd => assert!(matches!(junk, Err(Undecodable::Corrupt(..)))),
            _ => assert_eq!(junk, Err(Undecodable::Trailing(coding))),
        }
        // And the decoder does not go on as if nothing had been.
        let mut decoder = Decoder::new(&only(coding), u64::MAX);
        let mut take = |_: &[u8]| ControlFlow::Continue(());
        decoder
            .push(b"\x1f\x8b junk\xff\xff\xff\xff", &mut take)
            .unwrap_err();
        decoder.push(&coded, &mut take).unwrap_err();
        decoder.finish().unwrap_err();
    }
}

#[test]
fn a_body_without_a_byte_is_complete() {
    for coding in ALL {
        assert_eq!(decode(&only(coding), []), Ok(Vec::new()));
        assert_eq!(decode(&only(coding), [&b""[..]]), Ok(Vec::new()));
    }
}

#[test]
fn who_takes_the_pieces_can_stop_at_each() {
    for coding in ALL {
        let coded = encode(coding, &[b'a'; 10 * PIECE]);
        let mut decoder = Decoder::new(&only(coding), u64::MAX);
        let mut pieces = 0;
        let mut take = |_: &[u8]| {
            pieces += 1;
            match pieces {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        assert_eq!(decoder.push(&coded, &mut take), Ok(ControlFlow::Break(())));
        assert_eq!(decoder.push(b"junk", &mut take), Ok(ControlFlow::Break(())));
        assert_eq!(pieces, 3);
        assert_eq!(decoder.finish(), Ok(()));
    }
}

/// What bytes decode to where a decoder pauses, how often it does, and the most that comes out between two pauses.
fn decode_in_turns(codings: &Codings, coded: &[u8]) -> (Vec<u8>, usize, usize) {
    let mut decoder = Decoder::new(codings, u64::MAX);
    let (mut text, mut pauses, mut most) = (Vec::new(), 0, 0);
    let mut rest = coded;
    loop {
        let before = text.len();
        let pushed = decoder.push_some(rest, &mut |piece| {
            text.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        let pushed = pushed.unwrap();
        most = most.max(text.len() - before);
        rest = &rest[pushed.taken..];
        if pushed.done {
            assert!(rest.is_empty());
            decoder.finish().unwrap();
            return (text, pauses, most);
        }
        pauses += 1;
    }
}

#[test]
fn a_decoder_pauses_and_goes_on_where_it_was() {
    let text: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n / 70_000 % 251) as u8)
        .collect();
    let two = [(Coding::Gzip, Coding::Zstd), (Coding::Brotli, Coding::Gzip)];
    let two = two.map(|(one, other)| [one, other].into_iter().collect());
    for codings in ALL.map(only).into_iter().chain(two) {
        let coded = encode_all(&codings, &text);
        let (decoded, pauses, most) = decode_in_turns(&codings, &coded);
        assert!(decoded == text, "{codings:?}");
        assert!(
            pauses >= text.len() / (WORK + PIECE),
            "{codings:?}: {pauses}"
        );
        assert!(most <= WORK + PIECE, "{codings:?}: {most}");
    }
}

#[test]
fn a_bomb_is_left_where_the_bound_is() {
    const MOST: u64 = 1 << 20;
    for coding in ALL {
        let bomb = encode(coding, &vec![0; 4 << 20]);
        let mut decoder = Decoder::new(&only(coding), MOST);
        let mut got = 0;
        let failed = decoder.push(&bomb, &mut |piece| {
            got += piece.len() as u64;
            ControlFlow::Continue(())
        });
        assert_eq!(failed, Err(Undecodable::TooLarge(coding)));
        assert!(
            (MOST - PIECE as u64..=MOST).contains(&got),
            "{coding}: {got}"
        );
    }
}

#[test]
fn a_bomb_that_comes_to_nothing_in_the_end_is_one() {
    // Many empty members: the outer coding gives out megabytes, the inner one nothing.
    let inner = encode(Coding::Gzip, b"").repeat(200_000);
    let coded = encode(Coding::Zstd, &inner);
    assert!(coded.len() < 10_000);
    let codings = [Coding::Gzip, Coding::Zstd].into_iter().collect();
    let mut decoder = Decoder::new(&codings, 1 << 20);
    let failed = decoder.push(&coded, &mut |_| ControlFlow::Continue(()));
    assert_eq!(failed, Err(Undecodable::TooLarge(Coding::Zstd)));
}

#[test]
fn what_is_allowed_can_be_allowed_again() {
    let (coded, ends) = parts(Coding::Gzip, &[&[b'a'; 1000], &[b'b'; 1000]]);
    let mut decoder = Decoder::new(&only(Coding::Gzip), 1000);
    let mut take = |_: &[u8]| ControlFlow::Continue(());
    assert!(decoder.push(&coded[..ends[0]], &mut take).is_ok());
    // Nothing is left, and there are 1000 to come.
    decoder.allow(1);
    decoder.allow_more(999);
    assert!(decoder.push(&coded[ends[0]..], &mut take).is_ok());
    assert_eq!(decoder.finish(), Ok(()));
}

/// A frame that announces a window of `1 << log` bytes.
fn zstd_with_window(log: u32) -> Vec<u8> {
    let mut encoder = CCtx::create();
    encoder.set_parameter(CParameter::WindowLog(log)).unwrap();
    let mut coded = vec![0; 1024];
    let mut to = OutBuffer::around(coded.as_mut_slice());
    encoder
        .compress_stream(&mut to, &mut InBuffer::around(b"text"))
        .unwrap();
    encoder.flush_stream(&mut to).unwrap();
    encoder.end_stream(&mut to).unwrap();
    let length = to.pos();
    coded.truncate(length);
    coded
}

#[test]
fn windows_are_bounded_rfc_9659() {
    let fits = decode_one(Coding::Zstd, &zstd_with_window(23));
    assert_eq!(fits.as_deref(), Ok(&b"text"[..]));
    let larger = decode_one(Coding::Zstd, &zstd_with_window(24));
    assert!(
        matches!(larger, Err(Undecodable::Corrupt(Coding::Zstd, _))),
        "{larger:?}"
    );
    let params = brotli::enc::BrotliEncoderParams {
        large_window: true,
        lgwin: 30,
        ..Default::default()
    };
    let mut coded = Vec::new();
    brotli::BrotliCompress(&mut &b"text"[..], &mut coded, &params).unwrap();
    let larger = decode_one(Coding::Brotli, &coded);
    assert!(
        matches!(larger, Err(Undecodable::Corrupt(Coding::Brotli, _))),
        "{larger:?}"
    );
}

/// To one receiver it is a stored block, to another what zlib made of something else.
#[test]
fn deflate_that_can_be_read_in_two_ways_is_read_as_it_is_meant_and_not_measured() {
    // A stored block of 1 byte whose head is zlib's too: 0x78 0x01, with its length 1 there and 0xfe 0xff behind.
    let two_ways = [0x78, 0x01, 0x00, 0xfe, 0xff, b'x'];
    let deflate = Codings::from_iter([Coding::Deflate]);
    let mut meter = Meter::new(&deflate).unwrap();
    let told = meter.push(&two_ways, u64::MAX).unwrap_err().to_string();
    assert!(told.contains("two ways"), "{told}");
    let mut decoder = Decoder::new(&deflate, 1 << 20);
    let mut said = 0;
    let mut count = |piece: &[u8]| {
        said += piece.len();
        ControlFlow::Continue(())
    };
    let _ = decoder.push(&two_ways, &mut count).unwrap();
    // As zlib's it is the beginning of something else.
    assert_eq!(said, 0);
    assert!(decoder.finish().is_err());
    // And an honest one is found among some thousands, and is what it is.
    let honest = (0..1_000_000_u32).find_map(|number| {
        let coded = encode(Coding::Deflate, &number.to_le_bytes());
        matches!(*coded, [_, a, b, c, d, ..] if [a ^ c, b ^ d] == [0xff; 2])
            .then_some((number, coded))
    });
    let (number, coded) = honest.unwrap();
    let decoded = decode_one(Coding::Deflate, &coded).unwrap();
    assert_eq!(decoded, number.to_le_bytes());
}

/// Each member has its own beginning, and nothing of those before it.
#[test]
fn gzip_s_members_are_read_one_after_the_other() {
    let texts: [&[u8]; 5] = [b"", b"one", b"", b"two", b""];
    let coded: Vec<u8> = texts
        .iter()
        .flat_map(|text| encode(Coding::Gzip, text))
        .collect();
    assert_eq!(decode_one(Coding::Gzip, &coded).unwrap(), b"onetwo");
    let none = encode(Coding::Gzip, b"").repeat(1000);
    assert_eq!(decode_one(Coding::Gzip, &none).unwrap(), b"");
    let mut meter = Meter::new(&only(Coding::Gzip)).unwrap();
    let pushed = meter.push(&none.repeat(10), u64::MAX).unwrap();
    assert!(!pushed.done, "{pushed:?}");
}
