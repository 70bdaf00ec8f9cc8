use proptest::prelude::*;

use super::{AROUND_A_VALUE, AT_ONCE, Counted, InputCounter, RUN};
use crate::tokens::{Counter, Tokenizer};

fn whole(text: &str, tokenizer: Tokenizer) -> u64 {
    let tables = match tokenizer {
        Tokenizer::Cl100k => bpe_openai::cl100k_base(),
        Tokenizer::O200k => bpe_openai::o200k_base(),
    };
    tables.count(text) as u64
}

/// Counts these texts, each in pieces of so many characters.
fn counted(texts: &[String], size: usize, tokenizer: Tokenizer) -> u64 {
    let mut counter = InputCounter::new(tokenizer);
    for text in texts {
        counter.value(None);
        let letters: Vec<char> = text.chars().collect();
        for piece in letters.chunks(size) {
            counter.text(&piece.iter().collect::<String>());
        }
        counter.ends();
    }
    counter.counted().tokens
}

#[test]
fn a_value_counts_with_its_name_and_what_stands_around_it() {
    for tokenizer in Tokenizer::ALL {
        let mut counter = InputCounter::new(tokenizer);
        counter.value(Some("content"));
        for piece in ["hel", "", "lo wor", "ld"] {
            counter.text(piece);
        }
        counter.ends();
        // A name, two words.
        assert_eq!(counter.counted().tokens, AROUND_A_VALUE + 3);
        counter.value(Some("url"));
        counter.aside(1_000);
        counter.aside(5);
        let expected = Counted {
            tokens: 2 * AROUND_A_VALUE + 4,
            aside: 1_005,
        };
        assert_eq!(counter.counted(), expected);
    }
}

/// A text is counted in parts where it is long, and never as fewer tokens than it has.
#[test]
fn long_texts_count_as_few_tokens_more_for_each_part() {
    for tokenizer in Tokenizer::ALL {
        for text in [
            "The quick brown fox jumps over the lazy dog. ",
            "a",
            "ab",
            "aB",
            "=-",
            "\n    word",
            "日本語のテキスト、",
            "x9Kq+/",
            "1234567890",
            "🙂",
        ] {
            let text = text.repeat((4 * AT_ONCE + 100) / text.len());
            let (expected, parts) = (whole(&text, tokenizer), (text.len() / AT_ONCE) as u64 + 1);
            let most = expected + AROUND_A_VALUE + 2 * Counter::OVER_A_RUN * parts;
            for size in [7, 1_000, text.len()] {
                let found = counted(std::slice::from_ref(&text), size, tokenizer);
                let start = &text[..text.floor_char_boundary(20)];
                assert!(
                    (expected..=most).contains(&found),
                    "{start} by {size}, {tokenizer:?}: {found} of {expected}"
                );
            }
        }
    }
}

/// An agent chooses names as well, and may have many.
#[test]
fn names_cost_no_more_than_texts() {
    for tokenizer in Tokenizer::ALL {
        let row = "=".repeat(3_000);
        let mut named = InputCounter::new(tokenizer);
        named.value(Some(&row));
        let text = counted(std::slice::from_ref(&row), row.len(), tokenizer);
        assert_eq!(named.counted().tokens, text);
        assert!(
            text > whole(&"=".repeat(RUN), tokenizer) + 2_800,
            "each further one counts: {text}"
        );
    }
}

/// A row of one sign is counted as far as it is short.
#[test]
fn long_rows_of_one_sign_count_by_their_bytes() {
    for tokenizer in Tokenizer::ALL {
        for sign in ["=", "-", "\t", "*"] {
            for (count, over) in [(1, 0), (RUN, 0), (RUN + 1, 1), (3_000, 2_872)] {
                let text = format!("a{}b", sign.repeat(count));
                let found = counted(std::slice::from_ref(&text), 50, tokenizer) - AROUND_A_VALUE;
                let expected = match over {
                    0 => whole(&text, tokenizer),
                    over => {
                        whole(&format!("a{}b", sign.repeat(RUN)), tokenizer)
                            + over
                            + Counter::OVER_A_RUN
                    }
                };
                assert_eq!(found, expected, "{count} of {sign:?}");
                assert!(found >= whole(&text, tokenizer));
            }
        }
        let blanks = " \t\n ".repeat(100);
        let found = counted(std::slice::from_ref(&blanks), 7, tokenizer) - AROUND_A_VALUE;
        let over = 400 - RUN as u64 + Counter::OVER_A_RUN;
        assert_eq!(found, whole(&blanks[..RUN], tokenizer) + over);
        // Another text begins anew, and letters are no signs.
        let short = "=".repeat(100);
        let both = counted(&[short.clone(), short.clone()], 100, tokenizer);
        assert_eq!(both, 2 * (whole(&short, tokenizer) + AROUND_A_VALUE));
        let letters = "a".repeat(3_000);
        assert_eq!(
            counted(std::slice::from_ref(&letters), 100, tokenizer),
            whole(&letters, tokenizer) + AROUND_A_VALUE
        );
    }
}

#[test]
fn what_is_being_read_is_not_forgotten() {
    for tokenizer in Tokenizer::ALL {
        let mut counter = InputCounter::new(tokenizer);
        counter.value(None);
        let text = "word ".repeat(AT_ONCE / 5 + 1);
        counter.text(&text);
        let tokens = counter.counted().tokens;
        assert!(tokens >= whole(&text, tokenizer), "{tokens}");
    }
}

/// Texts that are hard to split, and what joins two of them.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z]{1,12}",
        "[A-Z]{1,4}[a-z]{0,4}",
        "[0-9]{1,9}",
        "[ \t\r\n]{1,5}",
        "['’\"{}:,./_=+-]{1,6}",
        "'(s|t|re|ll|D)",
        "[\u{e9}\u{df}\u{416}\u{3b1}]{1,5}",
        "[日本語テキスト]{1,6}",
        "[\u{300}-\u{310}]{1,3}",
        "🙂|🏳️‍🌈",
        any::<char>().prop_map(String::from),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn texts_are_no_more_tokens_when_they_stand_behind_each_other(
        texts in proptest::collection::vec(text(), 0..6),
        size in 1_usize..30,
        between in prop_oneof![Just(""), Just(" "), Just("\n"), Just("\","), Just("\": \""), Just(",\n    ")],
    ) {
        for tokenizer in Tokenizer::ALL {
            let joined = texts.join(between);
            prop_assert!(counted(&texts, size, tokenizer) >= whole(&joined, tokenizer), "{texts:?} by {tokenizer:?}");
        }
    }

    #[test]
    fn a_text_is_no_more_tokens_than_bytes(text in text(), size in 1_usize..30) {
        for tokenizer in Tokenizer::ALL {
            let tokens = counted(std::slice::from_ref(&text), size, tokenizer);
            prop_assert!(tokens <= text.len() as u64 + AROUND_A_VALUE);
            prop_assert_eq!(tokens, whole(&text, tokenizer) + AROUND_A_VALUE);
        }
    }
}
