//! Java's HttpClient, which trusts what its own store of authorities says and nothing else.

use agentguard_tests::{Output, World};
use anyhow::{Context as _, Result};

use crate::inspected::{guard, inspected, open};
use crate::room::{Program, Room, SITE, world};

/// Where the distribution's runtimes look.
const STORE: &str = "/etc/ssl/certs/java/cacerts";

/// Asks for what is allowed and what is not.
fn ask(room: &Room<'_>, java: &Program) -> Result<Output> {
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
    let ran = room.call(inspected(room, &java.words(&words)), &rows)?;
    ran.output.success()
}

/// What it then says.
const SERVED: &str = "200 HTTP_2 xxxxxxxxx\n200 HTTP_2 xxxxxxxx\n403 HTTP_2 ";

#[test]
fn java_s_client_trusts_the_guard_by_its_own_store_and_understands_a_refusal() {
    let Some(java) = Program::find("java").unwrap() else {
        return;
    };
    let world = world("inspected-java").start().unwrap();
    let room = open(&world).unwrap();
    let output = ask(&room, &java).unwrap();
    assert!(output.stdout.starts_with(SERVED), "{output}");
    assert!(
        output.stdout.contains("Secrets stay where they are."),
        "{output}"
    );
    room.close().unwrap();
}

/// The distribution's store as JDKs bring theirs since their version 18: without a password.
fn without_a_password(world: &World, keytool: &Program) -> Result<std::path::PathBuf> {
    let store = world.directory().join("cacerts.p12");
    let path = store.to_str().context("not UTF-8")?;
    let call = world.host().command(&keytool.path).args([
        "-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE",
        "-J-Dkeystore.pkcs12.macAlgorithm=NONE",
        "-importkeystore",
        "-srckeystore",
        STORE,
        "-srcstorepass",
        "changeit",
        "-destkeystore",
        path,
        "-deststoretype",
        "PKCS12",
        "-deststorepass",
        "changeit",
    ]);
    call.run()?.success()?;
    Ok(store)
}

/// The aliases in the store that a call sees.
fn aliases(output: &str) -> Vec<&str> {
    let entries = output
        .lines()
        .filter(|line| line.contains("trustedCertEntry"));
    let mut aliases: Vec<_> = entries.filter_map(|line| line.split(',').next()).collect();
    aliases.sort_unstable();
    aliases
}

#[test]
fn a_store_in_pkcs_12_has_the_guard_s_authority_beside_all_others() {
    let (Some(java), Some(keytool)) = (
        Program::find("java").unwrap(),
        Program::find("keytool").unwrap(),
    ) else {
        return;
    };
    let world = world("inspected-java-pkcs12").start().unwrap();
    let store = without_a_password(&world, &keytool).unwrap();
    let guard = guard(&world).cover(store, STORE);
    let room = Room::of(&world, guard.start().unwrap());
    let output = ask(&room, &java).unwrap();
    assert!(output.stdout.starts_with(SERVED), "{output}");

    let words = ["-list", "-keystore", STORE, "-storepass", "changeit"];
    let theirs = world.host().command(&keytool.path).args(words);
    let theirs = theirs.run().unwrap().success().unwrap();
    assert!(theirs.stdout.contains("JKS"), "{theirs}");
    let seen = inspected(&room, &keytool.words(&words))
        .run()
        .unwrap()
        .success()
        .unwrap();
    assert!(seen.stdout.contains("PKCS12"), "{seen}");
    let mut expected = aliases(&theirs.stdout);
    assert!(expected.len() > 50, "{theirs}");
    expected.insert(0, "agentguard:0");
    assert_eq!(aliases(&seen.stdout), expected);
    room.close().unwrap();
}
