//! Names of members, and what servers may take for one of them.

/// A name as the most lenient of servers compare it: without case, and without what tells the two spellings of a
/// protocol buffer's JSON apart. Go's `encoding/json` takes two letters outside of ASCII for `s` and `k`, too.
fn folded(name: &str) -> impl Iterator<Item = char> {
    name.chars().map(|character| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    })
}

/// The one of `known` that a name may be taken for, where case is not looked at.
pub(super) fn in_another_case(known: &[&'static str], name: &str) -> Option<&'static str> {
    let mut known = known.iter().filter(|known| **known != name);
    known.find(|known| folded(known).eq(folded(name))).copied()
}

/// The spelling of a name that the JSON of protocol buffers prefers: `maxOutputTokens` of `max_output_tokens`,
/// which servers take as well.
pub(super) fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for character in name.chars() {
        match character {
            '_' => upper = true,
            character if upper => {
                camel.push(character.to_ascii_uppercase());
                upper = false;
            }
            character => camel.push(character),
        }
    }
    camel
}

/// A name without all that lenient servers do not look at.
pub(super) fn bare(name: &str) -> String {
    bare_of(name).collect()
}

/// As [`bare`], letter by letter.
fn bare_of(name: &str) -> impl Iterator<Item = char> {
    folded(name).filter(|it| !matches!(it, '_' | '-'))
}

/// The most bytes of a name that [`bare_in`] looks at.
const MAX_BARE: usize = 40;

/// As [`bare`], in a place that is there. Empty where the name is longer than any that is known, or has letters that none
/// of them has.
pub(super) fn bare_in<'a>(name: &str, place: &'a mut [u8; MAX_BARE]) -> &'a str {
    let mut length = 0;
    for letter in bare_of(name) {
        let (Some(byte), Ok(letter)) = (place.get_mut(length), u8::try_from(letter)) else {
            return "";
        };
        *byte = letter;
        length += 1;
    }
    let bare = place.get(..length).unwrap_or_default();
    std::str::from_utf8(bare).unwrap_or_default()
}

/// Whether a member with this name would offer tools, name a model or ask for more in the form of some model.
pub(super) fn asks_for_more(name: &str) -> bool {
    OF_MODELS.contains(&bare(name).as_str())
}

/// What offers tools, names a model or asks for more in the form of some model, by [`bare`] name.
const OF_MODELS: [&str; 27] = [
    "tool",
    "tools",
    "toolconfig",
    "functions",
    "functiondeclarations",
    "connectors",
    "mcpservers",
    "websearchoptions",
    "datasources",
    "searchparameters",
    "enablesearch",
    "plugins",
    "fallbacks",
    "model",
    "models",
    "modelid",
    "maxtokens",
    "maxnewtokens",
    "maxgenlen",
    "maxlength",
    "maxtokencount",
    "maxtokenstosample",
    "maxoutputtokens",
    "maxcompletiontokens",
    "maxtokenstogenerate",
    "numpredict",
    "numtokens",
];

/// What a name is to one who takes both spellings.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Spelt {
    /// One of those that are known, by its place among them.
    Known(usize),
    /// None of them, but some server may take it for this one.
    MayBe(&'static str),
    /// None of them.
    Other,
}

/// Finds a name in either spelling. `known`: as [`camel`] has them, not more than 32.
pub(super) fn either_spelling(known: &[&'static str], name: &str) -> Spelt {
    // Asked of each member of a request: nothing is put together for it, and most are written so.
    if let Some(at) = known.iter().position(|known| *known == name) {
        return Spelt::Known(at);
    }
    let is = |known: &&&str| bare_of(known).eq(bare_of(name));
    let Some(at) = known.iter().position(|known| is(&known)) else {
        return Spelt::Other;
    };
    let Some(&is) = known.get(at) else {
        return Spelt::Other;
    };
    if snake(is) == name {
        Spelt::Known(at)
    } else {
        Spelt::MayBe(is)
    }
}

/// `max_output_tokens` of `maxOutputTokens`.
fn snake(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for character in camel.chars() {
        if character.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::{Spelt, asks_for_more, camel, either_spelling, in_another_case};

    #[test]
    fn what_some_server_takes_for_a_name_is_found() {
        const KNOWN: [&str; 3] = ["tools", "maxOutputTokens", "name"];
        for (name, expected) in [
            ("tools", Spelt::Known(0)),
            ("Tools", Spelt::MayBe("tools")),
            ("tool\u{17f}", Spelt::MayBe("tools")),
            ("to_ols", Spelt::MayBe("tools")),
            ("maxOutputTokens", Spelt::Known(1)),
            ("max_output_tokens", Spelt::Known(1)),
            ("max_outputTokens", Spelt::MayBe("maxOutputTokens")),
            ("MaxOutputTo\u{212a}ens", Spelt::MayBe("maxOutputTokens")),
            ("maxoutputtokens", Spelt::MayBe("maxOutputTokens")),
            ("_name", Spelt::MayBe("name")),
            ("names", Spelt::Other),
        ] {
            assert_eq!(either_spelling(&KNOWN, name), expected, "{name}");
        }
        assert_eq!(in_another_case(&KNOWN, "tools"), None);
        assert_eq!(in_another_case(&KNOWN, "tool\u{17f}"), Some("tools"));
        assert_eq!(in_another_case(&KNOWN, "max_output_tokens"), None);
        assert_eq!(camel("google_search_retrieval"), "googleSearchRetrieval");
        assert_eq!(camel("urlContext"), "urlContext");
        assert!(asks_for_more("Max-New_Tokens") && !asks_for_more("budget_tokens"));
    }
}
