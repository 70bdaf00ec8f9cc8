//! What an upstream may answer.

use http::header;
use http::response::Parts;
use http::{StatusCode, Version};

use crate::HttpMalformed;

/// Checks that a response's head frames its body in one way (RFC 9112, 6.3), and that it changes
/// the protocol only where that was asked for.
///
/// # Errors
/// [`HttpMalformed`]; the client then gets 502.
pub fn check(parts: &Parts, asked_for_websocket: bool) -> Result<(), HttpMalformed> {
    let lengths: Vec<_> = parts
        .headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .collect();
    let codings: Vec<_> = parts
        .headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => {}
        ([length], []) => {
            if length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
                return Err(HttpMalformed::ContentLength);
            }
        }
        ([], [coding]) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if !chunked || parts.version != Version::HTTP_11 {
                return Err(HttpMalformed::TransferEncoding);
            }
        }
        (_, []) => return Err(HttpMalformed::ContentLength),
        ([], _) => return Err(HttpMalformed::TransferEncoding),
        _ => return Err(HttpMalformed::BothLengths),
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        if !asked_for_websocket {
            return Err(HttpMalformed::SwitchedUnasked);
        }
        let protocols: Vec<String> =
            crate::fields::tokens(&parts.headers, &header::UPGRADE).collect();
        if protocols != ["websocket"] {
            return Err(HttpMalformed::SwitchedElsewhere);
        }
    }
    crate::fields::check_connection(&parts.headers)
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::HttpMalformed;

    #[test]
    fn a_body_is_framed_in_one_way_rfc_9112_6_3() {
        const LENGTH: (&str, &str) = ("content-length", "5");
        const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");
        for (fields, expected) in [
            (&[][..], Ok(())),
            (&[LENGTH], Ok(())),
            (&[CHUNKED], Ok(())),
            (&[LENGTH, CHUNKED], Err(HttpMalformed::BothLengths)),
            (&[LENGTH, LENGTH], Err(HttpMalformed::ContentLength)),
            (
                &[("content-length", "5, 5")],
                Err(HttpMalformed::ContentLength),
            ),
            (
                &[("content-length", "+5")],
                Err(HttpMalformed::ContentLength),
            ),
            (
                &[("transfer-encoding", "gzip, chunked")],
                Err(HttpMalformed::TransferEncoding),
            ),
            (&[CHUNKED, CHUNKED], Err(HttpMalformed::TransferEncoding)),
        ] {
            let mut builder = http::Response::builder();
            for (name, value) in fields {
                builder = builder.header(*name, *value);
            }
            let (parts, ()) = builder.body(()).unwrap().into_parts();
            assert_eq!(check(&parts, false), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_protocol_changes_only_when_asked_rfc_9110_7_8() {
        let switching = |protocol: &str| {
            let builder = http::Response::builder()
                .status(101)
                .header("upgrade", protocol);
            builder.body(()).unwrap().into_parts().0
        };
        assert_eq!(check(&switching("WebSocket"), true), Ok(()));
        assert_eq!(
            check(&switching("websocket"), false),
            Err(HttpMalformed::SwitchedUnasked)
        );
        assert_eq!(
            check(&switching("h2c"), true),
            Err(HttpMalformed::SwitchedElsewhere)
        );
    }
}
