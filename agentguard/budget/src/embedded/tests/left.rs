//! What an earlier process left: damaged, old, or more than is thought.

use std::fs;
use std::path::{Path, PathBuf};

use agentguard_model::budget::{Unit, Window};
use tempfile::TempDir;

use super::{NOW, budget, charge, killed, open, used_and_held, want};
use crate::embedded::replay::keep;
use crate::embedded::{Embedded, FORGOTTEN};
use crate::ledger::Ledger as _;

const DAY: i64 = 86_400_000;

fn journals(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).expect("files");
    let mut all: Vec<PathBuf> = files
        .map(|it| it.expect("a file").path())
        .filter(|it| it.to_string_lossy().contains("/journal."))
        .collect();
    all.sort();
    all
}

/// Where frames begin, and the end.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut places = vec![0];
    let mut place = 0;
    while place < bytes.len() {
        let length = u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four"));
        place += 8 + length as usize;
        places.push(place);
    }
    places
}

/// Five calls, one of which settles less than it held.
fn five(directory: &Path) -> Embedded {
    let ledger = open(directory, NOW);
    let calls = budget("c", Unit::Tokens, 1000, Window::Day);
    for used in [10, 10, 7, 10, 10] {
        let one = ledger.reserves(&want(vec![charge(&calls, "a", 10, 0)], 0, 0), NOW);
        ledger.settle(one.expect("room").id, Some(&[used]), NOW);
    }
    ledger
}

fn used(ledger: &Embedded) -> u64 {
    ledger.accounts(NOW).iter().map(|it| it.used).sum()
}

#[test]
fn what_is_whole_behind_a_damage_counts_and_the_damage_is_told_and_kept() {
    let directory = TempDir::new().expect("a directory");
    let ledger = five(directory.path());
    let copy = killed(&directory);
    drop(ledger);
    let journal = journals(copy.path()).remove(0);
    let whole = fs::read(&journal).expect("a journal");
    let begins = frames(&whole);
    // `Opens`, then `Holds` and `Settles` of each.
    assert_eq!(begins.len(), 12);
    // Which frame is hit, what is used then, and of how many calls nothing is known.
    let cases = [
        (0, 0, (0, 5)),
        (1, 37, (1, 0)),
        (3, 37, (1, 0)),
        (4, 47, (0, 0)),
        // It had used seven, and nobody knows that any more: all that it held.
        (6, 50, (0, 0)),
        (9, 37, (1, 0)),
    ];
    for (frame, left, (calls, nameless)) in cases {
        for (offset, by) in [(0, 0xff), (5, 0x01), (9, 0x80)] {
            let hurt = killed(&copy);
            let place = hurt.path().join(journal.file_name().expect("a name"));
            let mut bytes = whole.clone();
            bytes[begins[frame] + offset] ^= by;
            fs::write(&place, &bytes).expect("written");
            let ledger = open(hurt.path(), NOW);
            assert_eq!(used(&ledger), left, "frame {frame}, byte {offset}");
            let damage = ledger.troubles().damage.expect("told");
            assert_eq!(
                (damage.calls, damage.nameless),
                (calls, nameless),
                "{frame}"
            );
            assert_eq!(damage.at, begins[frame] as u64);
            assert_eq!(damage.bytes, (begins[frame + 1] - begins[frame]) as u64);
            assert_eq!(fs::read(&damage.file).expect("kept"), bytes);
            let told = ledger.troubles().told();
            assert!(
                told[0].contains(&damage.file.display().to_string()),
                "{told:?}"
            );
            // Told at the start that found it, and read once.
            drop(ledger);
            let ledger = open(hurt.path(), NOW);
            assert_eq!((used(&ledger), ledger.troubles().damage), (left, None));
        }
    }
}

#[test]
fn what_is_used_is_charged_where_it_was_though_an_account_before_it_has_lost_its_name() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let (first, second) = (
        budget("first", Unit::Tokens, 1000, Window::Day),
        budget("second", Unit::Tokens, 1000, Window::Day),
    );
    let charges = vec![charge(&first, "a", 90, 0), charge(&second, "a", 20, 0)];
    let one = ledger.reserves(&want(charges, 0, 0), NOW).expect("room");
    ledger.settle(one.id, Some(&[80, 7]), NOW);
    let hurt = killed(&directory);
    let journal = journals(hurt.path()).remove(0);
    let mut bytes = fs::read(&journal).expect("a journal");
    // The `Opens` of the first.
    bytes[4] ^= 1;
    fs::write(&journal, bytes).expect("written");
    let found = open(hurt.path(), NOW);
    assert_eq!(
        used_and_held(&found, NOW),
        [("second agent=a 1795824000000".to_owned(), 7, 0)]
    );
    let damage = found.troubles().damage.expect("told");
    assert_eq!((damage.calls, damage.nameless), (0, 1));
}

#[test]
fn a_ledger_that_cannot_keep_what_is_damaged_says_so_and_goes_on() {
    let directory = TempDir::new().expect("a directory");
    let ledger = five(directory.path());
    let hurt = killed(&directory);
    drop(ledger);
    let journal = journals(hurt.path()).remove(0);
    let mut bytes = fs::read(&journal).expect("a journal");
    let begins = frames(&bytes);
    bytes[begins[3] + 4] ^= 1;
    fs::write(&journal, bytes).expect("written");
    // What is in its way is no file.
    fs::create_dir(hurt.path().join("damaged.0")).expect("a directory");
    let found = open(hurt.path(), NOW);
    assert_eq!(used(&found), 37);
    let damage = found.troubles().damage.expect("told");
    assert!(damage.unkept.is_some());
    assert!(damage.to_string().contains("could not be kept"), "{damage}");
    drop(found);
    let found = open(hurt.path(), NOW);
    assert_eq!((used(&found), found.troubles().damage), (37, None));
}

#[test]
fn a_hole_of_zeros_is_a_damage_and_what_was_never_answered_is_none() {
    let directory = TempDir::new().expect("a directory");
    let ledger = five(directory.path());
    let copy = killed(&directory);
    drop(ledger);
    let journal = journals(copy.path()).remove(0);
    let whole = fs::read(&journal).expect("a journal");
    let begins = frames(&whole);
    let opened = |bytes: &[u8]| {
        let hurt = killed(&copy);
        let place = hurt.path().join(journal.file_name().expect("a name"));
        fs::write(place, bytes).expect("written");
        let ledger = open(hurt.path(), NOW);
        (used(&ledger), ledger.troubles().damage.map(|it| it.calls))
    };
    let mut hole = whole.clone();
    hole[begins[3]..begins[7]].fill(0);
    assert_eq!(opened(&hole), (30, Some(2)));
    // The end of a host can leave zeros behind what was written, or half of a frame.
    let zeros = [&*whole, &[0; 4096]].concat();
    assert_eq!(opened(&zeros), (47, None));
    assert_eq!(opened(&whole[..begins[10] + 3]), (47, None));
}

#[test]
fn a_journal_that_is_not_the_last_has_to_be_whole() {
    let directory = TempDir::new().expect("a directory");
    let ledger = five(directory.path());
    let first = killed(&directory);
    ledger.shared.checkpoint(NOW).expect("a checkpoint");
    let calls = budget("c", Unit::Tokens, 1000, Window::Day);
    let one = ledger.reserves(&want(vec![charge(&calls, "a", 10, 0)], 0, 0), NOW);
    ledger.settle(one.expect("room").id, Some(&[5]), NOW);
    // As if the checkpoint had failed: both journals are there, and the database has none of them.
    let second = killed(&directory);
    let next = journals(second.path()).remove(0);
    fs::copy(&next, first.path().join(next.file_name().expect("a name"))).expect("copied");
    let both = journals(first.path());
    assert_eq!(both.len(), 2);
    let whole = open(killed(&first).path(), NOW);
    assert_eq!((used(&whole), whole.troubles().damage), (52, None));
    let bytes = fs::read(&both[0]).expect("a journal");
    fs::write(&both[0], &bytes[..bytes.len() - 1]).expect("written");
    let ledger = open(first.path(), NOW);
    // The last settlement is lost, so that it has used all that it held.
    assert_eq!(used(&ledger), 52);
    let damage = ledger.troubles().damage.expect("told");
    assert_eq!((damage.calls, damage.files), (0, 1));
}

#[test]
fn what_the_journal_has_charged_lately_is_not_forgotten() {
    let directory = TempDir::new().expect("a directory");
    let ledger = open(directory.path(), NOW);
    let life = budget("l", Unit::Tokens, 1000, Window::Lifetime);
    let of = |agent| want(vec![charge(&life, agent, 0, 1_000_000)], 10, 1);
    for agent in ["idle", "busy"] {
        let one = ledger.reserves(&of(agent), NOW).expect("room");
        ledger.settle(one.id, Some(&[10]), NOW);
    }
    ledger.shared.checkpoint(NOW).expect("a checkpoint");
    // A day before it would be forgotten it is charged again, and the process dies before the next checkpoint.
    let later = NOW + FORGOTTEN - DAY;
    let one = ledger.reserves(&of("busy"), later).expect("room");
    ledger.settle(one.id, Some(&[10]), later);
    let copy = killed(&directory);
    let again = open(copy.path(), NOW + FORGOTTEN + DAY);
    let wanted = [("l agent=busy 0".to_owned(), 20, 0)];
    assert_eq!(used_and_held(&again, NOW + FORGOTTEN + DAY), wanted);
    drop(again);
    // And it stays so.
    let again = open(copy.path(), NOW + FORGOTTEN + DAY);
    assert_eq!(used_and_held(&again, NOW + FORGOTTEN + DAY), wanted);
}

#[test]
fn a_checkpoint_that_cannot_be_made_is_told_until_one_can() {
    let directory = TempDir::new().expect("a directory");
    let ledger = five(directory.path());
    // The next journal cannot be made where a directory is.
    let journal = journals(directory.path()).remove(0);
    let name = journal.file_name().expect("a name").to_string_lossy();
    let number: u64 = name
        .trim_start_matches("journal.")
        .parse()
        .expect("a number");
    let next = directory.path().join(format!("journal.{}", number + 1));
    fs::create_dir(&next).expect("a directory");
    assert!(ledger.shared.checkpoints(NOW).is_err());
    let told = ledger.troubles().told();
    assert!(told[0].contains("makes no checkpoint: "), "{told:?}");
    fs::remove_dir(&next).expect("removed");
    ledger.shared.checkpoints(NOW).expect("a checkpoint");
    assert_eq!(ledger.troubles(), super::super::Troubles::default());
    assert_eq!(used(&ledger), 47);
}

#[test]
fn what_is_kept_takes_the_place_of_what_was_kept_and_of_nothing_else() {
    let directory = TempDir::new().expect("a directory");
    drop(five(directory.path()));
    let place = |name: &str| directory.path().join(name);
    for name in ["damaged.7", "damaged.7.txt", "damaged-notes", "journal.3"] {
        fs::write(place(name), name).expect("written");
    }
    fs::create_dir(place("damaged.8")).expect("a directory");
    keep(directory.path(), &[3]).expect("kept");
    assert_eq!(fs::read(place("damaged.3")).expect("kept"), b"journal.3");
    assert!(!place("damaged.7").exists());
    for name in ["damaged.7.txt", "damaged-notes", "damaged.8"] {
        assert!(place(name).exists(), "{name}");
    }
    // Of what cannot be kept as a whole all else is kept, and what was kept before as well.
    fs::write(place("journal.9"), "9").expect("written");
    fs::write(place("journal.8"), "8").expect("written");
    keep(directory.path(), &[8, 9]).expect_err("a directory");
    for name in ["damaged.3", "damaged.9", "journal.8"] {
        assert!(place(name).exists(), "{name}");
    }
}
