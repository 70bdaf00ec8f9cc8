//! What content is, by its field `Content-Type` (RFC 9110, 8.3).

use ::http::{HeaderMap, header};

use super::NotUnderstood;
use crate::media_type::{self, is_utf8};

/// What content is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Media {
    Json,
    /// `application/x-www-form-urlencoded`.
    Fields,
    /// `multipart/form-data`, with its boundary.
    Parts(String),
}

impl Media {
    /// Reads the field.
    ///
    /// # Errors
    /// It is not there once, is none that is read, or its text is no UTF-8.
    pub(super) fn read(fields: &HeaderMap) -> Result<Self, NotUnderstood> {
        let mut types = fields.get_all(header::CONTENT_TYPE).iter();
        let (Some(one), None) = (types.next(), types.next()) else {
            return Err(NotUnderstood::Type);
        };
        let text = one.to_str().map_err(|_| NotUnderstood::Type)?;
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let parameters = media_type::parameters(parameters).ok_or(NotUnderstood::Type)?;
        let parameter = |name: &str| {
            let mut found = parameters.iter().filter(|(own, _)| own == name);
            found.next().map(|(_, value)| value.clone())
        };
        if parameter("charset").is_some_and(|it| !is_utf8(&it)) {
            return Err(NotUnderstood::Charset);
        }
        let essence = essence.trim_matches([' ', '\t']).to_ascii_lowercase();
        match essence.as_str() {
            "application/json" | "text/json" => Ok(Self::Json),
            "application/x-www-form-urlencoded" => Ok(Self::Fields),
            "multipart/form-data" => {
                let boundary = parameter("boundary").filter(|it| is_boundary(it));
                let why = "it names no boundary, or one that is quoted in another way by others";
                boundary.map(Self::Parts).ok_or(NotUnderstood::Parts(why))
            }
            other if other.starts_with("application/") && other.ends_with("+json") => {
                Ok(Self::Json)
            }
            _ => Err(NotUnderstood::Type),
        }
    }
}

/// RFC 2046, 5.1.1, without spaces.
fn is_boundary(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
    (1..=70).contains(&text.len()) && text.bytes().all(allowed)
}
