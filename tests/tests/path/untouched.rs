//! Bytes that the proxy carries as they are.

use agentguard_model::{Bytes, Verdict};
use serde_json::json;

use super::{SITE, puppet, world};

const POLICY: &str = "
version: 1
agents: [{name: coder}]
rules:
  - id: carried
    match: {host: [api.example.com], port: [7]}
    action: allow
";

const MANY: u64 = 8 << 20;

#[test]
fn many_bytes_come_as_they_were_in_both_directions_and_are_counted() {
    let world = world("untouched");
    let guard = world.guard().policy(POLICY).start().unwrap();
    let mut client = puppet(&world, &guard, "coder");
    for (number, family) in [4, 6].into_iter().enumerate() {
        let found = client.ask(&format!("resolve('{SITE}', {family})")).unwrap();
        let dialled = found[0].as_str().unwrap().to_owned();
        client.gives(&format!("tcp('c', '{dialled}', 7)"), json!([dialled, 7]));
        client.gives("echo('c', 'few')", "few");
        client.gives(&format!("echo_many('c', {MANY})"), true);
        client.gives("echo('c', 'few')", "few");
        client.gives("close('c')", "closed");
        let bytes = guard.wait_verdicts("the end of the connection", |decisions| {
            let ended = decisions.iter().filter_map(|it| it.outcome.as_ref());
            let mut ended = ended.filter(|outcome| outcome.bytes.sent > 0);
            ended.nth(number).map(|outcome| outcome.bytes)
        });
        let all = Bytes {
            sent: MANY + 6,
            received: MANY + 6,
        };
        assert_eq!(bytes.unwrap(), all);
    }
    // Nor is a packet of it denied on its way: that would only make it slow.
    let decisions = guard.verdicts().unwrap();
    let denied = decisions.iter().find(|it| it.verdict == Verdict::Deny);
    assert_eq!(denied, None);
}
