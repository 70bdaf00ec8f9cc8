//! DNS messages: what is read of a query, and how answers are written.
//!
//! **Invariant:** whatever the bytes, [`read`] returns and [`Reply::write`] gives a message no
//! longer than the client can take, or none.

use agentguard_model::{HostName, Reason, ReasonCode};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{HINFO, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use agentguard_model::Transport;

/// The largest UDP message we send or ask for: what passes every path unfragmented (DNS flag day
/// 2020).
const UDP_PAYLOAD: u16 = 1232;
/// What a client without EDNS can take over UDP (RFC 1035 §4.2.1).
const PLAIN_PAYLOAD: u16 = 512;
/// EDNS option of RFC 8914.
const EXTENDED_ERROR: u16 = 15;
/// Octets of extra text in an extended error. A longer sentence is cut; `explain` has all of it.
const MAX_EXTRA_TEXT: usize = 300;

/// A query that can be answered.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) id: u16,
    /// As sent, in its case (draft-vixie-dnsext-dns0x20): it is echoed so.
    pub(crate) query: Query,
    recursion_desired: bool,
    checking_disabled: bool,
    /// The payload size of the client's EDNS, where it sent one.
    edns: Option<u16>,
}

/// What a datagram or a TCP message turned out to be.
#[derive(Debug)]
pub(crate) enum Read {
    /// A query of class IN for something that may be asked.
    Question(Box<Question>),
    /// Something else; refused with these bytes, where it can be answered at all.
    Refused {
        reason: Reason,
        reply: Option<Vec<u8>>,
        /// What was asked for, where that much could be read.
        record_type: Option<RecordType>,
        name: Option<HostName>,
    },
}

impl Read {
    fn malformed(why: &str, reply: Option<Vec<u8>>) -> Self {
        Self::Refused {
            reason: Reason::new(
                ReasonCode::DnsMalformed,
                format!("the DNS message cannot be read: {why}"),
            ),
            reply,
            record_type: None,
            name: None,
        }
    }

    fn unsupported(question: &Question, why: &str, reply: Option<Vec<u8>>) -> Self {
        Self::Refused {
            reason: Reason::new(ReasonCode::DnsNotSupported, why),
            reply,
            record_type: Some(question.query.query_type()),
            name: question.host(),
        }
    }
}

/// Reads a message.
pub(crate) fn read(bytes: &[u8], transport: Transport) -> Read {
    let Some(&[id0, id1, flags0, _, questions0, questions1]) = bytes.first_chunk::<6>() else {
        return Read::malformed("it is shorter than a header", None);
    };
    if bytes.len() < 12 {
        return Read::malformed("it is shorter than a header", None);
    }
    let bare = |code: u8| {
        // QR, the opcode and RD as sent, RA.
        let flags = 0x80 | (flags0 & 0x79);
        Some(vec![id0, id1, flags, 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0])
    };
    const FORMERR: u8 = 1;
    const NOTIMP: u8 = 4;
    if flags0 & 0x80 != 0 {
        // To answer an answer could go on for ever.
        return Read::malformed("it is an answer, not a query", None);
    }
    if flags0 & 0x78 != 0 {
        return Read::Refused {
            reason: Reason::new(
                ReasonCode::DnsNotSupported,
                format!("DNS opcode {} is not supported", (flags0 >> 3) & 0xf),
            ),
            reply: bare(NOTIMP),
            record_type: None,
            name: None,
        };
    }
    // Before the library reads it: it sets memory aside for as many questions as the header says.
    if [questions0, questions1] != [0, 1] {
        return Read::malformed("it has not exactly one question", bare(FORMERR));
    }
    let message = match Message::from_vec(bytes) {
        Ok(message) => message,
        Err(error) => return Read::malformed(&error.to_string(), bare(FORMERR)),
    };
    let Some(query) = message.queries.first().cloned() else {
        return Read::malformed("it has no question", bare(FORMERR));
    };
    let question = Question {
        id: message.metadata.id,
        query,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns.as_ref().map(Edns::max_payload),
    };
    let refuse = |code, why: &str| {
        let reply = Reply::code(code).write(&question, transport);
        Read::unsupported(&question, why, reply)
    };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS, "only EDNS version 0 is known");
    }
    if question.query.query_class() != DNSClass::IN {
        return refuse(ResponseCode::NotImp, "only DNS class IN is answered");
    }
    match u16::from(question.query.query_type()) {
        // OPT is no question.
        0 | 41 => refuse(ResponseCode::FormErr, "this DNS type cannot be asked for"),
        // Meta types (RFC 6895 §3.1): zone transfers, TSIG, TKEY, …; ANY is answered.
        128..=254 => refuse(
            ResponseCode::NotImp,
            "zone transfers and other meta queries are not answered",
        ),
        _ => Read::Question(Box::new(question)),
    }
}

impl Question {
    /// The name, where it is one a host can have.
    pub(crate) fn host(&self) -> Option<HostName> {
        let mut text = String::with_capacity(64);
        for label in self.query.name() {
            // A dot inside a label would read as two labels.
            let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if !label.iter().all(plain) {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(std::str::from_utf8(label).ok()?);
        }
        text.parse().ok()
    }

    pub(crate) fn record_type(&self) -> RecordType {
        self.query.query_type()
    }

    fn limit(&self, transport: Transport) -> usize {
        usize::from(match (transport, self.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => PLAIN_PAYLOAD,
            // RFC 6891 §6.2.3: less than 512 is taken as 512.
            (Transport::Udp, Some(size)) => size.clamp(PLAIN_PAYLOAD, UDP_PAYLOAD),
        })
    }
}

/// How a record type is written in a decision.
pub(crate) fn type_name(record_type: RecordType) -> String {
    match record_type {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// An answer in the making.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    code: ResponseCode,
    answers: Vec<(u32, RData)>,
    /// The negative TTL, where the answer says that something does not exist.
    negative: Option<u32>,
    extended: Option<(u16, String)>,
}

impl Reply {
    /// Nothing but a response code.
    pub(crate) const fn code(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            negative: None,
            extended: None,
        }
    }

    /// Records for the name asked for, each with a TTL in seconds.
    pub(crate) const fn records(answers: Vec<(u32, RData)>) -> Self {
        Self {
            code: ResponseCode::NoError,
            answers,
            negative: None,
            extended: None,
        }
    }

    /// The name exists, this type does not; to be believed for `ttl` seconds.
    pub(crate) const fn no_data(ttl: u32) -> Self {
        Self {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            negative: Some(ttl),
            extended: None,
        }
    }

    /// The name does not exist; to be believed for `ttl` seconds.
    pub(crate) const fn no_name(ttl: u32) -> Self {
        Self {
            code: ResponseCode::NXDomain,
            answers: Vec::new(),
            negative: Some(ttl),
            extended: None,
        }
    }

    /// RFC 8482 §4.2: the answer to ANY.
    pub(crate) fn any(ttl: u32) -> Self {
        let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
        Self::records(vec![(ttl, RData::HINFO(hinfo))])
    }

    /// With an extended error (RFC 8914), told to clients that sent EDNS.
    pub(crate) fn because(mut self, code: ReasonCode, text: String) -> Self {
        self.extended = Some((extended_error(code), text));
        self
    }

    /// The message. Over UDP, what does not fit loses its extra text first and then its records,
    /// with TC set. None if it cannot be written at all, which the library does not rule out.
    pub(crate) fn write(&self, question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let limit = question.limit(transport);
        let mut message = self.message(question);
        let whole = message.to_vec().ok()?;
        if whole.len() <= limit {
            return Some(whole);
        }
        if let (Some(edns), Some((code, _))) = (&mut message.edns, &self.extended) {
            set_extended_error(edns, *code, "");
            let shorter = message.to_vec().ok()?;
            if shorter.len() <= limit {
                return Some(shorter);
            }
        }
        let cut = message.truncate().to_vec().ok()?;
        (cut.len() <= limit).then_some(cut)
    }

    fn message(&self, question: &Question) -> Message {
        let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = question.recursion_desired;
        message.metadata.checking_disabled = question.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = self.code;
        message.add_query(question.query.clone());
        let owner = question.query.name();
        for (ttl, data) in &self.answers {
            message.add_answer(Record::from_rdata(owner.clone(), *ttl, data.clone()));
        }
        if let Some(ttl) = self.negative {
            message.add_authority(soa(owner, self.code, ttl));
        }
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            if let Some((code, text)) = &self.extended {
                set_extended_error(&mut edns, *code, text);
            }
            message.set_edns(edns);
        }
        message
    }
}

/// The SOA without which a client may not cache a negative answer (RFC 2308 §5); it stands at the
/// name itself, or above it where the name is said not to exist.
fn soa(owner: &Name, code: ResponseCode, ttl: u32) -> Record {
    let zone = if code == ResponseCode::NXDomain {
        owner.base_name()
    } else {
        owner.clone()
    };
    // Constant and valid; the root stands in if the library should think otherwise.
    let ours = |text| Name::from_ascii(text).unwrap_or_else(|_| Name::root());
    let soa = SOA::new(
        ours("agentguard.invalid."),
        ours("nobody.invalid."),
        1,
        3600,
        600,
        86_400,
        ttl,
    );
    Record::from_rdata(zone, ttl, RData::SOA(soa))
}

fn set_extended_error(edns: &mut Edns, code: u16, text: &str) {
    let mut end = text.len().min(MAX_EXTRA_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = code.to_be_bytes().to_vec();
    data.extend_from_slice(text.get(..end).unwrap_or_default().as_bytes());
    let options = edns.options_mut();
    options.remove(EXTENDED_ERROR.into());
    options.insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
}

/// The codes of RFC 8914 §4.
const fn extended_error(code: ReasonCode) -> u16 {
    match code {
        // Not Supported.
        ReasonCode::DnsNotSupported => 21,
        // No Reachable Authority.
        ReasonCode::ResolverFailed => 22,
        // Other.
        ReasonCode::LimitReached
        | ReasonCode::VirtualAddressesExhausted
        | ReasonCode::RecordFailed
        | ReasonCode::RecordQuota
        | ReasonCode::MapFull
        | ReasonCode::Internal => 0,
        // Prohibited.
        _ => 18,
    }
}

#[cfg(test)]
mod tests;
