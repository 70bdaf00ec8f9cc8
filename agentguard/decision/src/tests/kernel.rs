//! Verdicts of the kernel.

use agentguard_common::address::Address;
use agentguard_common::event::{Event, kind, reason};
use agentguard_model::{Layer, Mode, ReasonCode, Verdict};

use super::{decider, deciding, last};

fn event(why: u8, rule: u32, generation: u32, denied: bool) -> Event {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"nc\0x");
    Event {
        kind: kind::FLOW,
        reason: why,
        denied: u8::from(denied),
        rule,
        generation,
        agent: 1,
        pid: 7,
        uid: 1000,
        comm,
        remote: Address::from("192.0.2.9".parse::<std::net::IpAddr>().unwrap()),
        remote_port: 22,
        protocol: 6,
        ..Event::default()
    }
}

#[tokio::test]
async fn a_verdict_of_the_kernel_names_the_rule_of_its_own_policy() {
    let decider = decider();
    let event = event(reason::RULE_ALLOW, 5, 4, false);
    decider
        .kernel(&event, None, None, Some("/bin/nc".to_owned()))
        .await
        .unwrap();
    let decision = last(&decider);
    assert_eq!(decision.layer, Layer::Kernel);
    assert_eq!(decision.verdict, Verdict::Allow);
    assert_eq!(decision.matched.first().unwrap().rule, "net");
    assert_eq!(decision.action.ip, Some("192.0.2.9".parse().unwrap()));
    let process = decision.process.unwrap();
    assert_eq!(
        (process.comm.as_str(), process.exe.as_deref()),
        ("nc", Some("/bin/nc"))
    );
    // A number of a policy that is not kept names nothing.
    let old = Event {
        generation: 3,
        ..event
    };
    decider.kernel(&old, None, None, None).await.unwrap();
    assert_eq!(last(&decider).matched, []);
}

#[tokio::test]
async fn every_reason_of_the_gate_has_a_code_and_a_sentence() {
    let decider = decider();
    for why in (1..=4).chain(reason::FIRST_DENIAL..=reason::CONNECTION_RATE) {
        decider
            .kernel(&event(why, 0, 4, why >= 16), None, None, None)
            .await
            .unwrap();
        let decision = last(&decider);
        assert_ne!(decision.reason.code, ReasonCode::Internal, "{why}");
        assert!(decision.reason.message.ends_with('.'), "{why}");
        assert_eq!(decision.verdict == Verdict::Deny, why >= 16, "{why}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_told_by_its_name() {
    let decider = decider();
    let event = Event {
        kind: kind::SOCKET,
        family: 1,
        socket_type: 1,
        protocol: 0,
        ..event(reason::UNIX_SOCKET, 0, 4, true)
    };
    for (name, begins) in [
        ("/run/docker.sock", "/run/docker.sock is a UNIX socket"),
        ("", "This is a UNIX socket"),
    ] {
        decider
            .kernel(&event, None, Some(name.to_owned()), None)
            .await
            .unwrap();
        let decision = last(&decider);
        assert_eq!(decision.reason.code, ReasonCode::UnixSocketNotAllowed);
        assert!(decision.reason.message.starts_with(begins));
        assert_eq!(decision.action.path.as_deref(), Some(name));
        assert_eq!(
            decision.action.method.as_deref(),
            Some("family 1 type 1 protocol 0")
        );
    }
}

#[tokio::test]
async fn a_denial_that_passed_is_told_as_not_enforced() {
    let decider = decider();
    decider
        .kernel(&event(reason::NO_RULE, 0, 4, false), None, None, None)
        .await
        .unwrap();
    let decision = last(&decider);
    assert_eq!(
        (decision.verdict, decision.enforced),
        (Verdict::Deny, false)
    );
}

#[tokio::test]
async fn a_verdict_of_the_kernel_has_the_time_at_which_it_fell() {
    let decider = decider();
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let ago = 5_000_000_000;
    let now = u64::try_from(clock.tv_sec).unwrap() * 1_000_000_000;
    let old = Event {
        time_ns: now - ago,
        ..event(reason::NO_RULE, 0, 4, true)
    };
    decider.kernel(&old, None, None, None).await.unwrap();
    let age = jiff::Timestamp::now().duration_since(last(&decider).time);
    assert!((5..=7).contains(&age.as_secs()), "{age:?}");
}

/// The kernel knows rules in force alone; the record tells of those on paper too.
#[tokio::test]
async fn a_denial_of_the_kernel_names_the_rule_on_paper_that_would_allow_it() {
    let decider = decider();
    let to = |protocol: u16, port: u16, generation: u32| Event {
        protocol,
        remote_port: port,
        ..event(reason::NO_RULE, 0, generation, true)
    };
    for (event, rule) in [
        (to(6, 2222, 4), Some("soon")),
        (to(17, 2222, 4), None),
        (to(6, 2223, 4), None),
        // Under a policy that is not in force any more.
        (to(6, 2222, 3), None),
    ] {
        decider.kernel(&event, None, None, None).await.unwrap();
        let decision = last(&decider);
        assert_eq!(decision.reason.code, ReasonCode::NoRule);
        let matched = decision
            .matched
            .first()
            .map(|matched| matched.rule.as_str());
        assert_eq!(matched, rule, "{event:?}");
        let told = decision.reason.message.contains("rule soon would, and is");
        assert_eq!(told, rule.is_some(), "{}", decision.reason.message);
    }
}

/// It passed for the rule's sake, in an agent whose mode is `enforce`.
#[tokio::test]
async fn what_a_rule_on_paper_denies_is_in_that_rules_mode() {
    let decider = decider();
    for (rule, denied, mode) in [
        (7, false, Mode::Shadow),
        (3, true, Mode::Enforce),
        (0, true, Mode::Enforce),
    ] {
        let event = event(reason::RULE_DENY, rule, 4, denied);
        decider.kernel(&event, None, None, None).await.unwrap();
        let decision = last(&decider);
        assert_eq!((decision.mode, decision.enforced), (mode, denied), "{rule}");
    }
}

#[tokio::test]
async fn what_a_quota_refuses_is_told_with_its_limit_and_when_there_is_more() {
    let policy = "version: 1\nagents:\n  - name: coder\n    quota: {bytes_out: 1536MiB, bytes_in: 65537, every: day, \
                  connections: {per_second: 5, burst: 50}}\n";
    let decider = deciding(policy);
    let day = "in a day; there is more from ";
    for (why, code, begin, end) in [
        (
            reason::QUOTA_SENT,
            ReasonCode::QuotaBytes,
            "The agent has sent the 1536MiB (`bytes_out`) that its quota lets it send in a day; there is more from ",
            "T00:00:00Z on.",
        ),
        (
            reason::QUOTA_RECEIVED,
            ReasonCode::QuotaBytes,
            "The agent has received the 65537 bytes (`bytes_in`) that its quota lets it receive in a day; there is more from ",
            "T00:00:00Z on.",
        ),
        (
            reason::CONNECTION_RATE,
            ReasonCode::RateConnections,
            "The agent begins more connections than its quota lets it: 5 a second, and 50 at once.",
            "",
        ),
    ] {
        for denied in [true, false] {
            let event = event(why, 0, 4, denied);
            decider.kernel(&event, None, None, None).await.unwrap();
            let decision = last(&decider);
            let message = &decision.reason.message;
            assert!(
                message.starts_with(begin) && message.ends_with(end),
                "{message}"
            );
            assert_eq!(message.contains(day), why != reason::CONNECTION_RATE);
            assert_eq!(decision.reason.code, code);
            assert_eq!(
                (decision.verdict, decision.enforced),
                (Verdict::Deny, denied)
            );
            assert_eq!(decision.matched, []);
        }
    }
}
