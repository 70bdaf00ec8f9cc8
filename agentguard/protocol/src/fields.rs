//! Fields that belong to one hop.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::HttpMalformed;

/// Fields that frame a message, direct it or say who sent it: `Connection` may not name them away.
const NEVER_OPTIONS: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::AUTHORIZATION,
    header::COOKIE,
];

/// Fields of one hop, whether `Connection` names them or not (RFC 9110, 7.6.1, and its
/// predecessors).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// The words of all `name` fields that are lists of tokens (RFC 9110, 5.6.1), in lower case.
pub fn tokens(fields: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    fields
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.trim_matches([' ', '\t']).to_ascii_lowercase())
        .filter(|token| !token.is_empty())
}

/// Checks what `Connection` names (RFC 9110, 7.6.1).
///
/// # Errors
/// [`HttpMalformed::ConnectionOption`] for a field that is not for one hop.
pub fn check_connection(fields: &HeaderMap) -> Result<(), HttpMalformed> {
    match tokens(fields, &header::CONNECTION)
        .find(|option| NEVER_OPTIONS.iter().any(|name| name == option.as_str()))
    {
        Some(option) => Err(HttpMalformed::ConnectionOption(option)),
        None => Ok(()),
    }
}

/// Removes what belongs to one hop (RFC 9110, 7.6.1); the others keep their order. `TE: trailers` is
/// said anew, because the next hop, too, may send us trailers when the client takes them.
pub fn strip_hop_by_hop(fields: &mut HeaderMap) {
    let takes_trailers = tokens(fields, &header::TE).any(|coding| coding == "trailers");
    let named: Vec<String> = tokens(fields, &header::CONNECTION).collect();
    let goes = |name: &HeaderName| {
        let listed =
            HOP_BY_HOP.contains(&name.as_str()) || named.iter().any(|own| name == own.as_str());
        listed && !NEVER_OPTIONS.contains(name)
    };
    if fields.keys().any(goes) {
        // To remove one from a map would put the last one into its place.
        let mut current = None;
        for (name, value) in std::mem::take(fields) {
            current = name.or(current);
            if let Some(name) = current.as_ref().filter(|name| !goes(name)) {
                fields.append(name, value);
            }
        }
    }
    if takes_trailers {
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::{HeaderName, HeaderValue};

    use super::{check_connection, strip_hop_by_hop};

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn one_hop_s_fields_go_and_the_others_stay_rfc_9110_7_6_1() {
        let mut map = fields(&[
            ("connection", "close, X-One"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("proxy-authorization", "Basic x"),
            ("te", "gzip"),
            ("trailer", "x-sum"),
            ("host", "a.example"),
        ]);
        strip_hop_by_hop(&mut map);
        let expected = fields(&[
            ("x-three", "3"),
            ("trailer", "x-sum"),
            ("host", "a.example"),
        ]);
        assert_eq!(map, expected);
        let order = ["x-three", "trailer", "host"];
        assert!(map.keys().eq(order.iter()), "{map:?}");
    }

    #[test]
    fn a_client_that_takes_trailers_still_gets_them_rfc_9110_10_1_4() {
        let mut map = fields(&[("te", "deflate, Trailers"), ("connection", "TE")]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, fields(&[("te", "trailers"), ("connection", "te")]));
    }

    #[test]
    fn connection_cannot_name_away_what_directs_a_message() {
        assert!(check_connection(&fields(&[("connection", "keep-alive, x-one")])).is_ok());
        for option in ["Host", "content-length", "authorization"] {
            let map = fields(&[("connection", "close"), ("connection", option)]);
            assert!(check_connection(&map).is_err(), "{option}");
        }
    }
}
