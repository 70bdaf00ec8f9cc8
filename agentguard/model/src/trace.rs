//! The trace that a request says it belongs to.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `traceparent` (W3C Trace Context, 3.2), as an agent wrote it: whoever sends it names any trace and any span,
/// its own or not. It says what a request claims, and nothing is to be decided by it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    /// The trace, not all zero.
    pub trace: [u8; 16],
    /// The span, not all zero.
    pub span: [u8; 8],
    /// Its flags; the lowest bit says that it is sampled.
    pub flags: u8,
}

/// The text is no `traceparent`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it is not a traceparent: `00-`, 32 hexadecimal digits in lower case, `-`, 16, `-` and 2")]
pub struct InvalidTraceParent;

impl TraceParent {
    /// The trace, in 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace))
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(InvalidTraceParent);
        let [version] = hex(part()?)?;
        let (trace, span, [flags]) = (hex(part()?)?, hex(part()?)?, hex(part()?)?);
        // A later version may have more behind it (4.3); this one has not, and 255 is none.
        let ends = parts.next().is_none();
        let valid = version != 0xff && (ends || version > 0);
        if valid && trace != [0; 16] && span != [0; 8] {
            Ok(Self { trace, span, flags })
        } else {
            Err(InvalidTraceParent)
        }
    }
}

/// So many bytes in hexadecimal digits of lower case.
fn hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidTraceParent> {
    let lower = |digit: &u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(digit);
    if text.len() != 2 * N || !text.as_bytes().iter().all(lower) {
        return Err(InvalidTraceParent);
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| InvalidTraceParent)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidTraceParent)?;
    }
    Ok(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = u64::from_be_bytes(self.span);
        write!(f, "00-{}-{span:016x}-{:02x}", self.trace_id(), self.flags)
    }
}

impl TryFrom<String> for TraceParent {
    type Error = InvalidTraceParent;

    fn try_from(text: String) -> Result<Self, InvalidTraceParent> {
        text.parse()
    }
}

impl From<TraceParent> for String {
    fn from(parent: TraceParent) -> Self {
        parent.to_string()
    }
}

impl JsonSchema for TraceParent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TraceParent".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let pattern = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$";
        schemars::json_schema!({ "type": "string", "pattern": pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

    #[test]
    fn a_traceparent_is_read_as_w3c_trace_context_has_it_and_nothing_else_is() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let good = format!("00-{trace}-{span}-01");
        let parent: TraceParent = good.parse().unwrap();
        assert_eq!(
            (parent.trace[0], parent.span[0], parent.flags),
            (0x0a, 0xb7, 1)
        );
        assert_eq!(parent.to_string(), good);
        // A later version may go on behind the flags.
        assert_eq!(format!("cc-{trace}-{span}-01-what").parse(), Ok(parent));
        let none = "0".repeat(32);
        for bad in [
            String::new(),
            format!("{good}-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}"),
            format!("00-{none}-{span}-01"),
            format!("00-{trace}-{}-01", &none[..16]),
            format!("00-{trace}0-{span}-01"),
            format!(" {good}"),
            "00-é-é-01".to_owned(),
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad}");
        }
    }
}
