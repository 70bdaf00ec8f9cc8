//! What fields of HTTP say of a message (2026-07-28, "Request Metadata").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::{NotUnderstood, STATELESS, VERSIONS};

/// The fields of a request that are about its message.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claims {
    /// `MCP-Protocol-Version`.
    pub version: Option<String>,
    /// `Mcp-Method`.
    pub method: Option<String>,
    /// `Mcp-Name`, decoded.
    pub name: Option<String>,
    /// There are no fields, so that none is missing: standard input and output have none.
    pub none: bool,
}

impl Claims {
    /// Of a message that comes without fields, over standard input or output.
    #[must_use]
    pub fn without_fields() -> Self {
        Self {
            none: true,
            ..Self::default()
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// One is there twice, is no text, or names a version that is not known.
    pub fn read(fields: &HeaderMap) -> Result<Self, NotUnderstood> {
        let version = one(fields, "mcp-protocol-version")?;
        if let Some(version) = version
            && !VERSIONS.contains(&version)
        {
            return Err(NotUnderstood::Version);
        }
        // Whose session it is, the server knows; but one alone.
        one(fields, "mcp-session-id")?;
        let name = match one(fields, "mcp-name")? {
            Some(name) => Some(decoded(name).ok_or(NotUnderstood::Field("mcp-name"))?),
            None => None,
        };
        Ok(Self {
            version: version.map(str::to_owned),
            method: one(fields, "mcp-method")?.map(str::to_owned),
            name,
            none: false,
        })
    }

    /// Whether the message is of the version from which on each stands for itself.
    #[must_use]
    pub fn is_stateless(&self) -> bool {
        self.version.as_deref() == Some(STATELESS)
    }
}

fn one<'a>(fields: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, NotUnderstood> {
    let mut values = fields.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) if !text.is_empty() => Ok(Some(text)),
            _ => Err(NotUnderstood::Field(name)),
        },
        (Some(_), Some(_)) => Err(NotUnderstood::Field(name)),
    }
}

/// A value as it was before it was made fit for a field ("Value Encoding").
fn decoded(value: &str) -> Option<String> {
    let coded = value.strip_prefix("=?base64?");
    match coded.and_then(|rest| rest.strip_suffix("?=")) {
        Some(coded) => String::from_utf8(STANDARD.decode(coded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}
