use proptest::prelude::*;

use super::{Counter, KEPT, Tokenizer};

fn whole(text: &str, tokenizer: Tokenizer) -> u64 {
    let tables = match tokenizer {
        Tokenizer::Cl100k => bpe_openai::cl100k_base(),
        Tokenizer::O200k => bpe_openai::o200k_base(),
    };
    tables.count(text) as u64
}

/// Counts a text that comes in pieces of these many characters, one after the other and from the first again.
fn counted(text: &str, lengths: &[usize], tokenizer: Option<Tokenizer>) -> Counter {
    let mut counter = Counter::new(tokenizer);
    let mut chars = text.chars().peekable();
    for length in lengths.iter().cycle() {
        if chars.peek().is_none() {
            break;
        }
        let piece: String = chars.by_ref().take(*length).collect();
        counter.push(&piece);
    }
    counter
}

/// By `cl100k_base` and by `o200k_base`, each as `OpenAI`'s own `tiktoken` has it.
#[test]
fn known_texts_have_the_tokens_that_openai_counts() {
    for (text, expected) in [
        ("", [0, 0]),
        ("hello", [1, 1]),
        ("hello world", [2, 2]),
        // Of OpenAI's guide to counting tokens.
        ("tiktoken is great!", [6, 6]),
        ("antidisestablishmentarianism", [6, 6]),
        ("2 + 2 = 4", [7, 7]),
        ("お誕生日おめでとう", [9, 8]),
        // What is shortened is a piece by itself, or belongs to its word.
        ("don't", [2, 1]),
        ("it's John's", [4, 2]),
        // Words are divided where they have a capital, or are not; here that is as many.
        ("getHTTPResponse", [3, 3]),
        // Marks are signs, or belong to a word.
        ("cafe\u{301} au lait", [6, 5]),
        ("नमस्ते दुनिया", [13, 5]),
        // Slashes go on behind the end of a line, or do not.
        ("//\n//\n", [2, 2]),
        ("path/\n/to", [3, 3]),
        ("12345678", [3, 3]),
        ("Привет, мир!", [7, 5]),
        ("我们的模型可以读取很长的文本。", [14, 9]),
        ("مرحبا بالعالم", [10, 4]),
        ("🙂", [2, 1]),
    ] {
        for (tokenizer, expected) in Tokenizer::ALL.into_iter().zip(expected) {
            let count = counted(text, &[1], Some(tokenizer)).count();
            assert_eq!(count, expected, "{text} by {tokenizer:?}");
            assert_eq!(count, whole(text, tokenizer), "{text} by {tokenizer:?}");
        }
    }
}

/// Where a text may be divided differs: what one joins to a word, the other does not.
#[test]
fn each_tokenizer_has_its_own_pieces() {
    for (text, cl100k, o200k) in [
        ("I don't", &["I", " don", "'t"][..], &["I", " don't"][..]),
        ("WE'LL'VE", &["WE", "'LL", "'VE"], &["WE'LL", "'VE"]),
        ("fooBarBAZ", &["fooBarBAZ"], &["foo", "Bar", "BAZ"]),
        ("e\u{301}a", &["e", "\u{301}a"], &["e\u{301}a"]),
        ("!!\n/\n", &["!!\n", "/\n"], &["!!\n/\n"]),
    ] {
        for (tokenizer, expected) in [(Tokenizer::Cl100k, cl100k), (Tokenizer::O200k, o200k)] {
            let pieces: Vec<_> = tokenizer.tables().split(text).collect();
            assert_eq!(pieces, expected, "{tokenizer:?}");
        }
    }
}

#[test]
fn what_joins_two_pieces_counts_once() {
    for text in [
        "don't we'll they've I'D",
        "'re 're'r'rex 'l'll ''ve 'V'E",
        "a  \n  \n  b",
        "a   b\t\tc \r\n\r\n d",
        "  \n \n\n   \n x",
        "\t\t\t'd  't \n'm\r 's",
        "12345678 1.5e10",
        "!!\n\n//\r\n?? ''s '' 'll",
        "XMLHttpRequest fooBAR Baz\u{301}",
        "日本語のテキスト、そして English",
        "🙂🙂‍↔️ \u{200d}\u{fe0f}",
    ] {
        for tokenizer in Tokenizer::ALL {
            for length in 1..6 {
                let count = counted(text, &[length], Some(tokenizer)).count();
                let expected = whole(text, tokenizer);
                assert_eq!(count, expected, "{text:?} by {length}, {tokenizer:?}");
            }
        }
    }
}

#[test]
fn a_run_without_end_is_counted_in_bounded_memory() {
    let runs = [
        "a",
        "=",
        " ",
        "\n",
        "日",
        "ab",
        "aB",
        "-=",
        "\u{e01}\u{e34}",
        "\u{301}",
        "🙂",
    ];
    for tokenizer in Tokenizer::ALL {
        for run in runs {
            let text = run.repeat(20_000 / run.len());
            let counter = counted(&text, &[3], Some(tokenizer));
            let super::How::Exact { kept, .. } = &counter.how else {
                panic!("{counter:?}");
            };
            assert!(kept.capacity() <= 4 * KEPT, "{}", kept.capacity());
            let runs = (text.len() / KEPT) as u64 + 1;
            let off = counter.count().abs_diff(whole(&text, tokenizer));
            assert!(
                off <= Counter::OVER_A_RUN * runs,
                "{run:?} by {tokenizer:?}: {off} of {runs}"
            );
            assert!(counter.count() <= counter.most());
        }
    }
}

/// Texts that are hard to split: letters of several kinds, signs, spaces and what joins them.
fn hard() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "a",
            "B",
            "don",
            "'t",
            "'",
            "ll",
            "'LL",
            "'r",
            "e",
            " ",
            "  ",
            "\n",
            "\r",
            "\t",
            "1",
            "23",
            "4567",
            ".",
            "!!",
            "/",
            "é",
            "e\u{301}",
            "ß",
            "日本",
            "ไทย",
            "🙂",
            "\u{200d}",
            "\u{a0}",
            "ǅ",
            "ʰ",
            "۳",
            "_",
            "-",
            "Σς",
        ]),
        0..60,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_pieces_have_the_tokens_of_the_whole(text in prop_oneof![hard(), "\\PC{0,120}"], lengths in prop::collection::vec(1_usize..9, 1..6)) {
        for tokenizer in Tokenizer::ALL {
            let counter = counted(&text, &lengths, Some(tokenizer));
            prop_assert_eq!(counter.count(), whole(&text, tokenizer), "{:?}", tokenizer);
            prop_assert!(counter.count() <= counter.most());
        }
    }

    #[test]
    fn any_pieces_have_the_same_estimate(text in prop_oneof![hard(), "\\PC{0,120}"], lengths in prop::collection::vec(1_usize..9, 1..6)) {
        let counter = counted(&text, &lengths, None);
        prop_assert_eq!(counter.count(), counted(&text, &[usize::MAX], None).count());
        prop_assert!(counter.count() <= counter.most());
    }
}
