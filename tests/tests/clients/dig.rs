//! dig: what agents see of the DNS, over both transports, whichever server they name.

use agentguard_tests::address;

use crate::room::{ELSEWHERE, FOUR, PASTE, Program, Room, SITE, ungoverned, world};

#[test]
fn dig_gets_virtual_addresses_for_allowed_names_and_reasons_for_all_others() {
    let Some(dig) = Program::find("dig").unwrap() else {
        return;
    };
    let world = world("dig").start().unwrap();
    let room = Room::open(&world).unwrap();
    let [canary, canary6] = address::CANARY.map(|ip| format!("@{ip}"));
    let allow = format!("allow dns dns_query {SITE}:53 rule_allow");
    let paste = format!("deny dns dns_query {PASTE}:53 rule_deny");
    let elsewhere = format!("deny dns dns_query {ELSEWHERE}:53 no_rule");
    let unsupported = format!("deny dns dns_query {SITE}:53 dns_not_supported");
    // The words, what the answer has, and the row.
    let virtual4 = "\tA\t198.1";
    let virtual6 = "\tAAAA\tfd41:6775:6172:64";
    let blocked = ["status: NXDOMAIN", "EDE: 18 (Prohibited)"];
    let cases: Vec<(Vec<&str>, Vec<&str>, &str)> = vec![
        (
            vec![SITE],
            vec!["status: NOERROR", virtual4, "(UDP)"],
            &allow,
        ),
        (vec!["+tcp", SITE], vec![virtual4, "(TCP)"], &allow),
        (vec![SITE, "AAAA"], vec![virtual6], &allow),
        (vec!["+noedns", SITE], vec![virtual4], &allow),
        (vec!["API.Example.COM."], vec![virtual4], &allow),
        // Whatever server is named, it is the guard that answers.
        (vec![&canary, SITE], vec![virtual4], &allow),
        (vec![&canary6, SITE], vec![virtual4], &allow),
        (vec![&canary, "+tcp", SITE], vec![virtual4], &allow),
        (
            vec![SITE, "TXT"],
            vec!["status: NOERROR", "ANSWER: 0", "EDE: "],
            &unsupported,
        ),
        (
            vec![PASTE],
            [&blocked[..], &["Nothing is to be published."]].concat(),
            &paste,
        ),
        (vec!["+tcp", PASTE, "AAAA"], blocked.to_vec(), &paste),
        (vec![ELSEWHERE], blocked.to_vec(), &elsewhere),
        (vec![&canary, ELSEWHERE], blocked.to_vec(), &elsewhere),
        (vec![ELSEWHERE, "TXT"], blocked.to_vec(), &elsewhere),
    ];
    let free = ungoverned(&world, dig.words(&["+short", SITE, "TXT"])).unwrap();
    assert_eq!(free.stdout, "\"a text\"\n", "without the guard: {free}");
    let free = ungoverned(&world, dig.words(&["+short", ELSEWHERE])).unwrap();
    assert_eq!(free.stdout, "203.0.113.32\n", "without the guard: {free}");
    let asked = || world.dns().count(ELSEWHERE).unwrap() + world.dns().count(PASTE).unwrap();
    let before = asked();
    for (words, has, row) in &cases {
        let words = [&["+tries=1", "+time=5"], &words[..]].concat();
        let ran = room.run(dig.words(&words), &[row]).unwrap();
        let decision = &ran.decisions[0];
        let kind = ["AAAA", "TXT"]
            .into_iter()
            .find(|kind| words.contains(kind));
        assert_eq!(decision.action.method.as_deref(), Some(kind.unwrap_or("A")));
        // dig's own thread is the one that sends.
        assert_eq!(
            decision.process.as_ref().unwrap().exe.as_deref(),
            dig.path.to_str()
        );
        let output = ran.output.success().unwrap();
        for part in has {
            assert!(output.stdout.contains(part), "no {part:?}: {output}");
        }
        if row.starts_with("deny") {
            let id = decision.id.to_string();
            assert!(output.stdout.contains(&id), "no decision id: {output}");
        }
    }
    // The other family is no error.
    let row = format!("allow dns dns_query {FOUR}:53 rule_allow");
    let ran = room.run(dig.words(&[FOUR, "AAAA"]), &[row]).unwrap();
    let output = ran.output.success().unwrap();
    assert!(output.stdout.contains("status: NOERROR"), "{output}");
    assert!(output.stdout.contains("ANSWER: 0"), "{output}");
    room.close().unwrap();
    assert_eq!(asked(), before, "a denied name was asked for upstream");
    assert_eq!(world.canary().unwrap(), 0);
}
