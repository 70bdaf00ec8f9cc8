//! Connections that are older than the adoption and go on, where the policy tolerates them: those alone,
//! until they end, are cut off, or are tolerated no more.

use agentguard_model::Verdict;

use super::*;

const TOLERANT: &str = "
version: 1
agents:
  - {name: coder, on_adoption: tolerate}
  - {name: helper, on_adoption: tolerate}
rules:
  - id: api
    match: {host: [api.example.com], port: [80]}
    action: allow
";

/// A client in a cgroup, in the host's own network.
fn on_the_host(world: &World, guard: &Guard<'_>, cgroup: &Path) -> Puppet {
    Puppet::start(world, |words| guard.within(cgroup, words)).unwrap()
}

fn add_as(guard: &Guard<'_>, agent: &str, cgroup: &Path) -> Output {
    let path = cgroup.to_str().unwrap();
    say(guard, &["agent", "add", agent, "--cgroup", path])
}

#[test]
fn connections_of_an_adopted_workload_go_on_where_that_is_tolerated_and_nothing_else_does() {
    let world = world("tolerate");
    let mut guard = world.guard().policy(TOLERANT).start().unwrap();
    let cgroup = foreign(&world);
    let namespace = container(&world, 1);
    let mut client = inside(&world, &guard, &cgroup, &namespace);
    let mut six = on_the_host(&world, &guard, &cgroup);
    let [v4, v6] = address::origin(0x20);
    // Free as yet.
    client.fails("tcp('c', '192.0.2.66', 80)", "ECONNREFUSED");
    let before = world.canary().unwrap();
    assert!(before > 0);
    for name in ["old", "other"] {
        client.gives(
            &format!("tcp('{name}', '{v4}', 7)"),
            json!([v4.to_string(), 7]),
        );
        client.gives(&format!("echo('{name}', 'free')"), "free");
    }
    six.gives(
        &format!("tcp('old', '{v6}', 7)"),
        json!([v6.to_string(), 7]),
    );
    six.gives("echo('old', 'free')", "free");
    client.gives("udp('oldu', '192.0.2.66')", "made");
    client.gives("connect('oldu', '192.0.2.66', 9)", "connected");
    client.gives("listen('l', '0.0.0.0', 4000)", 4000);
    // One that its cgroup does not know: the gate would not see it.
    let root = leftover::cgroup_mount().unwrap();
    let mut outside = inside(&world, &guard, &root, &namespace);
    outside.gives(
        &format!("tcp('taken', '{v4}', 7)"),
        json!([v4.to_string(), 7]),
    );
    let join = format!("open('{}/cgroup.procs', 'w').write('0')", cgroup.display());
    outside.gives(&join, 1);

    let added = add(&guard, &cgroup).success().unwrap();
    let told =
        "3 connections were found in it and go on; 3 open sockets were found in it and closed";
    assert!(added.stderr.contains(told), "{added}");
    client.gives("echo('old', 'tolerated')", "tolerated");
    six.gives("echo('old', 'tolerated')", "tolerated");
    client.fails("hear('oldu')", "ECONNABORTED");
    client.fails("accept('l', 'a')", "EINVAL");
    outside.fails("hear('taken')", "ECONNABORTED");
    // What begins is governed, over a socket of its own and over that of a tolerated connection.
    client.gives(&format!("get('{SITE}')"), "HTTP/1.1 200 OK");
    client.fails(&format!("tcp('c', '{v4}', 7)"), "EPERM");
    client.gives("part('other')", "parted");
    client.fails("connect('other', '192.0.2.66', 80)", "EPERM");
    client.fails(&format!("connect('other', '{v4}', 7)"), "EPERM");
    six.fails(&format!("tcp('c', '{v6}', 7)"), "EPERM");
    assert_eq!(world.canary().unwrap(), before);
    let told = |decisions: &[Decision]| {
        let tolerated = decisions
            .iter()
            .filter(|it| it.reason.code == ReasonCode::Tolerated);
        let known = tolerated
            .map(|it| (agent(it), it.verdict, it.action.kind, it.action.port))
            .collect::<Vec<_>>();
        let deed = decisions.iter().find(|it| it.layer == Layer::Operator)?;
        let one = (Some("coder"), Verdict::Allow, ActionKind::Connect, Some(7));
        let numbers =
            "3 sockets that were open in it were closed; 3 connections that were there go on";
        (known == [one; 3] && deed.reason.message.ends_with(numbers)).then_some(())
    };
    guard.wait_verdicts("what goes on", told).unwrap();

    // Neither the daemon's death nor its next start ends them.
    guard.kill().unwrap();
    client.gives("echo('old', 'alone')", "alone");
    guard.start().unwrap();
    client.gives("echo('old', 'again')", "again");
    // To add it again changes nothing, until the policy tolerates them no more.
    let again = add(&guard, &cgroup).success().unwrap();
    assert!(again.stderr.contains("as it was before"), "{again}");
    client.gives("echo('old', 'still')", "still");
    fs::write(guard.policy(), TOLERANT.replace("tolerate", "close")).unwrap();
    say(&guard, &["policy", "reload"]).success().unwrap();
    client.gives("echo('old', 'until then')", "until then");
    let again = add(&guard, &cgroup).success().unwrap();
    let told = "2 connections that were tolerated are closed";
    assert!(again.stderr.contains(told), "{again}");
    client.fails("hear('old')", "ECONNABORTED");
    six.fails("hear('old')", "ECONNABORTED");
    assert_eq!(world.canary().unwrap(), before);
}

#[test]
fn a_quarantine_cuts_connections_that_are_tolerated_and_strict_tolerates_none() {
    let world = world("tolerate-not");
    let mut guard = world.guard().policy(TOLERANT).start().unwrap();
    let cgroup = foreign(&world);
    let mut client = on_the_host(&world, &guard, &cgroup);
    let [v4, _] = address::origin(0x20);
    for name in ["cut", "silent"] {
        client.gives(
            &format!("tcp('{name}', '{v4}', 7)"),
            json!([v4.to_string(), 7]),
        );
    }
    add_as(&guard, "helper", &cgroup).success().unwrap();
    client.gives("echo('cut', 'tolerated')", "tolerated");
    say(&guard, &["agent", "quarantine", "helper"])
        .success()
        .unwrap();
    client.fails("hear('cut')", "ECONNABORTED");
    say(&guard, &["agent", "release", "helper"])
        .success()
        .unwrap();
    // It is governed as an agent's own: that ended with the quarantine and does not come back.
    client.fails("say('silent', 'x')", "ECONNABORTED");
    say(&guard, &["agent", "remove", "helper"])
        .success()
        .unwrap();

    client.gives(
        &format!("tcp('new', '{v4}', 7)"),
        json!([v4.to_string(), 7]),
    );
    guard.stop().unwrap();
    let config = fs::read_to_string(guard.config()).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["run"] = json!({"strict": true});
    fs::write(guard.config(), config.to_string()).unwrap();
    guard.start().unwrap();
    let refused = add_as(&guard, "helper", &cgroup);
    assert_eq!(refused.code(), 1, "{refused}");
    let told = "the policy tolerates what helper has open when it is adopted";
    assert!(refused.stderr.contains(told), "{refused}");
    // Nothing was changed.
    client.gives("echo('new', 'free')", "free");
}
