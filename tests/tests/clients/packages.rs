//! Package managers inside inspected TLS: pip with a simple index, npm with a registry.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use agentguard_tests::{Origin, World, address, client};
use anyhow::{Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::inspected::inspected;
use crate::room::{Program, Room, python, ungoverned};
use crate::unchanged::arrived;

const HOST: &str = "packages.example.com";

const POLICY: &str = "
version: 1
agents:
  - name: coder
rules:
  - id: packages
    match: { host: [packages.example.com], port: [443], method: [GET] }
    action: allow
    handling: inspect
  - id: no-refused-packages
    match: { host: [packages.example.com], path: ['/files/*/refused-*'] }
    action: deny
    reason: This package is not to be used.
";

/// The registries' files. Removed on drop.
fn registries(python: &Path) -> Result<TempDir> {
    let directory = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/packages.py");
    let status = Command::new(python)
        .arg(script)
        .arg(directory.path())
        .arg(format!("https://{HOST}/files"))
        .status()?;
    ensure!(status.success(), "{status}");
    Ok(directory)
}

fn world(name: &str, files: &TempDir) -> Result<World> {
    let origin = Origin::at(&address::origin(0x10)).files(files.path());
    World::new(name).origin(origin.site(HOST)).start()
}

fn open(world: &World) -> Result<Room<'_>> {
    let upstreams = json!([{ "host": [HOST], "ca": world.ca_file() }]);
    let guard = world.guard().policy(POLICY).setting("upstreams", upstreams);
    Ok(Room::of(world, guard.start()?))
}

/// The name, the list of what there is, and the file that is given or not.
fn rows(list: &str, file: &str, verdict: &str) -> [String; 3] {
    let get = format!("proxy http_request {HOST}:443 GET /files");
    [
        format!("allow dns dns_query {HOST}:53 rule_allow"),
        format!("allow {get}/{list} rule_allow"),
        format!("{verdict} {get}/{file} rule_{verdict}"),
    ]
}

/// Without the guard and with it the same requests have arrived, with the same fields.
fn same_arrived_twice(world: &World) -> Result<()> {
    let free = arrived(world, HOST)?;
    let (free, governed) = free.split_at(free.len() / 2);
    ensure!(
        free.len() == 2 && free == governed,
        "{free:#?}\n{governed:#?}"
    );
    Ok(())
}

#[test]
fn pip_downloads_what_is_allowed_and_says_what_is_not() {
    let Some(python) = client::python().unwrap() else {
        return;
    };
    let files = registries(&python).unwrap();
    let world = world("pip", &files).unwrap();
    let room = open(&world).unwrap();
    let words = |package: &str, into: &str| -> Vec<OsString> {
        let index = format!("https://{HOST}/files/simple");
        let options = "-m pip download -q --no-cache-dir --no-deps --index-url";
        let mut words = vec![python.clone().into_os_string()];
        words.extend(options.split(' ').map(OsString::from));
        words.extend([index.into(), "-d".into()]);
        words.extend([world.directory().join(into).into(), package.into()]);
        words
    };
    let wheel = |name: &str| format!("{name}-1.0-py3-none-any.whl");
    let read = |into: &str| {
        let file = world.directory().join(into).join(wheel("tiny"));
        std::fs::read(file).unwrap()
    };

    let free = ungoverned(&world, words("tiny", "free")).unwrap();
    free.success().unwrap();
    let file = format!("wheels/{}", wheel("tiny"));
    let listed = rows("simple/tiny/", &file, "allow");
    let call = inspected(&room, &words("tiny", "governed"));
    room.call(call, &listed).unwrap().output.success().unwrap();
    assert_eq!(read("governed"), read("free"));
    same_arrived_twice(&world).unwrap();

    let file = format!("wheels/{}", wheel("refused"));
    let listed = rows("simple/refused/", &file, "deny");
    let call = inspected(&room, &words("refused", "refused"));
    let output = room.call(call, &listed).unwrap().output;
    assert_eq!(output.code(), 1, "{output}");
    let said = format!("HTTP error 403 while getting https://{HOST}/files/wheels/refused-");
    assert!(output.stderr.contains(&said), "{output}");
    room.close().unwrap();
}

#[test]
fn npm_installs_what_is_allowed_and_says_what_is_not() {
    let (Some(python), Some(npm)) = (python().unwrap(), Program::find("npm").unwrap()) else {
        return;
    };
    let files = registries(&python.path).unwrap();
    let world = world("npm", &files).unwrap();
    let room = open(&world).unwrap();
    let words = |package: &str, into: &str| -> Vec<OsString> {
        let registry = format!("--registry=https://{HOST}/files/npm");
        let into = world.directory().join(into);
        let mut words = vec![npm.path.clone().into_os_string()];
        let options = ["install", "--no-audit", "--no-update-notifier", &registry];
        words.extend(options.map(OsString::from));
        words.extend(["--cache".into(), into.join("cache").into()]);
        words.extend(["--prefix".into(), into.into(), package.into()]);
        words
    };
    let read = |into: &str| {
        let file = format!("{into}/node_modules/tiny/package.json");
        std::fs::read(world.directory().join(file)).unwrap()
    };

    let free = ungoverned(&world, words("tiny", "free")).unwrap();
    free.success().unwrap();
    let call = inspected(&room, &words("tiny", "governed"));
    let listed = rows("npm/tiny", "tarballs/tiny-1.0.0.tgz", "allow");
    room.call(call, &listed).unwrap().output.success().unwrap();
    assert_eq!(read("governed"), read("free"));
    same_arrived_twice(&world).unwrap();

    let call = inspected(&room, &words("refused", "refused"));
    let listed = rows("npm/refused", "tarballs/refused-1.0.0.tgz", "deny");
    let output = room.call(call, &listed).unwrap().output;
    assert_eq!(output.code(), 1, "{output}");
    assert!(output.stderr.contains("403 Forbidden"), "{output}");
    room.close().unwrap();
}
