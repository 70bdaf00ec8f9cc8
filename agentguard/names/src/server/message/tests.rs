use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn query(name: &str, record_type: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn question(bytes: &[u8]) -> Box<Question> {
    match read(bytes, Transport::Udp) {
        Read::Question(question) => question,
        Read::Refused { reason, .. } => panic!("{reason:?}"),
    }
}

/// The code and the reply's response code, or none where there is no reply.
/// As numbers: 16 has two names.
fn refusal(bytes: &[u8]) -> (ReasonCode, Option<u16>) {
    match read(bytes, Transport::Udp) {
        Read::Refused { reason, reply, .. } => (
            reason.code,
            reply.map(|reply| {
                assert_eq!(reply.get(..2), bytes.get(..2), "the id is echoed");
                let message = Message::from_vec(&reply).unwrap();
                message.metadata.response_code.into()
            }),
        ),
        Read::Question(question) => panic!("{question:?}"),
    }
}

#[test]
fn what_is_no_query_is_refused_in_kind() {
    let good = query("a.example.", RecordType::A, None);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let class_chaos = with(good.len() - 1, 3);
    let mut version1 = query("a.example.", RecordType::A, Some(1232));
    let at = version1.len() - 5;
    version1[at] = 1;
    use ReasonCode::{DnsMalformed, DnsNotSupported};
    for (what, bytes, expected) in [
        ("empty", vec![], (DnsMalformed, None)),
        ("eleven octets", good[..11].to_vec(), (DnsMalformed, None)),
        ("an answer", with(2, 0x81), (DnsMalformed, None)),
        (
            "no question",
            with(5, 0),
            (DnsMalformed, Some(ResponseCode::FormErr)),
        ),
        (
            "two questions",
            with(5, 2),
            (DnsMalformed, Some(ResponseCode::FormErr)),
        ),
        (
            "65281 questions",
            with(4, 0xff),
            (DnsMalformed, Some(ResponseCode::FormErr)),
        ),
        (
            "cut",
            good[..good.len() - 3].to_vec(),
            (DnsMalformed, Some(ResponseCode::FormErr)),
        ),
        (
            "a label that points at itself",
            [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(),
            (DnsMalformed, Some(ResponseCode::FormErr)),
        ),
        (
            "opcode NOTIFY",
            with(2, 0x21),
            (DnsNotSupported, Some(ResponseCode::NotImp)),
        ),
        (
            "class CHAOS",
            class_chaos,
            (DnsNotSupported, Some(ResponseCode::NotImp)),
        ),
        (
            "EDNS version 1",
            version1,
            (DnsNotSupported, Some(ResponseCode::BADVERS)),
        ),
        (
            "AXFR",
            query("a.example.", RecordType::AXFR, None),
            (DnsNotSupported, Some(ResponseCode::NotImp)),
        ),
        (
            "OPT as a question",
            query("a.example.", RecordType::OPT, None),
            (DnsNotSupported, Some(ResponseCode::FormErr)),
        ),
    ] {
        let (reason, code) = expected;
        assert_eq!(refusal(&bytes), (reason, code.map(u16::from)), "{what}");
    }
}

#[test]
fn a_name_that_is_no_host_name_is_none() {
    for (name, host) in [
        ("A.Example.", Some("a.example")),
        ("_x._tcp.example.", Some("_x._tcp.example")),
        (".", None),
        ("*.example.", None),
        ("1.2.3.4.", None),
    ] {
        let question = question(&query(name, RecordType::A, None));
        assert_eq!(
            question.host().as_ref().map(HostName::as_str),
            host,
            "{name}"
        );
    }
    for label in [b"a.b", b"a\0b", b"a b", b"a\xffb"] {
        let mut bytes = query("axb.example.", RecordType::A, None);
        bytes[13..16].copy_from_slice(label);
        assert_eq!(question(&bytes).host(), None, "{label:?}");
    }
}

#[test]
fn the_case_of_the_question_is_echoed() {
    let question = question(&query("wWw.ExAmPlE.", RecordType::A, None));
    let a = RData::A(Ipv4Addr::new(198, 18, 1, 1).into());
    let bytes = Reply::records(vec![(60, a)])
        .write(&question, Transport::Udp)
        .unwrap();
    assert!(bytes.windows(7).any(|window| window == b"ExAmPlE"));
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.queries[0].name().to_ascii(), "wWw.ExAmPlE.");
    assert_eq!(message.answers[0].name.to_ascii(), "wWw.ExAmPlE.");
    assert!(message.metadata.recursion_available);
}

#[test]
fn what_does_not_fit_is_cut_in_this_order() {
    let many = |count: u8| {
        let a = |n| (60, RData::A(Ipv4Addr::new(203, 0, 113, n).into()));
        Reply::records((0..count).map(a).collect())
    };
    let plain = question(&query("a.example.", RecordType::A, None));
    let large = question(&query("a.example.", RecordType::A, Some(4096)));
    for (what, reply, question, transport, truncated) in [
        ("fits", many(20), &plain, Transport::Udp, false),
        ("too large for 512", many(60), &plain, Transport::Udp, true),
        ("EDNS says more", many(60), &large, Transport::Udp, false),
        (
            "but not more than 1232",
            many(200),
            &large,
            Transport::Udp,
            true,
        ),
        ("TCP", many(200), &plain, Transport::Tcp, false),
    ] {
        let bytes = reply.write(question, transport).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.truncation, truncated, "{what}");
        assert_eq!(message.answers.is_empty(), truncated, "{what}");
    }
    let long = format!("{}.{}.example.", "a".repeat(60), "b".repeat(60));
    let small = question(&query(&long, RecordType::A, Some(512)));
    let reply = Reply::no_name(5).because(ReasonCode::NoRule, "x".repeat(400));
    let bytes = reply.write(&small, Transport::Udp).unwrap();
    let message = Message::from_vec(&bytes).unwrap();
    assert!(!message.metadata.truncation);
    let option = message.edns.unwrap().option(EXTENDED_ERROR.into()).cloned();
    assert_eq!(
        option,
        Some(EdnsOption::Unknown(EXTENDED_ERROR, vec![0, 18])),
        "the code stays when the text goes"
    );
}

#[test]
fn an_extended_error_is_for_clients_with_edns_only() {
    for (edns, expected) in [(None, false), (Some(1232), true)] {
        let question = question(&query("a.example.", RecordType::A, edns));
        let bytes = Reply::no_name(5)
            .because(ReasonCode::NoRule, "why".to_owned())
            .write(&question, Transport::Udp)
            .unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.edns.is_some(), expected);
        let RData::SOA(soa) = &message.authorities[0].data else {
            panic!("an SOA makes it cacheable");
        };
        assert_eq!((soa.minimum, message.authorities[0].ttl), (5, 5));
        assert_eq!(message.authorities[0].name.to_ascii(), "example.");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_get_a_bounded_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..700),
        tcp: bool,
    ) {
        check(&bytes, tcp);
    }

    #[test]
    fn nearly_good_bytes_never_panic_and_get_a_bounded_answer(
        name in "[a-zA-Z0-9_.-]{1,80}",
        record_type: u16,
        edns: Option<u16>,
        changes in proptest::collection::vec((0_usize..150, any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
        tcp: bool,
    ) {
        let Ok(name) = Name::from_ascii(&name) else { return Ok(()) };
        let mut bytes = query(&name.to_ascii(), RecordType::from(record_type), edns);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.extend(tail);
        check(&bytes, tcp);
    }
}

fn check(bytes: &[u8], tcp: bool) {
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    let reply = match read(bytes, transport) {
        Read::Refused { reply, reason, .. } => {
            assert!(matches!(
                reason.code,
                ReasonCode::DnsMalformed | ReasonCode::DnsNotSupported
            ));
            reply
        }
        Read::Question(question) => {
            question.host();
            type_name(question.record_type());
            Reply::no_name(5)
                .because(ReasonCode::NoRule, "ü".repeat(400))
                .write(&question, transport)
        }
    };
    if let Some(reply) = reply {
        assert!(reply.len() <= if tcp { 65_535 } else { 1232 });
        assert_eq!(reply[..2], bytes[..2], "the id is echoed");
        assert_ne!(reply[2] & 0x80, 0, "it is an answer");
    }
}
