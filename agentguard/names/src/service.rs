//! What an agent may see of HTTPS and SVCB records (RFC 9460).
//!
//! These records tell a client to go elsewhere (target name, address hints), by other means
//! (HTTP/3), or unseen (ECH). What remains here is what holds for the same name over TCP: HTTP
//! versions and a port, each once, so that a record is small whatever was sent. Only known
//! parameters pass; what is invented later is not seen before it is understood.

use hickory_proto::rr::Name;
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::{Alpn, Mandatory, SvcParamKey, SvcParamValue};

/// The ALPN ids of protocols over TCP that the proxy understands.
const ALPN: [&str; 3] = ["h2", "http/1.1", "http/1.0"];

/// The record as an agent may see it, if anything useful is left of it.
///
/// - An alias (priority 0) or another target sends the client to another name, where the proxy
///   would find SNI and name at odds: dropped, the client then uses the addresses of the name it
///   asked for.
/// - A record that calls a removed parameter mandatory, or that has no protocol left and
///   excludes the default one, cannot be used: dropped.
pub(crate) fn strip(record: &SVCB, owner: &Name) -> Option<SVCB> {
    let same = record.target_name.is_root() || record.target_name == *owner;
    if record.svc_priority == 0 || !same {
        return None;
    }
    let mut kept: Vec<(SvcParamKey, SvcParamValue)> = Vec::new();
    let mut mandatory: Option<&Mandatory> = None;
    let mut no_default = false;
    for (key, value) in &record.svc_params {
        match value {
            SvcParamValue::Mandatory(keys) => mandatory = Some(keys),
            SvcParamValue::Alpn(Alpn(ids)) => {
                let over_tcp: Vec<String> = ALPN
                    .iter()
                    .filter(|known| ids.iter().any(|id| id == **known))
                    .map(|known| (*known).to_owned())
                    .collect();
                if !over_tcp.is_empty() {
                    kept.push((*key, SvcParamValue::Alpn(Alpn(over_tcp))));
                }
            }
            SvcParamValue::NoDefaultAlpn => no_default = true,
            SvcParamValue::Port(_) => kept.push((*key, value.clone())),
            _ => {}
        }
    }
    let has = |kept: &[(SvcParamKey, _)], key| kept.iter().any(|(found, _)| *found == key);
    if no_default {
        if !has(&kept, SvcParamKey::Alpn) {
            return None;
        }
        kept.push((SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn));
    }
    if kept.is_empty() {
        return None;
    }
    if let Some(Mandatory(keys)) = mandatory {
        // More keys than parameters are some key twice, which RFC 9460 §8 forbids.
        if keys.len() > kept.len() || !keys.iter().all(|key| has(&kept, *key)) {
            return None;
        }
        kept.push((
            SvcParamKey::Mandatory,
            SvcParamValue::Mandatory(Mandatory(keys.clone())),
        ));
    }
    // RFC 9460 §2.2: in ascending order of their numbers.
    kept.sort_by_key(|(key, _)| u16::from(*key));
    Some(SVCB::new(record.svc_priority, Name::root(), kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::svcb::{EchConfigList, IpHint, Unknown};
    use hickory_proto::rr::rdata::{A, AAAA};

    fn alpn(ids: &[&str]) -> (SvcParamKey, SvcParamValue) {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(ids)))
    }

    fn port(number: u16) -> (SvcParamKey, SvcParamValue) {
        (SvcParamKey::Port, SvcParamValue::Port(number))
    }

    fn mandatory(keys: &[SvcParamKey]) -> (SvcParamKey, SvcParamValue) {
        let keys = Mandatory(keys.to_vec());
        (SvcParamKey::Mandatory, SvcParamValue::Mandatory(keys))
    }

    fn hints() -> Vec<(SvcParamKey, SvcParamValue)> {
        vec![
            (
                SvcParamKey::Ipv4Hint,
                SvcParamValue::Ipv4Hint(IpHint(vec![A::new(203, 0, 113, 1)])),
            ),
            (
                SvcParamKey::EchConfigList,
                SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3])),
            ),
            (
                SvcParamKey::Ipv6Hint,
                SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)])),
            ),
            (
                SvcParamKey::Unknown(7),
                SvcParamValue::Unknown(Unknown(b"/dns-query{?dns}".to_vec())),
            ),
        ]
    }

    #[test]
    fn what_is_left_of_a_record() {
        let no_default = (SvcParamKey::NoDefaultAlpn, SvcParamValue::NoDefaultAlpn);
        for (what, priority, target, parameters, expected) in [
            (
                "h3, hints and ECH go",
                1,
                ".",
                [vec![alpn(&["h3", "h2", "h3-29"])], hints()].concat(),
                Some(vec![alpn(&["h2"])]),
            ),
            (
                "a port stays",
                1,
                ".",
                [vec![port(8443)], hints()].concat(),
                Some(vec![port(8443)]),
            ),
            ("nothing is left", 1, ".", hints(), None),
            (
                "only QUIC",
                1,
                ".",
                vec![alpn(&["h3"]), no_default.clone()],
                None,
            ),
            (
                "no default, but h2",
                1,
                ".",
                vec![alpn(&["h2", "h3"]), no_default.clone()],
                Some(vec![alpn(&["h2"]), no_default]),
            ),
            ("an alias", 0, "other.example.", vec![], None),
            (
                "another target",
                1,
                "other.example.",
                vec![alpn(&["h2"])],
                None,
            ),
            (
                "the name itself as target",
                1,
                "Name.example.",
                vec![alpn(&["h2"])],
                Some(vec![alpn(&["h2"])]),
            ),
            (
                "mandatory ECH",
                1,
                ".",
                [
                    vec![mandatory(&[SvcParamKey::EchConfigList]), alpn(&["h2"])],
                    hints(),
                ]
                .concat(),
                None,
            ),
            (
                "mandatory ALPN",
                1,
                ".",
                vec![mandatory(&[SvcParamKey::Alpn]), alpn(&["h2"])],
                Some(vec![mandatory(&[SvcParamKey::Alpn]), alpn(&["h2"])]),
            ),
        ] {
            let owner = Name::from_ascii("name.example.").unwrap();
            let record = SVCB::new(priority, Name::from_ascii(target).unwrap(), parameters);
            let left = strip(&record, &owner).map(|record| record.svc_params);
            assert_eq!(left, expected, "{what}");
        }
    }
}
