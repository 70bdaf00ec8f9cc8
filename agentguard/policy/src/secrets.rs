//! Which names stand for secrets, so that their values are nobody's to keep.
//!
//! A policy may well look at such a field: whether it is there, or how it begins. The record says that
//! it was there. Names are all there is to go by, so a name too many is taken for one rather than a
//! name too few: what is left out costs a simulation, and a key in the record costs the key.

/// What the name of a secret has anywhere in it.
const PARTS: [&str; 17] = [
    "accesskey",
    "apikey",
    "authentic",
    "authoriz",
    "bearer",
    "cookie",
    "credential",
    "csrf",
    "hmac",
    "jwt",
    "keyfile",
    "passw",
    "secret",
    "sessid",
    "signature",
    "token",
    "xsrf",
];

/// What the name of a secret has as one of its words.
const WORDS: [&str; 14] = [
    "assertion",
    "auth",
    "code",
    "key",
    "otp",
    "pass",
    "passcode",
    "passphrase",
    "pin",
    "pwd",
    "session",
    "sessionid",
    "sid",
    "sig",
];

/// Whether a header field or a parameter of this name holds a secret.
pub(crate) fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with("key")
        || PARTS.iter().any(|part| lower.contains(part))
        || words(name).any(|word| WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

/// The words of a name: apart by whatever is no letter and no digit, or by an upper-case letter behind a
/// lower-case one.
fn words(name: &str) -> impl Iterator<Item = &str> {
    let mut before = ' ';
    let apart = move |c: char| {
        let begins = before.is_ascii_lowercase() && c.is_ascii_uppercase();
        before = c;
        begins
    };
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    parts.flat_map(move |part| {
        let mut apart = apart;
        let begins = part
            .char_indices()
            .filter(|(_, c)| apart(*c))
            .map(|(at, _)| at);
        let ends: Vec<usize> = begins.chain([part.len()]).collect();
        let mut from = 0;
        ends.into_iter().filter_map(move |to| {
            let word = part.get(from..to);
            from = to;
            word
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_secret;

    #[test]
    fn names_of_secrets_are_known() {
        for name in [
            "authorization",
            "cookie",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "x-amz-security-token",
            "private-token",
            "x-auth",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "AWSAccessKeyId",
            "access_token",
            "key",
            "sig",
            "code",
            "client_secret",
            "PHPSESSID",
            "mcp-session-id",
            "password",
            "authKey",
            "sessionKey",
            "userSession",
            "x-privatekey",
            "x-keyfile",
            "x-csrf",
            "x-hmac",
            "authentication",
            "passcode",
            "x-passphrase",
            "signInPin",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "content-type",
            "accept",
            "x-team",
            "action",
            "author",
            "keyword",
            "passenger",
            "signing",
            "user-agent",
            "encoded",
            "page",
            "x-amz-target",
            "anthropic-version",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
