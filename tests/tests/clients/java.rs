//! Java's HttpClient, which trusts what its own store of authorities says and nothing else.

use crate::inspected::{inspected, open};
use crate::room::{Program, SITE, world};

#[test]
fn java_s_client_trusts_the_guard_by_its_own_store_and_understands_a_refusal() {
    let Some(java) = Program::find("java").unwrap() else {
        return;
    };
    let world = world("inspected-java").start().unwrap();
    let room = open(&world).unwrap();
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/Fetch.java");
    let url = |path: &str| format!("https://{SITE}{path}");
    let (get, post, secret) = (url("/bytes/9"), url("/bytes/8"), url("/secrets/1"));
    let words = [client, "GET", &get, "POST", &post, "GET", &secret];
    let rows = [
        format!("allow dns dns_query {SITE}:53 rule_allow"),
        format!("allow proxy http_request {SITE}:443 GET /bytes/9 rule_allow"),
        format!("allow proxy http_request {SITE}:443 POST /bytes/8 rule_allow"),
        format!("deny proxy http_request {SITE}:443 GET /secrets/1 rule_deny"),
    ];
    let ran = room.call(inspected(&room, &java.words(&words)), &rows);
    let output = ran.unwrap().output.success().unwrap();
    let lines: Vec<_> = output.stdout.lines().collect();
    assert_eq!(lines[..2], ["200 HTTP_2 xxxxxxxxx", "200 HTTP_2 xxxxxxxx"]);
    assert!(lines[2].starts_with("403 HTTP_2 "), "{output}");
    assert!(
        lines[2].contains("Secrets stay where they are."),
        "{output}"
    );
    room.close().unwrap();
}
