//! Parameters of `Content-Type` (RFC 9110, 8.3.1), and the character set that it names.
//!
//! All that is read here is read as UTF-8. Many servers and clients go by the character set instead, UTF-7 among them,
//! in which the same bytes are another document.

use http::{HeaderMap, header};

/// Whether content is not said to be something else than UTF-8. Many clients call JSON a form, so that its type says nothing.
#[must_use]
pub fn is_text(fields: &HeaderMap) -> bool {
    fields.get_all(header::CONTENT_TYPE).iter().all(|it| {
        let Ok(text) = it.to_str() else {
            return false;
        };
        let Some((_, rest)) = text.split_once(';') else {
            return true;
        };
        let read = parameters(rest);
        read.is_some_and(|read| {
            let mut charsets = read.iter().filter(|(name, _)| name == "charset");
            charsets.all(|(_, charset)| is_utf8(charset))
        })
    })
}

/// Whether content is said to be a form. Some servers read it as one then, whatever it is.
#[must_use]
pub fn says_form(fields: &HeaderMap) -> bool {
    let mut kinds = fields.get_all(header::CONTENT_TYPE).iter();
    kinds.any(|it| {
        it.as_bytes()
            .to_ascii_lowercase()
            .windows(4)
            .any(|it| it == b"form")
    })
}

/// Whether a name of a character set is that of UTF-8, or of a part of it.
pub(crate) fn is_utf8(charset: &str) -> bool {
    ["utf-8", "utf8", "us-ascii"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(charset))
}

/// Parameters, none twice, in lower case each name: a token, or a quoted string in which nothing is escaped.
pub(crate) fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut read: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find([';', ' ', '\t']).unwrap_or(after.len())),
        };
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let known = read.iter().any(|(own, _)| *own == name);
        if name.is_empty() || !name.bytes().all(token) || known || value.contains(['\\', '"']) {
            return None;
        }
        read.push((name, value.to_owned()));
        let after = after.trim_start_matches([' ', '\t']);
        rest = match after.strip_prefix(';') {
            Some(more) => more.trim_start_matches([' ', '\t']),
            None if after.is_empty() => "",
            None => return None,
        };
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::is_text;

    #[test]
    fn what_is_said_to_be_in_another_character_set_is_no_text() {
        for (types, text) in [
            (&[][..], true),
            (&["application/json"], true),
            (&["text/event-stream;charset=UTF-8"], true),
            (&["application/json; charset=\"utf-8\""], true),
            (&["application/json; charset=us-ascii; profile=x"], true),
            (&["application/json;"], true),
            (&["application/json; charset=utf-7"], false),
            (&["application/json; CHARSET=UTF-16"], false),
            (&["application/json; charset=iso-8859-1"], false),
            (
                &["application/json; x=\"; charset=utf-8\"; charset=utf-7"],
                false,
            ),
            // Who reads which of the two is not known.
            (&["application/json; charset=utf-8; charset=utf-7"], false),
            (
                &["application/json", "application/json; charset=utf-7"],
                false,
            ),
            (&["application/json; charset"], false),
            (&["application/json; charset = utf-7"], false),
            (&["application/json\u{e9}"], false),
        ] {
            let mut fields = HeaderMap::new();
            for it in types {
                let value = HeaderValue::from_bytes(it.as_bytes()).unwrap();
                fields.append(header::CONTENT_TYPE, value);
            }
            assert_eq!(is_text(&fields), text, "{types:?}");
        }
    }
}
