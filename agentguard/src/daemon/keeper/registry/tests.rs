//! What the registry remembers, and what it refuses.

use std::collections::HashSet;

use super::{AgentName, By, DEEDS, MAX_SWITCHES, Quarantine, Registry, Switch};

fn quarantine() -> Quarantine {
    Quarantine {
        since: 7,
        uid: Some(0),
        reason: Some("ticket 42".to_owned()),
        frozen: true,
    }
}

fn by(name: &str) -> By {
    By {
        uid: 0,
        time: 7,
        agent: Some(name.parse().unwrap()),
    }
}

#[test]
fn a_quarantine_and_what_was_done_survive_until_one_is_released_and_the_other_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.json");
    let coder = "coder".parse().unwrap();
    let mut registry = Registry::open(path.clone()).unwrap();
    registry.number(&coder).unwrap();
    let before = std::fs::read(&path).unwrap();
    registry
        .quarantine(&coder, quarantine(), Some(by("coder")))
        .unwrap();

    let mut registry = Registry::open(path.clone()).unwrap();
    assert_eq!(registry.quarantined()[&coder], quarantine());
    let first = registry.deeds()[0].number;
    registry.recorded(first).unwrap();
    registry.release(&coder, by("coder")).unwrap();

    let mut registry = Registry::open(path.clone()).unwrap();
    assert!(registry.quarantined().is_empty());
    assert!(registry.unreleased().contains(&coder));
    registry.released(&coder);
    let numbers: Vec<u64> = registry.deeds().iter().map(|deed| deed.number).collect();
    assert_eq!(numbers, [first + 1]);
    registry.recorded(first + 1).unwrap();
    registry.recorded(first + 1).unwrap();
    let text = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
    let before = String::from_utf8(before).unwrap();
    let head = before.strip_suffix('}').unwrap();
    assert_eq!(text, format!("{head},\"last_deed\":{}}}", first + 1));
}

fn switched(on: bool) -> Option<Switch> {
    Some(Switch {
        on,
        since: 7,
        uid: 0,
        reason: Some("ticket 42".to_owned()),
    })
}

#[test]
fn a_switch_is_in_writing_before_it_is_set_and_until_it_is_left_to_the_policy() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("not-there-yet");
    let path = place.join("agents.json");
    let by = || By {
        uid: 7,
        time: 8,
        agent: None,
    };
    let mut registry = Registry::open(path.clone()).unwrap();
    let told = registry.switch("freeze", switched(true), by(), None);
    assert!(told.is_err());
    assert!(registry.switches().is_empty() && registry.deeds().is_empty());

    std::fs::create_dir(&place).unwrap();
    let why = Some("ticket 42".to_owned());
    let told = registry.switch("freeze", switched(true), by(), why.clone());
    told.unwrap();
    let mut registry = Registry::open(path.clone()).unwrap();
    assert_eq!(
        registry.switches().get("freeze"),
        switched(true).as_ref(),
        "as it was written"
    );
    let deed = registry.deeds()[0].clone();
    assert_eq!((deed.uid, deed.time, deed.agent), (7, 8, None));
    let (name, on) = ("freeze".to_owned(), Some(true));
    let reason = why;
    assert_eq!(deed.done, super::Done::Switched { name, on, reason });

    std::fs::remove_file(&path).unwrap();
    std::fs::remove_dir(&place).unwrap();
    assert!(registry.switch("freeze", None, by(), None).is_err());
    assert_eq!(registry.switches().len(), 1);
    std::fs::create_dir(&place).unwrap();
    registry.switch("freeze", None, by(), None).unwrap();
    assert!(Registry::open(path).unwrap().switches().is_empty());
}

#[test]
fn one_switch_too_many_is_refused_and_one_that_is_set_can_be_set_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(directory.path().join("agents.json")).unwrap();
    for number in 0..MAX_SWITCHES {
        let name = format!("s{number}");
        let told = registry.switch(&name, switched(true), by("coder"), None);
        told.unwrap();
    }
    let more = registry.switch("more", switched(true), by("coder"), None);
    let more = more.unwrap_err().to_string();
    assert!(more.contains("64 switches are set already"), "{more}");
    for (name, set) in [
        ("s7", switched(false)),
        ("s8", None),
        ("more", switched(true)),
    ] {
        registry.switch(name, set, by("coder"), None).unwrap();
    }
    assert_eq!(registry.switches().len(), MAX_SWITCHES);
}

#[test]
fn a_quarantine_holds_where_the_disk_is_full_and_a_release_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("gone");
    let coder = "coder".parse().unwrap();
    std::fs::create_dir(&place).unwrap();
    let mut registry = Registry::open(place.join("agents.json")).unwrap();
    std::fs::remove_dir(&place).unwrap();
    let told = registry.quarantine(&coder, quarantine(), Some(by("coder")));
    assert!(told.is_err());
    assert_eq!(registry.quarantined().len(), 1);
    assert!(registry.release(&coder, by("coder")).is_err());
    assert_eq!(registry.quarantined().len(), 1);
    // It is written as soon as it can be.
    assert!(registry.write().is_err());
    std::fs::create_dir(&place).unwrap();
    registry.write().unwrap();
    let again = Registry::open(place.join("agents.json")).unwrap();
    assert_eq!((again.quarantined().len(), again.deeds().len()), (1, 1));
}

/// The worker says what is recorded, and may say anything, as often as it likes.
#[test]
fn what_changes_nothing_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.json");
    let coder = "coder".parse().unwrap();
    let mut registry = Registry::open(path.clone()).unwrap();
    registry.number(&coder).unwrap();
    registry.adopt(directory.path(), &coder).unwrap();
    registry
        .quarantine(&coder, quarantine(), Some(by("coder")))
        .unwrap();
    registry.recorded(1).unwrap();
    std::fs::remove_file(&path).unwrap();
    for number in 0..1000 {
        registry.recorded(number).unwrap();
    }
    registry.adopt(directory.path(), &coder).unwrap();
    registry.forget(&["/not/adopted".into()]).unwrap();
    registry.write().unwrap();
    assert!(!path.exists());
    registry.note_stopped(directory.path(), &coder);
    registry.write().unwrap();
    assert!(path.exists());
}

#[test]
fn with_too_many_deeds_untold_agents_are_quarantined_and_none_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::open(directory.path().join("agents.json")).unwrap();
    let coder = "coder".parse().unwrap();
    for _ in 0..DEEDS {
        registry.contents.note(by("coder"), super::Done::Released);
    }
    let told = registry.release(&coder, by("coder")).unwrap_err();
    assert!(told.to_string().contains("wait for the record"), "{told}");
    assert!(registry.detached(by("coder"), 1).is_err());
    let switched = registry.switch("freeze", switched(true), by("coder"), None);
    assert!(switched.is_err() && registry.switches().is_empty());
    registry
        .quarantine(&coder, quarantine(), Some(by("coder")))
        .unwrap();
    assert_eq!(registry.deeds().len(), DEEDS);
    assert_eq!(registry.deeds()[0].number, 2);
}

/// A write for each would take minutes with the keeper's lock held.
#[test]
fn ten_thousand_agents_of_a_policy_are_numbered_in_one_write() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.json");
    let names: Vec<AgentName> = (0..10_000)
        .map(|number| format!("agent-{number}").parse().unwrap())
        .collect();
    let mut registry = Registry::open(path.clone()).unwrap();
    registry.number(&names[7]).unwrap();
    let before = registry.writes.get();
    registry
        .number_all(names.iter().chain(names.iter()))
        .unwrap();
    assert_eq!(registry.writes.get(), before + 1);
    let numbers: HashSet<u32> = names
        .iter()
        .map(|name| registry.known_number(name).unwrap().0)
        .collect();
    assert_eq!(numbers, (1..=10_000).collect());
    let mut read = Registry::open(path.clone()).unwrap();
    std::fs::remove_file(&path).unwrap();
    for name in &names {
        let id = registry.known_number(name).unwrap();
        assert_eq!(
            (read.number(name).unwrap(), read.name(id)),
            (id, Some(name))
        );
    }
    read.number_all(&names).unwrap();
    assert!(!path.exists(), "nothing is new");
}

#[test]
fn numbers_are_never_given_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.json");
    let mut registry = Registry::open(path.clone()).unwrap();
    let coder = registry.number(&"coder".parse().unwrap()).unwrap();
    let helper = registry.number(&"helper".parse().unwrap()).unwrap();
    assert_ne!(coder, helper);
    let run = registry.next_run().unwrap();
    assert_eq!(registry.next_run().unwrap(), run + 1);
    let mut again = Registry::open(path).unwrap();
    assert_eq!(again.number(&"helper".parse().unwrap()).unwrap(), helper);
    assert_eq!(again.name(coder).unwrap().as_str(), "coder");
    assert!(again.next_run().unwrap() > run + 1);
}

#[test]
fn what_cannot_be_written_has_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("not-there-yet");
    let mut registry = Registry::open(place.join("agents.json")).unwrap();
    let coder = "coder".parse().unwrap();
    let cgroup = directory.path();
    assert!(registry.number(&coder).is_err());
    assert!(registry.number(&coder).is_err(), "as before");
    assert!(registry.adopt(cgroup, &coder).is_err());
    assert!(registry.adopted().is_empty());
    assert!(registry.next_run().is_err());

    std::fs::create_dir(&place).unwrap();
    let number = registry.number(&coder).unwrap();
    registry.adopt(cgroup, &coder).unwrap();
    std::fs::remove_dir_all(&place).unwrap();
    assert!(registry.forget(&[cgroup.to_owned()]).is_err());
    assert_eq!(registry.adopted().len(), 1);
    assert_eq!(registry.name(number), Some(&coder));
}

#[test]
fn a_file_from_before_versions_is_taken_and_one_of_a_newer_version_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.json");
    let text = r#"{"agents":{"coder":7},"adopted":{},"last_run":0}"#;
    std::fs::write(&path, text).unwrap();
    let mut registry = Registry::open(path.clone()).unwrap();
    assert_eq!(
        registry.known_number(&"coder".parse().unwrap()).unwrap().0,
        7
    );
    registry.number(&"helper".parse().unwrap()).unwrap();
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.starts_with("{\"version\":3,"), "{written}");
    Registry::open(path.clone()).unwrap();

    let newer = r#"{"version":4,"agents":{},"more":1}"#;
    std::fs::write(&path, newer).unwrap();
    let error = Registry::open(path.clone()).unwrap_err().to_string();
    assert!(
        error.contains("is of version 4, and this agentguard knows versions up to 3; hint: "),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), newer);
}

#[test]
fn a_damaged_file_is_not_taken_for_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agents.json");
    std::fs::write(&path, "{").unwrap();
    let error = Registry::open(path).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
}
