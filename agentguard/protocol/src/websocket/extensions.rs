//! What two sides may agree on (RFC 6455, 9.1; RFC 7692, 7): permessage-deflate. Frames of any other extension
//! could not be read, so others are not offered on.

use std::fmt;

use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

const DEFLATE: &str = "permessage-deflate";

/// The most extensions in one field section. More are refused.
const MAX_EXTENSIONS: usize = 32;

/// Why a field section says nothing about extensions, or something that was not asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotExtensions {
    /// It cannot be read (RFC 6455, 9.1).
    #[error("Sec-WebSocket-Extensions cannot be read (RFC 6455, 9.1)")]
    Syntax,
    /// There are more than [`MAX_EXTENSIONS`].
    #[error("Sec-WebSocket-Extensions has more than {MAX_EXTENSIONS} extensions")]
    TooMany,
    /// A server has accepted what was not offered, or not like that (RFC 6455, 9.1; RFC 7692, 5.1 and 7.1).
    #[error("Sec-WebSocket-Extensions accepts what was not offered (RFC 7692, 5.1)")]
    NotOffered,
}

/// A way in which a client would have its messages deflated (RFC 7692, 7.1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Parameters {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// The number may be left out in an offer.
    client_bits: Option<Option<u8>>,
}

impl Parameters {
    /// None where a parameter is unknown, given twice, or has another value than it may have.
    fn read(parameters: &[(String, Option<String>)]) -> Option<Self> {
        let mut read = Self::default();
        for (name, value) in parameters {
            let bits = value.as_deref().map(bits);
            let twice = match (name.as_str(), bits) {
                ("server_no_context_takeover", None) => {
                    std::mem::replace(&mut read.server_no_takeover, true)
                }
                ("client_no_context_takeover", None) => {
                    std::mem::replace(&mut read.client_no_takeover, true)
                }
                ("server_max_window_bits", Some(Some(bits))) => {
                    read.server_bits.replace(bits).is_some()
                }
                ("client_max_window_bits", None) => read.client_bits.replace(None).is_some(),
                ("client_max_window_bits", Some(Some(bits))) => {
                    read.client_bits.replace(Some(bits)).is_some()
                }
                _ => return None,
            };
            if twice {
                return None;
            }
        }
        Some(read)
    }

    /// Whether a server may answer this offer so (RFC 7692, 7.1).
    fn allows(&self, answer: &Self) -> bool {
        let within = |offered: Option<u8>, bits: u8| offered.is_none_or(|offered| bits <= offered);
        let server_bits = match (self.server_bits, answer.server_bits) {
            (Some(_), None) => false,
            (offered, Some(bits)) => within(offered, bits),
            (None, None) => true,
        };
        let client_bits = match (self.client_bits, answer.client_bits) {
            (_, None) => true,
            (Some(offered), Some(Some(bits))) => within(offered, bits),
            // Not offered, or without its number.
            (None, Some(_)) | (_, Some(None)) => false,
        };
        let takeover = answer.server_no_takeover || !self.server_no_takeover;
        server_bits && client_bits && takeover
    }
}

/// 8 to 15, in its one spelling.
fn bits(text: &str) -> Option<u8> {
    match text.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(DEFLATE)?;
        if self.server_no_takeover {
            f.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_takeover {
            f.write_str("; client_no_context_takeover")?;
        }
        if let Some(bits) = self.server_bits {
            write!(f, "; server_max_window_bits={bits}")?;
        }
        match self.client_bits {
            None => Ok(()),
            Some(None) => f.write_str("; client_max_window_bits"),
            Some(Some(bits)) => write!(f, "; client_max_window_bits={bits}"),
        }
    }
}

/// What a client offers and can be offered on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Offers(Vec<Parameters>);

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Agreed {
    /// Whether messages may be deflated.
    pub deflate: bool,
    /// Whether a deflated message of the client's may refer to those before it.
    pub client_takeover: bool,
}

impl Offers {
    /// Reads a client's offers. An offer that a server would have to decline is none.
    ///
    /// # Errors
    /// [`NotExtensions`] if that is not a list of extensions.
    pub fn read(fields: &HeaderMap) -> Result<Self, NotExtensions> {
        let offers = extensions(fields)?.into_iter().filter_map(|extension| {
            let deflate = extension.name.eq_ignore_ascii_case(DEFLATE);
            deflate.then(|| Parameters::read(&extension.parameters))?
        });
        Ok(Self(offers.collect()))
    }

    /// Writes them in place of what the client wrote.
    pub fn write(&self, fields: &mut HeaderMap) {
        fields.remove(SEC_WEBSOCKET_EXTENSIONS);
        let offers: Vec<String> = self.0.iter().map(Parameters::to_string).collect();
        if let Ok(value) = HeaderValue::try_from(offers.join(", "))
            && !value.is_empty()
        {
            fields.insert(SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }

    /// Reads what a server that was shown them has accepted.
    ///
    /// # Errors
    /// [`NotExtensions`]: what follows could not be read.
    pub fn accepted(&self, fields: &HeaderMap) -> Result<Agreed, NotExtensions> {
        let extensions = extensions(fields)?;
        let accepted = match extensions.as_slice() {
            [] => return Ok(Agreed::default()),
            [accepted] if accepted.name.eq_ignore_ascii_case(DEFLATE) => accepted,
            _ => return Err(NotExtensions::NotOffered),
        };
        let answer = Parameters::read(&accepted.parameters).ok_or(NotExtensions::NotOffered)?;
        if !self.0.iter().any(|offer| offer.allows(&answer)) {
            return Err(NotExtensions::NotOffered);
        }
        Ok(Agreed {
            deflate: true,
            client_takeover: !answer.client_no_takeover,
        })
    }
}

struct Extension {
    name: String,
    parameters: Vec<(String, Option<String>)>,
}

/// RFC 6455, 9.1: a list of names, each with parameters.
fn extensions(fields: &HeaderMap) -> Result<Vec<Extension>, NotExtensions> {
    let mut all = Vec::new();
    for value in fields.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let mut rest = Cursor(value.as_bytes());
        loop {
            // Empty elements mean nothing (RFC 9110, 5.6.1).
            while rest.takes(b',') {}
            if rest.is_empty() {
                break;
            }
            if all.len() == MAX_EXTENSIONS {
                return Err(NotExtensions::TooMany);
            }
            let name = rest.token().ok_or(NotExtensions::Syntax)?;
            let mut parameters = Vec::new();
            while rest.takes(b';') {
                let name = rest.token().ok_or(NotExtensions::Syntax)?;
                let value = match rest.takes(b'=') {
                    true => Some(rest.value().ok_or(NotExtensions::Syntax)?),
                    false => None,
                };
                parameters.push((name.to_ascii_lowercase(), value));
            }
            all.push(Extension { name, parameters });
            if !rest.is_empty() && !rest.takes(b',') {
                return Err(NotExtensions::Syntax);
            }
        }
    }
    Ok(all)
}

/// What is left to read of a field.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn is_empty(&mut self) -> bool {
        self.0 = self.0.trim_ascii_start();
        self.0.is_empty()
    }

    fn takes(&mut self, byte: u8) -> bool {
        self.0 = self.0.trim_ascii_start();
        match self.0.strip_prefix(&[byte]) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn token(&mut self) -> Option<String> {
        self.0 = self.0.trim_ascii_start();
        let end = self.0.iter().position(|byte| !is_token(*byte));
        let (token, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        self.0 = rest;
        let token = std::str::from_utf8(token).ok()?;
        (!token.is_empty()).then(|| token.to_owned())
    }

    /// A token, or a token in quotes.
    fn value(&mut self) -> Option<String> {
        if !self.takes(b'"') {
            return self.token();
        }
        let mut value = String::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let byte = match byte {
                b'"' => return (!value.is_empty()).then_some(value),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    escaped
                }
                byte => byte,
            };
            if !is_token(*byte) {
                return None;
            }
            value.push(char::from(*byte));
        }
    }
}

/// RFC 9110, 5.6.2.
const fn is_token(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
        || byte.is_ascii_alphanumeric()
}
