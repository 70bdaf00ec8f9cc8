use proptest::prelude::*;

use super::{Counter, KEPT, Tokenizer};

const O200K: Option<Tokenizer> = Some(Tokenizer::O200k);

fn whole(text: &str) -> u64 {
    bpe_openai::o200k_base().count(text) as u64
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

#[test]
fn known_texts_have_the_tokens_that_openai_counts() {
    for (text, expected) in [
        ("", 0),
        ("hello", 1),
        ("hello world", 2),
        ("don't", 2),
        ("Привет, мир!", 5),
        ("antidisestablishmentarianism", 6),
    ] {
        let count = counted(text, &[1], O200K).count();
        assert_eq!(count, whole(text), "{text}");
        assert!(count.abs_diff(expected) <= 1, "{text}: {count}");
    }
}

#[test]
fn what_joins_two_pieces_counts_once() {
    for text in [
        "don't we'll they've I'D",
        "a  \n  \n  b",
        "a   b\t\tc \r\n\r\n d",
        "  \n \n\n   \n x",
        "12345678 1.5e10",
        "!!\n\n//\r\n?? ''s '' 'll",
        "XMLHttpRequest fooBAR Baz\u{301}",
        "日本語のテキスト、そして English",
        "🙂🙂‍↔️ \u{200d}\u{fe0f}",
    ] {
        for length in 1..6 {
            let count = counted(text, &[length], O200K).count();
            assert_eq!(count, whole(text), "{text:?} by {length}");
        }
    }
}

#[test]
fn a_run_without_end_is_counted_in_bounded_memory() {
    for run in ["a", "=", " ", "\n", "日", "ab", "-=", "\u{e01}\u{e34}"] {
        let text = run.repeat(20_000 / run.len());
        let counter = counted(&text, &[3], O200K);
        let super::How::Exact { kept, .. } = &counter.how else {
            panic!("{counter:?}");
        };
        assert!(kept.capacity() <= 4 * KEPT, "{}", kept.capacity());
        let runs = (text.len() / KEPT) as u64 + 1;
        let off = counter.count().abs_diff(whole(&text));
        assert!(
            off <= Counter::OVER_A_RUN * runs,
            "{run:?}: {off} of {runs}"
        );
        assert!(counter.count() <= counter.most());
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
        let counter = counted(&text, &lengths, O200K);
        prop_assert_eq!(counter.count(), whole(&text));
        prop_assert!(counter.count() <= counter.most());
    }

    #[test]
    fn any_pieces_have_the_same_estimate(text in prop_oneof![hard(), "\\PC{0,120}"], lengths in prop::collection::vec(1_usize..9, 1..6)) {
        let counter = counted(&text, &lengths, None);
        prop_assert_eq!(counter.count(), counted(&text, &[usize::MAX], None).count());
        prop_assert!(counter.count() <= counter.most());
    }
}
