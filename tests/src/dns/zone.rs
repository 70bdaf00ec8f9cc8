//! What the name server knows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::svcb::{
    Alpn, EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue,
};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HTTPS, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Lifetime of an answer, and of the news that there is none, in seconds.
const TTL: u32 = 60;

/// How long a chain of CNAMEs we follow. What is behind it is left out of the answer.
const CHAIN: usize = 8;

/// Names and what they stand for. A name that is not here does not exist.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    names: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Addresses; each query of a family gets the next set, and the last one for ever.
    addresses: Vec<Vec<IpAddr>>,
    /// How many queries for IPv4 and for IPv6 addresses there were.
    asked: [usize; 2],
    others: Vec<RData>,
    ttl: Option<u32>,
    fault: Option<Fault>,
}

/// How the server misbehaves for a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It answers late.
    Delay(Duration),
    /// It never answers.
    Silence,
    /// It answers to another query's id.
    WrongId,
    /// It answers another question.
    WrongQuestion,
    /// It answers SERVFAIL.
    ServerFailure,
    /// It says over UDP that the answer is too long, whatever its length.
    Truncated,
    /// It answers with bytes that are no message.
    Garbage,
}

/// What a query gets.
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) records: Vec<Record>,
    pub(super) authority: Vec<Record>,
    pub(super) fault: Option<Fault>,
}

impl Zone {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name with these addresses, of both families, in place of those it had.
    #[must_use]
    pub fn address(mut self, name: &str, addresses: &[IpAddr]) -> Self {
        self.entry(name).addresses = vec![addresses.to_vec()];
        self
    }

    /// A name whose addresses change: each query of a family gets the next of these sets, and when
    /// they are used up, always the last. This is how a name is rebound.
    #[must_use]
    pub fn turns(mut self, name: &str, turns: &[&[IpAddr]]) -> Self {
        let entry = self.entry(name);
        entry.addresses = turns.iter().map(|turn| turn.to_vec()).collect();
        entry.asked = [0; 2];
        self
    }

    /// A name that is another name.
    ///
    /// # Errors
    /// The target is no name.
    pub fn alias(mut self, name: &str, target: &str) -> Result<Self> {
        let target = parse(target)?;
        self.entry(name).others.push(RData::CNAME(CNAME(target)));
        Ok(self)
    }

    /// A TXT record.
    #[must_use]
    pub fn text(mut self, name: &str, text: &str) -> Self {
        let text = RData::TXT(TXT::new(vec![text.to_owned()]));
        self.entry(name).others.push(text);
        self
    }

    /// An HTTPS record (RFC 9460) that offers what a guard has to strip: HTTP/3, an ECH key and
    /// address hints.
    #[must_use]
    pub fn https(mut self, name: &str, hints: &[IpAddr]) -> Self {
        let (mut four, mut six) = (Vec::new(), Vec::new());
        for hint in hints {
            match hint {
                IpAddr::V4(hint) => four.push(A(*hint)),
                IpAddr::V6(hint) => six.push(AAAA(*hint)),
            }
        }
        let mut parameters = vec![(
            SvcParamKey::Alpn,
            SvcParamValue::Alpn(Alpn(vec!["h3".into(), "h2".into()])),
        )];
        if !four.is_empty() {
            parameters.push((SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(four))));
        }
        let key = EchConfigList(b"\x00\x04\xfe\x0d\x00\x00".to_vec());
        parameters.push((
            SvcParamKey::EchConfigList,
            SvcParamValue::EchConfigList(key),
        ));
        if !six.is_empty() {
            parameters.push((SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(six))));
        }
        let record = HTTPS(SVCB::new(1, Name::root(), parameters));
        self.entry(name).others.push(RData::HTTPS(record));
        self
    }

    /// How long the answers of a name live, in seconds; otherwise 60.
    #[must_use]
    pub fn ttl(mut self, name: &str, seconds: u32) -> Self {
        self.entry(name).ttl = Some(seconds);
        self
    }

    /// A name for which the server misbehaves.
    #[must_use]
    pub fn fault(mut self, name: &str, fault: Fault) -> Self {
        self.entry(name).fault = Some(fault);
        self
    }

    /// Not this name any more.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.names.remove(&normal(name));
        self
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        self.names.entry(normal(name)).or_default()
    }

    pub(super) fn look_up(&mut self, name: &str, kind: RecordType) -> Answer {
        let fault = self.names.get(name).and_then(|entry| entry.fault);
        let mut records = Vec::new();
        let mut name = name.to_owned();
        for _ in 0..CHAIN {
            let Some(entry) = self.names.get_mut(&name) else {
                break;
            };
            let Ok(owner) = parse(&name) else { break };
            let found = entry.records(kind);
            let ttl = entry.ttl.unwrap_or(TTL);
            let target = found.iter().find_map(|data| match data {
                RData::CNAME(target) if kind != RecordType::CNAME => {
                    Some(normal(&target.0.to_ascii()))
                }
                _ => None,
            });
            let found = found.into_iter();
            records.extend(found.map(|data| Record::from_rdata(owner.clone(), ttl, data)));
            match target {
                Some(target) => name = target,
                None => break,
            }
        }
        let exists = self.names.contains_key(&name);
        let code = if exists {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        let authority = if records.is_empty() {
            soa()
        } else {
            Vec::new()
        };
        Answer {
            code,
            records,
            authority,
            fault,
        }
    }
}

impl Entry {
    fn records(&mut self, kind: RecordType) -> Vec<RData> {
        let mut found: Vec<RData> = self
            .others
            .iter()
            .filter(|data| {
                matches!(data.record_type(), RecordType::CNAME) || data.record_type() == kind
            })
            .cloned()
            .collect();
        let [four, six] = &mut self.asked;
        let asked = match kind {
            RecordType::A => four,
            RecordType::AAAA => six,
            _ => return found,
        };
        let turn = self.addresses.get(*asked).or(self.addresses.last());
        *asked += 1;
        let addresses = turn.into_iter().flatten().map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        });
        found.extend(addresses.filter(|data| data.record_type() == kind));
        found
    }
}

/// One for the whole DNS, so that resolvers may remember that a name does not exist (RFC 2308).
fn soa() -> Vec<Record> {
    let ttl = i32::try_from(TTL).unwrap_or(i32::MAX);
    let soa = SOA::new(Name::root(), Name::root(), 1, ttl, ttl, ttl, TTL);
    vec![Record::from_rdata(Name::root(), TTL, RData::SOA(soa))]
}

pub(super) fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn parse(name: &str) -> Result<Name> {
    let mut name = Name::from_ascii(name).with_context(|| format!("`{name}` is no name"))?;
    name.set_fqdn(true);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(answer: &Answer) -> Vec<String> {
        let records = answer.records.iter();
        records.map(|record| record.data.to_string()).collect()
    }

    #[test]
    fn a_name_has_addresses_of_both_families_and_an_alias_brings_them_along() {
        let ip: [IpAddr; 2] = [
            "203.0.113.10".parse().unwrap(),
            "2001:db8:113::10".parse().unwrap(),
        ];
        let mut zone = Zone::new()
            .address("Api.Example.com.", &ip)
            .alias("www.example.com", "api.example.com")
            .unwrap();
        let four = zone.look_up("api.example.com", RecordType::A);
        assert_eq!(addresses(&four), ["203.0.113.10"]);
        let six = zone.look_up("www.example.com", RecordType::AAAA);
        assert_eq!(addresses(&six), ["api.example.com.", "2001:db8:113::10"]);
    }

    #[test]
    fn no_such_name_and_no_such_type_are_two_things() {
        let mut zone = Zone::new().text("a.example", "x");
        let nothing = zone.look_up("b.example", RecordType::A);
        assert_eq!(nothing.code, ResponseCode::NXDomain);
        assert_eq!(nothing.authority.len(), 1);
        let empty = zone.look_up("a.example", RecordType::A);
        assert_eq!(empty.code, ResponseCode::NoError);
        assert!(empty.records.is_empty());
        assert_eq!(empty.authority.len(), 1);
    }

    #[test]
    fn a_rebound_name_stays_with_its_last_turn() {
        let (public, private) = (
            ["203.0.113.9".parse().unwrap()],
            ["10.0.0.1".parse().unwrap()],
        );
        let mut zone = Zone::new().turns("evil.example", &[&public, &private]);
        let mut ask = || addresses(&zone.look_up("evil.example", RecordType::A));
        assert_eq!(ask(), ["203.0.113.9"]);
        assert_eq!(ask(), ["10.0.0.1"]);
        assert_eq!(ask(), ["10.0.0.1"]);
    }

    #[test]
    fn a_circle_of_aliases_ends() {
        let mut zone = Zone::new()
            .alias("a.example", "b.example")
            .and_then(|zone| zone.alias("b.example", "a.example"))
            .unwrap();
        assert_eq!(
            zone.look_up("a.example", RecordType::A).records.len(),
            CHAIN
        );
    }
}
