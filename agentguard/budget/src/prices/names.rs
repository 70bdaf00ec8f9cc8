//! The names under which a model is asked for.
//!
//! A snapshot has a date, a router and Vertex AI put something before or behind, Amazon Bedrock a region, a vendor and a
//! version. Each is taken off, one at a time, and the nearest name that a table has is the model: so a snapshot that
//! has a price of its own has that, and every other one the model's.

/// The longest name that is looked for, in bytes: it is what an agent writes.
const LONGEST: usize = 256;

/// The most names that are made of one.
const MOST: usize = 64;

/// What Amazon Bedrock puts before a model: where it is to run, and whose it is.
const BEFORE: [&str; 25] = [
    "us",
    "us-gov",
    "eu",
    "apac",
    "global",
    "jp",
    "au",
    "ca",
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "meta",
    "minimax",
    "mistral",
    "moonshot",
    "moonshotai",
    "nvidia",
    "openai",
    "qwen",
    "writer",
    "xai",
    "zai",
];

/// What routers put behind a model that costs no more for it.
const BEHIND: [&str; 4] = ["free", "floor", "extended", "thinking"];

/// The first name that is found of those that are meant, from the one that is written on.
pub(crate) fn find<'t, T>(
    name: &str,
    mut look: impl FnMut(&str) -> Option<&'t T>,
) -> Option<&'t T> {
    let name = name.trim();
    if name.is_empty() || name.len() > LONGEST {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let mut names = vec![name.as_str()];
    let mut next = 0;
    while let Some(name) = names.get(next).copied() {
        if let Some(found) = look(name) {
            return Some(found);
        }
        for shorter in SHORTER.iter().filter_map(|shorter| shorter(name)) {
            if !shorter.is_empty() && names.len() < MOST && !names.contains(&shorter) {
                names.push(shorter);
            }
        }
        next += 1;
    }
    None
}

/// Ways to take something off a name.
const SHORTER: [fn(&str) -> Option<&str>; 6] = [
    // `claude-opus-4-6[1m]`: what a client writes for itself.
    |name| Some(name.strip_suffix(']')?.rsplit_once('[')?.0),
    // `openai/gpt-4o`, `models/gemini-2.5-pro`, `arn:aws:bedrock:…:inference-profile/…`
    |name| Some(name.split_once('/')?.1),
    // `claude-sonnet-4-5@20250929`
    |name| Some(name.rsplit_once('@')?.0),
    without_colon,
    // `us.anthropic.claude-sonnet-4-5-20250929-v1`
    |name| {
        let (before, rest) = name.split_once('.')?;
        BEFORE.contains(&before).then_some(rest)
    },
    without_date,
];

/// Without what stands behind a colon, if that makes it no other model: `…-v1:0`, `…:free`, and whose a tuned model is
/// (`ft:gpt-4o-2024-08-06:org::id`).
fn without_colon(name: &str) -> Option<&str> {
    let (rest, last) = name.rsplit_once(':')?;
    if let Some(tuned) = name.strip_prefix("ft:") {
        return tuned.contains(':').then_some(rest);
    }
    let digits = last.trim_end_matches(['k', 'm']);
    let is_size = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    (is_size || BEHIND.contains(&last)).then_some(rest)
}

/// Without a date or a version at the end.
fn without_date(name: &str) -> Option<&str> {
    let (rest, last) = name.rsplit_once('-')?;
    if matches!(last, "latest" | "preview") || is_version(last) {
        return Some(rest);
    }
    // `2024-08-06`, `05-06`, `03-2025`
    let mut shorter = rest;
    let mut lengths = vec![digits(last)?];
    while lengths.len() < 3 {
        let Some((before, part)) = shorter.rsplit_once('-') else {
            break;
        };
        let Some(length) = digits(part) else { break };
        lengths.push(length);
        shorter = before;
    }
    let parts = match lengths.as_slice() {
        [2, 2, 4] => 3,
        [2 | 4, 2, ..] => 2,
        // `20250929`, `2411`, `001`
        [8 | 4 | 3, ..] => 1,
        _ => return None,
    };
    let (at, _) = name.rmatch_indices('-').nth(parts - 1)?;
    name.get(..at)
}

/// How many digits there are, where there is nothing else.
fn digits(part: &str) -> Option<usize> {
    let is_number = !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    is_number.then_some(part.len())
}

/// `v1`
fn is_version(part: &str) -> bool {
    part.strip_prefix('v')
        .is_some_and(|it| digits(it).is_some_and(|length| length <= 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::find;

    fn found(name: &str, known: &str) -> bool {
        find(name, |it| (it == known).then_some(&())).is_some()
    }

    #[test]
    fn what_stands_around_a_model_s_name_is_taken_off() {
        for (name, known) in [
            ("gpt-4o", "gpt-4o"),
            ("GPT-4o", "gpt-4o"),
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("openai/gpt-4o", "gpt-4o"),
            ("openrouter/openai/gpt-4o:free", "gpt-4o"),
            ("openai/gpt-oss-120b", "openai/gpt-oss-120b"),
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
            ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
            ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5"),
            (
                "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
                "claude-sonnet-4-5",
            ),
            (
                "global.anthropic.claude-opus-4-6-v1",
                "global.anthropic.claude-opus-4-6",
            ),
            (
                "arn:aws:bedrock:us-east-1:1:inference-profile/us.amazon.nova-pro-v1:0",
                "nova-pro",
            ),
            (
                "anthropic.claude-3-haiku-20240307-v1:0:200k",
                "claude-3-haiku",
            ),
            ("publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
            ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
            ("gemini-2.5-flash-preview-09-2025", "gemini-2.5-flash"),
            ("gemini-2.0-flash-001", "gemini-2.0-flash"),
            ("mistral-large-2411", "mistral-large"),
            ("mistral-large-latest", "mistral-large"),
            ("command-a-03-2025", "command-a"),
            ("ft:gpt-4o-2024-08-06:acme::abc123", "ft:gpt-4o"),
        ] {
            assert!(found(name, known), "{name} is {known}");
        }
    }

    #[test]
    fn no_other_model_is_made_of_a_name() {
        for (name, other) in [
            ("gpt-4o-mini", "gpt-4o"),
            ("gpt-4.1", "gpt-4"),
            ("claude-opus-4-1", "claude-opus-4"),
            ("claude-opus-4-1-20250805", "claude-opus-4"),
            ("o3-deep-research", "o3"),
            ("gpt-4o:online", "gpt-4o"),
            ("ft:gpt-4o-2024-08-06:acme::abc123", "gpt-4o"),
            ("ft:gpt-4o", "ft"),
            ("gpt-4-32k", "gpt-4"),
        ] {
            assert!(!found(name, other), "{name} is not {other}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_looked_for_a_bounded_number_of_times(name in "([a-z]{0,3}|[0-9]{1,4}|é)([-./:@\\[\\]]([a-z]{0,3}|[0-9]{1,4})){0,90}") {
            let mut count = 0;
            let looked = find::<()>(&name, |_| {
                count += 1;
                None
            });
            prop_assert!(looked.is_none() && count <= super::MOST);
        }
    }
}
