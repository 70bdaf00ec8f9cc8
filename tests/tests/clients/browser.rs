//! Chromium without a window: it trusts what its managed policy says, speaks HTTP/2, and asks on its
//! own for names of its vendor's, which the policy denies. How often it does is its own affair, so
//! what is compared is what was done for the page.

use std::time::Duration;

use agentguard_model::{Decision, ReasonCode, Verdict};
use agentguard_tests::{Invocation, Output, World, client, wait_until};
use anyhow::{Context as _, Result};
use serde_json::json;

use crate::inspected::{POLICY, guard, inspected, open};
use crate::room::{AGENT, LATE, PASTE, Program, Ran, Room, SITE, row, world_with_files};

/// It starts several processes.
const LIMIT: Duration = Duration::from_secs(60);

/// What its parts fetch shows in the document.
const PAGE: &str = r#"<!doctype html>
<title>A page</title>
<script src="script.js"></script>
<p id="fetched"></p>
<script>
  (async () => {
    const posted = await fetch('/echo', { method: 'POST', body: 'a body' });
    const told = await posted.json();
    const text = [posted.status, told.version, told.method, told.body].join(' ');
    document.getElementById('fetched').textContent = text;
  })();
</script>
"#;

/// The second request is refused before it leaves.
const REFUSED: &str = r#"<!doctype html>
<p id="path"></p>
<p id="name"></p>
<script>
  const show = (id, text) => { document.getElementById(id).textContent = text; };
  (async () => {
    const secret = await fetch('/secrets/1');
    show('path', secret.status + ' ' + (await secret.json()).message);
    await fetch('https://www.paste.example/', { mode: 'no-cors' })
      .then(() => show('name', 'fetched'), error => show('name', error));
  })();
</script>
"#;

const SCRIPT: &str = "document.write('<p>The script ran.</p>');";

/// Without credentials the request needs a connection of its own, for which the browser tries what
/// the page's answer has advertised.
const QUIC: &str = r#"<!doctype html>
<p id="fetched"></p>
<script>
  fetch('/bytes/5?h3', { credentials: 'omit' })
    .then(answer => answer.text())
    .then(text => { document.getElementById('fetched').textContent = text; });
</script>
"#;

fn world(name: &str) -> Result<(World, tempfile::TempDir)> {
    let files = tempfile::tempdir()?;
    for (file, content) in [
        ("index.html", PAGE),
        ("script.js", SCRIPT),
        ("refused.html", REFUSED),
        ("quic.html", QUIC),
    ] {
        std::fs::write(files.path().join(file), content)?;
    }
    Ok((world_with_files(name, files.path()).start()?, files))
}

/// The words that print the document behind a URL, once all that it fetches is there.
fn words<'s>(flags: &[&'s str], url: &'s str) -> Vec<&'s str> {
    let always = [
        "--headless",
        // Root has none of its own.
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=10000",
        "--dump-dom",
    ];
    [&always[..], flags, &[url]].concat()
}

/// With a home of its own, where it finds no profile of an earlier run.
fn at_home<'w>(call: Invocation<'w>, world: &World) -> Result<Invocation<'w>> {
    let home = (1..)
        .map(|number| world.directory().join(format!("home-{number}")))
        .find(|home| !home.exists())
        .context("no free number")?;
    std::fs::create_dir(&home)?;
    Ok(call.env("HOME", home).limit(LIMIT))
}

/// Opens a URL as the agent, and waits until the record has these rows, however often each. What the
/// browser does for itself is left out: it asks for its vendor's names, and for a picture of the site.
fn open_page(room: &Room<'_>, chromium: &Program, url: &str, rows: &[&str]) -> Result<Ran> {
    let before = room.new_decisions()?.len();
    let call = inspected(room, &chromium.words(&words(&[], url)));
    let output = at_home(call, room.world)?.run()?;
    let mut found = Vec::new();
    let mut decisions = Vec::new();
    let waited = wait_until("the rows", LATE, || {
        let new = match room.new_decisions() {
            Ok(mut all) => all.split_off(before),
            Err(error) => return Some(Err(error)),
        };
        decisions = new.into_iter().filter(is_the_page_s).collect();
        let once = |it: &Decision| {
            row(&Decision {
                count: 1,
                ..it.clone()
            })
        };
        found = decisions.iter().map(once).collect();
        found.sort();
        found.dedup();
        (found == rows).then_some(Ok(()))
    });
    waited.and_then(|waited| waited).with_context(|| {
        let log = room.guard.log();
        format!("expected: {rows:#?}\nfound: {found:#?}\n{output}\n{log}")
    })?;
    Ok(Ran { output, decisions })
}

fn is_the_page_s(decision: &Decision) -> bool {
    let action = &decision.action;
    let host = action.host.as_ref().map(ToString::to_string);
    // Whatever has no name was tried by its address.
    host.is_none_or(|host| host == SITE || host == PASTE)
        && action.path.as_deref() != Some("/favicon.ico")
}

/// The document without the guard; whom it trusts is not the question then.
fn free_page(world: &World, chromium: &Program, url: &str) -> Result<Output> {
    let words = words(&["--ignore-certificate-errors"], url);
    let call = world.host().command(&chromium.path).args(words);
    at_home(call, world)?.run()
}

/// The identifiers of the denials.
fn denials(ran: &Ran) -> Vec<String> {
    let decisions = ran.decisions.iter();
    let denials = decisions.filter(|decision| decision.verdict == Verdict::Deny);
    denials.map(|decision| decision.id.to_string()).collect()
}

#[test]
fn chromium_loads_a_page_and_its_parts_over_http_2_as_without_the_guard() {
    let Some(chromium) = Program::find("chromium").unwrap() else {
        return;
    };
    let (world, _files) = world("browser").unwrap();
    let room = open(&world).unwrap();
    let url = format!("https://{SITE}/files/index.html");
    let free = free_page(&world, &chromium, &url).unwrap().success();
    let free = free.unwrap().stdout;
    assert!(free.contains("<p>The script ran.</p>"), "{free}");
    assert!(free.contains("200 HTTP/2.0 POST a body"), "{free}");
    let rows = [
        "allow dns dns_query api.example.com:53 rule_allow",
        "allow proxy http_request api.example.com:443 GET /files/index.html rule_allow",
        "allow proxy http_request api.example.com:443 GET /files/script.js rule_allow",
        "allow proxy http_request api.example.com:443 POST /echo rule_allow",
    ];
    let ran = open_page(&room, &chromium, &url, &rows).unwrap();
    assert_eq!(ran.output.success().unwrap().stdout, free);
    let requests = world.origin(SITE).unwrap().log().requests().unwrap();
    assert!(requests.iter().all(|it| it.version == "HTTP/2.0"));
}

#[test]
fn chromium_shows_why_a_request_a_page_or_a_name_is_refused() {
    let Some(chromium) = Program::find("chromium").unwrap() else {
        return;
    };
    let (world, _files) = world("browser-refused").unwrap();
    let room = open(&world).unwrap();
    let query = "allow dns dns_query api.example.com:53 rule_allow";
    let secret = "deny proxy http_request api.example.com:443 GET /secrets/1 rule_deny";
    let paste = "deny dns dns_query www.paste.example:53 no_rule";
    let reason = "Secrets stay where they are.";

    // The browser shows the problem document as text.
    let url = format!("https://{SITE}/secrets/1");
    let ran = open_page(&room, &chromium, &url, &[query, secret]).unwrap();
    let told = format!("{reason} (agentguard explain {})", denials(&ran)[0]);
    assert!(ran.output.stdout.contains(&told), "{}", ran.output);

    let page = "allow proxy http_request api.example.com:443 GET /files/refused.html rule_allow";
    let url = format!("https://{SITE}/files/refused.html");
    let ran = open_page(&room, &chromium, &url, &[query, page, paste, secret]).unwrap();
    let told = format!("<p id=\"path\">403 {reason} (agentguard explain ");
    assert!(ran.output.stdout.contains(&told), "{}", ran.output);
    let told = "<p id=\"name\">TypeError: Failed to fetch</p>";
    assert!(ran.output.stdout.contains(told), "{}", ran.output);

    let ran = open_page(&room, &chromium, &format!("https://{PASTE}/"), &[paste]).unwrap();
    let told = "net::ERR_NAME_NOT_RESOLVED";
    assert!(ran.output.stderr.contains(told), "{}", ran.output);

    let log = world.origin(PASTE).unwrap().log().connections().unwrap();
    assert!(log.is_empty(), "{log:?}");
}

#[test]
fn policies_of_the_operator_s_stay_in_force() {
    let Some(chromium) = Program::find("chromium").unwrap() else {
        return;
    };
    let (world, _files) = world("browser-policies").unwrap();
    let theirs = world.directory().join("chromium");
    std::fs::create_dir_all(theirs.join("policies/managed")).unwrap();
    let blocked = format!("{SITE}/files/script.js");
    let policy = json!({ "URLBlocklist": [blocked], "CACertificates": [] });
    let file = theirs.join("policies/managed/site.json");
    std::fs::write(file, policy.to_string()).unwrap();
    let guard = guard(&world).cover(theirs, "/etc/chromium");
    let room = Room::of(&world, guard.start().unwrap());
    // It may have asked for the name before it looked.
    let url = format!("https://{blocked}");
    let call = inspected(&room, &chromium.words(&words(&[], &url)));
    let output = at_home(call, &world).unwrap().run().unwrap();
    let told = "net::ERR_BLOCKED_BY_ADMINISTRATOR";
    assert!(output.stderr.contains(told), "{output}");
    let rows = [
        "allow dns dns_query api.example.com:53 rule_allow",
        "allow proxy http_request api.example.com:443 GET /files/index.html rule_allow",
        "allow proxy http_request api.example.com:443 GET /files/script.js rule_allow",
        "allow proxy http_request api.example.com:443 POST /echo rule_allow",
    ];
    let url = format!("https://{SITE}/files/index.html");
    let ran = open_page(&room, &chromium, &url, &rows).unwrap();
    let page = ran.output.success().unwrap().stdout;
    assert!(page.contains("200 HTTP/2.0 POST a body"), "{page}");
}

/// Waits until the policy names two authorities, for the browser that might run beside it.
const ROTATED: &str = r#"
cat "$0"
for n in $(seq 100); do
  [ "$(grep -c '"MII' "$0")" = 2 ] && exit 0
  sleep 0.1
done
exit 1
"#;

#[test]
fn the_policy_of_a_run_that_goes_on_follows_a_rotation() {
    if Program::find("chromium").unwrap().is_none() {
        return;
    }
    let (world, _files) = world("browser-rotated").unwrap();
    let room = open(&world).unwrap();
    let policy = "/etc/chromium/policies/managed/~agentguard.json";
    let run = inspected(&room, &["sh", "-c", ROTATED, policy]);
    let run = run.spawn().unwrap();
    wait_until("the policy", LATE, || {
        run.stdout().contains("CACertificates").then_some(())
    })
    .unwrap();
    let rotate = room.guard.cli().args(["ca", "rotate"]);
    rotate.run().unwrap().success().unwrap();
    run.wait(LIMIT).unwrap().success().unwrap();
    // The host has none.
    assert!(!std::path::Path::new(policy).exists());
}

#[test]
fn chromium_is_refused_quic_and_loads_the_page_all_the_same() {
    let Some(chromium) = Program::find("chromium").unwrap() else {
        return;
    };
    let (world, _files) = world("browser-quic").unwrap();
    let room = open(&world).unwrap();
    let url = format!("https://{SITE}/files/quic.html?h3");
    let free = free_page(&world, &chromium, &url).unwrap().success();
    let free = free.unwrap().stdout;
    assert!(free.contains(">xxxxx<"), "{free}");
    let rows = [
        "allow dns dns_query api.example.com:53 rule_allow",
        "allow proxy http_request api.example.com:443 GET /bytes/5 rule_allow",
        "allow proxy http_request api.example.com:443 GET /files/quic.html rule_allow",
        "deny kernel datagram api.example.com:443 no_rule",
    ];
    let ran = open_page(&room, &chromium, &url, &rows).unwrap();
    assert_eq!(ran.output.success().unwrap().stdout, free);
}

/// What `run` does not start is given nothing.
#[test]
fn chromium_that_was_given_no_policy_says_so_and_the_record_says_what_to_do() {
    let Some(chromium) = Program::find("chromium").unwrap() else {
        return;
    };
    let (world, _files) = world("browser-distrusts").unwrap();
    let room = open(&world).unwrap();
    let cgroup = room.guard.agent_cgroup(AGENT).unwrap();
    let url = format!("https://{SITE}/files/index.html");
    let call = room
        .guard
        .within(&cgroup, chromium.words(&words(&[], &url)));
    let output = at_home(call, &world).unwrap().run().unwrap();
    let told = "net::ERR_CERT_AUTHORITY_INVALID";
    assert!(output.stderr.contains(told), "{output}");
    let distrusts = |decisions: &[Decision]| {
        let mut decisions = decisions.iter();
        let found = decisions.find(|it| it.reason.code == ReasonCode::ClientDistrusts);
        found.map(|it| it.reason.message.clone())
    };
    let message = room.guard.wait_verdicts("the denial", distrusts).unwrap();
    assert!(message.contains("agentguard ca export"), "{message}");
}

/// Its sandbox is made of user namespaces, which the policy has to leave open.
#[test]
fn chromium_in_its_sandbox_is_served_to_a_user_of_its_own() {
    const NOBODY: u32 = 65_534;
    let Some(chromium) = Program::find("chromium").unwrap() else {
        return;
    };
    let (world, _files) = world("browser-sandbox").unwrap();
    let namespaces = [
        "--reuid",
        "65534",
        "--clear-groups",
        "unshare",
        "--user",
        "true",
    ];
    let namespaces = world
        .host()
        .command("setpriv")
        .args(namespaces)
        .run()
        .unwrap();
    if !namespaces.status.success() {
        client::skip("user namespaces for users that are not root").unwrap();
        return;
    }
    let mays = "name: coder\n    sandbox: {user_namespaces: allow}";
    let policy = POLICY.replace("name: coder", mays);
    let guard = guard(&world).policy(&policy).start().unwrap();
    let room = Room::of(&world, guard);
    let home = world.directory().join("home");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(NOBODY), None).unwrap();
    let url = format!("https://{SITE}/files/index.html");
    // The user has no home.
    let profile = format!("--user-data-dir={}", home.display());
    let mut words = words(&[&profile], &url);
    words.retain(|word| *word != "--no-sandbox");
    let run = ["run", "--agent", AGENT, "--user", "nobody", "--"];
    let call = room.guard.cli().args(run).args(chromium.words(&words));
    let output = call.limit(LIMIT).run().unwrap();
    let output = output.success().unwrap();
    assert!(
        output.stdout.contains("200 HTTP/2.0 POST a body"),
        "{output}"
    );
}
