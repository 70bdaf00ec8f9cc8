//! How fast what calls say is counted, of texts that are hard to take apart: `cargo run --release -p agentguard-budget
//! --example counting`. One line each, and for each tokenizer: megabytes in a second, nanoseconds for a value, and tokens for
//! a byte. Before them what its tables cost: milliseconds.

use std::hint::black_box;
use std::time::Instant;

use agentguard_budget::tokens::{InputCounter, Tokenizer};

/// Bytes of each text.
const SIZE: usize = 4 << 20;

/// As they come out of JSON.
const PIECE: usize = 16 << 10;

/// Numbers by chance, always the same.
struct Chance(u64);

impl Iterator for Chance {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0)
    }
}

fn by_chance(letters: &str) -> String {
    let letters: Vec<char> = letters.chars().collect();
    let mut text = String::new();
    for number in Chance(0x9e37_79b9_7f4a_7c15) {
        if text.len() >= SIZE {
            break;
        }
        let place = usize::try_from(number >> 32).unwrap_or(0) % letters.len();
        text.extend(letters.get(place));
    }
    text
}

fn again(part: &str) -> String {
    part.repeat(SIZE / part.len())
}

/// A text of any characters, without those that are none.
fn any_characters() -> String {
    let all: String = ('\u{20}'..'\u{2fa1f}').collect();
    by_chance(&all)
}

fn main() {
    for tokenizer in Tokenizer::ALL {
        let began = Instant::now();
        tokenizer.prepare();
        let took = began.elapsed().as_secs_f64() * 1e3;
        println!("{tokenizer:?}: {took:.0} ms to read its tables");
    }
    let base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (name, text) in [
        (
            "prose",
            again("The quick brown fox jumps over the lazy dog, and nobody minds. "),
        ),
        ("one letter", again("a")),
        ("one capital", again("A")),
        ("capitals and small ones", again("aB")),
        ("letters by chance", by_chance("abcdefghijklmnopqrstuvwxyz")),
        (
            "capitals by chance",
            by_chance("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        ),
        ("base64 by chance", by_chance(base64)),
        ("digits", again("1234567890")),
        ("spaces", again(" ")),
        ("spaces and lines", by_chance(" \n\t\r")),
        ("lines", again("\n")),
        ("one sign", again("=")),
        ("two signs", again("=-")),
        ("a sign beyond ASCII", again("─")),
        ("two signs beyond ASCII", again("═─")),
        ("wide spaces", again("\u{3000}")),
        ("spaces that break no line", again("\u{a0}")),
        ("pictures", again("🙂")),
        (
            "rows of one sign",
            again("............................... "),
        ),
        (
            "signs by chance",
            by_chance("!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"),
        ),
        ("Chinese", again("我们的模型可以读取很长的文本。")),
        (
            "Chinese by chance",
            by_chance(&('\u{4e00}'..'\u{9fff}').collect::<String>()),
        ),
        ("marks", again("\u{301}\u{302}")),
        ("any characters", any_characters()),
    ] {
        tell(name, text.len(), 1, |counter| {
            counter.value(None);
            let mut rest = text.as_str();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(rest.floor_char_boundary(PIECE.max(4)));
                counter.text(piece);
                rest = behind;
            }
            counter.ends();
        });
    }
    for (name, value) in [("short texts", "ab"), ("words", "content"), ("digits", "7")] {
        let values = SIZE / (value.len() + 3);
        let bytes = values * (value.len() + 3);
        tell(name, bytes, values, |counter| {
            for _ in 0..values {
                counter.value(Some("a"));
                counter.text(black_box(value));
                counter.ends();
            }
        });
    }
}

/// A line of what each tokenizer takes to count so many bytes in so many values.
#[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
fn tell(name: &str, bytes: usize, values: usize, count: impl Fn(&mut InputCounter)) {
    print!("{name:24}");
    for tokenizer in Tokenizer::ALL {
        let began = Instant::now();
        let mut counter = InputCounter::new(tokenizer);
        count(&mut counter);
        let took = began.elapsed().as_secs_f64();
        print!(
            " {tokenizer:?}: {:8.1} MB/s {:10.0} ns/value {:6.2} tokens/byte",
            bytes as f64 / took / 1e6,
            took * 1e9 / values as f64,
            counter.counted().tokens as f64 / bytes as f64
        );
    }
    println!();
}
