//! Which names stand for secrets, so that their values are nobody's to keep.
//!
//! A policy may well look at such a field: whether it is there, or how it begins. The record says that
//! it was there. Names are all there is to go by, so a name too many is taken for one rather than a
//! name too few: what is left out costs a simulation, and a key in the record costs the key.

/// What the name of a secret has anywhere in it.
const PARTS: [&str; 12] = [
    "apikey",
    "accesskey",
    "authoriz",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "passw",
    "secret",
    "sessid",
    "signature",
    "token",
];

/// What the name of a secret has as one of its words.
const WORDS: [&str; 12] = [
    "assertion",
    "auth",
    "code",
    "key",
    "otp",
    "pass",
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
    if PARTS.iter().any(|part| lower.contains(part)) {
        return true;
    }
    let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| WORDS.contains(&word))
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
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "content-type",
            "accept",
            "x-team",
            "action",
            "author",
            "monkey",
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
