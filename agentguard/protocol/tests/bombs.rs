//! What a bomb costs: time, and no memory. Alone in its program, because it looks at the program's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::ops::ControlFlow;

use agentguard_protocol::content::{Coding, Codings, Decoder};
use flate2::Compression;
use flate2::write::GzEncoder;
use zstd_safe::{CCtx, InBuffer, OutBuffer};

const BOMB: usize = 128 << 20;
static PART: [u8; 1 << 16] = [0; 1 << 16];

fn write(mut writer: impl std::io::Write) {
    for _ in 0..BOMB / PART.len() {
        writer.write_all(&PART).unwrap();
    }
}

fn gzip() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    write(&mut encoder);
    encoder.finish().unwrap()
}

fn gzip_of_gzip() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&gzip()).unwrap();
    encoder.finish().unwrap()
}

fn brotli() -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 1, 22);
    write(&mut encoder);
    encoder.into_inner()
}

fn zstd() -> Vec<u8> {
    let mut encoder = CCtx::create();
    let mut coded = vec![0; 1 << 20];
    let mut to = OutBuffer::around(coded.as_mut_slice());
    for _ in 0..BOMB / PART.len() {
        let mut from = InBuffer::around(&PART);
        while from.pos() < PART.len() {
            encoder.compress_stream(&mut to, &mut from).unwrap();
        }
    }
    assert_eq!(encoder.end_stream(&mut to), Ok(0));
    let length = to.pos();
    coded.truncate(length);
    coded
}

/// The most memory that this program has had at once, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.unwrap().split_ascii_whitespace().next();
    number.unwrap().parse().unwrap()
}

#[test]
fn a_bomb_is_never_in_memory() {
    use Coding::{Brotli, Gzip, Zstd};
    let bombs = [
        (vec![Gzip], gzip()),
        (vec![Gzip, Gzip], gzip_of_gzip()),
        (vec![Brotli], brotli()),
        (vec![Zstd], zstd()),
    ];
    // The peak is from here on what it is now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    for (codings, bomb) in bombs {
        let codings: Codings = codings.into_iter().collect();
        let mut decoder = Decoder::new(&codings, u64::MAX);
        let mut length = 0;
        let pushed = decoder.push(&bomb, &mut |piece| {
            length += piece.len();
            ControlFlow::Continue(())
        });
        assert!(pushed.unwrap().is_continue());
        assert_eq!((decoder.finish(), length), (Ok(()), BOMB));
    }
    let grown = peak() - before;
    // Windows and pieces: 16 MiB of brotli are the most.
    assert!(grown < 24 << 10, "{grown} KiB for {BOMB} bytes");
}
