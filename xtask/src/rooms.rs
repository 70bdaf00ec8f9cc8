//! No room knows a later one: the order of `ARCHITECTURE.md`, held against the manifests.

use std::path::Path;

const ORDER: [&str; 15] = [
    "agentguard-common",
    "agentguard/model",
    "agentguard/keeper",
    "agentguard/names",
    "agentguard/protocol",
    "agentguard/policy",
    "agentguard/pins",
    "agentguard/budget",
    "agentguard/decision",
    "agentguard/proxy",
    "agentguard/record",
    "agentguard/telemetry",
    "agentguard/control",
    "agentguard/local",
    "agentguard",
];

/// The dependencies of a manifest that are rooms of ours, tests' own included: a test that needs a
/// later room belongs there.
fn rooms(manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .skip_while(|line| !line.ends_with("dependencies]"))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| name.starts_with("agentguard-"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_room_knows_a_later_one() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let architecture = std::fs::read_to_string(top.join("ARCHITECTURE.md")).unwrap();
    let mut known: Vec<String> = Vec::new();
    let mut told = 0;
    for room in ORDER {
        let manifest = std::fs::read_to_string(top.join(room).join("Cargo.toml")).unwrap();
        for needed in rooms(&manifest) {
            assert!(
                known.contains(&needed),
                "{room} knows {needed}, which comes later"
            );
        }
        known.push(match room.split_once('/') {
            Some((_, name)) => format!("agentguard-{name}"),
            None => room.to_owned(),
        });
        if room != "agentguard" {
            let row = format!("| `{room}` |");
            let at = architecture.find(&row);
            assert!(
                at.is_some_and(|at| at > told),
                "{room} is not in its place in ARCHITECTURE.md"
            );
            told = at.unwrap();
        }
    }
}

#[test]
fn a_manifest_is_read_as_cargo_reads_it() {
    let manifest = "[package]\nname = \"agentguard-x\"\n\n[dependencies]\n\
         agentguard-model.workspace = true\nagentguard-common = { workspace = true }\n\
         serde.workspace = true\n\n[dev-dependencies]\nagentguard-keeper.workspace = true\n";
    assert_eq!(
        rooms(manifest),
        ["agentguard-model", "agentguard-common", "agentguard-keeper"]
    );
}
